"""Plans and tables of runs: built once for equal requests, changed where two runs differ by their ids or the bytes of a file.

Only `api` imports it.
"""

from __future__ import annotations

import os
import struct
import threading
from functools import lru_cache

from sandbox.launch.spawn import sealed_memory
from sandbox.plan.build import build_plan
from sandbox.plan.codec import HEADER, ROW, Op, Table
from sandbox.plan.lower import lower_plan
from sandbox.plan.root import FileBytes
from sandbox.plan.steps_processes import Execute
from sandbox.plan.vectors import replace_vectors
from sandbox.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from sandbox.plan.build import Request
    from sandbox.plan.steps import Plan

KEPT_BYTES = 256 << 10
"""Tables with larger files of the caller's are not kept."""

ANY_ID = os.urandom(10).hex()
"""Stands for the run's id in a table that is kept; nobody outside this process can know it. Ids have its length."""

_VARIANTS = 8
_MARK = 16
_LINE = 256  # BINPRM_BUF_SIZE
_ARGUMENTS = 8  # where a row's six words begin


class Kept:
    """The plans and tables of one recipe.

    Args:
        contents: the files' placeholders by the names that the caller gave, each as long as the file may become; see `placeholder`.
        shared: of `recipe.identify_shared`.

    Attributes:
        uses: how many runs were started.
        waits: whether such a run can be one that was made ahead; None until somebody asked.
        environment_bytes: of the payload's environment, known when `waits` is.
        command: the last command line, and the block by which one that waits is told it.
    """

    __slots__ = (
        "_contents", "_descriptors", "_executes", "_files", "_lock", "_made", "_places", "command", "environment_bytes", "shared", "uses", "waits",
        "way",
    )  # fmt: skip

    def __init__(self, contents: Mapping[str, bytes] | None = None, shared: Hashable = None) -> None:
        self.shared = shared
        self.uses = 0
        self.waits: bool | None = None
        self.environment_bytes = 0
        self.command: tuple[tuple[str, ...], bytes] | None = None
        self._contents = dict(contents or {})
        self._made: dict[Hashable, tuple[Plan, Table]] = {}
        self._files: dict[Hashable, tuple[Table, int]] = {}
        self._descriptors: list[int] = []
        self._executes: dict[Hashable, tuple[Table, tuple[int, tuple[str, ...]] | None]] = {}
        self._lock = threading.Lock()
        self.way: object = None  # see `house.Way`; None until somebody asked
        self._places: dict[Hashable, tuple[Table, dict[str, tuple[int, tuple[int, ...]]]]] = {}

    def find(self, variant: Hashable, build: Callable[[], tuple[Plan, Table]], *, files: bool = True) -> tuple[Plan, Table]:
        """Return plan and table of one way to start the recipe.

        Args:
            variant: what determines them besides the recipe.
            build: makes them, with `ANY_ID` in the place of a run's id.
            files: whether the recipe's files are in the table.
        """
        made = self._made.get(variant)
        if made is not None:
            return made
        built = build()
        with self._lock:
            # Two threads may have built it, each with its own run's command line: there must be one.
            made = self._made.get(variant)
            if made is None:
                made = built
                if len(self._made) >= _VARIANTS:
                    self._made.clear()
                    self._places.clear()
                    self._executes.clear()
                self._places[variant] = made[1], self._locate_all(made[1]) if files else {}
                self._executes[variant] = made[1], _find_execute(*made)
                self._made[variant] = made
        return made

    def differs(self, variant: Hashable, made: tuple[Plan, Table], argv: tuple[str, ...]) -> bool:
        """Say whether plan and table of `find` execute another command line than this."""
        execute = self._execute(variant, made)
        return execute is not None and execute[1] != argv

    def _locate_all(self, table: Table) -> dict[str, tuple[int, tuple[int, ...]]]:
        return {name: _locate(table, content) for name, content in self._contents.items()}

    def _execute(self, variant: Hashable, made: tuple[Plan, Table]) -> tuple[int, tuple[str, ...]] | None:
        known = self._executes.get(variant)
        return known[1] if known is not None and known[0] is made[1] else _find_execute(*made)

    def memory(self, variant: Hashable, table: Table) -> int:
        """Return a sealed memory file with a table of `find`; borrowed, good as long as this object."""
        known = self._files.get(variant)
        if known is not None and known[0] is table:
            return known[1]
        with self._lock:
            known = self._files.get(variant)
            if known is None or known[0] is not table:
                known = table, sealed_memory(table)
                self._files[variant] = known
                self._descriptors.append(known[1])
        return known[1]

    def __del__(self) -> None:
        for fd in self._descriptors:
            os.close(fd)

    def fill(
        self, variant: Hashable, made: tuple[Plan, Table], contents: Mapping[str, bytes], argv: tuple[str, ...],
        environment: tuple[tuple[str, str], ...],
    ) -> bytes:  # fmt: skip
        """Return the bytes of a table of `find` with one run's files and command line in it.

        Args:
            variant: as for `find`.
            made: what `find` returned.
            contents: the files by the names that the caller gave.
            argv: the payload's, inside.
            environment: the payload's, the same for all runs of a recipe.
        """
        table = made[1]
        whole = table.data
        if contents:
            known = self._places.get(variant)
            places = known[1] if known is not None and known[0] is table else self._locate_all(table)
            data = bytearray(whole)
            for name, content in contents.items():
                at, lengths = places[name]
                data[at : at + len(content)] = content
                for place in lengths:
                    struct.pack_into("<Q", data, place, len(content))
            whole = bytes(data)
        execute = self._execute(variant, made)
        if execute is None or execute[1] == argv:
            return whole
        words = [word.encode("utf-8", "surrogateescape") for word in argv]
        variables = [f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in environment]
        return replace_vectors(whole, execute[0], words, variables)


