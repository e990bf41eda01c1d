"""Outputs that are made for the parser of the default validator: each gets the right verdict, and a naive comparison accepts those marked so.

The rules of the format are plain: tokens lie between the six white characters of ASCII, letters are those of ASCII, a number is decimal. What a language's
own functions accept beyond that (digits of other scripts, `1_5`, NaN, spaces of Unicode, strings that end at a NUL byte) is what these outputs use.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pytest
from escape.judging import GENEROUS_S, Package, judge, watch_host, worst_code

from sandbox.judge.model import SubmissionResult

Judged = Callable[[str], dict[str, SubmissionResult]]

# package → (answer, flags of the default validator)
ANSWERS: dict[str, tuple[bytes, str]] = {
    "word": (b"token\n", ""),
    "pair": (b"a k\n", ""),
    "float": (b"1.5\n", "float_tolerance 1e-6"),
    "relative": (b"1e300\n", "float_relative_tolerance 1e-6"),
    "endless": (b"1e999\n", "float_tolerance 1e-6"),
    "whole": (b"15\n", ""),
    "exact": (b"a b\nC\n", "case_sensitive space_change_sensitive"),
}

# (name, package, what a program prints as a Python expression, verdict, whether a naive comparison accepts it)
ROWS: tuple[tuple[str, str, str, str, bool], ...] = (
    ("nul-cuts", "word", r"b'token\0garbage'", "WA", True),
    ("nul-ends", "word", r"b'token\0'", "WA", True),
    ("nul-first", "word", r"b'\0token'", "WA", False),
    ("bad-bytes", "word", r"b'to\xffken'", "WA", True),
    ("byte-order-mark", "word", r"b'\xef\xbb\xbftoken'", "WA", False),
    ("utf-16", "word", r"'token'.encode('utf-16')", "WA", False),
    ("surrogate", "word", r"b'tok\xed\xa0\x80en'", "WA", True),
    ("soft-hyphen", "word", r"'to\xadken'.encode()", "WA", False),
    ("zero-width", "word", r"'to\u200bken'.encode()", "WA", False),
    ("look-alike", "word", r"'t\u043eken'.encode()", "WA", False),
    ("escapes", "word", r"b'\x1b[2J\x1b]0;owned\x07token'", "WA", False),
    ("back-space", "word", r"b'wrong\b\b\b\b\btoken'", "WA", False),
    ("carriage-return-over", "word", r"b'wrong\rtoken'", "WA", False),
    ("other-case", "word", r"b'TOKEN'", "AC", True),
    ("prefix", "word", r"b'toke'", "WA", False),
    ("longer", "word", r"b'tokenn'", "WA", False),
    ("twice", "word", r"b'token token'", "WA", False),
    ("nothing", "word", r"b''", "WA", False),
    ("only-white", "word", r"b' \n' * 1000000", "WA", False),
    ("white-before", "word", r"b' \n' * 3000000 + b'token'", "AC", True),
    ("white-behind", "word", r"b'token' + b'\t\r\n\v\f ' * 1000000", "AC", True),
    ("one-huge-token", "word", r"b't' * 7 * 1024 * 1024", "WA", False),
    ("token-in-front-of-millions", "word", r"b'token ' + b'x ' * 3000000", "WA", False),
    ("millions-of-lines", "word", r"b'\n'.join([b'token'] * 1000000)", "WA", False),
    ("deep-brackets", "word", r"b'[' * 4000000", "WA", False),
    ("no-break-space", "pair", r"'a\xa0k'.encode()", "WA", True),
    ("unit-separator", "pair", r"b'a\x1ck'", "WA", True),
    ("next-line", "pair", r"'a\x85k'.encode()", "WA", True),
    ("ideographic-space", "pair", r"'a\u3000k'.encode()", "WA", True),
    ("line-separator", "pair", r"'a\u2028k'.encode()", "WA", True),
    ("kelvin-sign", "pair", r"'a \u212a'.encode()", "WA", True),
    ("all-six-white", "pair", r"b'\v\f\r\n\t a\v\f\r\n\t k\v\f\r\n\t '", "AC", True),
    ("not-a-number", "float", r"b'nan'", "WA", True),
    ("not-a-number-signed", "float", r"b'-NaN'", "WA", True),
    ("infinite", "float", r"b'inf'", "WA", False),
    ("exponent-overflow", "float", r"b'1e999999'", "WA", False),
    ("exponent-huge", "float", r"b'15e-' + b'9' * 1000000", "WA", False),
    ("underscore", "float", r"b'1_5e-1'", "WA", True),
    ("full-width-digits", "float", r"'\uff11.\uff15'.encode()", "WA", True),
    ("arabic-digits", "float", r"'\u0661.\u0665'.encode()", "WA", True),
    ("hexadecimal", "float", r"b'0x1.8p0'", "WA", False),
    ("suffix", "float", r"b'1.5f'", "WA", False),
    ("comma", "float", r"b'1,5'", "WA", False),
    ("nul-in-number", "float", r"b'1.5\x009'", "WA", True),
    ("two-points", "float", r"b'1.5.0'", "WA", False),
    ("two-signs", "float", r"b'--1.5'", "WA", False),
    ("other-notation", "float", r"b'15e-1'", "AC", True),
    ("within", "float", r"b'1.5000001'", "AC", True),
    ("beyond", "float", r"b'1.51'", "WA", False),
    ("million-digits", "float", r"b'1.6' + b'0' * 1000000", "WA", False),
    ("negative-zero-of-million-digits", "float", r"b'-0.' + b'0' * 1000000", "WA", False),
    ("sign-at-the-edge", "relative", r"b'-1e300'", "WA", False),
    ("overflowing-difference", "relative", r"b'-1.7e308'", "WA", False),
    ("infinite-both", "endless", r"b'2e999'", "WA", True),
    ("float-for-whole", "whole", r"b'15.0'", "WA", False),
    ("other-digits-for-whole", "whole", r"'\u0661\u0665'.encode()", "WA", False),
    ("underscore-for-whole", "whole", r"b'1_5'", "WA", False),
    ("case-where-it-counts", "exact", r"b'a b\nc\n'", "WA", True),
    ("space-where-it-counts", "exact", r"b'a  b\nC\n'", "WA", True),
    ("return-where-it-counts", "exact", r"b'a b\r\nC\r\n'", "WA", True),
    ("exactly", "exact", r"b'a b\nC\n'", "AC", True),
)


def accepts_naively(answer: bytes, output: bytes, tolerance: float | None) -> bool:
    """Compare as one would with what Python has at hand."""
    text = output.split(b"\0")[0].decode(errors="ignore").lower().split()
    wanted = answer.decode().lower().split()
    if len(text) != len(wanted):
        return False
    for left, right in zip(wanted, text, strict=True):
        try:
            if left != right and (tolerance is None or abs(float(left) - float(right)) > tolerance):
                return False
        except ValueError:
            return False
    return True


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    """Judge all rows of a package at once, when the first of them is asked for."""
    cache = tmp_path_factory.mktemp("cache")

    @functools.cache
    def judge_all(kind: str) -> dict[str, SubmissionResult]:
        answer, flags = ANSWERS[kind]
        package = Package(root=tmp_path_factory.mktemp(kind) / kind)
        package.root.mkdir()
        package.canary_file = package.root.parent / "canary"
        package.canary_file.write_text("canary")
        package.write(
            "problem.yaml",
            f"name: {kind}\nvalidation: default\n" + (f"validator_flags: {flags}\n" if flags else "") + "limits:\n  output: 8\n",
        )
        package.case("secret/01", b"\n", answer)
        for name, where, expression, _, _ in ROWS:
            if where == kind:
                package.submit(f"wrong_answer/{name}.py", f"import sys\nsys.stdout.buffer.write({expression})\n".encode())
        for host in watch_host(package, cache):
            found = judge(package, time_limit=GENEROUS_S)
            host.check()
        return {each.name.removeprefix("wrong_answer/").removesuffix(".py"): each for each in found.submissions}

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield judge_all


@pytest.mark.parametrize(("name", "kind", "expression", "expect", "fooled"), ROWS, ids=[row[0] for row in ROWS])
def test_a_hostile_output_is_compared_right(results: Judged, name: str, kind: str, expression: str, expect: str, fooled: bool) -> None:
    """The default validator gives the right verdict; the column says whether a naive comparison would have accepted."""
    answer, flags = ANSWERS[kind]
    output = eval(expression)
    assert accepts_naively(answer, output, float(flags.split()[1]) if "tolerance" in flags else None) is fooled
    found = results(kind)[name]
    assert worst_code(found) == expect, found
    # What is said about it may be printed anywhere: short, and without what moves a cursor.
    for case in found.cases:
        assert len(case.cause) + len(case.judge_message) < 5000
        assert "\x1b" not in case.cause
