"""A cgroup v2 subtree from the user's systemd: a transient scope with Delegate=yes around a process of ours.

The caller's process stays where it is; it may be a web server in a service of its own. The scope lives as long as a process is in it: `api` puts
a small one there, the anchor, which ends with the caller. Rootless callers only: root has the tree anyway.
Source: org.freedesktop.systemd1(5), StartTransientUnit; systemd's docs/CGROUP_DELEGATION.md.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping

from sandbox.cgroup import v2
from sandbox.cgroup.dbus import Bus, RefusedError, Writer, make_call
from sandbox.cgroup.files import check_run_id
from sandbox.cgroup.mounts import match_hierarchies, parse_memberships, parse_mountinfo
from sandbox.cgroup.run import GuardedNames, refuse_missing
from sandbox.errors import SetupError, UnsupportedError
from sandbox.policy.profile import Limits
from sandbox.record import dataclass

_TIMEOUT_S = 25.0
_SERIAL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class BusAddress:
    """Where systemd can be reached: the path of a socket (abstract with a leading NUL), a bus or systemd's own."""

    path: str
    direct: bool = False


def find_buses(environ: Mapping[str, str], uid: int, *, runtime: str = "/run/user") -> tuple[BusAddress, ...]:
    """Return the sockets at which the user's systemd may answer, the best first; nothing is connected.

    A socket, or a runtime directory, that belongs to neither the user nor root is left out: whoever made it could take our calls.

    Args:
        environ: where XDG_RUNTIME_DIR and DBUS_SESSION_BUS_ADDRESS are looked up.
        uid: whose systemd.
        runtime: where the users' runtime directories are.
    """
    found = [BusAddress(path=path) for path in _addresses(environ.get("DBUS_SESSION_BUS_ADDRESS", ""))]
    directories = [environ.get("XDG_RUNTIME_DIR", ""), f"{runtime}/{uid}"]
    for directory in dict.fromkeys(path for path in directories if os.path.isabs(path)):
        if _owner(directory, stat.S_IFDIR) == uid:
            found += [BusAddress(path=f"{directory}/bus"), BusAddress(path=f"{directory}/systemd/private", direct=True)]
    usable = [address for address in found if address.path.startswith("\0") or _owner(address.path, stat.S_IFSOCK) in (uid, 0)]
    return tuple(dict.fromkeys(sorted(usable, key=lambda address: address.direct)))


def delegated_controllers(point: str, uid: int) -> frozenset[str] | None:
    """Return the controllers that the user's manager has to give; None when that cannot be read.

    Args:
        point: where cgroup2 is mounted.
        uid: whose manager.
    """
    try:
        with open(f"{point}/user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers", "rb") as file:
            return frozenset(file.read().decode("ascii", "replace").split())
    except OSError:
        return None


class ScopeOffer:
    """A scope that can be had and is not there yet; what `find` returns, and what a dry run plans with.

    Args:
        buses: where to ask.
        point: where cgroup2 is mounted.
        controllers: what the scope will have.
    """

    name = "cgroup2"
    ready = False

    def __init__(self, buses: tuple[BusAddress, ...], point: str, controllers: frozenset[str]) -> None:
        self._buses = buses
        self._controllers = controllers
        self.provides = v2.provided(controllers)
        self.where = f"{point}/…/sandbox-PID-….scope"

    def reserve(self, run_id: str, limits: Limits) -> v2.V2Run:
        """Return a run that is only named; it cannot be made. See `Backend.reserve`."""
        refuse_missing(self.provides, limits, self.name)
        return v2.named_run(f"run-{check_run_id(run_id)}", self._controllers, limits)

    def guard(self, run_ids: tuple[str, ...]) -> GuardedNames:
        """Refuse: nothing is there yet."""
        raise UnsupportedError("a scope without an anchor", "cgroup", origin="cgroup")

    def create(self, run_id: str, limits: Limits) -> v2.V2Run:
        """Refuse: a scope needs a process in it, which `api` starts."""
        raise UnsupportedError("a scope without an anchor", "cgroup", origin="cgroup")

    def open(self, pid: int) -> v2.V2Backend:
        """Have systemd put `pid` into a new delegated scope and return the place for runs below it.

        Args:
            pid: a child of ours that does nothing but stay.

        Raises:
            SetupError: systemd is not there, refuses, or made something else than asked.
        """
        failure: SetupError | None = None
        for address in self._buses:
            try:
                return start_scope(address, pid)
            except RefusedError:
                raise
            except SetupError as error:
                failure = failure or error
        assert failure is not None
        raise failure


