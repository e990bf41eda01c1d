"""The default output validator: a table of cases, the same answers as problemtools' own where that is here, and linear time on hostile outputs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sandbox.judge.check import default
from sandbox.judge.check.default import DefaultChecker, FlagError, Rules, compare, parse_flags
from sandbox.judge.check.text import Text, open_text
from sandbox.judge.problem import Case, Format

# Where the reference tool was installed; SANDBOX_PROBLEMTOOLS names another place.
REFERENCE = Path(os.environ.get("SANDBOX_PROBLEMTOOLS", "/work/brief/ref/pt/lib/python3.11/site-packages/problemtools")) / "support" / "default_validator"
F6 = ("float_tolerance", "1e-6")

TABLE: list[tuple[str, bytes, bytes, tuple[str, ...], bool]] = [
    ("equal", b"1 2\n", b"1 2\n", (), True),
    ("both empty", b"", b"", (), True),
    ("space is ignored", b"  1\t2\r\n\v\f", b"1 2\n", (), True),
    ("no last newline", b"1 2", b"1 2\n", (), True),
    ("other token", b"1 3\n", b"1 2\n", (), False),
    ("one too few", b"1\n", b"1 2\n", (), False),
    ("one too many", b"1 2 3\n", b"1 2\n", (), False),
    ("empty output", b"", b"1\n", (), False),
    ("white space only", b" \n", b"1\n", (), False),
    ("answer is empty", b"1", b"", (), False),
    ("answer is white space", b"", b" \n", (), True),
    ("case is ignored", b"YES No\n", b"yes no\n", (), True),
    ("case counts", b"YES\n", b"yes\n", ("case_sensitive",), False),
    ("case of letters beyond ASCII counts", "Ä".encode(), "ä".encode(), (), False),
    ("a NUL is part of a token", b"a\0b", b"a\0c", (), False),
    ("a non-breaking space is no space", b"1\xa02", b"1 2", (), False),
    ("the separators of str.split are none", b"1\x1c2", b"1 2", (), False),
    ("numbers are texts without tolerance", b"1.0", b"1", (), False),
    ("within", b"1.0000005", b"1", F6, True),
    ("beyond", b"1.0000021", b"1", F6, False),
    ("relative", b"1000000.5", b"1000000", ("float_relative_tolerance", "1e-6"), True),
    ("relative only", b"0.0000001", b"0", ("float_relative_tolerance", "1e-6"), False),
    ("absolute only", b"1000000.5", b"1000000", ("float_absolute_tolerance", "1e-6"), False),
    ("either is enough", b"1000000.5", b"1000000", ("float_absolute_tolerance", "1e-9", "float_relative_tolerance", "1e-6"), True),
    ("tolerance 0", b"1.00", b"1", ("float_tolerance", "0"), True),
    ("tolerance 0, beyond", b"1.01", b"1", ("float_tolerance", "0"), False),
    ("integers are numbers then", b"100000000000", b"100000000001", F6, True),
    ("spellings of one number", b"+1. .5 5e-1 1E+0", b"1 0.5 0.5 1", F6, True),
    ("no number for a number", b"abc", b"1", F6, False),
    ("nan", b"nan", b"1", F6, False),
    ("inf", b"inf", b"1e300", F6, False),
    ("hexadecimal", b"0x10", b"16", F6, False),
    ("underscores", b"1_0", b"10", F6, False),
    ("half an exponent", b"1e", b"1", F6, False),
    ("overflow", b"1e999", b"1e998", F6, False),
    ("overflow as text", b"1e999", b"1E999", F6, True),
    ("texts among numbers", b"Case 1: 2.0", b"case 1: 2", F6, True),
    ("texts among numbers differ", b"Cafe 1: 2.0", b"case 1: 2", F6, False),
    ("trailing letters", b"1.0x", b"1.0", F6, False),
    ("space counts", b"1 2\n", b"1 2\n", ("space_change_sensitive",), True),
    ("two spaces", b"1  2\n", b"1 2\n", ("space_change_sensitive",), False),
    ("a tab", b"1\t2\n", b"1 2\n", ("space_change_sensitive",), False),
    ("no newline", b"1 2", b"1 2\n", ("space_change_sensitive",), False),
    ("one newline more", b"1 2\n\n", b"1 2\n", ("space_change_sensitive",), False),
    ("leading space", b" 1", b"1", ("space_change_sensitive",), False),
    ("space counts, case does not", b"A b\n", b"a B\n", ("space_change_sensitive",), True),
    ("space counts, numbers near", b"1.0 2\n", b"1 2.0\n", ("space_change_sensitive", *F6), True),
    ("only spaces differ", b"\n", b" ", ("space_change_sensitive",), False),
    ("empty and spaces", b"", b"\n", ("space_change_sensitive",), False),
    ("flags together", b"A  1.0\n", b"A  1\n", ("case_sensitive", "space_change_sensitive", *F6), True),
]


@pytest.mark.parametrize(("output", "answer", "flags", "right"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_table(output: bytes, answer: bytes, flags: tuple[str, ...], right: bool) -> None:
    """What the format says of each."""
    assert (compare(output, answer, parse_flags(flags)) is None) == right


@pytest.mark.parametrize(("output", "answer", "flags", "told"), [
    (b"1 2\n3 5\n", b"1 2 3\n4\n", (), "line 2, token 4, byte 6: expected `4`, got `5`"),
    (b"1\n2\n", b"1 2 3", (), "line 2, token 3, byte 3 (line 1 of the answer): the output ends here, the answer goes on with `3`"),
    (b"", b"1", (), "line 1, token 1, byte 0: the output is empty, the answer goes on with `1`"),
    (b"\n\n", b"1", (), "line 3, token 1, byte 2 (line 1 of the answer): the output has white space only, the answer goes on with `1`"),
    (b"1\n2", b"1\n", (), "line 2, token 2, byte 2 (line 1 of the answer): the answer ends here, the output goes on with `2`"),
    (b"x", b"1", F6, "line 1, token 1, byte 0: expected a number (`1`), got `x`"),
    (b"1.1", b"1", F6, "line 1, token 1, byte 0: expected `1`, got `1.1`; the error is too large: absolute 1.000000e-01, tolerance 1e-06; "
     "relative 1.000000e-01, tolerance 1e-06"),
    (b"1.1", b"0", ("float_relative_tolerance", "1e-6"), "line 1, token 1, byte 0: expected `0`, got `1.1`; the error is too large: "
     "relative undefined, tolerance 1e-06"),
    (b"a  b", b"a b", ("space_change_sensitive",), "line 1, token 2, byte 1: white space differs: expected ` `, got `  `"),
    (b"\x1b[31m`\\\xff", b"a", (), "line 1, token 1, byte 0: expected `a`, got `\\x1b[31m\\x60\\x5c\\xff`"),
    (b"b" * 200 + b"x" + b"b" * 200, b"b" * 401, (),
     f"line 1, token 1, byte 0: expected `…{'b' * 60}…` (401 bytes), got `…{'b' * 30}x{'b' * 29}…` (401 bytes)"),
])  # fmt: skip
def test_messages_name_the_place(output: bytes, answer: bytes, flags: tuple[str, ...], told: str) -> None:
    """Line, token and byte of the output; nothing of it reaches a terminal as it is."""
    assert str(compare(output, answer, parse_flags(flags))) == told


@pytest.mark.parametrize(("flags", "error"), [
    (("float_tolerance",), "`float_tolerance` needs a number that is not negative"),
    (("float_tolerance", "x"), "`float_tolerance` needs a number that is not negative, not `x`"),
    (("float_absolute_tolerance", "-1"), "`float_absolute_tolerance` needs a number that is not negative, not `-1`"),
    (("float_tolerance", "nan"), "`float_tolerance` needs a number that is not negative, not `nan`"),
    (("sensitive",), "the default output validator has no flag `sensitive`"),
])  # fmt: skip
def test_bad_flags(flags: tuple[str, ...], error: str) -> None:
    """They are the package's fault: a judge's error that says which."""
    with pytest.raises(FlagError) as caught:
        parse_flags(flags)
    assert str(caught.value) == error


def test_tolerances_given_twice() -> None:
    """2025-09 calls it an error, in legacy packages the last one holds."""
    both = ("float_tolerance", "1", "float_absolute_tolerance", "0.5")
    assert parse_flags(both) == Rules(relative=1.0, absolute=0.5)
    for flags in (both, both[2:] + both[:2], ("float_tolerance", "1") * 2, ("float_absolute_tolerance", "1") * 2):
        with pytest.raises(FlagError):
            parse_flags(flags, strict=True)
    assert parse_flags(("float_relative_tolerance", "1", "float_absolute_tolerance", "2"), strict=True) == Rules(relative=1.0, absolute=2.0)


def test_as_a_checker(tmp_path: Path) -> None:
    """It reads the case's answer and flags, and what is wrong with those is a judge's error."""
    (tmp_path / "a").write_bytes(b"1.0\n")
    case = Case(name="secret/1", input="", answer=str(tmp_path / "a"), output_validator_flags=F6)
    with DefaultChecker(Format.V2025_09) as checker:
        good, bad = checker.check(case, b"1.0000001"), checker.check(case, b"2")
        assert (good.accepted, good.exit, good.judge_message) == (True, 42, "")
        assert (bad.accepted, bad.exit) == (False, 43) and bad.cause == bad.judge_message and "expected `1.0`, got `2`" in bad.cause
        lost = checker.check(Case(name="secret/2", input="", answer=str(tmp_path / "none")), b"")
        assert lost.accepted is None and lost.cause == "answer of `secret/2`: No such file or directory"
        wrong = checker.check(Case(name="secret/3", input="", answer=str(tmp_path / "a"), output_validator_flags=("x",)), b"")
        assert wrong.accepted is None and "output validator flags of `secret/3`" in wrong.cause


# ---- windows: what is looked at in pieces is judged as a whole ---------------------------------------------------

PARTS = st.lists(st.sampled_from([b"a", b"A", b"ab", b"1", b"1.0", b"1.05", b".5", b"-2e1", b" ", b"\n", b"\t", b"  ", b"\r\n"]), max_size=40).map(b"".join)
FLAGS = st.sampled_from([(), ("case_sensitive",), ("space_change_sensitive",), ("float_tolerance", "0.1"), ("float_absolute_tolerance", "0.05"),
                         ("space_change_sensitive", "float_tolerance", "0.1"), ("space_change_sensitive", "case_sensitive")])  # fmt: skip


@settings(deadline=None)
@given(PARTS, PARTS, FLAGS, st.integers(1, 7))
def test_windows_change_nothing(output: bytes, answer: bytes, flags: tuple[str, ...], window: int) -> None:
    """However small the pieces, the same difference is found at the same place."""
    from sandbox.judge.check import default

    rules, whole = parse_flags(flags), default._WINDOW
    expected = compare(output, answer, rules)
    try:
        default._WINDOW = window  # type: ignore[misc]
        assert compare(output, answer, rules) == expected
    finally:
        default._WINDOW = whole  # type: ignore[misc]


@settings(deadline=None)
@given(PARTS, PARTS, st.sampled_from([(), F6, ("case_sensitive",)]))
def test_symmetric_but_for_the_tolerance(left: bytes, right: bytes, flags: tuple[str, ...]) -> None:
    """Without a relative tolerance it does not matter which side is the answer; with one here neither, for no numbers are that near."""
    assert (compare(left, right, parse_flags(flags)) is None) == (compare(right, left, parse_flags(flags)) is None)


# ---- answers in files -------------------------------------------------------------------------------------------


class Watched(Text):
    """A text that knows how much of it was asked for at a time."""

    most = 0

    def read(self, start: int, stop: int) -> bytes:
        self.most = max(self.most, min(stop, self.size) - start)
        return super().read(start, stop)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(output=PARTS, answer=PARTS, flags=FLAGS, window=st.integers(1, 4))
def test_pieces_make_no_difference(monkeypatch: pytest.MonkeyPatch, output: bytes, answer: bytes, flags: tuple[str, ...], window: int) -> None:
    """In windows of a few bytes the same difference is found, in the same place, as at once."""
    rules = parse_flags(flags)
    at_once = compare(output, answer, rules)
    with monkeypatch.context() as patch:
        patch.setattr(default, "_WINDOW", window)
        patch.setattr(default, "_AHEAD", 1)
        assert compare(output, answer, rules) == at_once


def test_of_a_large_file_a_piece_at_a_time_is_read(tmp_path: Path) -> None:
    size = 6 << 20
    path = tmp_path / "1.ans"
    path.write_bytes(b"12345 789\n" * (size // 10))
    lines = size // 10
    with open_text(path) as text:
        assert type(text) is not Text and text.size == path.stat().st_size  # it is not in memory
    for output in (path.read_bytes().replace(b" ", b"  "), path.read_bytes()[:-2] + b"8\n"):
        answer = Watched(path.read_bytes())
        compare(output, answer, Rules())
        assert 0 < answer.most <= 1 << 20
    case = Case(name="c", input="", answer=str(path))
    assert DefaultChecker().check(case, path.read_bytes()).accepted is True
    assert DefaultChecker().check(case, path).accepted is True
    found = DefaultChecker().check(case, path.read_bytes() + b"1")
    assert found.accepted is False and found.cause.startswith(f"line {lines + 1}, token {2 * lines + 1}, byte {10 * lines}")


def test_a_file_that_was_cut_short_meanwhile_is_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "1.ans"
    path.write_bytes(b"1 " * (3 << 20))
    with open_text(path) as text:
        os.truncate(path, 10)
        with pytest.raises(OSError, match="shorter than it was"):
            compare(b"1\n" * (3 << 20), text, Rules())


# ---- beside the reference ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"problemtools' default validator is not at {REFERENCE}")
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(output=PARTS, answer=PARTS, flags=FLAGS, near=st.booleans(), data=st.data())
def test_same_as_problemtools(tmp_path: Path, output: bytes, answer: bytes, flags: tuple[str, ...], near: bool, data: st.DataObject) -> None:
    """It says what the reference tool's validator says."""
    if near:  # not two strangers, but an answer and what is nearly it
        position = data.draw(st.integers(0, len(answer)))
        output = answer[:position] + data.draw(st.sampled_from([b"", b"A", b" ", b"0", b"\n", b"e1", b".", b"-", b"b"])) + answer[position:]
    assume(not (flags and b"." in flags[-1].encode() and _borders(output, answer)))
    (tmp_path / "in").touch()
    (tmp_path / "ans").write_bytes(answer)
    run = subprocess.run(
        [REFERENCE, tmp_path / "in", tmp_path / "ans", f"{tmp_path}/", *flags], input=output, capture_output=True, check=False
    )  # fmt: skip
    assert run.returncode in (42, 43)
    assert (compare(output, answer, parse_flags(flags)) is None) == (run.returncode == 42), (output, answer, flags)


