"""Loops in the guest that get in each other's way, and what each of them did."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.guest import Guest

FOLDER = "/tmp/race"

# Seconds of the guest that the leader goes on for at most, where it waits for what must have been seen.
MOST = 60

# run COMMAND...: count it. put TEXT FILE: one write(2) by the shell itself, no process is started. get FILE: read it
# all, likewise. What goes wrong is said in a file of the side's own.
_PRELUDE = f"""
cd {FOLDER} || exit 1
i=0 ok=0 bad=0
good() {{ if [ $? = 0 ]; then ok=$((ok + 1)); else bad=$((bad + 1)); fi; }}
run() {{ "$@" >/dev/null 2>>errors.$side; good; }}
put() {{ echo "$1" 2>>errors.$side >"$2"; good; }}
get() {{ while read -r line; do :; done 2>>errors.$side <"$1"; good; }}
"""

_OTHER = """(
side=%(side)s
while [ ! -e over ]; do
	i=$((i + 1))
%(body)s
	echo "$i $ok $bad" >>count.$side
done
) &
"""

_LEADER = """
side=%(side)s
for other in %(others)s; do
	until [ -s count.$other ]; do usleep 1000; done
	tail -n 1 count.$other >begin.$other
done
turned() {
	for other in %(others)s; do
		[ "$(tail -n 1 count.$other)" != "$(cat begin.$other)" ] || return 1
	done
}
both() {
	for other in %(both)s; do
		set -- $(tail -n 1 count.$other)
		[ $2 -gt 0 ] && [ $3 -gt 0 ] || return 1
	done
}
read -r begun rest </proc/uptime
in_time() {
	read -r now rest </proc/uptime
	[ $((${now%%%%.*} - ${begun%%%%.*})) -lt %(most)d ]
}
until [ $i -ge %(count)d ] && turned && { both && %(enough)s || ! in_time; }; do
	i=$((i + 1))
%(body)s
done
for other in %(others)s; do tail -n 1 count.$other >end.$other; done
echo "$i $ok $bad" >>count.$side
>over
wait
"""


@dataclass(frozen=True)
class Side:
    """What one loop did. rounds: while the leading one ran. errors: how often the system gave which answer."""

    rounds: int
    ok: int
    bad: int
    errors: Counter[str]


def race(
    guest: Guest,
    leader: tuple[str, str, int],
    others: Mapping[str, str],
    *,
    both: Sequence[str] = (),
    enough: str = "true",
) -> dict[str, Side]:
    """Run loops side by side: leader = (name, body, rounds); the others run for as long as it does.

    It does more rounds where that is needed for each of the others to go round, and, for ``MOST`` seconds, until each
    of those in ``both`` has been done and has been refused and ``enough``, a command of the shell in the leader, says
    so: how soon the loops meet is luck. Bodies are shell, see the prelude.
    """
    name, body, count = leader
    script = _PRELUDE + "".join(_OTHER % {"side": s, "body": b} for s, b in others.items())
    words = {"side": name, "body": body, "count": count, "others": " ".join(others)}
    script += _LEADER % {**words, "both": " ".join(both), "enough": enough, "most": MOST}
    guest.run(["sh", "-c", f"rm -rf {FOLDER} && mkdir {FOLDER}"])
    guest.put(script, f"{FOLDER}/script")
    guest.run(["sh", f"{FOLDER}/script"], timeout=300)
    files = {path: data.decode(errors="replace") for path, data in guest.get_tree(FOLDER).items()}
    sides = {name: _side(files, name, int(files[f"count.{name}"].split()[0]))}
    for other in others:
        begin, end = (int(files[f"{which}.{other}"].split()[0]) for which in ("begin", "end"))
        sides[other] = _side(files, other, end - begin)
    assert sides[name].rounds >= count
    assert all(side.rounds > 0 for side in sides.values()), f"a loop stood still: {sides}"
    return sides


def _side(files: Mapping[str, str], name: str, rounds: int) -> Side:
    _, ok, bad = (int(word) for word in files[f"count.{name}"].splitlines()[-1].split())
    said = filter(None, files.get(f"errors.{name}", "").splitlines())
    return Side(rounds, ok, bad, Counter(map(_answer, said)))


def _answer(line: str) -> str:
    """The system's words in a complaint of a program: what follows the last colon."""
    return re.sub(r"^.*: ", "", line)
