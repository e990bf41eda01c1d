"""Which host ids a run uses, and writing the maps that init cannot write itself.

An ordinary user's single-id map is written by init. Root's payload gets an unprivileged host id that no login and no
other run has; ranges go through newuidmap(1)/newgidmap(1). May import kernel and plan only.
"""

from __future__ import annotations

import os

from sandbox.errors import SetupError, UnsupportedError

_LOWEST, _HIGHEST = 0x70000000, 0x7FFFFFFF  # above systemd's dynamic, container and nspawn ranges (UIDS-GIDS of systemd.io)
_TRIES = 64
_PROGRAMS = ("/usr/bin/unshare", "/bin/unshare")
_ECHO = ("/bin/cat", "/usr/bin/cat")


class HostId:
    """An unprivileged host id that belongs to one run until `close`.

    The claim is a bound abstract socket: it vanishes with the process, leaves no file, and cannot be bound twice.
    """

    __slots__ = ("_socket", "number")

    def __init__(self, number: int, claim: object) -> None:
        self.number = number
        self._socket = claim

    def close(self) -> None:
        """Give the id back."""
        claim, self._socket = self._socket, None
        if claim is not None:
            claim.close()  # type: ignore[attr-defined]


def claim_host_id() -> HostId:
    """Claim an id that nobody else uses.

    Raises:
        UnsupportedError: our own user namespace maps too few ids (root of a small container).
        SetupError: no free id was found.
    """
    import _socket

    low, high = _claimable_range()
    for _ in range(_TRIES):
        number = low + int.from_bytes(os.urandom(8)) % (high - low + 1)
        claim = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC, 0)
        try:
            claim.bind(f"\0sandbox-uid-{number}")
        except OSError:
            claim.close()
            continue
        return HostId(number, claim)
    raise SetupError("claim a host uid for the run", 11, step=f"ids {low} to {high}")


def _claimable_range() -> tuple[int, int]:
    with open("/proc/self/uid_map", encoding="ascii") as file:
        extents = [tuple(int(word) for word in line.split()) for line in file]
    best = (0, -1)
    for inside, _, count in extents:
        low, high = max(inside, 1), inside + count - 1
        if low <= _LOWEST and high >= _HIGHEST:
            return _LOWEST, _HIGHEST
        # Inside a container: the upper half of what is mapped, away from system and login users.
        low = max(low, 10_000, inside + count // 2)
        high = min(high, 0xFFFFFFFE)
        if high - low > best[1] - best[0]:
            best = (low, high)
    if best[1] - best[0] < 16:
        raise UnsupportedError(
            "unprivileged ids in our own user namespace", "root", reason="/proc/self/uid_map maps too few ids",
            hint="run as an ordinary user, or give the outer container at least 65536 ids",
        )  # fmt: skip
    return best


def write_maps(pid: int, *, inside_uid: int, inside_gid: int, outside: int) -> None:
    """Write single-id maps of another process's user namespace; needs CAP_SETUID in ours.

    Raises:
        SetupError: a write failed.
    """
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{inside_uid} {outside} 1\n"),
        ("gid_map", f"{inside_gid} {outside} 1\n"),
    ):
        path = f"/proc/{pid}/{name}"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise SetupError(f"write `{text.strip()}` to `{path}`", error.errno or 0, step="id map of a root run") from None


