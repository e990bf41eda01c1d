"""``sandbox changes``, ``apply``, ``discard`` and ``snapshot``: what runs with ``--cow`` changed, and what becomes of it.

Names and contents are a program's: in a list and on a terminal nothing of them gets through that could move a cursor or turn the direction of text.
"""

from __future__ import annotations

import json
import os
import sys
import time

from sandbox.api.changes import (
    Change,
    Facts,
    Kind,
    Report,
    RunChanges,
    Standing,
    State,
    Type,
    discard_word,
    find_kept,
    look_at,
    open_shelf,
    shown_path,
    statuses,
)  # fmt: skip
from sandbox.cli.columns import Column, lay_out, short_size, short_time
from sandbox.cli.main import error_text
from sandbox.cli.options import Option, UsageError, format_options, parse_options
from sandbox.errors import SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.api.changes import Shelf

_HELP = Option(name="help", short="h", help="this text")
OPTIONS = {
    "changes": (
        Option(name="diff", short="d", help="unified differences of text files"),
        Option(name="format", metavar="text|json", help="how it is written", values=("text", "json")),
        Option(name="all", short="a", help="in the list, discarded runs that others need, too"),
        Option(name="quiet", short="q", help="ids, or paths, only"),
        Option(name="null", short="z", help="with `--quiet`: end each with a NUL, and escape nothing"),
        _HELP,
    ),
    "apply": (
        Option(name="dry-run", short="n", help="say what would be done, and touch nothing"),
        Option(name="force", short="f", help="the run's version wins over what the original became meanwhile"),
        Option(name="skip-conflicts", help="leave out what the original has changed, too"),
        Option(name="autorun", metavar="apply|skip", help="files that run by themselves: make them, or leave them out", values=("apply", "skip")),
        Option(name="set-id", help="keep set-user-id and set-group-id bits"),
        Option(name="special", help="make FIFOs, too"),
        Option(name="keep", help="keep the run even when everything is applied"),
        Option(name="quiet", short="q", help="say nothing of what was done"),
        _HELP,
    ),
    "discard": (Option(name="all", short="a", help="every kept run, and every snapshot"), _HELP),
    "snapshot": (_HELP,),
}
_ABOUT = {
    "changes": ("[OPTION...] [RUN [PATH...]]", "List the kept runs, or what one of them changed."),
    "apply": ("[OPTION...] RUN [PATH...]", "Make a kept run's changes in the original; all of them, or those at paths and globs below the tree."),
    "discard": ("RUN|SNAPSHOT... | --all", "Let the changes of kept runs go, or the names of snapshots."),
    "snapshot": ("RUN [NAME]", "Give a kept run a name, from which `sandbox exec --resume NAME` goes on. Without NAME it is made of the run's id."),
}
_COLUMNS = (
    Column(title="ID"),
    Column(title="AGE", right=True, rank=2),
    Column(title="STATE", rank=1),
    Column(title="CHANGES", right=True),
    Column(title="SIZE", right=True, rank=3),
    Column(title="SNAPSHOT", rank=5),
    Column(title="TREE", rank=4),
    Column(title="COMMAND"),
)
_LETTERS = {Kind.ADDED: "A", Kind.DELETED: "D", Kind.REPLACED: "T", Kind.MODIFIED: "M"}
_WIDE = 4000


