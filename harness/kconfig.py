"""Kernel configuration: fragments, what they ask for, and the proof that it took effect.

`make allnoconfig` drops a symbol without a word when something that it depends on is missing; here that is an
error that names what is missing.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError

_SET = re.compile(r"^(CONFIG_\w+)=(y|m|n|-?\d+|0x[0-9a-fA-F]+|\".*\")$")
_UNSET = re.compile(r"^# (CONFIG_\w+) is not set$")
_DEFINITION = re.compile(r"^\s*(?:menu)?config\s+(\w+)", re.MULTILINE)
_SOURCE = re.compile(r'^\s*(?:o|r|or)?source\s+"?([^"$\s]+)"?\s*$', re.MULTILINE)
# What kconfiglib does not know, and how it knows it.
_DIALECTS = (
    # drivers/hwmon/Kconfig of 2.6.31 has a semicolon after a prompt; the kernel's parser let it pass.
    (re.compile(r'";[ \t]*$', re.MULTILINE), '"'),
    # Since 5.13 (kernel/module/Kconfig of 6.1) `option modules` has lost its first word.
    (re.compile(r"^([ \t]+)modules$", re.MULTILINE), r"\1option modules"),
)
# How many symbols one error message is about.
_SHOWN = 8


@dataclass(frozen=True)
class Request:
    """A symbol that is to have a value (``y``, ``m``, ``n``, a number, a quoted string), and who asks."""

    symbol: str
    value: str
    place: str

    @property
    def line(self) -> str:
        """As it stands in a .config."""
        return f"# {self.symbol} is not set" if self.value == "n" else f"{self.symbol}={self.value}"


def read_fragment(file: Path) -> list[Request]:
    """What a fragment asks for.

    Raises:
        UserError: a line is neither a symbol nor a comment; names file and line.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config fragment {file}: {error}") from error
    requests = []
    for number, line in enumerate(lines, 1):
        place = f"{file}:{number}"
        if unset := _UNSET.match(line.rstrip()):
            requests.append(Request(unset[1], "n", place))
        elif found := _SET.match(line.rstrip()):
            requests.append(Request(found[1], found[2], place))
        elif line.strip() and not line.startswith("#"):
            raise UserError(f"{place}: {line!r} is not of the form CONFIG_X=y", hint="see kernel/*/*.config")
    return requests


def merge(requests: Iterable[Request]) -> list[Request]:
    """One request for each symbol: the last."""
    return list({request.symbol: request for request in requests}.values())


def defined_symbols(tree: Path) -> set[str]:
    """Every symbol (``CONFIG_X``) that some Kconfig file of the tree defines."""
    found: set[str] = set()
    for file in _kconfig_files(tree):
        found.update(f"CONFIG_{name}" for name in _DEFINITION.findall(file.read_text(errors="replace")))
    return found


def missing_sources(tree: Path) -> set[str]:
    """Files that Kconfig files of the tree read in and that are not there; names relative to the tree.

    Names with variables in them are an architecture's own, and left out.
    """
    named: set[str] = set()
    for file in _kconfig_files(tree):
        named.update(_SOURCE.findall(file.read_text(errors="replace")))
    return {name for name in named if not (tree / name).exists()}


def _kconfig_files(tree: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(tree):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in files if name.startswith("Kconfig"))


def values(config: str) -> dict[str, str]:
    """The symbols of a .config and their values; one that is not set is missing."""
    return {found[1]: found[2] for found in map(_SET.match, config.splitlines()) if found}


def require(requests: Sequence[Request], config: Path, reader: KconfigReader) -> None:
    """See that every request took effect in a .config.

    Raises:
        UserError: one did not; names the symbol, who asked, what .config has instead, and what is unmet.
    """
    seen = values(config.read_text())
    failed = [request for request in requests if seen.get(request.symbol, "n") != request.value]
    if not failed:
        return
    reasons = reader.explain([request.symbol for request in failed[:_SHOWN]], config)
    lines = [f"{len(failed)} config symbol{'s' * (len(failed) > 1)} did not take effect:"]
    for request in failed[:_SHOWN]:
        has = f"{request.symbol}={seen[request.symbol]}" if request.symbol in seen else "it is not set"
        lines.append(f"  {request.line}  ({request.place}); in .config: {has}")
        lines += [f"    {reason}" for reason in reasons[request.symbol]]
    if len(failed) > _SHOWN:
        lines.append(f"  ... and {len(failed) - _SHOWN} more")
    raise UserError(
        "\n".join(lines), hint="set what they depend on as well, or leave them out of the fragment"
    )


