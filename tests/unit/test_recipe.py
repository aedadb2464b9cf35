from pathlib import Path

import pytest

from harness.errors import UserError
from harness.project import images_dir
from harness.recipe import load

SHA = "0" * 64
GOOD = f"""
name = "tool"
version = "1.0"
licence = "MIT"
steps = [["make", "CC=@CC@"]]

[source]
package = "tool"
sha256 = "{SHA}"
upstream = [{{ url = "https://tool.example/tool-1.0.tar.gz" }}]

[[products]]
file = "tool"
path = "/usr/bin/tool"
"""


def written(folder: Path, **recipes: str) -> Path:
    for name, text in recipes.items():
        (folder / f"{name}.toml").write_text(text)
    return folder


def needing(name: str, *needs: str) -> str:
    return GOOD.replace('name = "tool"', f'name = "{name}"\nneeds = {list(needs)}')


def test_the_projects_own_recipes_are_sound() -> None:
    programs = load(images_dir() / "programs")
    names = [program.recipe.name for program in programs]
    assert {"busybox", "dropbear", "dmsetup", "e2fsprogs", "fio", "libaio", "openssh"} <= set(names)
    assert names.index("libaio") < names.index("fio")
    for recipe in (program.recipe for program in programs):
        assert recipe.source is None or recipe.source.upstream, f"{recipe.name}: only in the distribution"


def test_needed_programs_come_first(tmp_path: Path) -> None:
    written(tmp_path, a=needing("a", "b"), b=needing("b", "c"), c=needing("c"))
    assert [program.recipe.name for program in load(tmp_path)] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('licence = "MIT"', "", "licence"),
        ('licence = "MIT"', 'licence = "MIT"\ncolour = "red"', "colour"),
        (SHA, "123", "source.sha256"),
        ('file = "tool"', 'file = "/etc/passwd"', "products.0.file"),
        ('file = "tool"', 'file = "../tool"', "products.0.file"),
        ('path = "/usr/bin/tool"', 'path = "usr/bin/tool"', "products.0.path"),
        ('path = "/usr/bin/tool"', 'path = "/usr/../tool"', "products.0.path"),
        ('[["make", "CC=@CC@"]]', '["make"]', "steps.0"),
        ('[["make", "CC=@CC@"]]', "[[]]", "steps.0"),
        ("https://", "gopher://", "source.upstream.0.url"),
        ('version = "1.0"', 'version = "1.0', "is not TOML"),
        ('name = "tool"', 'name = "other"', "other.toml"),
        ('name = "tool"', 'name = "tool"\nfiles = { "tool/gone.h" = "gone.h" }', "gone.h"),
        ('name = "tool"', 'name = "tool"\nneeds = ["nothing"]', "nothing"),
    ],
)
def test_errors_name_file_and_field(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in GOOD
    with pytest.raises(UserError) as caught:
        load(written(tmp_path, tool=GOOD.replace(old, new)))
    assert "tool.toml" in caught.value.message
    assert complaint in caught.value.message


def test_a_recipe_that_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing would be made"):
        load(written(tmp_path, tool=GOOD.partition("[[products]]")[0]))


def test_a_program_of_our_own_has_files_and_no_source(tmp_path: Path) -> None:
    before, _, after = GOOD.partition("[source]")
    ours = before + "[[products]]" + after.partition("[[products]]")[2]
    with pytest.raises(UserError, match="neither a source nor files"):
        load(written(tmp_path, tool=ours))
    (tmp_path / "tool.c").write_text("int main(void) { return 0; }")
    (program,) = load(written(tmp_path, tool=ours.replace("steps", 'files = { "tool.c" = "tool.c" }\nsteps')))
    assert program.recipe.source is None


def test_a_circle(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="circle"):
        load(written(tmp_path, a=needing("a", "b"), b=needing("b", "a")))


def test_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recipe"):
        load(tmp_path)


def test_the_key_covers_all_that_goes_in(tmp_path: Path) -> None:
    text = needing("tool", "lib").replace("[source]", '[files]\n"data.h" = "data.h"\n[source]')
    (tmp_path / "data.h").write_text("1")
    written(tmp_path, tool=text, lib=needing("lib"))

    def key(toolchain: str = "gcc", lib: str = "L") -> str:
        return load(tmp_path)[1].key(toolchain, {"lib": lib})

    keys = [key(), key(toolchain="other"), key(lib="other")]
    (tmp_path / "data.h").write_text("2")
    keys.append(key())
    written(tmp_path, tool=text.replace('"make"', '"gmake"'))
    keys.append(key())
    assert len(set(keys)) == len(keys)
    assert keys[-1] == key()
