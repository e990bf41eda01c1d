"""Profiles, policies and filters of a process that runs many sandboxes: made once, looked up again by the state of their files.

An entry is good while every file it was made of has the same inode, size and times; so an edit counts from the next run
on. Nothing is kept on disk here.
"""

from __future__ import annotations

import os
import time
from typing import TypeVar

from sandbox.policy.groups import groups_path
from sandbox.policy.load import load_policy
from sandbox.policy.locate import Kind, resolve
from sandbox.policy.profile_load import load_profile
from sandbox.seccomp.cache import load_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.abi.arch import Arch
    from sandbox.policy.model import SyscallPolicy
    from sandbox.policy.profile import Profile
    from sandbox.seccomp.filter import Filter

_Value = TypeVar("_Value")
State = tuple[tuple[str, int, int, int, int], ...]
_KEPT = 64
SETTLED_NS = 2_000_000_000
"""A file whose ctime is younger may have changed while it was read; coarser than any file system's clock."""

_policies: dict[str, tuple[State, SyscallPolicy]] = {}
_profiles: dict[str, tuple[State, Profile]] = {}
_plain: dict[int, tuple[SyscallPolicy, SyscallPolicy]] = {}
_filters: dict[tuple[int, Arch, bool], tuple[SyscallPolicy, Filter]] = {}


def recall_policy(name: str) -> SyscallPolicy:
    """Return a policy by name or path, from memory when its files are unchanged.

    The expensive checks of a policy's text are made when its filter is compiled, so they are not repeated here.
    """
    return _recall(
        _policies, "policies", name, lambda text: load_policy(text, check=False), lambda policy: (*policy.sources, str(groups_path()))
    )


def recall_without_emulation(policy: SyscallPolicy) -> SyscallPolicy:
    """Return `emulation.without_emulation` of a policy, the same object each time: filters are kept by it."""
    entry = _plain.get(id(policy))
    if entry is None or entry[0] is not policy:
        from sandbox.policy.emulation import without_emulation

        if len(_plain) >= _KEPT:
            _plain.clear()
        entry = _plain[id(policy)] = policy, without_emulation(policy)
    return entry[1]


def recall_profile(name: str) -> Profile:
    """Return a profile by name or path, from memory when its files are unchanged."""
    return _recall(_profiles, "profiles", name, load_profile, lambda profile: profile.sources)


def recall_filter(policy: SyscallPolicy, arch: Arch, *, notify: bool) -> Filter:
    """Return a policy's filter, from memory for the very object that `recall_policy` returned before.

    What else determines a filter (`cache_key`) does not change while a process lives. The policy is kept with it, so that its id stays its own.
    """
    key = (id(policy), arch, notify)
    entry = _filters.get(key)
    if entry is not None and entry[0] is policy:
        return entry[1]
    made = load_filter(policy, arch, notify=notify)
    if len(_filters) >= _KEPT:
        _filters.clear()
    _filters[key] = (policy, made)
    return made


def _recall(
    memory: dict[str, tuple[State, _Value]],
    kind: Kind,
    name: str,
    load: Callable[[str], _Value],
    sources: Callable[[_Value], tuple[str, ...]],
) -> _Value:
    path = os.path.abspath(resolve(name, kind))
    entry = memory.get(path)
    if entry is not None and entry[0] == source_state(tuple(item[0] for item in entry[0])):
        return entry[1]
    began_ns = time.time_ns()
    value = load(name)
    state = source_state(sources(value))
    # A file that changed while it was read has a young ctime; such a value is used but not kept.
    if all(item[4] < began_ns - SETTLED_NS for item in state):
        if len(memory) >= _KEPT:
            memory.clear()
        memory[path] = (state, value)
    return value


def source_paths(profile: Profile, policy: SyscallPolicy) -> tuple[str, ...]:
    """Return the files that a profile and a policy come from."""
    return tuple(dict.fromkeys((*profile.sources, *policy.sources, str(groups_path()))))


def source_state(paths: tuple[str, ...]) -> State:
    """Return what changes with an edit of these files: inode, size and times of each."""
    found = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            found.append((path, 0, 0, 0, 0))
            continue
        found.append((path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(found)
