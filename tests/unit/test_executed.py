"""executed.py: the counters of a guest are kept, or it is said why not; and what those of a run come to."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakekernel import QUIET, build_spec, write_series

from harness import executed, kbuild
from harness.errors import CommandError, GuestLost, InfrastructureError
from harness.kbuild import Build, BuildSpec
from harness.record import BuildRecord, MachineRecord, Recorder
from harness.store import Store

WHERE = "dev/shm/kernel-0/linux/drivers/md/md.gcda"


class FakeGuest:
    """A guest of which only its answer to the copying of counters matters."""

    def __init__(self, answer: dict[str, bytes] | Exception, death: object = None) -> None:
        self.machine = SimpleNamespace(console=SimpleNamespace(death=death))
        self._answer = answer

    def run(self, command: str) -> Any:
        assert "/sys/kernel/debug/gcov" in command
        if isinstance(self._answer, Exception):
            raise self._answer
        return SimpleNamespace(stdout="/tmp/copy\n")

    def get_tree(self, remote: str) -> dict[str, bytes]:
        assert remote == "/tmp/copy" and isinstance(self._answer, dict)
        return self._answer


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the kernel is built; its objects stay there."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, work: Path) -> tuple[Store, BuildSpec, Build]:
    folder = tmp_path_factory.mktemp("executed")
    store = Store(folder / "cache")
    spec = replace(build_spec(store, folder, write_series(folder / "series")), coverage=True)

    def make(kept: Path) -> None:
        job = kbuild.Job(store, spec, QUIET, None)
        job.begin()
        job.prepare(work)
        job.compile(work)
        job.keep(work, kept)

    store.build(kbuild.KIND, spec.key, make, what=spec.what)
    build = kbuild.find(store, spec)
    assert build is not None
    return store, spec, build


@pytest.fixture
def recorder(tmp_path: Path, made: tuple[Store, BuildSpec, Build]) -> Recorder:
    _, _, build = made
    recorder = Recorder.start(tmp_path / "run", [])
    machine = MachineRecord(
        id="guest-1-perf",
        role="",
        argv=[],
        accel="tcg",
        clock="real",
        started=datetime(2026, 1, 1, tzinfo=UTC),
        build=build.key,
    )
    kernel = BuildRecord(
        key=build.key, role="series", flavour="perf", compiler="cc", seconds=1.0, cached=False, coverage=True
    )
    recorder.update(builds=[kernel], machines=[machine])
    return recorder


def keep(recorder: Recorder, guest: FakeGuest, build: Build) -> MachineRecord:
    (entry,) = recorder.run.machines
    executed.keep(recorder, guest, build, entry, recorder.folder / entry.id)  # type: ignore[arg-type]
    return entry


def test_counters_are_kept_by_their_place_in_the_tree(recorder, made):
    entry = keep(recorder, FakeGuest({WHERE: b"counters", "else/where.gcda": b"?"}), made[2])
    assert entry.coverage == recorder.folder / "guest-1-perf" / "gcda"
    assert (entry.coverage / "drivers/md/md.gcda").read_bytes() == b"counters"
    assert sum(path.is_file() for path in entry.coverage.rglob("*")) == 1
    assert entry.uncounted == ""


@pytest.mark.parametrize(
    ("guest", "why"),
    [
        (FakeGuest({}, death=object()), "its kernel died"),
        (FakeGuest(GuestLost("the guest ended")), "could not be fetched: the guest ended"),
        (FakeGuest(CommandError(("find",), 1, "", "no gcov")), "could not be fetched: "),
    ],
)
def test_a_guest_without_counters_says_why(recorder, made, guest, why):
    entry = keep(recorder, guest, made[2])
    assert entry.coverage is None and why in entry.uncounted


def test_a_build_that_does_not_count_is_not_asked(recorder, made):
    build = made[2].model_copy(update={"coverage": False})
    entry = keep(recorder, FakeGuest(AssertionError("asked")), build)
    assert (entry.coverage, entry.uncounted) == (None, "")


def bed(made: tuple[Store, BuildSpec, Build]) -> Any:
    store, spec, _ = made
    parts = {"spec": spec.kernel, "tree": spec.tree, "series": spec.series, "compiler": spec.compiler}
    return SimpleNamespace(store=store, **parts)


def judge(recorder, made):
    return executed.judge(recorder.run, bed(made), QUIET)


def test_without_any_counters_every_line_with_code_is_missed(recorder, made):
    coverage = judge(recorder, made)
    assert [(p.number, p.name, p.with_code, p.executed) for p in coverage.patches] == [
        (1, "0001-md-return.patch", 1, 0),
        (2, "0002-dm-fake.patch", 1, 0),
        (3, "0003-dm-fake-more.patch", 1, 0),
    ]
    assert coverage.patches[2].files[0].passages[0].lines == ("\treturn MD_VERSION * 2;",)
    assert (coverage.machines, [m.machine for m in coverage.uncounted]) == (0, ["guest-1-perf"])
    assert coverage.not_compiled == {}


def test_what_a_machine_counted(recorder, made, work):
    """Here the object of the build is in a program that calls one of its functions."""
    _, spec, build = made
    linux = work / "linux"
    (linux / "call.c").write_text("int md_init(void);\nint main(void) { return md_init() == 0; }\n")
    subprocess.run(
        [spec.compiler.path, "-o", "call", "call.c", "drivers/md/md.o", "-lgcov"], cwd=linux, check=True
    )
    subprocess.run([linux / "call"], check=True)
    counters = (linux / "drivers/md/md.gcda").read_bytes()
    keep(recorder, FakeGuest({WHERE: counters}), build)
    coverage = judge(recorder, made)
    assert [p.executed for p in coverage.patches] == [1, 0, 0]
    assert (coverage.machines, coverage.uncounted) == (1, ())


def test_a_build_that_is_gone(recorder, made):
    recorder.run.builds[0].key = recorder.run.machines[0].build = "0" * 64
    with pytest.raises(InfrastructureError, match="vanished from the cache"):
        judge(recorder, made)
