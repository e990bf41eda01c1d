"""What came of a graph: values, from which `blame` and whoever played judge. Pure."""

from __future__ import annotations

from sandbox.enums import StrEnum
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.judge.interactive.transcript import Entry
    from sandbox.result import Result


class Ending(StrEnum):
    """Who ended a party: itself (or its sandbox, for a limit that the sandbox keeps), or we, and for what."""

    ITSELF = "itself"
    OWN_TIME = "own-time"  # wall time in which it waited for nobody else
    IDLE = "idle"  # the same, with none of its threads running
    OUTPUT = "output"
    DEADLOCK = "deadlock"
    DECIDED = "decided"  # the referee's end
    LINGERED = "lingered"  # it went on too long after another had failed, or wrote on after its reader had gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """One party of a deadlock: what it waits for, in words, and whether that is another party."""

    name: str
    words: str
    for_others: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How one party ended.

    Attributes:
        result: of its sandbox; `stdout` is not in it.
        place: 0 for the first that began to end, and so on. A party that ended because it was told of another's end comes after that.
        ending: who ended it.
        meanwhile: what all waited for when it was ended, and why that was not proved to be a deadlock; "" where somebody did not wait.
        told: whether it was told of another's end (its input was closed for that, or it was ended) before it began to end.
        cpu_ns: CPU time that is its own affair: until the referee's word, where that ended the game before it did.
        own_ns: wall time in which it waited for nobody else, likewise; `idle_ns` is the part of that in which none of its threads was seen to run.
        sent_bytes: what came from it; `lost_bytes` of that nobody read.
        received_bytes: what it was given, read or not.
        stdout: what it wrote, where no pipe leads away from there.
    """

    name: str
    result: Result
    place: int
    ending: Ending = Ending.ITSELF
    meanwhile: str = ""
    told: bool = False
    cpu_ns: int = 0
    own_ns: int = 0
    idle_ns: int = 0
    sent_bytes: int = 0
    lost_bytes: int = 0
    received_bytes: int = 0
    stdout: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of a graph.

    Attributes:
        parties: by name.
        deadlock: the parties that were left and waited for each other, empty for none.
        wall_ns: from the first start to the last end.
        notes: what could not be proved.
        transcript: what was said; lines are for people, see `Transcript.lines`.
    """

    parties: Mapping[str, Ended]
    deadlock: tuple[Stuck, ...] = ()
    wall_ns: int = 0
    transcript: tuple[Entry, ...] = ()
    transcript_lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def deadlock_words(self) -> str:
        """Who waits on whom, "" for nobody."""
        return f"deadlock: {', '.join(f'{each.name} {each.words}' for each in self.deadlock)}, nothing in flight" if self.deadlock else ""
