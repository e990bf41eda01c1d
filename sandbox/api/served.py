"""A run that a resident server starts; `spawned` has those that this process starts itself, `waiting` and `forks` what is made of this one.

Which server, and whether there is one, `resident` has decided before. When the run is over its slot is given back there, and only then.
"""

from __future__ import annotations

import os

from sandbox.api.requesting import build_request, inner_argv, uptime_s
from sandbox.api.slots import SlotAnswering
from sandbox.api.spawned import write_id_maps
from sandbox.api.start import Start, StartGoneError
from sandbox.api.streams import close_children, open_children
from sandbox.launch.resident import ServerGoneError, clone_refusal
from sandbox.launch.shield import Shield
from sandbox.launch.spawn import sealed_memory
from sandbox.plan.lower import lower_plan
from sandbox.plan.template import build_run_plan, clone_flags
from sandbox.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.api.house import House, Way
    from sandbox.api.prepare import Prepared
    from sandbox.api.resident import Residents
    from sandbox.api.slots import Slot
    from sandbox.api.streams import Streams
    from sandbox.errors import SandboxError
    from sandbox.launch.spawn import Launched
    from sandbox.plan.build import Request
    from sandbox.plan.codec import Table
    from sandbox.plan.steps import Plan
    from sandbox.supervise.pump import Pump


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


__all__ = ["Served"]
