"""What plays together: parties, each in a sandbox of its own, and the pipes between them. Values only, checked when the graph is made."""

from __future__ import annotations

from sandbox.errors import PolicyError
from sandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.judge.model import Program

STDIN, STDOUT = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyLimits:
    """What one party may use; times in nanoseconds.

    `own_ns` is wall time in which it does not wait for another party, `idle_ns` the part of that in which none of its threads runs. `output_bytes` counts
    what it writes into a pipe of the graph.
    """

    cpu_ns: int
    own_ns: int
    memory_bytes: int
    output_bytes: int
    processes: int = 64
    idle_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """One program of the graph.

    Attributes:
        name: for pipes, verdicts and messages.
        program: what to run.
        args: appended to the program's command.
        limits: what it may use.
        files: for its working directory.
        stdin: its standard input, where no pipe leads there.
        collect: what to take out of its working directory at the end, `collect_bytes` at most.
        home_bytes: how much it may write there, None for what its profile says.
        patient: where everybody waits for everybody, its time does not count: the others are to move.
        ends_with_reader: it is there for whoever reads it: what it writes when nobody reads any more ends it, after `Graph.linger_ns` and in place of
            SIGPIPE, and that is no failure of its.
    """

    name: str
    program: Program
    args: tuple[str, ...] = ()
    limits: PartyLimits
    files: Mapping[str, bytes] = field(default_factory=dict)
    stdin: bytes = b""
    collect: tuple[str, ...] = ()
    collect_bytes: int = 1 << 20
    home_bytes: int | None = None
    patient: bool = False
    ends_with_reader: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipe:
    """From one party's standard output to another's standard input.

    `end_with_source` holds the end of the data back until the source has ended: a program that closes its output and goes on is not taken for one that is
    done (Kattis's tools do so for submissions). Else closing it is passed on at once, as a pipe of the kernel does.
    """

    source: str
    sink: str
    end_with_source: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Parties and pipes.

    Attributes:
        parties: started in this order.
        pipes: each party's input and output is in one of them at most.
        referee: the party whose end decides, "" for none.
        accepts: exit codes of the referee after which the others may go on to their own ends; after any other they are ended.
        hearing: exit codes of the referee before which another party's own end counts, if it came without being told; see `play`.
        linger_ns: how long the referee may go on after another party has failed, and who ends with its reader after that has gone.

    Raises:
        PolicyError: the pipes do not fit the parties.
    """

    parties: tuple[Party, ...]
    pipes: tuple[Pipe, ...]
    referee: str = ""
    accepts: frozenset[int] = frozenset((0,))
    hearing: frozenset[int] = frozenset()
    linger_ns: int = 2_000_000_000

    def __post_init__(self) -> None:
        names = [party.name for party in self.parties]
        if len(set(names)) != len(names) or not names or "" in names:
            raise PolicyError("parties of a graph need names, each its own")
        for pipe in self.pipes:
            for name in (pipe.source, pipe.sink):
                if name not in names:
                    raise PolicyError(f"pipe `{pipe.source}` to `{pipe.sink}`: there is no party `{name}`")
        for what, ends in (("output", [pipe.source for pipe in self.pipes]), ("input", [pipe.sink for pipe in self.pipes])):
            for name in ends:
                if ends.count(name) > 1:
                    raise PolicyError(f"the standard {what} of `{name}` is in {ends.count(name)} pipes", hint="a stream has one other end")
        if self.referee and self.referee not in names:
            raise PolicyError(f"there is no party `{self.referee}` to be the referee")


def pair(submission: Party, referee: Party, *, accepts: int, rejects: int) -> Graph:
    """Return the graph of an interactive problem: a referee and one submission, each reading what the other writes.

    Args:
        submission: the end of its output is passed on when it has ended.
        referee: closing its output is passed on at once.
        accepts: the referee's exit code for an accepted dialogue.
        rejects: and for one that is not.
    """
    return Graph(
        parties=(referee, submission),
        pipes=(Pipe(source=referee.name, sink=submission.name), Pipe(source=submission.name, sink=referee.name, end_with_source=True)),
        referee=referee.name,
        accepts=frozenset((accepts,)),
        hearing=frozenset((rejects,)),
    )
