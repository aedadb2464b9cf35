"""diagnostics.py: warnings and errors as gcc 12, binutils 2.40, Kconfig, modpost and make print them."""

from __future__ import annotations

import pytest

from harness.diagnostics import STEP, first_error, warnings

# From a build of 2.6.31.3 with gcc 12.2 and binutils 2.40.
LOG = """\
scripts/kconfig/conf -s arch/x86/Kconfig
  CC      init/main.o
In file included from include/linux/kernel.h:16,
                 from ./arch/x86/include/asm/percpu.h:45,
                 from init/main.c:13:
include/linux/log2.h:22:1: warning: ignoring attribute 'noreturn' because of 'const' [-Wattributes]
   22 | int ____ilog2_NaN(void);
      | ^~~
./arch/x86/include/asm/bitops.h: Assembler messages:
./arch/x86/include/asm/bitops.h:319: Warning: no instruction mnemonic suffix given; using default for `bt'
include/linux/log2.h:22:1: warning: ignoring attribute 'noreturn' because of 'const' [-Wattributes]
drivers/md/Kconfig:12:warning: defaults for choice values not supported
ld: warning: arch/x86/kernel/entry_64.o: missing .note.GNU-stack section implies executable stack
/usr/bin/ld: warning: vmlinux has a LOAD segment with RWX permissions
WARNING: vmlinux.o(.text+0x2f1): Section mismatch in reference from the function f() to .init.data:v
""".splitlines()


def test_every_kind_of_warning_once() -> None:
    found = warnings(LOG)
    assert [(w.file, w.line, w.flag) for w in found] == [
        ("include/linux/log2.h", 22, "-Wattributes"),
        ("arch/x86/include/asm/bitops.h", 319, ""),
        ("drivers/md/Kconfig", 12, ""),
        ("arch/x86/kernel/entry_64.o", 0, ""),
        ("", 0, ""),
        ("", 0, ""),
    ]
    assert found[0].text == "ignoring attribute 'noreturn' because of 'const'"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.c:1:2: warning: x [-Wx]", "a.c:30:1: warning: x [-Wx]"),
        ("a.c:1:2: warning: x", "./a.c:1: warning: x"),
        ("a.c:1:2: warning: 'v' unused", "a.c:1:2: warning: \u2018v\u2019 unused"),
        ("fs/b/../a.c:1:2: warning: x", "fs/a.c:1:2: warning: x"),
        ("WARNING: a.o(.text+0x1f): Section mismatch", "WARNING: a.o(.text+0x2e): Section mismatch"),
        (
            "ld: warning: definition of `x'; a.o:k/t.c:49: first",
            "ld: warning: definition of `x'; a.o:k/t.c:51: first",
        ),
    ],
)
def test_same_warning(one: str, other: str) -> None:
    assert warnings([one])[0].normalised == warnings([other])[0].normalised


@pytest.mark.parametrize(
    "other",
    ["a.c:1:2: warning: y [-Wx]", "b.c:1:2: warning: x [-Wx]", "a.c:1:2: warning: x [-Wy]"],
)
def test_different_warnings(other: str) -> None:
    assert warnings(["a.c:1:2: warning: x [-Wx]"])[0].normalised != warnings([other])[0].normalised


def test_notes_and_errors_are_no_warnings() -> None:
    assert (
        warnings(["a.c:1:2: note: x", "a.c:1:2: error: x", "  CC      warning: x", "make: *** [x] Error 1"])
        == []
    )


def test_first_error_with_its_context() -> None:
    log = [
        "  CC      mm/a.o",
        "mm/a.c:1:1: warning: before",
        "In file included from mm/biotrack.c:3:",
        "include/linux/biotrack.h: In function 'f':",
        "include/linux/biotrack.h:12:3: error: 'x' undeclared (first use in this function)",
        "   12 |   x = 1;",
        "      |   ^",
        "include/linux/biotrack.h:12:3: note: each undeclared identifier is reported only once",
        "  CC      mm/b.o",
        "mm/biotrack.c:40:1: error: second",
        "make[1]: *** [mm/biotrack.o] Error 1",
    ]
    assert first_error(log) == ("include/linux/biotrack.h", log[2:8])


def test_undefined_references_are_shown_together() -> None:
    log = [
        "  LD      .tmp_vmlinux1",
        "ld: mm/built-in.o: in function `f':",
        "/build/mm/biotrack.c:10: undefined reference to `one'",
        "ld: mm/biotrack.c:(.text+0x12): undefined reference to `two'",
        "make: *** [Makefile:700: .tmp_vmlinux1] Error 1",
    ]
    file, lines = first_error(log)
    assert file == "/build/mm/biotrack.c"
    assert lines == log[1:4]


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("drivers/md/Kconfig:44: syntax error", "drivers/md/Kconfig"),
        ("arch/x86/lib/x.S:3: Error: no such instruction: `foo'", "arch/x86/lib/x.S"),
        ("mm/a.c:3:10: fatal error: linux/none.h: No such file or directory", "mm/a.c"),
        ('ERROR: "blkio_cgroup" [drivers/md/dm-ioband.ko] undefined!', ""),
        ("/bin/sh: 1: bc: not found", ""),
    ],
)
def test_other_errors(line: str, file: str) -> None:
    log = ["  CC      mm/a.o", line, "make[2]: *** [scripts/Makefile.build:250: mm] Error 2"]
    assert first_error(log) == (file, [line])


def test_make_is_quoted_only_when_nothing_else_complains() -> None:
    log = ["  CC      mm/a.o", "make: *** No rule to make target `mm/gone.o'.  Stop."]
    assert first_error(log) == ("", [log[1]])
    assert first_error(["a", "b"]) == ("", ["a", "b"])


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("  CC      mm/memory.o", "mm/memory.o"),
        ("  LD [M]  drivers/md/dm-mod.ko", "drivers/md/dm-mod.ko"),
        ("  AS      arch/x86/kernel/entry_64.o", "arch/x86/kernel/entry_64.o"),
        ("   22 | int ____ilog2_NaN(void);", None),
        ("make[1]: Nothing to be done", None),
    ],
)
def test_steps(line: str, target: str | None) -> None:
    found = STEP.match(line)
    assert (found["target"] if found else None) == target
