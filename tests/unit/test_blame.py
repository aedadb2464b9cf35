"""blame.py: which patch added which line, by real git, on the tree in miniature."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakekernel import LINUX, build_spec, diff, mail, write_series

from harness import blame
from harness.errors import UserError
from harness.series import Series
from harness.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def lines_of(store: Store, tmp_path: Path, series: Path) -> dict[str, list[tuple[int, int, str]]]:
    added = blame.added_lines(store, build_spec(store, tmp_path, series))
    return {name: [(line.number, line.patch, line.text) for line in lines] for name, lines in added.items()}


def test_each_line_is_the_last_ones_that_wrote_it(store: Store, tmp_path: Path) -> None:
    found = lines_of(store, tmp_path, write_series(tmp_path / "series"))
    assert sorted(found) == ["drivers/md/dm-fake.c", "drivers/md/md.c"]
    assert found["drivers/md/dm-fake.c"] == [
        (1, 1, "#include <linux/md.h>"),
        (2, 1, ""),
        (3, 1, "int dm_fake_ctr(void)"),
        (4, 1, "{"),
        (5, 2, "\treturn MD_VERSION * 2;"),
        (6, 1, "}"),
    ]
    (changed,) = found["drivers/md/md.c"]
    assert changed[1:] == (0, "\treturn MD_VERSION + 1;")
    assert (LINUX / "drivers/md/md.c").read_text().splitlines()[changed[0] - 1] == "\treturn MD_VERSION;"
    assert not list((store.root / "tmp").glob("*"))


def test_settings_of_the_user_stay_out(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gitconfig").write_text("[commit]\n\tgpgsign = true\n[core]\n\tautocrlf = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert lines_of(store, tmp_path, write_series(tmp_path / "series"))["drivers/md/md.c"]


def test_a_file_that_moves_and_one_that_goes(store: Store, tmp_path: Path) -> None:
    md = (LINUX / "drivers/md/md.c").read_text()
    moved = (
        "diff --git a/drivers/md/md.c b/drivers/md/core.c\nsimilarity index 100%\n"
        "rename from drivers/md/md.c\nrename to drivers/md/core.c\n"
    )
    gone = diff("drivers/md/gone.c", "", "int gone;\n").replace("+++ b/drivers/md/gone.c", "+++ /dev/null")
    gone = gone.replace("\n---", "\ndeleted file mode 100644\n---", 1)
    series = write_series(
        tmp_path / "series",
        {
            "0001-add.patch": mail(1, "add", diff("drivers/md/gone.c", "int gone;\n")),
            "0002-move.patch": mail(2, "move", moved),
            "0003-change.patch": mail(
                3, "change", diff("drivers/md/core.c", md.replace("_VERSION;", "_VERSION + 1;"), md), gone
            ),
        },
    )
    found = lines_of(store, tmp_path, series)
    assert "drivers/md/gone.c" not in found and "drivers/md/md.c" not in found
    assert [(patch, text) for _, patch, text in found["drivers/md/core.c"]] == [
        (2, "\treturn MD_VERSION + 1;")
    ]


def test_patches_underneath_count_first(store: Store, tmp_path: Path) -> None:
    below = write_series(tmp_path / "below")
    fake = "drivers/md/dm-fake.c"
    text = next(p for p in Series.load(below).patches[2].files if p == fake)
    top = write_series(
        tmp_path / "top",
        {
            "0001-top.patch": mail(1, "top", diff("drivers/md/top.h", "int top;\n")),
            "series.toml": f'on = "{below}"\n',
        },
    )
    found = lines_of(store, tmp_path, top)
    assert found["drivers/md/top.h"] == [(1, 3, "int top;")] and text in found


def test_a_patch_that_does_not_apply(store: Store, tmp_path: Path) -> None:
    wrong = write_series(
        tmp_path / "series",
        {"0001-wrong.patch": mail(1, "wrong", diff("drivers/md/md.c", "int a;\n", "int b;\n"))},
    )
    with pytest.raises(UserError, match=r"0001-wrong\.patch does not apply"):
        lines_of(store, tmp_path, wrong)
