"""Choose where this process may make cgroups, and say why or why not.

Pure probing: nothing is made, moved or written here, so `doctor` and a dry run may call it. In order: the subtree that SANDBOX_CGROUP
names (and then no other: an explicit wish is met or refused); on v2 our own delegated node, then the root's, for others a scope that systemd
is to make (`systemd.ScopeOffer`, opened by `api`); on v1 root's, then
one prepared for this user under the name ``sandbox-UID``. `api` and `cli doctor` import it.

Run directories that another process left are never touched: they carry its run id and it may be alive.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

from sandbox.cgroup import v1, v2
from sandbox.cgroup.files import parse_pids
from sandbox.cgroup.model import Backend, BackendReport
from sandbox.cgroup.mounts import Hierarchy, read_hierarchies
from sandbox.cgroup.run import CONTROLLER_OF

VARIABLE = "SANDBOX_CGROUP"

_TRANSIENT = re.compile(r"run-[a-z0-9-]+\.scope")  # systemd: src/run/run.c, make_unit_name; run-rHEX, run-uN, run-pN-iN

_Finding = tuple["Backend | None", str, str]  # backend, reason, fix


def find_backend(*, environ: Mapping[str, str] | None = None, proc: str = "/proc") -> Backend | None:
    """Return the best place for cgroups, or None; `explain_backend` says why.

    Args:
        environ: where SANDBOX_CGROUP is looked up; default `os.environ`.
        proc: where procfs is mounted.
    """
    return _choose(os.environ if environ is None else environ, proc)[0]


def explain_backend(*, environ: Mapping[str, str] | None = None, proc: str = "/proc") -> BackendReport:
    """Return which backend `find_backend` chooses and why, or why none and the command that gets one."""
    backend, reason, fix = _choose(os.environ if environ is None else environ, proc)
    if backend is None:
        return BackendReport(backend=None, provides=(), reason=reason, fix=fix)
    return BackendReport(backend=backend.name, provides=tuple(sorted(backend.provides)), reason=reason, fix=fix)


def _choose(environ: Mapping[str, str], proc: str) -> _Finding:
    hierarchies = read_hierarchies(proc)
    unified = next((hierarchy for hierarchy in hierarchies if hierarchy.version == 2), None)
    legacy = {controller: hierarchy for hierarchy in hierarchies if hierarchy.version == 1 for controller in hierarchy.controllers}
    named = environ.get(VARIABLE)
    if named:
        return _named(named, unified, legacy, proc)
    reasons = []
    for backend, reason in _automatic(unified, legacy, proc, environ):
        if backend is not None:
            return backend, reason, ""
        reasons.append(reason)
    return None, "; ".join(reasons) or "no cgroup hierarchy is mounted", _fix(unified, legacy)


def _automatic(
    unified: Hierarchy | None, legacy: dict[str, Hierarchy], proc: str, environ: Mapping[str, str]
) -> Iterator[tuple[Backend | None, str]]:
    root = os.geteuid() == 0
    if unified is not None:
        if unified.own is not None:
            yield _own_node(unified.own, unified.point, proc, need_mark=root)
        if root:
            yield _real_root(unified.point)
        else:
            yield _scope(unified.point, environ)
    if legacy:
        if root:
            bases = {controller: hierarchy.point for controller, hierarchy in legacy.items()}
            yield _legacy(bases, "sandbox-", "root on cgroup v1")
        else:
            bases = {name: os.path.join(hierarchy.point, f"sandbox-{os.geteuid()}") for name, hierarchy in legacy.items()}
            yield _legacy(bases, "run-", "cgroup v1 directories prepared for this user")


def _named(named: str, unified: Hierarchy | None, legacy: dict[str, Hierarchy], proc: str) -> _Finding:
    """Resolve SANDBOX_CGROUP: an absolute path below the v2 mount, or a path relative to every v1 hierarchy."""
    where = f"{VARIABLE}=`{named}`"
    if unified is not None:
        real = os.path.realpath(named)
        if os.path.isabs(named) and (real + "/").startswith(os.path.realpath(unified.point).rstrip("/") + "/"):
            backend, reason = _node(real, own=unified.own, point=unified.point, movable=None)
            return backend, f"{where}: {reason}", _fix(unified, legacy) if backend is None else ""
    if not legacy:
        return None, f"{where} is not below the cgroup2 mount", _fix(unified, legacy)
    relative = os.path.normpath(named.strip("/"))
    if relative in (".", "..") or relative.startswith("../"):
        return None, f"{where} does not name a directory below each cgroup v1 hierarchy", _fix(unified, legacy)
    bases = {controller: os.path.join(hierarchy.point, relative) for controller, hierarchy in legacy.items()}
    backend, reason = _legacy(bases, "run-", where)
    return backend, reason if backend else f"{where}: {reason}", _fix(unified, legacy) if backend is None else ""


def _legacy(bases: dict[str, str], prefix: str, why: str) -> tuple[Backend | None, str]:
    usable = {name: bases[name] for name in v1.CONTROLLERS if name in bases and _may_write(bases[name])}
    unusable = [f"`{bases[name]}` is not a writable directory" for name in v1.CONTROLLERS if name in bases and name not in usable]
    missing = [f"the controller `{name}` is not mounted" for name in v1.CONTROLLERS if name not in bases]
    if "cpuacct" not in usable or len(usable) < 2:
        return None, "cgroup v1: " + ", ".join(missing + unusable)
    usable |= {name: bases[name] for name in v1.OPTIONAL if name in bases and _may_write(bases[name])}
    if "cpuset" in usable and not all(_read(f"{usable['cpuset']}/cpuset.{name}").strip() for name in ("cpus", "mems")):
        del usable["cpuset"]  # prepared without processors: nobody could join below it
    return v1.V1Backend(usable, prefix), ", ".join([why, *missing, *unusable])


def _own_node(own: str, point: str, proc: str, *, need_mark: bool) -> tuple[Backend | None, str]:
    """Judge our own cgroup: ours when we are alone in it, or only our ancestors are with us and it was made for this command.

    Made for a command are nodes with systemd's delegation mark and the scopes of systemd-run. Processes of others, and a shell
    in a scope that its desktop made, are not moved: systemd owns such a node and may take the controllers away again,
    which would lift the limits in silence.
    """
    if os.path.basename(own) == v2.SUPERVISOR:
        return _node(os.path.dirname(own), own=own, point=point, movable=frozenset())
    if not os.path.exists(f"{own}/cgroup.type"):
        return None, f"`{own}` is the root cgroup"
    marked = _is_marked(own)
    if need_mark and not marked:
        return None, f"`{own}` is not marked as delegated"
    if not _may_write(own):
        return None, f"our cgroup `{own}` is not delegated to uid {os.geteuid()}"
    members = set(parse_pids(_read(f"{own}/cgroup.procs")))
    transient = _TRANSIENT.fullmatch(os.path.basename(own)) is not None
    allowed = {os.getpid()} | (_ancestors(proc) if marked or transient else set())
    if not members <= allowed:
        return None, v2.other_members_hint(f"{own}/cgroup.procs")
    return _node(own, own=own, point=point, movable=frozenset(allowed))


def _node(base: str, *, own: str | None, point: str, movable: frozenset[int] | None) -> tuple[Backend | None, str]:
    """Check that `base` can hold runs and that this process may move members there."""
    for path in (base, f"{base}/cgroup.subtree_control", f"{base}/cgroup.procs"):
        if not os.access(path, os.W_OK, effective_ids=True):
            return None, f"`{path}` is not writable for uid {os.geteuid()}"
    kind = _read(f"{base}/cgroup.type").strip()
    if kind not in ("domain", ""):  # the real root has no such file
        return None, f"`{base}` is a {kind} cgroup"
    controllers = frozenset(v2.CONTROLLERS) & set(_read(f"{base}/cgroup.controllers").split())
    if not controllers & v2.BASIC:
        return None, f"`{base}` has none of the controllers {', '.join(sorted(v2.BASIC))}"
    if own is None:
        return None, "our own cgroup is outside the cgroup2 mount"
    # Moving a process takes write access to the nearest common ancestor of where it was and where it goes.
    # Source: cgroup-v2.rst, Delegation Containment.
    common = os.path.commonpath([own, base])
    if not (common + "/").startswith(point.rstrip("/") + "/") or not os.access(f"{common}/cgroup.procs", os.W_OK, effective_ids=True):
        return None, f"`{common}/cgroup.procs`, the common ancestor of `{base}` and our cgroup, is not writable for uid {os.geteuid()}"
    if movable is None and own != base and kind and parse_pids(_read(f"{base}/cgroup.procs")):
        return None, f"`{base}` holds processes that are not ours to move"
    missing = sorted(v2.BASIC - controllers)
    note = f", without the controller {', '.join(missing)}" if missing else ""
    return v2.V2Backend(base, controllers, movable=movable), f"cgroup v2 node `{base}` is ours{note}"


def _real_root(point: str) -> tuple[Backend | None, str]:
    if os.path.exists(f"{point}/cgroup.type"):
        return None, f"`{point}` is a container's cgroup and may hold processes of others; set {VARIABLE}={point} to use it nevertheless"
    controllers = frozenset(v2.CONTROLLERS) & set(_read(f"{point}/cgroup.controllers").split())
    if not controllers & v2.BASIC:
        return None, f"the cgroup2 mount `{point}` has neither memory nor pids controller"
    if not _may_write(point):
        return None, f"`{point}` is not writable"
    return v2.V2Backend(point, controllers, shared="sandbox", movable=frozenset()), f"root on cgroup v2, below `{point}/sandbox`"


def _scope(point: str, environ: Mapping[str, str]) -> tuple[Backend | None, str]:
    """Judge whether the user's systemd can give us a scope; nobody is asked yet."""
    available = set(_read(f"{point}/cgroup.controllers").split())
    if not v2.BASIC & available:
        return None, f"the cgroup2 mount `{point}` has neither memory nor pids controller"
    from sandbox.cgroup.systemd import ScopeOffer, delegated_controllers, find_buses

    uid = os.geteuid()
    buses = find_buses(environ, uid)
    if not buses:
        return None, f"no systemd of uid {uid} to ask for a scope: no bus in XDG_RUNTIME_DIR, DBUS_SESSION_BUS_ADDRESS or /run/user/{uid}"
    delegated = delegated_controllers(point, uid)
    controllers = frozenset(v2.CONTROLLERS) & (v2.BASIC if delegated is None else delegated)
    if not controllers & v2.BASIC:
        return None, f"systemd delegates neither memory nor pids to uid {uid}"
    return ScopeOffer(buses, point, controllers), f"a transient scope of the user's systemd, with {', '.join(sorted(controllers))}"