def subordinate_range(path: str, user: str, uid: int) -> tuple[int, int] | None:
    """Return (first, count) of the first range that /etc/subuid or /etc/subgid gives a user.

    Source: subuid(5).
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                words = line.strip().split(":")
                if len(words) == 3 and words[0] in (user, str(uid)) and words[1].isdecimal() and words[2].isdecimal():
                    return int(words[1]), int(words[2])
    except FileNotFoundError:
        return None
    return None


def range_extents(table: str, user: str, uid: int, inside: int, outside: int) -> tuple[tuple[int, int, int], ...]:
    """Return (inside, outside, count) of a map of ids 0 to 65535: one id to the caller's own, the others to the subordinate range; empty without one.

    Args:
        table: /etc/subuid or /etc/subgid.
        user: the caller's name.
        uid: the caller's uid.
        inside: the id that the caller's own has inside.
        outside: the caller's own id.
    """
    found = subordinate_range(table, user, uid)
    if found is None:
        return ()
    first, count = found
    extents = [(0, first, min(inside, count)), (inside, outside, 1)]
    if count > inside:
        extents.append((inside + 1, first + inside, min(count, 65535) - inside))
    return tuple(extent for extent in extents if extent[2] > 0)


def inner_extents(uid: int, inside_uid: int, inside_gid: int) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    """Return (first, count) of what is mapped by `write_range_maps`, of uids and gids: a namespace below may map each extent, but not two as one."""
    uids, gids = outer_extents(uid, inside_uid, inside_gid)
    return tuple((first, count) for first, _, count in uids), tuple((first, count) for first, _, count in gids)


def outer_extents(uid: int, inside_uid: int, inside_gid: int) -> tuple[tuple[tuple[int, int, int], ...], tuple[tuple[int, int, int], ...]]:
    """Return (first inside, first outside, count) of what `write_range_maps` maps, of uids and gids."""
    import pwd

    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    uids = range_extents("/etc/subuid", user, uid, inside_uid, uid)
    return uids, range_extents("/etc/subgid", user, uid, inside_gid, os.getegid())


def write_range_maps(pid: int, *, inside_uid: int, inside_gid: int, uid: int, gid: int, user: str) -> None:
    """Map ids 0 to 65535 through newuidmap and newgidmap: the payload's own id to the caller, the others to the subordinate range.

    Raises:
        UnsupportedError: the tools or the /etc/subuid entry are missing.
        SetupError: a tool failed (also: no_new_privs takes their privilege away).
    """
    for tool, table, inside, outside in (
        ("newuidmap", "/etc/subuid", inside_uid, uid),
        ("newgidmap", "/etc/subgid", inside_gid, gid),
    ):
        extents = range_extents(table, user, uid, inside, outside)
        if not extents:
            raise UnsupportedError(
                f"a range of ids for `{user}` in {table}",
                "namespaces.ids",
                hint=f"as root: `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}`",
            )
        words = [str(number) for extent in extents for number in extent]
        program = next(
            (path for directory in ("/usr/bin", "/bin", "/usr/local/bin") if os.access(path := f"{directory}/{tool}", os.X_OK)), None
        )
        if program is None:
            raise UnsupportedError(tool, "namespaces.ids", hint="as root: `apt-get install uidmap`")
        child = os.posix_spawn(program, [tool, str(pid), *words], {"PATH": "/usr/bin:/bin"})
        _, status = os.waitpid(child, 0)
        if status:
            raise SetupError(
                f"{tool} {pid} {' '.join(words)}",
                1,
                step="id range",
                hint="newuidmap needs its setuid bit: no_new_privs or `nosuid` takes it away",
            )


def make_namespace(inside: int, outside: int) -> int:
    """Make a user namespace that maps one id, for mounts of root's files as the run's; the caller owns the descriptor.

    Of a process that only lives to have it: our own has threads, which may not enter one.

    Args:
        inside: the id of the files on the disk.
        outside: the host id that they shall have.

    Raises:
        UnsupportedError: unshare(1) is missing.
        SetupError: it cannot be made.
    """
    program = next((path for path in _PROGRAMS if os.access(path, os.X_OK)), None)
    echo = next((path for path in _ECHO if os.access(path, os.X_OK)), None)
    if program is None or echo is None:
        raise UnsupportedError("unshare(1)", "root", reason="root's runs need an id map for what they write to", hint="install util-linux")
    ends: list[int] = []
    child = 0
    try:
        for _ in range(2):
            ends += os.pipe2(os.O_CLOEXEC)
        in_r, in_w, out_r, out_w = ends
        actions = [(os.POSIX_SPAWN_DUP2, in_r, 0), (os.POSIX_SPAWN_DUP2, out_w, 1)]
        child = os.posix_spawn(program, ["unshare", "--user", "--", echo], {}, file_actions=actions)
        for fd in (in_r, out_w):
            ends.remove(fd)
            os.close(fd)
        # What comes back has passed through the new namespace.
        os.write(in_w, b"x")
        if os.read(out_r, 1) != b"x":
            raise SetupError("make a user namespace for an id map", 1, step="id map of a mount")
        write_maps(child, inside_uid=inside, inside_gid=inside, outside=outside)
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in ends:
            os.close(fd)
        if child:
            try:
                os.waitpid(child, 0)
            except ChildProcessError:
                pass  # the caller's own SIGCHLD handling was faster
