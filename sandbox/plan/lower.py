"""Plan → Table: every step becomes rows.

This file holds the frame and the processes' steps; `lower_confine.py` what confines the payload, `lower_mounts.py` and `lower_overlay.py` the steps that build
the root, `lower_served.py` those of servers and of their runs. Pure: nothing here depends on the host beyond what the plan says.
"""

from __future__ import annotations

import errno
import struct

from sandbox.abi import uapi
from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_number
from sandbox.errors import InternalError
from sandbox.plan import fds
from sandbox.plan.check import check_table
from sandbox.plan.codec import NO_FLAG, RECORD, Arg, Flag, Kind, Op, Ref, Row, Slot, Table, TableBuilder
from sandbox.plan.steps import (
    AwaitSupervisor,
    BecomeIds,
    CloneInit,
    ClonePayload,
    CloseFrom,
    DieWithJanitor,
    DropGroups,
    ForbidNamespaces,
    Guard,
    JoinCgroups,
    LimitWatches,
    LoopbackUp,
    MapIds,
    NewSession,
    NewTimeNamespace,
    NotDumpable,
    OpenHostProc,
    Plan,
    Reap,
    ReportStarted,
    SetHostname,
    Step,
)  # fmt: skip
from sandbox.record import dataclass, field, replace

_RECORD_A, _RECORD_RUSAGE = 8, 24


@dataclass(slots=True)
class Lowering:
    """The table under construction and the slots that steps share by name."""

    arch: Arch
    builder: TableBuilder = field(default_factory=TableBuilder)
    slots: dict[str, int] = field(default_factory=dict)
    step: int = -1
    clones: list[int] = field(default_factory=list)
    ready: Ref = field(default_factory=lambda: Ref(0))

    def slot(self, name: str) -> int:
        """The data offset of a named slot, made on first use."""
        if name not in self.slots:
            self.slots[name] = self.builder.slot()
        return self.slots[name]

    def call(
        self, name: str, *args: Arg | str, store: int = 0, tolerate: tuple[int, ...] = (), flags: Flag = NO_FLAG, label: str | None = None
    ) -> None:
        """Add a system call row; a `str` argument becomes a pointer to a NUL-terminated string."""
        number = syscall_number(self.arch, name)
        if number is None:
            raise InternalError(f"no number for syscall `{name}` on {self.arch}")
        words = tuple([self.builder.string(arg) if isinstance(arg, str) else arg for arg in args])
        shown = name if label is None else f"{name} {label}"
        self._add(Row(op=Op.CALL, number=number, args=words, store=store, tolerate=tolerate, flags=flags, step=self.step, label=shown))

    def expect(self, pointer: Ref, size: int, mask: int, value: int, error: int, label: str) -> None:
        """Add a check of memory."""
        self._add(Row(op=Op.EXPECT, args=(pointer, size, mask, value, error), step=self.step, label=f"expect {label}"))

    def clone(self, arguments: Ref, store: int) -> None:
        """Add a clone3 row whose target is set when the child's first row is known."""
        self.clones.append(len(self.builder.rows))
        self._add(Row(op=Op.CLONE, args=(arguments, 88), store=store, step=self.step, label="clone3"))

    def operate(self, op: Op, *args: Arg, label: str) -> None:
        """Add a row that is neither call, clone nor check."""
        self._add(Row(op=op, args=args, step=self.step, label=label))

    def write_file(self, directory: Arg, path: str, content: str, *, tolerate: tuple[int, ...] = ()) -> None:
        """open, write, close of a kernel file."""
        text = self.builder.blob(content.encode())
        fd = self.slot("file")
        self.call("openat", directory, path, uapi.O_WRONLY | uapi.O_CLOEXEC, store=fd, tolerate=tolerate, label=f"`{path}`")
        after = (errno.EBADF,) if tolerate else ()
        self.call("write", Slot(fd), text, len(content), tolerate=after, label=f"`{path}` `{content.strip()}`")
        self.call("close", Slot(fd), tolerate=after)

    def record(self, kind: Kind, a: int = 0, b: int = 0) -> Ref:
        """Set a record aside."""
        return self.builder.reserve(RECORD.size, struct.pack("<IIqq", kind, 0, a, b))

    def send(self, record: Ref, *, tolerate: tuple[int, ...] = ()) -> None:
        """Write a record to the supervisor."""
        self.call("write", fds.STATUS, record, RECORD.size, tolerate=tolerate, label="record")

    def await_word(self, word: int, label: str) -> None:
        """Read one byte from the GO pipe; any other byte, or its end, means that the supervisor gave up."""
        byte = self.builder.reserve(8)
        self.call("read", fds.GO, byte, 1, flags=Flag.RETRY, label=label)
        self.expect(byte, 4, 0xFF, word, errno.ECANCELED, label)

    def _add(self, row: Row) -> None:
        self.builder.rows.append(row)


