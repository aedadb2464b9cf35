import hashlib
import subprocess
from pathlib import Path

import pytest

from harness.distro import (
    BinaryPackages,
    SourcePackages,
    describe,
    parse_showsrc,
    read_codename,
    read_entries,
)
from harness.errors import InfrastructureError
from harness.fetch import FetchError

SOURCES = """\
# comment
Types: deb
URIs: http://archive.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/archive.gpg

Enabled: no
Types: deb deb-src
URIs: http://archive.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBFwAAAABEAC
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: https://other.example/node_20.x
Suites: nodistro
Components: main
"""
LINES = """\
# deb http://archive.example/debian bookworm contrib
deb http://archive.example/debian bookworm main contrib
deb-src http://archive.example/debian bookworm main contrib
deb [arch=amd64 signed-by=/k.gpg] http://archive.example/debian bookworm-backports main
deb https://other.example/apt cloud-bookworm main
deb cdrom:[Disc]/ bookworm main
"""
CONTENT = b"the pinned release"
SHA = hashlib.sha256(CONTENT).hexdigest()
SHOWSRC = f"""\
Package: tool
Version: 1.1-1
Checksums-Sha256:
 {"1" * 64} 100 tool_1.1-1.dsc
 {"2" * 64} 200 tool_1.1.orig.tar.gz
Files:
 abc 100 tool_1.1-1.dsc

Package: tool
Version: 1:1.0-3
Directory: pool/main/t/tool
Checksums-Sha256:
 {SHA} 18 tool_1.0.orig.tar.xz
 {"4" * 64} 5 tool_1.0-3.debian.tar.xz

"""


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    (folder / "sources.list.d").mkdir(parents=True)
    return folder


def test_deb822_becomes_source_entries(etc: Path) -> None:
    (etc / "sources.list.d/debian.sources").write_text(SOURCES)
    lines, stanzas = read_entries(etc, "bookworm", "deb-src")
    assert lines == []
    assert stanzas == [
        "Types: deb-src\nURIs: http://archive.example/debian\nSuites: bookworm bookworm-updates\n"
        "Components: main\nSigned-By: /usr/share/keyrings/archive.gpg\n",
        "Enabled: no\nTypes: deb-src\nURIs: http://archive.example/debian-security\n"
        "Suites: bookworm-security\nComponents: main\nSigned-By:\n"
        " -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBFwAAAABEAC\n -----END PGP PUBLIC KEY BLOCK-----\n",
    ]


def test_lines_become_source_entries_each_once(etc: Path) -> None:
    (etc / "sources.list").write_text(LINES)
    assert read_entries(etc, "bookworm", "deb-src") == (
        [
            "deb-src http://archive.example/debian bookworm main contrib",
            "deb-src [arch=amd64 signed-by=/k.gpg] http://archive.example/debian bookworm-backports main",
            "deb-src cdrom:[Disc]/ bookworm main",
        ],
        [],
    )


def test_entries_of_binary_packages_from_the_same_archives(etc: Path) -> None:
    (etc / "sources.list").write_text(LINES)
    (etc / "sources.list.d/debian.sources").write_text(SOURCES)
    lines, stanzas = read_entries(etc, "bookworm", "deb")
    assert lines == [
        "deb http://archive.example/debian bookworm main contrib",
        "deb [arch=amd64 signed-by=/k.gpg] http://archive.example/debian bookworm-backports main",
        "deb cdrom:[Disc]/ bookworm main",
    ]
    assert [stanza.count("Types: deb\n") for stanza in stanzas] == [1, 1]


def test_every_archive_is_taken_where_none_has_the_codename(etc: Path) -> None:
    (etc / "sources.list.d/a.list").write_text("deb http://archive.example/debian stable main\n")
    assert read_entries(etc, "trixie", "deb-src")[0] == ["deb-src http://archive.example/debian stable main"]


def test_codename(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('ID=debian\nVERSION_CODENAME=bookworm\nVERSION="12"\n')
    (tmp_path / "b").write_text('VERSION_CODENAME="noble"\n')
    (tmp_path / "c").write_text("ID=other\n")
    names = [read_codename(tmp_path / name) for name in ("a", "b", "c", "missing")]
    assert names == ["bookworm", "noble", "", ""]


def test_showsrc_lists_files_of_every_version() -> None:
    offers = parse_showsrc(SHOWSRC)
    assert list(offers) == ["1.1-1", "1:1.0-3"]
    assert offers["1.1-1"] == {"1" * 64: "tool_1.1-1.dsc", "2" * 64: "tool_1.1.orig.tar.gz"}
    assert offers["1:1.0-3"][SHA] == "tool_1.0.orig.tar.xz"


@pytest.fixture
def packages(tmp_path: Path, etc: Path, monkeypatch: pytest.MonkeyPatch) -> SourcePackages:
    """Source packages of a made-up distribution; its apt is two shell scripts that note their calls."""
    (etc / "sources.list.d/debian.sources").write_text(SOURCES)
    (tmp_path / "os-release").write_text("VERSION_CODENAME=bookworm\n")
    (tmp_path / "showsrc").write_text(SHOWSRC)
    (tmp_path / "content").write_bytes(CONTENT)
    script(
        tmp_path / "apt-get",
        f'echo "$*" >> {tmp_path}/calls',
        'case "$*" in',
        f'*" source "*) cp {tmp_path}/content tool_1.0.orig.tar.xz ;;',
        '*" update") touch apt/state/lists/archive.example_bookworm_main_source_Sources.lz4 ;;',
        "esac",
    )
    script(tmp_path / "apt-cache", f"cat {tmp_path}/showsrc")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "work").mkdir()
    return SourcePackages(tmp_path / "work", etc=etc, os_release=tmp_path / "os-release")


