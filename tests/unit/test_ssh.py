"""What the shell that starts commands says; the connection itself is tested on a guest."""

from __future__ import annotations

import pytest

from harness.ssh import _up_to

MARK = b"0123456789abcdef"


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
@pytest.mark.parametrize("output", [b"", b"line\n", b"no end of line", bytes(range(256))])
def test_output_up_to_the_mark(size, output):
    parts = _parts(output + MARK + b" 137\n", size)
    assert _up_to(MARK, lambda _: next(parts)) == (output, b" 137\n")


@pytest.mark.parametrize("output", [b"", b"so far\n"])
def test_channel_that_ends_before_the_mark(output):
    parts = _parts(output, 5)
    assert _up_to(MARK, lambda _: next(parts, b"")) == (output, b"")


def _parts(data, size):
    return (data[i : i + size] for i in range(0, len(data), size))
