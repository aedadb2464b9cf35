"""What in the harness decides whether a test passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import suite


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A harness of a few modules."""
    for name in ("shares.py", "cli.py", "bench.py", "report/html.py", "templates/scenario.sh.j2"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "judges"),
    [
        ("shares.py", True),
        ("new.py", True),
        ("templates/scenario.sh.j2", True),
        ("cli.py", False),
        ("bench.py", False),
        ("report/html.py", False),
        ("report/templates/report.html.j2", False),
        ("notes.txt", False),
    ],
)
def test_a_change_where_tests_are_judged_is_another_digest(package: Path, name: str, judges: bool) -> None:
    before = suite.judges(package)
    (package / name).parent.mkdir(exist_ok=True, parents=True)
    (package / name).write_text("changed")
    assert (suite.judges(package) != before) == judges


def test_a_module_that_is_renamed_is_a_change(package: Path) -> None:
    before = suite.judges(package)
    (package / "shares.py").rename(package / "parts.py")
    assert suite.judges(package) != before


def test_the_exceptions_are_modules_that_there_are() -> None:
    names = {path.stem for path in Path(suite.__file__).parent.glob("*.py")}
    assert names >= suite.NOT_JUDGING
