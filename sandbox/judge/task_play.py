"""Tests in which several programs run at a time: parts of a task with pipes between them, and tests that are text in a sandbox of their own."""

from __future__ import annotations

from sandbox.errors import PolicyError, SandboxError, UnsupportedError
from sandbox.judge.interactive.blame import SUBMISSION, VALIDATOR, Referee, Side, blame, unread_words
from sandbox.judge.interactive.graph import Graph, Party, PartyLimits, Pipe
from sandbox.judge.interactive.play import play
from sandbox.judge.interactive.played import Ending
from sandbox.judge.model import Code, RunLimits
from sandbox.judge.remote_inside import BROKEN, ENDED, FAILED, PASSED, RAISED, TESTS
from sandbox.judge.task_check import Judged, Outcome
from sandbox.judge.task_run import code_of_judged, failed, judge_output, limits_of, make_result
from sandbox.judge.verdict import code_of
from sandbox.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.judge.interactive.played import Ended, Played
    from sandbox.judge.model import Program
    from sandbox.judge.running import Runner
    from sandbox.judge.task_parts import Test
    from sandbox.judge.task_result import TestResult
    from sandbox.judge.task_run import Rules

ACCEPT, REJECT = 42, 43
"""What a referee ends with, as output validators of problem packages do; anything else is its own failure."""

_OURS = (Ending.DEADLOCK, Ending.DECIDED, Ending.LINGERED)
_OWN = {Ending.OWN_TIME: Code.WTL, Ending.IDLE: Code.WTL, Ending.OUTPUT: Code.OLE}
_OTHERS_EXTRA_NS = 10_000_000_000
_OTHERS_BYTES = 256 << 20
_SHOWN = 4000


def tests_program(program: Program) -> Program:
    """Return a program that runs tests that are text, by the interpreter of a submission."""
    return replace(program, name="tests", directory="", command=(program.command[0], "-c", TESTS), environment={}, digest="")


def run_code(test: Test, rules: Rules, driver: Runner, tests: Runner) -> TestResult:
    """Run tests that are text beside the submission, whose functions they call; `driver` has what `driven` returned, `tests` what `tests_program` did."""
    assert isinstance(test.stdin, bytes)
    limits = limits_of(test, rules, driver.program)
    graph = Graph(
        parties=(
            Party(
                name=VALIDATOR, program=tests.program, files={"tests.py": test.code.encode(), "stdin": test.stdin}, limits=_others_limits(limits),
                patient=True,
            ),
            Party(name=SUBMISSION, program=driver.program, args=tuple(test.args), files=_read(test.files), limits=_party_limits(limits, _OTHERS_BYTES)),
        ),
        pipes=(Pipe(source=VALIDATOR, sink=SUBMISSION), Pipe(source=SUBMISSION, sink=VALIDATOR)),
        referee=VALIDATOR,
        accepts=frozenset((PASSED,)),
        hearing=frozenset((FAILED, RAISED, ENDED, BROKEN)),
    )  # fmt: skip
    played = _play(test, graph, {SUBMISSION: driver, VALIDATOR: tests})
    if not isinstance(played, tuple):
        return played
    ended, referee = played[0].parties[SUBMISSION], played[0].parties[VALIDATOR]
    said = (referee.result.stderr or b"").decode("utf-8", "replace")[-_SHOWN:]
    exit_code = referee.result.exit_code
    accepted = (
        {PASSED: True, FAILED: False, RAISED: False, ENDED: False, BROKEN: False}.get(exit_code) if referee.result.signal is None else None
    )
    words = {PASSED: "", ENDED: "ended before the tests did"}.get(exit_code, _last_line(said))
    cause = words if accepted is not None else f"the tests came to no end of theirs ({referee.result.cause}): {words}"
    blamed = blame(
        _side(ended, limits, SUBMISSION),
        Referee(accepted=accepted, cause=cause, ending=referee.ending, place=referee.place, unread_bytes=referee.lost_bytes),
        played[0].deadlock,
    )
    code, flags = blamed.code, blamed.flags
    if code is Code.WA and exit_code == RAISED:
        code, flags = Code.RTE, (Code.RTE,)
    outcome = Outcome(
        fraction=float(code is Code.AC), message=words if code in (Code.WA, Code.RTE) else "", private=said if code is not Code.AC else ""
    )
    made = make_result(
        test, code, flags, blamed.cause, Judged(outcome=outcome), ended.result, limits, stderr=ended.result.stderr or b"", notes=blamed.notes, blame=blamed.who
    )  # fmt: skip
    return replace(made, message=outcome.message, private=outcome.private)


