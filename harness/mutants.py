"""``harness mutants``: does the guest suite notice mistakes? Each mutant is built, and must be killed by its tests.

First the good series runs the tests that are to kill: a test that fails there proves nothing. Then each mutant runs
its own, the cheapest first, until one fails. Verdicts are kept in the cache; what changed neither in the mutant, nor
in the series, nor in the tests, nor in what a kernel's manifest tells them, nor in what judges them in the harness, is
not run again.
"""

from __future__ import annotations

import ast
import re
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from harness import child, kbuild, mutant, progress, project, session, suite, testbed
from harness import report as reports
from harness.errors import EXIT_ENVIRONMENT, EXIT_USER, HarnessError, UserError
from harness.kbuild import BuildSpec
from harness.mutant import Mutant, MutantRecord
from harness.progress import Progress
from harness.record import Recorder, Run
from harness.report import terminal
from harness.report.summary import telling
from harness.series import Series
from harness.source import KernelSpec
from harness.store import Store, digest
from harness.testbed import FLAVOUR, Testbed
from harness.variant import ObjectTree

KIND = "mutant"
BASELINE = "mutant-baseline"
# Part of every key: to be raised when verdicts are found in another way.
RECIPE = "2"
_PASSED = "passed"

# A mutant, and the node ids of its tests.
Prey = tuple[Mutant, list[str]]


def run(kernel: str, names: Sequence[str], *, workers: int, again: bool) -> int:
    """Kill the mutants (those whose names match; all for none) and return the exit code of the run's record.

    again: those with a verdict in the cache as well. Raises HarnessError as `testbed.prepare` does.
    """
    store, shown = Store.default(), progress.default()
    recorder = Recorder.start(project.new_run_folder(), ["harness", *sys.argv[1:]])
    try:
        bed = testbed.prepare(store, kernel, None, shown)
        session.describe(recorder, bed)
        wanted = mutant.chosen(mutant.load_all(project.mutants_dir(bed.series.name), bed.series), names)
        tests = suite.collect()
        with _Hunt(bed, recorder, shown, workers) as hunt:
            hunt.run([(m, m.tests(tests)) for m in wanted], again=again)
    except (HarnessError, KeyboardInterrupt) as e:
        recorder.stopped(e)
        _finish(recorder)
        raise
    return _finish(recorder)


