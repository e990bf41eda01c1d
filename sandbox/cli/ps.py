"""``sandbox ps``, ``stats``, ``pause``, ``resume`` and ``kill``: the running sandboxes, from beside them."""

from __future__ import annotations

import json
import os
import sys

from sandbox.api.run_stats import RunState, RunStats
from sandbox.api.running import RunGone, Running, Survey, find_runs, parse_signal, running, survey
from sandbox.cli.columns import Column, lay_out, of_limit, short_count, short_size, short_time, shown_command, shown_name
from sandbox.cli.main import error_text
from sandbox.cli.options import Option, UsageError, format_options, parse_options
from sandbox.errors import SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_HELP = Option(name="help", short="h", help="this text")
_USERS = Option(name="all-users", help="other users' runs, too (for root)")
_EVERY = Option(name="all", short="a", help="every run of yours")
OPTIONS = {
    "ps": (
        Option(name="quiet", short="q", help="ids only"),
        Option(name="no-header", help="no line of titles"),
        Option(name="json", help="as JSON"),
        _USERS,
        _HELP,
    ),
    "stats": (
        Option(name="json", help="one JSON object a line"),
        Option(name="watch", short="w", help="again every second, until the runs have ended"),
        _HELP,
    ),
    "pause": (_EVERY, _HELP),
    "resume": (_EVERY, _HELP),
    "kill": (
        Option(name="signal", short="s", metavar="SIGNAL", help="send this to the first process instead, such as TERM"),
        _EVERY,
        _HELP,
    ),
}
_ABOUT = {
    "ps": ("[OPTION...]", "List the running sandboxes."),
    "stats": ("[OPTION...] [RUN...]", "What runs use now; all of them without an argument."),
    "pause": ("RUN... | --all", "Stop every process of a run; its time limits stand still, too."),
    "resume": ("RUN... | --all", "Let a paused run go on."),
    "kill": ("[--signal SIGNAL] RUN... | --all", "End a run, all of it; its result says who did it."),
}
_COLUMNS = (
    Column(title="ID"),
    Column(title="NAME", rank=3),
    Column(title="PROFILE", rank=5),
    Column(title="STATE"),
    Column(title="AGE", right=True, rank=2),
    Column(title="CPU", right=True, rank=1),
    Column(title="MEMORY", right=True),
    Column(title="PROCS", right=True, rank=4),
    Column(title="PID", right=True, rank=6),
    Column(title="COMMAND"),
)


def ps(words: list[str]) -> int:
    """List runs."""
    options = _options("ps", words, operands=False)[0]
    if options is None:
        return 0
    seen = _survey("all-users" in options)
    if "json" in options:
        print(json.dumps([_to_dict(run, stats) for run, stats in seen.runs], indent=2))
        return 0
    if "quiet" in options:
        for run, _ in seen.runs:
            print(run.short_id)
        return 0
    width = os.get_terminal_size(1).columns if os.isatty(1) else None
    lines = lay_out(_COLUMNS, [_row(run, stats) for run, stats in seen.runs], width or None)
    for line in lines["no-header" in options :]:
        print(line)
    return 0


def stats(words: list[str]) -> int:
    """Show what runs use, once or every second."""
    options, names = _options("stats", words)
    if options is None:
        return 0
    seen = survey()
    chosen = find_runs(names, [run for run, _ in seen.runs]) if names else [run for run, _ in seen.runs]
    wanted = {run.run_id for run in chosen}
    while True:
        shown = [(run, now) for run, now in seen.runs if run.run_id in wanted]
        if "json" in options:
            for run, now in shown:
                print(json.dumps(_to_dict(run, now)))
        else:
            print("\n\n".join("\n".join(_block(run, now)) for run, now in shown), end="\n" if shown else "")
        sys.stdout.flush()
        if "watch" not in options or not shown:
            return 0
        _wait_a_second()
        seen = survey()
        if "json" not in options and any(run.run_id in wanted for run, _ in seen.runs):
            print()


def pause(words: list[str]) -> int:
    """Pause runs."""
    return _each("pause", words, lambda run: run.pause())


def resume(words: list[str]) -> int:
    """Resume runs."""
    return _each("resume", words, lambda run: run.resume())


def kill(words: list[str]) -> int:
    """End runs, or send them a signal."""

    def act(run: Running) -> None:
        if number in (0, 9):
            if not run.kill():
                print(
                    f"sandbox: run `{run.run_id}` was ended without its supervisor, process {run.pid}, which does not answer",
                    file=sys.stderr,
                )
        else:
            run.signal(number)

    given = _options("kill", words)[0] or {}
    number = parse_signal(given["signal"][0]) if "signal" in given else 0
    return _each("kill", words, act)


