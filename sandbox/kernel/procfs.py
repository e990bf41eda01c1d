"""Read and understand text from procfs: mount tables, sysctls, `status`, and /etc/subuid's like.

The parsers and the judgements on them are pure, so that tables of foreign hosts can test them; the readers never raise
for a file that is missing or forbidden. What is tried in the kernel lives in `probe_deep`. Whoever may import `kernel`
may import this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sandbox.record import dataclass

# Directories that the kernel keeps empty for ever as mount points: to cover them hides nothing.
# Source: fs/proc/root.c proc_root_init(), register_sysctl_mount_point() in fs/binfmt_misc.c
_PERMANENTLY_EMPTY = frozenset({"/fs/nfsd", "/sys/fs/binfmt_misc", "/openprom"})
_ATIME_OPTIONS = frozenset({"noatime", "nodiratime", "relatime"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of /proc/PID/mountinfo; see proc_pid_mountinfo(5).

    `options` are those of the mount, `super_options` those of the file system below it.
    """

    mount_id: int
    parent_id: int
    root: str
    mount_point: str
    options: frozenset[str]
    fs_type: str
    super_options: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcVerdict:
    """Whether a fresh procfs may be mounted in a new user and pid namespace, and what stands against it.

    `read_only` and `atime` are what the new mount must ask for (mount options; mostly ``relatime``);
    `covers` are the mounts that hide a part of the outer /proc.
    """

    mountable: bool
    read_only: bool = False
    atime: str = "relatime"
    reason: str = ""
    covers: tuple[str, ...] = ()


def read_text(path: str, maximum: int = 1 << 20) -> str | None:
    """Return the start of a file (at most `maximum` bytes) as text, or None where it cannot be read."""
    data = read_bytes(path, maximum)
    return None if data is None else data.decode("utf-8", "surrogateescape")


