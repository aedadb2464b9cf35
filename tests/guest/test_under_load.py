"""Changes in quick succession while fio writes, reads back and compares with several users through an ioband device.

Where `test_integrity` has every bio in a known place, here they are everywhere; counts must still agree to the one.
"""

from __future__ import annotations

import pytest
from gate import BLOCK, LOWER, Scene, scene, slow_disk, total
from race import FOLDER, race

from harness import fio
from harness.cgroup import Hierarchy
from harness.dm import TableLine, sectors

DEPTH, FIOS = 16, 3
# Jiffies of a command: the disk is what all wait for, and bios are parked most of the time, on the slowest machine too.
SLOW = 30
# What a change may write beside that, in pages, and where: behind fio's parts of the disk.
PAGES, BEHIND = 8, 1792
USERS = {
    "io_limit": 8,
    "io_throttle": 4,
    "type": "user",
    "token_base": 0,
    "default": "100",
    "groups": {1000: "80", 2000: "20"},
}


def jobs(*, as_users: bool = True, large: str = "16k") -> list[fio.Job]:
    """Random writes and reads mixed, of 4 KiB and of another size."""
    made = []
    for number, (name, bs, uid) in enumerate((("a", "4k", 1000), ("b", "4k", 2000), ("c", large, None))):
        made.append(
            fio.Job(
                name=name,
                filename="/dev/mapper/front",
                rw="randwrite",
                bs=bs,
                size="512k",
                offset=f"{number * 2560}k",
                iodepth=DEPTH,
                direct=True,
                verify="crc32c",
                uid=uid if as_users else None,
                extra={"verify_fatal": "1", "verify_backlog": "64", "verify_state_save": "0"},
            )
        )
    return made


FIO = "run fio --output-format=json --output=fio.$i /tmp/load.fio"

# Waits until bios are parked. The counters of the device above are read first, so that what is found above the gate was
# there; three bios at most, one for each fio process, sleep in the driver or are just being submitted: more than that
# are parked.
LOOK = """
	above=0
	until [ $above -gt {fios} ]; do
		read -r r x x x w x <{stage.front_stat}
		read -r s x x x v x <{stage.gate.stat}
		above=$((r + w - s - v))
		[ $above -gt {fios} ] || usleep 1000
	done
	echo $above >>above
"""


def _done(data: bytes) -> tuple[int, int]:
    """I/Os and bytes of one fio process."""
    result = fio.Result.parse(data.decode())
    return sum(job.total_ios for job in result.jobs), sum(job.io_bytes for job in result.jobs)


def drive(
    stage: Scene,
    seen,
    body: str,
    rounds: int,
    load: str = FIO,
    *,
    users: bool = True,
    large: str = "16k",
    pages: int = 0,
) -> None:
    """Change so many times while fio runs, and account for every I/O. body: shell, as `race` runs it.

    pages: so many does each change write itself, a bio for each.
    """
    guest = stage.guest
    guest.put(fio.render(jobs(as_users=users, large=large)), "/tmp/load.fio")
    with slow_disk(guest, SLOW):
        sides = race(guest, ("changes", LOOK.format(stage=stage, fios=FIOS) + body, rounds), {"load": load})
    assert sides["changes"].bad == sides["load"].bad == 0, sides
    files = guest.get_tree(FOLDER)
    above = [int(line) for line in files["above"].split()]
    runs = {name: _done(data) for name, data in files.items() if name.startswith("fio.")}
    done, transferred = (sum(counts) for counts in zip(*runs.values(), strict=True))
    own = sides["changes"].rounds * pages
    done, transferred = done + own, transferred + own * BLOCK
    level = stage.level()
    seen(
        f"{len(above)} times with {min(above)} to {max(above)} bios parked, while fio ran {sides['load'].ok} times:"
        f" {done} I/Os, counts equal, data right"
    )
    assert (level.arrived, level.passed, level.pending) == (done, done, 0), f"{runs}, {stage.lower()}"
    assert stage.lower_sectors() * 512 == transferred


