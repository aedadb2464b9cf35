"""fio: job files from models, results and logs into models.

Options and output as of fio 3.33 (its HOWTO, and recorded output in tests/unit/data).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import MeasurementError

if TYPE_CHECKING:
    import jinja2
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]

Pattern = Literal["read", "write", "randread", "randwrite", "rw", "readwrite", "randrw"]
Engine = Literal["libaio", "sync", "psync", "mmap"]

_LINE = r"^[^\r\n]*$"
"""An option's value is one line: fio's format has no quoting."""

# Fields of `Job` that fio knows under another name, or that the model derives.
_NOT_OPTIONS = frozenset({"name", "log_seconds", "extra"})
_LOGS = ("write_bw_log", "write_iops_log", "write_lat_log")

Value = Annotated[str, Field(pattern=_LINE)]


class Job(BaseModel):
    """One job of a job file; options that are None or False are left to fio.

    bs, size, offset: in fio's syntax (``4k``, ``25%``). runtime, ramp_time: seconds; with a runtime the
    job is repeated until it is over. log_seconds: also write bandwidth, IOPS and latency logs, averaged over
    that time, to files named after the job. extra: further options, written as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    filename: Value | None = None
    directory: Value | None = None
    rw: Pattern = "randread"
    rwmixread: Annotated[int, Field(ge=0, le=100)] | None = None
    bs: Value = "4k"
    size: Value | None = None
    offset: Value | None = None
    ioengine: Engine = "libaio"
    iodepth: Annotated[int, Field(ge=1)] = 1
    direct: bool = False
    numjobs: Annotated[int, Field(ge=1)] = 1
    runtime: Annotated[int, Field(ge=1)] | None = None
    ramp_time: Annotated[float, Field(ge=0)] | None = None
    startdelay: Annotated[float, Field(ge=0)] | None = None
    randseed: Annotated[int, Field(ge=0)] | None = None
    rate_iops: Annotated[int, Field(ge=1)] | None = None
    thinktime: Annotated[int, Field(ge=0)] | None = None
    fsync: Annotated[int, Field(ge=0)] | None = None
    end_fsync: bool = False
    verify: Value | None = None
    uid: Annotated[int, Field(ge=0)] | None = None
    gid: Annotated[int, Field(ge=0)] | None = None
    log_seconds: Annotated[float, Field(gt=0)] | None = None
    extra: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")], Value] = {}

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        if (self.filename is None) == (self.directory is None):
            raise ValueError("a job has either a filename or a directory")
        return self

    def options(self) -> Iterator[tuple[str, str]]:
        """(option, value) as they stand in the job file, the jobs' files in their order."""
        for field in type(self).model_fields:
            value = getattr(self, field)
            if field in _NOT_OPTIONS or value is None or value is False:
                continue
            yield field, "1" if value is True else f"{value:g}" if isinstance(value, float) else str(value)
        if self.runtime is not None:
            yield "time_based", "1"
        if self.log_seconds is not None:
            yield "log_avg_msec", str(round(1000 * self.log_seconds))
            yield from ((log, self.name) for log in _LOGS)
        yield from self.extra.items()


@cache
def _template() -> jinja2.Template:
    import jinja2  # 40 ms that only a run with fio pays

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - a job file is not HTML; the model admits no line breaks
    )
    return environment.get_template("fio.ini.j2")


def render(jobs: Sequence[Job]) -> str:
    """A job file for ``fio --output-format=json``. All jobs of one file start together."""
    return _template().render(jobs=jobs)