def listed(kernel: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """Name and mistake of each mutant."""
    base = Series.load(testbed.series_folder(kernel, None))
    found = mutant.chosen(mutant.load_all(project.mutants_dir(base.name), base), names)
    return [(m.name, m.mistake) for m in found]


def _finish(recorder: Recorder) -> int:
    code = recorder.finish()
    reports.write_all(recorder.folder)
    terminal.summary(recorder.run, recorder.folder)
    return code


class _Hunt:
    """One call of the command. A context manager: leaving it ends all that it started."""

    def __init__(self, bed: Testbed, recorder: Recorder, shown: Progress, workers: int) -> None:
        self._bed = bed
        self._recorder = recorder
        self._shown = shown
        self._workers = workers
        self._stack = ExitStack()
        self._trees: dict[str, ObjectTree] = {}
        self._children = self._stack.enter_context(child.Children())
        self._passed: set[str] = set()
        self._say = threading.Lock()

    def __enter__(self) -> _Hunt:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def run(self, wanted: Sequence[Prey], *, again: bool) -> None:
        """All of it; the verdicts go into the record as they are found."""
        left = []
        for m, tests in wanted:
            known = None if again else self._known(m, tests)
            if known is None:
                left.append((m, tests))
            else:
                self._ended(known)
        for flavour in dict.fromkeys(m.flavour for m, _ in left):
            killers = dict.fromkeys(t for m, tests in left if m.flavour == flavour for t in tests)
            self._passed |= self._baseline(flavour, list(killers))
        for flavour in {FLAVOUR, *(m.flavour for m, _ in left)} if left else ():
            self._trees[flavour] = self._stack.enter_context(
                ObjectTree(self._bed.store, self._spec(flavour), self._shown)
            )
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="mutant")
        futures = [pool.submit(self._one, *prey) for prey in left]
        try:
            wait(futures, return_when="FIRST_EXCEPTION")
        finally:
            self._children.interrupt()
            pool.shutdown(wait=True, cancel_futures=True)
        for future in futures:
            if not future.cancelled():
                future.result()

    # ---- the good series

    def _baseline(self, flavour: str, tests: Sequence[str]) -> set[str]:
        """Node ids of the tests that the good series passes, of those that are to kill."""
        build = self._bed.flavour(flavour, self._shown)
        digests = {file: tests_digest([file], self._bed.spec) for file in {_file(test) for test in tests}}
        keys = {
            test: digest(RECIPE, build.key, self._bed.image.key, flavour, digests[_file(test)], test)
            for test in tests
        }
        left = [test for test in tests if self._bed.store.find(BASELINE, keys[test]) is None]
        passed = set(tests) - set(left)
        if not left:
            return passed
        with self._shown.task(f"{len(left)} tests on the good series, {flavour}"):
            done = self._children.harness_test(
                self._recorder.folder / f"baseline-{flavour}", self._words(self._bed.series.path, left)
            )
        good = {name for name, outcome in child.outcomes(done.run).items() if outcome == _PASSED}
        for test in left:
            if test in good:
                what = f"passed by the good series, {flavour}: {test}"
                self._bed.store.build(BASELINE, keys[test], lambda folder: None, what=what)
        return passed | good

    # ---- one mutant

    def _one(self, m: Mutant, tests: Sequence[str]) -> None:
        entry = _entry(m, tests)
        unproven = [test for test in tests if test not in self._passed]
        try:
            if unproven:
                entry.outcome = "unproven"
                entry.how = f"the good series does not pass {', '.join(unproven)}"
            else:
                builds = [self._trees[f].build(m.series) for f in dict.fromkeys((FLAVOUR, m.flavour))]
                now = [b.seconds for b in builds if not b.cached]
                entry.build_seconds = sum(now) if now else None
                self._hunt(m, entry)
        except UserError as e:
            entry.outcome, entry.how = "broken", str(e)
        self._ended(entry)
        if entry.killed:
            self._keep(m, entry)

    def _hunt(self, m: Mutant, entry: MutantRecord) -> None:
        folder = self._recorder.folder / m.name
        m.write_series(folder / "series")
        began = time.monotonic()
        done = self._children.harness_test(
            folder, ["--exitfirst", *self._words(folder / "series", entry.tests)]
        )
        entry.seconds = time.monotonic() - began
        entry.run = str(done.folder.relative_to(self._recorder.folder))
        judge(m, done.run, entry)

    def _words(self, series: Path, tests: Sequence[str]) -> list[str]:
        """Arguments of `harness test`."""
        options = ["--kernel", self._bed.spec.name, "--series", str(series)]
        return [*options, "-p", "no:cacheprovider", *tests]

    def _ended(self, entry: MutantRecord) -> None:
        with self._recorder.change() as run:
            run.mutants.append(entry)
        with self._say:
            self._shown.say(line(entry))

    # ---- what is kept

    def _spec(self, flavour: str) -> BuildSpec:
        bed = self._bed
        return BuildSpec(
            kernel=bed.spec, tree=bed.tree, series=bed.series, flavour=flavour, compiler=bed.compiler
        )

    def _key(self, m: Mutant, tests: Sequence[str]) -> str:
        build = replace(self._spec(m.flavour), series=m.series).key
        files = tests_digest(sorted({_file(test) for test in tests}), self._bed.spec)
        return digest(RECIPE, build, self._bed.image.key, files, m.symptom or "", *tests)

    def _known(self, m: Mutant, tests: Sequence[str]) -> MutantRecord | None:
        folder = self._bed.store.find(KIND, self._key(m, tests))
        if folder is None:
            return None
        found = MutantRecord.model_validate_json((folder / "verdict.json").read_bytes())
        return found.model_copy(update={"cached": True, "mistake": m.mistake, "about": m.about, "run": None})

    def _keep(self, m: Mutant, entry: MutantRecord) -> None:
        """The verdict; its kernel is not needed any more."""

        def make(folder: Path) -> None:
            (folder / "verdict.json").write_text(entry.model_dump_json())

        self._bed.store.build(KIND, self._key(m, entry.tests), make, what=f"{m.name}: killed")
        specs = [replace(self._spec(f), series=m.series) for f in {FLAVOUR, m.flavour}]
        keys = {spec.key for spec in specs}
        for built in self._bed.store.entries():
            if built.kind == kbuild.KIND and built.key in keys:
                self._bed.store.remove(built)


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def _entry(m: Mutant, tests: Sequence[str]) -> MutantRecord:
    return MutantRecord(
        name=m.name,
        mistake=m.mistake,
        about=m.about,
        flavour=m.flavour,
        tests=list(tests),
        outcome="survived",
    )


