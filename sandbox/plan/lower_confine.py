"""Rows of what confines the payload, in the order of its section: scheduling, limits, keyring, Landlock, capabilities, filter; then GO and execve. Pure."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from sandbox.abi import uapi
from sandbox.plan import fds
from sandbox.plan.codec import Flag, Ref, Slot
from sandbox.plan.steps import (
    AwaitGo,
    CloexecFrom,
    DropCapabilities,
    Execute,
    InstallFilter,
    NewKeyring,
    NoNewPrivileges,
    PreferForOom,
    ResetScheduling,
    ResetSignals,
    RestrictLandlock,
    SetAffinity,
    SetIoPriority,
    SetLimit,
    SetNice,
    SetWorkdir,
    Step,
)

if TYPE_CHECKING:
    from sandbox.plan.lower import Lowering
_RECORD_A = 8
_LEFT_IGNORED = (32, 33)  # glibc's own two, which posix_spawn(3) sets to be ignored whatever it is asked (spawni.c)


def lower_confine_step(low: Lowering, step: Step) -> bool:
    """Add the rows of such a step; False when it is another's."""
    match step:
        case CloexecFrom():
            _cloexec_from(low, step)
        case ResetScheduling():
            _reset_scheduling(low, step)
        case SetNice():
            _set_nice(low, step)
        case SetIoPriority():
            _set_io_priority(low, step)
        case SetAffinity():
            _set_affinity(low, step)
        case SetLimit():
            _set_limit(low, step)
        case NewKeyring():
            _new_keyring(low, step)
        case PreferForOom():
            _prefer_for_oom(low, step)
        case RestrictLandlock():
            _restrict_landlock(low, step)
        case ResetSignals():
            _reset_signals(low, step)
        case SetWorkdir():
            _set_workdir(low, step)
        case DropCapabilities():
            _drop_capabilities(low, step)
        case NoNewPrivileges():
            _no_new_privileges(low, step)
        case InstallFilter():
            _install_filter(low, step)
        case AwaitGo():
            _await_go(low, step)
        case Execute():
            _execute(low, step)
        case _:
            return False
    return True


def _cloexec_from(low: Lowering, step: CloexecFrom) -> None:
    low.call("close_range", step.first, 0xFFFFFFFF, 4, label="CLOEXEC")


def _reset_scheduling(low: Lowering, step: ResetScheduling) -> None:
    attributes = low.builder.blob(struct.pack("<IIQiIQQQ", 48, step.policy, 0, step.nice, 0, 0, 0, 0))
    low.call("sched_setattr", 0, attributes, 0, label=f"policy {step.policy}, nice {step.nice}")


def _set_nice(low: Lowering, step: SetNice) -> None:
    low.call("setpriority", 0, 0, step.nice, label=f"nice {step.nice}")


def _set_io_priority(low: Lowering, step: SetIoPriority) -> None:
    low.call("ioprio_set", 1, 0, step.value, label=f"{step.value}")


