"""kconfig.py: what fragments ask for, and why it cannot be had."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.kconfig import (
    KconfigReader,
    Request,
    defined_symbols,
    merge,
    missing_sources,
    read_fragment,
    require,
    values,
)

KCONFIG = """\
mainmenu "Test"

config ARCH
	string
	option env="ARCH"

config 64BIT
	def_bool ARCH = "x86_64"

menu "Drivers"
	depends on BLOCK

config DM
	tristate "Device mapper";

config DM_IOBAND
	tristate "Bandwidth"
	depends on DM && EXPERIMENTAL && !OLD

endmenu

config BLOCK
	bool "Block"

config EXPERIMENTAL
	bool "Experimental"

config OLD
	bool "Old"

config LIBRARY
	bool

config USER
	bool "User"
	select LIBRARY

choice
	prompt "Timer"
	default HZ_250

config HZ_250
	bool "250"

config HZ_1000
	bool "1000"

endchoice

source "lib/Kconfig"
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "arch/x86").mkdir(parents=True)
    (folder / "lib").mkdir()
    (folder / "arch/x86/Kconfig").write_text(KCONFIG)
    (folder / "lib/Kconfig").write_text('menuconfig CRC32\n\tbool "CRC"\n')
    return folder


def reasons(tree: Path, symbol: str, config: str) -> list[str]:
    path = tree.parent / ".config"
    path.write_text(config)
    reader = KconfigReader(tree, "arch/x86/Kconfig", {"ARCH": "x86_64", "SRCARCH": "x86"})
    return reader.explain([symbol], path)[symbol]


def test_fragment(tmp_path: Path) -> None:
    file = tmp_path / "a.config"
    file.write_text(
        '# words\n\nCONFIG_A=y\nCONFIG_B="a b"\nCONFIG_C=0x1f\n# CONFIG_D is not set\nCONFIG_E=n\n'
    )
    found = read_fragment(file)
    assert [(request.symbol, request.value) for request in found] == [
        ("CONFIG_A", "y"),
        ("CONFIG_B", '"a b"'),
        ("CONFIG_C", "0x1f"),
        ("CONFIG_D", "n"),
        ("CONFIG_E", "n"),
    ]
    assert found[3].place == f"{file}:6"
    assert found[4].line == "# CONFIG_E is not set"


@pytest.mark.parametrize("line", ["CONFIG_A = y", "A=y", "CONFIG_A", "CONFIG_A=yes", 'CONFIG_A="x'])
def test_malformed_fragment(tmp_path: Path, line: str) -> None:
    file = tmp_path / "a.config"
    file.write_text(f"CONFIG_X=y\n{line}\n")
    with pytest.raises(UserError, match=r"a\.config:2: "):
        read_fragment(file)


def test_fragment_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_fragment(tmp_path / "gone")


def test_the_last_one_to_ask_wins() -> None:
    first, second = Request("CONFIG_A", "y", "a:1"), Request("CONFIG_A", "n", "b:1")
    assert merge([first, Request("CONFIG_B", "y", "a:2"), second]) == [
        second,
        Request("CONFIG_B", "y", "a:2"),
    ]


def test_defined_symbols(tree: Path) -> None:
    found = defined_symbols(tree)
    assert {"CONFIG_DM_IOBAND", "CONFIG_CRC32", "CONFIG_HZ_1000"} <= found
    assert "CONFIG_NONE" not in found


def test_values() -> None:
    assert values("CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=3\n") == {"CONFIG_A": "y", "CONFIG_C": "3"}


def test_unmet_dependencies_are_named_with_their_values(tree: Path) -> None:
    found = reasons(tree, "CONFIG_DM_IOBAND", "CONFIG_BLOCK=y\nCONFIG_DM=y\nCONFIG_OLD=y\n")
    assert found == [
        "unmet dependency: EXPERIMENTAL (EXPERIMENTAL=n), arch/x86/Kconfig:16",
        "unmet dependency: !OLD (OLD=y), arch/x86/Kconfig:16",
    ]
    assert "unmet dependency: BLOCK (BLOCK=n), arch/x86/Kconfig:16" in reasons(tree, "CONFIG_DM_IOBAND", "")


def test_symbol_without_a_prompt(tree: Path) -> None:
    [said] = reasons(tree, "CONFIG_LIBRARY", "")
    assert "has no prompt" in said
    assert "selected by USER" in said


