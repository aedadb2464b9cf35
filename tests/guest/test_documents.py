"""The examples of the series' documents, taken out of the patches and run.

An example is a command after a tab and "# ", and below it what it prints, after a tab. Three dots stand for anything
within a line, a line of them for any number of lines. A command fails only where it is shown to say so.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness import host
from harness.repository import NO_OTHER_REPOSITORY

pytestmark = [
    pytest.mark.guest,
    # /dev/sdb with two partitions, as the documents say.
    pytest.mark.machine(append="scsi_debug.add_host=2 scsi_debug.dev_size_mb=64 scsi_debug.num_parts=2"),
]

MARK = "@@@"
DOCUMENTS = [
    "Documentation/device-mapper/ioband.txt",
    "Documentation/device-mapper/range-bw.txt",
    "Documentation/cgroups/blkio.txt",
]


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
        if line.startswith("\t# "):
            inside = True
            found.append((line[3:], []))
        elif inside and line.startswith("\t"):
            command, printed = found[-1]
            if command.endswith("\\"):
                found[-1] = (f"{command[:-1].rstrip()} {line.strip()}", printed)
            else:
                printed.append(line[1:])
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


@pytest.mark.parametrize("name", DOCUMENTS)
def test_examples_do_what_they_say(guest, testbed, tmp_path, name):
    told = examples(document(testbed.series, name, tmp_path))
    assert told
    script = "".join(f"echo {MARK}\n{{ {command}\n}} 2>&1 || echo exit $?\n" for command, _ in told)
    guest.put(script, "/tmp/examples")
    done = guest.run("sh /tmp/examples", timeout=120).stdout
    printed = done.split(f"{MARK}\n")[1:]
    wrong = [
        f"# {command}\n{text.rstrip()}\n  the document says\n" + "\n".join(expected)
        for (command, expected), text in zip(told, printed, strict=True)
        if not re.fullmatch(pattern(expected), text.rstrip("\n"), re.DOTALL)
    ]
    assert not wrong, "\n".join(wrong)
