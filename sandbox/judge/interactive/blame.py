"""Who caused the end of a dialogue, and the verdict that follows. Pure: a function of how both ended and in which order.

The first cause counts: what a party did after it was told of the other's end, or because it was ended for it, is a consequence. See
docs/explanation/interactive.md; a change of one is a change of the other.
"""

from __future__ import annotations

from sandbox.judge.interactive.played import Ending
from sandbox.judge.model import Code
from sandbox.judge.verdict import PRECEDENCE
from sandbox.record import dataclass
from sandbox.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.judge.interactive.played import Stuck

SUBMISSION, VALIDATOR = "submission", "validator"
_OWN_FAILURE = {Ending.OWN_TIME: Code.WTL, Ending.IDLE: Code.WTL, Ending.OUTPUT: Code.OLE}
_OURS = (Ending.DEADLOCK, Ending.DECIDED, Ending.LINGERED)
_BY_ITSELF = (Code.RTE, Code.NZE)  # ends that a program comes to in an instant; a limit is met over time, and then the referee's word was first


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """How the submission ended.

    Attributes:
        flags: every verdict whose condition held, of its run alone, in the order of precedence; of a run that we ended only what holds besides that.
        cause: why, for the first of them.
        ending: see `played`.
        place: likewise.
        told: likewise.
    """

    flags: tuple[Code, ...] = ()
    cause: str = ""
    ending: Ending = Ending.ITSELF
    place: int = 0
    told: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Referee:
    """How the validator ended: what it said (None for neither 42 nor 43, or for more than that allows), why, and the rest as for `Side`.

    `unread_bytes` is what of its words came when nobody read them any more.
    """

    accepted: bool | None
    cause: str = ""
    ending: Ending = Ending.ITSELF
    place: int = 0
    unread_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Blamed:
    """The verdict; `who` caused the end: ``submission``, ``validator``, or nobody."""

    code: Code
    flags: tuple[Code, ...] = ()
    cause: str = ""
    who: str = ""
    notes: tuple[str, ...] = ()


def blame(submission: Side, validator: Referee, deadlock: Sequence[Stuck] = ()) -> Blamed:
    """Return the verdict about one pass of a dialogue.

    Args:
        submission: how it ended.
        validator: how that ended.
        deadlock: the parties that were left and waited for each other.
    """
    flags = _add(submission.flags, _OWN_FAILURE.get(submission.ending))
    own = bool(flags) and submission.ending not in _OURS
    first = submission.place < validator.place
    if deadlock:
        return _blame_deadlock(submission, validator, deadlock, flags, own and first)
    if validator.accepted is None or validator.ending is not Ending.ITSELF:
        words = _ended_words(validator)
        if own and first:
            note = f"the validator came to no verdict after that: {words}"
            return _failed(submission, flags, notes=(note,))
        return Blamed(code=Code.JE, flags=_add(flags, Code.JE), cause=words, who=VALIDATOR)
    if not validator.accepted:
        flags_all = _add(flags, Code.WA)
        if own and first:
            return _failed(submission, flags_all)
        if own and not submission.told and flags[0] in _BY_ITSELF and submission.ending is Ending.ITSELF:
            note = "the validator rejected the dialogue before the program's end was known, but had not told it anything: the end is the program's own"
            return _failed(submission, flags_all, notes=(note,))
        return Blamed(code=Code.WA, flags=_add((), Code.WA), cause=validator.cause, who=SUBMISSION)
    if flags:
        return _failed(submission, flags)
    return Blamed(code=Code.AC, cause=validator.cause)


def _blame_deadlock(submission: Side, validator: Referee, deadlock: Sequence[Stuck], flags: tuple[Code, ...], failed_first: bool) -> Blamed:
    words = f"deadlock: {', '.join(f'{each.name} {each.words}' for each in deadlock)}, nothing in flight"
    stuck = {each.name: each for each in deadlock}
    if failed_first:
        return _failed(submission, flags, notes=(words,))
    if VALIDATOR in stuck and not (stuck[VALIDATOR].for_others and SUBMISSION in stuck):
        return Blamed(code=Code.JE, flags=_add(flags, Code.JE), cause=words, who=VALIDATOR)
    if validator.accepted is None and VALIDATOR not in stuck:
        return Blamed(code=Code.JE, flags=_add(_add(flags, Code.WTL), Code.JE), cause=_ended_words(validator), who=VALIDATOR)
    return Blamed(code=Code.WTL, flags=_add(flags, Code.WTL), cause=words, who=SUBMISSION)


def _failed(submission: Side, flags: tuple[Code, ...], *, notes: tuple[str, ...] = ()) -> Blamed:
    """The submission failed on its own; what else held is in the flags."""
    code = next(flag for flag in flags if flag is not Code.WA)
    return Blamed(code=code, flags=flags, cause=submission.cause, who=SUBMISSION, notes=notes)


def _ended_words(validator: Referee) -> str:
    words = {
        Ending.OWN_TIME: "the validator was ended: it took too long, waiting for nobody",
        Ending.IDLE: "the validator was ended: it did nothing for too long, waiting for nobody",
        Ending.OUTPUT: "the validator was ended: it wrote more to the submission than a validator may",
        Ending.LINGERED: "the validator was ended: it went on after the submission had ended",
    }
    return words[validator.ending] + unread_words(validator.unread_bytes) if validator.ending in words else validator.cause


def unread_words(unread_bytes: int) -> str:
    """Return for the cause of a party's end that it wrote to nobody, which a pipe's SIGPIPE would have told it; "" where it did not."""
    return f"; of what it wrote {format_size(unread_bytes)} came when nobody read any more" if unread_bytes else ""


def _add(flags: tuple[Code, ...], code: Code | None) -> tuple[Code, ...]:
    return tuple(each for each in PRECEDENCE if each in flags or each is code)
