"""The syscall policy as a frozen value: actions, conditions, rules, and the merged stack of files.

Only types live here; `load.py` makes them from TOML, `merge.py` stacks and checks them, `conditions.py` parses and evaluates conditions. No I/O.
Every floor may import this module.
"""

from __future__ import annotations

from sandbox.enums import StrEnum
from sandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Action(StrEnum):
    """What the kernel does with a call, in the policy language's words."""

    ALLOW = "allow"
    LOG = "log"  # allowed, and the kernel writes an audit line
    EMULATE = "emulate"  # answered by the supervisor from the sandbox's limits; allowed where there is no machine view or nobody listens
    ERRNO = "errno"  # refused in the kernel, nobody is told
    NOTIFY = "notify"  # refused by the supervisor, which records an audit event
    TRAP = "trap"  # SIGSYS
    KILL_PROCESS = "kill-process"


PERMITTING = (Action.ALLOW, Action.LOG, Action.EMULATE)
"""What a program takes for a yes, whoever answers."""

EMULATED = ("sched_getaffinity", "sysinfo")
"""The calls that the supervisor can answer, `supervise.machine_view`."""


class Operator(StrEnum):
    """Comparison operators; ordering compares unsigned values of the argument's C width."""

    EQ = "=="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where something is written: a file as it was opened and a line counted from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An action with its errno (0 unless the action is `ERRNO` or `NOTIFY`)."""

    action: Action
    errno: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """An integer expression of C constants: the text, and a postfix program of it.

    Program words: an int pushes itself, a name pushes the constant of that name (it may differ by architecture), ``|`` ``~`` and ``-`` operate.
    """

    text: str
    program: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """``argument [& mask] operator value``; with `register` it is ``register(argument)``: all 64 bits, whatever the argument's C type.

    `argument` is then a name or a register's number, 0 to 5.
    """

    argument: str
    mask: Value | None
    operator: Operator
    value: Value
    register: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """``argument [& mask] [not] in {values}``; `register` as in `Comparison`."""

    argument: str
    mask: Value | None
    negated: bool
    values: tuple[Value, ...]
    register: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AllOf:
    """Every part holds (``and``)."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyOf:
    """At least one part holds (``or``)."""

    parts: tuple[Condition, ...]


Condition = Comparison | Membership | AllOf | AnyOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """One syscall that a rule names; `group` is the @group that brought it in, without the @, or empty when it is named itself."""

    syscall: str
    line: int
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One ``[[rule]]`` table, its names expanded and its `audit` already folded into the outcomes.

    A call of a mentioned syscall gets `outcome` if `condition` is None or holds; else `otherwise` if that is not None; else the rule does not match.
    `index` counts the rules of the file from 1; `condition_line` is the line of `when`, 0 without one.
    """

    mentions: tuple[Mention, ...]
    outcome: Outcome
    place: Place
    index: int
    condition: Condition | None = None
    condition_text: str = ""
    condition_line: int = 0
    otherwise: Outcome | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One policy file. `default` is None when it leaves the default to the files below; `content` is the file's bytes."""

    name: str
    description: str
    path: str
    extends: tuple[str, ...]
    extends_places: tuple[Place, ...]
    default: Outcome | None
    default_place: Place
    rules: tuple[Rule, ...]
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleRef:
    """Which rule decided a call: what an audit event cites. `name` is the policy whose file holds the rule."""

    file: str
    line: int
    reason: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One rule as it applies to one syscall, in the order in which the rules are tried."""

    rule: Rule
    layer: Layer
    ref: RuleRef


@dataclass(frozen=True, slots=True, kw_only=True)
class SyscallPolicy:
    """A policy ready to be compiled or asked.

    `stack` holds the files from the top (the policy itself) down. `rules` maps each mentioned syscall to its entries, first match first, the last one always
    deciding whatever reaches it. `default` applies to every number that no rule mentions. `digest` is SHA-256 in hex over everything that
    gives the policy its meaning but the tables of `sandbox.abi`.
    """

    name: str
    description: str
    default: Outcome
    rules: Mapping[str, tuple[Entry, ...]]
    stack: tuple[Layer, ...]
    digest: str
    default_ref: RuleRef
    sources: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What happens to one call; `rule` is None where no rule of the policy was asked (wrong architecture, x32) or the default applied."""

    action: Action
    errno: int
    rule: RuleRef | None
