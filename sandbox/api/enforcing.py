"""What stands between a prepared launch and the host, in words: the lines of a result's `enforced` that need no limit. Only `prepare` imports it."""

from __future__ import annotations

from sandbox.kernel import calls
from sandbox.policy.emulation import emulates
from sandbox.policy.model import EMULATED, PERMITTING
from sandbox.policy.profile import IdMode, LandlockMode
from sandbox.result import Enforcement

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.abi.host import HostFeatures
    from sandbox.api.prepare import Command
    from sandbox.policy.model import SyscallPolicy
    from sandbox.policy.profile import Profile
    from sandbox.rootfs.image import Layered
    from sandbox.rootfs.machine_view import Machine
    from sandbox.seccomp.filter import Filter


def _describe_root(layered: Layered | None) -> tuple[str, str]:
    """Return what a run's root is, in a few words, and in which way it is less than was asked for."""
    if layered is None:
        return "tmpfs root", ""
    layers = len(layered.root.lowers)
    how = "one read-only tree" if layered.flat else f"overlay of {layers} layer{'s' * (layers != 1)}, changes on a tmpfs"
    return f"{layered.root.why}, {how}", layered.weaker


def describe_walls(
    profile: Profile, policy: SyscallPolicy, compiled: Filter, host: HostFeatures, audit: bool, layered: Layered | None
) -> tuple[Enforcement, ...]:  # fmt: skip
    """Return what walls a run in: namespaces, root, filter, capabilities, paths, and whether it is recorded."""
    root, weaker = _describe_root(layered)
    entries = [
        Enforcement(what="namespaces", how="user mount pid net ipc uts cgroup" + (" time" if profile.time_namespace else "")),
        Enforcement(
            what="root filesystem",
            weaker=weaker,
            how=root + ", " + ("pivot_root" if host.root_pivotable else "move-mount and chroot") + ", mounts locked",
        ),
        Enforcement(what="system calls", how=f"seccomp filter `{policy.name}`, {compiled.instructions} instructions"),
        Enforcement(
            what="capabilities",
            how="seven of a namespace of its own ids, no_new_privs"
            if profile.image and profile.ids is IdMode.RANGE and profile.uid == 0
            else "five empty sets, securebits locked, no_new_privs",
        ),
    ]
    if profile.landlock is not LandlockMode.OFF:
        missing = "Landlock is absent on this kernel" if host.landlock_abi == 0 else ""
        entries.append(
            Enforcement(what="paths", how=f"mounts, Landlock ABI {host.landlock_abi}" if not missing else "mounts", weaker=missing)
        )
    if not audit:
        entries.append(Enforcement(what="audit", how="off", weaker="denied calls are refused in the kernel and not recorded"))
    return tuple(entries)


def describe_view(machine: Machine | None, policy: SyscallPolicy, host: HostFeatures, command: Command) -> tuple[Enforcement, ...]:
    """Say what a machine view shows, and what goes on to tell of the host."""
    if machine is None:
        return ()
    weaker = []
    if not command.audit:
        weaker.append("without a listener sysinfo and sched_getaffinity tell of the host")
    elif host_calls := [name for name in EMULATED if not emulates(policy, name) and not is_refused(policy, name)]:
        why = f"policy `{policy.name}` allows " + ("them" if is_refused(policy, "userfaultfd") else "userfaultfd")
        if calls.ask_kernel("write-memory") != 1:
            why = "process_vm_writev is refused here"
        weaker.append(f"{' and '.join(host_calls)} tell of the host: {why}")
    if machine.files and not host.time_namespace:
        weaker.append("this kernel has no time namespaces: the uptime is the host's")
    where = "/sys, /proc" if machine.files else "/sys"
    answered = [name for name in EMULATED if command.audit and emulates(policy, name)]
    size = f"{len(machine.processors)} processors, {machine.memory_bytes >> 20} MiB"
    text = f"{'live' if machine.live else 'static'}: {size} in {', '.join([where, *answered])}"
    return (Enforcement(what="machine view", how=text, weaker="; ".join(weaker)),)


def is_refused(policy: SyscallPolicy, name: str) -> bool:
    """Whether no call of that name is made."""
    outcomes = [entry.rule.outcome for entry in policy.rules.get(name, ())] or [policy.default]
    return not any(outcome.action in PERMITTING for outcome in outcomes)
