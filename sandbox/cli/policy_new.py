"""``sandbox policy new``: a policy file that allows or refuses a little more than another, checked and proven before it is written."""

from __future__ import annotations

import os

from sandbox.cli.options import Option, UsageError
from sandbox.cli.policy_text import HELP, need, parse, printable, show_place
from sandbox.errors import PolicyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.policy.model import SyscallPolicy
    from sandbox.policy.write import Wish
    from sandbox.seccomp.shape import CallShape

OPTIONS = (
    Option(name="extends", short="e", metavar="POLICY", help="what it starts from", many=True, values=("@policies",)),
    Option(name="allow", short="a", metavar="CALL", help="allow these calls: a name, a @group, or a call with constants", many=True),
    Option(name="refuse", short="r", metavar="CALL", help="refuse these calls", many=True),
    Option(name="errno", metavar="NAME", help="what refused calls get; default: EPERM"),
    Option(name="description", metavar="TEXT", help="the file's description"),
    Option(name="force", short="f", help="replace an existing file"),
    HELP,
)
_TEXT = """Write a policy that extends another and allows or refuses a little more. Constants in a CALL become the rule's condition:
--allow 'socket(AF_INET, SOCK_STREAM)' allows those sockets and no others."""


def run(words: list[str]) -> int:
    """Write a policy file."""
    parsed = parse(words, OPTIONS, "new", "FILE.toml --extends POLICY [--allow CALL]... [--refuse CALL]...", _TEXT)
    if parsed is None:
        return 0
    options, operands = parsed
    need(operands, 1, 1, "which file to write, as in `./mine.toml`", "new")
    path = operands[0]
    extends = options.get("extends")
    if not extends:
        raise UsageError("say what the policy extends", hint="`--extends strict`, or what the run was refused under")
    if "allow" not in options and "refuse" not in options:
        raise UsageError("say what to allow or to refuse", hint="`--allow NAME`, as the summary of the run named it")
    if os.path.lexists(path) and "force" not in options:
        raise UsageError(f"`{path}` exists already", hint="`--force` replaces it")
    from sandbox.policy.write import new_text, policy_of
    from sandbox.seccomp.compile import compile_filter
    from sandbox.seccomp.lint import lint

    refusal = f"errno {options.get('errno', ['EPERM'])[0]}"
    parent = policy_of(new_text(path, extends, "what the new file extends", []), path)
    if any(os.path.realpath(layer.path) == os.path.realpath(path) for layer in parent.stack[1:]):
        raise UsageError(f"`{path}` would extend itself")
    asked = [("allow", text) for text in options.get("allow", [])] + [(refusal, text) for text in options.get("refuse", [])]
    wishes = []
    for action, text in asked:
        wish = _wish(action, text, extends, parent)
        _require_change(path, extends, wish, text, parent)
        wishes.append(wish)
    description = options.get("description", [""])[0] or _describe(extends, options)
    head = f"Written by `sandbox policy new`; `sandbox policy show ./{os.path.basename(path)}` tells what it means."
    text = new_text(path, extends, description, wishes, head)
    policy = policy_of(text, path)
    from sandbox.abi.arch import Arch

    for arch in Arch:
        compile_filter(policy, arch)
    _write(path, text, replace="force" in options)
    print(f"wrote {printable(path)}: {printable(description)}")
    for wish in wishes:
        print(f"  {_wish_text(wish)}{f'  ({printable(wish.comment)})' if wish.comment else ''}")
    for found in lint(policy):
        if found.ref.file == path:
            print(f"{printable(path)}:{found.ref.line}: warning {found.id}: {printable(found.message)}\n    {printable(found.advice)}")
    operand = path if "/" in path else f"./{path}"
    print(f"use it: sandbox exec --policy {printable(operand)} -- COMMAND")
    return 0


def _wish_text(wish: Wish) -> str:
    return f"{wish.action}  {wish.syscall}" + (f" when {wish.condition}" if wish.condition else "")


def _describe(extends: list[str], options: dict[str, list[str]]) -> str:
    parts = [", ".join(os.path.basename(word).removesuffix(".toml") for word in extends)]
    if "allow" in options:
        parts.append(f"and {', '.join(options['allow'])}")
    if "refuse" in options:
        parts.append(f"without {', '.join(options['refuse'])}")
    return ", ".join(parts)


