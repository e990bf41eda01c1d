"""One policy file: TOML text → `Layer`, with file:line and key path in every error. And `load_policy`, the way in.

Only reads files. Meaning that needs a signature or a constant (does the argument exist, does the value fit, is a rule shadowed) is checked by
`check.py`, stacking is `merge.py`'s. Imported by `api` and the tools.
"""

from __future__ import annotations

import errno as _errno
import os
import re
import stat
from collections.abc import Mapping

from sandbox.abi.arch import Arch
from sandbox.abi.tables import known_anywhere, syscall_names
from sandbox.errors import PolicyError, describe_errno
from sandbox.policy import locate
from sandbox.policy.conditions import ConditionError, parse_condition
from sandbox.policy.lines import TableLines, scan_lines
from sandbox.policy.model import EMULATED, Action, Condition, Layer, Mention, Outcome, Place, Rule, SyscallPolicy
from sandbox.policy.nearest import suggest
from sandbox.policy.toml_source import parse_toml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MAXIMUM_BYTES = 1 << 20
_MAXIMUM_EXTENDS = 64
_MAXIMUM_DEPTH = 32
_MAXIMUM_FILES = 512
MAXIMUM_NAME = 64
_NAME = re.compile(rf"[a-z][a-z0-9-]{{0,{MAXIMUM_NAME - 1}}}", re.ASCII)
TOP_KEYS = ("name", "description", "extends", "default", "default_audit", "rule")
RULE_KEYS = ("syscalls", "action", "when", "else", "audit", "reason")
ERRNOS = {name: number for number, name in _errno.errorcode.items()} | {"EWOULDBLOCK": _errno.EWOULDBLOCK, "ENOTSUP": _errno.ENOTSUP}

# Functions of the C library whose system calls have other names.
_LIBRARY = {
    "fstatat": "newfstatat",
    "pread": "pread64",
    "pwrite": "pwrite64",
    "prlimit": "prlimit64",
    "umount": "umount2",
    "waitpid": "wait4",
    "wait3": "wait4",
    "wait": "wait4",
    "posix_fadvise": "fadvise64",
    "posix_fallocate": "fallocate",
    "posix_spawn": "clone",
    "pthread_create": "clone",
    "sigaction": "rt_sigaction",
    "sigprocmask": "rt_sigprocmask",
    "sigreturn": "rt_sigreturn",
    "send": "sendto",
    "recv": "recvfrom",
    "readdir": "getdents64",
    "nice": "setpriority",
    "_exit": "exit_group",
    "sbrk": "brk",
}

GroupMembers = Mapping[str, tuple[str, ...]]


class _Groups(Mapping[str, tuple[str, ...]]):
    """The shipped @groups; their file is read when the first one is looked up."""

    def __getitem__(self, name: str) -> tuple[str, ...]:
        from sandbox.policy.groups import load_groups

        return load_groups()[name].syscalls

    def __iter__(self) -> Iterator[str]:
        from sandbox.policy.groups import load_groups

        return iter(load_groups())

    def __len__(self) -> int:
        return sum(1 for _ in self)


GROUPS: GroupMembers = _Groups()


def load_policy(name_or_path: str, *, check: bool = True) -> SyscallPolicy:
    """Load a policy with everything it extends.

    Args:
        name_or_path: a bare name (shipped or the user's own), or a path: something with a ``/`` or ending in ``.toml``.
        check: also check every condition against the signatures and find rules that cannot matter. Compiling checks too, so the run path, whose
            filter comes from the cache of compiled ones, leaves it out.

    Raises:
        PolicyError: with the file, line and key of the mistake.
    """
    from sandbox.policy.merge import merge_layers

    policy = merge_layers(read_stack(locate.resolve(name_or_path, "policies"), GROUPS), GROUPS)
    if check:
        from sandbox.policy.check import check_policy  # not on the run path

        check_policy(policy)
    return policy


