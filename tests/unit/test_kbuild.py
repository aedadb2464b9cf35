"""kbuild.py: a small kernel, really configured and compiled."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fakekernel
import pytest
from fakekernel import QUIET, build_spec, diff, mail, write_series
from processes import gone

from harness import kbuild, source
from harness.errors import CompileError, InfrastructureError, UserError
from harness.host import have_tool, run
from harness.kbuild import BuildSpec
from harness.series import Series
from harness.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def rest(store: Store) -> list[str]:
    return [path.name for path in (store.root / "tmp").glob("*")]


def one_patch(folder: Path, path: str, new: str) -> Path:
    return write_series(folder, {"0001-change.patch": mail(1, "change", diff(path, new))})


def test_artefacts(store: Store, tmp_path: Path) -> None:
    spec = build_spec(store, tmp_path, write_series(tmp_path / "series"))
    assert kbuild.find(store, spec) is None
    built = kbuild.build(store, spec, QUIET)
    assert not built.cached
    assert built.kernel_version == "2.6.31.3"
    assert built.series is not None
    assert built.series.patches == ("0001-md-return.patch", "0002-dm-fake.patch", "0003-dm-fake-more.patch")
    assert built.compat == ("0001-say-what-the-compiler-took-for-granted.patch",)
    assert built.bzimage.read_bytes()[:4] == b"\x7fELF"
    assert "dm_fake_ctr" in built.system_map.read_text()
    assert built.vmlinux.stat().st_size > 0
    assert sorted(built.config_path.read_text().split()) == [
        "CONFIG_BLOCK=y",
        "CONFIG_DM_FAKE=y",
        "CONFIG_HZ=1000",
        "CONFIG_MD=y",
    ]
    assert "CC      drivers/md/dm-fake.o" in built.log.read_text()
    assert rest(store) == []


def test_kconfig_files_of_other_architectures_that_are_read_in(store: Store, tmp_path: Path) -> None:
    """As crypto/Kconfig of 6.1 does; the rest of such an architecture stays out."""
    linux = fakekernel.linux(tmp_path / "other")
    for name in ("Kconfig", "lib/Kconfig", "kernel/entry.c"):
        (linux / "arch/arm" / name).parent.mkdir(parents=True, exist_ok=True)
        (linux / "arch/arm" / name).write_text("")
    (linux / "arch/arm/Kconfig").write_text('source "arch/arm/lib/Kconfig"\n')
    with (linux / "drivers/md/Kconfig").open("a") as file:
        file.write('\nsource "arch/arm/Kconfig"\n')
    spec = build_spec(store, tmp_path)
    tree = source.add(store, spec.kernel, str(linux))
    job = kbuild.Job(store, replace(spec, tree=tree), QUIET, None)
    job.begin()
    (tmp_path / "work").mkdir()
    job.prepare(tmp_path / "work")
    found = sorted(path for path in (tmp_path / "work/linux/arch/arm").rglob("*") if path.is_file())
    assert [path.name for path in found] == ["Kconfig", "Kconfig"]


def test_an_identical_build_is_found(store: Store, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series")
    built = kbuild.build(store, build_spec(store, tmp_path, folder), QUIET)
    again = kbuild.build(store, build_spec(store, tmp_path, folder), QUIET)
    assert again == built.model_copy(update={"cached": True})


def test_key_follows_what_goes_in(store: Store, tmp_path: Path) -> None:
    """What changes the kernel changes the key; words about it do not."""
    folder = write_series(tmp_path / "series")
    keys = {"first": build_spec(store, tmp_path, folder).key, "none": build_spec(store, tmp_path).key}
    for count in range(3):
        keys[f"prefix {count}"] = build_spec(store, tmp_path, Series.load(folder).prefix(count)).key
    patch = folder / "0001-md-return.patch"
    patch.write_text(
        patch.read_text().replace("one more", "one more, with feeling").replace("2.39.5", "2.99")
    )
    base = tmp_path / "kernel" / "2.6.31" / "base.config"
    base.write_text("# other words\n" + base.read_text())
    assert build_spec(store, tmp_path, folder).key == keys["first"], "words changed the key"
    patch.write_text(patch.read_text().replace("+ 1;", "+ 2;"))
    keys["diff"] = build_spec(store, tmp_path, folder).key
    base.write_text(base.read_text() + "CONFIG_SMP=y\n")
    keys["config"] = build_spec(store, tmp_path).key
    compat = tmp_path / "kernel" / "2.6.31" / "compat"
    next(compat.iterdir()).unlink()
    keys["compat"] = build_spec(store, tmp_path).key
    spec = build_spec(store, tmp_path)
    other = spec.compiler.model_copy(update={"version_line": "gcc-12 (Debian 12.9) 12.9"})
    keys["compiler"] = BuildSpec(spec.kernel, spec.tree, None, "perf", other).key
    tree = spec.tree.model_copy(update={"id": "0" * 64})
    keys["tree"] = BuildSpec(spec.kernel, tree, None, "perf", spec.compiler).key
    keys["symbol"] = replace(build_spec(store, tmp_path), config={"CONFIG_BLOCK": "n"}).key
    keys["coverage"] = replace(build_spec(store, tmp_path), coverage=True).key
    # prefix 0 is the kernel without the series
    assert keys.pop("prefix 0") == keys["none"]
    assert len(set(keys.values())) == len(keys)


def test_a_build_may_ask_for_other_values(store: Store, tmp_path: Path) -> None:
    spec = replace(
        build_spec(store, tmp_path, write_series(tmp_path / "series")), config={"CONFIG_HZ": "100"}
    )
    built = kbuild.build(store, spec, QUIET)
    assert "CONFIG_HZ=100" in built.config_path.read_text().split()
    assert "CONFIG_HZ=100" in spec.what
    assert built.modules == []


def test_objects_of_files_that_the_series_touches_count(store: Store, tmp_path: Path) -> None:
    plain = build_spec(store, tmp_path, write_series(tmp_path / "series"))
    spec = replace(plain, coverage=True)
    assert spec.counting == ("drivers/md/dm-fake", "drivers/md/md")
    assert "coverage" in spec.what and spec.what != plain.what
    built = kbuild.build(store, spec, QUIET)
    assert built.coverage and "CONFIG_GCOV_KERNEL=y" in built.config_path.read_text().split()
    # init/md.c has the name of one of them.
    notes = sorted(str(path.relative_to(built.notes)) for path in built.notes.rglob("*.gcno"))
    assert notes == ["drivers/md/dm-fake.gcno", "drivers/md/md.gcno"]
    nm = run(["nm", str(built.vmlinux)]).stdout
    assert "__gcov_.md_init" in nm and "__gcov_.dm_fake_ctr" in nm and "__gcov_.init_md" not in nm
    assert kbuild.find(store, spec) == kbuild.kept(store, spec.key)
    assert kbuild.find(store, plain) is None


def test_an_object_that_must_not_count_does_not(store: Store, tmp_path: Path) -> None:
    makefile = (fakekernel.LINUX / "Makefile").read_text()
    no = one_patch(tmp_path / "no", "Makefile", makefile.replace("obj =", "GCOV_PROFILE_md.o := n\nobj ="))
    series = write_series(
        tmp_path / "series",
        {**fakekernel.series_files(), "0004-no.patch": (no / "0001-change.patch").read_text()},
    )
    built = kbuild.build(store, replace(build_spec(store, tmp_path, series), coverage=True), QUIET)
    assert [path.name for path in built.notes.rglob("*.gcno")] == ["dm-fake.gcno"]


def test_a_build_without_coverage_has_no_counters(store: Store, tmp_path: Path) -> None:
    spec = build_spec(store, tmp_path, write_series(tmp_path / "series"))
    assert spec.counting == ()
    built = kbuild.build(store, spec, QUIET)
    assert not built.coverage and not built.notes.exists()
    assert not any("GCOV" in command for command in built.commands)


def test_same_input_same_bytes(store: Store, tmp_path: Path) -> None:
    """In another cache, hence another folder, with another environment."""
    built = kbuild.build(store, build_spec(store, tmp_path), QUIET)
    elsewhere = Store(tmp_path / "quite" / "another" / "cache")
    again = kbuild.build(elsewhere, build_spec(elsewhere, tmp_path), QUIET)
    assert again.vmlinux.read_bytes() == built.vmlinux.read_bytes()
    assert str(tmp_path).encode() not in built.vmlinux.read_bytes()


def test_environment_of_the_caller_stays_out(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAKEFLAGS", "--no-such-option")
    monkeypatch.setenv("KBUILD_CFLAGS", "-nonsense")
    monkeypatch.setenv("CROSS_COMPILE", "/nowhere/")
    kbuild.build(store, build_spec(store, tmp_path), QUIET)


def test_without_ccache(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    have = kbuild.host.have_tool
    monkeypatch.setattr(kbuild.host, "have_tool", lambda name: name != "ccache" and have(name))
    assert kbuild.build(store, build_spec(store, tmp_path), QUIET).bzimage.exists()
    assert not (store.root / "ccache").exists()


@pytest.mark.skipif(not have_tool("ccache"), reason="needs ccache")
def test_files_that_did_not_change_come_from_ccache(store: Store, tmp_path: Path) -> None:
    """In another folder."""

    def hits() -> int:
        stats = run(["ccache", "--print-stats"], env={"CCACHE_DIR": str(store.root / "ccache")}).stdout
        return int(dict(line.split("\t") for line in stats.splitlines())["direct_cache_hit"])

    folder = one_patch(tmp_path / "series", "init/main.c", "int main(void)\n{\n\treturn 3;\n}\n")
    kbuild.build(store, build_spec(store, tmp_path), QUIET)
    assert hits() == 0
    with store.workspace("kernel", size=1):
        kbuild.build(store, build_spec(store, tmp_path, Series.load(folder)), QUIET)
    assert hits() == 1, "drivers/md/md.c"


@pytest.mark.skipif(not have_tool("ccache"), reason="needs ccache")
@pytest.mark.parametrize(
    ("name", "text"), [("a.S", '.data\n.incbin "part"\n'), ("a.c", 'asm(".data\\n.incbin \\"part\\"");\n')]
)
def test_what_the_assembler_reads_is_never_an_old_one(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    job = kbuild.Job(store, build_spec(store, tmp_path), QUIET, jobs=None)
    job.tools(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text)
    for part in (b"first", b"other"):
        Path("part").write_bytes(part)
        compiler = tmp_path / "bin" / job.spec.compiler.name
        run([compiler, "-Wp,-MMD,a.d", "-c", "-o", "a.o", name], env=job.environment(tmp_path))
        assert part in Path("a.o").read_bytes()


def test_warnings_are_data(store: Store, tmp_path: Path) -> None:
    [warning] = kbuild.build(store, build_spec(store, tmp_path), QUIET).warnings
    assert (warning.file, warning.flag) == ("drivers/md/md.c", "-Wunused-variable")
    assert warning.line == 5
    assert warning.normalised == "drivers/md/md.c: unused variable 'unused' [-Wunused-variable]"


def test_compile_error_shows_the_first_and_whose_it_is(store: Store, tmp_path: Path) -> None:
    folder = one_patch(
        tmp_path / "series", "init/main.c", "int main(void)\n{\n\treturn tokens;\n}\nint x = y;\n"
    )
    with pytest.raises(CompileError) as caught:
        kbuild.build(store, build_spec(store, tmp_path, folder), QUIET)
    message = caught.value.message
    assert "init/main.c:3:16: error: 'tokens' undeclared" in message
    assert "return tokens;" in message, "gcc's own excerpt"
    assert "init/main.c: In function 'main':" in message
    assert "int x = y" not in message, "only the first"
    assert "init/main.c is touched by 0001-change.patch" in message
    assert caught.value.log is not None
    assert "tokens" in caught.value.log.read_text()
    assert kbuild.find(store, build_spec(store, tmp_path, folder)) is None
    assert rest(store) == []


def test_link_error(store: Store, tmp_path: Path) -> None:
    text = "extern int gone(void);\nvoid start_kernel(void)\n{\n\tgone();\n}\n"
    folder = one_patch(tmp_path / "series", "init/main.c", text)
    with pytest.raises(CompileError, match="undefined reference to `gone'") as caught:
        kbuild.build(store, build_spec(store, tmp_path, folder), QUIET)
    assert "init/main.c is touched by 0001-change.patch" in caught.value.message


def test_kconfig_error(store: Store, tmp_path: Path) -> None:
    text = (fakekernel.LINUX / "drivers/md/Kconfig").read_text() + "oops\n"
    folder = one_patch(tmp_path / "series", "drivers/md/Kconfig", text)
    with pytest.raises(CompileError, match=r"drivers/md/Kconfig:\d+: syntax error") as caught:
        kbuild.build(store, build_spec(store, tmp_path, folder), QUIET)
    assert "touched by 0001-change.patch" in caught.value.message


def test_symbol_that_did_not_take_effect(store: Store, tmp_path: Path) -> None:
    build_spec(store, tmp_path)
    base = tmp_path / "kernel" / "2.6.31" / "base.config"
    base.write_text("CONFIG_MD=y\nCONFIG_MD_HIDDEN=y\nCONFIG_NO_SUCH=y\n")
    with pytest.raises(UserError, match="3 config symbols did not take effect") as caught:
        kbuild.build(store, build_spec(store, tmp_path), QUIET)
    message = caught.value.message
    assert f"CONFIG_MD=y  ({base}:1); in .config: it is not set" in message
    assert "unmet dependency: BLOCK (BLOCK=n), drivers/md/Kconfig:4" in message
    assert "CONFIG_MD_HIDDEN=y" in message
    assert "has no prompt" in message
    assert "defines no such symbol" in message


def test_series_symbols_only_where_they_are_defined(store: Store, tmp_path: Path) -> None:
    whole = Series.load(write_series(tmp_path / "series"))
    for count, wanted in ((1, False), (2, True)):
        built = kbuild.build(store, build_spec(store, tmp_path, whole.prefix(count)), QUIET)
        assert ("CONFIG_DM_FAKE=y" in built.config_path.read_text()) is wanted


def test_series_toml_symbol_that_no_patch_defines(store: Store, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series")
    (folder / "series.toml").write_text('[config]\nCONFIG_DM_FAKE = "y"\nCONFIG_TYPO = "y"\n')
    with pytest.raises(UserError, match="CONFIG_TYPO"):
        kbuild.build(store, build_spec(store, tmp_path, folder), QUIET)
    prefix = Series.load(folder).prefix(1)
    assert kbuild.build(store, build_spec(store, tmp_path, prefix), QUIET)


def test_unknown_flavour(store: Store, tmp_path: Path) -> None:
    spec = build_spec(store, tmp_path)
    with pytest.raises(UserError, match="no flavour `fast`; it has: perf"):
        kbuild.find(store, BuildSpec(spec.kernel, spec.tree, None, "fast", spec.compiler))


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("cc1: error: writing: No space left on device", "cache prune"),
        ("gcc: fatal error: Killed signal terminated program cc1", "memory"),
    ],
)
def test_the_machine_is_to_blame(store: Store, tmp_path: Path, said: str, hint: str) -> None:
    makefile = (fakekernel.LINUX / "Makefile").read_text()
    broken = makefile.replace('@echo "  LD      $@"', f"@echo '{said}'; exit 1")
    folder = one_patch(tmp_path / "series", "Makefile", broken)
    spec = build_spec(store, tmp_path, folder)
    next(spec.kernel.compat.iterdir()).unlink()
    with pytest.raises(InfrastructureError) as caught:
        kbuild.build(store, spec, QUIET)
    assert hint in str(caught.value.hint)


def test_progress_counts_objects_against_the_last_build(store: Store, tmp_path: Path) -> None:
    seen: list[tuple[float | None, float | None]] = []

    class Counting(type(QUIET)):  # type: ignore[misc]
        def task(self, description: str, total: float | None = None, *, unit: str = "items") -> object:
            outer = super().task(description, total)

            class Task:
                def __enter__(self) -> Task:
                    outer.__enter__()
                    return self

                def __exit__(self, *details: object) -> None:
                    outer.__exit__(*details)

                def update(self, *, completed: float | None = None, detail: str | None = None) -> None:
                    seen.append((completed, total))

            return Task()

    first = kbuild.build(store, build_spec(store, tmp_path), QUIET)
    kbuild.build(store, build_spec(store, tmp_path, write_series(tmp_path / "series")), Counting())
    assert seen[0] == (1, first.steps)
    assert first.steps == 5


def test_interrupt_leaves_nothing_running(store: Store, tmp_path: Path) -> None:
    """Ctrl-C while a compiler runs: no process, no entry, no work in progress."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    makefile = (fakekernel.LINUX / "Makefile").read_text()
    slow = makefile.replace('@echo "  LD      $@"', f"@echo $$$$ > {fifo}; sleep 1000")
    folder = one_patch(tmp_path / "series", "Makefile", slow)
    spec = build_spec(store, tmp_path, folder)
    next(spec.kernel.compat.iterdir()).unlink()
    script = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        # A shell's background job, and so all that it starts, ignores it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.path[:0] = [sys.argv[3]]\n"
        "from fakekernel import QUIET, build_spec\n"
        "from harness import kbuild\n"
        "from harness.store import Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "work, series = Path(sys.argv[2]), Path(sys.argv[2]) / 'series'\n"
        "kbuild.build(store, build_spec(store, work, series), QUIET)\n"
    )
    argv = [sys.executable, "-c", script, str(store.root), str(tmp_path), str(Path(__file__).parent)]
    with (
        subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as harness,
        os.fdopen(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)) as reader,
    ):
        ready, _, _ = select.select([reader], [], [], 60)
        assert ready, "never got to the slow step"
        pid = int(reader.readline())
        harness.send_signal(signal.SIGINT)
        _, said = harness.communicate(timeout=60)
    assert "KeyboardInterrupt" in said
    assert gone(pid)
    assert rest(store) == []
    assert kbuild.find(store, build_spec(store, tmp_path, folder)) is None
