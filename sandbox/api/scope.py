"""The scope of this process: asked of systemd once, at the first run that needs it, and used by all later ones.

There is one for each executor and for each state of the process that a child would inherit for good (ids, namespaces, root, rlimits): a process that
has changed its ids since must not start runs with the old ones. A fork makes its own. Nothing has to be closed: the anchor ends with the process, and systemd
removes the scope with its last member.
"""

from __future__ import annotations

import _thread
import atexit
import os

from sandbox.cgroup.systemd import ScopeOffer
from sandbox.cgroup.v2 import V2Backend
from sandbox.launch.anchor import Anchor
from sandbox.launch.spawn import executor_command
from sandbox.record import dataclass

_Key = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A place for runs, and who starts them in it."""

    backend: V2Backend
    anchor: Anchor


_lock = _thread.allocate_lock()
_scopes: dict[_Key, Scope] = {}


def open_scope(offer: ScopeOffer, executor: str) -> Scope:
    """Return this process's scope, made now if there is none.

    Args:
        offer: what `find_backend` found.
        executor: ``auto``, ``native`` or ``python``.

    Raises:
        SetupError: systemd refuses or does not answer, or the anchor cannot be started.
    """
    command = executor_command(executor)
    key = (*command, *_inherited())
    with _lock:
        scope = _scopes.get(key)
        if scope is not None:
            if scope.anchor.alive():
                return scope
            del _scopes[key]
            scope.anchor.close()
        anchor = Anchor(command, "sandbox-init")
        try:
            backend = offer.open(anchor.pid)
            backend.clear_way()
            anchor.settle()
        except BaseException:
            anchor.close()
            raise
        if not _scopes:
            atexit.register(close_scopes)  # a zombie would be left to whoever adopts our children
        scope = _scopes[key] = Scope(backend=backend, anchor=anchor)
        return scope


def close_scopes() -> None:
    """End this process's scopes; runs that go on in them are not harmed. For programs that want no idle child."""
    with _lock:
        while _scopes:
            _scopes.popitem()[1].anchor.close()


def _inherited() -> _Key:
    """What a child started now would inherit and a later change of ours would not reach."""
    found: list[object] = [*os.getresuid(), *os.getresgid(), *sorted(os.getgroups())]
    for path in ("/proc/self/ns/mnt", "/proc/self/ns/user", "/proc/self/ns/pid_for_children", "/proc/self/ns/net", "/proc/self/root/"):
        try:
            state = os.stat(path)
            found += [state.st_dev, state.st_ino]
        except OSError:
            found.append(None)
    try:
        with open("/proc/self/limits", "rb", buffering=0) as file:  # not all of them are set anew for a run
            found.append(file.read())
        with open("/proc/thread-self/status", "rb", buffering=0) as file:
            lines = file.read().splitlines()
        found += [line for line in lines if line.startswith((b"NoNewPrivs", b"Seccomp", b"CapEff", b"CapBnd"))]
    except OSError:
        pass
    return tuple(found)


def _after_fork() -> None:
    global _lock
    _lock = _thread.allocate_lock()  # a thread that is not here may have held it
    while _scopes:
        _scopes.popitem()[1].anchor.forget()


os.register_at_fork(after_in_child=_after_fork)
