"""Everything that changes an ioband device against everything else, in loops, with one CPU and with two.

The loops are bounded by the rounds of the one that leads; every loop says what it did, and lockdep must have watched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from race import Side, race

from harness.dm import Ioband, Linear, TableLine, sectors

ENODEV, EINVAL, EBUSY = "No such device", "Invalid argument", "Device or resource busy"
LOWER = "/dev/sda"


@pytest.fixture(autouse=True)
def lockdep(guest, flavour):
    """Lockdep switches itself off at its first report, and would then see nothing any more."""
    yield
    if flavour == "debug":
        stats = guest.run(["cat", "/proc/lockdep_stats"]).stdout.split()
        assert stats[stats.index("debug_locks:") + 1] == "1", "lockdep has been switched off"


@contextlib.contextmanager
def halves(guest, *names: str, type: str = "cgroup", policy: str = "weight") -> Iterator[list[Ioband]]:
    """Parts of the disk of one size, each an ioband device in a share of its own name less its last letter."""
    part = sectors(guest, LOWER) // 4
    with contextlib.ExitStack() as stack:
        made = []
        for number, name in enumerate(names):
            lower = Linear(guest, f"part-{name}").create([(LOWER, number * part, part)])
            stack.enter_context(lower)
            line = TableLine(length=part, device=lower.path, share=name[:-1], type=type, policy=policy)
            made.append(stack.enter_context(Ioband(guest, name).create(line)))
        yield made


@pytest.fixture
def part(guest) -> Iterator[str]:
    """The last quarter of the disk as a device, and its table line up to the share."""
    size = sectors(guest, LOWER) // 4
    with Linear(guest, "spare").create([(LOWER, 3 * size, size)]) as lower:
        yield f"0 {size} ioband {lower.path}"


def told(sides: dict[str, Side]) -> str:
    return "; ".join(f"{name}: {s.rounds} rounds, {s.ok} done, {s.bad} refused" for name, s in sides.items())


def only(side: Side, *answers: str) -> None:
    """No refusal but these."""
    assert set(side.errors) <= set(answers), side.errors


class Loops:
    """What runs on every machine. rounds: of the leading loop, in per cent."""

    rounds = 100

    @pytest.mark.contract("stress-01", "chk-22", "chk-20")
    def test_cgroup_files_against_devices_that_come_and_go(self, guest, seen, blkio, part):
        group, top = blkio.create("g"), blkio.path
        life = f"""
	run dmsetup create band --table "{part} s 0 0 cgroup weight"
	run dmsetup reload band --table "{part} s 0 0 cgroup weight 0 :5 7:5"
	[ $((i % 2)) = 0 ] && run dmsetup clear band
	run dmsetup suspend band
	run dmsetup resume band
	run dmsetup remove band
"""
        sides = race(
            guest,
            ("life", life, self.rounds * 40 // 100),
            {
                "read": f"get {group.path}/blkio.settings; get {top}/blkio.settings; get {top}/blkio.devices",
                "set": f'put "band $((i % 99 + 1))" {group.path}/blkio.settings; put band {group.path}/blkio.settings',
                "message": f'put "s weight $((i % 99 + 1))" {top}/blkio.devices; put "band reset" {top}/blkio.devices',
            },
            both=["set", "message"],
        )  # fmt: skip
        seen(told(sides))
        assert sides["life"].bad == 0, sides["life"].errors
        assert sides["read"].bad == 0, sides["read"].errors
        assert sides["set"].ok > 0 < sides["set"].bad, "devices were there, and were not"
        assert sides["message"].ok > 0 < sides["message"].bad
        only(sides["set"], ENODEV, EINVAL)
        only(sides["message"], ENODEV)

    @pytest.mark.contract("stress-02")
    def test_a_device_is_always_found_whatever_comes_and_goes_beside_it(self, guest, seen, blkio, part):
        with halves(guest, "early1", "late1"):
            group = blkio.create("g")
            group.set("late1", 10)
            life = f"""
	run dmsetup create band --table "{part} early 0 0 cgroup weight"
	run dmsetup remove band
"""
            settings = f"{group.path}/blkio.settings"
            sides = race(
                guest,
                ("life", life, self.rounds * 160 // 100),
                {
                    "set": f'put "late1 $((i % 99 + 1))" {settings}',
                    "read": f'read -r line <{settings}; case $line in "late1 weight="*) true ;; *) false ;; esac; good',
                    "message": f'put "late1 reset" {blkio.path}/blkio.devices',
                },
            )
            seen(told(sides))
            assert all(side.bad == 0 for side in sides.values()), sides

    @pytest.mark.contract("stress-03", "chk-22")
    def test_rmdir_against_detach(self, guest, seen, blkio):
        with halves(guest, "s1", "s2"):
            life = f"""
	run mkdir {blkio.path}/g
	read -r id <{blkio.path}/g/blkio.id
	echo $id >id
	put "s1 40" {blkio.path}/g/blkio.settings
	put "s2 40" {blkio.path}/g/blkio.settings
	run rmdir {blkio.path}/g
