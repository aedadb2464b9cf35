"""source.py: one tree, whatever it comes from; nothing broken by what is not one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import fakekernel
import pytest
from fakekernel import QUIET, git, repository

from harness import source
from harness.distro import BinaryPackages, Package, describe
from harness.errors import InfrastructureError, UserError
from harness.fetch import FetchError
from harness.source import (
    Fact,
    KernelSpec,
    PackageName,
    Schedulers,
    Tarball,
    add,
    at_hand,
    makefile_version,
    obtain,
    tree_id,
)
from harness.store import Store, file_digest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def spec(tmp_path: Path) -> KernelSpec:
    return fakekernel.kernel(tmp_path / "kernel")


def tarball(folder: Path, option: str = "--bzip2", top: str = "linux-2.6.31") -> Path:
    fakekernel.linux(folder / top)
    path = folder / "linux.tar.x"
    subprocess.run(["tar", "-C", str(folder), "-c", option, "-f", str(path), top], check=True)
    return path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# ---- kernel.toml


def test_manifest_of_every_kernel() -> None:
    """Ours are valid, and their fragments are there."""
    folders = sorted((Path(__file__).parents[2] / "kernel").glob("*/kernel.toml"))
    assert folders
    for file in folders:
        spec = KernelSpec.load(file.parent)
        assert spec.name == file.parent.name
        assert spec.flavours["perf"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('arch = "x86_64"\n', "", "arch: Field required"),
        ('version = "2.6.31"', 'version = "new"', "version: String should match"),
        ("compilers = [", "kompilers = [", "kompilers: Extra inputs"),
        ('"base.config"', '"gone.config"', "names `gone.config`, which is not in"),
        ('commit = "74fc', 'commit = "xx', "git.commit: String should match"),
        ("[git]", "[git", "at line"),
    ],
)
def test_wrong_manifest_names_file_and_key(spec: KernelSpec, old: str, new: str, said: str) -> None:
    edit(spec.folder / "kernel.toml", old, new)
    with pytest.raises(UserError) as caught:
        KernelSpec.load(spec.folder)
    assert str(spec.folder / "kernel.toml") in caught.value.message
    assert said in caught.value.message


def test_no_such_kernel_names_those_there_are(spec: KernelSpec) -> None:
    with pytest.raises(UserError, match=r"no kernel `3\.99`") as caught:
        KernelSpec.load(spec.folder.parent / "3.99")
    assert "2.6.31" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("version", "good"),
    [("2.6.31", True), ("2.6.31.14", True), ("2.6.31-rc5", False), ("2.6.32", False), ("2.6.310", False)],
)
def test_point_releases(spec: KernelSpec, version: str, good: bool) -> None:
    assert spec.is_release(version) is good


@pytest.mark.parametrize(
    ("numbers", "version"),
    [
        (("2", "6", "31", ""), "2.6.31"),
        (("2", "6", "31", ".3"), "2.6.31.3"),
        (("2", "6", "31", "-rc5"), "2.6.31-rc5"),
        (("6", "1", "0", ""), "6.1"),
        (("6", "1", "128", ""), "6.1.128"),
        (("6", "1", "0", "-rc1"), "6.1-rc1"),
    ],
)
def test_version_of_a_makefile(tmp_path: Path, numbers: tuple[str, ...], version: str) -> None:
    names = ("VERSION", "PATCHLEVEL", "SUBLEVEL", "EXTRAVERSION")
    lines = [f"{name} = {number}" for name, number in zip(names, numbers, strict=True)]
    (tmp_path / "Makefile").write_text("# SPDX\n" + "\n".join(lines) + "\nNAME = X\n")
    assert makefile_version(tmp_path) == version


def test_what_a_test_is_told(spec: KernelSpec) -> None:
    test, other = "fact('pages')", "fact('longest_write')"
    facts = {"pages": Fact(value=4, why="so"), "longest_write": Fact(value="x", why="so")}
    spec = spec.model_copy(update={"facts": facts})
    told = {spec.told([test])}
    assert spec.told([test]) in told, "the same again"
    assert spec.model_copy(update={"compilers": ("cc",)}).told([test]) in told, "a build says that"
    unasked = {**facts, "longest_write": Fact(value="y", why="so")}
    assert spec.model_copy(update={"facts": unasked}).told([test]) in told, "it does not ask for that"
    assert spec.model_copy(update={"facts": unasked}).told([test, other]) != spec.told([test, other])
    disk = spec.virtual_disk
    changes: dict[str, object] = {
        "append": "quiet",
        "smp_append": "lpj=1",
        "slowdown": {"debug": 7.0},
        "schedulers": Schedulers(queueing_settings={"fifo_batch": 1}),
        "virtual_disk": disk.model_copy(update={"append": f"{disk.append} highres=off"}),
        "lacks": {"barriers": "gone"},
        "facts": {**facts, "pages": Fact(value=5, why="so")},
    }
    for name, value in changes.items():
        told.add(spec.model_copy(update={name: value}).told([test]))
    assert len(told) == len(changes) + 1


# ---- trees


def test_one_tree_whatever_it_comes_from(store: Store, spec: KernelSpec, tmp_path: Path) -> None:
    repo = repository(tmp_path / "clone")
    junk = repo / "drivers" / "junk.c"
    junk.write_text("untracked")
    (tmp_path / "t").mkdir()
    folder = fakekernel.linux(tmp_path / "folder")
    (folder / "Makefile").chmod(0o777)
    (folder / "scripts" / "conf.sh").chmod(0o644)
    trees = {
        "git": add(store, spec, str(repo)),
        "git at": add(store, spec, f"{repo}@v2.6.31.3"),
        "tarball": add(store, spec, str(tarball(tmp_path / "t"))),
        "folder": add(store, spec, str(folder)),
    }
    assert len({tree.id for tree in trees.values()}) == 1
    assert len({tree.path for tree in trees.values()}) == 1
    tree = trees["git"]
    assert tree.version == "2.6.31.3"
    assert not (tree.path / "drivers" / "junk.c").exists()
    # scripts are executable, and nothing else
    assert (tree.path / "scripts" / "conf.sh").stat().st_mode & 0o777 == 0o755
    assert (tree.path / "Makefile").stat().st_mode & 0o777 == 0o644
    commit = git(repo, "rev-parse", "HEAD")
    assert trees["git"].origin == f"git repository {repo} at v2.6.31.3 (commit {commit[:12]})"
    assert trees["folder"].origin == f"folder {folder}"
    assert trees["tarball"].origin.startswith(f"tarball {tmp_path}/t/linux.tar.x (sha256 ")
    assert at_hand(store, spec) == trees["folder"], "the last one supplied"
    assert store.verify() == []


def test_identity_follows_paths_and_contents(tmp_path: Path) -> None:
    folder = fakekernel.linux(tmp_path / "linux")
    first = tree_id(folder)
    (folder / "Makefile").chmod(0o755)
    assert tree_id(folder) == first
    (folder / "empty").touch()
    second = tree_id(folder)
    (folder / "empty").rename(folder / "other")
    third = tree_id(folder)
    (folder / "other").unlink()
    (folder / "other").symlink_to("Makefile")
    fourth = tree_id(folder)
    assert len({first, second, third, fourth}) == 4
    (folder / "other").unlink()
    assert tree_id(folder) == first


def test_what_is_committed_counts(store: Store, spec: KernelSpec, tmp_path: Path) -> None:
    repo = repository(tmp_path / "clone")
    committed = add(store, spec, str(repo))
    edit(repo / "init" / "main.c", "Compiled", "Changed")
    assert add(store, spec, str(repo)).id == committed.id
    git(repo, "commit", "--quiet", "--all", "--message", "change")
    assert add(store, spec, f"{repo}@HEAD").id != committed.id
    assert add(store, spec, str(repo)).id == committed.id, "without @REV: the release's tag"


def test_newest_point_release_is_the_default(store: Store, spec: KernelSpec, tmp_path: Path) -> None:
    repo = repository(tmp_path / "clone")
    for version in (".9", ".14", "-rc7"):
        edit(repo / "Makefile", "EXTRAVERSION =", f"EXTRAVERSION = {version} #")
        git(repo, "commit", "--quiet", "--all", "--message", version)
        git(repo, "tag", f"v2.6.31{version}")
    assert add(store, spec, str(repo)).version == "2.6.31.14"


def test_bare_repository(store: Store, spec: KernelSpec, tmp_path: Path) -> None:
    repository(tmp_path / "clone")
    git(tmp_path, "clone", "--quiet", "--bare", "clone", "bare.git")
    assert add(store, spec, f"{tmp_path}/bare.git@v2.6.31.3").version == "2.6.31.3"


def test_folder_inside_a_repository_is_a_folder(store: Store, spec: KernelSpec, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    fakekernel.linux(tmp_path / "linux")
    assert add(store, spec, f"{tmp_path}/linux").origin == f"folder {tmp_path}/linux"


def test_path_with_an_at_sign(store: Store, spec: KernelSpec, tmp_path: Path) -> None:
    assert add(store, spec, str(fakekernel.linux(tmp_path / "me@home"))).version == "2.6.31.3"


def test_called_from_a_git_hook(
    store: Store, spec: KernelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = repository(tmp_path / "clone")
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    assert add(store, spec, str(repo)).version == "2.6.31.3"


def test_built_folder_is_cleaned_in_the_copy_only(store: Store, spec: KernelSpec, tmp_path: Path) -> None:
    clean = add(store, spec, str(fakekernel.linux(tmp_path / "clean")))
    built = fakekernel.linux(tmp_path / "built")
    (built / ".config").write_text("CONFIG_MD=y\n")
    subprocess.run(["make", "-s", "-C", str(built), "CC=gcc", "init/main.o"], check=True)
    assert add(store, spec, str(built)).id == clean.id
    assert (built / "init" / "main.o").exists()


@pytest.mark.parametrize("option", ["--bzip2", "--gzip", "--xz", "--format=ustar"])
def test_compressions(store: Store, spec: KernelSpec, tmp_path: Path, option: str) -> None:
    assert add(store, spec, str(tarball(tmp_path, option))).version == "2.6.31.3"


def test_bad_input_is_told_and_harmless(store: Store, spec: KernelSpec, tmp_path: Path) -> None:
    repo = repository(tmp_path / "clone")
    good = add(store, spec, str(repo))
    (tmp_path / "t").mkdir()
    whole = tarball(tmp_path / "t")
    half = tmp_path / "half.tar.bz2"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    noise = tmp_path / "noise.tar.gz"
    noise.write_bytes(b"\x1f\x8b" + bytes(range(256)) * 20000)
    text = tmp_path / "text"
    text.write_text("not a tarball")
    other = fakekernel.linux(tmp_path / "other")
    edit(other / "Makefile", "SUBLEVEL = 31", "SUBLEVEL = 32")
    candidate = fakekernel.linux(tmp_path / "candidate")
    edit(candidate / "Makefile", "EXTRAVERSION = .3", "EXTRAVERSION = -rc5")
    empty = tmp_path / "empty"
    empty.mkdir()
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "Makefile").write_text("all:\n")
    untagged = tmp_path / "untagged"
    repository(untagged)
    git(untagged, "tag", "-d", "v2.6.31.3")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    for what, said in {
        f"{tmp_path}/missing": "there is no",
        f"{tmp_path}/missing@v1": "there is no",
        f"{repo}@v9": "has no revision `v9`",
        f"{repo}@--help": "has no revision `--help`",
        f"{whole}@v2.6.31": "not a git repository",
        str(half): "damaged or incomplete",
        str(noise): "damaged or incomplete",
        str(text): "neither a tarball nor a folder",
        str(empty): "not a kernel tree",
        str(strange): "states no version",
        str(other): "is Linux 2.6.32.3; kernel `2.6.31` wants 2.6.31 or a point release",
        str(candidate): "is Linux 2.6.31-rc5",
        str(untagged): "has no tag v2.6.31",
        "": "no path was given",
    }.items():
        with pytest.raises(UserError) as caught:
            add(store, spec, what)
        assert said in caught.value.message, what
    assert at_hand(store, spec) == good
    assert list((store.root / "tmp").iterdir()) == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_damaged_cache_is_no_tree_at_hand(store: Store, spec: KernelSpec) -> None:
    tree = add(store, spec, str(fakekernel.LINUX))
    assert at_hand(store, spec) == tree
    (tree.path / "Makefile").unlink()
    assert at_hand(store, spec) is None


# ---- obtaining


def with_tarball(
    spec: KernelSpec, path: Path, sha256: str | None = None, *, missing: bool = False
) -> KernelSpec:
    urls = [f"file://{path}.gone", *([] if missing else [f"file://{path}"])]
    known = Tarball(name="linux-2.6.31.tar.bz2", sha256=sha256 or file_digest(path), urls=tuple(urls))
    return spec.model_copy(update={"tarballs": (known,)})


def test_download_from_the_second_place(store: Store, spec: KernelSpec, tmp_path: Path) -> None:
    path = tarball(tmp_path)
    tree = obtain(store, with_tarball(spec, path), QUIET)
    assert tree.version == "2.6.31.3"
    assert tree.origin == f"file://{path} (sha256 {file_digest(path)[:12]})"
    path.unlink()
    assert obtain(store, with_tarball(spec, path, "0" * 64), QUIET) == tree, "downloaded once"


def test_supplied_tree_is_not_downloaded(store: Store, spec: KernelSpec) -> None:
    tree = add(store, spec, str(fakekernel.LINUX))
    assert obtain(store, with_tarball(spec, Path("/gone"), "0" * 64), QUIET) == tree


NAMED = PackageName(name="linux-source-2.6.31", file="usr/src/linux.tar.xz")


def package(folder: Path, spec: KernelSpec) -> tuple[KernelSpec, Path]:
    """A kernel whose source is in a package, and that package."""
    folder.mkdir()
    root = folder / "root"
    (root / "DEBIAN").mkdir(parents=True)
    fields = {"Package": NAMED.name, "Version": "2.6.31.3-1", "Architecture": "all"}
    control = "".join(f"{key}: {value}\n" for key, value in fields.items())
    (root / "DEBIAN" / "control").write_text(f"{control}Maintainer: a\nDescription: b\n")
    (root / "usr" / "src").mkdir(parents=True)
    tarball(folder, "--xz").rename(root / NAMED.file)
    out = folder / f"{NAMED.name}_2.6.31.3-1_all.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(root), str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return spec.model_copy(update={"package": NAMED}), out


def test_the_distributions_package(
    store: Store, spec: KernelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its version is in the tree's origin; what was downloaded is gone; nobody is asked a second time."""
    packaged, deb = package(tmp_path / "p", spec)

    def fetch(self: BinaryPackages, name: str) -> Package:
        assert name == NAMED.name
        monkeypatch.setattr(BinaryPackages, "obtain", None)
        here = store.root / f"downloads-{name}" / deb.name
        here.write_bytes(deb.read_bytes())
        return describe(here)

    monkeypatch.setattr(BinaryPackages, "obtain", fetch)
    tree = obtain(store, packaged, QUIET)
    assert tree.version == "2.6.31.3"
    assert tree.origin == f"package {NAMED.name} 2.6.31.3-1 (sha256 {file_digest(deb)[:12]})"
    assert obtain(store, packaged, QUIET) == tree
    assert tree.id == add(store, spec, str(tarball(tmp_path))).id
    assert not list(store.root.glob("downloads-*"))
    assert list((store.root / "tmp").iterdir()) == []


