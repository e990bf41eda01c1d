"""Why a host refuses user namespaces, and the one command that changes it.

`gather_userns_facts` reads, `explain_userns_refusal` is pure. The launch path calls both only after a refusal; `doctor`
calls them always. Whoever may import `kernel` may import this module.
"""

from __future__ import annotations

import errno as _errno
import os
from collections.abc import Callable, Mapping

from sandbox.kernel import procfs
from sandbox.kernel.probe import parse_release
from sandbox.record import dataclass

_LIMITS = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
_LAYERED = frozenset({"overlay", "fuse.fuse-overlayfs", "aufs", "btrfs", "zfs"})  # what Docker's storage drivers mount
_PROFILE_DIRECTORY = "/etc/apparmor.d"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsernsFacts:
    """What decides whether this process may make a user namespace; None is a knob or label that this kernel lacks.

    `container` is one of ``docker podman kubernetes lxc nspawn flatpak snap container`` or empty. `unit` is the systemd
    service this process belongs to, or empty; `user_unit` tells that the user's own manager runs it. `exhausted` names the
    ``user.max_*_namespaces`` sysctls that are 0. `nested` tells that the process already is in a user namespace of its own.
    `executable` is what makes the namespace, `profile` the AppArmor profile file that grants it that, if one was found.
    """

    kernel: str = ""
    uid: int = 0
    unprivileged_userns_clone: int | None = None
    max_user_namespaces: int | None = None
    exhausted: tuple[str, ...] = ()
    apparmor_restrict: int | None = None
    apparmor_label: str | None = None
    selinux_enforcing: bool = False
    seccomp_mode: int = 0
    no_new_privs: bool = False
    container: str = ""
    unit: str = ""
    user_unit: bool = False
    chrooted: bool = False
    nested: bool = False
    uid_mapped: bool = True
    proc_masked: bool = False
    executable: str = ""
    profile: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why something was refused (`cause`) and what changes it (`fix`: a command or one sentence; empty when unknown)."""

    cause: str
    fix: str = ""


def gather_userns_facts(executable: str = "") -> UsernsFacts:
    """Read the facts about this process; never raises.

    Args:
        executable: absolute path of the program that makes the namespace, for AppArmor's profiles.
    """
    status = procfs.parse_status(procfs.read_text("/proc/self/status") or "")
    mounts = procfs.parse_mountinfo(procfs.read_bytes("/proc/self/mountinfo", 16 << 20) or b"")
    of_init = procfs.parse_mountinfo(procfs.read_bytes("/proc/1/mountinfo", 16 << 20) or b"")
    cgroup = procfs.read_text("/proc/self/cgroup") or ""
    limits = {name: procfs.read_sysctl(f"user/max_{name}_namespaces") for name in _LIMITS}
    restrict = procfs.read_sysctl("kernel/apparmor_restrict_unprivileged_userns")
    uid_map = procfs.read_text("/proc/self/uid_map") or ""
    return UsernsFacts(
        kernel=os.uname().release,
        uid=os.geteuid(),
        unprivileged_userns_clone=procfs.read_sysctl("kernel/unprivileged_userns_clone"),
        max_user_namespaces=limits["user"],
        exhausted=tuple(name for name, limit in limits.items() if limit == 0),
        apparmor_restrict=restrict,
        apparmor_label=read_apparmor_label(),
        selinux_enforcing=(procfs.read_text("/sys/fs/selinux/enforce") or "").strip() == "1",
        seccomp_mode=_number(status.get("Seccomp")),
        no_new_privs=status.get("NoNewPrivs") == "1",
        container=detect_container(cgroup, os.environ, os.path.exists, next((one.fs_type for one in mounts if one.mount_point == "/"), "")),
        unit=find_unit(cgroup),
        user_unit="/user@" in cgroup,
        chrooted=procfs.is_chrooted(mounts, of_init),
        nested=uid_map.split() != ["0", "0", "4294967295"],
        uid_mapped=_is_mapped(uid_map, os.geteuid()),
        proc_masked=not (verdict := procfs.judge_proc(mounts)).mountable or verdict.read_only,
        executable=executable,
        profile=find_apparmor_profile(executable) if restrict and executable else "",
    )


def explain_userns_refusal(errno: int, facts: UsernsFacts) -> Refusal:
    """Say why making a user namespace (or the first use of its capabilities) failed, most certain cause first.

    Args:
        errno: of clone(2), clone3(2), unshare(2), of writing uid_map, or of the first mount inside.
        facts: of the process that made the call.
    """
    blocked = facts.seccomp_mode == 2
    if errno == _errno.ENOSPC:
        return _explain_exhausted(facts)
    if errno == _errno.EUSERS:
        return Refusal(cause="user namespaces are nested too deep (32 levels)", fix="start it from outside the enclosing sandbox")
    if errno == _errno.EINVAL:
        return Refusal(
            cause="this kernel is built without user namespaces (CONFIG_USER_NS)",
            fix="boot a kernel with CONFIG_USER_NS=y, as every distribution's is",
        )
    if errno == _errno.EAGAIN:
        return Refusal(
            cause="the limit on processes is reached (RLIMIT_NPROC or pids.max)", fix="end other processes, or raise it: ulimit -u"
        )
    if errno == _errno.ENOMEM:
        return Refusal(cause="the kernel is out of memory, or pid 1 of this pid namespace has gone", fix="start it from a fresh shell")
    if errno == _errno.EROFS:
        cause = "/proc is mounted read-only, so that no ids can be mapped"
        return Refusal(cause=cause, fix=container_fix(facts) if facts.container else "sudo mount -o remount,rw /proc")
    if errno == _errno.ENOSYS and not blocked:
        if parse_release(facts.kernel) < (5, 3):
            return Refusal(cause=f"Linux {facts.kernel} has no clone3", fix="use Linux 5.13 or newer")
        return Refusal(
            cause="the call is refused as unknown; an emulated kernel (gVisor, WSL 1) does that",
            fix="use a real Linux kernel, 5.13 or newer",
        )
    if facts.chrooted:
        return Refusal(
            cause="the process runs in a chroot, where the kernel refuses user namespaces",
            fix="enter that tree with `systemd-nspawn -D DIR` or `bwrap --bind DIR / …` instead of chroot",
        )
    if facts.unprivileged_userns_clone == 0 and facts.uid != 0:
        return _outside(facts, "kernel.unprivileged_userns_clone", "1", "the sysctl kernel.unprivileged_userns_clone is 0")
    if blocked and facts.container:
        return Refusal(cause=f"the seccomp filter of {_container_name(facts)} refuses it", fix=container_fix(facts))
    if _restricted_by_apparmor(facts):
        return _explain_apparmor(facts)
    if blocked and facts.unit:
        return Refusal(
            cause=f"a seccomp filter refuses it, as RestrictNamespaces= of the unit {facts.unit} does",
            fix=f"systemctl {'--user ' if facts.user_unit else ''}edit {facts.unit}: `[Service]`, `RestrictNamespaces=no`; then restart it",
        )
    if blocked:
        return Refusal(
            cause="a seccomp filter of an enclosing sandbox or service refuses it",
            fix="start it outside of that sandbox, or allow clone, clone3, unshare and mount there",
        )
    if facts.apparmor_label and not facts.apparmor_label.startswith("unconfined"):
        if facts.container:
            return Refusal(cause=f"the AppArmor profile {facts.apparmor_label} refuses it", fix=container_fix(facts))
        return Refusal(
            cause=f"the AppArmor profile {facts.apparmor_label} refuses it",
            fix="add `userns, capability, mount, umount, pivot_root,` to that profile and reload it with apparmor_parser -r",
        )
    if facts.selinux_enforcing:
        return Refusal(
            cause="SELinux refuses it (class user_namespace)",
            fix="sudo ausearch -m AVC -ts recent | audit2allow -M sandbox-userns && sudo semodule -i sandbox-userns.pp",
        )
    if not facts.uid_mapped:
        return Refusal(cause=f"uid {facts.uid} is not mapped in the enclosing user namespace", fix="run as a uid that its uid_map contains")
    if facts.container:
        return Refusal(cause=f"{_container_name(facts)} refuses it", fix=container_fix(facts))
    return Refusal(cause="the kernel does not say why: perhaps a security module", fix="sudo dmesg | tail -n 20")


def userns_refusal_hint(errno: int, facts: UsernsFacts) -> str:
    """Return the hint line for a failed clone: cause, then fix.

    Args:
        errno: positive errno of the failed call.
        facts: from `gather_userns_facts`.
    """
    refusal = explain_userns_refusal(errno, facts)
    return f"{refusal.cause}; fix: {refusal.fix}" if refusal.fix else refusal.cause


def container_fix(facts: UsernsFacts) -> str:
    """Return the smallest set of options that lets a sandbox start in this container, by what stands in the way."""
    seccomp, masked = facts.seccomp_mode == 2, facts.proc_masked
    confined = bool(facts.apparmor_label) and not (facts.apparmor_label or "").startswith("unconfined")
    words: list[str] = []
    match facts.container:
        case "docker" | "podman":
            words += ["--security-opt seccomp=unconfined"] if seccomp else []
            words += ["--security-opt apparmor=unconfined"] if confined else []
            words += ["--security-opt label=disable"] if facts.selinux_enforcing else []
            if masked:
                words.append("--security-opt systempaths=unconfined" if facts.container == "docker" else "--security-opt unmask=/proc/*")
            return f"{facts.container} run {' '.join(words)} …" if words else ""
        case "kubernetes":
            words += ["seccompProfile: {type: Unconfined}"] if seccomp else []
            words += ["appArmorProfile: {type: Unconfined}"] if confined else []
            words += ["procMount: Unmasked"] if masked else []
            note = " and `hostUsers: false` in the pod" if masked else ""
            return f"in the container's securityContext: {', '.join(words)}{note}" if words else ""
        case "lxc":
            return "lxc config set NAME security.nesting=true && lxc restart NAME"
        case "nspawn":
            return "systemd-nspawn --system-call-filter=@mount --private-users=pick …"
        case "flatpak":
            return "flatpak-spawn --host sandbox …"
        case "snap":
            return "install it outside the snap, for example with pipx"
        case _:
            return "start the container without a seccomp filter and without masked /proc paths"


def apparmor_profile(executable: str) -> str:
    """Return the text of an AppArmor 4 profile that lets one executable make user namespaces and changes nothing else for it.

    Args:
        executable: absolute path; quotes, newlines and AppArmor's glob characters are escaped.

    Source: apparmor.d(5); kernel.apparmor_restrict_unprivileged_userns of Ubuntu 23.10 and later.
    """
    path = "".join("\\" + one if one in '*?[]{}^\\"' else one for one in executable if one.isprintable())
    return (
        "# Lets the sandbox make user namespaces although\n"
        "# kernel.apparmor_restrict_unprivileged_userns is 1. Whoever may write to the\n"
        "# file named below gains the same right: keep it owned by root.\n"
        "abi <abi/4.0>,\n"
        "include <tunables/global>\n"
        "\n"
        f'profile sandbox-init "{path}" flags=(unconfined) {{\n'
        "  userns,\n"
        "  include if exists <local/sandbox-init>\n"
        "}\n"
    )


def find_apparmor_profile(executable: str, directory: str = _PROFILE_DIRECTORY) -> str:
    """Return the file in `directory` whose profile names this executable and grants `userns`, or an empty string.

    Whether it is loaded only root can ask.
    """
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return ""
    for name in names:
        path = os.path.join(directory, name)
        text = procfs.read_text(path) if os.path.isfile(path) else None
        if text is None:
            continue
        rules = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        named = any(executable in line.split() or f'"{executable}"' in line for line in rules)
        if named and any(line.strip().startswith("userns") for line in rules):
            return path
    return ""


def read_apparmor_label() -> str | None:
    """Return this process's AppArmor label such as ``unconfined`` or ``docker-default (enforce)``; None without AppArmor."""
    if (procfs.read_text("/sys/module/apparmor/parameters/enabled", 16) or "N").strip() != "Y":
        return None
    text = procfs.read_text("/proc/self/attr/apparmor/current", 4096) or procfs.read_text("/proc/self/attr/current", 4096)
    return None if text is None else text.strip("\0\n")


