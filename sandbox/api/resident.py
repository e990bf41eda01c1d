"""The servers of one `Sandbox`: which way a run is started, which server starts it, and the end of them all. `Sandbox` has one `Residents`.

A request that no server can do, or for which none can be started, takes today's way: the wall is the same in every tier, only where it is built differs.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from functools import partial

from sandbox.api.filler import Filler
from sandbox.api.house import House, Way
from sandbox.api.recipe import identify_caller, identify_shared
from sandbox.api.requesting import build_request
from sandbox.api.served import Served
from sandbox.api.spawned import Spawned
from sandbox.errors import SandboxError, SetupError
from sandbox.launch.stash import Stash
from sandbox.plan.build_root import mounts_in_shared
from sandbox.plan.template import anew_refusal, build_server_plan, may_recycle_network, template_refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.api.pool_ahead import Ahead, Pool
    from sandbox.api.prepare import Prepared
    from sandbox.api.slots import Slot
    from sandbox.api.start import Start
    from sandbox.api.waiting import Waiting

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

__all__ = ["Residents", "find_way"]
