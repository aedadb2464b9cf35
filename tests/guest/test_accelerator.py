"""The accelerator is believed after it booted: here, really."""

from __future__ import annotations

import time

import pytest

from harness import accelerator
from harness.errors import InfrastructureError
from harness.store import Store

pytestmark = pytest.mark.guest


def test_what_is_found_out_is_remembered(kernel_build, image, tmp_path):
    store = Store(tmp_path / "store")
    choice = accelerator.choose(store, "auto", kernel_build.bzimage, image.path)
    assert choice.name in ("tcg", "kvm")
    assert choice.slowdown >= 1.0
    began = time.monotonic()
    assert accelerator.choose(store, "auto", kernel_build.bzimage, image.path) == choice
    assert time.monotonic() - began < 0.3
    if choice.name == "tcg":
        assert choice.why.startswith("no KVM: ")
        with pytest.raises(InfrastructureError, match="KVM was asked for"):
            accelerator.choose(store, "kvm", kernel_build.bzimage, image.path)