class _Output(BaseModel):
    """Part of fio's JSON: what is not named here is not needed."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class Latency(_Output):
    """Nanoseconds. bins: how many I/Os took how long, in steps of 1.6 %; with ``json+`` and lat_percentiles only."""

    min: float
    max: float
    mean: float
    stddev: float
    samples: Annotated[int, Field(validation_alias="N")] = 0
    bins: dict[int, int] = {}


class Direction(_Output):
    """Reads or writes of one job. iops: I/Os per second. runtime: ms. lat_ns: submission to completion."""

    total_ios: int
    io_bytes: int
    iops: float
    runtime: int
    lat_ns: Latency


class JobResult(_Output):
    """One job's result, or several of one name added up (`Result.total`).

    error: errno of the first failed I/O, or 0. job_runtime: ms, of all processes together.
    iodepth_level: per cent of I/Os by how many were in flight; keys ``1 2 4 8 16 32 >=64``.
    """

    jobname: str
    groupid: int
    error: int
    job_runtime: int
    read: Direction
    write: Direction
    iodepth_level: dict[str, float]

    @property
    def total_ios(self) -> int:
        """Reads and writes."""
        return self.read.total_ios + self.write.total_ios

    @property
    def io_bytes(self) -> int:
        """Bytes read and written."""
        return self.read.io_bytes + self.write.io_bytes

    @property
    def iops(self) -> float:
        """Reads and writes per second."""
        return self.read.iops + self.write.iops

    @property
    def latency(self) -> Latency:
        """Of reads and writes together."""
        return _add([self.read, self.write]).lat_ns

    def percent_at_depth(self, depth: int) -> float:
        """Per cent of I/Os that found at least ``depth`` in flight, itself included.

        depth: a power of two; beyond 64 fio does not tell depths apart, so that 64 stands for all of them.
        """
        return sum(
            percent
            for level, percent in self.iodepth_level.items()
            if int(level.removeprefix(">=")) >= min(depth, 64)
        )


class Result(_Output):
    """The JSON output of one fio process."""

    version: Annotated[str, Field(validation_alias="fio version")]
    jobs: tuple[JobResult, ...]

    @classmethod
    def parse(cls, text: str) -> Result:
        """Read ``fio --output-format=json``.

        Raises MeasurementError: any other text, or a job with an I/O error.
        """
        try:
            result = cls.model_validate_json(text)
        except ValidationError as e:
            said = "; ".join(
                f"{'.'.join(map(str, x['loc'])) or 'output'}: {x['msg']}" for x in e.errors()[:3]
            )
            raise MeasurementError(
                f"fio's output is not understood ({said}); it begins: {text[:300]!r}"
            ) from e
        for job in result.jobs:
            if job.error:
                import os

                raise MeasurementError(f"fio job {job.jobname} had an I/O error: {os.strerror(job.error)}")
        return result

    @classmethod
    def merge(cls, results: Sequence[Result]) -> Result:
        """The jobs of several fio processes as if of one."""
        return cls(version=results[0].version, jobs=tuple(job for r in results for job in r.jobs))

    def total(self, name: str) -> JobResult:
        """All jobs called ``name`` (numjobs > 1: several) as one. Raises MeasurementError: there is none."""
        jobs = [job for job in self.jobs if job.jobname == name]
        if not jobs:
            raise MeasurementError(f"fio has no job {name!r}, only {[job.jobname for job in self.jobs]}")
        weights = [job.total_ios for job in jobs]
        levels = {
            level: _mean([job.iodepth_level[level] for job in jobs], weights)
            for level in jobs[0].iodepth_level
        }
        return JobResult(
            jobname=name,
            groupid=jobs[0].groupid,
            error=0,
            job_runtime=sum(job.job_runtime for job in jobs),
            read=_add([job.read for job in jobs]),
            write=_add([job.write for job in jobs]),
            iodepth_level=levels,
        )


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    whole = sum(weights)
    return sum(v * w for v, w in zip(values, weights, strict=True)) / whole if whole else 0.0


def _add(parts: Sequence[Direction]) -> Direction:
    """Counts added, extremes kept, the mean and the variance of latency pooled over all I/Os."""
    busy = [part for part in parts if part.total_ios]
    if len(busy) < 2:
        return busy[0] if busy else parts[0]
    weights = [part.total_ios for part in busy]
    mean = _mean([part.lat_ns.mean for part in busy], weights)
    square = _mean([part.lat_ns.stddev**2 + part.lat_ns.mean**2 for part in busy], weights)
    return Direction(
        total_ios=sum(weights),
        io_bytes=sum(part.io_bytes for part in busy),
        iops=sum(part.iops for part in busy),
        runtime=max(part.runtime for part in busy),
        lat_ns=Latency(
            min=min(part.lat_ns.min for part in busy),
            max=max(part.lat_ns.max for part in busy),
            mean=mean,
            stddev=max(square - mean**2, 0.0) ** 0.5,
            samples=sum(part.lat_ns.samples for part in busy),
            bins=_sum([part.lat_ns.bins for part in busy]),
        ),
    )


def _sum(bins: Sequence[dict[int, int]]) -> dict[int, int]:
    whole: Counter[int] = Counter()
    for some in bins:
        whole.update(some)
    return dict(sorted(whole.items()))


class Log:
    """A log of fio, an entry a line, as arrays of one length.

    time: ms since the job's start. ddir: 0 read, 1 write, 2 trim. bs: bytes.
    value: KiB/s in a bandwidth log, I/Os per second in an IOPS log, ns in a latency log.
    """

    def __init__(self, time: Ints, value: Ints, ddir: Ints, bs: Ints) -> None:
        self.time, self.value, self.ddir, self.bs = time, value, ddir, bs


def parse_log(text: str) -> Log:
    """Read a log (``write_bw_log`` ...). Raises MeasurementError for a line of another form."""
    import numpy as np  # 70 ms that only those who read logs pay

    rows = []
    for line in text.splitlines():
        fields = line.split(",")
        # time, value, direction, block size, offset, and from 3.28 on the I/O's priority
        if len(fields) not in (4, 5, 6) or not all(f.strip().isdecimal() for f in fields[:4]):
            raise MeasurementError(f"a line of fio's log is not understood: {line!r}")
        rows.append([int(f) for f in fields[:4]])
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return Log(table[:, 0], table[:, 1], table[:, 2], table[:, 3])
