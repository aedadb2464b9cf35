"""What the guest's programs are and how they are built: ``images/programs/*.toml``, one file per program.

A recipe is data. Its build steps are argument lists, in which ``@CC@`` stands for the C compiler
(static, musl) and ``@JOBS@`` for the number of parallel jobs; no shell reads them. Adding a program is
adding a file.
"""

from __future__ import annotations

import graphlib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import UserError
from harness.store import digest


def _inside(path: str) -> str:
    """A path below the build tree (or the recipes' folder)."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise ValueError(f"{path!r} is not a relative path inside the tree")
    return path


def _in_image(path: str) -> str:
    """A path in the image: absolute and plain."""
    pure = PurePosixPath(path)
    if not pure.is_absolute() or ".." in pure.parts or str(pure) != path or path == "/":
        raise ValueError(f"{path!r} is not an absolute path in the image")
    return path


TreePath = Annotated[str, AfterValidator(_inside)]
ImagePath = Annotated[str, AfterValidator(_in_image)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]*$")]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Upstream(_Data):
    """A place to download the release from. ``sha256``: when it is packed differently from the
    distribution's file.
    """

    url: Annotated[str, Field(pattern=r"^https?://")]
    sha256: Sha256 | None = None


class SourceSpec(_Data):
    """One release tarball: from the source package ``package`` of the distribution, else from ``upstream``.

    sha256: of the distribution's ``.orig.tar`` file, which is the upstream tarball where not said otherwise.
    """

    package: Name
    sha256: Sha256
    upstream: tuple[Upstream, ...] = ()

    @property
    def accepted(self) -> tuple[str, ...]:
        """The sha256 of every file that is this source, the distribution's first."""
        return tuple(dict.fromkeys((self.sha256, *(place.sha256 or self.sha256 for place in self.upstream))))


class Product(_Data):
    """A program that a build made: a static executable.

    file: where the build leaves it. path: where it goes. links: further names in the image. link_list:
    a file that the build makes, with more names, one a line; a program of that name from elsewhere goes
    before such a link.
    """

    file: TreePath
    path: ImagePath
    links: tuple[ImagePath, ...] = ()
    link_list: TreePath | None = None


class Exports(_Data):
    """Headers and libraries for the programs that need this one."""

    include: tuple[TreePath, ...] = ()
    lib: tuple[TreePath, ...] = ()


class Recipe(_Data):
    """One program. ``files``: data files beside the recipes, by path, and where they go in the source
    tree. source: None for a program of our own, which those files are.
    """

    name: Name
    version: str
    licence: str
    source: SourceSpec | None = None
    steps: Annotated[tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...], Field(min_length=1)]
    needs: tuple[Name, ...] = ()
    files: dict[TreePath, TreePath] = {}
    environment: dict[str, str] = {}
    products: tuple[Product, ...] = ()
    exports: Exports = Exports()

    @model_validator(mode="after")
    def _makes_something(self) -> Self:
        if not (self.products or self.exports.include or self.exports.lib):
            raise ValueError("it has neither products nor exports: nothing would be made")
        if self.source is None and not self.files:
            raise ValueError("it has neither a source nor files: there is nothing to make it of")
        return self


class Program(_Data):
    """A recipe with the content of all that it refers to."""

    recipe: Recipe
    data: dict[str, bytes]

    def key(self, toolchain: str, needs: Mapping[str, str]) -> str:
        """The hash of all that goes into the build: recipe, data, source, toolchain and the keys of
        what it needs.
        """
        parts: list[str | bytes] = [self.recipe.model_dump_json(), toolchain]
        for name in sorted(self.data):
            parts += [name, self.data[name]]
        for name in self.recipe.needs:
            parts += [name, needs[name]]
        return digest(*parts)


def load(folder: Path) -> tuple[Program, ...]:
    """Every program of ``folder``, each after those that it needs.

    Raises UserError naming the file: unreadable TOML, an unknown or missing field, a data file that is
    not there, an unknown or circular ``needs``.
    """
    programs: dict[str, Program] = {}
    for path in sorted(folder.glob("*.toml")):
        program = _read(path)
        name = program.recipe.name
        if name != path.stem:
            raise UserError(f"{path}: the program is called {name!r}, so its file must be {name}.toml")
        programs[name] = program
    if not programs:
        raise UserError(f"{folder} holds no recipe (*.toml)")
    return tuple(programs[name] for name in _ordered(folder, programs))


def _read(path: Path) -> Program:
    try:
        recipe = Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        data = {name: (path.parent / name).read_bytes() for name in recipe.files}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise UserError(f"{path}: {_first(error)}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.filename}: {error.strerror}") from error
    return Program(recipe=recipe, data=data)


def _first(error: ValidationError) -> str:
    """The first complaint, with the place it is about."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])


def _ordered(folder: Path, programs: Mapping[str, Program]) -> Sequence[str]:
    for name, program in programs.items():
        for needed in program.recipe.needs:
            if needed not in programs:
                raise UserError(f"{folder / name}.toml needs {needed!r}, for which there is no recipe")
    graph = {name: program.recipe.needs for name, program in programs.items()}
    try:
        return tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        raise UserError(
            f"{folder}: recipes need each other in a circle: {' -> '.join(error.args[1])}"
        ) from error
