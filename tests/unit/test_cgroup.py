"""blkio's files; texts as 2.6.31 with the series prints them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness import cgroup
from harness.cgroup import Hierarchy, Setting, Share
from harness.errors import DirtyGuest, MeasurementError


def test_settings():
    assert cgroup.parse_settings("") == {}
    text = "ioband1 weight=80\nioband2 range-bw=100:500\n"
    assert cgroup.parse_settings(text) == {
        "ioband1": Setting(weight=80),
        "ioband2": Setting(range_bw=(100, 500)),
    }


@pytest.mark.parametrize(
    "text", ["ioband1\n", "ioband1 weight=\n", "ioband1 80\n", "ioband1 weight=80 \n", "a range-bw=1\n", "\n"]
)
def test_settings_that_are_not_understood(text):
    with pytest.raises(MeasurementError):
        cgroup.parse_settings(text)


def test_rendered_settings():
    assert Setting(weight=40).render() == "40"
    assert Setting(range_bw=(0, 500)).render() == "0:500"


def test_devices():
    text = (
        "share1 policy=weight io_throttle=4 io_limit=128 token=512 carryover=4\n"
        "  ioband1\n"
        "  ioband2\n"
        "share2 policy=range-bw io_throttle=4 io_limit=128\n"
    )
    assert cgroup.parse_devices(text) == [
        Share("share1", "weight", 4, 128, 512, 4, ("ioband1", "ioband2")),
        Share("share2", "range-bw", 4, 128, None, None, ()),
    ]
    assert cgroup.parse_devices("") == []


@pytest.mark.parametrize(
    "text",
    [
        "  ioband1\n",
        "share1 policy=weight io_throttle=4 io_limit=128 token=512 carryover=4\n ioband1\n",
        "share1 policy=weight io_throttle=4 io_limit=128 token=512\n",
        "share1 policy=weight  io_throttle=4 io_limit=128 token=512 carryover=4\n",
        "share1 policy=weight io_throttle=4 io_limit=128 token=512 carryover=4 \n",
        " share1 policy=weight io_throttle=4 io_limit=128 token=512 carryover=4\n",
    ],
)
def test_devices_that_are_not_understood(text):
    with pytest.raises(MeasurementError):
        cgroup.parse_devices(text)


class Recorder:
    """Stands for a guest: keeps what is run, answers from a table.

    The hierarchy goes as told in states, the last one for ever: (hierarchy number, groups) of blkio, directories.
    """

    def __init__(self, states=((0, 1, 1),), mounts="", **answers):
        self.calls: list[tuple[list[str] | str, str | None]] = []
        self.answers = answers
        self.states = list(states)
        self.mounts = mounts
        self.machine = SimpleNamespace(console=SimpleNamespace(death=None), slowdown=1, console_log=None)

    def run(self, argv, *, stdin=None):
        self.calls.append((argv, stdin))
        text = " ".join(argv)
        if "/proc/cgroups &&" in text or "/proc/mounts" in text:
            number, groups, directories = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            after = self.mounts if "/proc/mounts" in text else f"{directories}\n"
            return SimpleNamespace(stdout=f"#n h c e\nmemory\t0\t1\t1\nblkio\t{number}\t{groups}\t1\n{after}")
        name = argv[-1].rpartition("/")[2].replace(".", "_")
        return SimpleNamespace(stdout=self.answers.get(name, ""))

    @property
    def changes(self):
        """What was run that is no look at something."""
        return [argv for argv, _ in self.calls if argv[0] in ("mkdir", "rmdir", "mount", "umount")]


def test_hierarchy_takes_down_what_it_made():
    guest = Recorder()
    with Hierarchy(guest, "blkio", "memory", path="/c") as hierarchy:
        hierarchy.create("a")
        removed = hierarchy.create("b")
        removed.remove()
        hierarchy.create("a/below")
    assert guest.changes == [
        ["mkdir", "-p", "/c"],
        ["mount", "-t", "cgroup", "-o", "blkio,memory", "cgroup", "/c"],
        ["mkdir", "/c/a"],
        ["mkdir", "/c/b"],
        ["rmdir", "/c/b"],
        ["mkdir", "/c/a/below"],
        ["rmdir", "/c/a/below"],
        ["rmdir", "/c/a"],
        ["umount", "/c"],
    ]


def test_hierarchy_waits_until_its_groups_are_gone_and_until_it_is_itself():
    guest = Recorder(states=[(1, 3, 1), (1, 2, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 1, 0)])
    with Hierarchy(guest, "blkio", path="/c"):
        pass
    looks = [argv[-1] if argv[0] != "cat" else "mounts" for argv, _ in guest.calls[2:]]
    assert looks == ["/c", "/c", "/c", "/c", "mounts", "mounts", "mounts"]
    assert guest.calls[5][0] == ["umount", "/c"]
    assert len(guest.states) == 1


@pytest.mark.parametrize(("subsystems", "drops"), [(("blkio",), 0), (("blkio", "memory"), 1)])
def test_a_group_of_the_memory_controller_goes_with_its_pages(subsystems, drops):
    guest = Recorder(states=[(1, 2, 1), (1, 1, 1), (0, 1, 0)])
    with Hierarchy(guest, *subsystems, path="/c"):
        pass
    assert sum("drop_caches" in argv for argv, _ in guest.calls) == drops


def test_hierarchy_that_is_mounted_elsewhere_stays():
    mounts = "cgroup /other cgroup rw,relatime,blkio 0 0\n"
    with Hierarchy(Recorder(states=[(1, 1, 1)], mounts=mounts), "blkio"):
        pass


@pytest.mark.parametrize(
    ("state", "what"), [((1, 2, 1), "after they were removed"), ((1, 1, 1), "after it was unmounted")]
)
def test_what_does_not_go_is_an_error(monkeypatch, state, what):
    guest = Recorder(states=[state])
    monkeypatch.setattr(guest.machine, "slowdown", 0.0)  # no patience
    with pytest.raises(DirtyGuest, match=what), Hierarchy(guest, "blkio"):
        pass


def test_writes_are_exact():
    guest = Recorder()
    hierarchy = Hierarchy(guest, "blkio")
    group = cgroup.Cgroup(hierarchy, "a")
    group.set("ioband1", 80)
    group.set("ioband1", Setting(range_bw=(1, 2)))
    group.detach("ioband1")
    hierarchy.root.message("share1", "weight", "50")
    group.add(77)
    assert [(argv[-1].removeprefix("of="), stdin) for argv, stdin in guest.calls] == [
        ("/cgroup/a/blkio.settings", "ioband1 80"),
        ("/cgroup/a/blkio.settings", "ioband1 1:2"),
        ("/cgroup/a/blkio.settings", "ioband1"),
        ("/cgroup/blkio.devices", "share1 weight 50"),
        ("/cgroup/a/tasks", "77"),
    ]
    assert guest.calls[0][0][1:3] == ["bs=10", "count=1"], "one write of all of it"
    with pytest.raises(ValueError, match="does not reach the kernel"):
        group.write("tasks", "")


def test_reads():
    guest = Recorder(blkio_id="3\n", tasks="1\n22\n", cgroups="#n h c e\nblkio\t1\t2\t1\nmemory\t0\t1\t0\n")
    group = cgroup.Cgroup(Hierarchy(guest, "blkio"), "a")
    assert group.id == 3
    assert group.tasks == [1, 22]
    assert group.hierarchy.subsystems_enabled() == {"blkio": True, "memory": False}
    with pytest.raises(MeasurementError):
        _ = cgroup.Cgroup(Hierarchy(Recorder(blkio_id="no\n"), "blkio"), "a").id


def test_command_is_in_the_group_before_it_runs():
    group = cgroup.Cgroup(Hierarchy(Recorder(), "blkio"), "a")
    assert group.exec_prefix(["fio", "x y"]) == [
        "sh",
        "-c",
        'echo $$ > "$0" && exec "$@"',
        "/cgroup/a/tasks",
        "fio",
        "x y",
    ]
