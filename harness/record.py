"""run.json: the one truth that every report is made from.

The file is written whole, atomically, at every change, so a run that is interrupted or killed still has a
report. Its schema carries a version; ``load`` reads this version only. Paths inside the run's folder are
written relative to it, so a folder that is moved or archived stays readable.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, PlainSerializer, SerializationInfo, ValidationError

from harness import __version__
from harness.comparison import SERIES, Comparison
from harness.contract import ConformanceRecord
from harness.coverage import Coverage
from harness.errors import (
    EXIT_ENVIRONMENT,
    EXIT_FAILED,
    EXIT_GUEST_DIED,
    EXIT_INCONCLUSIVE,
    EXIT_INTERRUPTED,
    EXIT_PASSED,
    EXIT_USER,
    GuestError,
    HarnessError,
    UserError,
)
from harness.figure import Figure
from harness.mutant import MutantRecord
from harness.shares import Sample, ShareVerdict, Verdict
from harness.throughput import Conservation, Saturation
from harness.validation import Validation

SCHEMA_VERSION: Final = 1
RUN_JSON = "run.json"


def _relative(path: Path, info: SerializationInfo) -> str:
    """As text, relative to the run's folder (the serialisation context) if it lies below it."""
    folder = info.context.get("folder") if isinstance(info.context, dict) else None
    return str(path.relative_to(folder) if folder is not None and path.is_relative_to(folder) else path)


Place = Annotated[Path, PlainSerializer(_relative, return_type=str)]
"""A file of the run: absolute while it runs, relative to the run's folder in run.json if it lies below it."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, validate_assignment=True, allow_inf_nan=False)


class RunVerdict(StrEnum):
    """One word for a whole run; each goes with one exit code, see ``exit_code``."""

    PASS = "pass"  # noqa: S105 - a verdict, no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    DIED = "died"
    ERROR = "error"
    INTERRUPTED = "interrupted"


class FactRecord(_Strict):
    """What tests were told of this kernel. why: it is so, in words."""

    value: int | str | list[str]
    why: str


class KernelRecord(_Strict):
    """The base kernel. tree: sha256 of the tree's content. origin: where the tree came from, in words. why: it is this
    kernel that was tested; "" in records from before that was told. lacks: what other base kernels have, and why it has
    not. facts: in which they differ.
    """

    name: str
    version: str
    tree: str
    origin: str
    why: str = ""
    lacks: dict[str, str] = {}
    facts: dict[str, FactRecord] = {}


class PatchRecord(_Strict):
    name: str
    subject: str
    sha256: str


class SeriesRecord(_Strict):
    name: str
    title: str
    digest: str
    patches: list[PatchRecord] = []


class BuildRecord(_Strict):
    """coverage: it counts what is executed of the series."""

    key: str
    role: Literal["series", "compat"]
    flavour: str
    compiler: str
    seconds: float
    cached: bool
    warnings: int = 0
    config: Place | None = None
    log: Place | None = None
    coverage: bool = False


class ImageRecord(_Strict):
    """The initramfs. programs: version by name."""

    key: str
    programs: dict[str, str] = {}


class MachineRecord(_Strict):
    """One QEMU process. role: what it was booted for, e.g. "series", "control compat", "saturation".

    seconds_to_*: since QEMU was started, host time; in an exact run the measurement comes before ready.
    guest_seconds: guest time at the end. exit: QEMU's exit code. coverage: a folder with what its kernel counted;
    uncounted: why there is none, of a kernel that counts.
    """

    id: str
    role: str
    argv: list[str]
    accel: str
    clock: Literal["real", "virtual"]
    started: datetime
    build: str | None = None
    scenario: str | None = None
    seed: int | None = None
    seconds_to_init: float | None = None
    seconds_to_ready: float | None = None
    seconds_to_ssh: float | None = None
    wall_seconds: float | None = None
    guest_seconds: float | None = None
    console: Place | None = None
    exit: int | None = None
    coverage: Place | None = None
    uncounted: str = ""


class RememberedRecord(_Strict):
    """A run of the virtual clock that was not made again, since it comes out the same every time: as MachineRecord.
    when: it was made. results: the folder with what it left.
    """

    id: str
    role: str
    scenario: str
    seed: int
    when: datetime
    results: Place


class GroupRecord(_Strict):
    """One consumer. part: the bandwidth domain that it is in. target: its share of that, 0..1, by its weight, None
    where shares are not judged. published: in per cent.
    """

    name: str
    part: str = ""
    weight: float
    target: float | None = None
    published: float | None = None


class ControlRecord(_Strict):
    """A negative control. judged: against the scenario's targets. verdict: PASS when it missed them, as it
    must; a control that ``reaches`` must reach them.
    """

    name: str
    kind: str
    description: str
    samples: list[Sample] = []
    judged: ShareVerdict | None = None
    reaches: bool = False
    verdict: Verdict | None = None


class ScenarioRecord(_Strict):
    """One scenario. verdict: its own and its controls' together; None until it is decided.

    judged: the shares and figures alone. metric: what shares are shares of. expected_failure: why the targets are not
    reached, as documented; then the verdict is PASS when they are not. published: where published shares are from,
    and how that set-up differed. reasons: why the verdict is not PASS. command: the one line that repeats it.
    bandwidth: by group, [seconds since the common window began, I/Os (or sectors) per second over the step that ended
    then]. phases: name, and seconds since the common window began.
    """

    name: str
    title: str
    clock: Literal["real", "virtual"]
    rw: str
    metric: Literal["ios", "sectors"] = "ios"
    expected_failure: str | None = None
    published: str | None = None
    groups: list[GroupRecord]
    tolerance: float
    command: str
    samples: list[Sample] = []
    judged: ShareVerdict | None = None
    verdict: Verdict | None = None
    reasons: list[str] = []
    controls: list[ControlRecord] = []
    conservation: Conservation | None = None
    saturation: Saturation | None = None
    bandwidth: dict[str, list[tuple[float, float]]] = {}
    phases: list[tuple[str, float]] = []

    @property
    def total_rate(self) -> float | None:
        """Mean over the samples of all groups' I/Os (or sectors, by ``metric``) per second."""
        rates = [sum(s.ios.values()) / s.seconds for s in self.samples]
        return sum(rates) / len(rates) if rates else None


