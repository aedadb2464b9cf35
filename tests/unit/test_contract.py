from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import contract, project
from harness.errors import UserError

ROOT = Path(__file__).parents[2]
ROW = '[[row]]\nid = "ctr-01"\nsection = "Table line"\nsays = "Six arguments are enough."\n'


def test_rows_keep_the_order_of_files_and_of_rows(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text(ROW)
    (tmp_path / "a.toml").write_text(ROW.replace("ctr-01", "a-02") + ROW.replace("ctr-01", "a-01"))
    rows = contract.load_all(tmp_path)
    assert list(rows) == ["a-02", "a-01", "ctr-01"]
    assert rows["ctr-01"].untested is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ROW.replace("says", "sais"), "ctr-01.says: Field required; ctr-01.sais: Extra inputs"),
        (ROW.replace('"Six arguments are enough."', '" "'), "ctr-01.says: String should match"),
        (ROW.replace("ctr-01", "Ctr 1"), "Ctr 1.id: String should match"),
        (ROW.replace('id = "ctr-01"\n', ""), "row 1.id: Field required"),
        (ROW + 'untested = ""\n', "ctr-01.untested: String should match"),
        ("", "row: Field required"),
        ("row = 5", "row: Input should be a valid list"),
        ("row = [5]", "row 1: Input should be a valid dictionary"),
        ("[[row]", "not valid TOML"),
    ],
)
def test_a_mistake_names_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        contract.load_all(tmp_path)
    assert f"{file}: " in caught.value.message
    assert said in caught.value.message


def test_an_id_is_used_once(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(ROW)
    (tmp_path / "b.toml").write_text(ROW)
    with pytest.raises(UserError, match=r"b\.toml: ctr-01: this id is also in .*a\.toml"):
        contract.load_all(tmp_path)


def test_no_contract_and_no_file_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no contract in"):
        contract.load_all(tmp_path)
    with pytest.raises(UserError, match="No such file"):
        contract.load(tmp_path / "x.toml")


def test_what_tests_name_is_held_against_the_rows(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        ROW
        + ROW.replace("ctr-01", "ctr-02")
        + ROW.replace("ctr-01", "ctr-03")
        + 'untested = "no window on it"\n'
    )
    rows = contract.load_all(tmp_path)
    assert contract.wrong_ids(rows, ["ctr-01", "ctr-09", "ctr-03"]) == [
        "ctr-09: no such row",
        "ctr-03: says that it cannot be tested",
    ]
    assert contract.missing_tests(rows, ["ctr-01"]) == ["ctr-02"]


def collected(tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    """pytest on a project of its own: one row, ctr-01, and one file of guest tests."""
    tests = tmp_path / "tests" / "guest"
    (tests / "contract").mkdir(parents=True)
    (tests / "contract" / "ctr.toml").write_text(ROW)
    (tests / "test_x.py").write_text(f"import pytest\npytestmark = pytest.mark.guest\n{text}")
    command = [
        sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-q", "-p", "no:cacheprovider",
        f"--rootdir={tmp_path}", "--collect-only", str(tests),
    ]  # fmt: skip
    environment = {**os.environ, "HARNESS_ROOT": str(tmp_path), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)


def test_a_marker_that_names_a_row_is_taken(tmp_path: Path) -> None:
    done = collected(tmp_path, '@pytest.mark.contract("ctr-01")\ndef test_a(): pass\n')
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_marker_that_names_no_row_is_refused_with_the_test_and_the_id(tmp_path: Path) -> None:
    done = collected(tmp_path, '@pytest.mark.contract("ctr-01", "ctr-7")\ndef test_a(): pass\n')
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "test_x.py::test_a: contract row ctr-7: no such row" in done.stdout + done.stderr


COLLECT = """
import json, sys
import pytest
from harness import conformance
class Collector:
    ids = []
    def pytest_collection_finish(self, session):
        self.ids = sorted({row for item in session.items for row in conformance.row_ids(item)})
collector = Collector()
code = pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", sys.argv[1]], plugins=[collector])
print(json.dumps(collector.ids))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def rows_in_markers() -> list[str]:
    """The rows that the tests of tests/guest name."""
    command = [sys.executable, "-c", COLLECT, "tests/guest"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    ids: list[str] = json.loads(done.stdout.splitlines()[-1])
    return ids


def test_guest_tests_name_rows_of_the_contract_only(rows_in_markers: list[str]) -> None:
    assert contract.wrong_ids(contract.load_all(project.contract_dir()), rows_in_markers) == []


def test_every_row_has_a_test_or_says_why_there_is_none(rows_in_markers: list[str]) -> None:
    assert contract.missing_tests(contract.load_all(project.contract_dir()), rows_in_markers) == []