def detect_container(cgroup: str, environ: Mapping[str, str], exists: Callable[[str], bool], root_type: str) -> str:
    """Name the kind of container this process runs in, or return an empty string.

    Args:
        cgroup: text of /proc/self/cgroup.
        environ: the environment, a mapping of text.
        exists: tells whether a path exists.
        root_type: file system type of "/"; a machine whose disk was made from an image keeps the image's /.dockerenv.
    """
    if environ.get("KUBERNETES_SERVICE_HOST") or exists("/var/run/secrets/kubernetes.io") or "/kubepods" in cgroup:
        return "kubernetes"
    if exists("/.flatpak-info"):
        return "flatpak"
    if environ.get("SNAP") and exists(f"{environ.get('SNAP')}/meta/snap.yaml"):
        return "snap"
    if exists("/run/.containerenv") or "/libpod-" in cgroup:
        return "podman"
    if (exists("/.dockerenv") and root_type in _LAYERED) or "/docker/" in cgroup or "/docker-" in cgroup:
        return "docker"
    said = environ.get("container") or ""
    for word, kind in (("nspawn", "nspawn"), ("lxc", "lxc"), ("podman", "podman"), ("docker", "docker")):
        if word in said:
            return kind
    if "/lxc/" in cgroup or "/lxc.payload" in cgroup:
        return "lxc"
    return "container" if said or exists("/run/systemd/container") else ""