def manual_fix() -> str:
    """Return the command that gets a delegated subtree without our asking, for where asking fails."""
    return "systemd-run --user --scope -p Delegate=yes COMMAND"


def _fix(unified: Hierarchy | None, legacy: dict[str, Hierarchy]) -> str:
    """Return the command that gets a backend, by what is in the way."""
    uid = os.geteuid()
    if unified is not None and v2.BASIC & set(_read(f"{unified.point}/cgroup.controllers").split()):
        if os.statvfs(unified.point).f_flag & os.ST_RDONLY:
            # As container engines mount it; no command inside changes that.
            return f"start the container with `{unified.point}` writable, as `podman run --security-opt unmask={unified.point}` does"
        if os.path.isdir("/run/systemd/system") and uid:
            if os.path.exists(f"/run/user/{uid}/systemd/private"):
                return manual_fix()
            # No manager runs for this user: nobody has logged in, or it was by su or sudo.
            return f"sudo loginctl enable-linger {uid}"
        base = f"{unified.point}/sandbox-{uid}"
        return (
            f"sudo sh -c 'cd {unified.point} && echo +memory +pids > cgroup.subtree_control; mkdir -p {base}/{v2.SUPERVISOR} && "
            f"chown -R {uid} {base} && echo '$$' > {base}/{v2.SUPERVISOR}/cgroup.procs'"
        )
    points = sorted({legacy[name].point for name in (*v1.CONTROLLERS, *v1.OPTIONAL) if name in legacy})
    if not points or uid == 0:
        return ""
    fill = ""
    if "cpuset" in legacy:
        point = legacy["cpuset"].point
        fill = f" && for f in cpuset.cpus cpuset.mems; do cat {point}/$f > {point}/sandbox-{uid}/$f; done"
    return f"sudo sh -c 'for d in {' '.join(points)}; do mkdir -p $d/sandbox-{uid} && chown {uid} $d/sandbox-{uid}; done{fill}'"