def test_choice(tree: Path) -> None:
    line = KCONFIG.splitlines().index("config HZ_1000") + 1
    said = f"one of a choice; chosen: HZ_250, arch/x86/Kconfig:{line}"
    assert reasons(tree, "CONFIG_HZ_1000", "CONFIG_HZ_250=y\n") == [said]


def test_unknown_symbol(tree: Path) -> None:
    assert reasons(tree, "CONFIG_NONE", "") == ["this tree defines no such symbol"]


def test_selected_against_the_will(tree: Path) -> None:
    [said] = reasons(tree, "CONFIG_LIBRARY", "CONFIG_USER=y\nCONFIG_LIBRARY=y\n")
    assert "USER" in said


def test_unreadable_kconfig_still_gives_the_symbol(tree: Path) -> None:
    (tree / "lib/Kconfig").write_text("config )(\n")
    assert "not known" in reasons(tree, "CONFIG_DM", "")[0]


def test_environment_is_left_as_it_was(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCH", "mine")
    monkeypatch.delenv("SRCARCH", raising=False)
    reasons(tree, "CONFIG_DM", "")
    assert os.environ["ARCH"] == "mine"
    assert "SRCARCH" not in os.environ


def test_require(tree: Path) -> None:
    config = tree.parent / ".config"
    config.write_text("CONFIG_BLOCK=y\nCONFIG_OLD=y\n# CONFIG_DM is not set\n")
    reader = KconfigReader(tree, "arch/x86/Kconfig", {"ARCH": "x86_64"})
    good = [
        Request("CONFIG_BLOCK", "y", "f:1"),
        Request("CONFIG_DM", "n", "f:2"),
        Request("CONFIG_USER", "n", "f"),
    ]
    require(good, config, reader)
    with pytest.raises(UserError) as caught:
        require(
            [*good, Request("CONFIG_DM_IOBAND", "y", "f:9"), Request("CONFIG_OLD", "n", "f:10")],
            config,
            reader,
        )
    lines = caught.value.message.splitlines()
    assert lines[0] == "2 config symbols did not take effect:"
    assert lines[1] == "  CONFIG_DM_IOBAND=y  (f:9); in .config: it is not set"
    assert "unmet dependency: DM " in lines[2]
    assert "  # CONFIG_OLD is not set  (f:10); in .config: CONFIG_OLD=y" in lines


NEWER = """\
success = $(shell,{ $(1); } >/dev/null 2>&1 && echo y || echo n)
cc-name := $(shell,$(srctree)/scripts/cc-name.sh $(CC))

config CC_IS_GOOD
	def_bool $(success,test "$(cc-name)" = good)

config MODULES
	bool "Modules"
	modules

config WANTS_GOOD
	bool "Wants a good compiler"
	depends on CC_IS_GOOD

source "arch/other/Kconfig"
osource "lib/*/Kconfig"
source "arch/$(SRCARCH)/Kconfig.debug"
"""


def test_kconfig_files_that_run_the_compiler(tmp_path: Path) -> None:
    """As they are since 4.18, and `modules` since 5.13."""
    tree = tmp_path / "tree"
    for folder in ("arch/x86", "arch/other", "scripts"):
        (tree / folder).mkdir(parents=True)
    (tree / "Kconfig").write_text(NEWER)
    (tree / "arch/other/Kconfig").write_text("")
    (tree / "arch/x86/Kconfig.debug").write_text("")
    script = tree / "scripts/cc-name.sh"
    script.write_text('#!/bin/sh\n[ "$1" = cc-42 ] && echo good\n')
    script.chmod(0o755)
    config = tmp_path / ".config"
    config.write_text("")
    said = {}
    for compiler in ("cc-42", "cc-1"):
        reader = KconfigReader(tree, "Kconfig", {"ARCH": "x86_64", "SRCARCH": "x86", "CC": compiler})
        said[compiler] = reader.explain(["CONFIG_WANTS_GOOD"], config)["CONFIG_WANTS_GOOD"]
    assert said["cc-42"] == []
    assert said["cc-1"] == ["unmet dependency: CC_IS_GOOD (CC_IS_GOOD=n), Kconfig:11"]


def test_files_that_are_read_in_and_not_there(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "Kconfig").write_text('source "lib/Kconfig"\nsource arch/arm/Kconfig\nsource "a/$(X)/Kconfig"\n')
    (tmp_path / "lib/Kconfig").write_text("if ARM\n\tsource \"arch/arm/lib/Kconfig\"\nendif\n")
    assert missing_sources(tmp_path) == {"arch/arm/Kconfig", "arch/arm/lib/Kconfig"}