"""
            detach = f"""
	read -r id <id && {{
		put "s1 detach $id" {blkio.path}/blkio.devices
		put "s2 detach $id" {blkio.path}/blkio.devices
	}}
"""
            sides = race(
                guest,
                ("life", life, self.rounds * 150 // 100),
                {"detach": detach, "message": "read -r id <id && run dmsetup message s2 0 detach $id"},
                both=["detach"],
            )
            seen(told(sides))
            assert sides["life"].bad == 0, sides["life"].errors
            assert sides["detach"].ok > 0 < sides["detach"].bad, "some came in time, and some too late"
            only(sides["detach"], EINVAL)
            for name in ("s1", "s2"):
                device = Ioband(guest, name)
                assert set(device.status().groups) == {-1}, "nothing is left of the groups"

    @pytest.mark.contract("stress-04", "chk-22")
    def test_settings_against_policies(self, guest, seen, blkio):
        with halves(guest, "s1", "s2") as devices:
            groups = [blkio.create(name) for name in ("a", "b")]
            policies = f"""
	for policy in default weight-iosize weight; do
		put "s1 policy $policy" {blkio.path}/blkio.devices
		run dmsetup message s2 0 io_limit $((i % 60 + 4))
		put "s2 token $((i * 7))" {blkio.path}/blkio.devices
	done
"""
            sets = "; ".join(
                f'put "{device} $((i % 999 + 1))" {group.path}/blkio.settings; get {group.path}/blkio.settings'
                for group in groups
                for device in ("s1", "s2")
            )
            load = """
	dd if=/dev/zero of=/dev/mapper/s1 bs=4k count=64 oflag=direct conv=notrunc >/dev/null 2>>errors.load; good
	dd if=/dev/mapper/s2 of=/dev/null bs=16k count=16 iflag=direct >/dev/null 2>>errors.load; good
"""
            sides = race(
                guest,
                ("policies", policies, self.rounds * 60 // 100),
                {"sets": sets, "status": "run dmsetup status; run dmsetup table", "load": load},
            )
            seen(told(sides))
            assert all(side.bad == 0 for side in sides.values()), sides
            for device in devices:
                assert set(device.status().groups) == {-1, *(group.id for group in groups)}

    @pytest.mark.contract("stress-05", "chk-22")
    def test_constructors_of_one_share(self, guest, seen, blkio, part):
        size = sectors(guest, LOWER) // 4

        def life(name: str, number: int, policy: str) -> str:
            return f"""
	run dmsetup create {name} --table "0 {size} linear {LOWER} {number * size}"
	run dmsetup create over-{name} --table "0 {size} ioband /dev/mapper/{name} s 0 0 user {policy} 0 :5 7:50"
	run dd if=/dev/mapper/over-{name} of=/dev/null bs=4k count=8 iflag=direct
	run dmsetup remove over-{name}
	run dmsetup remove {name}
"""

        sides = race(
            guest,
            ("one", life("one", 0, "weight"), self.rounds * 40 // 100),
            {
                "two": life("two", 1, "default"),
                "three": f"""
	dmsetup create three --table "{part} s 0 0 user weight 0 :5 7:0" 2>>errors.three >/dev/null
	[ $? != 0 ]; good
""",
                "read": f"get {blkio.path}/blkio.devices",
            },
        )  # fmt: skip
        seen(told(sides))
        assert all(side.bad == 0 for side in sides.values()), sides
        guest.run(["dmsetup", "remove", "three"], check=False)

    @pytest.mark.contract("stress-08", "chk-22")
    def test_a_device_lets_go_of_the_one_below(self, guest, seen, blkio, part):
        """Beside a device of many targets, so that the files are being read most of the time; and with one process for
        both removals, so that there is no time between them.
        """
        group, top, size = blkio.create("g"), blkio.path, sectors(guest, LOWER) // 4
        spare = part.split()[-1]
        wide = "\n".join(f"{8 * n} 8 ioband {spare} wide 0 0 cgroup weight 0 :10" for n in range(200))
        life = f"""
	run dmsetup create low --table "0 {size} linear {LOWER} 0"
	run dmsetup create over --table "0 {size} ioband /dev/mapper/low s 0 0 cgroup weight"
	run dmsetup remove over low
"""
        with Ioband(guest, "wide").create(wide):
            sides = race(
                guest,
                ("life", life, self.rounds * 40 // 100),
                {
                    "devices": f"get {top}/blkio.devices",
                    "settings": f"get {group.path}/blkio.settings",
                    "set": f'put "wide $((i % 99 + 1))" {group.path}/blkio.settings',
                },
            )
        seen(told(sides))
        assert all(side.bad == 0 for side in sides.values()), sides


@pytest.mark.guest
@pytest.mark.flavours("perf")
class TestOneCpu(Loops):
    """On one CPU whoever sleeps hands over."""

    rounds = 40


@pytest.mark.guest
@pytest.mark.flavours("debug")
@pytest.mark.machine(cpus=2)
class TestTwoCpus(Loops):
    """On two there is true concurrency, and lockdep watches."""
