"""``sandbox judge languages``: which languages are known, which of them are here, and whether they work."""

from __future__ import annotations

import sys

from sandbox.cli.operands import parse
from sandbox.cli.options import Option, UsageError
from sandbox.cli.policy_text import printable, width
from sandbox.judge.languages import Absent, Language, load_languages
from sandbox.judge.report.fit import cut, shrink
from sandbox.record import dataclass
from sandbox.units import format_duration, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.judge.languages import Installed, Languages
    from sandbox.judge.trial import Trial

OPTIONS = (
    Option(name="format", short="f", metavar="FORMAT", values=("table", "json"), help="how to print: table (default) or json"),
    Option(name="check", help="compile and run a small program of each; 1 if one fails"),
    Option(name="installed", help="only those that are installed"),
    Option(name="directory", metavar="DIR", values=("@files",), help="more definitions; they win over the others", many=True),
    Option(name="help", short="h", help="this text"),
)
_ABOUT = "List the languages of the judge, or describe those that are named, by id, alias,\nname or extension. More: sandbox-judge-languages(1)."
_WORKERS = 2
_LEAST = (13, 12, 12)
_LEAST_VERSION = 30
_GAP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    language: Language
    found: Installed | Absent
    trial: Trial | None = None


def run(words: list[str]) -> int:
    """Print the table; 1 where `--check` found a language that is installed and does not work."""
    parsed = parse(words, OPTIONS, "judge languages", "[OPTION...] [LANGUAGE...]", _ABOUT)
    if parsed is None:
        return 0
    options, names = parsed
    form = options.get("format", ["table"])[-1]
    if form not in ("table", "json"):
        raise UsageError(f"`--format {form}`: table or json")
    table = load_languages(options.get("directory", ()))
    chosen = list({each.id: each for each in map(table.find, names)}.values()) if names else list(table)
    rows = _look(table, chosen, check="check" in options)
    if "installed" in options:
        rows = [row for row in rows if not isinstance(row.found, Absent)]
    if form == "json":
        import json

        print(json.dumps([_plain(row) for row in rows], indent=2))
    elif names:
        print("\n\n".join(_described(row) for row in rows))
    else:
        print("\n".join(_table(rows, width() if sys.stdout.isatty() else None)))
    return int(any(row.trial is not None and row.trial.cause and not row.trial.absent for row in rows))


def _look(table: Languages, chosen: Sequence[Language], *, check: bool) -> list[_Row]:
    """Find the toolchains, some at a time: a version command of a JVM takes half a second when its answer is not known yet."""
    from concurrent.futures import ThreadPoolExecutor

    if not check:
        with ThreadPoolExecutor(_WORKERS) as pool:
            return [_Row(language=each, found=found) for each, found in zip(chosen, pool.map(table.toolchain, chosen), strict=True)]
    import os

    from sandbox.judge.building import Builder
    from sandbox.judge.cache import open_cache
    from sandbox.judge.trial import try_language

    rows = []
    with Builder(table, cache=open_cache(os.environ, keep=False)) as builder:
        for number, each in enumerate(chosen, 1):
            if sys.stderr.isatty():
                print(f"\r\x1b[Ksandbox: {number} of {len(chosen)}, {each.name} …", end="", file=sys.stderr, flush=True)
            rows.append(_Row(language=each, found=table.toolchain(each), trial=try_language(builder, each)))
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return rows


