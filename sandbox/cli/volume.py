"""``sandbox volume COMMAND``: make, list, look at and remove named volumes."""

from __future__ import annotations

import os
import sys
from datetime import UTC

from sandbox.api import volumes
from sandbox.cli.columns import Column, lay_out, short_size, short_time, shown_name
from sandbox.cli.main import error_text
from sandbox.cli.options import Option, UsageError, format_options, parse_options
from sandbox.errors import SandboxError
from sandbox.units import parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.api.volumes import NamedVolume

_HELP = Option(name="help", short="h", help="this text")
_JSON = Option(name="json", help="as JSON")
OPTIONS = {
    "create": (
        Option(name="label", short="l", metavar="KEY=VALUE", help="a text to find it by", many=True),
        Option(name="size", metavar="SIZE", help="what it may grow to: as root, on a file system with project quotas"),
        _HELP,
    ),
    "ls": (
        Option(name="quiet", short="q", help="names only"),
        Option(name="no-header", help="no line of titles"),
        Option(name="size", short="s", help="count what each takes on the disk"),
        Option(name="label", short="l", metavar="KEY[=VALUE]", help="only with this label", many=True),
        _JSON,
        _HELP,
    ),
    "show": (_JSON, _HELP),
    "rm": (Option(name="force", short="f", help="a name that is none is no error"), _HELP),
    "prune": (
        Option(name="all", short="a", help="every volume that no run uses now"),
        Option(name="label", short="l", metavar="KEY[=VALUE]", help="of them only those with this label", many=True),
        Option(name="unused-for", metavar="TIME", help="of them only those that no run has used for so long"),
        Option(name="dry-run", help="only print which"),
        _HELP,
    ),
}
_ABOUT = {
    "create": ("[OPTION...] NAME", "Make an empty volume. `sandbox exec -v NAME:/PATH` makes one as well."),
    "ls": ("[OPTION...]", "List volumes."),
    "show": ("[--json] NAME...", "Show what is known of volumes."),
    "rm": ("[--force] NAME...", "Remove volumes and what is in them. One that a run uses is kept."),
    "prune": ("--all | --label KEY[=VALUE] | --unused-for TIME", "Remove volumes that no run uses now; without an option only what crashes left."),
}
COMMANDS = {
    "create": "make an empty volume",
    "ls": "list volumes",
    "show": "what is known of a volume, and which runs use it",
    "rm": "remove volumes",
    "prune": "remove volumes that are not used",
}
TAKE_NAMES = ("show", "rm")
_COLUMNS = (Column(title="NAME"), Column(title="AGE", right=True), Column(title="UNUSED", right=True), Column(title="RUNS", right=True))


def run(words: list[str]) -> int:
    """Run one of the commands."""
    if not words or words[0] in ("-h", "--help", "help"):
        print("usage: sandbox volume COMMAND [OPTION...] [NAME...]\n\nNamed volumes: directories that outlive the runs which mount them.\n")
        print("\n".join(f"  {name:<9}{text}" for name, text in COMMANDS.items()))
        print("\n  sandbox exec -v cache:/cache -- make\n\n`sandbox volume COMMAND --help` tells more, and sandbox-volume(1).")
        return 0 if words else 125
    command, rest = words[0], words[1:]
    if command not in OPTIONS:
        from difflib import get_close_matches

        close = get_close_matches(command, COMMANDS, n=1)
        raise UsageError(
            f"unknown command `volume {command}`", hint=f"did you mean `sandbox volume {close[0]}`?" if close else "see `sandbox volume --help`"
        )
    options, names = _parse(command, rest)
    if "help" in options:
        usage, about = _ABOUT[command]
        print(f"usage: sandbox volume {command} {usage}\n\n{about}\n")
        print("\n".join(format_options(OPTIONS[command])))
        return 0
    return {"create": _create, "ls": _list, "show": _show, "rm": _remove, "prune": _prune}[command](options, names)