def _set_affinity(low: Lowering, step: SetAffinity) -> None:
    words = [0] * (1 + max(step.processors) // 64)
    for number in step.processors:
        words[number // 64] |= 1 << number % 64
    mask = low.builder.blob(struct.pack(f"<{len(words)}Q", *words))
    found = low.builder.reserve(1024)
    low.call("sched_setaffinity", 0, 8 * len(words), mask)
    low.call("sched_getaffinity", 0, 1024, found)
    for index, word in enumerate(words):
        low.expect(Ref(found.offset + 8 * index), 8, 0xFFFFFFFFFFFFFFFF, word, errno.EINVAL, "every processor that was asked for")


def _set_limit(low: Lowering, step: SetLimit) -> None:
    pair = low.builder.blob(struct.pack("<QQ", step.soft, step.hard))
    low.call("prlimit64", 0, step.resource, pair, 0, tolerate=(errno.EPERM,) if step.or_less else (), label=step.name)


def _new_keyring(low: Lowering, step: NewKeyring) -> None:
    low.call("keyctl", uapi.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0, label="JOIN_SESSION_KEYRING")


def _prefer_for_oom(low: Lowering, step: PreferForOom) -> None:
    directory = uapi.AT_FDCWD if step.host else Slot(low.slot("host-proc"))
    low.write_file(directory, "/proc/self/oom_score_adj" if step.host else "self/oom_score_adj", str(step.score))


def _restrict_landlock(low: Lowering, step: RestrictLandlock) -> None:
    size = 8 if step.abi < 4 else 16 if step.abi < 6 else 24
    attributes = low.builder.blob(struct.pack("<QQQ", step.handled, 0, step.scoped)[:size])
    ruleset = low.slot("landlock")
    low.call("landlock_create_ruleset", attributes, size, 0, store=ruleset)
    for path, access in step.rules:
        rule = low.builder.reserve(16, struct.pack("<Qi", access, -1))  # packed: the fd follows the rights directly
        flags = uapi.O_PATH | uapi.O_CLOEXEC
        low.call("openat", uapi.AT_FDCWD, path, flags, store=rule.offset + 8, flags=Flag.STORE32, label=f"`{path}`")
        low.call("landlock_add_rule", Slot(ruleset), uapi.LANDLOCK_RULE_PATH_BENEATH, rule, 0, label=f"`{path}`")
    low.call("landlock_restrict_self", Slot(ruleset), 0)


def _reset_signals(low: Lowering, step: ResetSignals) -> None:
    for number in _LEFT_IGNORED:
        low.call("rt_sigaction", number, low.builder.blob(bytes(32)), 0, 8, label=f"{number} default")
    low.call("rt_sigprocmask", uapi.SIG_SETMASK, low.builder.blob(bytes(8)), 0, 8)
    low.call("umask", 0o022)


def _set_workdir(low: Lowering, step: SetWorkdir) -> None:
    # An image says where its programs start: by a magic link of /proc that would be a directory of the host of which a descriptor is open still.
    how = uapi.O_PATH | uapi.O_DIRECTORY[low.arch] | uapi.O_CLOEXEC
    block = low.builder.blob(struct.pack("<QQQ", how, 0, uapi.RESOLVE_NO_MAGICLINKS))
    place = low.slot("workdir")
    low.call("openat2", uapi.AT_FDCWD, step.path, block, 24, store=place, label=f"`{step.path}`")
    low.call("fchdir", Slot(place), label=f"`{step.path}`")
    low.call("close", Slot(place))


def _drop_capabilities(low: Lowering, step: DropCapabilities) -> None:
    bits = uapi.SECUREBITS_ROOT_LOCKED if step.keep else uapi.SECUREBITS_ALL_LOCKED
    low.call("prctl", uapi.PR_SET_SECUREBITS, bits, 0, 0, 0, label="PR_SET_SECUREBITS")
    for number in range(uapi.CAP_NUMBERS if step.bounding else 0):
        if number not in step.keep:
            low.call("prctl", uapi.PR_CAPBSET_DROP, number, 0, 0, 0, tolerate=(errno.EINVAL,), label=f"PR_CAPBSET_DROP {number}")
    low.call("prctl", uapi.PR_CAP_AMBIENT, uapi.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, label="PR_CAP_AMBIENT_CLEAR_ALL")
    header = low.builder.blob(struct.pack("<II", uapi.CAPABILITY_VERSION_3, 0))
    kept = sum(1 << number for number in step.keep)  # all below 32
    low.call("capset", header, low.builder.blob(struct.pack("<6I", kept, kept, 0, 0, 0, 0)), label="all but those" if kept else "all empty")


def _no_new_privileges(low: Lowering, step: NoNewPrivileges) -> None:
    low.call("prctl", uapi.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, label="PR_SET_NO_NEW_PRIVS")


def _install_filter(low: Lowering, step: InstallFilter) -> None:
    program = low.builder.reserve(16, struct.pack("<HxxxxxxQ", len(step.bpf) // 8, 0))
    low.builder.pointer_at(program.offset + 8, low.builder.blob(step.bpf))
    flags = 0
    store = 0
    if step.listener:
        flags = uapi.SECCOMP_FILTER_FLAG_NEW_LISTENER | (uapi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV if step.wait_killable else 0)
        store = low.slots["listener"] = low.ready.offset + _RECORD_A
    low.call("seccomp", uapi.SECCOMP_SET_MODE_FILTER, flags, program, store=store, label=f"policy `{step.policy}`")


def _await_go(low: Lowering, step: AwaitGo) -> None:
    low.send(low.ready)
    low.await_word(fds.WORD_GO, "go")


def _execute(low: Lowering, step: Execute) -> None:
    argv = low.builder.vector([word.encode("utf-8", "surrogateescape") for word in step.argv])
    environment = low.builder.vector([f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in step.environment])
    low.call("execve", step.path, argv, environment, label=f"`{step.path}`")


__all__ = ["lower_confine_step"]