def changes(words: list[str]) -> int:
    """List kept runs, or show one."""
    options, names = _options("changes", words)
    if options is None:
        return 0
    if not names:
        if "diff" in options:
            raise UsageError("`--diff` needs a run", hint="`sandbox changes` lists them")
        return _list_runs(options)
    run = find_kept(names[0], hidden=True)
    if "diff" in options:
        return _show_diff(run, names[1:])
    with run.open() as opened:
        chosen = look_at(opened, names[1:])
        trees = opened.record.trees
        if options.get("format", ["text"])[0] == "json":
            print(json.dumps(_run_to_dict(opened.record) | {"changes": [_to_dict(change, status.standing, trees[change.tree].path)
                  for change, status in statuses(opened, chosen)]}, indent=2))  # fmt: skip
            return 0
        if "quiet" in options:
            end = "\0" if "null" in options else "\n"
            for change in chosen:
                path = shown_path(change, trees)
                sys.stdout.buffer.write(os.fsencode(path if "null" in options else plain(path)) + end.encode())
            return 0
        for line in _lines(opened.record.complete, [(change, standing(change, status.standing, status.reason), shown_path(change, trees))
                           for change, status in statuses(opened, chosen)]):  # fmt: skip
            print(line)
    return 0


def apply(words: list[str]) -> int:
    """Apply a run's changes."""
    options, names = _options("apply", words)
    if options is None:
        return 0
    if not names:
        raise UsageError("say which run", hint="`sandbox changes` lists them")
    autorun = options.get("autorun", ["ask"])[0]
    if autorun not in ("ask", "apply", "skip"):
        raise UsageError(f"`--autorun {autorun}`: apply or skip")
    if "force" in options and "skip-conflicts" in options:
        raise UsageError("`--force` and `--skip-conflicts` exclude each other")
    run = find_kept(names[0])
    dry = "dry-run" in options
    report = run.apply(
        *names[1:], dry_run=dry, force="force" in options, skip_conflicts="skip-conflicts" in options, autorun=autorun, set_id="set-id" in options,
        special="special" in options, keep="keep" in options,
    )  # fmt: skip
    for line in _warnings(report):
        print(f"sandbox: {line}", file=sys.stderr)
    if "quiet" not in options:
        for line in _report_lines(report, run, dry=dry):
            print(line)
    return 0


def discard(words: list[str]) -> int:
    """Discard runs and snapshots; one that cannot go does not keep the others from it."""
    options, names = _options("discard", words)
    if options is None:
        return 0
    if bool(names) == ("all" in options):
        raise UsageError("say which, or `--all`" if not names else "name them or say `--all`, not both", hint="`sandbox changes` lists them")
    failed: list[SandboxError] = []
    shelf = open_shelf()
    for word in names or [*shelf.snapshots, *(run.run_id for run in reversed(shelf.runs) if not run.record.hidden)]:
        try:
            print(discard_word(word))
        except SandboxError as error:
            failed.append(error)
    for before in failed[:-1]:
        print(error_text(before), file=sys.stderr)
    if failed:
        raise failed[-1]
    return 0


def snapshot(words: list[str]) -> int:
    """Name a run."""
    options, names = _options("snapshot", words)
    if options is None:
        return 0
    if not 1 <= len(names) <= 2:
        raise UsageError("say which run, and at most one name", hint="`sandbox snapshot RUN NAME`")
    run = find_kept(names[0])
    name = names[1] if len(names) == 2 else f"run_{run.short_id}"
    run.snapshot(name)
    print(f"snapshot `{name}` of run `{run.short_id}`; `sandbox exec --resume {name} -- COMMAND` goes on from it")
    return 0


def summary(run: RunChanges) -> str:
    """Return the line that follows a run which changed something."""
    trees = ", ".join(tree.path for tree in run.record.trees)
    more = "" if run.record.complete else "more than "
    name = run.short_id
    return f"{more}{_counts(run)} in {trees}: `sandbox changes {name}`, `sandbox apply {name}`, `sandbox discard {name}`"


def plain(text: str) -> str:
    """Return a name on one line, harmless for a terminal: letters of every script stay, controls and what turns a text's direction do not."""
    from sandbox.audit.events import escape_untrusted

    return "".join(one if one.isprintable() and one != "\\" else escape_untrusted(one, 16) for one in text)


