"""What a prepared launch's machine view needs while the run goes on, in the supervisor's terms. `api.execute` imports it where there is one."""

from __future__ import annotations

from sandbox.supervise.machine_view import MachineState, Shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.api.prepare import Prepared
    from sandbox.supervise.machine_view import Moment


UPTIME_BYTES = 64
"""The size of a live /proc/uptime; the files must agree."""


def open_state(prepared: Prepared) -> MachineState:
    """Return the state of one run's view; nothing is measured yet."""
    machine = prepared.machine
    assert machine is not None
    profile = prepared.profile

    def render(at: Moment) -> Mapping[str, bytes]:
        from sandbox.rootfs.machine_files import Figures, live_cgroup_files, live_proc_files

        figures = Figures(**{name: getattr(at, name) for name in Figures.__slots__})
        groups = {f"cgroup/{name}": content for name, content in live_cgroup_files(machine, figures).items()}
        return {**live_proc_files(machine, figures), **groups} if machine.files else groups

    def begin(at: Moment) -> Mapping[str, bytes]:
        if not machine.files:
            return {}
        # As `machine_files.uptime` has it, which is not imported yet: a run that is over soon needs no more than this.
        return {"uptime": f"{at.uptime_ns / 1e9:.2f} 0.00".ljust(UPTIME_BYTES - 1).encode() + b"\n"}

    # Without a time namespace a whole /proc says when the host was booted, whatever we say.
    origin = machine.origin_s or (0 if machine.files and not profile.time_namespace else None)
    shown = Shown(
        processors=machine.processors,
        memory_bytes=machine.memory_bytes,
        calls=machine.calls,
        live=machine.live,
        proc=machine.proc,
        origin_s=origin,
        render=render,
        begin=begin,
    )
    return MachineState(shown)
