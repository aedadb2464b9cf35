"""Waiting for states of a guest that its kernel tells nobody of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import tenacity

if TYPE_CHECKING:
    from harness.guest import Guest

T = TypeVar("T")

# Longest wait, seconds on the reference host. For a minute some kernels keep a group for which loop has worked.
PATIENCE = 90.0
# From one look to the next, in times that a look took: that takes the guest's one CPU from what is waited for.
_PAUSE = 3.0


def until(
    guest: Guest,
    look: Callable[[], T],
    otherwise: Callable[[T], Exception],
    enough: Callable[[T], bool] = bool,
    patience: float = PATIENCE,
) -> T:
    """Look at the guest until ``enough`` holds of what is seen; that is returned.

    patience: seconds on the reference host; a slow guest gets more. Raises what ``otherwise`` makes of the last thing
    seen, when it does not come; what ``look`` raises.
    """

    longest = patience * guest.machine.slowdown

    def pause(state: tenacity.RetryCallState) -> float:
        """Seconds; of looks that took different times, after their mean. The last look is when time is up."""
        gone = state.seconds_since_start or 0.0
        return min(_PAUSE * (gone - state.idle_for) / state.attempt_number, max(0.0, longest - gone))

    def too_late(state: tenacity.RetryCallState) -> T:
        assert state.outcome is not None  # it has looked
        raise otherwise(state.outcome.result())

    looking = tenacity.Retrying(
        retry=tenacity.retry_if_not_result(enough),
        wait=pause,
        stop=tenacity.stop_after_delay(longest),
        retry_error_callback=too_late,
    )
    return looking(look)