def lower_plan(plan: Plan) -> Table:
    """Turn a plan into the table that an executor runs."""
    low = Lowering(arch=Arch(plan.arch))
    failure = low.record(Kind.FAILED)
    low.ready = low.record(Kind.READY, a=-1, b=-1)
    starts: list[int] = []
    for section in filter(None, (plan.janitor, plan.init, plan.payload)):
        starts.append(len(low.builder.rows))
        for step in section:
            low.step += 1
            lower_step(low, step)
    for index, start in zip(low.clones, starts[1:], strict=True):
        low.builder.rows[index] = replace(low.builder.rows[index], number=start)
    table = low.builder.encode(failure_record=failure, status_fd=fds.STATUS)
    check_table(plan, table)
    return table


def lower_step(low: Lowering, step: Step) -> None:
    """Add the rows of one step."""
    from sandbox.plan.lower_confine import lower_confine_step
    from sandbox.plan.lower_ids import lower_ids_step
    from sandbox.plan.lower_mounts import lower_mount_step
    from sandbox.plan.lower_overlay import lower_overlay_step
    from sandbox.plan.lower_served import lower_served_step

    others = (lower_confine_step, lower_mount_step, lower_served_step, lower_overlay_step, lower_ids_step)
    if not any(lower(low, step) for lower in others):
        _lower_step(low, step)


def _clone_arguments(low: Lowering, flags: int, pidfd: int, pid: int = 0) -> Ref:
    numbers = 1 if pid else 0
    arguments = low.builder.reserve(88, struct.pack("<11Q", flags, 0, 0, 0, uapi.SIGCHLD, 0, 0, 0, 0, numbers, 0))
    if pidfd:
        low.builder.pointer_at(arguments.offset + 8, Ref(pidfd))
    if pid:
        low.builder.pointer_at(arguments.offset + 64, low.builder.reserve(8, struct.pack("<i", pid)))
    return arguments


def _new_session(low: Lowering, step: NewSession) -> None:
    low.call("setsid")
    if step.terminal:
        low.call("ioctl", 0, uapi.TIOCSCTTY, 0, label="TIOCSCTTY")


def close_from(low: Lowering, step: CloseFrom) -> None:
    """Add the rows that close every descriptor from one on, but some."""
    first = step.first
    for kept in sorted(step.keep):
        if kept > first:
            low.call("close_range", first, kept - 1, 0)
        first = kept + 1
    low.call("close_range", first, 0xFFFFFFFF, 0)


def _clone_init(low: Lowering, step: CloneInit) -> None:
    pidfd = low.slots["init-pidfd"] = low.builder.slot(0)  # the kernel writes 32 bits of it
    arguments = _clone_arguments(low, step.flags | uapi.CLONE_PIDFD, pidfd)
    low.clone(arguments, low.slot("init-pid"))