def _each(verb: str, words: list[str], act: Callable[[Running], None]) -> int:
    """Do it to every run that is named; one that refuses does not keep the others from it."""
    options, names = _options(verb, words, quiet=verb == "kill")
    if options is None:
        return 0
    if bool(names) == ("all" in options):
        raise UsageError("say which runs, or `--all`" if not names else "name runs or say `--all`, not both", hint="see `sandbox ps`")
    runs = running()
    failed: list[SandboxError] = []
    for run in runs if "all" in options else find_runs(names, runs):
        try:
            act(run)
        except SandboxError as error:
            if not ("all" in options and isinstance(error, RunGone)):
                failed.append(error)
    for before in failed[:-1]:
        print(error_text(before), file=sys.stderr)
    if failed:
        raise failed[-1]
    return 0


def _options(verb: str, words: list[str], *, operands: bool = True, quiet: bool = False) -> tuple[dict[str, list[str]] | None, list[str]]:
    """Parse; None for the options where help was asked for and has been printed. Options may come after the runs' names, as they do in kill(1)'s kin."""
    options: dict[str, list[str]] = {}
    names: list[str] = []
    rest = words
    while rest:
        found, left = parse_options(rest, OPTIONS[verb], verb)
        for name, values in found.items():
            if name in options:
                raise UsageError(f"option `--{name}` is given twice")
            options[name] = values
        names += left[:1]
        rest = left[1:]
    if "help" in options:
        if not quiet:
            usage, about = _ABOUT[verb]
            print(f"usage: sandbox {verb} {usage}\n\n{about}\n")
            print("\n".join(format_options(OPTIONS[verb])))
            print("\nA run is named by its id, the beginning of it, or its name. More: sandbox-ps(1).")
        return None, []
    if names and not operands:
        raise UsageError(f"`sandbox {verb}` takes no `{names[0]}`", hint=f"`sandbox stats {names[0]}` looks at one run")
    return options, names


def _survey(all_users: bool) -> Survey:
    try:
        seen = survey(all_users=all_users)
    except PermissionError as error:
        raise UsageError(f"`--all-users`: {error.strerror}") from None
    if seen.strange:
        from sandbox.audit.events import escape_untrusted

        more = f" and {len(seen.strange) - 1} more" if len(seen.strange) > 1 else ""
        print(f"sandbox: `{escape_untrusted(seen.strange[0], 400)}`{more}: not an entry of a run; left alone", file=sys.stderr)
    return seen


def _row(run: Running, now: RunStats) -> tuple[str, ...]:
    memory = of_limit(short_size(now.memory_bytes), short_size(now.memory_limit_bytes))
    processes = of_limit(short_count(now.processes), short_count(now.processes_limit))
    return (
        run.short_id, shown_name(run.name), shown_name(run.profile), str(now.state), short_time(now.age_ns), short_time(now.cpu_ns), memory,
        processes, str(run.pid), shown_command(run),
    )  # fmt: skip


def _to_dict(run: Running, now: RunStats) -> dict[str, object]:
    # JSON's own escapes keep what is no text apart: a word that is not UTF-8 has lone surrogates, as in Python.
    known = {
        "run": run.run_id,
        "id": run.short_id,
        "name": run.name,
        "profile": run.profile,
        "uid": run.uid,
        "pid": run.pid,
        "argv": list(run.argv),
    }
    return known | now.to_dict()


def _block(run: Running, now: RunStats) -> list[str]:
    def pair(used: str, limit: str) -> str:
        return used if limit == "-" else f"{used} of {limit}"

    lines = [
        ("run", run.run_id + (f" ({shown_name(run.name)})" if run.name else "")),
        ("command", shown_command(run)),
        ("state", str(now.state)),
    ]
    if now.state is not RunState.UNRESPONSIVE:
        lines += [
            ("wall", pair(short_time(now.wall_ns), short_time(now.wall_limit_ns))),
            ("cpu", pair(short_time(now.cpu_ns), short_time(now.cpu_limit_ns))),
            ("memory", pair(short_size(now.memory_bytes), short_size(now.memory_limit_bytes)) + _parts(now)),
            ("processes", pair(short_count(now.processes), short_count(now.processes_limit))),
            ("output", pair(short_size(now.output_bytes), short_size(now.output_limit_bytes))),
            ("denials", short_count(now.denials)),
        ]
    return [f"{name:<11}{text}" for name, text in lines]


def _parts(now: RunStats) -> str:
    parts = (("anonymous", now.memory_anon_bytes), ("files", now.memory_file_bytes), ("kernel", now.memory_kernel_bytes))
    text = ", ".join(f"{name} {short_size(count)}" for name, count in parts if count is not None)
    return f" ({text})" if text else ""


def _wait_a_second() -> None:
    import select

    select.select([], [], [], 1.0)
