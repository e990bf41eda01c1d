"""A prepared launch in the plan's terms: what `plan.build` is asked for, with the run's own numbers. Starts nothing."""

from __future__ import annotations

import time

from sandbox.api.start import cgroup_directories
from sandbox.plan.build import Request
from sandbox.policy.profile import IdMode
from sandbox.registry.entry import SOCKET
from sandbox.seccomp.initfilter import build_init_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.api.prepare import Prepared
    from sandbox.cgroup.model import CgroupRun
    from sandbox.plan.steps import Plan
    from sandbox.policy.profile import Profile


def build_request(prepared: Prepared, *, outside_id: int, cgroup: CgroupRun | None, entries: tuple[str, ...] = ()) -> Request:
    """Put a prepared launch and the run's own numbers into the plan's terms.

    Args:
        prepared: what to run.
        outside_id: the host id of a root run; ignored otherwise.
        cgroup: the run's cgroup, reserved.
        entries: the files of the run's entry, in the directory whose descriptor comes after those of `cgroup_directories`.
    """
    index = {fd: number for number, fd in enumerate(cgroup_directories(cgroup))}
    names = [*sorted({use.name for use in prepared.root.volumes}), *(f":{owner}" for owner in prepared.owners)]
    locks = len(index) + bool(entries)  # of what a copy-on-write run changes, then of volumes; the janitor only holds them
    maps = locks + bool(prepared.keeping is not None and prepared.keeping.path) + len({use.name for use in prepared.root.volumes})

    def indexed(files: tuple[tuple[int, str], ...]) -> tuple[tuple[int, str], ...]:
        return tuple((index[fd], path) for fd, path in files)

    return Request(
        profile=prepared.profile,
        host=prepared.host,
        root=prepared.root,
        argv=inner_argv(prepared),
        environment=prepared.environment,
        outside_uid=outside_id if prepared.as_root else prepared.host.uid,
        outside_gid=outside_id if prepared.as_root else prepared.host.gid,
        filter_bpf=prepared.filter.bpf,
        init_filter_bpf=build_init_filter(prepared.arch, reference=uses_reference(prepared.command.executor)),
        audit=prepared.filter.notify,
        external_map=prepared.external_map,
        map_range=prepared.profile.ids is IdMode.RANGE,
        ranges=_find_ranges(prepared),
        directories=maps + (len(names) if prepared.as_root else 0),
        joins=indexed(cgroup.joins) if cgroup is not None else (),
        removals=indexed(cgroup.removals) if cgroup is not None else (),
        thaws=indexed(cgroup.thaws) if cgroup is not None else (),
        entries=tuple((len(index), name) for name in entries),
        held=tuple(range(locks, maps)),
        maps=tuple((name, maps + number) for number, name in enumerate(names)) if prepared.as_root else (),
        rlimits=prepared.rlimits,
        scheduler=prepared.scheduling.policy,
        base_nice=prepared.scheduling.base_nice,
        nice=prepared.scheduling.nice,
        io_priority=prepared.scheduling.io_priority,
        affinity=prepared.scheduling.affinity,
        interactive=prepared.command.interactive,
        oom_protected=prepared.oom_protected,
        uptime_s=uptime_s(prepared),
    )


def _find_ranges(prepared: Prepared) -> Any:
    """Return what ids a range maps; the maps themselves refuse where there is none."""
    if prepared.profile.ids is not IdMode.RANGE:
        return (), ()
    from sandbox.launch.idmap import inner_extents

    return inner_extents(prepared.host.uid, *map_centre(prepared.profile))


def map_centre(profile: Profile) -> tuple[int, int]:
    """Return the uid and gid inside that are the caller outside: of an image, root, whoever the program is, for so its layers were unpacked."""
    return (0, 0) if profile.image and profile.ids is IdMode.RANGE else (profile.uid, profile.gid)


def uptime_s(prepared: Prepared) -> int:
    """Return the host's uptime in seconds at which the payload's clocks begin; 0 where they are the host's."""
    if prepared.profile.time_namespace:
        return int(time.clock_gettime(time.CLOCK_MONOTONIC))
    return prepared.machine.origin_s if prepared.machine is not None else 0


def inner_argv(prepared: Prepared) -> tuple[str, ...]:
    """The payload's argv; a relative command of a directory that is not shared gets the path that it has inside."""
    first, *rest = prepared.command.argv
    if "/" in first and not first.startswith("/") and prepared.root.workdir != prepared.command.cwd:
        return (prepared.root.argv0, *rest)
    return prepared.command.argv


def dry_plan(prepared: Prepared) -> Plan:
    """Build the plan as a run would, with placeholders for what only a run has."""
    from sandbox.plan.build import build_plan

    run = None if prepared.backend is None else prepared.backend.reserve(prepared.run_id, prepared.cgroup_limits)
    try:
        return build_plan(build_request(prepared, outside_id=0x70000000, cgroup=run, entries=(f"RUN{SOCKET}", "RUN")))
    finally:
        if run is not None:
            run.close()


def uses_reference(executor: str) -> bool:
    """Whether the Python executor will run, whose init needs a wider filter."""
    from sandbox.launch.spawn import executor_command

    return len(executor_command(executor)) > 1
