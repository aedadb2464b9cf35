"""The examples of the series' documents, taken out of the patches and run.

An example is a command after a tab (or four blanks) and "# ", and below it what it prints, indented as well. Three dots
stand for anything within a line, a line of them for any number of lines. A command fails only where it is shown to say
so.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from unidiff import PatchSet

from harness import host
from harness.repository import NO_OTHER_REPOSITORY

pytestmark = [
    pytest.mark.guest,
    # /dev/sdb with two partitions, as the documents say.
    pytest.mark.machine(append="scsi_debug.add_host=2 scsi_debug.dev_size_mb=64 scsi_debug.num_parts=2"),
]

MARK = "@@@"
INDENT = re.compile(r"\t| {4}")


def documents(series) -> list[str]:
    """Those that the series adds to the kernel's."""
    added = [file.path for patch in series.all_patches() for file in PatchSet(patch.text) if file.is_added_file]
    return [path for path in added if path.startswith("Documentation/")]


def document(series, name: str, folder: Path) -> str:
    """The file as the whole series leaves it."""
    for patch in series.all_patches():
        if name in patch.files:
            host.run(
                ["git", "apply", f"--include={name}", "-"],
                cwd=folder,
                env={**NO_OTHER_REPOSITORY, "GIT_CEILING_DIRECTORIES": str(folder.parent)},
                input=patch.text,
            )
    return (folder / name).read_text()


def examples(text: str) -> list[tuple[str, list[str]]]:
    """Commands, and the lines that each one prints."""
    found: list[tuple[str, list[str]]] = []
    inside = False
    for line in text.splitlines():
        indent = INDENT.match(line)
        shown = line[indent.end() :] if indent else ""
        if shown.startswith("# "):
            inside = True
            found.append((shown[2:], []))
        elif inside and indent:
            command, printed = found[-1]
            if command.endswith("\\"):
                found[-1] = (f"{command[:-1].rstrip()} {line.strip()}", printed)
            else:
                printed.append(shown)
        else:
            inside = False
    return found


def pattern(printed: list[str]) -> str:
    """What the output must match."""
    lines = [
        ".*" if line == "..." else re.escape(line).replace(re.escape("..."), "[^\n]*") for line in printed
    ]
    if any("failed" in line for line in printed):
        lines.append(r"exit \d+")
    return "\n".join(lines)


@pytest.fixture
def requests(guest):
    """The disk has as many as the documents say."""
    guest.run("echo 128 > /sys/block/sdb/queue/nr_requests")


@pytest.mark.usefixtures("requests")
def test_examples_do_what_they_say(guest, testbed, tmp_path):
    wrong, with_examples = [], []
    for number, name in enumerate(documents(testbed.series)):
        folder = tmp_path / str(number)
        folder.mkdir()
        told = examples(document(testbed.series, name, folder))
        if not told:
            continue
        with_examples.append(name)
        script = "".join(f"echo {MARK}\n{{ {command}\n}} 2>&1 || echo exit $?\n" for command, _ in told)
        guest.put(script, "/tmp/examples")
        done = guest.run("sh /tmp/examples", timeout=120).stdout
        printed = done.split(f"{MARK}\n")[1:]
        wrong += [
            f"{name}: # {command}\n{text.rstrip()}\n  the document says\n" + "\n".join(expected)
            for (command, expected), text in zip(told, printed, strict=True)
            if not re.fullmatch(pattern(expected), text.rstrip("\n"), re.DOTALL)
        ]
    assert not wrong, "\n".join(wrong)
    assert len(with_examples) == 3, with_examples
