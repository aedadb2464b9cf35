"""Controllers that others wrote, judged by the harness: verdicts that are known beforehand, each with its reason.

It is the harness that is tested here, by code that nobody wrote for it. No kernel here has the series. That io.stat and
fio count the same is part of each: else there would be no verdict, but an error.
"""

from __future__ import annotations

import pytest

from harness import project, scenario
from harness.campaign import Campaign
from harness.record import Recorder
from harness.shares import Verdict

pytestmark = [pytest.mark.guest, pytest.mark.exact, pytest.mark.needs("controllers")]


@pytest.fixture(scope="module")
def campaign_of_others(testbed, harness_session, tmp_path_factory):
    recorder = Recorder.start(tmp_path_factory.mktemp("compare"), [])
    with Campaign(testbed, recorder, lambda s: s.name, again=harness_session.again, closely=True) as made:
        yield made


@pytest.fixture
def contest(campaign_of_others, testbed):
    """``contest(scenario, controller, ...)``: what comes out under it, with changes; of None, without any."""

    def judged(which, controller, **changes):
        chosen = scenario.load(project.scenarios_dir() / f"{which}.toml")
        if controller is None:
            return campaign_of_others.contest(chosen, next(c for c in chosen.control if c.kind == "compat"))
        return campaign_of_others.contest(chosen, testbed.spec.controllers[controller].model_copy(update=changes))

    return judged


def share(contest, group):
    return next(s.mean for s in contest.judged.shares if s.group == group)


KNOWN = [
    ("cgroup-80-20", None, Verdict.FAIL, "two loads alike, and nothing that tells them apart"),
    ("cgroup-80-20", "bfq", Verdict.PASS, "it holds all I/Os of both groups, and they are of one size"),
    ("cgroup-80-20", "io-cost", Verdict.PASS, "each I/O costs the same by its model"),
    ("buffered-80-20", "io-cost", Verdict.PASS, "with io comes memory, which knows who made a page dirty"),
    ("range-max", None, Verdict.FAIL, "nobody is held back"),
    ("range-max", "io-max", Verdict.PASS, "so many bytes a second, and who has no maximum is not touched"),
    ("low-depth-against-deep", "bfq-no-idling", Verdict.FAIL, "it does not wait, as is documented"),
    ("groups-8", "io-latency", Verdict.PASS, "the others may have fewer I/Os under way until the one is in time"),
]


@pytest.mark.parametrize(
    ("name", "controller", "verdict", "why"), KNOWN, ids=[f"{name}-{c or 'none'}" for name, c, _, _ in KNOWN]
)
def test_verdict(contest, name, controller, verdict, why):
    found = contest(name, controller)
    assert found.judged.verdict is verdict, (why, found.judged.reasons)


def test_without_a_controller_halves(contest):
    assert share(contest("cgroup-80-20", None), "a") == pytest.approx(0.5, abs=0.02)


def test_only_who_is_waited_for_can_get_more_than_half(contest):
    """One at a time: after each I/O of a, which then has none, comes one of b, unless the disk is kept idle for a."""
    assert share(contest("low-depth-against-deep", "bfq-no-idling"), "a") < 0.5
    assert share(contest("low-depth-against-deep", "bfq"), "a") > 0.7


@pytest.mark.parametrize(("controller", "file"), [("bfq", "io.bfq.weight"), ("io-cost", "io.weight")])
def test_equal_weights_are_no_80_to_20(contest, controller, file):
    found = contest("cgroup-80-20", controller, name=f"{controller}-equal", group={file: "100"})
    assert found.judged.verdict is Verdict.FAIL
    assert share(found, "a") == pytest.approx(0.5, abs=0.03)


def test_one_at_a_time_is_what_strict_guarantees_cost(contest):
    """An I/O takes 8 ms, give or take 3 % (`test_exact`), and 16 could be under way."""
    found = contest("cgroup-80-20", "bfq-strict")
    assert max(sample.iops for sample in found.samples) <= 1.03 * 125


def test_by_itself_no_latency_is_kept(contest):
    """What io.latency keeps to in `test_verdict`: half of eight groups' I/Os wait, so that each takes 4 ms longer."""
    figures = [s.figures["time of an I/O of a in the kernel"] for s in contest("groups-8", None).samples]
    assert all(time > 11 for time in figures)
