"""Runs that a resident server starts: which server a run may use, its slots, and what a run of one is; `Sandbox` has one `Residents`.

A request that no server can do, or for which none can be started, takes today's way: the wall is the same in every tier, only where it is built differs.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from functools import partial

from sandbox.api.filler import Filler
from sandbox.api.house import SLOTS, House, Way
from sandbox.api.recipe import identify_caller, identify_shared
from sandbox.api.requesting import build_request, inner_argv, uptime_s
from sandbox.api.slots import Slot, SlotAnswering
from sandbox.api.spawned import Spawned, write_id_maps
from sandbox.api.start import Start, StartGoneError
from sandbox.api.streams import close_children, open_children
from sandbox.errors import SandboxError, SetupError
from sandbox.launch.resident import ServerGoneError, clone_refusal
from sandbox.launch.shield import Shield
from sandbox.launch.spawn import sealed_memory
from sandbox.launch.stash import Stash
from sandbox.plan.build_root import mounts_in_shared
from sandbox.plan.lower import lower_plan
from sandbox.plan.template import anew_refusal, build_run_plan, build_server_plan, clone_flags, may_recycle_network, template_refusal
from sandbox.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.api.pool_ahead import Ahead, Pool
    from sandbox.api.prepare import Prepared
    from sandbox.api.streams import Streams
    from sandbox.api.waiting import Waiting
    from sandbox.launch.spawn import Launched
    from sandbox.plan.build import Request
    from sandbox.plan.codec import Table
    from sandbox.plan.steps import Plan
    from sandbox.supervise.pump import Pump

_SERVERS = 8  # of one `Sandbox` without a run, before the least used goes
_LOOK_S = 0.0005
_AGAIN_NS = 1_000_000_000  # after a server could not be started
_PATIENCE_S = 2.0
"""How long `close` waits for other threads to see that their runs were ended."""


def find_way(prepared: Prepared, *, template: bool = True) -> Way:
    """Return the best way to start a run, as far as its recipe tells; without `template` the best that builds everything anew."""
    if prepared.anchor is not None or prepared.command.interactive:
        return Way(tier="spawned")  # started in systemd's scope by who is there; the terminal's runs are the command line's
    request = build_request(prepared, outside_id=-1, cgroup=None)
    if template and prepared.profile.launch_template and not template_refusal(request):
        recycle = prepared.profile.launch_recycle_network and may_recycle_network(request)
        kept = prepared.kept
        shared = kept.shared if kept is not None and kept.shared is not None else identify_shared(prepared)
        waits = not mounts_in_shared(prepared.root)
        return Way(tier="template", server=build_server_plan(request, template=True), recycle=recycle, waits=waits, shared=shared)
    if not anew_refusal(request):
        return Way(tier="anew", server=build_server_plan(request, template=False), shared=identify_caller())
    return Way(tier="spawned")


class Served(Start):
    """A run that a server starts."""

    served = True
    kind = ""
    """What it is besides its tier."""

    def __init__(self, prepared: Prepared, way: Way, house: House, slot: Slot, residents: Residents, held: bool) -> None:
        server = house.server
        if server is None:  # another thread has closed it since it was chosen
            residents.give_back(house, slot)
            raise StartGoneError("start a run: its server was closed")
        self.prepared = prepared
        self.tier = way.tier
        self.parent = server.pid
        self._way = way
        self.house = house
        self._server = server
        self.held = held
        self.announced = held
        self._init = 0, b""
        self._slot = slot
        self._residents: Residents | None = residents
        self._stash = residents.stash
        # With a template, init has no right to root's cgroups: it is put there from outside.
        self._moved = False
        self._filled = False
        try:
            if prepared.backend is not None:
                self.cgroup = slot.take_cgroup(prepared.backend, prepared.cgroup_limits)
                self._moved = prepared.as_root and way.tier == "template"
            self.entry = self._entry = SlotAnswering(prepared, slot)
        except BaseException:
            self.close()
            raise
        self.needs_word = self._moved or (prepared.external_map and way.tier != "template")

    def begin(self, launched: Launched, pumps: list[Pump], streams: Streams) -> tuple[Plan, Table]:
        """See `Start.begin`."""
        prepared, kept, way = self.prepared, self.prepared.kept, self._way
        extra = self.cgroup.directories if self.cgroup is not None and not self._moved else ()
        streams.pipe = self._stash.pipe
        children = open_children(pumps, streams, self.house.host_id)
        memory = -1
        try:
            if kept is None:
                plan, table = self._build(len(extra))
                memory = table_fd = sealed_memory(table)
            else:
                variant = (self.kind or way.tier, len(extra), self._moved, uptime_s(prepared))
                made = plan, table = kept.find(variant, lambda: self._build(len(extra)))
                argv, files = inner_argv(prepared), prepared.command.files
                if files or prepared.profile.time_namespace or kept.differs(variant, made, argv):
                    memory = table_fd = sealed_memory(replace(table, data=kept.fill(variant, made, files, argv, prepared.environment)))
                else:
                    table_fd = kept.memory(variant, table)
            self._ask(launched, table_fd, children, extra)
        except ServerGoneError as error:
            self._lose()
            raise StartGoneError(error.message, hint=error.hint) from None
        finally:
            close_children(children, pumps)
            if memory >= 0:
                os.close(memory)
        # The server was woken on this very processor, as likely as not: what is left to do waits for init's first report.
        return plan, table

    def _build(self, joins: int) -> tuple[Plan, Table]:
        request = build_request(self.prepared, outside_id=-1, cgroup=None)
        request = replace(
            request,
            directories=joins,
            joins=tuple((index, "cgroup.procs") for index in range(joins)),
            cgroups_made=not self._moved,
            moved=self._moved,
        )
        plan = self._plan(request)
        return plan, lower_plan(plan)

    def _plan(self, request: Request) -> Plan:
        return build_run_plan(request, template=self._way.tier == "template")

    def _ask(self, launched: Launched, table_fd: int, children: tuple[int, int, int], extra: tuple[int, ...]) -> None:
        way = self._way
        flags = clone_flags(template=way.tier == "template", recycled_network=way.recycle)
        self._server.launch(launched, table_fd, stdio=children, extra=extra, flags=flags, recycle_network=way.recycle, stash=self._stash)

    def discard(self, fd: int) -> None:
        """See `Start.discard`."""
        self._stash.discard(fd)

    def _lose(self) -> None:
        self.house.gone = True

    def announce(self) -> None:
        """See `Start.announce`."""
        if not self.announced and not self.held:
            self.announced = True
            self._enter(self.prepared)

    def adopted(self, pid: int, stat: bytes) -> None:
        """See `Start.adopted`. Init has enough to do, so this is the time for what nobody waits for."""
        prepared = self.prepared
        self._init = pid, stat
        self.announce()
        self._entry.publish(pid, stat)
        self._stash.refill()
        if self.cgroup is not None and prepared.backend is not None and prepared.profile.launch_cgroups_ahead:
            self._slot.make_ahead(prepared.backend, prepared.cgroup_limits)

    def meanwhile(self) -> None:
        """See `Start.meanwhile`."""
        if self._residents is not None and not self.held:
            self._residents.owe(self.prepared, self._way)
            self._filled = True

    def register(self, asked: Prepared) -> None:
        """See `Start.register`."""
        self._enter(asked)
        self._entry.publish(*self._init)

    def _enter(self, prepared: Prepared) -> None:
        self._slot.enter(prepared, self._server.keeper_pid, self._server.pid)
        self._entry.describe(prepared)
        self._slot.answering = self._entry

    def started(self, pid: int) -> None:
        """See `Start.started`."""
        if self._moved and self.cgroup is not None:
            for fd in self.cgroup.join_fds:
                os.write(fd, str(pid).encode())
        if self.prepared.external_map and self._way.tier != "template":
            write_id_maps(self.prepared, pid, self.house.host_id)

    def explain(self, plan: Plan, table: Table, row: int, error: int) -> SandboxError:
        """See `Start.explain`."""
        return clone_refusal(row, error) or super().explain(plan, table, row, error)

    def close(self) -> None:
        """See `Start.close`."""
        with Shield():  # an interrupt in the middle of it would lose the slot
            residents, self._residents = self._residents, None
            if residents is not None:
                self._slot.retire_cgroup()
                self._slot.leave()
                residents.give_back(self.house, self._slot)
                if not self._filled and not self.held:
                    residents.owe(self.prepared, self._way)


class Residents:
    """The servers of one `Sandbox`: a launcher. Thread-safe; a fork of the process begins anew, without its parent's.

    They end with it, which the runs that go on keep alive, and at the interpreter's exit; should that not come, by the keepers.

    Args:
        ahead: sandboxes to make ahead.
    """

    def __init__(self, ahead: Ahead | None = None) -> None:
        self.pool: Pool | None = None
        self._filler: Filler | None = None
        if ahead is not None:
            from sandbox.api.pool_ahead import Pool

            self.pool = Pool(ahead)
            pool, me = self.pool, weakref.ref(self)

            def fill(prepared: Prepared, way: Way) -> None:
                residents = me()
                if residents is not None:
                    pool.fill(prepared, way, residents)
                    residents.stash.refill()

            self._filler = Filler(fill, pool.settle)
        self._lock = threading.Lock()
        self._given_back = threading.Condition(self._lock)
        self._houses: list[House] = []
        self._closed = False
        self._failed: tuple[Way, int, str] | None = None
        _all.add(self)
        self.stash = Stash()
        weakref.finalize(self, _close_all, self._houses, self.stash)

    def open(self, prepared: Prepared, held: bool = False, made: Callable[..., Served] | None = None) -> Start:
        """See `Launcher.open`.

        Args:
            prepared: likewise.
            held: likewise.
            made: what a run of a template server is, None for `Served`.
        """
        if self._closed:
            # A run whose server was ended in the middle of its start comes here again: without a server nobody would end it any more.
            raise SandboxError("start a run: this Sandbox was closed")
        kept = prepared.kept
        way: Way | None = kept.way if kept is not None else None  # type: ignore[assignment]
        if way is None:
            way = find_way(prepared)
            if kept is not None:
                kept.way = way
        if way.server is None:
            return Spawned(prepared, held)
        if self.pool is not None and not held:
            if not self.pool.waiting:
                self.settle()
            waiting = self.pool.take(prepared, way)
            if waiting is not None:
                return waiting
        try:
            if way.tier == "template" and not self._is_wanted_again(prepared, way):
                way = find_way(prepared, template=False)
                if way.server is None:
                    return Spawned(prepared, held)
            house, slot = self._take(prepared, way)
        except SandboxError as error:
            start = Spawned(prepared, held)
            start.notes = (f"started without a server: {error.message}",)
            return start
        return (Served if made is None or way.tier != "template" else made)(prepared, way, house, slot, self, held)

    def _is_wanted_again(self, prepared: Prepared, way: Way) -> bool:
        """Whether a template is worth building: it is there, it is the first of all, or there was a run like this one before.

        A caller who shares another directory with each run would have one built, and another taken down, for each.
        """
        kept = prepared.kept
        if kept is None:
            return True
        kept.uses += 1
        if kept.uses > 1:
            return True
        affinity = frozenset(os.sched_getaffinity(0))
        with self._lock:
            return not self._houses or any(house.fits(prepared, way, affinity) for house in self._houses)

    def open_ahead(self, prepared: Prepared, way: Way) -> Waiting:
        """Return one that is to be made ahead.

        Raises:
            SandboxError: there is no server for it.
        """
        from sandbox.api.waiting import Waiting

        house, slot = self._take(prepared, way)
        return Waiting(prepared, way, house, slot, self)

    def fill(self, prepared: Prepared) -> None:
        """Make ahead what is missing, for runs like this one."""
        if self.pool is not None and prepared.kept is not None:
            self.pool.fill(prepared, find_way(prepared), self)

    def owe(self, prepared: Prepared, way: Way) -> None:
        """Make ahead what a run has taken, soon."""
        if self._filler is not None and prepared.kept is not None and not self._closed:
            self._filler.owe(prepared, way)

    def settle(self) -> None:
        """Make now what runs have taken, or wait until it is made."""
        if self._filler is not None:
            self._filler.pay()

    def warm(self, timeout: float | None) -> bool:
        """Wait until what is made ahead is there, and those that are next are at their place; return whether they are.

        Args:
            timeout: seconds; None waits as long as it takes.
        """
        if self._filler is None:
            return True
        until = None if timeout is None else time.monotonic() + timeout
        while self._filler.pay(settle=True):
            if until is not None and time.monotonic() > until:
                return False
            time.sleep(_LOOK_S)
        return True

    def _take(self, prepared: Prepared, way: Way) -> tuple[House, Slot]:
        affinity = frozenset(os.sched_getaffinity(0))
        with self._lock:
            dead: list[House] = []
            found: House | None = None
            for house in self._houses:
                if house.gone:
                    dead.append(house)
                elif house.free and house.fits(prepared, way, affinity):
                    found = house  # should its server have died, the request fails and another house is looked for
                    break
            for house in dead:
                self._drop(house)
            if found is None:
                found = self._start(prepared, way, affinity)
            found.running += 1
            found.used_ns = time.monotonic_ns()
            return found, found.free.pop()

    def _start(self, prepared: Prepared, way: Way, affinity: frozenset[int]) -> House:
        if self._closed:
            raise SetupError("start a server", 0, step="this Sandbox is closed")
        if self._failed is not None and self._failed[0] == way and time.monotonic_ns() - self._failed[1] < _AGAIN_NS:
            raise SandboxError(self._failed[2])
        for house in [one for one in self._houses if one.way.server == way.server and one.way.shared != way.shared]:
            self._drop(house)  # its root has what is no longer there, and keeps it from being unmounted
        idle = sorted((house for house in self._houses if not house.running), key=lambda house: house.used_ns)
        if len(idle) >= _SERVERS:
            self._drop(idle[0])
        try:
            house = House(prepared, way, affinity)
        except SandboxError as error:
            self._failed = (way, time.monotonic_ns(), error.message)
            raise
        self._houses.append(house)
        return house

    def _drop(self, house: House) -> None:
        self._houses.remove(house)
        if not house.running:
            house.close()

    def give_back(self, house: House, slot: Slot) -> None:
        """A run is over."""
        with self._lock:
            house.running -= 1
            house.free.append(slot)
            gone = house not in self._houses and not house.running
            self._given_back.notify_all()
        if gone:
            house.close()

    def close(self) -> None:
        """End every server, and with it what it still runs, and wait for that; idempotent.

        A thread that has not seen the end of its run within two seconds removes what is left of it when it does.
        """
        self.close_pool()
        with self._lock:
            self._closed = True
            houses = self._houses.copy()
            self._houses.clear()
        _close_all(houses.copy(), self.stash)
        until = time.monotonic() + _PATIENCE_S
        with self._lock:
            while any(house.running for house in houses) and (left := until - time.monotonic()) > 0:
                self._given_back.wait(left)

    @property
    def close_pool(self) -> Callable[[], object]:
        """Ends all that wait when it is called; holds nothing else of this object."""
        filler, pool = self._filler, self.pool
        return int if filler is None or pool is None else partial(filler.close, pool.close)

    def forget(self) -> None:
        """In a fork: let go of the parent's servers."""
        self._lock = threading.Lock()
        self._given_back = threading.Condition(self._lock)
        if self._filler is not None:
            self._filler.begin_anew()
        if self.pool is not None:
            self.pool.forget()
        self.stash.forget()
        while self._houses:
            house = self._houses.pop()
            house.running = 0  # the threads that had runs of it are the parent's
            house.close()


def _close_all(houses: list[House], stash: Stash) -> None:
    stash.close()
    while houses:
        houses.pop().close()


_all: weakref.WeakSet[Residents] = weakref.WeakSet()


def _after_fork() -> None:
    for residents in list(_all):
        residents.forget()


os.register_at_fork(after_in_child=_after_fork)

__all__ = ["SLOTS", "House", "Residents", "Served", "Way", "find_way"]