def placeholder_size(content: bytes) -> int:
    """Return how long the placeholder is."""
    return max(64, 1 << max(0, len(content) - 1).bit_length())


def placeholder(content: bytes) -> bytes:
    """Return bytes that stand for a file's in a table that is kept: at least as many, and unlike any others."""
    head = looked_at(content)
    size = max(placeholder_size(content), len(head) + _MARK)
    return head + os.urandom(_MARK) + bytes(size - len(head) - _MARK)


def looked_at(content: bytes) -> bytes:
    """Return the part of a file that decides what its root is: the line that names an interpreter, or the mark of a program."""
    if content.startswith(b"#!"):
        return content[:_LINE].partition(b"\n")[0] + b"\n"
    return content[:4] if content.startswith(b"\x7fELF") else b""


def _locate(table: Table, content: bytes) -> tuple[int, tuple[int, ...]]:
    """Return where a placeholder lies in a table, and the words that say how long it is: of the write, and of the look at what that returned."""
    at = table.data.index(content[: len(looked_at(content)) + _MARK])
    rows = HEADER.unpack_from(table.data)[2]
    step = next(
        row.step for index, row in enumerate(table.rows)
        if row.op is Op.CALL and ROW.unpack_from(table.data, rows + index * ROW.size)[5] == at
    )  # fmt: skip
    lengths = []
    for index, row in enumerate(table.rows):
        if row.step == step:
            lengths += [
                rows + index * ROW.size + _ARGUMENTS + 8 * place for place, word in enumerate(row.args)
                if isinstance(word, int) and word == len(content)
            ]  # fmt: skip
    assert len(lengths) == 2, "a file is written by one call, whose result is looked at"
    return at, tuple(lengths)


def _find_execute(plan: Plan, table: Table) -> tuple[int, tuple[str, ...]] | None:
    """Return the row that executes the payload, and its argv; None where that is not in the table."""
    steps = plan.steps()
    last = steps[-1]
    if not isinstance(last, Execute):
        return None
    (found,) = (index for index, row in enumerate(table.rows) if row.step == len(steps) - 1 and row.op is Op.CALL)
    return found, last.argv


def make_table(request: Request, run_id: str) -> tuple[Plan, Table]:
    """Return the plan and the table of one request. Equal ones have equal tables, but for the ids in the names of cgroups and entries."""
    given = sum(len(entry.content) for entry in request.root.entries if isinstance(entry, FileBytes))
    if given > KEPT_BYTES or len(run_id) != len(ANY_ID):
        return build_table(request)
    plan, table = _kept(generalize(request, run_id))
    return plan, replace(table, data=name_run(table.data, run_id))


def name_run(data: bytes, run_id: str) -> bytes:
    """Return a table's bytes with a run's id in the place of `ANY_ID`."""
    return data.replace(ANY_ID.encode(), run_id.encode())


def generalize(request: Request, run_id: str) -> Request:
    """Return a request with `ANY_ID` in the place of a run's id."""

    def general(files: tuple[tuple[int, str], ...]) -> tuple[tuple[int, str], ...]:
        return tuple((index, name.replace(run_id, ANY_ID)) for index, name in files)

    return replace(
        request, joins=general(request.joins), removals=general(request.removals), thaws=general(request.thaws), entries=general(request.entries)
    )  # fmt: skip


def build_table(request: Request) -> tuple[Plan, Table]:
    """Return plan and table of a run that this process starts itself."""
    plan = build_plan(request)
    return plan, lower_plan(plan)


_kept = lru_cache(maxsize=16)(build_table)
