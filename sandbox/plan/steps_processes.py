"""Steps that make, confine and run the three processes. Values only; `steps.py` says what a step is, `lower.py` makes rows of them."""

from __future__ import annotations

from sandbox.plan.steps_ids import CAPABILITIES
from sandbox.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """setsid(2): no controlling terminal, own process group; closes TIOCSTI and group signals (CVE-2017-5226)."""

    terminal: bool = False

    def describe(self) -> str:
        return "new session" + (", terminal of its own" if self.terminal else ", no terminal")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseFrom:
    """close_range(2) from `first` up: nothing the caller leaked gets in (CVE-2024-21626)."""

    first: int
    keep: tuple[int, ...] = ()

    def describe(self) -> str:
        return f"close every descriptor from {self.first}" + (f" but {', '.join(map(str, self.keep))}" if self.keep else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneInit:
    """clone3(2) of pid 1 into its namespaces."""

    flags: int
    names: tuple[str, ...]

    def describe(self) -> str:
        return "clone init into new namespaces: " + " ".join(self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """The janitor's wait: whatever ends first, kill init, reap it, report, remove cgroups and the run's entry among the running ones.

    `thaws` are files that take THAWED between the kill and the wait: on cgroup v1 a frozen init would never end. `entries` are removed last,
    in order. `held` are descriptors that it only keeps until it ends: locks of the run's volumes. With `server`, what is guarded is a server, whose
    runs' ends are waited for as well.
    """

    removals: tuple[tuple[int, str], ...]
    thaws: tuple[tuple[int, str], ...] = ()
    entries: tuple[tuple[int, str], ...] = ()
    held: tuple[int, ...] = ()
    server: bool = False

    def describe(self) -> str:
        names = ", ".join(f"`{name}`" for _, name in self.removals)
        entries = ", ".join(f"`{name}`" for _, name in self.entries)
        return (
            f"wait; kill {'the server' if self.server else 'init'} when the supervisor dies"
            + (
                "; thaw" + (" its runs, wait for their end" if self.server else " it")
                if self.thaws
                else "; wait for its runs"
                if self.server
                else ""
            )
            + (f"; hold {len(self.held)} locks of volumes" if self.held else "")
            + (f"; remove cgroups {names}" if names else "")
            + (f"; remove the entry {entries}" if entries else "")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DieWithJanitor:
    """PR_SET_PDEATHSIG on init."""

    def describe(self) -> str:
        return "init dies with the janitor"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportStarted:
    """First record: tells the supervisor init's pid by the message's credentials. A server that has no pid namespace is not pid 1 (`pid_one`)."""

    pid_one: bool = True

    def describe(self) -> str:
        return "report: init started" if self.pid_one else "report: server started"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinCgroups:
    """Write 0 to each cgroup.procs, (directory fd, path) pairs, then hide the path with a cgroup namespace."""

    files: tuple[tuple[int, str], ...]

    def describe(self) -> str:
        return "".join(f"join cgroup `{path}`, " for _, path in self.files) + "new cgroup namespace"


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitSupervisor:
    """Wait until the supervisor has written the id maps (root, a range) and made the cgroups.

    Both happen after the janitor lives, so that whatever was made is removed even if the supervisor dies here.
    """

    maps: bool
    cgroups: bool

    def describe(self) -> str:
        things = [name for name, wanted in (("id maps", self.maps), ("cgroups", self.cgroups)) if wanted]
        return f"wait for the supervisor to make {' and '.join(things)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopbackUp:
    def describe(self) -> str:
        return "bring loopback up"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetHostname:
    name: str

    def describe(self) -> str:
        return f"set host name `{self.name}`"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTimeNamespace:
    """unshare(CLONE_NEWTIME): the payload's monotonic and boot clocks begin near zero."""

    monotonic_offset_s: int
    boottime_offset_s: int

    def describe(self) -> str:
        return "new time namespace for the payload, clocks from zero"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForbidNamespaces:
    """/proc/sys/user/max_user_namespaces: room for the payload's own one, no more. Any other kind takes a capability, which only a new one would give."""

    allowed_users: int

    def describe(self) -> str:
        return "allow no further namespaces (user.max_user_namespaces)"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitWatches:
    """user.max_inotify_* of the outer user namespace: they are charged to the host's user (root's, when root calls) as well, who would have none left."""

    instances: int
    watches: int

    def describe(self) -> str:
        return f"allow {self.instances} inotify instances with {self.watches} watches (user.max_inotify_*)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClonePayload:
    """clone3(2) of the payload into an inner user namespace, whatever capability it has there: the mount namespace is the outer one's."""

    flags: int
    pid: int = 0
    """In its pid namespace; 0 is the next one."""

    def describe(self) -> str:
        number = f" as process {self.pid}" if self.pid else ""
        return "clone the payload" + number + (" into an inner user namespace: no right over any mount" if self.flags else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class NotDumpable:
    """PR_SET_DUMPABLE 0: nobody reads or traces init."""

    def describe(self) -> str:
        return "not dumpable"


@dataclass(frozen=True, slots=True, kw_only=True)
class CloexecFrom:
    """close_range(2, CLOEXEC): at execve only 0, 1, 2 are left."""

    first: int

    def describe(self) -> str:
        return f"mark every descriptor from {self.first} close-on-exec"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetScheduling:
    """sched_setattr(2): the policy and nice value of the caller's thread are not the run's; before the user namespace, in which nobody may lower a value."""

    policy: int
    nice: int

    def describe(self) -> str:
        return f"scheduling policy {'idle' if self.policy else 'other'}, nice {self.nice}, not the caller's"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetNice:
    """setpriority(2) of the payload; RLIMIT_NICE 0 keeps it there."""

    nice: int

    def describe(self) -> str:
        return f"nice {self.nice}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetIoPriority:
    """ioprio_set(2): class in the upper three bits, level in the lower; 0 means none, in place of the caller's."""

    value: int

    def describe(self) -> str:
        return f"io priority class {self.value >> 13}, level {self.value & 7}" if self.value else "no io priority of its own"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAffinity:
    """sched_setaffinity(2), read back: the kernel leaves out what it has not, without an error."""

    processors: tuple[int, ...]

    def describe(self) -> str:
        return f"only on processors {', '.join(map(str, self.processors))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLimit:
    """`or_less` leaves a limit that is lower and may not be raised."""

    resource: int
    name: str
    soft: int
    hard: int
    or_less: bool = False

    def describe(self) -> str:
        soft, hard = ("unlimited" if value == (1 << 64) - 1 else str(value) for value in (self.soft, self.hard))
        return f"{self.name} {soft}/{hard}" + (" or less" if self.or_less else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKeyring:
    """KEYCTL_JOIN_SESSION_KEYRING: keys are in no namespace and are inherited otherwise."""

    def describe(self) -> str:
        return "session keyring of its own"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferForOom:
    """oom_score_adj: when the host runs out of memory the payload goes before the user's programs.

    With `host`, written by the janitor before any namespace: a protected caller's -1000 would otherwise be the lowest value that the
    payload may go back to, and a memory limit without a victim is a livelock (proc_pid_oom_score_adj(5)).
    """

    score: int
    host: bool = False

    def describe(self) -> str:
        return f"oom_score_adj {self.score}" + (", not the caller's" if self.host else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class RestrictLandlock:
    """A second wall over the same paths: (path inside, access mask) pairs, and scopes."""

    handled: int
    scoped: int
    rules: tuple[tuple[str, int], ...]
    abi: int

    def describe(self) -> str:
        writable = [path for path, access in self.rules if access & 2]
        return f"Landlock (ABI {self.abi}): writable {', '.join(writable) or 'nothing'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetSignals:
    """Default actions, nothing blocked, umask 022: as a fresh login would have it."""

    def describe(self) -> str:
        return "default signal actions, none blocked, umask 022"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetWorkdir:
    path: str

    def describe(self) -> str:
        return f"change directory to `{self.path}`"


@dataclass(frozen=True, slots=True, kw_only=True)
class DropCapabilities:
    """All five sets empty, securebits locked. Without `bounding` that one is left: it limits what an execve gives, and only that.

    `keep` are numbers that stay, for the root of an image with a range of ids: what its execve gives uid 0 is these, and its other users nothing.
    """

    bounding: bool = True
    keep: tuple[int, ...] = ()

    def describe(self) -> str:
        if self.keep:
            names = {number: name for name, number in CAPABILITIES.items()}
            return f"drop all capabilities but {' '.join(names[number] for number in self.keep)}, lock securebits"
        return f"drop all capabilities ({'bounding, ' if self.bounding else ''}ambient, inheritable, permitted, effective), lock securebits"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoNewPrivileges:
    def describe(self) -> str:
        return "no_new_privs"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallFilter:
    """seccomp(2), always the last confinement; `listener` asks for the audit's notify fd."""

    bpf: bytes
    policy: str
    listener: bool
    wait_killable: bool = True

    def describe(self) -> str:
        return f"install filter of policy `{self.policy}` ({len(self.bpf) // 8} instructions)" + (
            ", denials to the audit" if self.listener else ""
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitGo:
    """Report READY, wait for the supervisor; the wall clock begins there."""

    def describe(self) -> str:
        return "report ready, wait for go"


@dataclass(frozen=True, slots=True, kw_only=True)
class Execute:
    path: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]

    def describe(self) -> str:
        return f"execute `{self.path}`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reap:
    """Pid 1's life; after `patience_ns` (0: never) it kills everything by itself, should the supervisor not have."""

    patience_ns: int = 0

    def describe(self) -> str:
        own = f", kill everything after {self.patience_ns // 1_000_000} ms" if self.patience_ns else ""
        return f"reap children, forward signals, end with the payload{own}"
