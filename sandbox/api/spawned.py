"""A run that this process starts itself, with a janitor; `served` has those that a server starts."""

from __future__ import annotations

import os

from sandbox.api.registered import Registered
from sandbox.api.start import Start, cgroup_directories
from sandbox.api.streams import close_children, open_children
from sandbox.launch.spawn import spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.api.prepare import Prepared
    from sandbox.api.streams import Streams
    from sandbox.cgroup.model import CgroupRun
    from sandbox.launch.idmap import HostId
    from sandbox.launch.spawn import Launched
    from sandbox.plan.build import Request
    from sandbox.plan.codec import Table
    from sandbox.plan.steps import Plan
    from sandbox.supervise.pump import Pump


class Spawned(Start):
    """A run that this process starts itself, with a janitor."""

    def __init__(self, prepared: Prepared, held: bool = False) -> None:
        self.held = held
        if prepared.backend is not None and not prepared.backend.ready:
            from sandbox.api.prepare import open_backend

            prepared = open_backend(prepared.whole())
        self.prepared = prepared
        self.entry = self._entry = Registered(prepared)
        self._host_id: HostId | None = None
        self._janitor = 0
        self._maps: list[int] = []
        self._locks: list[int] = []
        if prepared.opened is not None:
            self._locks, self.notes = prepared.opened.locks, tuple(prepared.opened.notes)
        try:
            if prepared.as_root:
                from sandbox.launch.idmap import claim_host_id

                self._host_id = claim_host_id()
                if prepared.keeping is not None and prepared.keeping.path:
                    from sandbox.api.keeping import give_to

                    give_to(prepared.keeping.path, prepared.keeping, prepared.run_id, self._host_id.number)
                if prepared.opened is not None:
                    from sandbox.api.volumes import open_maps

                    self._maps = open_maps(prepared.opened, self._host_id.number)
                for owner in prepared.owners:
                    from sandbox.launch.idmap import make_namespace

                    self._maps.append(make_namespace(owner, self._host_id.number))
            if prepared.backend is not None:
                self.cgroup = prepared.backend.reserve(prepared.run_id, prepared.cgroup_limits)
                self.cgroup.clear_way()
        except BaseException:
            self.close()
            raise
        self.needs_word = prepared.external_map or self.cgroup is not None

    def begin(self, launched: Launched, pumps: list[Pump], streams: Streams) -> tuple[Plan, Table]:
        """See `Start.begin`."""
        prepared, cgroup, entry = self.prepared, self.cgroup, self._entry
        directories = cgroup_directories(cgroup)
        listed = entry.reserve()
        if listed:
            directories += (entry.directory,)
        if prepared.keeping is not None and prepared.keeping.lock >= 0:
            directories += (prepared.keeping.lock,)  # held until the janitor has seen everything dead
        directories += (*self._locks, *self._maps)
        outside_id = self._host_id.number if self._host_id is not None else -1
        plan, table = _find_table(prepared, outside_id, cgroup, entry.names if listed else ())
        children = open_children(pumps, streams, self._host_id)
        try:
            spawn(launched, table, stdio=children, extra=directories, executor=prepared.command.executor, anchor=prepared.anchor)
        finally:
            close_children(children, pumps)
        self._janitor = launched.pid
        if not self.held:
            entry.open(launched.pid)
        return plan, table

    def register(self, asked: Prepared) -> None:
        """See `Start.register`."""
        self._entry.describe(asked)
        self._entry.open(self._janitor)

    def started(self, pid: int) -> None:
        """See `Start.started`."""
        if self.cgroup is not None:
            self.cgroup.make()
        write_id_maps(self.prepared, pid, self._host_id)

    def close(self) -> None:
        """See `Start.close`."""
        cgroup, self.cgroup = self.cgroup, None
        host_id, self._host_id = self._host_id, None
        try:
            if cgroup is not None:
                try:
                    cgroup.remove()
                finally:
                    cgroup.close()
        finally:
            while self._maps:
                os.close(self._maps.pop())
            if host_id is not None:
                host_id.close()
            self._entry.close()  # last: whoever waits for the end of the run is told by it


def _find_table(prepared: Prepared, outside_id: int, cgroup: CgroupRun | None, entries: tuple[str, ...]) -> tuple[Plan, Table]:
    found = prepared.find_table(cgroup, entries)
    if found is not None:
        return found
    from sandbox.api.requesting import build_request, inner_argv, uptime_s
    from sandbox.api.tables import build_table, generalize, name_run
    from sandbox.record import replace

    whole = prepared.whole()

    def request() -> Request:
        return build_request(whole, outside_id=outside_id, cgroup=cgroup, entries=entries)

    kept = whole.kept
    if kept is None:
        return _make_table(request(), whole.run_id)
    # A root run's id is in no table: the maps are written from outside.
    variant = ("spawned", bool(entries), uptime_s(whole))
    made = kept.find(variant, lambda: build_table(generalize(request(), whole.run_id)))
    data = kept.fill(variant, made, whole.command.files, inner_argv(whole), whole.environment)
    return made[0], replace(made[1], data=name_run(data, whole.run_id))


def _make_table(request: Request, run_id: str) -> tuple[Plan, Table]:
    from sandbox.api.tables import make_table

    return make_table(request, run_id)


def write_id_maps(prepared: Prepared, pid: int, host_id: HostId | None) -> None:
    """Write the maps that the user namespace of a process cannot write itself: root's, and a range."""
    if not prepared.external_map:
        return
    from sandbox.launch.idmap import write_maps, write_range_maps

    profile = prepared.profile
    if host_id is not None:
        write_maps(pid, inside_uid=profile.uid, inside_gid=profile.gid, outside=host_id.number)
    else:
        import pwd

        from sandbox.api.requesting import map_centre

        user = pwd.getpwuid(prepared.host.uid).pw_name
        inside = map_centre(profile)
        write_range_maps(pid, inside_uid=inside[0], inside_gid=inside[1], uid=prepared.host.uid, gid=prepared.host.gid, user=user)