class Changes:
    """What runs on every machine. rounds: of the changes, at least."""

    rounds: int

    @pytest.mark.contract("int-10", "chk-09")
    @pytest.mark.parametrize("how", ["", "--noflush"])
    def test_suspend_and_resume(self, guest, seen, how):
        with scene(guest, **USERS) as stage:
            drive(stage, seen, f"run dmsetup suspend {how} band; run dmsetup resume band", self.rounds)
            assert total(stage.band.status().groups) == stage.level().passed

    @pytest.mark.contract("int-11", "chk-09")
    def test_tables(self, guest, seen):
        with scene(guest, **USERS) as stage:
            lines = [
                stage.table(**{**USERS, "io_limit": 12, "groups": {1000: "5"}}).render(),
                stage.table(type="gid", policy="default", share="t", io_limit=8).render(),
                stage.table(type="pid", policy="weight-iosize", io_limit=4).render(),
                stage.table(**USERS).render(),
            ]
            cases = " ".join(f"{i}) line='{line}' ;;" for i, line in enumerate(lines))
            # Every other time by way of a target that parks nothing.
            body = f"""
	case $((i % {len(lines)})) in {cases} esac
	if [ $((i / {len(lines)} % 2)) = 1 ]; then
		run dmsetup suspend --noflush band
		run dmsetup reload band --table "0 {stage.length} linear {stage.gate.path} 0"
		run dmsetup resume band
	fi
	run dmsetup suspend --noflush band
	run dmsetup reload band --table "$line"
	run dmsetup resume band
"""
            # Pages only: for the moment in which a device has no table, dm core makes larger I/Os come in pages, each
            # a bio of its own (dm_merge_bvec), and fio counts what it asked for.
            drive(stage, seen, body, self.rounds, large="4k")

    @pytest.mark.contract("int-12", "chk-09")
    def test_policies_weights_and_limits(self, guest, seen):
        body = """
	run dmsetup message band 0 policy range-bw
	run dmsetup message band 0 range-bw 1000:$((i * 100)):100000
	for policy in default weight-iosize weight; do
		run dmsetup message band 0 policy $policy
		run dmsetup message band 0 weight $((i * 17 % 999 + 1))
		run dmsetup message band 0 weight 1000:$((i * 29 % 999 + 1))
		run dmsetup message band 0 io_limit $((i % 12 + 4))
		run dmsetup message band 0 token $((i % 7 * 10))
	done
"""
        with scene(guest, **USERS) as stage:
            drive(stage, seen, body, self.rounds // 2)
            assert total(stage.band.status().groups) == stage.level().passed

    @pytest.mark.contract("int-13", "chk-09")
    def test_attach_and_detach(self, guest, seen):
        body = """
	run dmsetup message band 0 detach 1000
	run dmsetup message band 0 detach 2000
	run dmsetup message band 0 attach 2000
	run dmsetup message band 0 attach 1000
	run dmsetup message band 0 weight 2000:5
"""
        with scene(guest, **USERS) as stage:
            drive(stage, seen, body, self.rounds)

    @pytest.mark.contract("int-14", "chk-09")
    def test_cgroups_that_come_and_go(self, guest, seen):
        """The load is in a group that gets and loses its setting; another group is removed while its delayed writes are
        on their way, to a part of the disk of its own.
        """
        with (
            Hierarchy(guest, "blkio") as hierarchy,
            scene(guest, **{**USERS, "type": "cgroup", "groups": {}}) as stage,
        ):
            group, top = hierarchy.create("g"), hierarchy.path
            guest.run(f"for i in 0 1; do dd if=/dev/urandom of=/tmp/h.$i bs=4k count={PAGES}; done")
            behind = f"of=/dev/mapper/front bs=4k seek={BEHIND} conv=notrunc"
            # The device stays open, or to close it would write the pages at once.
            body = f"""
	exec 3<>/dev/mapper/front
	put "band $((i % 99 + 1))" {group.path}/blkio.settings
	put "band $((i % 77 + 1))" {top}/blkio.settings
	run mkdir {top}/h
	put "band 50" {top}/h/blkio.settings
	run sh -c 'echo 0 >{top}/h/tasks; exec dd if=/tmp/h.$0 {behind}' $((i % 2))
	sync & flush=$!
	put band {group.path}/blkio.settings
	run rmdir {top}/h
	wait $flush; good
	exec 3>&-
	echo $((i % 2)) >last
"""
            load = f"""
	for task in $(cat {group.path}/tasks); do echo $task >{top}/tasks; done
	echo 0 >{group.path}/tasks
	{FIO}
"""
            drive(stage, seen, body, self.rounds, load, users=False, pages=PAGES)
            guest.run(
                f"dd if={LOWER} bs=4k skip={BEHIND} count={PAGES} iflag=direct | cmp - /tmp/h.$(cat {FOLDER}/last)"
                " && rm /tmp/h.0 /tmp/h.1"
            )
            guest.run(
                ["sh", "-c", f"for task in $(cat {group.path}/tasks); do echo $task >{top}/tasks; done"]
            )

    @pytest.mark.contract("int-17", "chk-09")
    def test_removal_while_io_ends(self, guest, seen):
        """Removal is tried without a pause while the last user, which begins once it was refused, writes and closes."""
        length, count, go = sectors(guest, LOWER), 128, "/tmp/go"
        line = TableLine(
            length=length, device=LOWER, share="s", io_limit=4, io_throttle=1, type="pid", default="1"
        )
        guest.run(f"for i in 0 1; do dd if=/dev/urandom of=/tmp/data.$i bs=4k count={count}; done; mkfifo {go}")
        body = f"""
	run dmsetup create brief --table "{line.render()}"
	exec 3<>/dev/mapper/brief
	( read -r x <{go}; exec dd if=/tmp/data.$((i % 2)) bs=4k count={count} >&3 2>&- ) &
	exec 3>&-
	refused=0
	until dmsetup remove brief >/dev/null 2>&1; do
		[ $refused != 0 ] || echo >{go}
		refused=$((refused + 1))
	done
	wait $!; good
	echo $refused >>refused
	[ $refused = 1 ] || early=$((early + 1))
	dd if={LOWER} bs=64k count={count // 16} iflag=direct 2>&- >back; run cmp /tmp/data.$((i % 2)) back
"""
        least = self.rounds // 6
        sides = race(
            guest,
            ("removal", body, self.rounds // 2),
            {"status": "dmsetup status >&- 2>&-; true; good"},
            enough=f"[ $((early + 0)) -ge {least} ]",
        )
        guest.run(["rm", go])
        refused = [int(line) for line in guest.get(f"{FOLDER}/refused").split()]
        early = sum(times > 1 for times in refused)
        seen(
            f"{len(refused)} devices removed as soon as it was possible, {early} of them refused while written to;"
            " data right"
        )
        assert sides["removal"].bad == 0, sides["removal"].errors
        assert early >= least, refused


@pytest.mark.guest
@pytest.mark.flavours("perf")
class TestOneCpu(Changes):
    """On one CPU whoever sleeps hands over."""

    rounds = 12


@pytest.mark.guest
@pytest.mark.flavours("debug")
@pytest.mark.machine(cpus=2)
class TestTwoCpus(Changes):
    """On two there is true concurrency, and lockdep watches. Fewer changes: each takes seconds there."""

    rounds = 8