def test_a_package_that_was_brought(store: Store, spec: KernelSpec, tmp_path: Path) -> None:
    packaged, deb = package(tmp_path / "p", spec)
    assert add(store, packaged, str(deb)).origin.startswith(f"package {NAMED.name} 2.6.31.3-1")
    with pytest.raises(UserError, match="neither a tarball nor a folder"):
        add(store, spec, str(deb))
    half = tmp_path / "half.deb"
    half.write_bytes(deb.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"half\.deb does not give usr/src/linux\.tar\.xz"):
        add(store, packaged, str(half))
    wrong = NAMED.model_copy(update={"file": "usr/src/other.tar.xz"})
    with pytest.raises(UserError, match="Not found in archive"):
        add(store, spec.model_copy(update={"package": wrong}), str(deb))


def test_each_place_is_named_the_package_too(
    store: Store, spec: KernelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(self: BinaryPackages, name: str) -> Package:
        raise FetchError("no route", log=tmp_path / "log")

    monkeypatch.setattr(BinaryPackages, "obtain", fetch)
    packaged = spec.model_copy(update={"package": NAMED})
    with pytest.raises(InfrastructureError, match=r"package linux-source-2\.6\.31: no route") as caught:
        obtain(store, packaged, QUIET)
    assert caught.value.log == tmp_path / "log"
    assert f"{NAMED.name}_VERSION_all.deb" in str(caught.value.hint)


def test_nothing_to_be_had(store: Store, spec: KernelSpec, tmp_path: Path) -> None:
    """Every place, why each failed, three ways to supply one."""
    path = tarball(tmp_path)
    with pytest.raises(InfrastructureError, match="no source of kernel") as caught:
        obtain(store, with_tarball(spec, path, "0" * 64), QUIET)
    message, hint = caught.value.message, str(caught.value.hint)
    assert f"{path}.gone" in message
    assert "has sha256" in message
    assert "harness kernel add 2.6.31 /path/to/a/git/clone@v2.6.31" in hint
    assert "/path/to/linux-2.6.31.tar.bz2" in hint
    assert "unpacked" in hint
    assert at_hand(store, spec) is None
    assert source.check(store, spec).ok is None
