"""The image from recipe to archive, with a program that takes a moment to build."""

import hashlib
import io
import tarfile
from pathlib import Path

import libarchive
import pytest

from harness import userland
from harness.cpio import ImageFile, segment
from harness.distro import SourcePackages
from harness.errors import InfrastructureError, UserError
from harness.fetch import FetchError
from harness.program import BuiltProgram, Sources, Toolchain
from harness.progress import SilentProgress
from harness.recipe import load
from harness.store import Store
from harness.userland import Image, image

C_SOURCE = b"void _start(void) { for (;;) ; }\n"
STEPS = '[["gcc", "-nostdlib", "-static", "-o", "tool", "tool.c"], ["cp", "names", "tool.links"]]'
RECIPE = """
name = "{name}"
version = "1.0"
licence = "MIT"
steps = {steps}

[source]
package = "{name}"
sha256 = "{sha256}"
upstream = [{{ url = "http://127.0.0.1:1/{name}-1.0.tar" }}]

[[products]]
file = "tool"
path = "/bin/{name}"
links = ["/usr/bin/also-{name}"]
link_list = "tool.links"
"""


def tarball() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in (("tool.c", C_SOURCE), ("names", b"/bin/ls\n/bin/other\n")):
            member = tarfile.TarInfo(f"tool-1.0/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


SHA = hashlib.sha256(tarball()).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A cache that holds the source already."""
    made = Store(tmp_path / "cache")
    made.build("source", SHA, lambda new: (new / "tarball").write_bytes(tarball()), what="source")
    return made


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like the project's images/, and a toolchain that need not be installed."""
    monkeypatch.setattr(Toolchain, "find", lambda: Toolchain(Path("/bin/false"), Path("/usr/include"), "id"))
    folder = tmp_path / "images"
    (folder / "programs").mkdir(parents=True)
    (folder / "rootfs/etc").mkdir(parents=True)
    (folder / "rootfs/init").write_text("#!/bin/sh\n")
    (folder / "rootfs/init").chmod(0o755)
    (folder / "rootfs/etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (folder / "rootfs.toml").write_text(
        '[directories]\n"/root" = 0o700\n[nodes]\n"/dev/console" = { mode = 0o600, major = 5, minor = 1 }\n'
    )
    recipe(folder, "tool")
    return folder


def recipe(folder: Path, name: str, steps: str = STEPS) -> None:
    text = RECIPE.format(name=name, steps=steps, sha256=SHA)
    (folder / f"programs/{name}.toml").write_text(text)


def listed(path: Path) -> dict[str, str]:
    """``mode`` and link target of every member by its name."""
    with libarchive.file_reader(str(path)) as reader:
        return {entry.pathname: f"{entry.mode:o} {entry.linkpath or ''}".strip() for entry in reader}


def test_image_holds_programs_links_files_and_their_directories(store: Store, images: Path) -> None:
    made = image(store, SilentProgress(), images)
    assert listed(made.path) == {
        "bin": "40755",
        "bin/ls": "120777 /bin/tool",
        "bin/other": "120777 /bin/tool",
        "bin/tool": "100755",
        "dev": "40755",
        "dev/console": "20600",
        "etc": "40755",
        "etc/passwd": "100644",
        "init": "100755",
        "root": "40700",
        "usr": "40755",
        "usr/bin": "40755",
        "usr/bin/also-tool": "120777 /bin/tool",
    }
    assert made.programs == {"tool": "1.0"}
    assert made.directories == {"/bin", "/dev", "/etc", "/root", "/usr", "/usr/bin"}


def test_nothing_is_built_twice(store: Store, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = image(store, SilentProgress(), images)
    monkeypatch.setattr(userland, "build", None)
    assert image(store, SilentProgress(), images) == first


def test_a_file_of_the_root_file_system_makes_a_new_image_of_the_same_programs(
    store: Store, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = image(store, SilentProgress(), images)
    (images / "rootfs/etc/passwd").write_text("other\n")
    monkeypatch.setattr(userland, "build", None)
    assert image(store, SilentProgress(), images).key != first.key


def test_two_caches_give_the_same_bytes(store: Store, images: Path, tmp_path: Path) -> None:
    other = Store(tmp_path / "another, longer place")
    other.build("source", SHA, lambda new: (new / "tarball").write_bytes(tarball()), what="source")
    first, second = (image(where, SilentProgress(), images) for where in (store, other))
    assert first.path.read_bytes() == second.path.read_bytes()


def test_a_listed_link_gives_way_to_a_program(store: Store, images: Path) -> None:
    recipe(images, "ls")
    made = listed(image(store, SilentProgress(), images).path)
    assert made["bin/ls"] == "100755"


def test_two_programs_of_one_path(store: Store, images: Path) -> None:
    (images / "rootfs/bin").mkdir()
    (images / "rootfs/bin/tool").write_text("")
    with pytest.raises(UserError, match="tool brings /bin/tool"):
        image(store, SilentProgress(), images)


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ('[["sh", "-c", "echo about to fail; exit 7"]]', "exited with 7"),
        ('[["no-such-tool"]]', "`no-such-tool` is not there"),
        ('[["true"]]', "did not make tool"),
        (
            '[["gcc", "-nostdlib", "-pie", "-Wl,--dynamic-linker=/x", "-o", "tool", "tool.c"]]',
            "is not static",
        ),
    ],
)
def test_a_failed_build_says_why_and_keeps_the_log(store: Store, images: Path, steps: str, why: str) -> None:
    recipe(images, "tool", steps)
    with pytest.raises(InfrastructureError) as caught:
        image(store, SilentProgress(), images)
    assert why in caught.value.message
    assert "tool 1.0" in caught.value.message
    assert caught.value.log is not None
    assert caught.value.log.read_text().splitlines()[-1] in caught.value.message
    assert [entry.kind for entry in store.entries()] == ["source"]


def test_a_failure_stops_the_other_builds(store: Store, images: Path) -> None:
    recipe(images, "tool", '[["false"]]')
    recipe(images, "zz-slow", '[["sleep", "600"]]')
    with pytest.raises(InfrastructureError, match="tool 1"):
        image(store, SilentProgress(), images)


def test_a_program_without_a_source_is_made_of_its_files(store: Store, images: Path) -> None:
    before, after = RECIPE.format(name="own", steps=STEPS, sha256=SHA).split("[source]")
    files = '[files]\n"own.c" = "tool.c"\n"own.names" = "names"\n'
    (images / "programs/own.toml").write_text(before + files + after[after.index("[[products]]") :])
    (images / "programs/own.c").write_bytes(C_SOURCE)
    (images / "programs/own.names").write_text("/bin/own-link\n")
    assert "own" in image(store, SilentProgress(), images).programs


def test_what_a_program_needs_is_at_hand(store: Store, images: Path) -> None:
    library = RECIPE.format(name="lib", steps='[["true"]]', sha256=SHA).partition("[[products]]")[0]
    (images / "programs/lib.toml").write_text(f'{library}\n[exports]\ninclude = ["tool.c"]\n')
    recipe(images, "tool", f'[["sh", "-c", "grep -- -I @CC@"], {STEPS[1:]}')
    path = images / "programs/tool.toml"
    path.write_text(path.read_text().replace("version", 'needs = ["lib"]\nversion', 1))
    made = image(store, SilentProgress(), images)
    assert made.programs == {"lib": "1.0", "tool": "1.0"}


def test_segment_follows_the_image(tmp_path: Path) -> None:
    first = segment([ImageFile("/etc/a", b"1")])
    (tmp_path / "first").write_bytes(first)
    made = Image(path=tmp_path / "first", key="k", programs={}, directories=frozenset({"/etc"}))
    extra = [ImageFile("/etc/harness/settings", b"EXACT=1\n", 0o600)]
    out = made.with_segment(tmp_path / "out", extra)
    assert out.read_bytes() == first + segment(extra, {"/etc"})


@pytest.mark.parametrize("text", ["[directories", '[nodes]\n"/dev/x" = {}\n[directories]\n', "colour = 1\n"])
def test_a_wrong_layout_is_named(store: Store, images: Path, text: str) -> None:
    (images / "rootfs.toml").write_text(text)
    with pytest.raises(UserError, match=r"rootfs\.toml"):
        image(store, SilentProgress(), images)


class NoPackages(SourcePackages):
    """A distribution that has no sources."""

    def __init__(self) -> None:
        pass

    def obtain(self, package: str, sha256: str, out: Path) -> None:
        raise FetchError(f"no source packages for {package}")


def test_without_a_source_every_place_is_named(tmp_path: Path, images: Path) -> None:
    recipe(images, "other")
    sources = Sources(Store(tmp_path / "empty"), NoPackages(), SilentProgress())
    with pytest.raises(InfrastructureError) as caught:
        sources.obtain_all(program.recipe for program in load(images / "programs"))
    for name in ("other", "tool"):
        assert f"no source packages for {name}" in caught.value.message
        assert f"http://127.0.0.1:1/{name}-1.0.tar: " in caught.value.message
    assert str(tmp_path / "empty/downloads") in str(caught.value.hint)


def test_a_source_brought_by_hand_is_checked_and_used(tmp_path: Path, images: Path) -> None:
    program = load(images / "programs")[0]
    store = Store(tmp_path / "empty")
    sources = Sources(store, NoPackages(), SilentProgress())
    brought = tmp_path / "empty/downloads/tool-1.0.tar"
    brought.parent.mkdir(parents=True)
    brought.write_bytes(b"something else")
    with pytest.raises(InfrastructureError, match=f"wanted {SHA}"):
        sources.obtain(program.recipe.source, "tool")
    brought.write_bytes(tarball())
    assert sources.obtain(program.recipe.source, "tool").read_bytes() == tarball()
    assert sources.obtain(program.recipe.source, "tool") == store.root / "source" / SHA / "tarball"


def test_built_programs_know_their_licence(store: Store, images: Path) -> None:
    image(store, SilentProgress(), images)
    built = [BuiltProgram.load(store.path(entry)) for entry in store.entries() if entry.kind == "program"]
    assert [(program.name, program.licence) for program in built] == [("tool", "MIT")]