class TestRecord(_Strict):
    __test__ = False  # no pytest class

    nodeid: str
    outcome: Literal["passed", "failed", "error", "skipped", "xfailed", "xpassed"]
    seconds: float
    message: str = ""


class DeathRecord(_Strict):
    """A guest kernel that died. trace: decoded. raw: as the console had it. when: wall clock."""

    machine: str
    kind: str
    message: str
    trace: str
    raw: str
    when: datetime


class SkipRecord(_Strict):
    """What was not done, and why."""

    what: str
    reason: str


class ErrorRecord(_Strict):
    """The error that ended the run early."""

    kind: str
    message: str
    hint: str | None = None
    log: Place | None = None
    exit_code: int


class Run(_Strict):
    """One invocation. choice: why this kernel and this series. finished: None while it runs, or for ever if
    it was killed.
    """

    schema_version: Literal[1] = 1
    harness_version: str
    id: str
    argv: list[str]
    started: datetime
    finished: datetime | None = None
    exit_code: int | None = None
    verdict: RunVerdict | None = None
    choice: str = ""
    host: dict[str, str | int | float | None] = {}
    kernel: KernelRecord | None = None
    series: SeriesRecord | None = None
    builds: list[BuildRecord] = []
    image: ImageRecord | None = None
    machines: list[MachineRecord] = []
    remembered: list[RememberedRecord] = []
    scenarios: list[ScenarioRecord] = []
    tests: list[TestRecord] = []
    conformance: list[ConformanceRecord] = []
    mutants: list[MutantRecord] = []
    figures: list[Figure] = []
    validation: Validation | None = None
    coverage: Coverage | None = None
    comparisons: list[Comparison] = []
    deaths: list[DeathRecord] = []
    skipped: list[SkipRecord] = []
    error: ErrorRecord | None = None