def _wish(action: str, text: str, extends: list[str], parent: SyscallPolicy) -> Wish:
    """Return the rule that a word of the command line asks for."""
    from sandbox.policy.groups import load_groups
    from sandbox.policy.model import Action
    from sandbox.policy.nearest import suggest
    from sandbox.policy.write import Wish
    from sandbox.seccomp.explain import explain_shape

    if text.startswith("@"):
        groups = load_groups()
        if text[1:] not in groups:
            raise UsageError(f"unknown group `{text}`", hint=suggest(text, (f"@{name}" for name in groups)))
        return Wish(syscall=text, action=action, condition="")
    shape = _parse(text)
    if shape.syscall is None:
        raise UsageError(
            f"`{text}` has no name, so no rule can speak of it", hint="a number that no table names gets the policy's `default`"
        )
    wish = Wish(syscall=shape.syscall, action=action, condition=_condition(shape), comment=_former(shape, parent))
    if action == "allow" and all(case.outcome.action is Action.ALLOW for case in explain_shape(parent, shape)):
        raise PolicyError(f"rule would change nothing: {', '.join(extends)} allows `{text}` already", origin=wish.comment)
    return wish


def _parse(text: str) -> CallShape:
    """Read a call for this machine, or for the other architecture when only that one has it."""
    from sandbox.abi.arch import Arch
    from sandbox.cli.policy_text import choose_arch
    from sandbox.seccomp.shape import CallError, parse_call

    native = choose_arch({})
    try:
        return parse_call(text, native.value)
    except CallError as error:
        if "has no syscall" not in error.message:
            raise
        return parse_call(text, next(arch for arch in Arch if arch is not native).value)


def _condition(shape: CallShape) -> str:
    """Return the condition that a call's constants make."""
    from sandbox.abi.signatures import argument_mask, is_pointer, signature

    assert shape.syscall is not None
    names = [name for name, _ in signature(shape.syscall, shape.arch)]
    parts = []
    for index, value in sorted(shape.given.items()):
        care, number = shape.fixed[index]
        kept = argument_mask(shape.syscall, index, shape.arch)
        if care != kept:
            raise UsageError(
                f"`{names[index]}` of `{shape.syscall}` keeps {kept.bit_length()} bits, and {value} has more",
                hint="the kernel drops them, so a rule cannot ask for them; write the constant alone",
            )
        if is_pointer(shape.syscall, index, shape.arch) and number:
            continue  # an address from a log: no filter can know what is there
        parts.append(f"{names[index]} == {'0' if value == 'NULL' else value}")
    return " and ".join(parts)


def _former(shape: CallShape, parent: SyscallPolicy) -> str:
    """Return what happened to the calls so far, for the rule's comment."""
    from sandbox.seccomp.explain import explain_shape, outcome_text

    found = explain_shape(parent, shape)
    case = found[-1]
    place = show_place(case.ref)
    reason = f": {case.ref.reason}" if case.ref is not None and case.entry is not None and case.ref.reason else ""
    return printable(f"{place} says {outcome_text(case.outcome)}{reason}")


def _require_change(path: str, extends: list[str], wish: Wish, text: str, parent: SyscallPolicy) -> None:
    """Refuse a wish that is fulfilled already."""
    from sandbox.abi.arch import Arch
    from sandbox.policy.write import new_text, policy_of
    from sandbox.seccomp.prove import diff

    alone = policy_of(new_text(path, extends, "one rule", [wish]), path)
    if all(not diff(parent, alone, arch) for arch in Arch):
        raise PolicyError(f"rule would change nothing: {', '.join(extends)} decides `{text}` so already", origin=wish.comment or None)


def _write(path: str, text: str, *, replace: bool) -> None:
    """Put a file in its place, whole or not at all."""
    temporary = f"{path}.{os.getpid()}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        if replace:
            os.replace(temporary, path)
            return
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise UsageError(f"`{path}` exists already", hint="`--force` replaces it") from None
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)