def _borders(output: bytes, answer: bytes) -> bool:
    """Whether two numbers are as far apart as a tolerance, where the last bit decides."""
    numbers = []
    for token in (*output.split(), *answer.split()):
        try:
            numbers.append(float(token))
        except ValueError:
            continue
    return any(abs(abs(a - b) - bound) < 1e-9 for a in numbers for b in numbers for bound in (0.1, 0.05, 0.1 * abs(a), 0.05 * abs(a)))


# ---- hostile outputs --------------------------------------------------------------------------------------------

SIZE = 2 << 20


@pytest.mark.parametrize(("output", "flags"), [
    (b"1" * SIZE, F6),
    (b"1" * SIZE + b"x", F6),
    (b"." * SIZE, F6),
    (b"1e" + b"9" * SIZE, F6),
    (b"0." + b"0" * SIZE + b"1", F6),
    (b"-" * SIZE, F6),
    (b" " * SIZE, ()),
    (b" " * SIZE + b"x", ("space_change_sensitive",)),
    (b"a " * (SIZE // 2), ()),
    (b"1.5 " * (SIZE // 4), F6),
    (b"\n" * SIZE, ("space_change_sensitive",)),
    (b"\0" * SIZE, ()),
    (bytes(range(256)) * (SIZE // 256), ("case_sensitive",)),
], ids=lambda value: None if isinstance(value, tuple) else repr(value[:6]))  # fmt: skip
@pytest.mark.parametrize("answer", ["short", "like it"])
def test_hostile_outputs_are_read_in_linear_time(output: bytes, flags: tuple[str, ...], answer: str) -> None:
    """For these sizes anything that is not linear would take hours, and a message as long as the output would be no message."""
    found = compare(output, b"1\n" if answer == "short" else output[:-1] + b"y", parse_flags(flags))
    assert found is not None and len(str(found)) < 1000
