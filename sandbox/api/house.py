"""A server with its slots, and what makes it fit for a run."""

from __future__ import annotations

import os
import threading
import time

from sandbox.api.finish import explain_failure
from sandbox.api.prepare import new_run_id
from sandbox.api.requesting import build_request
from sandbox.api.slots import Slot, cgroup_names, entry_files, same_place
from sandbox.api.spawned import write_id_maps
from sandbox.errors import SandboxError, SetupError, describe_errno
from sandbox.launch.idmap import claim_host_id
from sandbox.launch.resident import Server
from sandbox.plan.lower import lower_plan
from sandbox.plan.template import build_server_plan
from sandbox.record import dataclass, replace
from sandbox.registry.place import make_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from sandbox.api.prepare import Prepared
    from sandbox.cgroup.model import Guarded
    from sandbox.launch.idmap import HostId
    from sandbox.plan.build import Request
    from sandbox.plan.steps import Plan

SLOTS = 32
"""Runs that one server may have at once; the next one starts another server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How runs of one recipe are started.

    Attributes:
        tier: ``template``, ``anew`` or ``spawned``.
        server: the plan of a server that can do it, without what its keeper removes; None where none can.
        recycle: whether the network namespace may be one that was used before.
        waits: whether it may be made before it is asked for.
        shared: what tells the caller, and the directories and files that a template's root has, from others that have taken their places since.
    """

    tier: str
    server: Plan | None = None
    recycle: bool = False
    waits: bool = False
    shared: Hashable = None


class House:
    """A server and its slots. Made by `Residents`, which guards it by its lock.

    Raises:
        SandboxError: it cannot be started; nothing is left.
    """

    def __init__(self, prepared: Prepared, way: Way, affinity: frozenset[int]) -> None:
        self.way = way
        self.affinity = affinity
        self.executor = prepared.command.executor
        self.backend = prepared.backend
        self.host_id: HostId | None = None
        self.running = 0
        self.gone = False
        self.used_ns = time.monotonic_ns()
        self._equal: Way | None = None
        self._guarded: Guarded | None = None
        self._directory = -1
        self.server: Server | None = None
        self.slots: list[Slot] = []
        self.before_close: list[Callable[[], None]] = []
        self.free: list[Slot] = []
        self._closing = threading.RLock()  # a collection may close it while it is being closed
        self._process = os.getpid()
        try:
            self._start(prepared)
        except OSError as error:
            self.close()
            raise SetupError("start the server", error.errno or 0) from error
        except BaseException:
            self.close()
            raise

    def _start(self, prepared: Prepared) -> None:
        template = self.way.tier == "template"
        names = [new_run_id() for _ in range(SLOTS)]
        refused = ""
        try:
            self._directory = make_place(os.environ, os.geteuid())
        except SandboxError as error:
            refused = error.message
        except OSError as error:
            refused = f"make an entry: {describe_errno(error.errno or 0)}"
        if prepared.backend is not None:
            self._guarded = prepared.backend.guard(tuple(each for name in names for each in cgroup_names(name)))
        if prepared.as_root:
            self.host_id = claim_host_id()
        request, directories = self._request(prepared, names)
        plan = build_server_plan(request, template=template)
        table = lower_plan(plan)
        host_id = self.host_id
        needs_maps = template and prepared.external_map

        def started(pid: int) -> None:
            write_id_maps(prepared, pid, host_id)

        def explain(row: int, error: int) -> SandboxError:
            return explain_failure(plan, table, row, error)

        self.server = Server.start(
            table, executor=self.executor, extra=directories, started=started if needs_maps else None, explain=explain
        )
        self.slots = [Slot(name, self._directory, refused) for name in names]
        self.free = self.slots[::-1]

    def _request(self, prepared: Prepared, names: list[str]) -> tuple[Request, tuple[int, ...]]:
        removals = self._guarded.removals if self._guarded is not None else ()
        thaws = self._guarded.thaws if self._guarded is not None else ()
        entries = tuple((self._directory, file) for name in names for file in entry_files(name)) if self._directory >= 0 else ()
        directories = tuple(dict.fromkeys(fd for fd, _ in (*removals, *thaws, *entries)))
        index = {fd: number for number, fd in enumerate(directories)}

        def placed(files: tuple[tuple[int, str], ...]) -> tuple[tuple[int, str], ...]:
            return tuple((index[fd], path) for fd, path in files)

        request = build_request(prepared, outside_id=self.host_id.number if self.host_id is not None else -1, cgroup=None)
        return replace(
            request, directories=len(directories), removals=placed(removals), thaws=placed(thaws), entries=placed(entries)
        ), directories  # fmt: skip

    def fits(self, prepared: Prepared, way: Way, affinity: frozenset[int]) -> bool:
        """Whether it can start a run of that kind."""
        return (
            self.executor == prepared.command.executor
            and self.affinity == affinity
            and same_place(self.backend, prepared.backend)
            and self._has(way)
        )

    def _has(self, way: Way) -> bool:
        """Whether it is of that way. Plans are compared once: a recipe that is made anew goes on with one way, an equal of ours."""
        ours = self.way
        if ours is way or self._equal is way:
            return True
        if ours.tier != way.tier or ours.shared != way.shared or ours.server != way.server:
            return False
        self._equal = way
        return True

    def close(self) -> None:
        """End the server and all its runs, wait until they are gone, remove what was theirs; idempotent, also in two threads at a time.

        While other threads still have runs of it, what those use stays open and in its place: a descriptor that is closed under somebody's hands is soon
        another file's. The last of them gives it back and calls this again.
        """
        if self._process != os.getpid():
            self._closing, self._process = threading.RLock(), os.getpid()  # another thread of the parent's may have held it
        with self._closing:
            self._close()

    def _close(self) -> None:
        server, self.server = self.server, None
        ours = server is None or server.made_by == os.getpid()
        while self.before_close:
            self.before_close.pop()()
        try:
            if server is not None:
                server.close()
        finally:
            if not self.running:
                self._let_go(ours)

    def _let_go(self, ours: bool) -> None:
        try:
            for slot in self.slots:
                if ours:
                    slot.close()
                else:
                    slot.forget()
        finally:
            guarded, self._guarded = self._guarded, None
            if guarded is not None:
                guarded.close()
            directory, self._directory = self._directory, -1
            if directory >= 0:
                os.close(directory)
            host_id, self.host_id = self.host_id, None
            if host_id is not None:
                host_id.close()


__all__ = ["SLOTS", "House", "Way"]
