"""Made-up runs for the tests of records and reports; nothing here was measured."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

from harness import coverage
from harness.comparison import NONE, SERIES, Comparison, Contender, Latency
from harness.contract import ConformanceRecord, RowOutcome, RowResult
from harness.diagnostics import Warning
from harness.record import (
    BuildRecord,
    ControlRecord,
    DeathRecord,
    ErrorRecord,
    FactRecord,
    GroupRecord,
    ImageRecord,
    KernelRecord,
    MachineRecord,
    PatchRecord,
    Recorder,
    Run,
    ScenarioRecord,
    SeriesRecord,
    SkipRecord,
    TestRecord,
)
from harness.shares import (
    Sample,
    control_verdict,
    judge,
    scenario_verdict,
    targets,
)
from harness.throughput import conservation, saturation
from harness.validation import ConfigurationResult, PatchResult, Remark, RemarkKind, Validation

START = datetime(2009, 9, 9, 9, 9, 9, tzinfo=UTC)
WOBBLE = (0.0, 0.004, -0.003, 0.002, -0.001, 0.005, -0.004, 0.001, -0.002)


def sample(
    seed: int, shares: dict[str, float], total: int = 8000, wobble: float = 1.0, **more: object
) -> Sample:
    """About these shares; the first group's is moved a little, by seed, at the last one's cost."""
    first, *_, last = shares
    moved = dict(shares)
    moved[first] += wobble * WOBBLE[seed % len(WOBBLE)]
    moved[last] -= wobble * WOBBLE[seed % len(WOBBLE)]
    ios = {g: round(total * s) for g, s in moved.items()}
    return Sample(seed=seed, ios=ios, seconds=8.0, backlogged=dict.fromkeys(shares, True), **more)  # type: ignore[arg-type]


def samples(shares: dict[str, float], n: int = 3, **more: object) -> list[Sample]:
    return [sample(seed, shares, **more) for seed in range(1, n + 1)]  # type: ignore[arg-type]


def scenario(
    name: str,
    weights: dict[str, float],
    measured: dict[str, float] | None = None,
    control: dict[str, float] | None = None,
    clock: str = "virtual",
    **more: object,
) -> ScenarioRecord:
    goal = targets(weights)
    equal = dict.fromkeys(weights, 1 / len(weights))
    got = samples(measured or goal, **more)
    judged = judge(got, goal)
    free = samples(control or equal, total=8040)
    controls = [
        ControlRecord(
            name="compat",
            kind="compat",
            description="the kernel without the series, each group on a dm-linear of its own",
            samples=free,
            judged=judge(free, goal),
        )
    ]
    for c in controls:
        assert c.judged is not None
        c.verdict = control_verdict(c.judged)
    verdict, reasons = scenario_verdict(judged, {c.name: c.judged for c in controls if c.judged})
    groups = [GroupRecord(name=g, weight=w, target=goal[g]) for g, w in weights.items()]
    return ScenarioRecord(
        name=name,
        title=f"{':'.join(f'{w:g}' for w in weights.values())} by cgroup, random reads and writes",
        clock=clock,  # type: ignore[arg-type]
        rw="randrw",
        groups=groups,
        tolerance=0.03,
        command=f"harness test tests/guest/test_scenarios.py -k {name}",
        samples=got,
        judged=judged,
        verdict=verdict,
        reasons=reasons,
        controls=controls,
        conservation=conservation([s.iops for s in got], [s.iops for s in free]),
        saturation=saturation([(1, 240.0), (4, 800.0), (16, 998.0), (32, 1001.0), (64, 1000.0)]),
        bandwidth={
            g: [(t / 2, 1000 * share + 25 * math.sin(t * (i + 1.3)) * (1 if i else -1)) for t in range(1, 17)]
            for i, (g, share) in enumerate((measured or goal).items())
        },
    )


def row(
    name: str,
    *outcomes: tuple[str, RowOutcome],
    untested: str | None = None,
    seen: tuple[str, ...] = ("EINVAL",),
) -> ConformanceRecord:
    """A row of the contract; outcomes: (flavour, outcome) of its tests."""
    return ConformanceRecord(
        id=name,
        section={"ctr": "Table line", "msg": "Messages"}[name.partition("-")[0]],
        says=f"What `{name}` promises & does.",
        untested=untested,
        results=[
            RowResult(
                nodeid=f"tests/guest/test_ctr.py::test_{name}[{flavour}-{i}]",
                flavour=flavour,
                outcome=outcome,
                seen=list(seen),
            )
            for i, (flavour, outcome) in enumerate(outcomes)
        ],
    )


def machine(
    number: int, folder: Path, role: str, scenario: str | None, build: str = "b1" * 32
) -> MachineRecord:
    return MachineRecord(
        id=f"m{number:02d}",
        role=role,
        build=build,
        scenario=scenario,
        seed=number,
        argv=[
            "qemu-system-x86_64",
            "-nodefaults",
            "-append",
            "console=ttyS0 panic=1",
            "-icount",
            "shift=3,sleep=off",
        ],
        accel="tcg",
        clock="virtual",
        started=START + timedelta(seconds=5 * number),
        seconds_to_init=0.91,
        seconds_to_ssh=1.12,
        wall_seconds=4.3,
        guest_seconds=13.995,
        console=folder / "machines" / f"m{number:02d}" / "console.log",
        exit=0,
    )


def recorder(folder: Path) -> Recorder:
    """A run that passed, not finished yet: three scenarios, two builds, machines with logs."""
    made = Recorder.start(folder, ["harness", "test"])
    scenarios = [
        scenario("cgroup-80-20", {"a": 80, "b": 20}, {"a": 0.801, "b": 0.199}),
        scenario("cgroup-40-20-10", {"a": 40, "b": 20, "c": 10}),
        scenario(
            "uid-80-20", {"u1001": 80, "u1002": 20}, {"u1001": 0.793, "u1002": 0.207}, clock="real", n=5
        ),
    ]
    machines = [machine(i, folder, "series", s.name) for i, s in enumerate(scenarios, 1)]
    machines.append(machine(4, folder, "control compat", "cgroup-80-20", build="c0" * 32))
    for m in machines:
        assert m.console is not None
        m.console.parent.mkdir(parents=True)
        m.console.write_text(
            "Linux version 2.6.31.3\n" + "".join(f"[{t / 10:9.6f}] line {t}\n" for t in range(100))
        )
    config = folder / "config"
    config.write_text("CONFIG_DM_IOBAND=y\n# CONFIG_MODULES is not set\nCONFIG_CGROUP_BLKIO=y\n")
    with made.change() as run:
        run.started = START
        run.choice = "kernel 2.6.31 by default; its own series by default"
        run.host = {
            "cpu": "an x86-64 CPU",
            "cores": 2,
            "qemu": "7.2.22",
            "distribution": "Debian 12",
            "python": "3.11.7",
        }
        run.kernel = KernelRecord(
            name="2.6.31",
            version="2.6.31.3",
            tree="7e" * 32,
            origin="a local git repository at v2.6.31.3",
            lacks={"cgroup2": "it came with 4.5"},
            facts={
                "words": FactRecord(value=["a", "b"], why="two words"),
                "limit": FactRecord(value=4096, why="a page"),
            },
        )
        run.series = SeriesRecord(
            name="ioband-2.6.31",
            title="dm-ioband and blkio-cgroup",
            digest="5e" * 32,
            patches=[
                PatchRecord(name=f"000{i}-part.patch", subject=f"dm-ioband: part {i}", sha256=f"{i:02x}" * 32)
                for i in range(1, 4)
            ],
        )
        run.builds = [
            BuildRecord(
                key="b1" * 32,
                role="series",
                flavour="perf",
                compiler="gcc-12 12.2.0",
                seconds=71.2,
                cached=False,
                warnings=212,
                config=config,
                log=folder / "build.log",
            ),
            BuildRecord(
                key="c0" * 32,
                role="compat",
                flavour="perf",
                compiler="gcc-12 12.2.0",
                seconds=69.8,
                cached=True,
                warnings=212,
            ),
        ]
        run.image = ImageRecord(
            key="1a" * 32, programs={"busybox": "1.35.0", "fio": "3.33", "dropbear": "2022.83"}
        )
        run.machines = machines
        run.scenarios = scenarios
        run.tests = [
            TestRecord(nodeid="tests/guest/test_boot.py::test_boots", outcome="passed", seconds=1.4),
            TestRecord(nodeid="tests/guest/test_dm.py::test_table[a]", outcome="passed", seconds=0.2),
            TestRecord(
                nodeid="tests/guest/test_dm.py::test_61",
                outcome="skipped",
                seconds=0.0,
                message="kernel 6.1: its source is not at hand",
            ),
        ]
        run.conformance = [
            row("ctr-01", ("perf", "passed"), ("debug", "passed")),
            row("ctr-02", ("perf", "passed"), ("perf", "passed"), ("debug", "skipped")),
            row("msg-reset-01", untested="nothing outside the kernel shows it"),
        ]
        run.skipped = [SkipRecord(what="kernel 6.1", reason="its source is not at hand")]
    return made


def finished(made: Recorder, seconds: float = 95.0) -> Run:
    """Finish, with a fixed time."""
    made.finish()
    with made.change() as run:
        run.finished = START + timedelta(seconds=seconds)
    return made.run


def passing(folder: Path) -> Run:
    return finished(recorder(folder))


def failing(folder: Path) -> Run:
    """Weights ignored in one scenario; another undecided; one control that reaches the target."""
    made = recorder(folder)
    with made.change() as run:
        run.scenarios = [
            scenario("cgroup-80-20", {"a": 80, "b": 20}, {"a": 0.501, "b": 0.499}),
            scenario(
                "cgroup-40-20-10",
                {"a": 40, "b": 20, "c": 10},
                {"a": 0.593, "b": 0.27, "c": 0.137},
                wobble=3,
                n=9,
            ),
            scenario("uid-50-50", {"u1001": 50, "u1002": 50}),
        ]
        run.conformance += [
            row("msg-weight-01", ("perf", "passed"), ("perf", "failed"), ("debug", "error")),
            row("msg-weight-02", ("perf", "inconclusive"), seen=tuple(f"fact <{i}>" for i in range(9))),
            row("msg-weight-03"),
        ]
        run.tests.append(
            TestRecord(
                nodeid="tests/guest/test_dm.py::test_status",
                outcome="failed",
                seconds=0.3,
                message="assert 5 == 6\nwhere 5 = len(words)",
            )
        )
    return finished(made)


def dying(folder: Path) -> Run:
    """The kernel panics in the second scenario, with hostile text on its console."""
    made = recorder(folder)
    raw = "BUG: unable to handle kernel NULL pointer dereference\n\x1b[31m<script>alert(1)</script>\x00\u202e"
    with made.change() as run:
        run.scenarios[1].verdict = run.scenarios[1].judged = None
        run.scenarios[2].verdict = run.scenarios[2].judged = None
        run.machines[1].exit = 0
        console = run.machines[1].console
        assert console is not None
        console.write_text("Linux version\n" * 700 + raw + "\n", encoding="utf-8")
        run.deaths.append(
            DeathRecord(
                machine="m02",
                kind="panic",
                message="Kernel panic - not syncing: Fatal exception in interrupt",
                trace="ioband_map+0x41/0x2f0  ioband_map drivers/md/dm-ioband-ctl.c:812\n"
                "__map_bio+0x33/0xc0  __map_bio drivers/md/dm.c:641",
                raw=raw,
                when=START + timedelta(seconds=12),
            )
        )
        run.error = ErrorRecord(
            kind="panic", message="Kernel panic - not syncing: Fatal exception in interrupt", exit_code=5
        )
    return finished(made)


def contender(name: str, measured: dict[str, float], goal: dict[str, float], **more: object) -> Contender:
    """One that came out so, and had latencies and a cost."""
    got = samples(measured)
    judged = judge(got, goal)
    known: dict[str, object] = {
        "title": {NONE: "no controller", SERIES: "the series"}.get(name, f"<{name}>"),
        "promises": "nothing" if name == NONE else "weights",
        "samples": got,
        "judged": judged,
        "verdict": judged.verdict,
        "reasons": list(judged.reasons),
        "conservation": conservation([s.iops for s in got], [s.iops + 1 for s in got]),
        "latencies": {g: Latency(mean=20.5, p50=16.25, p99=40.0) for g in goal},
        "instructions": 41234.5,
    }
    return Contender.model_validate({"name": name, **known, **more})


def comparison(**of_series: object) -> Comparison:
    """80:20: none and an unfair controller miss it, another reaches it as the series does, a third does not suit."""
    goal = targets({"a": 80, "b": 20})
    half = {"a": 0.5, "b": 0.5}
    return Comparison(
        scenario="cgroup-80-20",
        title="80:20 by cgroup",
        groups={"a": "weight 80", "b": "weight 20"},
        lightest="b",
        tolerance=0.03,
        contenders=[
            contender(NONE, half, goal),
            contender(SERIES, goal, goal, **of_series),
            contender("fair", goal, goal, documented="promises & keeps"),
            contender("unfair", half, goal),
            Contender(name="caps", title="<caps>", promises="maxima", unsuited="it has maxima"),
        ],
    )


def compared(folder: Path, **of_series: object) -> Run:
    """A run of ``harness compare``."""
    made = recorder(folder)
    with made.change() as run:
        run.scenarios, run.tests, run.conformance, run.machines, run.skipped = [], [], [], [], []
        run.comparisons = [comparison(**of_series)]
    return finished(made)


def validation(*, good: bool) -> Validation:
    """Of two patches and a configuration."""
    warning = Warning(file="a.c", line=7, flag="-Wunused", text="<x> is not used", normalised="a.c: x")
    accepted = Remark(kind=RemarkKind.ERROR, line=3, text="Macros", accepted="it becomes a string")
    every = {"key": "k", "new_warnings": (), "seconds": 2.0, "error": None}
    patches = [
        PatchResult(name="0001-a.patch", number=1, subject="md: a", ok=True, remarks=(accepted,), **every),  # type: ignore[arg-type]
        PatchResult(name="0002-b.patch", number=2, subject="md: b", ok=True, remarks=(), **every),  # type: ignore[arg-type]
    ]
    other = ConfigurationResult(name="module", symbols={"CONFIG_DM_IOBAND": "m"}, ok=True, **every)  # type: ignore[arg-type]
    if not good:
        patches[1] = patches[1].model_copy(update={"ok": False, "new_warnings": (warning,)})
        other = other.model_copy(update={"ok": False, "error": "it does not compile:\n  a.c: error"})
    return Validation(base_warnings=1, patches=tuple(patches), configurations=(other,))


def validated(folder: Path, *, good: bool = True) -> Run:
    """A run of ``harness validate``."""
    made = recorder(folder)
    with made.change() as run:
        run.scenarios, run.tests, run.conformance, run.machines, run.skipped = [], [], [], [], []
        run.validation = validation(good=good)
    return finished(made)


def covered(ran: int = 19) -> coverage.Coverage:
    """Of two patches with 20 lines of code, of which so many were executed, and a file that was not compiled."""
    texts = {number: f"\tif (a < {number}) // line {number}" for number in range(1, 21)}
    added = {
        "drivers/md/a.c": [coverage.AddedLine(n, int(n > 10), text) for n, text in texts.items()],
        "mm/b.c": [coverage.AddedLine(1, 1, "int b;")],
    }
    counts = {"drivers/md/a.c": {number: int(number <= ran) for number in texts}}
    lost = [coverage.Uncounted(machine="guest-2-debug", reason="its kernel died")]
    return coverage.judge(
        [("0001-a.patch", "md: add a"), ("0002-b.patch", "md: add b")],
        added,
        counts,
        builds=["k"],
        machines=2,
        uncounted=lost,
    )
