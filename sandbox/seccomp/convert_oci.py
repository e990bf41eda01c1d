"""OCI and Docker seccomp profiles as values: what one says, and what is left of it for one architecture, capability set and kernel.

Types, and the names that the two formats give to actions, operators and architectures. `convert_oci_read.py` makes them from JSON,
`convert_oci_write.py` writes such JSON. Pure; imported by the other `convert` modules and `seccomp.compile`.

Source: opencontainers/runtime-spec config-linux.md (Seccomp); moby/profiles seccomp/seccomp.go; containers/common pkg/seccomp.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.abi.arch import Arch
from sandbox.policy.model import Place
from sandbox.record import dataclass
from sandbox.seccomp import evaluate as bpf

RET_KILL_THREAD = 0
RET_TRACE = 0x7FF0_0000

ACTIONS: Mapping[str, int] = {
    "SCMP_ACT_KILL": RET_KILL_THREAD,  # libseccomp's old name for it
    "SCMP_ACT_KILL_THREAD": RET_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": bpf.RET_KILL_PROCESS,
    "SCMP_ACT_TRAP": bpf.RET_TRAP,
    "SCMP_ACT_ERRNO": bpf.RET_ERRNO,
    "SCMP_ACT_TRACE": RET_TRACE,
    "SCMP_ACT_ALLOW": bpf.RET_ALLOW,
    "SCMP_ACT_LOG": bpf.RET_LOG,
    "SCMP_ACT_NOTIFY": bpf.RET_USER_NOTIF,
}
"""Name → the filter's return value, without the number that ERRNO and TRACE carry."""

OPERATORS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
"""Without ``SCMP_CMP_``. MASKED_EQ compares with `value_two` what `value` masks."""

OCI_ARCH: Mapping[Arch, str] = {Arch.X86_64: "SCMP_ARCH_X86_64", Arch.AARCH64: "SCMP_ARCH_AARCH64"}
GO_ARCH: Mapping[Arch, str] = {Arch.X86_64: "amd64", Arch.AARCH64: "arm64"}
"""What `includes.arches` calls an architecture."""

CAPABILITIES = tuple(
    "CAP_" + name
    for name in (
        "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK "
        "IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP "
        "SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME "
        "SYS_TTY_CONFIG WAKE_ALARM"
    ).split()
)
"""Source: include/uapi/linux/capability.h."""

DOCKER_CAPABILITIES = tuple(
    "CAP_" + name
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE".split()
    )
)
"""What a container of Docker's has when nobody asks for more or less. Source: moby/moby daemon/pkg/oci/caps (DefaultCapabilities)."""

Kernel = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class OciArg:
    """One test: `op` (of `OPERATORS`) of the whole 64-bit register `index` and `value`."""

    index: int
    op: str
    value: int
    value_two: int
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OciRule:
    """One element of `syscalls`. `action` is a filter's return value with its number; `path` is as ``syscalls[3]``."""

    names: tuple[tuple[str, str], ...]
    """Each name and where it stands."""
    action: int
    args: tuple[OciArg, ...]
    place: Place
    path: str
    comment: str = ""
    include_arches: tuple[str, ...] = ()
    include_caps: tuple[str, ...] = ()
    include_kernel: Kernel | None = None
    exclude_arches: tuple[str, ...] = ()
    exclude_caps: tuple[str, ...] = ()
    exclude_kernel: Kernel | None = None

    @property
    def where(self) -> str:
        """Return the rule's place for an error."""
        return f"{self.place}, {self.path}"

    def applies(self, arch: Arch, capabilities: frozenset[str], kernel: Kernel) -> bool:
        """Tell whether the rule is there for a container.

        Args:
            arch: the machine's.
            capabilities: the container's bounding set, with ``CAP_``.
            kernel: version and major revision.
        """
        if GO_ARCH[arch] in self.exclude_arches or capabilities & set(self.exclude_caps):
            return False
        if self.exclude_kernel is not None and kernel >= self.exclude_kernel:
            return False
        if self.include_arches and GO_ARCH[arch] not in self.include_arches:
            return False
        return set(self.include_caps) <= capabilities and (self.include_kernel is None or kernel >= self.include_kernel)

    def variants(self) -> tuple[tuple[OciArg, ...], ...]:
        """Return the sets of tests that a runtime gives to libseccomp, each as a rule.

        One register cannot be tested twice in one rule of libseccomp's. Runtimes then make a rule of each test, so that *any* of them matches.
        Source: opencontainers/runc libcontainer/seccomp/seccomp_linux.go (matchCall).
        """
        indexes = [arg.index for arg in self.args]
        return (self.args,) if len(set(indexes)) == len(indexes) else tuple((arg,) for arg in self.args)


@dataclass(frozen=True, slots=True, kw_only=True)
class OciProfile:
    """A profile as read, or what `select` left of it. `architectures` are the OCI names; None when the profile does not say."""

    file: str
    default: int
    default_where: str
    rules: tuple[OciRule, ...]
    architectures: tuple[str, ...] | None
    sub_architectures: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()