def _guard(low: Lowering, step: Guard) -> None:
    keep = {fds.STATUS, fds.SUPERVISOR, fds.RELEASE, *step.held, *(fd for fd, _ in step.removals + step.thaws + step.entries)}
    pidfd = max(keep) + 1
    low.call("dup3", Slot(low.slot("init-pidfd")), pidfd, uapi.O_CLOEXEC, label="init's pidfd")
    close_from(low, CloseFrom(first=0, keep=(*sorted(keep), pidfd)))
    first = low.builder.reserve(16, struct.pack("<ihhihh", fds.SUPERVISOR, uapi.POLLIN, 0, pidfd, uapi.POLLIN, 0))
    low.call("ppoll", first, 2, 0, 0, 8, flags=Flag.RETRY)
    low.call("pidfd_send_signal", pidfd, uapi.SIGKILL, 0, 0, tolerate=(errno.ESRCH,))
    for fd, name in step.thaws:
        file = low.slot("file")
        word = b"THAWED"
        flags = uapi.O_WRONLY | uapi.O_CLOEXEC
        low.call("openat", fd, name, flags, store=file, tolerate=(errno.ENOENT, errno.ENODEV), label=f"`{name}`")
        low.call("write", Slot(file), low.builder.blob(word), len(word), tolerate=(errno.EBADF, errno.ENODEV), label=f"`{name}` `THAWED`")
        low.call("close", Slot(file), tolerate=(errno.EBADF,))
    record = low.record(Kind.REAPED)
    low.call(
        "wait4",
        Slot(low.slot("init-pid")),
        Ref(record.offset + _RECORD_A),
        uapi.WALL,
        Ref(record.offset + _RECORD_RUSAGE),
        flags=Flag.RETRY,
    )
    if step.server:
        low.call("wait4", -1, 0, uapi.WALL, 0, tolerate=(errno.ECHILD,), flags=Flag.RETRY | Flag.REPEAT, label="its runs")
    low.send(record, tolerate=(errno.EPIPE, errno.ECONNRESET))
    if step.removals or step.entries:
        low.call("close", fds.STATUS)
        second = low.builder.reserve(16, struct.pack("<ihhihh", fds.SUPERVISOR, uapi.POLLIN, 0, fds.RELEASE, uapi.POLLIN, 0))
        low.call("ppoll", second, 2, 0, 0, 8, flags=Flag.RETRY)
        for fd, name in step.removals:
            low.call("unlinkat", fd, name, uapi.AT_REMOVEDIR, tolerate=(errno.ENOENT, errno.EBUSY, errno.ENOTEMPTY), label=f"`{name}`")
        for fd, name in step.entries:
            low.call("unlinkat", fd, name, 0, tolerate=(errno.ENOENT, errno.EACCES, errno.EROFS), label=f"`{name}`")
    low.operate(Op.EXIT, 0, label="exit")


def _die_with_janitor(low: Lowering, step: DieWithJanitor) -> None:
    low.call("prctl", uapi.PR_SET_PDEATHSIG, uapi.SIGKILL, 0, 0, 0, label="PR_SET_PDEATHSIG")


def _report_started(low: Lowering, step: ReportStarted) -> None:
    # Init ends the run by kill(-1): as pid 1 that is the sandbox, as anybody else it would be every process of the caller.
    if step.pid_one:
        number = low.slot("init-number")
        low.call("getpid", store=number)
        low.expect(Ref(number), 8, 0xFFFFFFFFFFFFFFFF, 1, errno.ECHILD, "to be pid 1")
    low.send(low.record(Kind.STARTED))


def _join_cgroups(low: Lowering, step: JoinCgroups) -> None:
    for directory, path in step.files:
        low.write_file(directory, path, "0")
    low.call("unshare", uapi.CLONE_NEWCGROUP, label="CLONE_NEWCGROUP")


def _open_host_proc(low: Lowering, step: OpenHostProc) -> None:
    flags = uapi.O_PATH | uapi.O_DIRECTORY[low.arch] | uapi.O_CLOEXEC
    low.call("openat", uapi.AT_FDCWD, "/proc", flags, store=low.slot("host-proc"), label="`/proc`")


def _map_ids(low: Lowering, step: MapIds) -> None:
    proc = Slot(low.slot("host-proc"))
    if not step.inner:
        low.write_file(proc, "self/setgroups", "deny")
    low.write_file(proc, "self/uid_map", f"{step.inside_uid} {step.outside_uid} 1\n")
    low.write_file(proc, "self/gid_map", f"{step.inside_gid} {step.outside_gid} 1\n")


def _await_supervisor(low: Lowering, step: AwaitSupervisor) -> None:
    low.await_word(fds.WORD_MADE, "supervisor")