def exit_code(run: Run) -> int:
    """The exit code that goes with what the run recorded; the first of these that holds.

    130  interrupted, or never finished (killed)
      5  a guest kernel died: whatever else went wrong may be because of it
    2/3  an error ended the run early; what was not reached is not known
      1  a scenario or a test failed, a mutant was not killed, a figure missed its goal, a patch is not as it should
         be, the series failed in a comparison or a contender's counters disagree, or the error above was one of a
         check (e.g. counters that disagree)
      4  a scenario is inconclusive or was not decided, or nothing at all was judged
      0  everything passed

    What controllers that are not under test come to is told, and decides nothing.
    """
    error = run.error.exit_code if run.error else None
    if run.finished is None or error == EXIT_INTERRUPTED:
        return EXIT_INTERRUPTED
    if run.deaths or error == EXIT_GUEST_DIED:
        return EXIT_GUEST_DIED
    if error in (EXIT_USER, EXIT_ENVIRONMENT):
        return error
    failed_test = any(t.outcome in ("failed", "error") for t in run.tests)
    failed_test |= any(not m.killed for m in run.mutants) or any(not f.met for f in run.figures)
    failed_test |= run.validation is not None and not run.validation.ok
    failed_test |= any(c.error for comparison in run.comparisons for c in comparison.contenders)
    verdicts = [s.verdict for s in run.scenarios]
    verdicts += [c.verdict for comparison in run.comparisons for c in comparison.ran if c.name == SERIES]
    if error is not None or failed_test or Verdict.FAIL in verdicts:
        return EXIT_FAILED
    if any(v is not Verdict.PASS for v in verdicts) or not _anything(run):
        return EXIT_INCONCLUSIVE
    return EXIT_PASSED


def closing_line(run: Run) -> str:
    """How many tests ended how, in pytest's words; scenarios are tests, and an undecided one has not passed."""
    good = Counter(s.verdict is Verdict.PASS for s in run.scenarios)
    tests = Counter(t.outcome for t in run.tests)
    counts = {
        "passed": tests["passed"] + tests["xfailed"] + good[True],
        "failed": tests["failed"] + tests["error"] + tests["xpassed"] + good[False],
        "skipped": tests["skipped"],
    }
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count or word != "skipped")


def _anything(run: Run) -> bool:
    return bool(run.scenarios or run.tests or run.mutants or run.figures or run.validation or run.comparisons)


def verdict(run: Run) -> RunVerdict:
    """The word that goes with ``exit_code(run)``."""
    return {
        EXIT_PASSED: RunVerdict.PASS,
        EXIT_FAILED: RunVerdict.FAIL,
        EXIT_INCONCLUSIVE: RunVerdict.INCONCLUSIVE,
        EXIT_GUEST_DIED: RunVerdict.DIED,
        EXIT_INTERRUPTED: RunVerdict.INTERRUPTED,
    }.get(exit_code(run), RunVerdict.ERROR)


