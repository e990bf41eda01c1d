"""YAML that is meant to hurt: refused, and after an amount of work that its size bounds. Globs, tags and flags likewise."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from sandbox.judge.errors import PackageError
from sandbox.judge.package.read import read_package
from sandbox.judge.package.words import Glob, fill_in
from sandbox.judge.package.yaml_source import Node, check_keys, parse_yaml
from tests.unit.judge_packages import NEW, Files, make_package

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
MERGES = "a0: &a0 {x: y, z: y}\n" + "".join(f"a{n}: &a{n} {{k{n}: [{', '.join([f'*a{n - 1}'] * 9)}], <<: *a{n - 1}}}\n" for n in range(1, 12))

HOSTILE: list[tuple[str, str, str]] = [
    ("laughs", LAUGHS, "more than 20000 values"),
    ("merged laughs", MERGES, "more than 20000 values"),
    ("deep list", "[" * 200_000, "nested deeper than 32"),
    ("deep map", "{a: " * 100_000, "nested deeper than 32"),
    ("deep blocks", "".join(f"{' ' * n}a:\n" for n in range(1000)), "nested deeper than 32"),
    ("deep keys", "? " * 100_000, "nested deeper than 32"),
    ("deep dashes", "- " * 100_000, "nested deeper than 32"),
    ("many keys", "".join(f"k{n}: v\n" for n in range(100_000)), "more than 20000 values"),
    ("many aliases", "a: &a b\n" + "c: [" + "*a," * 100_000 + "]", "more than 20000 values"),
    ("many documents", "---\n" * 100_000, "more than one document"),
    ("many anchors", "".join(f"- &a{n} b\n" for n in range(50_000)), "more than 20000 values"),
    ("directives", "%YAML 9.9\n--- a\n", "incompatible YAML"),
    ("endless quote", '"' + "a" * 900_000, "end of stream"),
    ("object", "!!python/object/apply:os.system ['id']", "tags are not read"),
    ("set", "!!set {a, b}", "tags are not read"),
    ("binary", "!!binary aGk=", "tags are not read"),
]


@pytest.mark.parametrize(("text", "message"), [pytest.param(text, message, id=what) for what, text, message in HOSTILE])
def test_hostile_yaml_is_refused(text: str, message: str) -> None:
    with pytest.raises(PackageError, match=message) as caught:
        parse_yaml(text.encode(), "f.yaml")
    assert str(caught.value.origin).startswith("f.yaml")


def steps(work: Callable[[], object]) -> int:
    """Return how many calls of Python functions something takes."""
    count = 0

    def count_call(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(count_call)
    try:
        work()
    except PackageError:
        pass
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "unit",
    ["- &a{n} b\n", "k{n}: v\n", "[", "? ", "- ", "# c\n", '"a"\n', "'", "*a ", "&", "!t ", "\t", "%a\n", "...\n", "a: |\n x\n", "{a: ", ",", "]", "x ", ": "],
)
def test_work_grows_with_the_size_and_not_faster(unit: str) -> None:
    """Twice the text takes about twice the calls: counted, not timed. The control below shows what more looks like."""

    def text(count: int) -> bytes:
        return "".join(unit.replace("{n}", str(n)) for n in range(count)).encode()

    once, twice = (steps(lambda count=count: parse_yaml(text(count), "f")) for count in (400, 800))  # type: ignore[misc]
    assert twice <= 2.5 * once + 2000


def test_the_count_sees_work_that_grows_faster() -> None:
    def quadratic(count: int) -> None:
        for outer in range(count):
            for _ in range(outer):
                len_of("")

    def len_of(text: str) -> int:
        return len(text)

    assert steps(lambda: quadratic(400)) > 3.5 * steps(lambda: quadratic(200))


# What a text means.
GOOD: list[tuple[str, object]] = [
    ("a: 1", {"a": "1"}),
    ("a: yes\nb: 'x y'", {"a": "yes", "b": "x y"}),
    ("a:\n  - b\n  - {c: d}", {"a": ["b", {"c": "d"}]}),
    ("", ""),
    ("# nothing", ""),
    ("\ufeffa: b", {"a": "b"}),
    ("a: &x {b: c}\nd: {<<: *x, b: e}", {"a": {"b": "c"}, "d": {"b": "e"}}),
    ("a: &x {b: c}\nd: {b: e, <<: [*x, {f: g}]}", {"a": {"b": "c"}, "d": {"b": "e", "f": "g"}}),
    ("1: 2", {"1": "2"}),
    ('{"a": ["b"]}', {"a": ["b"]}),
]


def plain(node: Node) -> object:
    if isinstance(node.value, dict):
        return {key: plain(each) for key, each in node.value.items()}
    return [plain(each) for each in node.value] if isinstance(node.value, list) else node.value


@pytest.mark.parametrize(("text", "meaning"), GOOD)
def test_yaml_is_read(text: str, meaning: object) -> None:
    assert plain(parse_yaml(text.encode(), "f")) == meaning


def test_values_know_their_key_and_line() -> None:
    root = parse_yaml(b"a:\n  b: &x\n    - c\n    - {d: 3}\ne: *x\n", "f")
    b = root.mapping()["a"].mapping()["b"]
    assert (b.key, b.origin) == ("a.b", "f:2")
    assert (b.items()[1].mapping()["d"].key, b.items()[1].mapping()["d"].line) == ("a.b[1].d", 4)
    assert (root.mapping()["e"].key, root.mapping()["e"].line) == ("e", 5)


def test_unknown_keys_get_the_nearest_known_one() -> None:
    with pytest.raises(PackageError) as caught:
        check_keys(parse_yaml(b"a: 1\n\nmemori: 2", "f").mapping(), ["a", "memory"], "limits.")
    assert str(caught.value) == "unknown key `limits.memori`\n  f:3\n\nhint: `memory` is known"


# ---- globs -------------------------------------------------------------------------------------------------------

GLOBS: list[tuple[str, str, bool]] = [
    ("accepted", "accepted/a.py", True),
    ("accepted/", "accepted/a.py", True),
    ("accepted", "accepted2/a.py", False),
    ("accepted/*", "accepted/a.py", True),
    ("accepted/*", "accepted", False),
    ("*", "accepted/a.py", True),
    ("*.py", "accepted/a.py", False),
    ("*/a.py", "accepted/a.py", True),
    ("*/a.py", "accepted/x/a.py", False),
    ("a.{py,cpp}", "a.cpp", True),
    ("a.{py,cpp}", "a.c", False),
    ("secret/*{,0,1}{0,2}", "secret/12", True),
    ("secret/*{,0,1}{0,2}", "secret/2", True),
    ("secret/*{,0,1}{0,2}", "secret/13", False),
    ("secret/*{ 4 }{ 2 }", "secret/42", True),
    ("{a*,b}c", "axxc", True),
    ("match/match", "match/match_wa.py", False),
    ("a[bc]", "ab", False),
    ("a[bc]", "a[bc]", True),
    ("a?", "ab", False),
    ("a{b", "a{b", True),
    ("**", "a/b", True),
    ("secret/**/x", "secret/a/b/x", False),
    ("", "", True),
    ("", "a", False),
    ("*-easy", "x-easy", True),
    ("a*b*c", "aXbYbZc", True),
]


@pytest.mark.parametrize(("pattern", "path", "matches"), GLOBS)
def test_globs(pattern: str, path: str, matches: bool) -> None:
    assert Glob(pattern).matches(path) is matches


def test_globs_take_no_longer_than_pattern_times_path() -> None:
    """Steps of a pattern that a backtracking matcher needs 2^100 of: this one visits each place once a part."""
    assert not Glob("*a" * 100 + "b").matches("a" * 250)
    assert not Glob("{*a,a*}" * 100 + "b").matches("a" * 250)


def test_labels_that_would_take_hours_are_refused(tmp_path: Path) -> None:
    cases: Files = {f"data/secret/{'a' * 200}{number}.{ending}": "" for number in range(40) for ending in ("in", "ans")}
    text = "accepted:\n" + "".join(f"  'secret/{'*a' * 400}{number}':\n    permitted: [AC]\n" for number in range(150))
    root = make_package(tmp_path, {**NEW, **cases, "submissions/submissions.yaml": text, **{f"submissions/accepted/{n}.py": "" for n in range(9)}})
    with pytest.raises(PackageError, match="more for single cases than will be read"):
        read_package(root)
    text = "".join(f"'{'*a' * 400}{number}':\n  permitted: [AC]\n" for number in range(500))
    names: Files = {f"submissions/accepted/{'a' * 200}{number}.py": "" for number in range(40)}
    root = make_package(tmp_path / "b", {**NEW, "submissions/submissions.yaml": text, **names})
    with pytest.raises(PackageError, match="more of them, or of labels, than will be read"):
        read_package(root)


def test_blanks_in_other_tools_files_take_one_pass(tmp_path: Path) -> None:
    """A pattern that begins with all white space would try 60 000 lines from each of 60 000 places."""
    assert read_package(make_package(tmp_path, {**NEW, "domjudge-problem.ini": "\n" * 60_000 + "timelimit=x"})).limits.time_ns is None


def test_constants_take_one_pass() -> None:
    assert fill_in(b"{{a}}{{b}}{{c}}", {"a": "{{b}}", "b": "{{a}}" * 2}, 99) == b"{{b}}{{a}}{{a}}{{c}}"
    filled = fill_in(b"{{" * 100_000 + b"a}}", {"a": "1"}, 1_000_000)
    assert filled is not None and filled.endswith(b"1")


def test_constants_that_make_a_file_huge_are_refused_before_they_are_filled_in(tmp_path: Path) -> None:
    """A megabyte of names of a megabyte would take the judge's memory ten thousand times over."""
    assert fill_in(b"{{a}}" * 10, {"a": "x" * 10}, 100) == b"x" * 100
    assert fill_in(b"{{a}}" * 10, {"a": "x" * 10}, 99) is None
    head = str(NEW["problem.yaml"]) + f"constants: {{c: {'x' * 500_000}}}\n"
    for name, count in (("submissions/accepted/a.py", 200_000), ("output_validator/v.py", 200), ("data/secret/test_group.yaml", 5)):
        package = make_package(tmp_path, {**NEW, "problem.yaml": head, name: "#{{c}}\n" * count})
        with pytest.raises(PackageError, match=r"fill in constants: larger than [0-9]+ bytes with them") as caught:
            read_package(package)
        assert caught.value.origin == f"{package}/{name}"
        (tmp_path / "sum" / name).unlink()