def _parse(command: str, words: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Parse options and names; options may come after names."""
    options: dict[str, list[str]] = {}
    names: list[str] = []
    rest = words
    while rest:
        found, left = parse_options(rest, OPTIONS[command], f"volume {command}")
        for name, values in found.items():
            if name in options and name != "label":
                raise UsageError(f"option `--{name}` is given twice")
            options[name] = options.get(name, []) + values
        names += left[:1]
        rest = left[1:]
    return options, names


def _create(options: dict[str, list[str]], names: list[str]) -> int:
    if len(names) != 1:
        raise UsageError("say one name", hint="`sandbox volume create NAME`")
    labels = {}
    for text in options.get("label", []):
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"`--label {text}` is not KEY=VALUE", hint="for example `--label project=site`")
        labels[key] = value
    made = volumes.create(names[0], labels=labels, size=options.get("size", [None])[0], origin="`sandbox volume create`")
    print(made.name)
    return 0


def _list(options: dict[str, list[str]], names: list[str]) -> int:
    if names:
        raise UsageError(f"`sandbox volume ls` takes no `{names[0]}`", hint=f"`sandbox volume show {names[0]}` looks at one")
    wanted = volumes.labels_of(options.get("label", []))
    found = [
        each for each in volumes.find_all() if all(key in each.labels and value in (None, each.labels[key]) for key, value in wanted.items())
    ]  # fmt: skip
    if "json" in options:
        import json

        print(json.dumps([_to_dict(each, "size" in options) for each in found], indent=2))
        return 0
    if "quiet" in options:
        for each in found:
            print(each.name)
        return 0
    columns = _COLUMNS[:1] + ((Column(title="SIZE", right=True), Column(title="FILES", right=True)) if "size" in options else ()) + _COLUMNS[1:]
    lines = lay_out((*columns, Column(title="LABELS")), [_row(each, "size" in options) for each in found], None)
    for line in lines["no-header" in options :]:
        print(line)
    return 0


def _row(volume: NamedVolume, sizes: bool) -> tuple[str, ...]:
    import time

    now = time.time_ns()
    labels = " ".join(f"{shown_name(key)}={shown_name(value)}" for key, value in volume.labels.items())
    measured: tuple[str, ...] = ()
    if sizes:
        size, files, whole = volume.measure()
        measured = (("" if whole else ">") + short_size(size), ("" if whole else ">") + str(files))
    unused = "-" if volume.uses else short_time(max(0, now - volume.last_used_ns))
    return (volume.name, *measured, short_time(max(0, now - volume.created_ns)), unused, str(len(volume.uses)), labels or "-")


def _to_dict(volume: NamedVolume, sizes: bool) -> dict[str, object]:
    found = volume.to_dict()
    if sizes:
        size, files, whole = volume.measure()
        found |= {"size_bytes": size, "files": files, "counted_all": whole}
    return found


def _show(options: dict[str, list[str]], names: list[str]) -> int:
    if not names:
        raise UsageError("say which volumes", hint="see `sandbox volume ls`")
    found = [volumes.find(name) for name in names]
    if "json" in options:
        import json

        print(json.dumps([_to_dict(each, True) for each in found], indent=2))
        return 0
    print("\n\n".join("\n".join(_block(each)) for each in found))
    return 0


def _block(volume: NamedVolume) -> list[str]:
    from datetime import datetime

    def moment(ns: int) -> str:
        return datetime.fromtimestamp(ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")

    size, files, whole = volume.measure()
    limit = f" of {short_size(volume.limit_bytes)}" if volume.limit_bytes else ""
    lines = [
        ("volume", volume.name),
        ("path", volume.path),
        ("size", f"{short_size(size)}{limit}, {files} files" + ("" if whole else ", and more that could not be counted")),
        ("created", moment(volume.created_ns) + (" by a run" if volume.made == "run" else "")),
        ("last used", "now" if volume.uses else moment(volume.last_used_ns)),
    ]
    lines += [("label", f"{shown_name(key)}={shown_name(value)}") for key, value in volume.labels.items()]
    for use in volume.uses:
        name = f" ({shown_name(use.name)})" if use.name else ""
        lines.append(("run", f"{use.run_id}{name}, {'writes' if use.writable else 'reads'}" + (", locked" if use.locked else "")))
    return [f"{name:<11}{text}" for name, text in lines]


def _remove(options: dict[str, list[str]], names: list[str]) -> int:
    if not names:
        raise UsageError("say which volumes", hint="see `sandbox volume ls`; `sandbox volume prune` removes by rule")
    known = {each.name for each in volumes.find_all()}
    failed: list[SandboxError] = []
    for name in dict.fromkeys(names):
        if "force" in options and name not in known:
            continue
        try:
            volumes.remove(name)
        except SandboxError as error:
            failed.append(error)
    for before in failed[:-1]:
        print(error_text(before), file=sys.stderr)
    if failed:
        raise failed[-1]
    return 0


def _prune(options: dict[str, list[str]], names: list[str]) -> int:
    if names:
        raise UsageError(f"`sandbox volume prune` takes no `{names[0]}`", hint=f"`sandbox volume rm {names[0]}`")
    unused = parse_duration(options["unused-for"][0], where="option `--unused-for`") if "unused-for" in options else 0
    removed = volumes.prune(
        labels=volumes.labels_of(options.get("label", [])), unused_ns=unused, every="all" in options, dry_run="dry-run" in options
    )  # fmt: skip
    for each in removed:
        print(each.name)
    if not removed and not any(name in options for name in ("all", "label", "unused-for")) and os.isatty(2):
        print("sandbox: no volume was removed: say `--all`, `--label KEY[=VALUE]` or `--unused-for TIME`", file=sys.stderr)
    return 0
