"""``sandbox profiles`` and ``sandbox policies``: what there is, and the text of one."""

from __future__ import annotations

from sandbox.cli.options import Option, UsageError, format_options, parse_options
from sandbox.cli.policy_text import printable
from sandbox.policy.locate import Kind, names, resolve

_OPTIONS = (Option(name="json", help="as JSON"), Option(name="help", short="h", help="this text"))


def profiles(words: list[str]) -> int:
    """List profiles, or print the file of one."""
    return _run("profiles", words)


def policies(words: list[str]) -> int:
    """List policies, or print the file of one."""
    return _run("policies", words)


def _run(kind: Kind, words: list[str]) -> int:
    options, operands = parse_options(words, _OPTIONS, kind)
    if "help" in options:
        print(f"usage: sandbox {kind} [--json] [NAME]\n\nList {kind}, or print the file of one.\n")
        print("\n".join(format_options(_OPTIONS)))
        return 0
    if len(operands) > 1:
        raise UsageError(f"one name at most, not {len(operands)}")
    if operands:
        print(_shown(resolve(operands[0], kind)), end="")
        return 0
    rows = [_describe(kind, name) for name in names(kind)]
    if "json" in options:
        import json

        print(json.dumps([{"name": name, "description": text, "path": path} for name, text, path in rows], indent=2))
        return 0
    width = max((len(name) for name, _, _ in rows), default=0) + 2
    for name, text, _ in rows:
        print(f"{printable(name):<{width}}{printable(text)}")
    return 0


def _shown(path: str) -> str:
    """Return a file's text: as it is, but for what would move a terminal's cursor or turn the direction of its text."""
    import sys

    from sandbox.policy.toml_source import read_text

    text = read_text(path)[1]
    return "".join(each if each in "\n\t" else printable(each) for each in text) if sys.stdout.isatty() else text


def _describe(kind: Kind, name: str) -> tuple[str, str, str]:
    from sandbox.errors import SandboxError

    path = resolve(name, kind)
    try:
        if kind == "profiles":
            from sandbox.policy.profile_load import load_profile

            return name, load_profile(name).description, path
        from sandbox.policy.load import load_policy

        return name, load_policy(name).description, path
    except SandboxError as error:
        return name, f"(broken: {error.message})", path
