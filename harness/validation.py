"""What validating a series found: patch by patch, and in each configuration that the series names."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from harness.diagnostics import Warning


class RemarkKind(StrEnum):
    """How bad checkpatch thinks it is. A CHECK is a matter of taste: shown, and no mistake."""

    ERROR = "ERROR"
    WARNING = "WARNING"
    CHECK = "CHECK"


class Remark(BaseModel):
    """One remark of checkpatch. line: of the patch; 0: it is about all of it. accepted: why it is no mistake."""

    model_config = ConfigDict(frozen=True)

    kind: RemarkKind
    line: int
    text: str
    accepted: str | None = None

    @property
    def ok(self) -> bool:
        """Is it nothing that has to be mended?"""
        return self.kind is RemarkKind.CHECK or self.accepted is not None


class Result(BaseModel):
    """One kernel that was built and booted. new_warnings: of the compiler, that it should not have. error: why it does
    not apply, compile or boot. seconds: what that took now; next to nothing for a build that was made before.
    ok: there is nothing to mend.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    key: str | None
    ok: bool
    new_warnings: tuple[Warning, ...]
    seconds: float
    error: str | None


class PatchResult(Result):
    """One patch of a series, on top of those before it.

    new_warnings: those of the prefix that ends with this patch and not of the one before it (that builds),
    wherever they are: gcc reports a macro's misuse at its definition, in a file the patch need not touch.
    remarks: of the tree's own checkpatch; those that are to be mended count against the patch.
    """

    number: int
    subject: str
    remarks: tuple[Remark, ...]


class ConfigurationResult(Result):
    """The whole series with some symbols (``CONFIG_X``) of other values.

    new_warnings: those that neither the usual configuration nor the kernel without the series in this one has.
    """

    symbols: dict[str, str]


class Validation(BaseModel):
    """All patches of a series, in order, and all configurations. base_warnings: of the kernel without the series."""

    model_config = ConfigDict(frozen=True)

    base_warnings: int
    patches: tuple[PatchResult, ...] = ()
    configurations: tuple[ConfigurationResult, ...] = ()

    @property
    def results(self) -> tuple[Result, ...]:
        """Patches, then configurations."""
        return (*self.patches, *self.configurations)

    @property
    def ok(self) -> bool:
        """Is there nothing to mend?"""
        return all(result.ok for result in self.results)