def standing(change: Change, how: Standing, reason: str) -> str:
    """Return what is said of a change beside its path."""
    parts = []
    before, after = change.before, change.after
    if change.kind is Kind.REPLACED and before is not None and after is not None:
        parts.append(f"{before.type} -> {after.type}")
    elif change.kind is Kind.MODIFIED and before is not None and after is not None:
        parts += [f"mode {before.mode:04o} -> {after.mode:04o}" if what == "mode" else what for what in change.what]
    facts = after or before
    if facts is not None and facts.type not in (Type.FILE, Type.DIRECTORY, Type.SYMLINK) and change.kind is not Kind.REPLACED:
        parts.append(str(facts.type))
    if after is not None and after.type is Type.SYMLINK:
        parts.append(f"-> {plain(after.target)}")
    if change.link:
        parts.append(f"another name of {plain(change.link)}")
    if after is not None and after.mode & 0o6000 and after.type is Type.FILE:
        parts.append("set-id")
    if how is Standing.DONE:
        parts.append("in the original already")
    elif how is Standing.CONFLICT:
        parts.append(f"CONFLICT: {reason}")
    return ", ".join(parts)


def _lines(complete: bool, shown: list[tuple[Change, str, str]]) -> Iterator[str]:
    width = min(60, max((len(plain(path)) + 1 for _, _, path in shown), default=0))
    for change, text, path in shown:
        facts = change.after or change.before
        name = plain(path) + ("/" if facts is not None and facts.type is Type.DIRECTORY else "")
        size = "" if change.after is None or change.after.type is not Type.FILE else short_size(change.after.size)
        yield f"{_LETTERS[change.kind]} {size:>6}  {name:<{width}}  {text}".rstrip()
    if not complete:
        yield f"... there are more; only {len(shown)} are listed"


def _list_runs(options: dict[str, list[str]]) -> int:
    shelf = open_shelf()
    runs = [run for run in shelf.runs if "all" in options or not run.record.hidden]
    if options.get("format", ["text"])[0] == "json":
        print(json.dumps([_run_to_dict(run.record) | {"snapshots": _names(shelf, run)} for run in runs], indent=2))
        return 0
    if "quiet" in options:
        for run in runs:
            print(run.short_id)
        return 0
    rows = [_row(shelf, run) for run in runs]
    width = os.get_terminal_size(1).columns if os.isatty(1) else None
    for line in lay_out(_COLUMNS, rows, width or None):
        print(line)
    lost = {name: run for name, run in shelf.snapshots.items() if run not in {one.run_id for one in runs}}
    for name, number in lost.items():
        print(f"snapshot `{name}` is of run `{number.rpartition('-')[2]}`, which is discarded otherwise")
    return 0


def _row(shelf: Shelf, run: RunChanges) -> tuple[str, ...]:
    record = run.record
    state = "discarded" if record.hidden else str(record.state)
    counts = "-" if record.state is State.RUNNING or not record.listed else _short_counts(run)
    return (
        run.short_id, short_time(max(0, time.time_ns() - record.began_ns)), state, counts, short_size(record.bytes) if record.listed else "-",
        ",".join(_names(shelf, run)) or "-", plain(", ".join(tree.path for tree in record.trees)), plain(" ".join(record.argv))[:_WIDE],
    )  # fmt: skip


def _names(shelf: Shelf, run: RunChanges) -> list[str]:
    return [name for name, named in shelf.snapshots.items() if named == run.run_id]


def _counts(run: RunChanges) -> str:
    words = {"added": "added", "modified": "modified", "deleted": "deleted", "replaced": "of another type"}
    return ", ".join(f"{run.counts[kind]} {word}" for kind, word in words.items() if run.counts.get(kind)) or "nothing changed"


def _short_counts(run: RunChanges) -> str:
    signs = {"added": "+", "modified": "~", "deleted": "-", "replaced": "!"}
    return " ".join(f"{sign}{run.counts[kind]}" for kind, sign in signs.items() if run.counts.get(kind)) or "0"