class Recorder:
    """Keeps ``run`` and its file in step. Safe to use from several threads.

    Every change goes through ``change`` or the methods made of it; what they are given must not be altered
    afterwards except inside ``change``.
    """

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder = folder.absolute()
        self.run = run
        self._lock = threading.RLock()

    @classmethod
    def start(cls, folder: Path, argv: Sequence[str]) -> Recorder:
        """Begin a record in ``folder`` (made if need be; its name is the run's id) and write it at once."""
        folder.mkdir(parents=True, exist_ok=True)
        run = Run(
            harness_version=__version__, id=folder.absolute().name, argv=list(argv), started=datetime.now(UTC)
        )
        recorder = cls(folder, run)
        recorder._write()
        return recorder

    @contextmanager
    def change(self) -> Iterator[Run]:
        """``with recorder.change() as run:`` alter ``run`` at will; written when the block ends, also by an
        exception.
        """
        with self._lock:
            try:
                yield self.run
            finally:
                self._write()

    def update(self, **fields: Any) -> None:
        """Set fields of ``Run`` by name. Raises ValidationError on a name or a type that it does not have."""
        with self.change() as run:
            for name, value in fields.items():
                setattr(run, name, value)

    def died(self, machine: str, error: GuestError) -> None:
        """Record the death of the guest kernel of a machine, by its id."""
        death = DeathRecord(
            machine=machine,
            kind=error.kind,
            message=error.message,
            trace=error.trace,
            raw=error.raw,
            when=datetime.now(UTC),
        )
        with self.change() as run:
            run.deaths.append(death)

    def stopped(self, error: HarnessError | KeyboardInterrupt) -> None:
        """Record what ended the run early. A guest that died is recorded with ``died`` besides."""
        if isinstance(error, HarnessError):
            kind = error.kind if isinstance(error, GuestError) else type(error).__name__
            record = ErrorRecord(
                kind=kind, message=error.message, hint=error.hint, log=error.log, exit_code=error.exit_code
            )
        else:
            record = ErrorRecord(kind="Interrupted", message="interrupted", exit_code=EXIT_INTERRUPTED)
        self.update(error=record)

    def finish(self) -> int:
        """Set finish time, verdict and exit code from all that was recorded; returns the exit code."""
        with self.change() as run:
            run.finished = datetime.now(UTC)
            run.exit_code = exit_code(run)
            run.verdict = verdict(run)
            return run.exit_code

    def _write(self) -> None:
        """Temporary file, then rename: a reader, or a kill, sees the old file or the new one.

        No fsync: the record has to survive the death of this process, not of the host.
        """
        with self._lock:
            text = self.run.model_dump_json(indent=1, context={"folder": self.folder})
            temporary = self.folder / f".{RUN_JSON}.{os.getpid()}.tmp"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self.folder / RUN_JSON)


def load(path: Path) -> Run:
    """Read a run.json, or the one in a run's folder. Raises UserError if it is missing, no JSON, or of
    another schema version.
    """
    file = path / RUN_JSON if path.is_dir() else path
    hint = "name the folder of a run of this harness version; `harness test` makes one"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "it is not UTF-8 text"
        raise UserError(f"{file}: cannot be read: {why}", hint=hint) from e
    try:
        return Run.model_validate_json(text)
    except ValidationError as e:
        wrong = e.errors(include_url=False)
        if wrong[0]["type"] == "json_invalid":
            raise UserError(f"{file}: {wrong[0]['msg']}", hint=hint) from e
        version = next((w["input"] for w in wrong if w["loc"] == ("schema_version",)), None)
        if version is not None:
            raise UserError(
                f"{file}: schema version {version}, and this harness reads {SCHEMA_VERSION}",
                hint="use the harness version that wrote it",
            ) from e
        named = "; ".join(f"{'.'.join(map(str, w['loc'])) or 'file'}: {w['msg']}" for w in wrong[:5])
        raise UserError(f"{file}: {named}", hint=hint) from e


def newest(runs: Path) -> Path:
    """The folder of the run that was written to last. Raises UserError if there is none."""
    folders = (folder for folder in runs.glob("*") if not folder.is_symlink())
    records = sorted(
        (folder / RUN_JSON for folder in folders if (folder / RUN_JSON).is_file()),
        key=lambda file: file.stat().st_mtime,
    )
    if not records:
        raise UserError(f"no run in {runs}", hint="`harness test` makes one")
    return records[-1].parent