def script(path: Path, *lines: str) -> None:
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)


def test_the_version_is_chosen_by_the_file_it_holds(packages: SourcePackages, tmp_path: Path) -> None:
    packages.obtain("tool", SHA, tmp_path / "out")
    packages.obtain("tool", SHA, tmp_path / "again")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "again").read_bytes() == CONTENT
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[-1] for call in calls] == ["update", "tool=1:1.0-3", "tool=1:1.0-3"]
    assert all(f"Dir::State::lists={tmp_path / 'work'}/" in call for call in calls)


def test_another_content_is_refused(packages: SourcePackages, tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(b"something else")
    with pytest.raises(FetchError, match=f"wanted {SHA}"):
        packages.obtain("tool", SHA, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_versions_without_the_file_are_named(packages: SourcePackages, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"tool \(1\.1-1, 1:1\.0-3\) does not hold"):
        packages.obtain("tool", "f" * 64, tmp_path / "out")


def test_no_archive_answers_though_apt_calls_it_a_success(packages: SourcePackages, tmp_path: Path) -> None:
    script(tmp_path / "apt-get", "echo 'W: Failed to fetch http://archive.example' >&2")
    with pytest.raises(FetchError, match=r"no package archive gave .* W: Failed to fetch"):
        packages.obtain("tool", SHA, tmp_path / "out")


def test_an_archive_that_does_not_answer_is_asked_once(packages: SourcePackages, tmp_path: Path) -> None:
    script(tmp_path / "apt-get", f'echo "$*" >> {tmp_path}/calls', "echo 'E: no route' >&2", "exit 100")
    for _ in range(2):
        with pytest.raises(FetchError, match="E: no route"):
            packages.obtain("tool", SHA, tmp_path / "out")
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


# ---- packages as they are installed


def deb(folder: Path, name: str = "tool", version: str = "1:6.1-2", **files: bytes) -> Path:
    """A package with these files below usr/src."""
    root = folder / "root"
    (root / "DEBIAN").mkdir(parents=True)
    fields = {"Package": name, "Version": version, "Architecture": "all", "Maintainer": "a", "Description": "b"}
    (root / "DEBIAN/control").write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
    (root / "usr/src").mkdir(parents=True)
    for file, content in files.items():
        (root / "usr/src" / file).write_bytes(content)
    out = folder / f"{name}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(root), str(out)],
        check=True,
        capture_output=True,
    )
    return out


@pytest.fixture
def binary(packages: SourcePackages, tmp_path: Path, etc: Path) -> BinaryPackages:
    """The same distribution's packages; it has one, of the version 1:6.1-2."""
    del packages  # PATH leads to its apt-get, which is another one here
    whole = deb(tmp_path / "deb")
    script(
        tmp_path / "apt-get",
        f'echo "$*" >> {tmp_path}/calls',
        'case "$*" in',
        f'*" download tool") cp {whole} tool_1%3a6.1-2_all.deb ;;',
        '*" download "*) echo "E: Unable to locate package" >&2; exit 100 ;;',
        '*" update") touch apt/state/lists/archive.example_bookworm_main_binary-amd64_Packages ;;',
        "esac",
    )
    os_release = tmp_path / "os-release"
    return BinaryPackages(tmp_path / "work", etc=etc, os_release=os_release, log=tmp_path / "log")


def test_a_package_and_its_version(binary: BinaryPackages, tmp_path: Path) -> None:
    package = binary.obtain("tool")
    assert (package.name, package.version) == ("tool", "1:6.1-2")
    assert package.file.parent == tmp_path / "work"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[-1] for call in calls] == ["update", "tool"]
    assert "Types: deb\n" in (tmp_path / "work/apt/parts/source.sources").read_text()


def test_a_package_that_no_archive_has(binary: BinaryPackages, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="Unable to locate package") as caught:
        binary.obtain("other")
    assert caught.value.log == tmp_path / "log"
    assert "download other" in (tmp_path / "log").read_text()


def test_no_room_for_a_package_is_told_as_such(binary: BinaryPackages, tmp_path: Path) -> None:
    full = "E: You don't have enough free space in /cache."
    script(tmp_path / "apt-get", f'echo "{full}" >&2', "exit 100")
    with pytest.raises(InfrastructureError, match="is full") as caught:
        binary.obtain("tool")
    assert not isinstance(caught.value, FetchError), "another place would not help"
    assert "prune" in str(caught.value.hint)


def test_what_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(b"!<arch>\nnothing")
    with pytest.raises(FetchError, match="is not a Debian package"):
        describe(tmp_path / "x.deb")
