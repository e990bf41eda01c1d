"""Names of source files, main files and classes: what a contestant's directory means."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.judge.class_files import has_main, main_classes
from sandbox.judge.languages import Languages, load_languages
from sandbox.judge.source_files import BadSource, Sources, check_names, choose_class, choose_main, merge, put_together, script_of

DESCRIPTOR = "([Ljava/lang/String;)V"


@pytest.fixture(scope="module")
def table() -> Languages:
    return load_languages(environ={"HOME": "/nonexistent", "PATH": "/nonexistent"})


def class_file(name: str = "main", descriptor: str = DESCRIPTOR, flags: int = 9, *, fields: int = 0, long_constant: bool = True) -> bytes:
    """Return a class file with one method."""
    texts = [b"Code", name.encode(), descriptor.encode()]
    pool = b"".join(b"\1" + struct.pack(">H", len(text)) + text for text in texts)
    count = 1 + len(texts)
    if long_constant:
        pool += b"\5" + bytes(8)
        count += 2
    attribute = struct.pack(">HI", 1, 3) + b"abc"
    member = struct.pack(">HHHH", flags, 2, 3, 1) + attribute
    head = struct.pack(">IHHH", 0xCAFEBABE, 0, 61, count) + pool + struct.pack(">HHHHH", 1, 0, 0, 1, 0)
    field = struct.pack(">HHHH", 9, 2, 3, 1) + attribute
    return head + struct.pack(">H", fields) + field * fields + struct.pack(">H", 1) + member + struct.pack(">H", 0)


def test_a_main_method_is_found_by_name_descriptor_and_flags() -> None:
    assert has_main(class_file())
    assert has_main(class_file(flags=9 | 0x80, long_constant=False))
    for wrong in (
        class_file(name="Main"), class_file(descriptor="()V"), class_file(flags=1), class_file(flags=8), b"", b"\xca\xfe\xba\xbe", bytes(100),
        class_file(name="run", fields=3), class_file()[:60], class_file().replace(b"\5", b"\x7f", 1),
    ):  # fmt: skip
        assert not has_main(wrong)
    # A field called main is no method.
    assert not has_main(class_file(name="main", fields=1, flags=1))


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 120))
def test_no_bytes_of_a_class_file_raise_or_hang(noise: bytes, at: int) -> None:
    whole = class_file()
    has_main(noise)
    has_main(whole[:at] + noise + whole[at:])


@pytest.mark.skipif(shutil.which("javac") is None, reason="no javac here")
def test_classes_of_a_real_compiler_are_read(tmp_path: Path) -> None:
    (tmp_path / "A.java").write_text(
        "package p; public class A { static class In { public static void main(String[] a) {} } public static void main(String... a) {} }"
        "class B { static void main(String[] a) {} } class C { public static int main(String[] a) { return 0; } }"
    )
    subprocess.run(["javac", "-d", str(tmp_path), str(tmp_path / "A.java")], check=True, timeout=600)
    assert main_classes(str(tmp_path)) == ["p.A", "p.A$In"]


def test_names_that_lead_out_are_refused() -> None:
    for name in ("", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "a\0b", "x" * 256, "/".join("a" * 17)):
        with pytest.raises(BadSource, match="cannot be the name of a source file"):
            check_names({name: b""})
    with pytest.raises(BadSource, match="`a` is a file and a directory"):
        check_names({"a": b"", "a/b": b""})
    with pytest.raises(BadSource, match="there are no source files"):
        check_names({})
    with pytest.raises(BadSource, match="1001 files are more than 1000"):
        check_names({f"f{number}": b"" for number in range(1001)})
    check_names({"a b.c": b"", "dir/deep/-o.c": b"", "é.c": b"", "\udce9.c": b""})
    with pytest.raises(BadSource, match="cannot be the name"):
        check_names({"\ud800.c": b""})  # what JSON may hold, and no file can be called


def test_no_name_becomes_an_option_or_a_list_of_arguments() -> None:
    sources = Sources(files={})
    assert [sources.word(name) for name in ("-o.c", "@list.c", "a.c", "é.c", "=x.c", "+p.c", "_x.c")] == [
        "./-o.c", "./@list.c", "a.c", "./é.c", "./=x.c", "./+p.c", "_x.c",
    ]  # fmt: skip


def test_the_compilers_file_takes_no_name_of_the_sources() -> None:
    assert Sources(files={"x.c": b""}).free_name("a.out") == "a.out"
    assert Sources(files={"p.dll": b"", "p_.dll/x": b""}).free_name("p.dll") == "p__.dll"
    assert Sources(files={"a.out": b"", "a_.out/x": b""}).free_name("a.out") == "a__.out"


def test_included_files_take_the_place_of_a_submissions(table: Languages) -> None:
    cpp, pypy = table.find("cpp"), table.find("pypy3")
    include = {"default": {"d.txt": b"default", "grader.h": b"default"}, "cpp": {"grader.h": b"cpp"}, "python3": {"lib.py": b"py"}}
    merged = merge({"grader.h": b"mine", "a.cpp": b"a"}, cpp, include)
    assert merged.files == {"grader.h": b"cpp", "a.cpp": b"a", "d.txt": b"default"} and merged.included == {"grader.h", "d.txt"}
    assert merge({"a.py": b"a"}, pypy, include).files == {"a.py": b"a", "lib.py": b"py", "d.txt": b"default", "grader.h": b"default"}
    assert merge({"a.cpp": b"a"}, cpp, None).files == {"a.cpp": b"a"}


def test_the_main_file_is_the_stated_one_a_driver_a_default_name_main_or_the_first(table: Languages) -> None:
    python, rust = table.find("python3"), table.find("rust")

    def main(names: str, **more: object) -> str:
        return choose_main(Sources(files=dict.fromkeys(names.split(), b""), **more), python)  # type: ignore[arg-type]

    assert main("a.py b.py") == "a.py"
    assert main("a.py main.py") == "main.py"
    assert main("a.py Main.py") == "Main.py"
    assert main("main.py __main__.py") == "__main__.py"
    assert main("a.py b.py", entrypoint="b.py") == "b.py"
    assert main("a.py main.py zz.py", included=frozenset({"zz.py"})) == "main.py"
    assert main("main.py __main__.py", included=frozenset({"main.py"})) == "main.py"
    assert main("data.txt") == "data.txt"
    with pytest.raises(BadSource, match=r"the stated entry point `c\.py` is not among the files"):
        main("a.py", entrypoint="c.py")
    assert choose_main(Sources(files={"lib.rs": b"", "main.rs": b""}), rust) == "main.rs"


def test_the_main_class_is_the_stated_one_a_default_name_the_main_files_or_the_first(table: Languages, tmp_path: Path) -> None:
    java, kotlin = table.find("java"), table.find("kotlin")

    def put(*names: str) -> str:
        directory = tmp_path / str(len(os.listdir(tmp_path)))
        for name in names:
            path = directory / (name + ".class")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(class_file())
        directory.mkdir(exist_ok=True)
        return str(directory)

    sources = Sources(files={"sol.java": b""})
    assert choose_class(put("A", "Main"), sources, java, "sol.java") == "Main"
    assert choose_class(put("A", "p/Main"), sources, java, "sol.java") == "p.Main"
    assert choose_class(put("A", "sol"), sources, java, "sol.java") == "sol"
    assert choose_class(put("A", "Sol"), sources, java, "sol.java") == "Sol"
    assert choose_class(put("A", "SolKt"), sources, kotlin, "sol.kt") == "SolKt"
    assert choose_class(put("A$B", "p/C", "Z"), sources, java, "sol.java") == "Z"
    assert choose_class(put("A", "Main"), Sources(files={}, entrypoint="p.Other"), java, "") == "p.Other"
    assert choose_class(put("A"), Sources(files={}, entrypoint="A.java"), java, "") == "A"
    with pytest.raises(BadSource, match=r"no class has a method `public static void main\(String\[\]\)`"):
        choose_class(put(), sources, java, "sol.java")
    with pytest.raises(BadSource, match="the stated entry point `-jar` is no name of a class"):
        choose_class(put("A"), Sources(files={}, entrypoint="-jar"), java, "")
    # A name that java would read as an option or a file is no class, whatever it holds.
    with pytest.raises(BadSource, match="no class has"):
        choose_class(put("-version", "@args", "a b"), sources, java, "sol.java")


def test_sources_that_a_compiler_took_away_lie_in_nobodys_place() -> None:
    made = {"a": b"1", "d/x": b"2", "s": b"file"}
    assert put_together(made, {"a": b"old", "d": b"was a file", "s/y": b"was a directory", "b": b"3"}) == {**made, "b": b"3"}


def test_names_of_executables_are_quoted_for_the_shell() -> None:
    assert script_of(["a'b; touch /tmp/x", "run"]).startswith("chmod +x -- './a'\\''b; touch /tmp/x' './run' ||")