def _table(rows: Sequence[_Row], columns: int | None) -> list[str]:
    lines = [("ID", "LANGUAGE", "FILES", "VERSION")]
    for row in rows:
        found = row.found
        state = f"absent: {found.reason}" if isinstance(found, Absent) else found.version
        if row.trial is not None and not row.trial.absent:
            trial = row.trial
            compiled = "" if trial.compile_ns is None else f"compiled in {format_duration(trial.compile_ns)}, "
            state = f"FAILS: {trial.cause}" if trial.cause else f"works, {compiled}ran {format_duration(trial.run_ns)}; {state}"
        files = " ".join([*row.language.extensions, *(f"({each})" for each in row.language.shared)])
        lines.append((row.language.id, row.language.name, files, state))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    if columns is None:
        return ["  ".join([*(printable(text).ljust(size) for text, size in zip(line, widths, strict=False)), printable(line[3])]).rstrip() for line in lines]
    least = [min(size, narrow) for size, narrow in zip(widths, _LEAST, strict=True)]
    widths = shrink(widths, least, sum(widths) + _GAP * len(widths) + _LEAST_VERSION - columns)
    left = max(_LEAST_VERSION, columns - sum(widths) - _GAP * len(widths))
    return [
        "  ".join([*(cut(printable(text), size).ljust(size) for text, size in zip(line, widths, strict=False)), cut(printable(line[3]), left)]).rstrip()
        for line in lines
    ]


def _described(row: _Row) -> str:
    language, found = row.language, row.found
    facts = [
        ("id", language.id),
        ("aliases", ", ".join(language.aliases)),
        ("files", ", ".join([*language.extensions, *(f"{each} (where said)" for each in language.shared)])),
        ("interpreters", ", ".join(language.interpreters)),
        ("entry point", f"{language.entry}" + (f"; {', '.join(language.main)} unless stated" if language.main else "")),
        ("only for", "" if language.accepts is None else f"input validators: exit {language.accepts} accepts, exit {language.rejects} refuses"),
        ("time factor", "" if language.time_factor == 1 else f"{language.time_factor:g}"),
        ("memory extra", format_size(language.memory_extra_bytes) if language.memory_extra_bytes else ""),
        ("processes", str(language.processes)),
        ("defined in", language.origin),
    ]
    if isinstance(found, Absent):
        facts += [("absent", found.reason), ("hint", found.hint)]
    else:
        tool = found.toolchain
        facts += [
            ("version", found.version), ("programs", ", ".join(f"{name} = {path}" for name, path in found.programs.items())),
            ("compile", _words(tool.compile) or "nothing to compile"), ("run", _words(tool.run)), ("mounts", ", ".join(tool.mounts)),
        ]  # fmt: skip
    if row.trial is not None and not row.trial.absent:
        trial = row.trial
        memory = "" if trial.memory_bytes is None else f", {format_size(trial.memory_bytes)}"
        facts.append(("check", f"fails: {trial.cause}" if trial.cause else f"works: {format_duration(trial.run_ns)} of CPU time{memory}"))
    return f"{language.name}\n" + "\n".join(f"  {name:<14}{printable(text)}" for name, text in facts if text)


def _words(words: Sequence[str]) -> str:
    from shlex import quote

    return " ".join(word if word.startswith("{") and word.endswith("}") else quote(word) for word in words)


def _plain(row: _Row) -> dict[str, object]:
    language, found = row.language, row.found
    plain: dict[str, object] = {
        "id": language.id, "name": language.name, "aliases": language.aliases, "extensions": language.extensions, "shared": language.shared,
        "interpreters": language.interpreters, "priority": language.priority, "entry": language.entry, "main": language.main,
        "time_factor": language.time_factor, "memory_extra_bytes": language.memory_extra_bytes, "processes": language.processes,
        "accepts": language.accepts, "rejects": language.rejects, "origin": language.origin, "installed": not isinstance(found, Absent),
    }  # fmt: skip
    if isinstance(found, Absent):
        plain |= {"reason": found.reason, "hint": found.hint}
    else:
        tool = found.toolchain
        plain |= {"version": found.version, "programs": dict(found.programs), "compile": tool.compile, "run": tool.run, "mounts": tool.mounts}
    if row.trial is not None and not row.trial.absent:
        trial = row.trial
        plain["check"] = {
            "ok": not trial.cause, "cause": trial.cause, "compile_ns": trial.compile_ns, "run_ns": trial.run_ns, "memory_bytes": trial.memory_bytes,
        }  # fmt: skip
    return plain


__all__ = ["OPTIONS", "run"]
