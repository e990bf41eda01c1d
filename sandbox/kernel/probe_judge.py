"""What the deep probe's observations mean: findings, each with the one command that mends it. Pure, so that tables can test it.

Nothing here reads the host. Only `probe_deep`, `cli.doctor` and tests may import this module.
"""

from __future__ import annotations

import errno
import os

from sandbox.enums import StrEnum
from sandbox.kernel.probe import parse_release
from sandbox.kernel.probe_trial import Outcome
from sandbox.kernel.probe_userns import UsernsFacts, explain_userns_refusal
from sandbox.record import dataclass


class Status(StrEnum):
    """What became of a feature."""

    WORKS = "works"
    DEGRADED = "degraded"
    MISSING = "missing"


class Need(StrEnum):
    """How much depends on a feature: without an `EVERY` one nothing runs, without a `STRICT` one `strict` is weaker."""

    EVERY = "every"
    STRICT = "strict"
    OPTIONAL = "optional"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One feature of the host.

    `detail` may quote text of the host and is not escaped. `fix` is a command or one sentence, empty where nothing is to be done or known.
    `needed_by` says in words what uses the feature.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""
    needed_by: str = ""
    need: Need = Need.OPTIONAL


# What a ruleset can refuse from each ABI on. Source: landlock(7), Linux Documentation/userspace-api/landlock.rst
LANDLOCK_ADDS = (
    (1, "file system access"),
    (2, "renames across directories"),
    (3, "truncation"),
    (4, "TCP ports"),
    (5, "device ioctls"),
    (6, "abstract sockets and signals"),
    (7, "audit records"),
)


def judge_userns(outcome: Outcome, facts: UsernsFacts) -> Finding:
    """Turn the trial of a user namespace into a finding (pure)."""
    name, needed_by = "user namespace", "every run"
    if outcome.ok:
        return Finding(name=name, status=Status.WORKS, detail=outcome.detail, needed_by=needed_by, need=Need.EVERY)
    refusal = explain_userns_refusal(outcome.errno, facts)
    if facts.profile and facts.apparmor_restrict == 1 and "AppArmor" in refusal.cause:
        # this interpreter is refused, but what a run starts has a profile; only root can ask whether it is loaded
        return Finding(
            name=name,
            status=Status.DEGRADED,
            detail=f"refused to this interpreter; {facts.profile} allows it to {facts.executable} once loaded",
            fix=f"sudo apparmor_parser -r {facts.profile}",
            needed_by=needed_by,
            need=Need.EVERY,
        )
    return Finding(
        name=name,
        status=Status.MISSING,
        detail=f"{describe_outcome(outcome)}: {refusal.cause}",
        fix=refusal.fix,
        needed_by=needed_by,
        need=Need.EVERY,
    )


def judge_surroundings(facts: UsernsFacts) -> Finding:
    """Say what this process already is confined by (pure); it explains other findings and is none by itself."""
    words = [f"{facts.container} container"] if facts.container else []
    words += ["user namespace"] if facts.nested else []
    words += ["seccomp filter"] if facts.seccomp_mode == 2 else []
    words += [f"AppArmor profile {facts.apparmor_label}"] if facts.apparmor_label else []
    words += ["SELinux enforcing"] if facts.selinux_enforcing else []
    words += ["chroot"] if facts.chrooted else []
    words += ["no_new_privs"] if facts.no_new_privs else []
    words += [f"unit {facts.unit}"] if facts.unit else []
    return Finding(
        name="surroundings", status=Status.WORKS, detail=", ".join(words) or "nothing confines this process", needed_by="information"
    )


def judge_clone3(outcome: Outcome, facts: UsernsFacts) -> Finding:
    """Turn the trial of clone3 into a finding (pure)."""
    if outcome.ok:
        return Finding(name="clone3", status=Status.WORKS, detail=outcome.detail, needed_by="every run", need=Need.EVERY)
    refusal = explain_userns_refusal(outcome.errno, facts)
    return Finding(
        name="clone3",
        status=Status.MISSING,
        detail=f"{describe_outcome(outcome)}: {refusal.cause}",
        fix=refusal.fix,
        needed_by="every run",
        need=Need.EVERY,
    )


