"""The table of languages: what ships, what is refused and in which words, which language a program is in."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from sandbox.cli.judge_languages import OPTIONS
from sandbox.errors import PolicyError
from sandbox.judge.languages import Absent, Languages, definition, load_languages
from sandbox.judge.languages.definition import fill, parse_language
from sandbox.judge.languages.programs import find_need
from sandbox.judge.languages.table import shipped_directory
from sandbox.policy.toml_source import read_toml

MINIMAL = """
name = "X"
priority = 7
entry = "file"
extensions = [".xx"]
[[toolchain]]
needs = { x = "xi" }
version = ["{x}", "-V"]
run = ["{x}", "{main}"]
"""


@pytest.fixture
def table(tmp_path: Path) -> Languages:
    return load_languages(environ={"HOME": str(tmp_path), "PATH": "/nonexistent"})


def write(directory: Path, text: str, name: str = "x") -> str:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.toml"
    path.write_text(text)
    return str(path)


def test_every_shipped_language_loads_and_has_a_program_to_try_it_with(table: Languages) -> None:
    assert {path.stem for path in Path(shipped_directory()).glob("*.toml")} == {each.id for each in table}
    for each in table:
        assert each.hello and each.is_source(each.hello_file), each.id
        found = table.of_file(each.hello_file, each.hello.encode())
        assert found is each or not each.extensions, each.id


def test_the_users_own_takes_the_place_of_a_shipped_one_and_a_given_directory_that_of_both(tmp_path: Path) -> None:
    own = tmp_path / "config" / "sandbox" / "languages"
    text = MINIMAL.replace('".xx"', '".c"')
    write(own, text, "c")
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert load_languages(environ=environ).find("c").name == "X"
    write(tmp_path / "extra", text.replace('"X"', '"Y"'), "c")
    assert load_languages([str(tmp_path / "extra")], environ=environ).find("c").name == "Y"
    with pytest.raises(PolicyError, match="list `/nonexistent`: no such directory"):
        load_languages(["/nonexistent"], environ=environ)


def test_two_languages_cannot_claim_one_word(tmp_path: Path) -> None:
    own = tmp_path / ".config" / "sandbox" / "languages"
    for claim, message in [
        ('extensions = [".c"]', "extension `.c` belongs to two languages, `c` and `x`"),
        ('extensions = [".xx"]\naliases = ["cpp"]', "id or alias `cpp` belongs to two languages"),
        ('extensions = [".xx"]\ninterpreters = ["python3"]', "interpreter `python3` belongs to two languages"),
    ]:
        write(own, MINIMAL.replace('extensions = [".xx"]', claim))
        with pytest.raises(PolicyError, match=message) as caught:
            load_languages(environ={"HOME": str(tmp_path)})
        assert str(own / "x.toml") in (caught.value.origin or "")


BAD = [
    ('name = "X"\n', "", "key `name` is missing", ""),
    ("priority = 7", "prioroty = 7", "key `prioroty` is not known", ":3"),
    ("priority = 7", "priority = -1", "`priority` must be a whole number from 0 to 1000000, not `-1`", ":3"),
    ("priority = 7", "priority = 7\ntime-factor = 1000", "`time-factor` must be a number from 0.1 to 100, not `1000`", ":4"),
    ("priority = 7", 'priority = 7\nmemory-extra = "1X"', "size `1X` is not a number", ":4"),
    ('"file"', '"fiel"', "`entry` must be `binary`, `file`, `class`, not `fiel`", ":4"),
    ('[".xx"]', '["xx"]', "`xx` is not an extension such as `.cc`", ":5"),
    ('[".xx"]', '".xx"', "`extensions` must be a list of texts, not `'.xx'`", ":5"),
    ('[".xx"]', '[".xx", ".xx"]', "`.xx` is listed twice in `extensions`", ":5"),
    ('{ x = "xi" }', "{}", "`needs` must be a table of names and programs", ":7"),
    ('{ x = "xi" }', '{ main = "xi" }', "`main` cannot be the name of a need", ":7"),
    ('{ x = "xi" }', '{ x = "./xi" }', "`./xi` must be the name of a program, an absolute path, or begin with another need", ":7"),
    ('["{x}", "-V"]', '["{y}", "-V"]', "`{y}` has no meaning here", ":8"),
    ('["{x}", "-V"]', '["{main}"]', "`{main}` has no meaning here", ":8"),
    ('["{x}", "-V"]', '"{x} -V"', "`toolchain[0].version` must be a list of words", ":8"),
    ('["{x}", "{main}"]', '["{x}"]', "`run` does not use `{main}`", ":9"),
    ('["{x}", "{main}"]', '["{x}", "{main}", "{files}"]', "`{files}` has no meaning here", ":9"),
    ("run =", 'compile = ["{x}", "a{files}"]\nrun =', "`{files}` must be a word of its own", ":9"),
    ("run =", 'mounts = ["/"]\nrun =', "`/` must be an absolute path of a file or directory that holds nothing else", ":9"),
    ("run =", 'mounts = ["/var/../etc"]\nrun =', "`/var/../etc` must be an absolute path", ":9"),
    ("run =", 'environment = { "A B" = "1" }\nrun =', "`A B` cannot be the name of a variable", ":9"),
    ('"file"', '"binary"', "`run` does not use `{binary}`", ":9"),
    ("priority = 7", "priority = 7\naccepts = 0", "`accepts` and `rejects` must be two exit codes", ":4"),
    ("priority = 7", "priority = 7\nrejects = 1", "`accepts` and `rejects` must be two exit codes", ":4"),
    ("priority = 7", "priority = 7\naccepts = 1\nrejects = 1", "`accepts` and `rejects` must be two exit codes", ":4"),
    ("priority = 7", "priority = 7\naccepts = 0\nrejects = 256", "`rejects` must be a whole number from 0 to 255, not `256`", ":5"),
    ("run =", 'binary = "../x.so"\nrun =', "`../x.so` is no name of a file such as `a.out`", ":9"),
    ("run =", "runn =", "key `runn` is not known", ":9"),
    ("[[toolchain]]", "[toolchain]", "a language needs at least one table `[[toolchain]]`", ":6"),
]


@pytest.mark.parametrize(("old", "new", "message", "line"), BAD, ids=[new.replace("\n", " ") or "no name" for _, new, _, _ in BAD])
def test_bad_definitions_name_file_line_and_key(tmp_path: Path, old: str, new: str, message: str, line: str) -> None:
    assert old in MINIMAL
    path = write(tmp_path, MINIMAL.replace(old, new, 1))
    with pytest.raises(PolicyError) as caught:
        parse_language(read_toml(path), "x")
    assert message in caught.value.message
    assert f"{path}{line}" in (caught.value.origin or "")


def test_a_binary_needs_a_compiler(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL.replace('"file"', '"binary"').replace('["{x}", "{main}"]', '["{binary}"]'))
    with pytest.raises(PolicyError, match='`entry = "binary"` needs a `compile` command'):
        parse_language(read_toml(path), "x")
    with pytest.raises(PolicyError, match="`X y` is no id of a language"):
        parse_language(read_toml(path), "X y")


def test_commands_are_words_and_no_text_of_a_contestant_makes_two_of_one() -> None:
    words = fill(("{x}", "-o{binary}", "{files}", "{x}"), {"x": "/usr/bin/x", "binary": "a.out"}, ("a b.c", "{x}.c"))
    assert words == ("/usr/bin/x", "-oa.out", "a b.c", "{x}.c", "/usr/bin/x")


def test_words_find_languages(table: Languages) -> None:
    assert [table.find(word).id for word in ("cpp", "C++", "c++", ".cc", ".C", ".c", "python", "Python 3", ".py")] == [
        "cpp", "cpp", "cpp", "cpp", "cpp", "c", "python3", "python3", "python3",
    ]  # fmt: skip
    with pytest.raises(PolicyError, match="no language is called `pyhton3`") as caught:
        table.find("pyhton3")
    assert caught.value.hint == "did you mean `python3`?"


def test_the_language_of_a_program_is_that_of_most_files_and_then_of_the_highest_priority(table: Languages) -> None:
    def detect(**files: str) -> str | None:
        found = table.detect({name.replace("_", "."): text.encode() for name, text in files.items()})
        return None if found is None else found.id

    assert detect(a_cpp="", b_h="") == "cpp"
    assert detect(a_cpp="", b_c="") == "cpp"
    assert detect(a_cpp="", b_c="", c_c="") == "c"
    assert detect(a_txt="") is None
    assert detect(a_py="#!/usr/bin/env python3\n") == "python3"
    assert detect(run="#!/usr/bin/env -S python3 -u\n") == "python3"
    assert detect(run="#!/bin/false\n") is None
    assert detect(a_c="#!/usr/bin/python3\n") == "c"


def test_scripts_that_check_inputs_are_a_language_of_validators_alone(table: Languages) -> None:
    for name, identity in (("x.ctd", "checktestdata"), ("x.viva", "viva")):
        assert table.detect({name: b""}) is None
        found = table.detect({name: b"", "notes.txt": b""}, validator=True)
        assert found is not None and found.id == identity and {found.accepts, found.rejects} == {0, 1}
    assert table.detect({"x.ctd": b"", "y.ctd": b"", "a.py": b""}) is table.find("python3")


def test_of_several_versions_the_highest_is_taken(tmp_path: Path) -> None:
    for version in ("9.0.11", "10.0.9", "10.0.10", "8.0"):
        (tmp_path / version).mkdir()
    found = find_need([f"{tmp_path}/*"], {})
    assert found is not None and found.path == f"{tmp_path}/10.0.10"


def test_programs_are_found_in_absolute_directories_of_path_shims_last(tmp_path: Path) -> None:
    def program(*parts: str, text: str = "#!/bin/sh\n") -> str:
        path = tmp_path.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    shim, real = program("shims", "x"), program("bin", "x")
    environ = {"PATH": f"{tmp_path}/shims:relative::{tmp_path}/bin"}
    found = find_need(("y", "x"), environ)
    assert found is not None and found.path == real
    Path(real).chmod(0o644)
    found = find_need(("x",), environ)
    assert found is not None and found.path == shim
    assert find_need((f"{tmp_path}/lib-*/libx.a",), environ) is None
    for version in ("1", "2"):
        program(f"lib-{version}", "libx.a")
    found = find_need((f"{tmp_path}/lib-*/libx.a",), environ)
    assert found is not None and found.path == f"{tmp_path}/lib-2/libx.a"


def test_behind_rustups_proxy_the_default_toolchain_is_found(tmp_path: Path) -> None:
    proxies = tmp_path / "cargo"
    real = tmp_path / "rustup" / "toolchains" / "stable-x" / "bin" / "rustc"
    for path in (proxies / "rustup", real):
        path.parent.mkdir(parents=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    (proxies / "rustc").symlink_to("rustup")
    environ = {"PATH": str(proxies), "RUSTUP_HOME": str(tmp_path / "rustup")}
    assert find_need(("rustc",), environ) is None
    (tmp_path / "rustup" / "settings.toml").write_text('default_toolchain = "stable-x"\n')
    found = find_need(("rustc",), environ)
    assert found is not None and found.path == str(real)
    assert find_need(("rustc",), {**environ, "RUSTUP_TOOLCHAIN": "nightly"}) is None
    assert find_need(("rustc",), {**environ, "RUSTUP_TOOLCHAIN": "../../../bin"}) is None


def test_the_reference_is_current() -> None:
    root = Path(__file__).resolve().parents[2]
    spec = importlib.util.spec_from_file_location("generate_languages", root / "scripts" / "generate_languages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TARGET.read_text() == module.render(load_languages(environ={})), "run scripts/generate_languages.py"


def test_the_how_to_and_the_manual_name_every_key_and_option() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    how_to = (docs / "how-to" / "add-a-language.md").read_text().partition("## Keys")[2]
    for key in (definition.TOP_KEYS | definition.TOOLCHAIN_KEYS):
        assert f"`{key}`" in how_to, key
    manual = (docs / "man" / "sandbox-judge-languages.1.md").read_text()
    for option in OPTIONS:
        assert f"`--{option.name}" in manual, option.name


def test_the_table_fits_a_terminal() -> None:
    from sandbox.cli.judge_languages import _Row, _table

    rows = [_Row(language=each, found=Absent(language=each, reason="no `program` " * 9)) for each in load_languages()]
    lines = _table(rows, 80)
    assert max(map(len, lines)) <= 80 < max(map(len, _table(rows, None))), "nothing is cut where no terminal is"
    assert [line.split()[0] for line in lines[1:]] == [row.language.id for row in rows]
