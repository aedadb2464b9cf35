"""series.py: read what people send, apply it strictly, say what is wrong where."""

from __future__ import annotations

import base64
import quopri
import shutil
from pathlib import Path

import fakekernel
import pytest
from fakekernel import diff, git, mail, series_files, write_series

from harness.errors import UserError
from harness.series import Series

MD = (fakekernel.LINUX / "drivers/md/md.c").read_text()
CHANGE = diff("drivers/md/md.c", MD.replace("MD_VERSION", "5"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return fakekernel.linux(tmp_path / "linux")


def one(tmp_path: Path, text: str | bytes, name: str = "0001-x.patch") -> Series:
    folder = tmp_path / "one"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return Series.load(folder)


def test_mails_of_format_patch(tmp_path: Path) -> None:
    series = Series.load(write_series(tmp_path / "good"))
    assert series.name == series.title == "good"
    assert series.kernel is None
    assert [patch.subject for patch in series.patches] == [
        "md: return one more",
        "dm-fake: a target that does nothing",
        "dm-fake: do more",
    ]
    assert series.patches[1].author == "A. U. Thor <author@example.org>"
    assert series.patches[1].files == ("drivers/md/Kconfig", "drivers/md/dm-fake.c")


def test_apply(tmp_path: Path, tree: Path) -> None:
    log = tmp_path / "log"
    Series.load(write_series(tmp_path / "good")).apply(tree, log)
    assert "MD_VERSION * 2" in (tree / "drivers/md/dm-fake.c").read_text()
    assert "patch 3 of 3: 0003-dm-fake-more.patch" in log.read_text()


def test_apply_below_a_git_repository(tmp_path: Path, tree: Path) -> None:
    """In a folder of a repository git apply leaves out, without a word, what lies outside of that folder."""
    git(tmp_path, "init", "--quiet")
    Series.load(write_series(tmp_path / "good")).apply(tree, tmp_path / "log")
    assert (tree / "drivers/md/dm-fake.c").exists()


def test_prefix(tmp_path: Path, tree: Path) -> None:
    series = Series.load(write_series(tmp_path / "good"))
    assert [len(series.prefix(count).patches) for count in range(4)] == [0, 1, 2, 3]
    assert len({series.prefix(count).digest for count in range(4)}) == 4
    assert series.prefix(3).digest == series.digest
    assert series.prefix(3).whole
    assert not series.prefix(2).whole
    assert not series.prefix(2).prefix(2).whole
    with pytest.raises(UserError, match="3 patches: there is no prefix 4"):
        series.prefix(4)
    series.prefix(1).apply(tree, tmp_path / "log")
    assert not (tree / "drivers/md/dm-fake.c").exists()


def test_quilt_order(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "good")
    (folder / "series").write_text(
        "# comment\n\n0003-dm-fake-more.patch # last\n  0001-md-return.patch -p1\n#0002-dm-fake.patch\n"
    )
    assert [p.name for p in Series.load(folder).patches] == [
        "0003-dm-fake-more.patch",
        "0001-md-return.patch",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("gone.patch", "series:2: there is no patch gone.patch"),
        ("0002-dm-fake.patch -p0", "series:2: `-p0`: only patches with -p1"),
        ("0002-dm-fake.patch -R", "series:2: `-R`"),
        ("0001-md-return.patch", "series:2: 0001-md-return.patch stands in line 1 already"),
    ],
)
def test_wrong_line_in_series(tmp_path: Path, line: str, said: str) -> None:
    folder = write_series(tmp_path / "good")
    (folder / "series").write_text(f"0001-md-return.patch\n{line}\n")
    with pytest.raises(UserError) as caught:
        Series.load(folder)
    assert said in caught.value.message


def test_no_patches(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no patches"):
        Series.load(tmp_path / "empty")
    assert Series.load(tmp_path / "empty", may_be_empty=True).patches == ()
    with pytest.raises(UserError, match="not a folder"):
        Series.load(tmp_path / "missing")


def test_patch_without_a_diff(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"0001-x\.patch holds no diff"):
        one(tmp_path, "Subject: [PATCH 0/3] cover letter\n\nWords.\n")


def test_diffs_that_are_no_mails(tmp_path: Path, tree: Path) -> None:
    bare = one(tmp_path, CHANGE)
    assert bare.patches[0].subject == "0001-x.patch"
    described = one(tmp_path, f"Return five: it is more\n\nReally.\n\n{CHANGE}")
    assert described.patches[0].subject == "Return five: it is more"
    plain = "--- a/drivers/md/md.c\n+++ b/drivers/md/md.c\n" + CHANGE.partition("+++ ")[2].partition("\n")[2]
    old = one(tmp_path, f"Index: linux/drivers/md/md.c\n===================\n{plain}")
    assert old.patches[0].files == ("drivers/md/md.c",)
    old.apply(tree, tmp_path / "log")
    assert "return 5;" in (tree / "drivers/md/md.c").read_text()


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
def test_transfer_encodings(tmp_path: Path, tree: Path, encoding: str) -> None:
    body = f"Words = more words.\n---\n{CHANGE}".encode()
    coded = base64.encodebytes(body) if encoding == "base64" else quopri.encodestring(body)
    head = f"Subject: x\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: {encoding}\n\n"
    one(tmp_path, head.encode() + coded).apply(tree, tmp_path / "log")
    assert "return 5;" in (tree / "drivers/md/md.c").read_text()


def test_bytes_that_are_not_utf8_are_applied_as_they_are(tmp_path: Path, tree: Path) -> None:
    file = tree / "drivers/md/md.c"
    file.write_bytes(MD.replace("int unused", "/* K\xf6nig */ int unused").encode("latin-1"))
    patch = diff("drivers/md/md.c", MD.replace("MD_VERSION", "5")).replace(
        " \tint unused", " \t/* K\xf6nig */ int unused"
    )
    head = "Subject: =?latin-1?q?K=F6nig?=\nContent-Type: text/plain; charset=latin-1\n\n"
    series = one(tmp_path, (head + patch).encode("latin-1"))
    assert series.patches[0].subject == "König"
    series.apply(tree, tmp_path / "log")
    assert b"K\xf6nig" in file.read_bytes()
    assert b"return 5" in file.read_bytes()


@pytest.mark.parametrize(
    "subject",
    ["=?no-such-charset?q?x?=", "=?utf-8?b?!!!?=", "=?utf-8?q?=FF=FE?=", "\udcff\udcfe", "", "[PATCH 1/2]"],
)
def test_odd_subjects_give_no_traceback(tmp_path: Path, subject: str) -> None:
    text = f"From: x\nSubject: {subject}\n\nwords\n\n{CHANGE}".encode(errors="surrogateescape")
    patch = one(tmp_path, text).patches[0]
    patch.subject.encode()
    assert patch.subject


def test_hash_is_of_the_diff_alone(tmp_path: Path) -> None:
    first = one(tmp_path, mail(1, "one", CHANGE))
    assert one(tmp_path, mail(1, "two", CHANGE).replace("2.39.5", "2.50")).digest == first.digest
    assert one(tmp_path, CHANGE).patches[0].sha256 == first.patches[0].sha256
    assert one(tmp_path, mail(1, "one", CHANGE.replace("5", "6"))).digest != first.digest


def test_malformed_diff(tmp_path: Path, tree: Path) -> None:
    series = one(tmp_path, CHANGE.replace("@@ -", "@@ -x"))
    with pytest.raises(UserError):
        series.apply(tree, tmp_path / "log")
    shorter = one(tmp_path, "".join(CHANGE.splitlines(keepends=True)[:-2]))
    with pytest.raises(UserError, match=r"0001-x\.patch"):
        shorter.apply(tree, tmp_path / "log")


def test_does_not_apply(tmp_path: Path, tree: Path) -> None:
    """Which patch, file and hunk; what it expects and what the tree has."""
    file = tree / "drivers/md/md.c"
    file.write_text(MD.replace("MD_VERSION", "somebody_else()"))
    log = tmp_path / "log"
    with pytest.raises(UserError) as caught:
        Series.load(write_series(tmp_path / "good")).apply(tree, log)
    message = caught.value.message
    assert "series good: patch 1 of 3, 0001-md-return.patch does not apply: drivers/md/md.c" in message
    assert "it expects:" in message
    assert "| \treturn MD_VERSION;" in message
    assert "| \treturn somebody_else();" in message
    assert caught.value.log == log
    assert "patch does not apply" in log.read_text()


def test_file_that_is_missing_or_there_already(tmp_path: Path, tree: Path) -> None:
    (tree / "drivers/md/md.c").unlink()
    with pytest.raises(UserError, match=r"drivers/md/md\.c: No such file"):
        one(tmp_path, CHANGE).apply(tree, tmp_path / "log")
    (tree / "drivers/md/dm-fake.c").write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        one(tmp_path, series_files()["0002-dm-fake.patch"]).apply(tree, tmp_path / "log")


def test_no_fuzz(tmp_path: Path, tree: Path) -> None:
    """A context line that differs by a blank is enough to refuse; moved lines are found."""
    file = tree / "drivers/md/md.c"
    file.write_text("/* a\n * longer\n * head */\n" + MD)
    one(tmp_path, CHANGE).apply(tree, tmp_path / "log")
    file.write_text(MD.replace("int unused;", "int  unused;"))
    with pytest.raises(UserError):
        one(tmp_path, CHANGE).apply(tree, tmp_path / "log")


def test_mbox(tmp_path: Path) -> None:
    folder = tmp_path / "box"
    folder.mkdir()
    files = series_files()
    cover = mail(0, "cover letter").replace("-- \n2.39.5\n", "")
    (folder / "all.mbox").write_text(cover + "\n" + "\n".join(files.values()))
    series = Series.load(folder)
    assert [patch.name for patch in series.patches] == ["all.mbox:2", "all.mbox:3", "all.mbox:4"]
    assert [patch.diff for patch in series.patches] == [
        patch.diff for patch in Series.load(write_series(tmp_path / "good")).patches
    ]


def test_series_on_top_of_another(tmp_path: Path, tree: Path) -> None:
    files = series_files()
    write_series(tmp_path / "base", dict(list(files.items())[:2]))
    (tmp_path / "base" / "series.toml").write_text('kernel = "2.6.31"\n[config]\nCONFIG_DM_FAKE = true\n')
    top = write_series(tmp_path / "top", dict(list(files.items())[2:]))
    (top / "series.toml").write_text('title = "On top"\non = "../base"\n[config]\nCONFIG_HZ = 250\n')
    series = Series.load(top)
    assert (series.title, series.kernel, len(series.patches)) == ("On top", "2.6.31", 1)
    assert series.all_config == {"CONFIG_DM_FAKE": "y", "CONFIG_HZ": "250"}
    assert [patch.name for patch in series.all_patches()] == list(files)
    assert len(series.prefix(0).all_patches()) == 2
    series.apply(tree, tmp_path / "log")
    assert "* 2" in (tree / "drivers/md/dm-fake.c").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('on = "../good"', "on top of itself"),
        ('on = "../gone"', "not a folder"),
        ("title = 3", "title: Input should be a valid string"),
        ("titel = 'x'", "titel: Extra inputs"),
        ("x", "Expected '='"),
        ("[config]\nDM_IOBAND = 'y'", "'DM_IOBAND' is not like CONFIG_DM_IOBAND"),
    ],
)
def test_wrong_series_toml(tmp_path: Path, text: str, said: str) -> None:
    folder = write_series(tmp_path / "good")
    (folder / "series.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        Series.load(folder)
    assert said in caught.value.message