def read_bytes(path: str, maximum: int = 1 << 20) -> bytes | None:
    """Return the start of a file (at most `maximum` bytes), or None where it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            parts = []
            while maximum > 0 and (part := file.read(maximum)):
                parts.append(part)
                maximum -= len(part)
            return b"".join(parts)
    except OSError:
        return None


def read_sysctl(name: str) -> int | None:
    """Return the number in /proc/sys, or None where this kernel has no such knob.

    Args:
        name: with slashes, e.g. ``user/max_user_namespaces``.
    """
    text = read_text("/proc/sys/" + name, 4096)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def parse_mountinfo(data: bytes) -> tuple[Mount, ...]:
    """Parse mountinfo; lines that do not fit the format are skipped.

    Source: proc_pid_mountinfo(5); fs/proc_namespace.c show_mountinfo().
    """
    mounts = []
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        fields = line.split(" ")
        try:
            # the optional fields between the options and "-" vary in number
            dash = fields.index("-", 6)
            mounts.append(
                Mount(
                    mount_id=int(fields[0]),
                    parent_id=int(fields[1]),
                    root=_unescape(fields[3]),
                    mount_point=_unescape(fields[4]),
                    options=frozenset(fields[5].split(",")),
                    fs_type=fields[dash + 1],
                    super_options=frozenset(fields[dash + 3].split(",")),
                )
            )
        except (ValueError, IndexError):
            continue
    return tuple(mounts)


def select_lines(data: bytes) -> bytes:
    """Keep the lines that `judge_proc` and `is_root_pivotable` look at, so that a host with thousands of mounts costs little."""
    lines = data.split(b"\n")
    procs = {line.split(b" ", 1)[0] for line in lines if b" - proc " in line}
    kept = []
    for line in lines:
        fields = line.split(b" ", 5)
        if b" - proc " in line or (fields[1:2] and fields[1] in procs) or fields[4:5] == [b"/"]:
            kept.append(line)
    return b"\n".join(kept)


def judge_proc(mounts: Sequence[Mount]) -> ProcVerdict:
    """Say whether the kernel would let a new user namespace mount a fresh procfs, from the mounts that it inherits.

    The kernel refuses it with EPERM ("mount too revealing") unless some procfs is visible whole: mounted from its root, with no
    mount below it that covers anything but a permanently empty directory. Every inherited mount is locked in the new namespace, so each
    one counts. The new mount may not be more permissive: read-only if that one is, and with the same atime mode.

    Args:
        mounts: those of the mount namespace from which the new one is cloned.

    Source: fs/namespace.c mount_too_revealing(), mnt_already_visible(), lock_mnt_tree().
    """
    procs = [mount for mount in mounts if mount.fs_type == "proc"]
    if not procs:
        return ProcVerdict(mountable=False, reason="no procfs is mounted")
    covers: list[str] = []
    partial = False
    visible: list[Mount] = []
    for proc in procs:
        if proc.root != "/":
            partial = True
            continue
        above = [
            mount.mount_point
            for mount in mounts
            if mount.parent_id == proc.mount_id and mount is not proc and not _hides_nothing(mount, proc)
        ]
        if above:
            covers += above
        else:
            visible.append(proc)
    if not visible:
        if covers:
            return ProcVerdict(mountable=False, reason="mounts cover a part of it", covers=tuple(dict.fromkeys(covers)))
        return ProcVerdict(mountable=False, reason="only a part of it is mounted" if partial else "none is visible whole")
    # the most permissive one first: it is enough that one of them allows the new mount
    best = min(visible, key=lambda proc: (_is_read_only(proc), _atime(proc) != "relatime"))
    read_only = _is_read_only(best)
    return ProcVerdict(
        mountable=True, read_only=read_only, atime=_atime(best), reason="read-only only, as the outer one is" if read_only else ""
    )


def is_root_pivotable(mounts: Sequence[Mount]) -> bool:
    """Whether pivot_root(2) can work here: False where "/" is the initial rootfs, which has no parent mount.

    On a booted system "/" lies on top of the initial rootfs; running from an initramfs (or as Unraid does) it is that rootfs,
    and mountinfo shows it as its own parent. Also in a copy of such a mount namespace.

    Source: pivot_root(2) EINVAL; fs/namespace.c path_pivot_root(), mnt_has_parent().
    """
    return not any(mount.mount_point == "/" and mount.mount_id == mount.parent_id for mount in mounts)


def is_chrooted(own: Sequence[Mount], of_init: Sequence[Mount]) -> bool:
    """Whether this process has been chrooted, judged from two mount tables.

    mountinfo lists what is below the reader's root: where that root is no mount point nothing is listed at "/"; where it is one, pid 1
    sees the same mount at another place.

    Args:
        own: of /proc/self/mountinfo.
        of_init: of /proc/1/mountinfo; empty where it cannot be read.
    """
    if not own:
        return False
    at_root = {mount.mount_id for mount in own if mount.mount_point == "/"}
    if not at_root:
        return True
    elsewhere = {mount.mount_id for mount in of_init if mount.mount_point != "/"}
    return bool(at_root & elsewhere)


def parse_status(text: str) -> Mapping[str, str]:
    """Parse /proc/PID/status into its fields, values stripped."""
    return {name: value.strip() for name, colon, value in (line.partition(":") for line in text.splitlines()) if colon}


def parse_subids(text: str, names: Iterable[str]) -> tuple[tuple[int, int], ...]:
    """Return the (first id, count) ranges that /etc/subuid or /etc/subgid gives to a user.

    Args:
        text: the file's text; lines ``name-or-uid:first:count``, see subuid(5).
        names: the user's login name and decimal uid.
    """
    wanted = set(names)
    ranges = []
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[0] in wanted and fields[1].isdecimal() and fields[2].isdecimal() and int(fields[2]) > 0:
            ranges.append((int(fields[1]), int(fields[2])))
    return tuple(ranges)


def _unescape(text: str) -> str:
    """Undo seq_path's escapes: a space, tab, newline, backslash or hash comes as three octal digits."""
    if "\\" not in text:
        return text
    head, *rest = text.split("\\")
    for part in rest:
        digits = part[:3]
        octal = len(digits) == 3 and all(digit in "01234567" for digit in digits)
        head += chr(int(digits, 8)) + part[3:] if octal else "\\" + part
    return head


def _hides_nothing(mount: Mount, proc: Mount) -> bool:
    below = mount.mount_point[len(proc.mount_point.rstrip("/")) :]
    return below in _PERMANENTLY_EMPTY


def _is_read_only(mount: Mount) -> bool:
    return "ro" in mount.options or "ro" in mount.super_options


def _atime(mount: Mount) -> str:
    return ",".join(sorted(mount.options & _ATIME_OPTIONS)) or "strictatime"