def read_stack(path: str, groups: GroupMembers) -> tuple[Layer, ...]:
    """Return a file's stack, the file itself first: below it everything it extends, the last named on top, each file once.

    Raises:
        PolicyError: a file is unreadable or wrong, or files extend each other in a circle.
    """
    upwards: list[Layer] = []
    done: set[tuple[int, int]] = set()
    opened = 0

    def visit(path: str, trail: tuple[tuple[tuple[int, int], str], ...], origin: str | None) -> None:
        nonlocal opened
        opened += 1
        if len(trail) >= _MAXIMUM_DEPTH or opened > _MAXIMUM_FILES:
            most = f"{_MAXIMUM_DEPTH} deep" if len(trail) >= _MAXIMUM_DEPTH else f"{_MAXIMUM_FILES} times"
            raise PolicyError(f"policies extend each other more than {most}", origin=origin)
        content, identity = _read(path, origin)
        if identity in (seen for seen, _ in trail):
            circle = " extends ".join(f"`{name}`" for _, name in (*trail, (identity, os.path.basename(path).removesuffix(".toml"))))
            raise PolicyError(f"policies extend each other in a circle: {circle}", origin=origin)
        if identity in done:
            return
        layer = parse_layer(content, path, groups)
        for text, place in zip(layer.extends, layer.extends_places, strict=True):
            where = f"{place}, extends"
            below = locate.resolve(text, "policies", base=os.path.dirname(path) or ".", where=where)
            visit(below, (*trail, (identity, layer.name)), where)
        done.add(identity)
        upwards.append(layer)

    visit(path, (), None)
    return tuple(reversed(upwards))


def _read(path: str, origin: str | None) -> tuple[bytes, tuple[int, int]]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)  # a FIFO must not hang the run
    except (OSError, ValueError) as error:
        if isinstance(error, OSError):
            raise PolicyError(f"open policy `{path}`: {describe_errno(error.errno or 0)}", origin=origin) from None
        raise PolicyError("open a policy: its path contains a null byte", origin=origin) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise PolicyError(f"open policy `{path}`: not a regular file", origin=origin)
        if status.st_size > _MAXIMUM_BYTES:
            raise PolicyError(f"open policy `{path}`: larger than {_MAXIMUM_BYTES} bytes", origin=origin)
        content = b""
        while len(content) <= _MAXIMUM_BYTES and (part := os.read(fd, _MAXIMUM_BYTES + 1 - len(content))):
            content += part
        return content, (status.st_dev, status.st_ino)
    finally:
        os.close(fd)


