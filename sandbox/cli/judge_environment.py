"""``sandbox judge environment``: what makes times noisy on this host, what to do about it, and how far they spread."""

from __future__ import annotations

import json
import os
import sys
import textwrap

from sandbox.cli.options import Option, UsageError, format_options, parse_options
from sandbox.errors import SandboxError
from sandbox.judge.environment import Fact, State, read_facts
from sandbox.judge.host import Tree
from sandbox.judge.noise import Noise
from sandbox.units import format_duration, parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

OPTIONS = (
    Option(name="format", short="f", metavar="FORMAT", values=("table", "json"), help="how to print: table (default) or json"),
    Option(name="time", metavar="SECONDS", help="how long the probe may take, 4 unless given"),
    Option(name="jobs", short="j", metavar="N", help="how many workers to measure with, one for each processor unless given"),
    Option(name="no-probe", help="read the settings only"),
    Option(name="help", short="h", help="this text"),
)
_MARKS = {State.QUIET: " ", State.NOISY: "*", State.UNKNOWN: "?"}
_WIDTH = 80
_INDENT = 15
_MOST_TIME_NS = 600_000_000_000
_MOST_JOBS = 1024


def run(words: list[str]) -> int:
    """Print the report; 0 whatever it says, 125 where the probe could not run."""
    options, operands = parse_options(words, OPTIONS, "judge environment")
    if "help" in options:
        print("usage: sandbox judge environment [OPTION...]\n\nSay what makes times noisy on this host, and what to do about it.\n")
        print("\n".join(format_options(OPTIONS)))
        print("\nMore: sandbox-judge-environment(1).")
        return 0
    if operands:
        raise UsageError(f"`sandbox judge environment` takes no `{operands[0]}`")
    form = options.get("format", ["table"])[0]
    if form not in ("table", "json"):
        raise UsageError(f"`--format {form}`: table or json")
    tree = Tree()
    jobs = _jobs(options.get("jobs", [""])[0], len(tree.allowed))
    budget_ns = parse_duration(options.get("time", ["4"])[0], where="--time")
    if not 0 < budget_ns <= _MOST_TIME_NS:
        raise UsageError("`--time`: more than nothing, at most 600 s")
    facts = read_facts(tree)
    noise: Noise | None = None
    failure: SandboxError | None = None
    if "no-probe" not in options:
        from sandbox.judge.noise import probe_noise

        if sys.stderr.isatty():
            print(f"sandbox: measuring for about {format_duration(budget_ns)} …", file=sys.stderr)
        try:
            noise = probe_noise(jobs, budget_ns)
        except SandboxError as error:  # what was read is worth printing all the same
            failure = error
    name = os.uname()
    print(render_json(facts, noise, f"{name.release} {name.machine}") if form == "json" else render_table(facts, noise))
    sys.stdout.flush()
    if failure is not None:
        raise failure
    return 0


def render_table(facts: Sequence[Fact], noise: Noise | None) -> str:
    """Return the report for a person."""
    lines = []
    for fact in facts:
        lines += _wrap(f"{_MARKS[fact.state]} {fact.name:<{_INDENT - 2}}", fact.value)
        if fact.state is not State.QUIET:
            lines += _wrap(" " * _INDENT, fact.effect)
        if fact.advice:
            lines += _wrap(" " * (_INDENT - 3) + "-> ", fact.advice)
    noisy = sum(fact.state is State.NOISY for fact in facts)
    lines += ["", f"* makes times noisy ({noisy})   ? not visible from here"]
    if noise is not None:
        lines += ["", *_noise_lines(noise)]
    return "\n".join(lines)


def render_json(facts: Sequence[Fact], noise: Noise | None, host: str) -> str:
    """Return the report for a program: one object."""
    found = {"schema": 1, "host": host, "facts": [fact.to_dict() for fact in facts], "noise": None if noise is None else noise.to_dict()}
    return json.dumps(found, indent=2)


def _noise_lines(noise: Noise) -> list[str]:
    def row(title: str, values: Sequence[str]) -> str:
        return f"{title:<22}" + "".join(f"{value:>11}" for value in values)

    lines = [
        "the same work again and again, each time in a new sandbox:",
        row("", ("runs", "median", "p95", "max", "p95/median")),
    ]
    for title, spread in (
        ("CPU time alone", noise.alone),
        (f"CPU time, {noise.workers} at a time", noise.busy),
        ("wall time alone", noise.wall_alone),
        (f"wall time, {noise.workers} at a time", noise.wall_busy),
    ):
        times = [_milliseconds(value) for value in (spread.median, spread.p95, spread.maximum)]
        lines.append(row(title, (str(spread.count), *times, f"{spread.ratio:.3f}")))
    steal = "" if noise.steal is None else f"; steal {noise.steal:.2%}"
    lines += [
        "",
        f"busy/alone {noise.slowdown:.3f}; slowest/fastest {noise.worst:.3f}{steal}",
        f"counted by {noise.cpu_source}; memory by {noise.memory_source or 'nothing'}",
        *(f"weaker: {text}" for text in noise.weaker),
        noise.judgement,
    ]
    return [part for line in lines for part in (textwrap.wrap(line, _WIDTH, subsequent_indent="  ") if len(line) > _WIDTH else [line])]


def _milliseconds(ns: int) -> str:
    return f"{ns / 1e6:.1f} ms"


def _wrap(first: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=" " * _INDENT, break_long_words=False, break_on_hyphens=False
    )  # fmt: skip


def _jobs(text: str, default: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= _MOST_JOBS):
        raise UsageError(f"`--jobs {text}`: a number of workers, 1 to {_MOST_JOBS}")
    return int(text)
