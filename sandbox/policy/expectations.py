"""Files of expected decisions: TOML text → values, with file and line in every error. What a call's text means is `seccomp.shape`'s. Only reads files.

Imported by the policy tools and tests.
"""

from __future__ import annotations

import errno as _errno
import os

from sandbox.errors import PolicyError
from sandbox.policy.lines import TableLines, scan_lines
from sandbox.policy.locate import is_path
from sandbox.policy.model import Place
from sandbox.policy.nearest import suggest
from sandbox.policy.toml_source import read_toml
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TOP_KEYS = ("policy", "policies", "case")
CASE_KEYS = ("call", "calls", "expect", "recorded", "arch", "why")
DECISIONS = ("allow", "log", "emulate", "errno", "trap", "kill-process", "permitted", "refused")
ENTRIES = ("x86_64", "aarch64", "x32", "i386")
_ERRNOS = frozenset(_errno.errorcode.values()) | {"EWOULDBLOCK", "ENOTSUP"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """One ``[[case]]``: what is expected of calls.

    `decision` is one of `DECISIONS`, with `errno` a positive number for ``errno NAME`` and 0 for any. `recorded` is None where it does not matter, `arches` is
    empty for every architecture that has the call.
    """

    calls: tuple[tuple[str, Place], ...]
    decision: str
    errno: int
    recorded: bool | None
    arches: tuple[str, ...]
    why: str
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectationFile:
    """A file of cases; each holds for each policy, given as it can be loaded."""

    path: str
    policies: tuple[str, ...]
    cases: tuple[Expectation, ...]


def load_expectations(path: str) -> ExpectationFile:
    """Read a file of expected decisions.

    Raises:
        PolicyError: it cannot be read, or something in it is not understood.
    """
    source = read_toml(path)
    tables = scan_lines(source.data.decode().replace("\r\n", "\n"))
    return _Reader(path, source.table, tables).read()


class _Reader:
    def __init__(self, path: str, table: dict[str, Any], tables: list[TableLines]) -> None:
        self.path = path
        self.table = table
        self.top = tables[0]
        self.lines = [each for each in tables[1:] if each.name.strip("\"'") == "case"]

    def fail(self, message: str, line: int, key: str, hint: str | None = None) -> PolicyError:
        return PolicyError(message, origin=f"{self.path}:{line}" + (f", {key}" if key else ""), hint=hint)

    def read(self) -> ExpectationFile:
        for key in self.table:
            if key not in TOP_KEYS:
                hint = f"`{key}` belongs in a `[[case]]` table" if key in CASE_KEYS else suggest(key, TOP_KEYS)
                raise self.fail(f"unknown key `{key}`", self.top.key(key), key, hint)
        cases = self.table.get("case", [])
        if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases) or len(cases) != len(self.lines):
            raise self.fail("cases must be written as `[[case]]` tables", self.top.key("case"), "case")
        if not cases:
            raise self.fail("no `[[case]]` in this file", 1, "")
        return ExpectationFile(
            path=self.path,
            policies=self.policies(),
            cases=tuple(self.case(case, lines, f"case[{at}]") for at, (case, lines) in enumerate(zip(cases, self.lines, strict=True), 1)),
        )

    def policies(self) -> tuple[str, ...]:
        if ("policy" in self.table) == ("policies" in self.table):
            raise self.fail("file needs one of `policy` and `policies`", 1, "")
        key = "policy" if "policy" in self.table else "policies"
        value = self.table[key]
        words = [value] if key == "policy" else value
        if not isinstance(words, list) or not words or not all(isinstance(word, str) and word for word in words):
            kind = "a policy's name or path" if key == "policy" else "a list of names or paths"
            raise self.fail(f"`{key}` must be {kind}", self.top.key(key), key)
        return tuple(os.path.join(os.path.dirname(self.path), word) if is_path(word) else word for word in words)

    def case(self, case: dict[str, Any], lines: TableLines, where: str) -> Expectation:
        for key in case:
            if key not in CASE_KEYS:
                hint = f"`{key}` belongs above the first `[[case]]`" if key in TOP_KEYS else suggest(key, CASE_KEYS)
                raise self.fail(f"unknown key `{key}`", lines.key(key), f"{where}.{key}", hint)
        if ("call" in case) == ("calls" in case):
            raise self.fail("case needs one of `call` and `calls`", lines.line, where)
        if "expect" not in case:
            raise self.fail("case has no `expect`", lines.line, where)
        recorded = case.get("recorded")
        if recorded is not None and not isinstance(recorded, bool):
            raise self.fail("`recorded` must be true or false", lines.key("recorded"), f"{where}.recorded")
        why = case.get("why", "")
        if not isinstance(why, str):
            raise self.fail("`why` must be text", lines.key("why"), f"{where}.why")
        decision, errno = self.decision(case["expect"], lines, where)
        if recorded is not None and decision not in ("errno", "refused"):
            raise self.fail(f"`recorded` goes with a refusal, not with `{decision}`", lines.key("recorded"), f"{where}.recorded")
        return Expectation(
            calls=self.calls(case, lines, where),
            decision=decision,
            errno=errno,
            recorded=recorded,
            arches=self.arches(case.get("arch", []), lines, where),
            why=why,
            place=Place(file=self.path, line=lines.line),
        )

    def calls(self, case: dict[str, Any], lines: TableLines, where: str) -> tuple[tuple[str, Place], ...]:
        key = "call" if "call" in case else "calls"
        words = [case[key]] if key == "call" else case[key]
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            kind = "a call" if key == "call" else "a list of calls"
            raise self.fail(f"`{key}` must be {kind}", lines.key(key), f"{where}.{key}")
        return tuple((word, Place(file=self.path, line=lines.item(key, at))) for at, word in enumerate(words))

    def decision(self, value: object, lines: TableLines, where: str) -> tuple[str, int]:
        words = value.split() if isinstance(value, str) else []
        line, key = lines.key("expect"), f"{where}.expect"
        if not words or words[0] not in DECISIONS:
            shown = value if isinstance(value, str) else type(value).__name__
            hint = suggest(words[0], DECISIONS) if words else None
            raise self.fail(
                f"unknown decision `{shown}`; known: allow, log, emulate, errno NAME, trap, kill-process, permitted, refused", line, key, hint
            )
        if words[0] != "errno":
            if len(words) > 1:
                raise self.fail(f"decision `{words[0]}` takes no `{' '.join(words[1:])}`", line, key)
            return words[0], 0
        if len(words) != 2:
            raise self.fail("decision `errno` needs one errno name, as in `errno EPERM`", line, key)
        if words[1] not in _ERRNOS:
            raise self.fail(f"unknown errno `{words[1]}`", line, key, suggest(words[1], _ERRNOS))
        number = getattr(_errno, words[1])
        assert isinstance(number, int)
        return "errno", number

    def arches(self, value: object, lines: TableLines, where: str) -> tuple[str, ...]:
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise self.fail("`arch` must be a name or a list of names", lines.key("arch"), f"{where}.arch")
        for at, word in enumerate(words):
            if word not in ENTRIES:
                raise self.fail(
                    f"unknown architecture `{word}`; known: {', '.join(ENTRIES)}",
                    lines.item("arch", at),
                    f"{where}.arch",
                    suggest(word, ENTRIES),
                )
        return tuple(words)