def judge(m: Mutant, run: Run, entry: MutantRecord) -> None:
    """Set outcome, killed_by and how by what the mutant's own run recorded.

    A failed test of its list kills it. The kernel's death, or an error of the check after a test, kills it if the
    entry's symptom matches what was said, and is an accident otherwise.
    """
    error = run.error
    if error is not None and error.exit_code in (EXIT_USER, EXIT_ENVIRONMENT):
        entry.outcome, entry.how = "broken", error.message
        return
    ended = child.outcomes(run)
    bad = next(((n, o) for n, o in ended.items() if o not in (_PASSED, "skipped", "inconclusive")), None)
    said = child.said(run, bad[0]) if bad else ""
    if run.deaths:
        death = run.deaths[0]
        said = "\n".join((death.message, death.raw, said))
    if bad is None and not run.deaths:
        missing = [test for test in entry.tests if ended.get(test) != _PASSED]
        entry.outcome = "survived"
        entry.how = f"not decided: {', '.join(missing)}" if missing else ""
        return
    symptom = m.symptom is not None and re.search(m.symptom, said) is not None
    failed = bad is not None and bad[1] == "failed" and not run.deaths
    entry.outcome = "killed" if symptom or failed else "accident"
    entry.killed_by = bad[0] if bad else None
    entry.how = telling(said, m.symptom) if symptom and m.symptom else telling(said)


def tests_digest(files: Sequence[str], kernel: KernelSpec) -> str:
    """sha256 over test files (paths below the project), the fixtures that all have, and what these import from the
    folder of the guest tests; over what they are told of the kernel; over the harness (`suite.judges`); over the
    scenarios, too, where tests are about scenarios.
    """
    folder = project.ROOT / "tests" / "guest"
    own = [project.ROOT / file for file in files]
    found: dict[Path, bytes] = {}
    left = [folder / "conftest.py", *own]
    while left:
        path = left.pop()
        if path not in found and path.is_file():
            found[path] = path.read_bytes()
            left += [folder / f"{name}.py" for name in _imported(found[path])]
    told = kernel.told([text.decode() for text in found.values()])
    if any(b"scenario" in found.get(path, b"") for path in own):
        found |= {path: path.read_bytes() for path in project.scenarios_dir().glob("*.toml")}
    return digest(
        suite.judges(), told, *(part for path in sorted(found) for part in (path.name, found[path]))
    )


def _imported(source: bytes) -> list[str]:
    """The modules that a module imports."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return names


def line(entry: MutantRecord) -> str:
    """One line for the terminal."""
    word = "killed" if entry.killed else entry.outcome.upper()
    took = "cached" if entry.cached else f"{entry.seconds:.1f} s"
    by = entry.killed_by.removeprefix("tests/guest/") if entry.killed_by else ""
    return f"{word:8} {entry.name:34} {took:>7}  {'  '.join(part for part in (by, entry.how[:100]) if part)}"
