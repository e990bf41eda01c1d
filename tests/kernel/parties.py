"""Dialogues of two little programs that do what their arguments say (tests/payloads/party.c), with who is to blame for the end of each.

The tests play each of them once; `tests/suites/interactive.py` plays them fifty times, on an idle machine and on a busy one.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from sandbox.judge.interactive import Interactor
from sandbox.judge.model import CaseResult, Code, Program, RunLimits
from sandbox.judge.problem import Case, Format, Grading, Group, Problem, ProblemLimits
from sandbox.judge.running import Runner

SOURCE = Path(__file__).resolve().parent.parent / "payloads" / "party.c"
MS = 1_000_000
LONG_MS = 60_000
"""Nothing may wait for a limit as long as this: where it is set, something else has to end the dialogue."""


@dataclass(frozen=True, kw_only=True)
class Edge:
    """One dialogue.

    `submission` and `validator` are what they do; `code`, `blame` and a part of `cause` are expected. `own_ms` and `cpu_ms` are the submission's limits,
    `validation_ms` is the validator's.
    """

    submission: str
    validator: str
    code: Code
    blame: str = ""
    cause: str = ""
    own_ms: int = LONG_MS
    cpu_ms: int = 10_000
    validation_ms: int = LONG_MS
    output: int = 1 << 20
    flags: tuple[Code, ...] | None = None


S, V = "submission", "validator"
READS = f"deadlock: {V} reads stdin, {S} reads stdin, nothing in flight"
ASKS = "say:5 expect:10"  # what most validators do first
_REJECTED = "rejected it"

EDGES: dict[str, Edge] = {
    # Who ends first.
    "a right dialogue": Edge(submission="line say:10", validator=f"{ASKS} end exit:42", code=Code.AC),
    "many rounds": Edge(submission="echo", validator="rounds:300 close1 exit:42", code=Code.AC),
    "the submission ends first, 0": Edge(submission="exit:0", validator=f"{ASKS} exit:42", code=Code.WA, blame=S, cause=_REJECTED),
    "the submission ends first, 3": Edge(submission="line exit:3", validator=f"{ASKS} exit:42", code=Code.NZE, blame=S, cause="exit 3"),
    "the submission ends first, with a right answer and 3": Edge(
        submission="line say:10 exit:3", validator=f"{ASKS} end exit:42", code=Code.NZE, blame=S, cause="exit 3"
    ),
    "the submission ends first, by a signal": Edge(
        submission="line kill:11", validator=f"{ASKS} exit:42", code=Code.RTE, blame=S, cause="SIGSEGV"
    ),
    "the validator ends first, 42": Edge(submission="line say:10 drain", validator=f"{ASKS} exit:42", code=Code.AC),
    "the validator ends first, 43": Edge(submission="line say:9 line", validator=f"{ASKS} exit:42", code=Code.WA, blame=S, cause=_REJECTED),
    "the validator ends first, 43, and the submission falls over that": Edge(
        submission="line say:9 line:7", validator=f"{ASKS} exit:42", code=Code.WA, blame=S
    ),
    "the validator ends first, 43, and the submission loops": Edge(
        submission="line say:9 loop", validator=f"{ASKS} exit:42", code=Code.WA, blame=S
    ),
    "the validator ends first, 43, and the submission sleeps": Edge(
        submission="line say:9 sleep:100000", validator=f"{ASKS} exit:42", code=Code.WA, blame=S
    ),
    "a wrong answer, and an end of its own with 3": Edge(
        submission="line say:9 exit:3", validator=f"{ASKS} exit:42", code=Code.NZE, blame=S, flags=(Code.NZE, Code.WA)
    ),
    "a wrong answer, some work, and an end of its own with 3": Edge(
        submission="line say:9 burn:10 exit:3", validator=f"{ASKS} exit:42", code=Code.NZE, blame=S, flags=(Code.NZE, Code.WA)
    ),
    "a wrong answer, and an end with 0": Edge(submission="line say:9 exit:0", validator=f"{ASKS} exit:42", code=Code.WA, blame=S),
    "the validator crashes": Edge(submission="line say:10 drain", validator="say:5 kill:6", code=Code.JE, blame=V, cause="SIGABRT"),
    "the validator ends with 0": Edge(submission="drain", validator="exit:0", code=Code.JE, blame=V, cause="neither 42 nor 43"),
    "the validator ends with 1": Edge(submission="drain", validator="exit:1", code=Code.JE, blame=V, cause="neither 42 nor 43"),
    "the validator crashes over what it was told": Edge(submission="line say:9", validator="say:5 line kill:11", code=Code.JE, blame=V),
    "the submission crashes, and the validator over that": Edge(
        submission="line kill:11", validator="say:5 line:1 exit:42", code=Code.RTE, blame=S, cause="SIGSEGV"
    ),
    "the submission ends with 1, and the validator never": Edge(
        submission="line exit:1", validator="say:5 drain loop", code=Code.NZE, blame=S, cause="exit 1"
    ),
    "the submission ends with 0, and the validator never": Edge(
        submission="line exit:0", validator="say:5 drain pause", code=Code.JE, blame=V, cause="waits for a signal"
    ),
    # Closed pipes.
    "the submission closes its output and loops": Edge(
        submission="close1 loop", validator=f"{ASKS} exit:42", code=Code.TLE, blame=S, cpu_ms=200
    ),
    "the submission closes its output and ends with 1": Edge(
        submission="close1 sleep:50 exit:1", validator=f"{ASKS} exit:42", code=Code.NZE, blame=S
    ),
    "the submission closes its output and waits": Edge(
        submission="close1 drain", validator=f"{ASKS} exit:42", code=Code.WTL, blame=S, cause=READS
    ),
    "the submission closes its input and answers": Edge(submission="close0 sleep:50 say:10", validator=f"{ASKS} end exit:42", code=Code.AC),
    "the validator closes its output and goes on": Edge(submission="drain say:10", validator="say:5 close1 expect:10 end exit:42", code=Code.AC),
    "the validator closes its input and goes on": Edge(submission="line say:10", validator="say:5 close0 sleep:50 exit:42", code=Code.AC),
    "a child holds the pipe after the submission's end": Edge(
        submission="line say:10 fork exit:0", validator=f"{ASKS} end exit:42", code=Code.AC
    ),
    "a child holds the pipe after the submission's bad end": Edge(
        submission="line fork exit:1", validator=f"{ASKS} exit:42", code=Code.NZE, blame=S
    ),
    # SIGPIPE: for what the other one did, nobody gets it.
    "the submission writes to whom reads no more": Edge(
        submission="line write:300000 drain", validator="say:5 close0 sleep:100 exit:42", code=Code.AC
    ),
    "the submission writes to whom has ended": Edge(submission="drain write:300000", validator="exit:42", code=Code.AC),
    "the validator writes to whom reads no more": Edge(
        submission="close0 sleep:100 say:10", validator="write:300000 expect:10 exit:42", code=Code.AC
    ),
    "the validator writes to whom has ended": Edge(submission="exit:0", validator="drain write:300000 exit:42", code=Code.AC),
    "more output after the validator has accepted": Edge(submission="line say:10 sleep:50 say:11 say:12", validator=f"{ASKS} exit:42", code=Code.AC),
    "more output that the validator sees": Edge(submission="line say:10 say:11", validator=f"{ASKS} end exit:42", code=Code.WA, blame=S),
    # Loops and floods.
    "the submission loops": Edge(submission="line loop", validator=f"{ASKS} exit:42", code=Code.TLE, blame=S, cpu_ms=200),
    "the submission loops after it was accepted": Edge(submission="line say:10 loop", validator=f"{ASKS} exit:42", code=Code.TLE, blame=S, cpu_ms=200),
    "the validator loops": Edge(submission="line", validator="say:5 loop", code=Code.JE, blame=V, validation_ms=200),
    "the submission floods whom reads": Edge(submission="flood", validator="drain exit:42", code=Code.OLE, blame=S),
    "the submission floods whom has ended": Edge(submission="flood", validator="exit:42", code=Code.OLE, blame=S),
    "the submission floods whom does not read": Edge(
        submission="flood", validator="say:5 pause", code=Code.JE, blame=V, cause=f"{V} waits for a signal, {S} writes to stdout"
    ),
    "the submission floods standard error": Edge(
        submission=" ".join(["err:" + "x" * 1000] * 40), validator="line exit:42", code=Code.OLE, blame=S, output=20_000
    ),
    "the validator floods whom reads": Edge(submission="drain", validator="flood", code=Code.JE, blame=V, cause="wrote more"),
    "the validator floods whom loops": Edge(submission="line loop", validator="say:5 flood", code=Code.TLE, blame=S, cpu_ms=200),
    "the validator floods whom waits": Edge(
        submission="line pause", validator="say:5 flood", code=Code.WTL, blame=S, cause=f"{V} writes to stdout, {S} waits for a signal"
    ),
    "the submission reads no more of much": Edge(
        submission="line lock", validator="say:5 write:1000000 exit:42", code=Code.WTL, blame=S, cause="waits for another thread"
    ),
    "the submission ends before it has read much": Edge(submission="line", validator="say:5 write:1000000 exit:42", code=Code.AC),
    # Everybody waits.
    "both read": Edge(submission="line line", validator=f"{ASKS} exit:42", code=Code.WTL, blame=S, cause=READS),
    "both read, half a line was said": Edge(submission="line part:10 line", validator=f"{ASKS} exit:42", code=Code.WTL, blame=S, cause=READS),
    "both write": Edge(
        submission="write:500000 line", validator="write:500000 line exit:42", code=Code.WTL, blame=S,
        cause=f"{V} writes to stdout, {S} writes to stdout",
    ),
    "both read, with threads that hold": Edge(submission="thread thread line line", validator=f"thread {ASKS}", code=Code.WTL, blame=S, cause=READS),
    "both read, with a child that holds": Edge(submission="fork line line", validator=f"{ASKS} exit:42", code=Code.WTL, blame=S, cause=READS),
    "the submission waits for its child": Edge(
        submission="fork line wait", validator=f"{ASKS} exit:42", code=Code.WTL, blame=S, cause=f"{S} waits for a child"
    ),
    "the submission polls": Edge(submission="line poll:-1", validator=f"{ASKS} exit:42", code=Code.WTL, blame=S, cause="in `poll`"),
    "the submission waits in epoll": Edge(submission="line epoll", validator=f"{ASKS} exit:42", code=Code.WTL, blame=S, cause="in `epoll_wait`"),
    "the submission locks itself out": Edge(submission="line lock", validator=f"{ASKS} exit:42", code=Code.WTL, blame=S, cause="deadlock"),
    "the validator locks itself out": Edge(submission="line line", validator="say:5 lock", code=Code.JE, blame=V, cause="deadlock"),
    "the validator waits for nobody": Edge(submission="line line", validator="say:5 pause", code=Code.JE, blame=V, cause="deadlock"),
    "the submission waits for ever after it was accepted": Edge(
        submission="line say:10 pause", validator=f"{ASKS} exit:42", code=Code.WTL, blame=S, cause=f"deadlock: {S} waits for a signal"
    ),
    # Nobody knows whether it is one: a limit of time decides, or somebody moves after all.
    "the submission sleeps": Edge(submission="line sleep:100000", validator=f"{ASKS} exit:42", code=Code.WTL, blame=S, own_ms=600),
    "the submission sleeps after it was accepted": Edge(
        submission="line say:10 sleep:100000", validator=f"{ASKS} exit:42", code=Code.WTL, blame=S, own_ms=600
    ),
    "the submission's first thread leaves, and another closes the output and sleeps": Edge(
        submission="line leave:100000", validator=f"{ASKS} exit:42", code=Code.WTL, blame=S, own_ms=600, cause="ended after 0."
    ),
    "the submission's first thread leaves, and another goes on": Edge(
        submission="line say:10 leave:300", validator=f"{ASKS} end exit:42", code=Code.AC
    ),
    "the submission reads, and a thread of it sleeps": Edge(
        submission="later:10 tick:100000 line line", validator=f"{ASKS} exit:42", code=Code.WTL, blame=S, own_ms=600
    ),
    "the submission reads, and a thread of it computes": Edge(
        submission="spin line line", validator=f"{ASKS} exit:42", code=Code.TLE, blame=S, cpu_ms=300
    ),
    "the validator sleeps": Edge(submission="line line", validator="say:5 sleep:100000 exit:42", code=Code.JE, blame=V, validation_ms=300),
    "the validator sleeps, and goes on": Edge(submission="line say:10 end", validator="say:5 expect:10 sleep:2500 exit:42", code=Code.AC, own_ms=2000),
    "the validator thinks, and rejects": Edge(submission="line say:9 line", validator="say:5 line sleep:2500 exit:43", code=Code.WA, blame=S, own_ms=2000),
    "a thread speaks later": Edge(submission="later:10 line tick:400 drain", validator=f"{ASKS} exit:42", code=Code.AC),
    "a child speaks later": Edge(submission="line child:400 wait", validator="say:5 line end exit:42", code=Code.AC),
    "an alarm that is waited for comes": Edge(submission="line sigwait:1 say:10", validator=f"{ASKS} exit:42", code=Code.AC),
    "a byte now and then, and no line": Edge(
        submission="line drip:15", validator=f"{ASKS} exit:42", code=Code.WTL, blame=S, cause="without waiting for the validator", own_ms=1500,
        validation_ms=500, output=1 << 20,
    ),
    "an alarm speaks later": Edge(submission="later:10 line alarm:1 drain", validator=f"{ASKS} exit:42", code=Code.AC),
    "a timer speaks later": Edge(submission="later:10 line timer:400 drain", validator=f"{ASKS} exit:42", code=Code.AC),
    "a poll with a time-out goes on": Edge(submission="line poll:400 say:10", validator=f"{ASKS} end exit:42", code=Code.AC),
    "a timer in epoll goes on": Edge(submission="line epoll:400 say:10", validator=f"{ASKS} end exit:42", code=Code.AC),
    "one that never blocks is not stuck": Edge(submission="line nonblock await line", validator="say:5 sleep:300 say:6 say:7 exit:42", code=Code.AC),
    "a thread of the validator speaks later": Edge(submission="line line say:10", validator="later:6 say:5 tick:400 expect:10 exit:42", code=Code.AC),
    # What the validator leaves.
    "a message of the validator": Edge(
        submission="line say:9", validator="note:judgemessage.txt=not-ten say:5 line exit:43", code=Code.WA, blame=S, cause="not-ten"
    ),
    "a next pass that nobody may ask for": Edge(
        submission="drain", validator="note:nextpass.in=6 exit:43", code=Code.JE, blame=V, cause="nextpass.in"
    ),
}
"""By name."""


@functools.cache
def _compile() -> Path:
    """Compile the program of all parties, once in a process."""
    directory = tempfile.mkdtemp(prefix="sandbox-party-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    program = Path(directory) / "party"
    subprocess.run(["gcc", "-O1", "-static", "-pthread", "-o", str(program), str(SOURCE)], check=True, timeout=60)
    return program


@dataclass(slots=True)
class Table:
    """Where dialogues are held: the program, a package of one case, and what is kept for the next dialogue."""

    directory: Path
    problem: Problem | None = None
    _runners: dict[str, Runner] = field(default_factory=dict)
    _interactors: dict[tuple[str, int], Interactor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        program = self.directory / "program"
        program.mkdir(exist_ok=True)
        shutil.copy(_compile(), program / "party")
        for name in ("1.in", "1.ans"):
            (self.directory / name).write_text("5\n")

    def party(self, name: str, words: str, profile: str) -> Program:
        """Return a program that does these words."""
        command = ("/judge/program/party", *words.split(), "--")
        return Program(name=name, language="c", directory=str(self.directory / "program"), command=command, profile=profile)

    def play(self, edge: Edge) -> CaseResult:
        """Hold one dialogue."""
        runner = self._runners.get(edge.submission)
        if runner is None:
            runner = self._runners[edge.submission] = Runner(self.party(S, edge.submission, "judge"))
        case = Case(name="secret/1", input=str(self.directory / "1.in"), answer=str(self.directory / "1.ans"))
        return self.interactor(edge).judge(runner, case, limits(edge))

    def interactor(self, edge: Edge) -> Interactor:
        """Return the validator's side."""
        interactor = self._interactors.get((edge.validator, edge.validation_ms))
        if interactor is None:
            problem = self._problem(edge.validation_ms)
            interactor = Interactor(self.party(V, edge.validator, "judge-validate"), problem, stage=str(self.directory))
            self._interactors[edge.validator, edge.validation_ms] = interactor
        return interactor

    def _problem(self, validation_ms: int) -> Problem:
        own = ProblemLimits(validation_time_ns=validation_ms * MS, validation_output_bytes=1 << 18, validation_passes=2)
        group = Group(name="", grading=Grading(), children=())
        return Problem(name="dialogue", format=Format.V2025_09, root="", interactive=True, custom_output=True, limits=own, data=group)

    def close(self) -> None:
        """End what is kept."""
        for each in (*self._runners.values(), *self._interactors.values()):
            each.close()


def limits(edge: Edge) -> RunLimits:
    """Return the submission's limits."""
    return RunLimits(
        cpu_ns=edge.cpu_ms * MS, cpu_cut_ns=edge.cpu_ms * MS, wall_ns=edge.own_ms * MS, memory_bytes=256 << 20, output_bytes=edge.output,
    )  # fmt: skip


def faults(edge: Edge, result: CaseResult) -> list[str]:
    """Return what is not as it should be."""
    found = []
    if result.code is not edge.code:
        found.append(f"code {result.code}, not {edge.code}")
    if result.blame != edge.blame:
        found.append(f"blame `{result.blame}`, not `{edge.blame}`")
    if edge.cause not in result.cause:
        found.append(f"cause `{result.cause}` without `{edge.cause}`")
    if edge.flags is not None and result.flags != edge.flags:
        found.append(f"flags {result.flags}, not {edge.flags}")
    return [f"{fault}; {result.cause}; {result.notes}; {result.judge_message}" for fault in found]
