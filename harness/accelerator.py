"""Which accelerator runs the guests, and how fast this host is with it.

/dev/kvm can open and create a VM on hosts where a guest kernel then hangs (nested, without hardware
virtualisation): only a boot tells. What was found out is remembered for this host's kernel and QEMU.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from harness import host
from harness.errors import GuestError, InfrastructureError
from harness.machine import INIT, Accel, Machine, MachineSpec
from harness.store import Store, digest

Wanted = Literal["auto", "tcg", "kvm"]

KVM = Path("/dev/kvm")
REFERENCE_SECONDS = 1.0
"""QEMU's start to /init on the reference host: two idle x86-64 cores, QEMU 7.2, TCG, 2.6.31 as `perf` has it.

Every deadline of the harness was chosen on such a host; elsewhere it is multiplied by `Choice.slowdown`.
"""
CALIBRATION_SECONDS = 60.0
"""A host on which the first boot takes longer is too slow to test anything on."""
PROOF_SECONDS = 4.0
"""Within which a kernel reaches /init under a KVM worth using: TCG needs 1 to 2 s."""

FOLDER = "accelerators"
# Part of the key: changed when what is remembered, or what counts as proof, changes.
_FORMAT = "1"


class Finding(BaseModel):
    """What is known of one accelerator here. seconds: QEMU's start to /init; None: it never came."""

    model_config = ConfigDict(frozen=True)

    accel: Accel
    usable: bool
    seconds: float | None
    detail: str
    host_kernel: str
    qemu: str

    @property
    def slowdown(self) -> float:
        """By what factor this host is slower than the reference host; never below 1: deadlines only grow."""
        return max(1.0, (self.seconds or 0.0) / REFERENCE_SECONDS)


@dataclass(frozen=True)
class Choice:
    """The accelerator to use. why: in words, for the record."""

    name: Accel
    slowdown: float
    why: str


def choose(store: Store, wanted: Wanted, kernel: Path, initrd: Path) -> Choice:
    """The accelerator to use, found out by booting ``kernel`` to /init where that was not done before.

    auto: KVM where it is proven, else TCG. Raises InfrastructureError: asked for KVM and it is not usable,
    or not even TCG boots.
    """
    why = "asked for"
    if wanted != "tcg":
        # Who asks for KVM may have repaired it: a failure that is remembered is not held against them.
        proof = prove(store, "kvm", kernel, initrd, again_if_failed=wanted == "kvm")
        if proof.usable:
            return Choice("kvm", proof.slowdown, why if wanted == "kvm" else proof.detail)
        if wanted == "kvm":
            raise InfrastructureError(
                f"KVM was asked for, and it is not usable on this machine: {proof.detail}",
                hint="use --accel auto or tcg",
            )
        why = f"no KVM: {proof.detail}"
    return Choice("tcg", prove(store, "tcg", kernel, initrd).slowdown, why)


def known(store: Store, accel: Accel) -> Finding | None:
    """What was found out about an accelerator with this host's kernel and QEMU, or None."""
    try:
        return Finding.model_validate_json(_file(store, accel).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def prove(
    store: Store, accel: Accel, kernel: Path, initrd: Path, *, again_if_failed: bool = False
) -> Finding:
    """What is known of an accelerator; if nothing is, boots ``kernel`` to /init under it.

    Under KVM that takes `PROOF_SECONDS` at most, and whatever goes wrong makes it unusable. Under TCG it
    raises GuestError: the kernel died, or is not there after `CALIBRATION_SECONDS`. InfrastructureError: no
    QEMU.
    """

    def enough() -> Finding | None:
        found = known(store, accel)
        return found if found is not None and (found.usable or not again_if_failed) else None

    if (found := enough()) is not None:
        return found
    if accel == "kvm" and (closed := _not_openable()) is not None:
        return _finding(accel, None, closed)  # quick to see, and permissions change: not remembered
    with store.shared_folder(FOLDER, f"trying {accel}"):
        if again_if_failed or (found := enough()) is None:  # else another process has just done it
            found = _try_kvm(kernel, initrd) if accel == "kvm" else _calibrate(kernel, initrd)
            _file(store, accel).write_text(found.model_dump_json(indent=1))
    return found


def _not_openable() -> str | None:
    try:
        os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError as e:
        return f"{KVM}: {e.strerror}"
    return None


@contextmanager
def _booting(accel: Accel, kernel: Path, initrd: Path) -> Iterator[Machine]:
    append = "console=ttyS0 panic=1 no_timer_check"
    spec = MachineSpec(kernel=kernel, initrd=initrd, append=append, accel=accel, network=False)
    with tempfile.TemporaryDirectory(prefix="harness-") as folder, Machine(spec, Path(folder)) as machine:
        yield machine


def _calibrate(kernel: Path, initrd: Path) -> Finding:
    with _booting("tcg", kernel, initrd) as machine:
        seconds = machine.console.wait(INIT, CALIBRATION_SECONDS) - machine.started
    return _finding("tcg", seconds, f"a guest kernel reached /init in {seconds:.1f} s")


def _try_kvm(kernel: Path, initrd: Path) -> Finding:
    try:
        with _booting("kvm", kernel, initrd) as machine:
            at = machine.console.wait_for(INIT, PROOF_SECONDS)
            if at is None:
                return _finding("kvm", None, f"a guest kernel hung: not in /init after {PROOF_SECONDS:.0f} s")
            seconds = at - machine.started
    except (GuestError, InfrastructureError) as e:
        return _finding("kvm", None, e.message.partition("\ncommand: ")[0].replace("\n", "; "))
    return _finding("kvm", seconds, f"a guest kernel reached /init in {seconds:.1f} s")


def _finding(accel: Accel, seconds: float | None, detail: str) -> Finding:
    return Finding(
        accel=accel,
        usable=seconds is not None,
        seconds=seconds,
        detail=detail,
        host_kernel=platform.release(),
        qemu=str(host.find_tool("qemu-system-x86_64")),
    )


def _file(store: Store, accel: Accel) -> Path:
    # The program's size and time stand for QEMU's version, which it takes 30 ms to say.
    qemu = host.find_tool("qemu-system-x86_64").stat()
    key = digest(_FORMAT, platform.release(), f"{qemu.st_size} {qemu.st_mtime_ns}", accel)
    return store.root / FOLDER / f"{key}.json"
