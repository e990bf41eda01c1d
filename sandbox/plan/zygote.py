"""Plans for a zygote, an interpreter in a copy of a server's root that is forked for each run, and for those runs. Pure.

A zygote is not confined as a payload is: it has to clone and mount. It has no capability; each member is cloned into a user namespace of its own, in which
it may mount what is the run's own over what it has inherited, locked, from the server. From there on the rows are those of any run, and in the place of
`execve` the interpreter goes on.
"""

from __future__ import annotations

from sandbox.abi import uapi
from sandbox.abi.arch import Arch
from sandbox.plan import fds
from sandbox.plan.build import Request, begin_init, end_init, inner_namespace, payload_steps
from sandbox.plan.build_root import split_root
from sandbox.plan.check import check_end, check_ground, check_payload, check_targets, require
from sandbox.plan.root import Bind
from sandbox.plan.steps import (
    AwaitGo,
    Become,
    CloexecFrom,
    ClonePayload,
    CloneTree,
    CloseFrom,
    CoverPath,
    DieWithJanitor,
    DropCapabilities,
    EnterRoot,
    Execute,
    InheritForked,
    InheritRoot,
    InstallFilter,
    LoopbackUp,
    MapIds,
    MaskProc,
    MountLive,
    MountProc,
    MountRoot,
    NewKeyring,
    NewSession,
    NoNewPrivileges,
    NotDumpable,
    OpenTerminal,
    Plan,
    PrivateMounts,
    Reap,
    ReportStarted,
    ResetSignals,
    SetWorkdir,
    Step,
    TakeStash,
)
from sandbox.plan.template import shares_keyring, template_refusal
from sandbox.policy.profile import NetworkMode, ProcMode
from sandbox.record import replace
from sandbox.seccomp.initfilter import build_init_filter
from sandbox.seccomp.zygotefilter import build_zygote_filter

SINGLE = (("OPENBLAS_NUM_THREADS", "1"), ("OMP_NUM_THREADS", "1"), ("MKL_NUM_THREADS", "1"), ("BLIS_NUM_THREADS", "1"))
"""What keeps numeric libraries from starting threads on import: a fork would not have them."""


_NOT_ROOT = 1000
_PID = 3
"""Of a zygote. Its members are all process 2, as any payload, and libraries know by another pid that they were forked and have to seed anew."""


def _own_id(number: int) -> int:
    """The id of a zygote: root's cannot be mapped again without a capability (user_namespaces(7)), so whose members are root is not itself."""
    return number or _NOT_ROOT


def zygote_refusal(request: Request) -> str:
    """Return why this launch cannot be a fork of a zygote, in words for the user; empty when it can."""
    if refusal := template_refusal(request):
        return refusal
    if request.profile.proc is ProcMode.NONE:
        return "a member maps its ids through /proc"
    if request.interactive:
        return "a terminal is opened before the interpreter starts"
    if not request.host.user_namespace_sysctl:
        return "/proc/sys cannot be written"
    if split_root(request, []).taken:
        return "a shared tree below a tmpfs or inside of another one"
    for entry in request.root.entries:
        if isinstance(entry, Bind) and entry.writable:
            return f"a program could leave modules in `{entry.path}` that the next zygote imports"
    return ""


