"""fio's job files and its recorded output (fio 3.33 in the guest: two jobs of one name, depth 16)."""

from __future__ import annotations

import json
from configparser import ConfigParser
from pathlib import Path

import pytest
from pydantic import ValidationError

from harness import fio
from harness.errors import MeasurementError
from harness.fio import Job

DATA = Path(__file__).parent / "data" / "fio"


def read(text: str) -> dict[str, dict[str, str]]:
    parser = ConfigParser(interpolation=None, strict=True)
    parser.read_string(text)
    return {name: dict(parser[name]) for name in parser.sections()}


def test_render():
    jobs = [
        Job(
            name="a", filename="/dev/mapper/disk", rw="randrw", iodepth=32, direct=True, runtime=9, randseed=7
        ),
        Job(name="b", filename="/dev/vda", ramp_time=0.5, log_seconds=0.25, extra={"rwmixcycle": "10"}),
    ]
    text = fio.render(jobs)
    assert text.startswith("[a]\n")
    assert text.endswith("\n")
    assert read(text) == {
        "a": {
            "filename": "/dev/mapper/disk",
            "rw": "randrw",
            "bs": "4k",
            "ioengine": "libaio",
            "iodepth": "32",
            "direct": "1",
            "numjobs": "1",
            "runtime": "9",
            "time_based": "1",
            "randseed": "7",
        },
        "b": {
            "filename": "/dev/vda",
            "rw": "randread",
            "bs": "4k",
            "ioengine": "libaio",
            "iodepth": "1",
            "numjobs": "1",
            "ramp_time": "0.5",
            "log_avg_msec": "250",
            "write_bw_log": "b",
            "write_iops_log": "b",
            "write_lat_log": "b",
            "rwmixcycle": "10",
        },
    }


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"filename": "/a", "directory": "/b"},
        {"filename": "/a\nexec_prerun=reboot"},
        {"filename": "/a", "extra": {"exec_prerun": "a\nb"}},
        {"filename": "/a", "extra": {"a b": "c"}},
        {"filename": "/a", "rw": "backwards"},
        {"filename": "/a", "iodepth": 0},
        {"filename": "/a", "unknown": 1},
    ],
)
def test_jobs_that_cannot_be(fields):
    with pytest.raises(ValidationError):
        Job(name="a", **fields)


@pytest.fixture
def recorded() -> str:
    return (DATA / "randrw-two-jobs.json").read_text()


def test_result(recorded):
    result = fio.Result.parse(recorded)
    assert result.version == "fio-3.33"
    raw = json.loads(recorded)["jobs"]
    assert len(result.jobs) == len(raw) == 2
    total = result.total("a")
    assert total.read.total_ios == sum(job["read"]["total_ios"] for job in raw) == 1036
    assert total.write.total_ios == 1083
    assert total.total_ios == 2119
    assert total.io_bytes == 2119 * 4096
    assert total.iops == pytest.approx(sum(job["read"]["iops"] + job["write"]["iops"] for job in raw))
    assert total.error == 0
    assert total.read.lat_ns.min == min(job["read"]["lat_ns"]["min"] for job in raw)
    assert total.read.lat_ns.max == max(job["read"]["lat_ns"]["max"] for job in raw)
    assert 98 < total.percent_at_depth(16) < 99
    assert total.percent_at_depth(1) == pytest.approx(100, abs=0.1)
    assert total.percent_at_depth(32) == 0


def test_pooled_latency(recorded):
    """Mean and deviation of the union, from those of the parts: checked by hand for 1, 3 and 5, 5, 8."""
    output = json.loads(recorded)
    stats = [{"N": 2, "mean": 2.0, "stddev": 1.0}, {"N": 3, "mean": 6.0, "stddev": 2.0**0.5}]
    for job, lat in zip(output["jobs"], stats, strict=True):
        job["read"]["total_ios"] = lat["N"]
        job["read"]["lat_ns"] |= lat
    total = fio.Result.parse(json.dumps(output)).total("a").read.lat_ns
    assert total.samples == 5
    assert total.mean == pytest.approx((1 + 3 + 5 + 5 + 8) / 5)
    assert total.stddev**2 == pytest.approx(sum(x * x for x in (1, 3, 5, 5, 8)) / 5 - 4.4**2)


def test_job_that_did_nothing_does_not_count(recorded):
    output = json.loads(recorded)
    idle = output["jobs"][1]["write"]
    idle |= {"total_ios": 0, "io_bytes": 0, "iops": 0.0}
    idle["lat_ns"] |= {"min": 0, "max": 0, "mean": 0.0, "stddev": 0.0, "N": 0}
    total = fio.Result.parse(json.dumps(output)).total("a")
    assert total.write.lat_ns.min == output["jobs"][0]["write"]["lat_ns"]["min"]
    assert total.write.total_ios == output["jobs"][0]["write"]["total_ios"]


def test_deepest_level_stands_for_all_beyond(recorded):
    output = json.loads(recorded)
    for job in output["jobs"]:
        job["iodepth_level"] |= {">=64": 99.0}
    assert fio.Result.parse(json.dumps(output)).total("a").percent_at_depth(256) == 99.0


def test_unknown_job(recorded):
    with pytest.raises(MeasurementError, match=r"no job 'b', only \['a', 'a'\]"):
        fio.Result.parse(recorded).total("b")


def test_io_error_in_a_job(recorded):
    output = json.loads(recorded)
    output["jobs"][1]["error"] = 5
    with pytest.raises(MeasurementError, match="job a had an I/O error: Input/output error"):
        fio.Result.parse(json.dumps(output))


@pytest.mark.parametrize(
    "text", ["", "fio: file not found", "{}", '{"fio version": "fio-3.33", "jobs": [{"jobname": "a"}]}']
)
def test_output_that_is_not_understood(text):
    with pytest.raises(MeasurementError, match="fio's output is not understood"):
        fio.Result.parse(text)


def test_log():
    log = fio.parse_log((DATA / "bw.log").read_text())
    assert log.time.tolist()[:4] == [501, 501, 1001, 1001]
    assert log.value.tolist()[:4] == [1096, 1104, 984, 1016]
    assert log.ddir.tolist() == [0, 1] * 4
    assert set(log.bs.tolist()) == {0}
    assert fio.parse_log("").time.shape == (0,)


@pytest.mark.parametrize("text", ["1, 2, 3\n", "a, 1, 0, 0, 0\n", "501, -1, 0, 0, 0\n"])
def test_log_that_is_not_understood(text):
    with pytest.raises(MeasurementError):
        fio.parse_log(text)