def judge_landlock(abi: int, refusal: int, lsm_list: str | None) -> Finding:
    """Turn the Landlock ABI into a finding (pure).

    Args:
        abi: 0 where the call failed.
        refusal: its errno then.
        lsm_list: text of /sys/kernel/security/lsm, for the command that appends to it; None where unreadable.
    """
    name, needed_by = "Landlock", "profiles with landlock = required (strict)"
    if abi >= 1:
        lost = [what for since, what in LANDLOCK_ADDS if since > abi and since <= 6]
        detail = f"ABI {abi}" + (f", without {', '.join(lost)}" if lost else "")
        status = Status.DEGRADED if lost else Status.WORKS
        return Finding(
            name=name,
            status=status,
            detail=detail,
            fix="use Linux 6.12 or newer" if lost else "",
            needed_by=needed_by,
            # a lower ABI still is the second wall over the paths; the namespaces and the filter cover the rest
            need=Need.OPTIONAL if lost else Need.STRICT,
        )
    match refusal:
        case errno.EOPNOTSUPP:
            modules = ",".join(["landlock", *(one for one in (lsm_list or "").strip().split(",") if one)])
            cause = "built, but not enabled at boot"
            fix = f"add lsm={modules} to the kernel command line (GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub) and reboot"
            if lsm_list is None:
                fix = "put landlock first in the kernel command line's lsm= list and reboot"
        case errno.ENOSYS:
            cause, fix = "not built into this kernel", "boot a kernel with CONFIG_SECURITY_LANDLOCK=y (Linux 5.13 or newer)"
        case errno.EPERM:
            cause, fix = "refused by an outer seccomp filter", "allow the landlock_ calls in the container's seccomp profile"
        case _:
            cause, fix = os.strerror(refusal), ""
    return Finding(name=name, status=Status.MISSING, detail=cause, fix=fix, needed_by=needed_by, need=Need.STRICT)


def judge_hardening(*, core_pattern: str | None, legacy_tiocsti: int | None, yama: int | None, release: str) -> list[Finding]:
    """Judge sysctls that change what surrounds a sandbox (pure); None is a knob that this kernel lacks."""
    pattern = (core_pattern or "").strip()
    if pattern.startswith("|"):
        core = f"piped to `{pattern[1:].split(' ', 1)[0]}`; a run is kept from it"
    else:
        core = f"written to files named `{pattern}`; a run is kept from it" if pattern else "unknown"
    if legacy_tiocsti == 0:
        tiocsti = "off"
    elif legacy_tiocsti is None and parse_release(release) < (6, 2):
        tiocsti = "on, this kernel cannot switch it off; filters refuse it"
    else:
        tiocsti = "on; filters refuse it" if legacy_tiocsti else "not in this kernel"
    findings = [
        Finding(name="core dumps", status=Status.WORKS, detail=core, needed_by="information"),
        Finding(
            name="TIOCSTI",
            status=Status.DEGRADED if legacy_tiocsti else Status.WORKS,
            detail=tiocsti,
            fix="sudo sysctl -w dev.tty.legacy_tiocsti=0" if legacy_tiocsti else "",
            needed_by="a second wall around terminals",
        ),
    ]
    if yama is None:
        findings.append(Finding(name="Yama", status=Status.WORKS, detail="not in this kernel", needed_by="information"))
    else:
        # scope 2 wants CAP_SYS_PTRACE over the target, which the owner of its user namespace has; 3 refuses all
        findings.append(
            Finding(
                name="Yama",
                status=Status.MISSING if yama >= 3 else Status.WORKS,
                detail=f"ptrace_scope {yama}" + (": nobody may fetch a listener" if yama >= 3 else ""),
                fix="remove kernel.yama.ptrace_scope=3 from /etc/sysctl.d and reboot (it cannot be lowered while running)"
                if yama >= 3
                else "",
                needed_by="the audit of denied calls",
                need=Need.STRICT,
            )
        )
    return findings


def judge_id_range(
    *,
    subuid: tuple[tuple[int, int], ...],
    subgid: tuple[tuple[int, int], ...],
    helpers: tuple[str | None, str | None],
    user: str,
    no_new_privs: bool,
) -> Finding | None:
    """Say what is missing for a range of ids before any trial (pure); None means that a trial can be made.

    Args:
        subuid: the user's ranges in /etc/subuid.
        subgid: the same of /etc/subgid.
        helpers: paths of newuidmap and newgidmap; None for a missing one.
        user: login name, or the uid where it has none.
        no_new_privs: of this process; it takes the helpers' privilege away.
    """
    name, needed_by = "id range", "profiles with ids = range"
    if None in helpers:
        return Finding(name=name, status=Status.MISSING, detail="no newuidmap", fix="sudo apt-get install uidmap", needed_by=needed_by)
    if not subuid or not subgid:
        files = " and ".join(path for path, found in (("/etc/subuid", subuid), ("/etc/subgid", subgid)) if not found)
        options = [f"--add-sub{kind}s 100000-165535" for kind, found in (("uid", subuid), ("gid", subgid)) if not found]
        detail, fix = f"no range for `{user}` in {files}", f"sudo usermod {' '.join(options)} {user}"
        return Finding(name=name, status=Status.MISSING, detail=detail, fix=fix, needed_by=needed_by)
    if no_new_privs:
        detail = "no_new_privs is set on this process: newuidmap has no privilege"
        return Finding(name=name, status=Status.MISSING, detail=detail, fix="start from a shell without no_new_privs", needed_by=needed_by)
    return None


def describe_outcome(outcome: Outcome) -> str:
    """Return the failed call and its errno's name."""
    return f"{outcome.detail} ({errno.errorcode.get(outcome.errno, str(outcome.errno))})"
