"""Reports of dying kernels, recorded from real ones, and decoding with the real tools on a small program."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import pytest

from harness import oops
from harness.errors import InfrastructureError
from harness.oops import Sign

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize(
    ("report", "sign"),
    [
        ("2.6.31-panic", Sign.OOPS),  # its first line; the panic comes last
        ("2.6.31-nullderef", Sign.OOPS),
        ("2.6.31-invalid-opcode", Sign.OOPS),
        ("2.6.31-divide", Sign.OOPS),
        ("2.6.31-gpf", Sign.OOPS),
        ("2.6.31-hung", Sign.HANG),
        ("2.6.31-softlockup", Sign.HANG),
        ("2.6.31-oom", Sign.OOM),
        ("6.1-panic", Sign.PANIC),
    ],
)
def test_first_sign_tells_what_it_is(report, sign):
    lines = (DATA / "oops" / f"{report}.txt").read_text().splitlines()
    first, *others = [found for found in map(oops.classify, lines) if found is not None]
    assert first is sign
    assert set(others) <= {Sign.OOPS, Sign.OOM, Sign.PANIC, Sign.ALLOCATION}


def test_what_outweighs_what():
    order = [{Sign.ALLOCATION}, {Sign.WARNING, Sign.SPLAT, Sign.OOM}, {Sign.PANIC, Sign.OOPS, Sign.HANG}]
    assert set.union(*order) == set(Sign)
    for (i, lighter), (j, heavier) in itertools.product(enumerate(order), repeat=2):
        assert all(b.outweighs(a) == (j > i) for a in lighter for b in heavier)


@pytest.mark.parametrize(
    ("line", "sign"),
    [
        ("harness: half a line[   12.345678] BUG: scheduling while atomic: fio/77/0x00000002", Sign.SPLAT),
        ("[    1.000000] WARNING: at fs/buffer.c:1186 mark_buffer_dirty+0x74/0xa0()", Sign.WARNING),
        ("[    1.000000] [ INFO: possible circular locking dependency detected ]", Sign.SPLAT),
        ("[    1.000000] INFO: task dd:46 blocked for more than 120 seconds.", Sign.HANG),
        ("[    1.000000] [ INFO: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected ]", Sign.SPLAT),
        ("[    1.000000] [ BUG: held lock freed! ]", Sign.SPLAT),
        ("[    1.000000] BUG: sleeping function called from invalid context at mm/slub.c:1697", Sign.SPLAT),
        ("[    1.000000] BUG: spinlock already unlocked on CPU#0, fio/77", Sign.SPLAT),
        ("[    1.000000] BUG: spinlock lockup on CPU#1, fio/77, ffff880001234567", Sign.HANG),
        ("[    1.000000] BUG kmalloc-512: Poison overwritten", Sign.SPLAT),
        ("[    1.000000] BUG: MAX_LOCKDEP_CHAINS too low!", Sign.SPLAT),
        ("[    1.000000] kmemleak: Kernel memory leak detector disabled", Sign.SPLAT),
        ("[    1.000000] kmemleak: 1 new suspected memory leaks (see /sys/kernel/debug/kmemleak)", None),
        ("[    1.000000] tail: page allocation failure. order:0, mode:0x280da", Sign.ALLOCATION),
        ("[    1.000000] ACPI: Core revision 20090521", None),
        ("a program says DEBUG: and INFO: of its own", None),
        ("[    0.000000] Kernel command line: console=ttyS0 panic=1 softlockup_panic=0", None),
    ],
)
def test_lines(line, sign):
    assert oops.classify(line) is sign


def test_a_healthy_boot_has_no_sign():
    lines = (DATA / "console-boot.txt").read_text().splitlines()
    survived = [line for line in lines if oops.classify(line) is not None]
    assert survived == []


SOURCE = """
__attribute__((noinline)) void faulty(volatile int *p) { *p = 1; }
static inline __attribute__((always_inline)) void inlined(int *p) { faulty(p); faulty(p); }
__attribute__((noinline)) void caller(int *p) { inlined(p); p[1] = 2; }
void start_kernel(void) { caller(0); }
"""


@pytest.fixture(scope="module")
def vmlinux(tmp_path_factory):
    """A program at a kernel's addresses, compiled from a tree that has an init/main.c."""
    tree = tmp_path_factory.mktemp("build") / "some" / "kernel" / "tree"
    (tree / "init").mkdir(parents=True)
    (tree / "init" / "main.c").write_text(SOURCE.lstrip())
    options = ["-g", "-O1", "-nostdlib", "-static", "-no-pie", "-fno-pie", "-mcmodel=kernel"]
    link = ["-Wl,-Ttext=0xffffffff81000000", "-Wl,-e,start_kernel", "-Wl,--build-id=none"]
    subprocess.run(
        ["gcc", *options, *link, str(tree / "init" / "main.c"), "-o", str(tree / "vmlinux")], check=True
    )
    return tree / "vmlinux"


