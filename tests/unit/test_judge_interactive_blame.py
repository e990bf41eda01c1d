"""Whose doing the end of a dialogue was: every combination of how the two ended and in which order."""

from __future__ import annotations

import itertools

import pytest

from sandbox.judge.interactive.blame import Blamed, Referee, Side, blame
from sandbox.judge.interactive.played import Ending, Stuck
from sandbox.judge.model import Code

S, V = "submission", "validator"
FIRST, SECOND = 0, 1


def side(*flags: Code, ending: Ending = Ending.ITSELF, place: int = FIRST, told: bool = False) -> Side:
    return Side(flags=flags, cause="its cause", ending=ending, place=place, told=told)


def referee(accepted: bool | None, *, ending: Ending = Ending.ITSELF, place: int = SECOND) -> Referee:
    return Referee(accepted=accepted, cause="the validator's cause", ending=ending, place=place)


ENDED_WELL, CRASHED, EXITED, TOO_LONG, TOO_MUCH_MEMORY = side(), side(Code.RTE), side(Code.NZE), side(Code.TLE), side(Code.MLE)

# Submission first, then what each word of the validator makes of it.
SUBMISSION_FIRST = [
    (side(), True, Code.AC, ""),
    (side(), False, Code.WA, S),
    (side(), None, Code.JE, V),
    *[(side(flag), said, flag, S) for flag in (Code.RTE, Code.NZE, Code.TLE, Code.MLE, Code.OLE, Code.SYS) for said in (True, False, None)],
    *[(side(ending=Ending.OWN_TIME), said, Code.WTL, S) for said in (True, False, None)],
    *[(side(ending=Ending.IDLE), said, Code.WTL, S) for said in (True, False, None)],
    *[(side(ending=Ending.OUTPUT), said, Code.OLE, S) for said in (True, False, None)],
]  # fmt: skip


@pytest.mark.parametrize(("submission", "said", "code", "who"), SUBMISSION_FIRST)
def test_the_submission_ends_first(submission: Side, said: bool | None, code: Code, who: str) -> None:
    found = blame(submission, referee(said))
    assert (found.code, found.who) == (code, who)
    assert found.cause == ("its cause" if who == S and code is not Code.WA else "the validator's cause")


def late(*flags: Code, ending: Ending = Ending.ITSELF, told: bool = False) -> Side:
    return side(*flags, ending=ending, place=SECOND, told=told)


VALIDATOR_FIRST = [
    # It accepted: how the submission goes on to its end still counts, told or not.
    (late(told=True), True, Code.AC, ""),
    (late(Code.RTE, told=True), True, Code.RTE, S),
    (late(Code.NZE, told=True), True, Code.NZE, S),
    (late(Code.TLE, told=True), True, Code.TLE, S),
    (late(ending=Ending.OWN_TIME, told=True), True, Code.WTL, S),
    (late(ending=Ending.OUTPUT, told=True), True, Code.OLE, S),
    # It rejected: that stands, whatever the submission does when it is told, or where it runs into a limit.
    (late(told=True, ending=Ending.DECIDED), False, Code.WA, S),
    (late(Code.RTE, told=True), False, Code.WA, S),
    (late(Code.NZE, told=True), False, Code.WA, S),
    (late(Code.TLE), False, Code.WA, S),
    (late(Code.MLE), False, Code.WA, S),
    (late(ending=Ending.OUTPUT), False, Code.WA, S),
    (late(), False, Code.WA, S),
    # An end that it came to without being told is its own.
    (late(Code.RTE), False, Code.RTE, S),
    (late(Code.NZE), False, Code.NZE, S),
    # It failed: a judge's error, whatever comes after.
    (late(told=True, ending=Ending.DECIDED), None, Code.JE, V),
    (late(Code.RTE, told=True), None, Code.JE, V),
    (late(Code.RTE), None, Code.JE, V),
    (late(), None, Code.JE, V),
]  # fmt: skip


@pytest.mark.parametrize(("submission", "said", "code", "who"), VALIDATOR_FIRST)
def test_the_validator_ends_first(submission: Side, said: bool | None, code: Code, who: str) -> None:
    found = blame(submission, referee(said, place=FIRST))
    assert (found.code, found.who) == (code, who)


@pytest.mark.parametrize("ending", [Ending.OWN_TIME, Ending.IDLE, Ending.OUTPUT, Ending.LINGERED])
@pytest.mark.parametrize("said", [True, False, None])
def test_a_validator_that_we_ended_said_nothing(ending: Ending, said: bool | None) -> None:
    found = blame(side(place=SECOND, ending=Ending.DECIDED, told=True), referee(said, ending=ending, place=FIRST))
    assert (found.code, found.who) == (Code.JE, V)
    assert found.cause.startswith("the validator was ended: ")