def find_unit(cgroup: str) -> str:
    """Return the innermost systemd service named in /proc/self/cgroup's text, or an empty string; ``user@N.service`` does not count."""
    for line in cgroup.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers in ("", "name=systemd"):
            units = [part for part in path.split("/") if part.endswith(".service") and not part.startswith("user@")]
            if units:
                return units[-1]
    return ""


def _explain_exhausted(facts: UsernsFacts) -> Refusal:
    if facts.container == "flatpak":
        return Refusal(cause="Flatpak forbids namespaces inside its sandbox", fix=container_fix(facts))
    for name in facts.exhausted:
        return _outside(facts, f"user.max_{name}_namespaces", "16384", f"the sysctl user.max_{name}_namespaces is 0")
    if facts.nested:
        return Refusal(
            cause="an enclosing sandbox forbids more namespaces, or they are nested too deep (32 levels)",
            fix="start it outside of that sandbox",
        )
    return Refusal(cause="all namespaces this user may have are in use", fix="sudo sysctl -w user.max_user_namespaces=65536")


def _outside(facts: UsernsFacts, name: str, value: str, cause: str) -> Refusal:
    """A sysctl that only real root may set: in a container that is done on the machine around it.

    Those below ``user.`` belong to a user namespace: in a nested one an enclosing sandbox has set them.
    """
    if facts.nested and name.startswith("user."):
        return Refusal(cause=f"{cause} in the enclosing sandbox", fix="start it outside of that sandbox")
    fix = f"sudo sysctl -w {name}={value}"
    return Refusal(cause=cause, fix=f"on the machine that runs the container: {fix}" if facts.container else fix)