@pytest.fixture(scope="module")
def address(vmlinux):
    rows = subprocess.run(["nm", vmlinux], capture_output=True, text=True, check=True).stdout.splitlines()
    return {row.split()[2]: int(row.split()[0], 16) for row in rows}


def _return_address(vmlinux, function: str, number: int) -> int:
    """The address after the given call instruction of a function."""
    text = subprocess.run(
        ["objdump", "-d", f"--disassemble={function}", vmlinux], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    calls = [i for i, line in enumerate(text) if "\tcall" in line]
    return int(text[calls[number] + 1].split(":")[0], 16)


def test_decode_of_2_6_31(vmlinux, address):
    at = _return_address(vmlinux, "caller", 1)
    text = (
        "[    1.000000] BUG: unable to handle kernel NULL pointer dereference at (null)\n"
        f"[    1.000000] IP: [<{address['faulty']:016x}>] faulty+0x0/0x10\n"
        "[    1.000000] Call Trace:\n"
        f"[    1.000000]  [<{address['start_kernel']:016x}>] ? start_kernel+0x0/0x20\n"
        f"[    1.000000]  [<{at:016x}>] caller+{at - address['caller']:#x}/0x30\n"
        "[    1.000000]  [<ffffffffa0000010>] helper+0x10/0x20 [module]\n"
        "[    1.000000] ---[ end trace 157e556b7accc70a ]---\n"
    )
    assert oops.decode(text, vmlinux).splitlines() == [
        "[    1.000000] BUG: unable to handle kernel NULL pointer dereference at (null)",
        f"[    1.000000] IP: [<{address['faulty']:016x}>] faulty+0x0/0x10",
        "        faulty at init/main.c:1",
        "[    1.000000] Call Trace:",
        f"[    1.000000]  [<{at:016x}>] caller+{at - address['caller']:#x}/0x30",
        "        inlined at init/main.c:2",
        "        caller at init/main.c:3",
        "[    1.000000]  [<ffffffffa0000010>] helper+0x10/0x20 [module]",
        "[    1.000000] ---[ end trace 157e556b7accc70a ]---",
    ]


def test_decode_of_current_kernels(vmlinux, address):
    """They print no addresses: name, offset and size of the function must do."""
    sizes = sorted(set(address.values()))
    size = sizes[sizes.index(address["caller"]) + 1] - address["caller"]
    at = _return_address(vmlinux, "caller", 0) - address["caller"]
    text = (
        "[    4.400000] RIP: 0010:faulty+0x0/0x7\n"
        "[    4.400000]  <TASK>\n"
        f"[    4.400000]  caller+{at:#x}/{size:#x}\n"
        "[    4.400000]  nowhere+0x1/0x2\n"
    )
    assert oops.decode(text, vmlinux).splitlines() == [
        "[    4.400000] RIP: 0010:faulty+0x0/0x7",
        "        faulty at init/main.c:1",
        "[    4.400000]  <TASK>",
        f"[    4.400000]  caller+{at:#x}/{size:#x}",
        "        inlined at init/main.c:2",
        "        caller at init/main.c:3",
        "[    4.400000]  nowhere+0x1/0x2",
    ]


def test_decode_of_registers(vmlinux, address):
    text = f"RIP={address['faulty']:016x} RFL=00000083 [--S---C] CPL=0 II=0 A20=1 SMM=0 HLT=0\n"
    assert oops.decode(text, vmlinux) == f"{text}        faulty at init/main.c:1\n"


def test_decode_keeps_every_line_of_recorded_reports_but_doubtful_entries(vmlinux):
    for report in sorted((DATA / "oops").glob("*.txt")):
        decoded = oops.decode(report.read_text(), vmlinux).splitlines()
        kept = [line for line in report.read_text().splitlines() if "] ? " not in line]
        kept = [line for line in kept if not line.partition("]")[2].startswith("  ? ")]
        assert decoded == kept, report.name


def test_decode_without_symbols(tmp_path):
    with pytest.raises(InfrastructureError, match="no-such"):
        oops.decode("[<ffffffff81000000>] f+0x0/0x1\n", tmp_path / "no-such")