def start_scope(address: BusAddress, pid: int) -> v2.V2Backend:
    """Do what `ScopeOffer.open` says, at one address."""
    unit = f"sandbox-{os.getpid()}-{os.urandom(4).hex()}.scope"
    bus = Bus(address.path, direct=address.direct, timeout_s=_TIMEOUT_S)
    try:
        result = bus.start_job(scope_call(unit, pid, _SERIAL), _SERIAL)
    finally:
        bus.close()
    if result != "done":
        raise RefusedError(f"start `{unit}`", errno.EIO, step="cgroup", hint=f"systemd says: {result}; see `journalctl --user -u {unit}`")
    with open("/proc/self/mountinfo", "rb") as mounts, open(f"/proc/{pid}/cgroup", "rb") as members:
        hierarchies = match_hierarchies(parse_mountinfo(os.fsdecode(mounts.read())), parse_memberships(os.fsdecode(members.read())))
    base = next((hierarchy.own for hierarchy in hierarchies if hierarchy.version == 2), None)
    if base is None or os.path.basename(base) != unit:
        raise RefusedError(f"find `{unit}` below the cgroup2 mount", errno.ENOENT, step="cgroup", hint=f"the anchor is in `{base}`")
    try:
        with open(f"{base}/cgroup.controllers", "rb") as file:
            controllers = frozenset(v2.CONTROLLERS) & set(file.read().decode("ascii").split())
    except OSError as error:
        raise SetupError(f"read `{base}/cgroup.controllers`", error.errno or errno.EIO, step="cgroup") from None
    return v2.V2Backend(base, controllers, movable=frozenset({pid}))


def scope_call(unit: str, pid: int, serial: int) -> bytes:
    """Return the message: StartTransientUnit(name, "fail", properties, no auxiliary units)."""
    body = Writer()
    body.string(unit)
    body.string("fail")
    properties = Writer()
    for name, kind, value in (
        ("Description", "s", f"sandboxes of process {os.getpid()}"),
        ("PIDs", "au", pid),
        ("Delegate", "b", True),
        ("CollectMode", "s", "inactive-or-failed"),
    ):
        properties.align(8)
        properties.string(name)
        properties.signature(kind)
        if isinstance(value, str):
            properties.string(value)
        elif kind == "b":
            properties.number(int(value))
        else:
            properties.number(4)
            properties.number(int(value))
    # The array's content begins at a multiple of eight, as it did while it was made.
    body.array(8, bytes(properties.data))
    body.array(8, b"")
    return make_call(
        serial, "StartTransientUnit", destination="org.freedesktop.systemd1", path="/org/freedesktop/systemd1",
        interface="org.freedesktop.systemd1.Manager", signature="ssa(sv)a(sa(sv))", body=bytes(body.data),
    )  # fmt: skip


def _addresses(text: str) -> list[str]:
    """Return the unix sockets of a D-Bus address list: ``unix:path=/run/user/1000/bus,guid=…;unix:abstract=…``."""
    found = []
    for entry in text.split(";"):
        transport, _, rest = entry.partition(":")
        if transport != "unix":
            continue
        for pair in rest.split(","):
            key, _, value = pair.partition("=")
            value = _unescape(value)
            if key == "path" and value.startswith("/"):
                found.append(value)
            elif key == "abstract" and value:
                found.append("\0" + value)
    return found


def _unescape(text: str) -> str:
    """Undo the percent escapes of an address."""
    first, *rest = text.split("%")
    try:
        return first + "".join(chr(int(part[:2], 16)) + part[2:] for part in rest)
    except ValueError:
        return ""


def _owner(path: str, kind: int) -> int | None:
    """Return who owns a file of this kind; None when it is not there or of another."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_uid if stat.S_IFMT(state.st_mode) == kind else None