def parse_layer(content: bytes, path: str, groups: GroupMembers) -> Layer:
    """Return one policy file as a value.

    Args:
        content: the file's bytes.
        path: what errors call it; its stem must be the policy's name.
        groups: members of each @group.

    Raises:
        PolicyError: not TOML, or not a policy.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PolicyError("policy is not UTF-8", origin=f"{path}:{line}") from None
    text = text.replace("\r\n", "\n")
    data = parse_toml(text, path, "policy is not valid TOML")
    return _LayerReader(data, text, path, groups, content).read()


class _LayerReader:
    """Reads one parsed TOML document; holds what every error needs."""

    def __init__(self, data: dict[str, object], text: str, path: str, groups: GroupMembers, content: bytes) -> None:
        self.data = data
        self.path = path
        self.groups = groups
        self.content = content
        tables = scan_lines(text)
        self.top = tables[0]
        self.tables = tables[1:]
        self.rule_lines = [table for table in self.tables if table.name.strip("\"'") == "rule"]

    def fail(self, message: str, line: int, key: str, hint: str | None = None) -> PolicyError:
        return PolicyError(message, origin=f"{self.path}:{line}" + (f", {key}" if key else ""), hint=hint)

    def line_of(self, key: str) -> int:
        """Return the line of a key of the top level, which may be a table's header."""
        headers = (table.line for table in self.tables if table.name.partition(".")[0].strip("\"'") == key)
        return self.top.keys.get(key) or next(headers, self.top.line)

    def read(self) -> Layer:
        for key in self.data:
            if key not in TOP_KEYS:
                line = self.line_of(key)
                if key in RULE_KEYS:
                    hint: str | None = f"`{key}` belongs in a `[[rule]]` table"
                else:
                    hint = suggest(key, TOP_KEYS)
                raise self.fail(f"unknown key `{key}`", line, key, hint)
        name = self.string("name")
        if not _NAME.fullmatch(name):
            raise self.fail(f"policy name `{name}` is not lower-case letters, digits and hyphens", self.top.key("name"), "name")
        stem = os.path.basename(self.path).removesuffix(".toml")
        if name != stem:
            raise self.fail(f"policy is called `{name}` but its file `{stem}.toml`", self.top.key("name"), "name")
        description = self.string("description")
        extends = self.data.get("extends", [])
        if not isinstance(extends, list) or not all(isinstance(item, str) and item for item in extends):
            raise self.fail("`extends` must be a list of policy names", self.top.key("extends"), "extends")
        if len(extends) > _MAXIMUM_EXTENDS:
            raise self.fail(f"more than {_MAXIMUM_EXTENDS} policies are extended", self.top.key("extends"), "extends")
        for index, item in enumerate(extends):
            if item in extends[:index]:
                raise self.fail(f"`{item}` is extended twice", self.top.item("extends", index), "extends")
        rules = self.data.get("rule", [])
        if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules) or len(rules) != len(self.rule_lines):
            raise self.fail("rules must be written as `[[rule]]` tables", self.line_of("rule"), "rule")
        return Layer(
            name=name,
            description=description,
            path=self.path,
            extends=tuple(extends),
            extends_places=tuple(Place(file=self.path, line=self.top.item("extends", index)) for index in range(len(extends))),
            default=self.default(),
            default_place=Place(file=self.path, line=self.top.key("default")),
            rules=tuple(self.rule(rule, lines, index) for index, (rule, lines) in enumerate(zip(rules, self.rule_lines, strict=True), 1)),
            content=self.content,
        )

    def string(self, key: str) -> str:
        value = self.data.get(key)
        if value is None:
            raise self.fail(f"policy has no `{key}`", 1, "")
        if not isinstance(value, str) or not value.strip():
            raise self.fail(f"`{key}` must be text", self.top.key(key), key)
        return value

    def default(self) -> Outcome | None:
        audit = self.data.get("default_audit")
        if audit is not None and not isinstance(audit, bool):
            raise self.fail("`default_audit` must be true or false", self.top.key("default_audit"), "default_audit")
        if "default" not in self.data:
            if audit is not None:
                raise self.fail("`default_audit` without `default`", self.top.key("default_audit"), "default_audit")
            return None
        outcome = self.outcome(self.data["default"], self.top.key("default"), "default")
        if outcome.action is Action.EMULATE:
            raise self.fail("no default can be `emulate`: every call has its own answer", self.top.key("default"), "default")
        return self.audited([outcome], audit, self.top.key("default_audit"), "default_audit")[0]

    def outcome(self, value: object, line: int, key: str) -> Outcome:
        words = value.split() if isinstance(value, str) else []
        try:
            action = Action(words[0] if words else "")
        except ValueError:
            shown = value if isinstance(value, str) else type(value).__name__
            hint = suggest(words[0], Action) if words else None
            raise self.fail(
                f"unknown action `{shown}`; known: allow, log, emulate, errno NAME, notify NAME, trap, kill-process", line, key, hint
            ) from None
        if action not in (Action.ERRNO, Action.NOTIFY):
            if len(words) > 1:
                raise self.fail(f"action `{action}` takes no `{' '.join(words[1:])}`", line, key)
            return Outcome(action=action)
        if len(words) != 2:
            raise self.fail(f"action `{action}` needs one errno name, as in `{action} EPERM`", line, key)
        if words[1] not in ERRNOS:
            raise self.fail(f"unknown errno `{words[1]}`", line, key, suggest(words[1], ERRNOS))
        return Outcome(action=action, errno=ERRNOS[words[1]])

    def audited(self, outcomes: list[Outcome], audit: object, line: int, key: str) -> list[Outcome]:
        if audit is None:
            audit = True
        elif not any(outcome.action in (Action.ERRNO, Action.NOTIFY) for outcome in outcomes):
            raise self.fail("`audit` goes with `errno` only; to record an allowed call use action `log`", line, key)
        elif audit is False and any(outcome.action is Action.NOTIFY for outcome in outcomes):
            raise self.fail("action `notify` is recorded by definition; write `errno` to refuse without a record", line, key)
        return [
            Outcome(action=Action.NOTIFY, errno=outcome.errno) if outcome.action is Action.ERRNO and audit else outcome
            for outcome in outcomes
        ]

    def rule(self, data: dict[str, object], lines: TableLines, index: int) -> Rule:
        where = f"rule[{index}]"
        for key in data:
            if key not in RULE_KEYS:
                hint = f"`{key}` belongs above the first `[[rule]]`" if key in TOP_KEYS else suggest(key, RULE_KEYS)
                raise self.fail(f"unknown key `{key}`", lines.key(key), f"{where}.{key}", hint)
        for key in ("syscalls", "action"):
            if key not in data:
                raise self.fail(f"rule has no `{key}`", lines.line, where)
        outcomes = [self.outcome(data["action"], lines.key("action"), f"{where}.action")]
        if "else" in data:
            if "when" not in data:
                raise self.fail("`else` without `when`", lines.key("else"), f"{where}.else")
            outcomes.append(self.outcome(data["else"], lines.key("else"), f"{where}.else"))
            if outcomes[0] == outcomes[1]:
                raise self.fail("`else` does the same as `action`", lines.key("else"), f"{where}.else")
        audit = data.get("audit")
        if audit is not None and not isinstance(audit, bool):
            raise self.fail("`audit` must be true or false", lines.key("audit"), f"{where}.audit")
        outcomes = self.audited(outcomes, audit, lines.key("audit"), f"{where}.audit")
        condition, text = self.condition(data.get("when"), lines, where)
        reason = data.get("reason", "")
        if not isinstance(reason, str):
            raise self.fail("`reason` must be text", lines.key("reason"), f"{where}.reason")
        mentions = self.mentions(data["syscalls"], lines, where)
        if any(outcome.action is Action.EMULATE for outcome in outcomes):
            for mention in mentions:
                if mention.syscall not in EMULATED:
                    hint = f"it can answer {' and '.join(f'`{name}`' for name in EMULATED)}"
                    raise self.fail(f"the supervisor cannot answer `{mention.syscall}`", mention.line, f"{where}.action", hint)
        return Rule(
            mentions=mentions,
            outcome=outcomes[0],
            otherwise=outcomes[1] if len(outcomes) > 1 else None,
            place=Place(file=self.path, line=lines.line),
            index=index,
            condition=condition,
            condition_text=text,
            condition_line=lines.key("when") if condition is not None else 0,
            reason=reason.strip(),
        )

    def condition(self, value: object, lines: TableLines, where: str) -> tuple[Condition | None, str]:
        if value is None:
            return None, ""
        if not isinstance(value, str):
            raise self.fail("`when` must be text", lines.key("when"), f"{where}.when")
        try:
            return parse_condition(value), " ".join(value.split())
        except ConditionError as error:
            raise self.fail(str(error), lines.key("when"), f"{where}.when") from None

    def mentions(self, value: object, lines: TableLines, where: str) -> tuple[Mention, ...]:
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise self.fail("`syscalls` must be a list of at least one name", lines.key("syscalls"), f"{where}.syscalls")
        found: dict[str, Mention] = {}
        for index, word in enumerate(value):
            line = lines.item("syscalls", index)
            key = f"{where}.syscalls[{index}]"
            if word.startswith("@"):
                if word[1:] not in self.groups:
                    raise self.fail(f"unknown group `{word}`", line, key, suggest(word, (f"@{name}" for name in self.groups)))
                fresh = [Mention(syscall=name, line=line, group=word[1:]) for name in self.groups[word[1:]]]
            else:
                if not known_anywhere(word):
                    hint: str | None
                    if word in self.groups:
                        hint = f"did you mean the group `@{word}`?"
                    elif word in _LIBRARY:
                        hint = f"that is the C library's name; the system call is `{_LIBRARY[word]}`"
                    else:
                        hint = suggest(word, syscall_names(Arch.X86_64) | syscall_names(Arch.AARCH64))
                    raise self.fail(f"unknown syscall `{word}`", line, key, hint)
                fresh = [Mention(syscall=word, line=line)]
            for mention in fresh:
                earlier = found.setdefault(mention.syscall, mention)
                if earlier is not mention:
                    by = f"with `@{earlier.group}`" if earlier.group else "by itself"
                    raise self.fail(
                        f"syscall `{mention.syscall}` is named twice in this rule, before in line {earlier.line} {by}", line, key
                    )
        return tuple(found.values())