def _become_ids(low: Lowering, step: BecomeIds) -> None:
    low.call("setresgid", step.gid, step.gid, step.gid)
    low.call("setresuid", step.uid, step.uid, step.uid)
    # The change of ids made us undumpable, so that our own /proc/self files would belong to the host's root.
    low.call("prctl", uapi.PR_SET_DUMPABLE, 1, 0, 0, 0, label="PR_SET_DUMPABLE")


def _drop_groups(low: Lowering, step: DropGroups) -> None:
    low.call("setgroups", 0, 0)


def _loopback_up(low: Lowering, step: LoopbackUp) -> None:
    fd = low.slot("file")
    low.call("socket", uapi.AF_INET, uapi.SOCK_DGRAM | uapi.SOCK_CLOEXEC, 0, store=fd)
    request = low.builder.blob(struct.pack("<16sh22x", b"lo", uapi.IFF_UP))
    low.call("ioctl", Slot(fd), uapi.SIOCSIFFLAGS, request, label="SIOCSIFFLAGS lo up")
    low.call("close", Slot(fd))


def _set_hostname(low: Lowering, step: SetHostname) -> None:
    name = step.name.encode()
    low.call("sethostname", low.builder.blob(name), len(name))
    low.call("setdomainname", low.builder.blob(b"\0"), 0)


def _new_time_namespace(low: Lowering, step: NewTimeNamespace) -> None:
    low.call("unshare", uapi.CLONE_NEWTIME, label="CLONE_NEWTIME")
    offsets = f"monotonic {step.monotonic_offset_s} 0\nboottime {step.boottime_offset_s} 0\n"
    low.write_file(Slot(low.slot("host-proc")), "self/timens_offsets", offsets)


def _forbid_namespaces(low: Lowering, step: ForbidNamespaces) -> None:
    low.write_file(Slot(low.slot("host-proc")), "sys/user/max_user_namespaces", str(step.allowed_users), tolerate=(errno.ENOENT,))


def _limit_watches(low: Lowering, step: LimitWatches) -> None:
    for name, allowed in (("instances", step.instances), ("watches", step.watches)):
        low.write_file(Slot(low.slot("host-proc")), f"sys/user/max_inotify_{name}", str(allowed), tolerate=(errno.ENOENT,))


def _clone_payload(low: Lowering, step: ClonePayload) -> None:
    low.clone(_clone_arguments(low, step.flags, 0, step.pid), low.slot("payload-pid"))


def _not_dumpable(low: Lowering, step: NotDumpable) -> None:
    low.call("prctl", uapi.PR_SET_DUMPABLE, 0, 0, 0, 0, label="PR_SET_DUMPABLE")


def _reap(low: Lowering, step: Reap) -> None:
    low.operate(Op.REAP, Slot(low.slot("payload-pid")), fds.CONTROL, low.record(Kind.EXITED), fds.STATUS, step.patience_ns, label="reap")


def _lower_step(low: Lowering, step: Step) -> None:
    match step:
        case NewSession():
            _new_session(low, step)
        case CloseFrom():
            close_from(low, step)
        case CloneInit():
            _clone_init(low, step)
        case Guard():
            _guard(low, step)
        case DieWithJanitor():
            _die_with_janitor(low, step)
        case ReportStarted():
            _report_started(low, step)
        case JoinCgroups():
            _join_cgroups(low, step)
        case OpenHostProc():
            _open_host_proc(low, step)
        case MapIds():
            _map_ids(low, step)
        case AwaitSupervisor():
            _await_supervisor(low, step)
        case BecomeIds():
            _become_ids(low, step)
        case DropGroups():
            _drop_groups(low, step)
        case LoopbackUp():
            _loopback_up(low, step)
        case SetHostname():
            _set_hostname(low, step)
        case NewTimeNamespace():
            _new_time_namespace(low, step)
        case ForbidNamespaces():
            _forbid_namespaces(low, step)
        case LimitWatches():
            _limit_watches(low, step)
        case ClonePayload():
            _clone_payload(low, step)
        case NotDumpable():
            _not_dumpable(low, step)
        case Reap():
            _reap(low, step)
        case _:
            raise InternalError(f"no rows for step `{type(step).__name__}`")
