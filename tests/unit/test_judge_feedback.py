"""A validator's feedback files, read as a stranger's: what they may hold, what makes a judge's error, and text that is safe to show."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.judge.check.feedback import PLACE, Feedback, clean_text, read_feedback


def read(files: dict[str, bytes], *notes: str, accepted: bool = True, scores: bool = True, needs: bool = False, negative: bool = False) -> Feedback:
    """Read under the rules of a scoring problem."""
    return read_feedback(files, notes, accepted=accepted, scores=scores, needs_score=needs, negative=negative)


def test_what_means_something() -> None:
    """Score, messages and the next pass are found, and every file is kept for that pass."""
    files = {"score.txt": b" 12.5\n", "judgemessage.txt": b"well\ndone", "teammessage.txt": b"hi", "nextpass.in": b"3 4\n", "own/state": b"x"}
    files[f"{PLACE}/input.in"] = b"1"
    found = read(files)
    assert (found.score, found.multiplier, found.judge_message, found.team_message, found.next_pass, found.problem) == (
        12.5, None, "well\ndone", "hi", b"3 4\n", "",
    )  # fmt: skip
    assert set(found.files) == set(files) - {f"{PLACE}/input.in"}
    assert read({"score_multiplier.txt": b"0.5"}).multiplier == 0.5
    assert read({}).problem == ""


@pytest.mark.parametrize(("files", "how", "problem"), [
    ({"score.txt": b"1", "score_multiplier.txt": b"1"}, {}, "it wrote both `score.txt` and `score_multiplier.txt`"),
    ({"score.txt": b"1"}, {"accepted": False}, "it wrote `score.txt` and rejected the output"),
    ({"score_multiplier.txt": b"1"}, {"accepted": False}, "it wrote `score_multiplier.txt` and rejected the output"),
    ({"score.txt": b"1"}, {"scores": False}, "it wrote `score.txt`, and the problem lets validators give no score"),
    ({"score.txt": b"-1"}, {}, "`score.txt`: -1 is negative"),
    ({"score_multiplier.txt": b"1.5"}, {}, "`score_multiplier.txt`: 1.5 is not between 0 and 1"),
    ({"score_multiplier.txt": b"-0.5"}, {}, "`score_multiplier.txt`: -0.5 is not between 0 and 1"),
    ({"nextpass.in": b""}, {"accepted": False}, "it wrote `nextpass.in` and rejected the output"),
    ({}, {"needs": True}, "it wrote no `score.txt`, which the problem demands"),
    ({"score.txt": b""}, {}, "`score.txt` holds no number: ''"),
    ({"score.txt": b"1 2"}, {}, "`score.txt` holds no number: '1 2'"),
    ({"score.txt": b"nan"}, {}, "`score.txt` holds no number: 'nan'"),
    ({"score.txt": b"inf"}, {}, "`score.txt` holds no number: 'inf'"),
    ({"score.txt": b"1e999"}, {}, "`score.txt` holds no number: '1e999'"),
    ({"score.txt": b"1_000"}, {}, "`score.txt` holds no number: '1_000'"),
    ({"score.txt": "１".encode()}, {}, "`score.txt` holds no number: '１'"),
    ({"score.txt": b"1" * 2000}, {}, f"`score.txt` holds no number: '{'1' * 40}'"),
    ({"score.txt": b"\x1b[2J"}, {}, "`score.txt` holds no number: '\\\\x1b[2J'"),
])  # fmt: skip
def test_what_is_a_judges_error(files: dict[str, bytes], how: dict[str, bool], problem: str) -> None:
    """Each breach of the format's rules is told in words."""
    assert read(files, **how).problem == problem


def test_what_is_none() -> None:
    """A negative score is a legacy validator's right, a missing one is made up for by another pass, and a rejected output needs none."""
    assert read({"score.txt": b"-3"}, negative=True).problem == ""
    assert read({"nextpass.in": b""}, needs=True).problem == ""
    assert read({}, accepted=False, needs=True).problem == ""
    assert read({"teammessage.txt": b"x", "nextpass.ans": b""}, accepted=False).problem == ""


@pytest.mark.parametrize(("note", "problem"), [
    ("not collected: `score.txt`: a link or no regular file", "`score.txt`: a link or no regular file"),
    ("not collected: `nextpass.in`: a link or no regular file", "`nextpass.in`: a link or no regular file"),
    ("not collected: `judgemessage.txt`: Permission denied (EACCES)", "`judgemessage.txt`: Permission denied (EACCES)"),
    ("not collected: `x`: 900 bytes, of 800 in all 700 are left", "it left too many files, or too much in them: `x`: 900 bytes, of 800 in all 700 are left"),
    ("not collected: more than 100000 names", "it left too many files, or too much in them: more than 100000 names"),
    ("not collected: `fifo`: a link or no regular file", ""),
    ("memory is sampled", ""),
])  # fmt: skip
def test_files_that_could_not_be_read(note: str, problem: str) -> None:
    """A link in the place of a score is no missing score; another link is nothing."""
    assert read({}, note).problem == problem


def test_text_is_safe_and_short() -> None:
    """Controls are spelled, directions and separators too; line breaks and tabs stay; what is long is cut and says how long it was."""
    assert clean_text(b"a\tb\nc\r\n") == "a\tb\nc\n"
    assert clean_text(b"\x1b[31m\x00\x7f\x9b\xff") == "\\x1b[31m\\x00\\x7f\ufffd\ufffd"
    assert clean_text("\u202e\u2028\U000e0001é".encode()) == "\\u202e\\u2028\\U000e0001é"
    assert clean_text(b"x" * 100, 10) == "x" * 10 + "… (100 bytes)"


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_become_printable_text(content: bytes, limit: int) -> None:
    """Whatever it is."""
    text = clean_text(content, limit)
    assert all(char.isprintable() or char in "\n\t" for char in text)
    assert len(text) <= limit * 10 + 20


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["score.txt", "score_multiplier.txt", "nextpass.in", "judgemessage.txt", "x"]), st.binary(max_size=20)),
       st.booleans(), st.booleans(), st.booleans())  # fmt: skip
def test_any_files_are_read(files: dict[str, bytes], accepted: bool, scores: bool, needs: bool) -> None:
    """Whatever they hold: a score that is used is a finite number of an output that was accepted, else a problem says why not."""
    found = read(files, accepted=accepted, scores=scores, needs=needs)
    if not found.problem:
        assert found.score is None or (accepted and scores and 0 <= found.score < float("inf"))
        assert found.multiplier is None or (accepted and scores and 0 <= found.multiplier <= 1)
        assert found.next_pass is None or accepted