def run_parts(test: Test, rules: Rules, seats: Mapping[str, Runner]) -> TestResult:
    """Run the parts of a task together; `seats` has a runner for each."""
    limits = {name: limits_of(test, rules, runner.program) for name, runner in seats.items()}
    heard, read = {sink for _, sink in rules.pipes}, {source for source, _ in rules.pipes}
    assert isinstance(test.stdin, bytes)
    given = {**_read(test.files), "input": test.stdin}
    if isinstance(test.expected, bytes):
        given["answer"] = test.expected
    output = next((name for name in rules.parts if name not in read and rules.parts[name].program is None), "")
    parties = tuple(
        Party(
            name=name, program=seats[name].program, args=(*part.args, *test.args) if part.program is None else tuple(part.args),
            files=_read(test.files) if part.program is None else given,
            limits=_party_limits(limits[name]) if part.program is None else _others_limits(limits[name]),
            stdin=b"" if name in heard else test.stdin, collect=(*test.collect, *test.expected_files) if name == output else (),
            collect_bytes=limits[name].output_bytes, patient=part.program is not None,
            ends_with_reader=part.program is not None and name != rules.referee,
        )
        for name, part in rules.parts.items()
    )  # fmt: skip
    graph = Graph(
        parties=parties, pipes=tuple(Pipe(source=source, sink=sink) for source, sink in rules.pipes), referee=rules.referee,
        accepts=frozenset((ACCEPT,)), hearing=frozenset((REJECT,)),
    )  # fmt: skip
    answer = _play(test, graph, seats)
    if not isinstance(answer, tuple):
        return answer
    played = answer[0]
    code, cause, who = first_cause(played, rules, limits)
    said = (played.parties[who].result.stderr or b"").decode("utf-8", "replace")[-_SHOWN:] if code is Code.JE and who in played.parties else ""
    if said.strip():
        cause = f"{cause}: {_last_line(said)}"
    shown = who if who in played.parties and rules.parts[who].program is None else output or next(iter(seats))
    ended = played.parties[shown]
    judged = Judged(outcome=Outcome(fraction=float(code is Code.AC), message=cause if code is Code.WA else ""))
    if code is Code.AC and output:
        judged = judge_output(test, rules, ended.result, ended.stdout, ended.result.stderr or b"")
        code, _, cause = code_of_judged(judged)
    flags = () if code is Code.AC else (code,)
    made = make_result(
        test, code, flags, cause, judged, ended.result, limits[shown], stdout=ended.stdout, stderr=ended.result.stderr or b"",
        transcript=tuple(played.transcript_lines), notes=played.notes, blame=who,
    )  # fmt: skip
    return replace(made, private=said) if said else made


def first_cause(played: Played, rules: Rules, limits: Mapping[str, RunLimits]) -> tuple[Code, str, str]:
    """Return the verdict, why, and which part's doing it was: of all that went wrong what came first."""
    found: list[tuple[int, Code, str, str]] = []
    for name, ended in played.parties.items():
        part = rules.parts[name]
        if name == rules.referee and ended.ending is Ending.ITSELF and ended.result.exit_code in (ACCEPT, REJECT):
            if ended.result.exit_code == REJECT:
                said = (ended.result.stderr or b"").decode("utf-8", "replace").strip()
                found.append((ended.place, Code.WA, said[:_SHOWN] or "the referee rejected it", name))
            continue
        side = _side(ended, limits[name], name)
        if (side.flags or name == rules.referee) and ended.ending not in _OURS:
            code = side.flags[0] if part.program is None else Code.JE
            cause = f"{name}: {side.cause or ended.result.cause}"
            found.append((ended.place, code, cause if part.program is None else f"the author's own part failed: {cause}", name))
    if found:
        return min(found)[1:]
    if played.deadlock:
        theirs = [each.name for each in played.deadlock if rules.parts[each.name].program is None]
        return (Code.WTL, played.deadlock_words, theirs[0]) if theirs else (Code.JE, played.deadlock_words, played.deadlock[0].name)
    if rules.referee and played.parties[rules.referee].ending is not Ending.ITSELF:  # nothing is accepted without its word
        return Code.JE, "the referee was ended before it came to its word", rules.referee
    return Code.AC, "", ""


def _side(ended: Ended, limits: RunLimits, name: str) -> Side:
    """Return how a party ended of its own."""
    _, flags, cause = code_of(ended.result, limits)
    if ended.ending is not Ending.ITSELF:
        # Our signal is no condition of its own; what else held still does.
        flags = tuple(flag for flag in flags if flag not in (Code.JE, Code.RTE, Code.NZE))
        own = _OWN.get(ended.ending)
        if own is not None:
            flags = (*flags, own)
            cause = {
                Ending.OWN_TIME: f"was ended after {ended.own_ns / 1e9:.3f} s in which it waited for nobody",
                Ending.IDLE: f"was ended after {ended.idle_ns / 1e9:.3f} s in which it did nothing and waited for nobody",
                Ending.OUTPUT: f"wrote more than {limits.output_bytes} bytes",
            }[ended.ending]
            cause += unread_words(ended.lost_bytes)
    return Side(flags=flags, cause=cause, ending=ended.ending, place=ended.place, told=ended.told)


def _play(test: Test, graph: Graph, seats: Mapping[str, Runner]) -> tuple[Played] | TestResult:
    try:
        return (play(graph, seats),)
    except (PolicyError, UnsupportedError):
        raise
    except SandboxError as error:
        return failed(test, Code.JE, error.message)


def _party_limits(limits: RunLimits, output_bytes: int = 0) -> PartyLimits:
    return PartyLimits(
        cpu_ns=limits.cpu_cut_ns, own_ns=limits.wall_ns, idle_ns=limits.idle_ns, memory_bytes=limits.memory_bytes,
        output_bytes=output_bytes or limits.output_bytes, processes=limits.processes,
    )  # fmt: skip


def _others_limits(limits: RunLimits) -> PartyLimits:
    """Return limits of a program of the author's: there to end what hangs, not to be met."""
    return PartyLimits(
        cpu_ns=limits.cpu_cut_ns + _OTHERS_EXTRA_NS, own_ns=limits.wall_ns + _OTHERS_EXTRA_NS, memory_bytes=max(limits.memory_bytes, 1 << 30),
        output_bytes=_OTHERS_BYTES, processes=limits.processes,
    )  # fmt: skip


def _read(files: Mapping[str, object]) -> dict[str, bytes]:
    return {name: contents for name, contents in files.items() if isinstance(contents, bytes)}


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:400] if lines else "no word of why"


__all__ = ["ACCEPT", "REJECT", "first_cause", "run_code", "run_parts", "tests_program"]