def _show_diff(run: RunChanges, paths: list[str]) -> int:
    """Print differences; what goes to a terminal is made harmless, what goes elsewhere is the text that `patch` reads."""
    from sandbox.changes.difference import difference

    tty = sys.stdout.isatty()
    with run.open() as opened:
        for change in look_at(opened, paths):
            for line in difference(opened, change):
                text = "\n".join(_harmless(part) for part in line.split("\n")) if tty else line
                sys.stdout.buffer.write(os.fsencode(text) + b"\n")
    return 0


def _harmless(line: str) -> str:
    return "".join(one if one == "\t" else plain(one) if one != "\\" else one for one in line)


def _report_lines(report: Report, run: RunChanges, *, dry: bool) -> Iterator[str]:
    verb = "would be applied" if dry else "applied"
    for change in report.changes:
        yield f"{_LETTERS[change.kind]} {plain(change.path)}"
    already = f", {report.done} were there already" if report.done else ""
    yield f"{len(report.changes)} {verb}{already}, {len(report.left)} left out"
    if report.removed:
        yield f"run `{run.short_id}` is not kept any more"
    elif not dry:
        yield f"run `{run.short_id}` is still kept; `sandbox discard {run.short_id}` lets it go"


def _warnings(report: Report) -> Iterator[str]:
    left = {path for path, _ in report.left}
    for path, reason in report.autorun[:50]:
        if path not in left:
            yield f"`{plain(path)}` runs by itself: {reason}"
    for path, reason in report.left[:50]:
        yield f"`{plain(path)}` left out: {plain(reason)}"
    for note in report.notes[:50]:
        yield plain(note)


def _run_to_dict(record: object) -> dict[str, object]:
    from sandbox.changes.model import Record

    assert isinstance(record, Record)
    return {
        "run": record.run, "id": record.run.rpartition("-")[2], "state": str(record.state), "argv": list(record.argv), "began_ns": record.began_ns,
        "trees": [{"path": tree.path, "image": tree.image} for tree in record.trees], "went_on_from": list(record.chain),
        "counts": dict(record.counts), "bytes": record.bytes, "complete": record.complete, "exit_code": record.exit_code, "discarded": record.hidden,
    }  # fmt: skip


def _to_dict(change: Change, how: Standing, tree: str) -> dict[str, object]:
    return {
        "tree": tree, "path": change.path, "kind": str(change.kind), "what": list(change.what), "link": change.link or None, "standing": str(how),
        "before": _facts(change.before), "after": _facts(change.after),
    }  # fmt: skip


def _facts(facts: Facts | None) -> dict[str, object] | None:
    if facts is None:
        return None
    return {
        "type": str(facts.type), "mode": f"{facts.mode:04o}", "size": facts.size, "mtime_ns": facts.mtime_ns, "target": facts.target or None,
    }  # fmt: skip


def _options(verb: str, words: list[str]) -> tuple[dict[str, list[str]] | None, list[str]]:
    """Parse; None for the options where help was asked for and has been printed. Options may come after names; ``--`` ends them."""
    options: dict[str, list[str]] = {}
    names: list[str] = []
    rest = words
    while rest:
        found, left = parse_options(rest, OPTIONS[verb], verb)
        for name, values in found.items():
            if name in options:
                raise UsageError(f"option `--{name}` is given twice")
            options[name] = values
        if "--" in rest[: len(rest) - len(left)]:
            names += left
            break
        names += left[:1]
        rest = left[1:]
    if "help" in options:
        usage, about = _ABOUT[verb]
        print(f"usage: sandbox {verb} {usage}\n\n{about}\n")
        print("\n".join(format_options(OPTIONS[verb])))
        print("\nA run is named by its id, the beginning of it, or a snapshot. More: sandbox-changes(1).")
        return None, []
    form = options.get("format", ["text"])[0]
    if form not in ("text", "json"):
        raise UsageError(f"`--format {form}`: text or json")
    return options, names


__all__ = ["OPTIONS", "apply", "changes", "discard", "plain", "snapshot", "summary"]
