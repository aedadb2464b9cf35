"""Which accelerator is believed, with a machine that boots, or does not, as told."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import accelerator, host
from harness.errors import InfrastructureError, KernelPanic
from harness.store import Store

KERNEL, INITRD = Path("bzImage"), Path("initrd")


class Boots:
    """Stands for `Machine`: takes that many seconds to /init (None: hangs; an exception: raises it)."""

    def __init__(self, **seconds):
        self.seconds = seconds
        self.made: list[str] = []

    def __call__(self, spec, folder):
        self.made.append(spec.accel)
        self.accel = spec.accel
        return self

    def __enter__(self):
        outcome = self.seconds[self.accel]
        if isinstance(outcome, Exception):
            raise outcome

        def wait_for(marker, timeout):
            assert marker == "harness: init"
            return None if outcome is None or outcome > timeout else 100.0 + outcome

        console = SimpleNamespace(wait_for=wait_for, wait=wait_for)
        return SimpleNamespace(console=console, started=100.0)

    def __exit__(self, *_):
        return None


@pytest.fixture
def qemu(tmp_path, monkeypatch):
    program = tmp_path / "qemu-system-x86_64"
    program.write_text("7.2")
    monkeypatch.setattr(host, "find_tool", lambda name: program)
    return program


@pytest.fixture
def kvm(tmp_path, monkeypatch):
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(accelerator, "KVM", device)
    return device


@pytest.fixture
def store(tmp_path, qemu, kvm):
    return Store(tmp_path / "store")


def boots(monkeypatch, **seconds):
    made = Boots(**seconds)
    monkeypatch.setattr(accelerator, "Machine", made)
    return made


def test_kvm_that_boots_is_used_and_remembered(store, monkeypatch):
    made = boots(monkeypatch, kvm=0.4, tcg=1.5)
    for _ in range(2):
        choice = accelerator.choose(store, "auto", KERNEL, INITRD)
        assert (choice.name, choice.slowdown) == ("kvm", 1.0)
        assert "reached /init in 0.4 s" in choice.why
    assert made.made == ["kvm"]


def test_kvm_that_hangs_is_not_used_and_that_is_remembered(store, monkeypatch):
    made = boots(monkeypatch, kvm=None, tcg=1.5)
    for _ in range(2):
        choice = accelerator.choose(store, "auto", KERNEL, INITRD)
        assert (choice.name, choice.slowdown) == ("tcg", 1.5)
        assert "no KVM: a guest kernel hung" in choice.why
    assert made.made == ["kvm", "tcg"]


def test_kvm_whose_qemu_fails(store, monkeypatch):
    boots(monkeypatch, kvm=InfrastructureError("QEMU did not start: no CPU"), tcg=1.0)
    choice = accelerator.choose(store, "auto", KERNEL, INITRD)
    assert choice.name == "tcg"
    assert "no CPU" in choice.why


def test_kvm_asked_for_and_unusable_is_an_error_and_tried_again(store, monkeypatch):
    made = boots(monkeypatch, kvm=None, tcg=1.0)
    for _ in range(2):
        with pytest.raises(InfrastructureError, match="KVM was asked for, and it is not usable"):
            accelerator.choose(store, "kvm", KERNEL, INITRD)
    assert made.made == ["kvm", "kvm"]
    made.seconds["kvm"] = 0.5  # repaired
    assert accelerator.choose(store, "kvm", KERNEL, INITRD).name == "kvm"
    assert accelerator.choose(store, "auto", KERNEL, INITRD).name == "kvm"


def test_without_the_device_nothing_is_booted_under_kvm(store, kvm, monkeypatch):
    made = boots(monkeypatch, kvm=0.1, tcg=1.0)
    kvm.unlink()
    choice = accelerator.choose(store, "auto", KERNEL, INITRD)
    assert choice.name == "tcg"
    assert "No such file" in choice.why
    assert made.made == ["tcg"]
    kvm.touch()  # and that was not remembered
    assert accelerator.choose(store, "auto", KERNEL, INITRD).name == "kvm"


def test_tcg_asked_for_is_calibrated_once_and_kvm_not_looked_at(store, monkeypatch):
    made = boots(monkeypatch, kvm=0.1, tcg=2.5)
    for _ in range(2):
        choice = accelerator.choose(store, "tcg", KERNEL, INITRD)
        assert (choice.name, choice.slowdown, choice.why) == ("tcg", 2.5, "asked for")
    assert made.made == ["tcg"]


def test_deadlines_never_shrink(store, monkeypatch):
    boots(monkeypatch, tcg=0.3)
    assert accelerator.choose(store, "tcg", KERNEL, INITRD).slowdown == 1.0


def test_kernel_that_panics_under_tcg_is_the_kernels_fault(store, monkeypatch):
    boots(monkeypatch, tcg=KernelPanic("the guest's kernel: Kernel panic"))
    with pytest.raises(KernelPanic):
        accelerator.choose(store, "tcg", KERNEL, INITRD)
    assert accelerator.known(store, "tcg") is None


def test_another_qemu_or_host_kernel_is_looked_at_anew(store, qemu, monkeypatch):
    made = boots(monkeypatch, tcg=1.0)
    accelerator.choose(store, "tcg", KERNEL, INITRD)
    os.utime(qemu, ns=(1, 1))
    accelerator.choose(store, "tcg", KERNEL, INITRD)
    monkeypatch.setattr(accelerator.platform, "release", lambda: "9.9")
    accelerator.choose(store, "tcg", KERNEL, INITRD)
    assert len(made.made) == 3


def test_damaged_record_is_looked_at_anew(store, monkeypatch):
    made = boots(monkeypatch, tcg=1.0)
    accelerator.choose(store, "tcg", KERNEL, INITRD)
    (record,) = (store.root / accelerator.FOLDER).glob("*.json")
    record.write_text('{"accel": "tcg"')
    assert accelerator.choose(store, "tcg", KERNEL, INITRD).slowdown == 1.0
    assert len(made.made) == 2