@pytest.mark.parametrize("flag", [Code.RTE, Code.NZE, Code.TLE])
def test_a_failed_submission_is_not_excused_by_a_validator_that_falls_over_it(flag: Code) -> None:
    for ending in (Ending.ITSELF, Ending.LINGERED):
        found = blame(side(flag), referee(None, ending=ending))
        assert (found.code, found.who) == (flag, S)
        assert found.notes and found.notes[0].startswith("the validator came to no verdict after that: ")


READS_S, READS_V = Stuck(name=S, words="reads stdin", for_others=True), Stuck(name=V, words="reads stdin", for_others=True)
OWN_S, OWN_V = Stuck(name=S, words="waits for a signal", for_others=False), Stuck(name=V, words="waits for a signal", for_others=False)
ENDED = Ending.DEADLOCK
DEADLOCKS = [
    # The validator waits for the submission: that is to move, whatever it waits for.
    ((READS_V, READS_S), side(ending=ENDED), referee(None, ending=ENDED), Code.WTL, S),
    ((READS_V, OWN_S), side(ending=ENDED), referee(None, ending=ENDED), Code.WTL, S),
    # The validator waits for nobody but itself.
    ((OWN_V, READS_S), side(ending=ENDED), referee(None, ending=ENDED), Code.JE, V),
    ((OWN_V, OWN_S), side(ending=ENDED), referee(None, ending=ENDED), Code.JE, V),
    # One of them has ended before.
    ((OWN_S,), side(ending=ENDED, place=SECOND), referee(True, place=FIRST), Code.WTL, S),
    ((OWN_V,), side(), referee(None, ending=ENDED), Code.JE, V),
    ((READS_V,), side(), referee(None, ending=ENDED), Code.JE, V),
    ((OWN_V,), side(Code.NZE), referee(None, ending=ENDED), Code.NZE, S),
]  # fmt: skip


@pytest.mark.parametrize(("stuck", "submission", "validator", "code", "who"), DEADLOCKS)
def test_whoever_is_to_move_is_blamed_for_a_deadlock(stuck: tuple[Stuck, ...], submission: Side, validator: Referee, code: Code, who: str) -> None:
    found = blame(submission, validator, stuck)
    words = f"deadlock: {', '.join(f'{each.name} {each.words}' for each in stuck)}, nothing in flight"
    assert (found.code, found.who) == (code, who)
    assert words in (found.cause, *found.notes)


FLAGS = [(), (Code.RTE,), (Code.NZE,), (Code.TLE,), (Code.MLE, Code.RTE), (Code.SYS,), (Code.OLE,)]
ENDINGS = [Ending.ITSELF, Ending.OWN_TIME, Ending.IDLE, Ending.OUTPUT, Ending.DECIDED]
ALL = list(itertools.product(FLAGS, ENDINGS, (FIRST, SECOND), (True, False), (True, False, None), list(Ending)))


def test_what_holds_for_every_combination() -> None:
    for flags, ending, place, told, said, ended in ALL:
        validator = Referee(accepted=said, cause="why", ending=ended, place=SECOND if place == FIRST else FIRST)
        found = blame(Side(flags=flags, cause="its", ending=ending, place=place, told=told), validator)
        _check(found, flags, ending, said, ended)


def _check(found: Blamed, flags: tuple[Code, ...], ending: Ending, said: bool | None, ended: Ending) -> None:
    spoke = said is not None and ended is Ending.ITSELF
    failed = bool(flags) or ending in (Ending.OWN_TIME, Ending.IDLE, Ending.OUTPUT)
    assert (found.code is Code.AC) == (spoke and said is True and not failed), "accepted if and only if nothing at all is wrong"
    assert (found.who == "") == (found.code is Code.AC)
    assert (found.who == V) == (found.code is Code.JE), "a judge's error is nobody's but the validator's"
    if found.code is Code.JE:
        assert not spoke
    if found.code is Code.WA:
        assert said is False and spoke
    if found.code is not Code.AC:
        assert found.code in found.flags
    if found.code not in (Code.AC, Code.WA, Code.JE):
        assert failed, "no verdict without its condition"


@pytest.mark.parametrize("ending", [Ending.OWN_TIME, Ending.OUTPUT])
@pytest.mark.parametrize("unread", [0, 5 << 20])
def test_a_validator_that_wrote_to_nobody_is_told_so(ending: Ending, unread: int) -> None:
    found = blame(ENDED_WELL, Referee(accepted=None, cause="killed", ending=ending, place=SECOND, unread_bytes=unread))
    assert (found.code, found.who) == (Code.JE, V) and found.cause.startswith("the validator was ended: it ")
    assert found.cause.endswith("; of what it wrote 5 MiB came when nobody read any more") is bool(unread)