def build_zygote_plan(request: Request, *, text: str, command: tuple[str, ...], environment: tuple[tuple[str, str], ...]) -> Plan:
    """Build the plan of a zygote, itself a run of the template server of `request`.

    Args:
        request: what its members will be; argv and environment do not count.
        text: what the interpreter runs as ``-c``.
        command: the interpreter and its options.
        environment: its variables; `SINGLE` is added.

    Raises:
        InternalError: it cannot be done (`zygote_refusal`).
    """
    profile = request.profile
    notes: list[str] = []
    # Unmasked and writable: in it members map their ids and set limits of their own user namespaces.
    own = [step for step in split_root(request, notes).own if not isinstance(step, (MountProc, MaskProc, MountLive, CoverPath))]
    init: list[Step] = [InheritRoot(), ReportStarted(), DieWithJanitor(), *own, MountProc(minimal=False)]
    lasting = replace(profile, limits=replace(profile.limits, wall_ns=None), time_namespace=False)
    # Clocks that begin with a run do so in each member; those that begin at one moment for all begin there here, too.
    end = end_init(
        replace(request, profile=lasting, uptime_s=0 if profile.time_namespace else request.uptime_s), True, notes, own_namespace=False
    )
    init += [replace(step, pid=_PID) if isinstance(step, ClonePayload) else step for step in end]
    payload: list[Step] = [
        MapIds(inside_uid=_own_id(profile.uid), inside_gid=_own_id(profile.gid), outside_uid=profile.uid, outside_gid=profile.gid, inner=True),
        CloexecFrom(first=3), NewSession(), ResetSignals(), SetWorkdir(path=request.root.workdir), DropCapabilities(), NoNewPrivileges(),
        InstallFilter(bpf=build_zygote_filter(Arch(request.host.arch)), policy="zygote", listener=False), AwaitGo(),
        Execute(path=request.root.argv0, argv=(*command, "-c", text), environment=(*(pair for pair in environment if pair not in SINGLE), *SINGLE)),
    ]  # fmt: skip
    plan = Plan(arch=request.host.arch, janitor=(), init=tuple(init), payload=tuple(payload), notes=tuple(notes))
    check_end("init", plan.init, (ClonePayload, NotDumpable, CloseFrom, DropCapabilities, NoNewPrivileges, InstallFilter, Reap))
    check_payload(plan, filtered=True)
    check_targets(plan)
    return plan


def build_forked_plan(request: Request) -> Plan:
    """Build the plan of one run that is a fork of a zygote. Descriptors of `joins` begin at `fds.SERVED_EXTRA`.

    Raises:
        UnsupportedError: the host lacks something that the profile insists on.
        InternalError: it cannot be done (`zygote_refusal`).
    """
    notes: list[str] = []
    # Its init is the zygote's interpreter, which needs more calls than the native one.
    request = replace(request, init_filter_bpf=build_init_filter(Arch(request.host.arch), reference=True))
    inner = inner_namespace(request, notes)
    require(inner, "a fork of a zygote maps a range of ids")
    root = split_root(request, notes)
    profile = request.profile
    begun = begin_init(
        replace(request, external_map=False, outside_uid=_own_id(profile.uid), outside_gid=_own_id(profile.gid)),
        fds.SERVED_EXTRA,
    )
    # Live files stay as they are here, for nothing is kept that could change them; an uptime that stands still is worse than the kernel's.
    own = [step for step in root.own if not (isinstance(step, CoverPath) and step.path == "/proc/uptime")]
    init: list[Step] = [InheritForked(), *(step for step in begun if not isinstance(step, PrivateMounts)), *own]
    if profile.network is NetworkMode.LOOPBACK:
        init.append(LoopbackUp())
    init += end_init(request, inner, notes)
    payload: list[Step] = []
    for step in payload_steps(request, inner, notes):
        match step:
            case Execute():
                payload.append(Become())
            case NewKeyring() if shares_keyring(request):
                pass
            case _:
                payload.append(step)
    # There is no execve that closes them, so they are closed while nothing untrusted runs; Landlock's is the last that is opened.
    place = next(index for index, step in enumerate(payload) if isinstance(step, (InstallFilter, AwaitGo)))
    payload.insert(place, CloseFrom(first=3, keep=(fds.STATUS, fds.GO)))
    plan = Plan(arch=request.host.arch, janitor=(), init=tuple(init), payload=tuple(payload), notes=tuple(notes))
    check_end("init", plan.init, (ClonePayload, NotDumpable, CloseFrom, DropCapabilities, NoNewPrivileges, InstallFilter, Reap))
    check_payload(plan, filtered=request.filter_bpf is not None)
    check_targets(plan)
    check_ground(plan.init)
    for step in plan.init:
        require(
            not isinstance(step, (MountRoot, EnterRoot, CloneTree, TakeStash, OpenTerminal)),
            f"a member takes a step of its server: `{step.describe()}`",
        )
    return plan


FORK_FLAGS = uapi.CLONE_NEWUSER | uapi.CLONE_NEWNS | uapi.CLONE_NEWPID | uapi.CLONE_NEWNET | uapi.CLONE_NEWIPC | uapi.CLONE_NEWUTS
"""With what a zygote clones: every namespace is new."""
