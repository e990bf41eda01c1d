"""The name that a compiler wants of a file: what of a contestant's text counts for it, and that nothing else does."""

from __future__ import annotations

import random
import re

import pytest

from sandbox.judge.languages.named_after import RULES, find_name

JAVA = [
    ("public class Solution {}", "Solution"),
    ("import java.util.*;\n/** A public class Wrong. */\npublic final strictfp class Right_1 extends Base { public class Inner {} }", "Right_1"),
    ("final public class A{}", "A"),
    ("class Helper { public static class Inner {} }\npublic class Solution {}", "Solution"),
    ("interface Shape { }\nenum Colour { RED, GREEN }\npublic record Point(int x, int y) implements Shape {}", "Point"),
    ("public sealed interface Tree permits Leaf {}", "Tree"),
    ("public enum E { A { public void f() {} } }", "E"),
    ("public @interface Marker {}", "Marker"),
    ('@SuppressWarnings({"public class Wrong {", "}"}) @A(B.class)\npublic class Right {}', "Right"),
    ("public @A({1}) @B(c = {}) class Right {}", "Right"),
    ("public\n// public class Wrong\nclass/* x */Right{}", "Right"),
    ("class A { String s = \"} } public class Wrong {\"; char c = '}', d = '\\'', e = '\"'; }\npublic class Right {}", "Right"),
    ('class A { String s = """\n  } public class Wrong { \\""" "" \n"""; }\npublic class Right {}', "Right"),
    ("package a.b; public class P {}", "P"),
    ("class Main { public static void main(String[] a) {} }", ""),
    ("class Main { public class Inner {} }", ""),
    ("class Main { Object o = new Object() { public String toString() { return \"x\"; } }; } class B {}", ""),
    ("public int x; class A {}", ""),
    ("// public class Wrong {}\nclass A {}", ""),
    ("/* public class Wrong {}", ""),
    ('"public class Wrong {}', ""),
    ("publicclass Wrong {} public classy Wrong {}", ""),
    ("public class Größe {}", ""),
    ("public class a$b {}", ""),
    ("public class ../../etc {}", ""),
    ("public class -o {}", ""),
    ("public class " + "x" * 101 + " {}", ""),
    ("public class", ""),
    ("} public class Wrong {}", ""),
    ("", ""),
]
ERLANG = [
    ("-module(sum).\n-export([main/1]).\n", "sum"),
    ("% -module(wrong).\n%% it's \"one\n- module ( right ).", "right"),
    ("-module('Right').", "Right"),
    ("-author(\"-module(wrong).\").\n-module(right).", "right"),
    ("-module('../x').", ""),
    ("-module('a b').", ""),
    ("-modules(wrong). module(wrong). -module[wrong]. -module(a, b).", ""),
    ("-define(Q, $\").\n-module(right).", "right"),
    ("-module(", ""),
]
MODULA = [
    ("MODULE hello;\nBEGIN END hello.", "hello"),
    ("(* MODULE wrong; (* nested \" *) ' MODULE wrong *) <* m2iso+ *>\nMODULE right;", "right"),
    ("IMPLEMENTATION MODULE Stack;", "Stack"),
    ("FROM \"MODULE wrong\" 'MODULE wrong' MODULE right [4];", "right"),
    ("(* MODULE wrong;", ""),
    ("MODULE (* a *) (* b *) right;", "right"),
    ("MODULE ../x;", ""),
    ("MODULE", ""),
]
CASES = [(rule, *each) for rule, cases in (("public-class", JAVA), ("module-attribute", ERLANG), ("module", MODULA)) for each in cases]


@pytest.mark.parametrize(("rule", "text", "name"), CASES, ids=[f"{rule}-{number}" for number, (rule, _, _) in enumerate(CASES)])
def test_the_name_that_counts(rule: str, text: str, name: str) -> None:
    assert find_name(text, rule) == name


def test_every_rule_has_cases() -> None:
    assert {rule for rule, _, _ in CASES} == set(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_no_text_gives_anything_but_a_plain_name(rule: str) -> None:
    words = ["public ", "class ", "record ", "-", "-module(", "module", "(", ")", "MODULE ", "a", "../", "/", "\0", "\ud800", "ß"]
    pieces = [*words, "'", '"', '"""', "/*", "*/", "(*", "*)", "%", "$", "\\", "{", "}", ".", "\n"]
    chance = random.Random(rule)
    found = set()
    for _ in range(20_000):
        name = find_name("".join(chance.choices(pieces, k=9)), rule)
        assert re.fullmatch(r"(?:[A-Za-z_][A-Za-z0-9_]{0,99})?", name)
        found.add(name)
    assert "" in found and "a" in found, "nothing was found: the pieces make no program"


LONG = ["/*", '"""', '"', "'", "\\", '\\"', '"\\', "(*", "(* *)", "<*", "{", "(", "public ", "-module(", "$", "%", "MODULE", '""']


@pytest.mark.parametrize("piece", LONG)
@pytest.mark.parametrize("rule", RULES)
def test_a_long_text_is_read_once(rule: str, piece: str) -> None:
    """What was read anew for each of its characters would come to no end here."""
    assert find_name(piece * ((64 << 20) // len(piece)), rule) == ""
