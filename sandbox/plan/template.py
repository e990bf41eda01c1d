"""Plans for a server: its own, and those of the runs that it starts.

Two kinds. A server of the *template* tier builds the finished root once, in namespaces of its own; each run's init is a clone of it with a copy of the mount
namespace, mounts only what is the run's (tmpfs, /proc, terminals) and puts the payload into a user namespace below the server's. A server of the *anew*
tier has no namespace at all and only saves the start of a process: the run's table builds everything. Pure.
"""

from __future__ import annotations

from sandbox.abi import uapi
from sandbox.abi.arch import Arch
from sandbox.plan import fds
from sandbox.plan.build import (
    NAMESPACES,
    Request,
    begin_init,
    end_init,
    enter_steps,
    guard,
    inner_namespace,
    keeper_steps,
    payload_steps,
)
from sandbox.plan.build_root import RootSteps, split_refusal, split_root, whole_root
from sandbox.plan.check_served import check_run_plan, check_server_plan
from sandbox.plan.network import always_refused, only_unix_sockets, refuses_keys
from sandbox.plan.steps import (
    AdoptOrphans,
    AwaitSupervisor,
    CloneInit,
    CloseFrom,
    DieWithJanitor,
    Dumpable,
    InheritRoot,
    JoinCgroups,
    KeepHostProc,
    LoopbackUp,
    NewKeyring,
    NewSession,
    NotDumpable,
    OpenTerminal,
    Plan,
    ReportStarted,
    Serve,
    Step,
)  # fmt: skip
from sandbox.policy.profile import NetworkMode, ProcMode
from sandbox.record import replace


def template_refusal(request: Request) -> str:
    """Return why this launch cannot be a run of a template server, in words for the user; empty when it can."""
    if request.map_range:
        return "an id range is mapped for each run"
    if request.profile.proc is not ProcMode.NONE and not request.host.proc_mountable:
        return "no /proc can be mounted"
    return split_refusal(request)


def anew_refusal(request: Request) -> str:
    """Return why this launch cannot be a run of a server without a template; empty when it can."""
    if request.root.volumes:
        return "named volumes are opened for each run"
    if request.host.uid == 0:
        # The trees are taken with real root's rights, which no process that lives on may have.
        return "root takes shared trees itself"
    return ""


def build_server_plan(request: Request, *, template: bool) -> Plan:
    """Build the plan of a server that can start runs like this one.

    Of the request everything but argv, environment, limits and what is the run's own counts; two requests with equal plans can use one server.
    Its `removals`, `thaws` and `entries` are what the keeper removes after the server's end: those of all runs there may be. `joins` do not count.

    Raises:
        UnsupportedError: the host lacks something that the profile insists on.
        InternalError: it cannot be done (`template_refusal`, `anew_refusal`).
    """
    notes: list[str] = []
    root = split_root(request, notes) if template else RootSteps()
    keep = (fds.STATUS, fds.GO, fds.SUPERVISOR, fds.RELEASE, *range(fds.FIRST_EXTRA, fds.FIRST_EXTRA + request.directories), fds.REQUESTS)
    janitor: list[Step] = [NewSession(), CloseFrom(first=0, keep=keep), AdoptOrphans(), *keeper_steps(request, root)]
    flags, names = NAMESPACES if template else (0, ())
    janitor += [CloneInit(flags=flags, names=names), guard(request, server=True)]
    server: list[Step]
    if template:
        plain = replace(request, joins=(), moved=False, interactive=False, profile=replace(request.profile, network=NetworkMode.NONE))
        # No cgroup namespace: the runs join cgroups outside of what it would show.
        server = [step for step in begin_init(plain, fds.FIRST_EXTRA) if not isinstance(step, JoinCgroups)]
        server += [KeepHostProc(), *enter_steps(plain, root, own_trees=request.host.uid != 0, notes=notes)]
    else:
        server = [ReportStarted(pid_one=False), DieWithJanitor()]
    if request.host.keyrings:
        server.append(NewKeyring())
    server += [NotDumpable(), Serve(template=template)]
    plan = Plan(arch=request.host.arch, janitor=tuple(janitor), init=tuple(server), payload=(), notes=tuple(notes))
    check_server_plan(plan, template=template)
    return plan


def build_run_plan(request: Request, *, template: bool, waits: bool = False) -> Plan:
    """Build the plan of one run that a server starts: no janitor, then init and payload.

    Args:
        request: the launch. Descriptors of `joins` begin at `fds.SERVED_EXTRA`. With a template and root as the caller `joins` must be empty and
            `moved` set: init has no right to root's cgroups.
        template: which kind of server.
        waits: whether the payload waits, confined, for its command (`codec.encode_command`), so that argv and environment do not count.

    Raises:
        UnsupportedError: the host lacks something that the profile insists on.
        InternalError: it cannot be done (`template_refusal`, `anew_refusal`).
    """
    notes: list[str] = []
    inner = inner_namespace(request, notes)
    if template:
        root = split_root(request, notes)
        joins = tuple((fds.SERVED_EXTRA + index, path) for index, path in request.joins)
        init: list[Step] = [InheritRoot(), ReportStarted()]
        if not request.cgroups_made and (joins or request.moved):
            init.append(AwaitSupervisor(maps=False, cgroups=True))
        init += [JoinCgroups(files=joins), DieWithJanitor(), *root.taken, *root.own]
        if request.profile.network is NetworkMode.LOOPBACK:
            init.append(LoopbackUp())
        if request.interactive:
            init.append(OpenTerminal())
    else:
        init = [Dumpable(), *begin_init(request, fds.SERVED_EXTRA)]
        init += enter_steps(request, whole_root(request, notes), own_trees=True, notes=notes)
    watches = request.filter_bpf is None or not always_refused(
        request.filter_bpf, Arch(request.host.arch), ("inotify_init", "inotify_init1")
    )
    init += end_init(request, inner, notes, own_namespace=not template, watches=watches)
    payload = payload_steps(request, inner, notes, own_limits=template, waits=waits, watches=watches)
    if shares_keyring(request):
        payload = [step for step in payload if not isinstance(step, NewKeyring)]
    plan = Plan(arch=request.host.arch, janitor=(), init=tuple(init), payload=tuple(payload), notes=tuple(notes))
    check_run_plan(plan, template=template, filtered=request.filter_bpf is not None)
    return plan


def may_recycle_network(request: Request) -> bool:
    """Return whether the run's network namespace may be one that another has used, and be used again: it has none to speak of, and its program can
    make no socket but local ones.
    """
    if request.profile.network is not NetworkMode.NONE or request.filter_bpf is None:
        return False
    return only_unix_sockets(request.filter_bpf, Arch(request.host.arch))


def shares_keyring(request: Request) -> bool:
    """Return whether the run may have its server's empty session keyring: its program can make no call that would reach it.

    A keyring for each would be charged to the user, who may have 200 keys (kernel.keys.maxkeys): no more sandboxes than that could live at a time.
    """
    return request.filter_bpf is not None and refuses_keys(request.filter_bpf, Arch(request.host.arch))


def clone_flags(*, template: bool, recycled_network: bool) -> int:
    """Return the flags with which a server clones init: every namespace of its own, less those that it has from the server."""
    flags, _ = NAMESPACES
    if template:
        flags &= ~uapi.CLONE_NEWUSER
    if recycled_network:
        flags &= ~uapi.CLONE_NEWNET
    return flags


__all__ = [
    "anew_refusal",
    "build_run_plan",
    "build_server_plan",
    "clone_flags",
    "may_recycle_network",
    "shares_keyring",
    "template_refusal",
]