def _restricted_by_apparmor(facts: UsernsFacts) -> bool:
    label = facts.apparmor_label or ""
    return facts.apparmor_restrict == 1 and facts.uid != 0 and (label.startswith(("unconfined", "unprivileged_userns")) or not label)


def _explain_apparmor(facts: UsernsFacts) -> Refusal:
    cause = "AppArmor refuses it: kernel.apparmor_restrict_unprivileged_userns is 1"
    if facts.container:
        return _outside(facts, "kernel.apparmor_restrict_unprivileged_userns", "0", cause)
    if facts.profile:
        return Refusal(
            cause=f"{cause}, and the profile in {facts.profile} does not help: perhaps it is not loaded",
            fix=f"sudo apparmor_parser -r {facts.profile}",
        )
    path = _PROFILE_DIRECTORY + "/sandbox-init"
    return Refusal(cause=cause, fix=f"sandbox doctor --apparmor-profile | sudo tee {path} && sudo apparmor_parser -r {path}")


def _container_name(facts: UsernsFacts) -> str:
    return {"container": "this container", "kubernetes": "this Kubernetes pod"}.get(facts.container, f"this {facts.container} container")


def _is_mapped(uid_map: str, uid: int) -> bool:
    ranges = [line.split() for line in uid_map.splitlines()]
    return not ranges or any(len(one) == 3 and int(one[0]) <= uid < int(one[0]) + int(one[2]) for one in ranges)


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0
