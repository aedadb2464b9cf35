"""A measured figure and its goal."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Figure(BaseModel):
    """One measured figure, in ``unit``. goal: what it should stay below; with ``least``, above; None: no goal.

    about: what it is a figure of, as a heading. how: how it was taken.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    about: str
    what: str
    value: float
    unit: str
    goal: float | None
    how: str
    least: bool = False

    @property
    def met(self) -> bool:
        """Whether it is within its goal."""
        if self.goal is None:
            return True
        return self.value >= self.goal if self.least else self.value <= self.goal

    @property
    def measured(self) -> str:
        """Value and unit as shown."""
        digits = f"{self.value:.1f}" if abs(self.value) >= 100 else f"{self.value:.3g}"
        return f"{digits} {self.unit}".strip()

    @property
    def wanted(self) -> str:
        """The goal as shown; empty without one."""
        if self.goal is None:
            return ""
        return f"at {'least' if self.least else 'most'} {self.goal:g} {self.unit}".strip()