@dataclass(frozen=True)
class KconfigReader:
    """Reads a tree's Kconfig files for one architecture.

    top: the root file, e.g. ``arch/x86/Kconfig``. environment: ``ARCH``, ``SRCARCH``, ``KERNELVERSION`` and
    what else the files refer to, as the build has it: since 4.18 they run the compiler to see what it can do.
    """

    tree: Path
    top: str
    environment: Mapping[str, str]

    def explain(self, symbols: Sequence[str], config: Path) -> dict[str, list[str]]:
        """Why each symbol (``CONFIG_X``) does not have the value that was asked for; sentences for people."""
        import kconfiglib

        with tempfile.TemporaryDirectory() as folder:
            self._copy(Path(folder))
            try:
                with _environ({**self.environment, "srctree": folder, "CONFIG_": "CONFIG_"}):
                    kconf = kconfiglib.Kconfig(self.top, warn=False)
                    kconf.load_config(str(config))
            except kconfiglib.KconfigError as error:
                return {symbol: [f"its dependencies are not known: {error}"] for symbol in symbols}
        return {symbol: list(_reasons(kconf, symbol.removeprefix("CONFIG_"))) for symbol in symbols}

    def _copy(self, folder: Path) -> None:
        """The Kconfig files, in words that kconfiglib knows; and the scripts that they run."""
        for script in (self.tree / "scripts").glob("*.sh"):
            (folder / "scripts").mkdir(exist_ok=True)
            (folder / "scripts" / script.name).symlink_to(script.absolute())
        for file in _kconfig_files(self.tree):
            copy = folder / file.relative_to(self.tree)
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = file.read_text(errors="replace")
            for pattern, known in _DIALECTS:
                text = pattern.sub(known, text)
            copy.write_text(text)


@contextmanager
def _environ(variables: Mapping[str, str]) -> Iterator[None]:
    """kconfiglib takes its variables from the process's environment only."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _reasons(kconf: Any, name: str) -> Iterator[str]:
    """Why a symbol is not set, from kconfiglib's model of the tree (untyped)."""
    import kconfiglib

    symbol = kconf.syms.get(name)
    if symbol is None or not symbol.nodes:
        yield "this tree defines no such symbol"
        return
    place = f"{symbol.nodes[0].filename}:{symbol.nodes[0].linenr}"
    unmet = [
        term
        for term in kconfiglib.split_expr(symbol.direct_dep, kconfiglib.AND)
        if kconfiglib.expr_value(term) == 0
    ]
    for term in unmet:
        shown = kconfiglib.expr_str(term)
        used = sorted({s.name for s in kconfiglib.expr_items(term) if getattr(s, "nodes", None) and s.name})
        now = ", ".join(f"{other}={kconf.syms[other].str_value}" for other in used if other in kconf.syms)
        yield f"unmet dependency: {shown}{f' ({now})' if now else ''}, {place}"
    if symbol.choice is not None and not unmet:
        chosen = symbol.choice.selection
        yield f"one of a choice; chosen: {chosen.name if chosen else 'none'}, {place}"
    elif not any(node.prompt for node in symbol.nodes):
        selected = sorted(other.name for other in kconf.unique_defined_syms if _selects(other, symbol))
        by = f"selected by {', '.join(selected)}" if selected else "computed from its defaults"
        yield f"it has no prompt, so it cannot be asked for: it is {by}, {place}"
    elif not unmet and symbol.rev_dep is not kconf.n and kconfiglib.expr_value(symbol.rev_dep) > 0:
        yield f"selected by another symbol: {kconfiglib.expr_str(symbol.rev_dep)}"


def _selects(selector: Any, symbol: Any) -> bool:
    return any(target is symbol for target, _condition in selector.selects)
