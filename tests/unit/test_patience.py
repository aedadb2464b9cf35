"""Looking until it is so, without a guest."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace

import pytest

from harness.errors import DirtyGuest
from harness.patience import until


def guest(slowdown=1.0):
    return SimpleNamespace(machine=SimpleNamespace(slowdown=slowdown))


def late(seen):
    return DirtyGuest(f"it is {seen}")


def test_what_was_seen_is_returned():
    counter = itertools.count()
    assert until(guest(), lambda: next(counter), late, lambda n: n == 3) == 3
    assert next(counter) == 4


def test_nothing_more_is_looked_at_when_it_is_so_at_once():
    looks = []
    assert until(guest(), lambda: looks.append(1) or "so", late) == "so"
    assert looks == [1]


def test_too_late_in_the_words_of_who_waits():
    counter = itertools.count()
    with pytest.raises(DirtyGuest, match=r"it is -[0-9]+"):
        until(guest(), lambda: -next(counter), late, lambda n: n > 0, patience=0.05)
    assert next(counter) > 1


def test_a_slow_guest_gets_more():
    began = time.monotonic()
    assert until(guest(20), lambda: time.monotonic() - began > 0.2, late, patience=0.05)


def test_a_look_that_fails_is_no_state():
    def look():
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        until(guest(), look, late)


def test_three_quarters_of_the_time_are_the_guests():
    looks = []

    def look():
        looks.append(time.monotonic())
        time.sleep(0.02)
        return len(looks) == 4

    until(guest(), look, late)
    assert all(after - before >= 0.08 for before, after in itertools.pairwise(looks))


def test_time_is_up_when_it_is_though_looks_take_long(monkeypatch):
    now, looks = [0.0], []

    def spend(seconds):
        now[0] += seconds

    def look():
        looks.append(now[0])
        spend(60)

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", spend)
    with pytest.raises(DirtyGuest):
        until(guest(), look, late, patience=90)
    assert looks == [0, 90]
