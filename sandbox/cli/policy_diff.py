"""``sandbox policy diff``: the calls that two policies decide differently, by meaning, with an example and the rules on both sides."""

from __future__ import annotations

from sandbox.cli.policy_text import ARCH, HELP, JSON, choose_arch, need, paint, parse, print_json, printable, show_place, wrap, wrap_text
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.abi.arch import Arch
    from sandbox.policy.model import Outcome, RuleRef, SyscallPolicy
    from sandbox.seccomp.prove import Difference

OPTIONS = (ARCH, JSON, HELP)
_TEXT = """Tell the calls that two policies decide differently, by meaning: whole system calls by group, others with an example each.
Exit status: 0 when the policies are equal for every call, 1 when they differ, 125 for errors."""
_KINDS = {"unnamed": "numbers without a name", "x32": "x32 calls", "foreign": "calls of other architectures"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    outcome: Outcome
    ref: RuleRef | None

    @property
    def text(self) -> str:
        from sandbox.seccomp.explain import is_recorded, outcome_text

        return outcome_text(self.outcome) + (", not recorded" if is_recorded(self.outcome) is False else "")

    @property
    def permitted(self) -> bool:
        from sandbox.seccomp.explain import is_permitted

        return is_permitted(self.outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One difference; `whole` tells that both policies decide every call of the system call alike."""

    kind: str
    syscall: str
    example: str
    left: _Side
    right: _Side
    whole: bool

    @property
    def verdict(self) -> str:
        if self.left.permitted is self.right.permitted:
            return "both-permit" if self.left.permitted else "both-refuse"
        return "left-permits" if self.left.permitted else "right-permits"


def run(words: list[str]) -> int:
    """Compare two policies."""
    parsed = parse(words, OPTIONS, "diff", "[--arch ARCH] [--json] POLICY POLICY", _TEXT)
    if parsed is None:
        return 0
    options, operands = parsed
    need(operands, 2, 2, "two policies", "diff")
    from sandbox.policy.load import load_policy
    from sandbox.seccomp.prove import diff

    arch = choose_arch(options)
    left, right = (load_policy(operand) for operand in operands)
    rows = [_row(found, left, right, arch) for found in diff(left, right, arch)]
    # Two files may bear one name: then the paths tell them apart.
    titles = (left.name, right.name) if left.name != right.name else (printable(operands[0]), printable(operands[1]))
    if "json" in options:
        print_json(
            {
                "left": {"policy": left.name, "file": left.stack[0].path},
                "right": {"policy": right.name, "file": right.stack[0].path},
                "arch": str(arch),
                "differences": [_as_json(row) for row in rows],
            }
        )
    else:
        print("\n".join(_lines(rows, titles, arch)))
    return 1 if rows else 0


def _row(found: Difference, left: SyscallPolicy, right: SyscallPolicy, arch: Arch) -> _Row:
    from sandbox.seccomp.explain import cases

    whole = found.kind == "syscall" and all(
        len({case.outcome for case in cases(policy, arch, found.syscall)}) == 1 for policy in (left, right)
    )
    return _Row(
        kind=found.kind,
        syscall=found.syscall,
        example=str(found.call),
        left=_side(left, found, arch),
        right=_side(right, found, arch),
        whole=whole,
    )


def _side(policy: SyscallPolicy, found: Difference, arch: Arch) -> _Side:
    from sandbox.policy.model import Outcome
    from sandbox.seccomp.decide import decide

    decision = decide(policy, arch, found.call.number, found.call.arguments)
    return _Side(outcome=Outcome(action=decision.action, errno=decision.errno), ref=decision.rule)


def _as_json(row: _Row) -> dict[str, object]:
    from sandbox.seccomp.explain import is_recorded, outcome_text

    def side(each: _Side) -> dict[str, object]:
        return {
            "decision": outcome_text(each.outcome),
            "recorded": is_recorded(each.outcome),
            "file": each.ref.file if each.ref is not None else None,
            "line": each.ref.line if each.ref is not None else None,
        }

    return {
        "verdict": row.verdict,
        "kind": row.kind,
        "syscall": row.syscall,
        "whole": row.whole,
        "example": row.example,
        "left": side(row.left),
        "right": side(row.right),
    }


def _lines(rows: list[_Row], titles: tuple[str, str], arch: Arch) -> list[str]:
    left, right = titles
    if not rows:
        return [f"{left} and {right} decide every call of {arch} alike"]
    count = len({row.syscall for row in rows if row.kind == "syscall"})
    lines = [f"{left} and {right} differ in {count} system call{'s' if count != 1 else ''} of {arch}"]
    headings = {
        "left-permits": f"{left} permits, {right} refuses",
        "right-permits": f"{right} permits, {left} refuses",
        "both-refuse": "both refuse, differently",
        "both-permit": "both permit, differently",
    }
    for verdict, heading in headings.items():
        part = [row for row in rows if row.verdict == verdict]
        if part:
            lines += ["", paint(heading, "head"), *_whole_lines(part), *_example_lines(part)]
    return lines


def _both(row: _Row) -> str:
    return f"{row.left.text}  {show_place(row.left.ref)}  |  {row.right.text}  {show_place(row.right.ref)}"


def _whole_lines(rows: list[_Row]) -> list[str]:
    """Return the system calls that differ whole, folded by group and by what happens to them."""
    from sandbox.policy.groups import load_groups, primary_group

    order = {name: at for at, name in enumerate(load_groups())}
    folded: dict[tuple[str, str], list[str]] = {}
    for row in sorted((row for row in rows if row.whole), key=lambda row: (order[primary_group(row.syscall)], row.syscall)):
        folded.setdefault((primary_group(row.syscall), _both(row)), []).append(row.syscall)
    lines = []
    for (group, text), names in folded.items():
        lines += [*wrap(names, first=f"  @{group}: ", indent="      "), f"      {text}"]
    return lines


def _example_lines(rows: list[_Row]) -> list[str]:
    """Return the rest: calls that differ by their arguments, and numbers that are nobody's."""
    lines = []
    for row in rows:
        if not row.whole:
            what = f"{_KINDS[row.kind]}, as in " if row.kind in _KINDS else "as in "
            lines += [*wrap_text(f"{what}{row.example}", first="  ", indent="      "), f"      {_both(row)}"]
    return lines