def controllers_fix(missing: set[str] | frozenset[str]) -> str:
    """Return the command that has systemd delegate the controllers of these profile keys, empty where that is not the way.

    Source: systemd's docs/CGROUP_DELEGATION.md; user@.service delegates cpu, memory and pids unless told otherwise.
    """
    wanted = sorted({CONTROLLER_OF[key] for key in missing if key in CONTROLLER_OF} - v2.BASIC)
    if not wanted or not os.path.isdir("/run/systemd/system") or os.geteuid() == 0:
        return ""
    return (
        'sudo sh -c \'mkdir -p /etc/systemd/system/user@.service.d && printf "[Service]\\nDelegate=cpu cpuset io memory pids\\n" '
        "> /etc/systemd/system/user@.service.d/delegate.conf && systemctl daemon-reload'"
    )


def _may_write(path: str) -> bool:
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK, effective_ids=True)


def _is_marked(path: str) -> bool:
    """Whether systemd's delegation mark is set; its absence proves nothing (systemd 252 sets none on user scopes)."""
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(path, name) == b"1":
                return True
        except OSError:
            continue
    return False


def _ancestors(proc: str) -> set[int]:
    found: set[int] = set()
    pid = os.getppid()
    while pid > 0 and pid not in found:
        found.add(pid)
        # The command name may hold spaces and parentheses; the last ")" ends it.
        fields = _read(f"{proc}/{pid}/stat").rpartition(")")[2].split()
        pid = int(fields[1]) if len(fields) > 1 and fields[1].isdecimal() else 0
    return found


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return os.fsdecode(file.read())
    except OSError:
        return ""
