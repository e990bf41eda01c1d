"""The other sandboxes, with the same walls as ours as far as they have them; who is missing or fails is said and left out.

A system of read-only /usr, small /dev, /proc, tmpfs at /tmp, every namespace, no capability, no_new_privs, and for those without a filter of their own the
default profile of container tools as a compiled filter.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from docker import TREE, compile_docker, read_docker

from beside.contender import NUMBER, Commands, Program
from beside.host import Failed

_BWRAP = (
    "bwrap --unshare-all --unshare-user --unshare-cgroup --die-with-parent --new-session --cap-drop ALL --ro-bind /usr /usr --symlink usr/bin /bin "
    "--symlink usr/lib /lib --symlink usr/lib64 /lib64 --proc /proc --dev /dev --tmpfs /tmp"
)
_NSJAIL = (
    "nsjail -Mo -Q --nice_level 0 --disable_rlimits -R /usr -s usr/bin:/bin -s usr/lib:/lib -s usr/lib64:/lib64 "
    "-B /dev/null -B /dev/zero -B /dev/full -B /dev/random -B /dev/urandom -B /dev/tty -m none:/tmp:tmpfs:size=268435456,mode=1777"
)
_FIREJAIL = (
    "firejail --quiet --noprofile --net=none --private-dev --private-tmp --ipc-namespace --caps.drop=all --nonewprivs --noroot --seccomp --read-only=/ "
    "--disable-mnt --"
)
_PODMAN = (
    "podman --log-level=error --runtime runc --cgroup-manager=cgroupfs run --rm --network=none --cap-drop=all --security-opt=no-new-privileges "
    "--read-only --tmpfs /tmp -v /usr:/usr:ro"
)
_KAFEL_TRIES = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where things are.

    Attributes:
        work: a directory of this measurement that everybody can read.
        payload: the directory that is shared with payloads.
        profile: the profile of container tools (JSON), None without one.
        variables: the environment of every launch.
    """

    work: Path
    payload: Path
    profile: Path | None
    variables: dict[str, str]

    def find(self, name: str) -> bool:
        """Say whether a program is there."""
        return shutil.which(name, path=self.variables["PATH"]) is not None


def find_peers(place: Place, missing: dict[str, str]) -> Iterator[Commands]:
    """Yield everything that is installed; into `missing` goes what is not, with the reason."""
    yield Commands("native", lambda program, slot: argv(program, str(place.payload)), has="", note="no sandbox", variables=place.variables)
    makers: tuple[tuple[str, str, Callable[[Place], Commands]], ...] = (
        ("bwrap", "bwrap", lambda place: _bwrap(place, "bwrap", None)),
        ("bwrap+filter", "bwrap", lambda place: _bwrap(place, "bwrap+filter", _docker_filter(place))),
        ("nsjail", "nsjail", lambda place: _nsjail(place, "nsjail", None)),
        ("nsjail+kafel", "nsjail", lambda place: _nsjail(place, "nsjail+kafel", _kafel_policy(place))),
        ("isolate", "isolate", _isolate),
        ("firejail", "firejail", _firejail),
        ("crun", "crun", lambda place: _oci(place, "crun")),
        ("runc", "runc", lambda place: _oci(place, "runc")),
        ("podman", "podman", _podman),
    )
    for name, program, make in makers:
        if not place.find(program):
            missing[name] = f"`{program}` is not installed"
            continue
        try:
            yield make(place)
        except Failed as error:
            missing[name] = str(error)


def argv(program: Program, payload: str) -> tuple[str, ...]:
    """Return the command with the place of the shared directory."""
    return tuple(word.replace("{payload}", payload) for word in program.argv)


def uses_payload(program: Program) -> bool:
    """Say whether the shared directory is needed."""
    return any("{payload}" in word for word in program.argv)


def shares(place: Place, program: Program) -> Iterator[tuple[str, str]]:
    """Yield what is bound for this program besides the system, and where."""
    if uses_payload(program):
        yield str(place.payload), "/payload"
    for path in program.shares:
        yield path, path


def _bwrap(place: Place, name: str, bpf: Path | None) -> Commands:
    def words(program: Program, slot: int) -> tuple[str, ...]:
        share = [word for pair in shares(place, program) for word in ("--ro-bind", *pair)]
        seccomp = ("--seccomp", "9") if bpf is not None else ()
        return (*_BWRAP.split(), *share, "--remount-ro", "/", *seccomp, "--", *argv(program, "/payload"))

    has = "UNPITCMrpdtcn" + ("s" if bpf is not None else "")
    return Commands(name, words, has=has, variables=place.variables, opened={} if bpf is None else {9: str(bpf)})


def _nsjail(place: Place, name: str, policy: Path | None) -> Commands:
    def words(program: Program, slot: int) -> tuple[str, ...]:
        share = [word for source, target in shares(place, program) for word in ("-R", f"{source}:{target}")]
        return (*_NSJAIL.split(), *(("-P", str(policy)) if policy is not None else ()), *share, "--", *argv(program, "/payload"))

    note = "compiles its policy at every launch, as it always does; an allow list without conditions" if policy is not None else ""
    return Commands(name, words, has="UNPITCMrpdtcn" + ("s" if policy is not None else ""), note=note, variables=place.variables)


def _isolate(place: Place) -> Commands:
    first = next(filter(lambda first: _is_free(place, first), range(os.getpid() % 90 * 10, 990, 10)), -1)
    if first < 0:
        raise Failed("no box is free")

    def words(program: Program, slot: int) -> tuple[str, ...]:
        share = [f"--dir={target}={source}" for source, target in shares(place, program)]
        return ("isolate", "-s", "-b", str(first + slot), "-p", *share, "--run", "--", *argv(program, "/payload"))

    return Commands(
        "isolate", words, has="NPIMrptns", note="setuid root, no user namespace; its box is made before, so that is not in the time; no filter",
        variables=place.variables,
        before=lambda slot: ("isolate", "-b", str(first + slot), "--init"),
        after=lambda slot: ("isolate", "-b", str(first + slot), "--cleanup"),
    )  # fmt: skip


def _is_free(place: Place, first: int) -> bool:
    """Say whether ten boxes are nobody's."""
    for slot in range(first, first + 10):
        for verb in ("--init", "--cleanup"):
            done = subprocess.run(("isolate", "-b", str(slot), verb), env=place.variables, capture_output=True, check=False)
            if done.returncode:
                return False
    return True


def _firejail(place: Place) -> Commands:
    note = "setuid root; the host's root, read-only; a filter of its own; no cgroup namespace"
    return Commands(
        "firejail", lambda program, slot: (*_FIREJAIL.split(), *argv(program, str(place.payload))), has="UNPITMrpdtcns", note=note, slow=True,
        variables=place.variables,
    )  # fmt: skip


def _podman(place: Place) -> Commands:
    runtime = place.work / "podman"
    runtime.mkdir(mode=0o700, exist_ok=True)
    root = _empty_root(place)

    def words(program: Program, slot: int) -> tuple[str, ...]:
        share = [word for source, target in shares(place, program) for word in ("-v", f"{source}:{target}:ro")]
        return (*_PODMAN.split(), *share, "--rootfs", str(root), *argv(program, "/payload"))

    return Commands(
        "podman", words, has="UNPITMrpdtcns", note="rootless, with runc", slow=True, variables={**place.variables, "XDG_RUNTIME_DIR": str(runtime)}
    )


def _oci(place: Place, runtime: str) -> Commands:
    state = place.work / runtime
    state.mkdir(mode=0o700, exist_ok=True)
    bundles: dict[Program, Path] = {}

    def words(program: Program, slot: int) -> tuple[str, ...]:
        if program not in bundles:
            bundles[program] = place.work / f"{runtime}-{len(bundles)}"
            bundles[program].mkdir()
            (bundles[program] / "config.json").write_text(json.dumps(_oci_config(place, program)))
        how = ("--cgroup-manager=disabled",) if runtime == "crun" else ("--rootless=true",)
        return (runtime, "--root", str(state), *how, "run", "-b", str(bundles[program]), NUMBER)

    return Commands(
        runtime, words, has="UNPITCMrpdtcns", note="rootless, no cgroup limits; the root is a directory", slow=True,
        variables=place.variables,
    )  # fmt: skip


def _oci_config(place: Place, program: Program) -> dict[str, object]:
    """Return a runtime's configuration with the walls of the other rows."""

    def bind(source: str, target: str) -> dict[str, object]:
        return {"destination": target, "type": "bind", "source": source, "options": ["bind", "ro", "nosuid", "nodev"]}

    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
        bind("/usr", "/usr"),
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]},
    ]
    mounts += [bind(source, target) for source, target in shares(place, program)]
    linux: dict[str, object] = {
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "user", "mount", "cgroup")],
        "uidMappings": [{"containerID": 0, "hostID": os.geteuid(), "size": 1}],
        "gidMappings": [{"containerID": 0, "hostID": os.getegid(), "size": 1}],
    }
    if place.profile is not None:
        default, rules = read_docker(place.profile)
        calls = [{key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key) is not None} for rule in rules]
        linux["seccomp"] = {
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": default & 0xFFFF, "architectures": [],
            "syscalls": [call for call in calls if call["action"] != "SCMP_ACT_ERRNO" or "errnoRet" in call],
        }  # fmt: skip
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False, "user": {"uid": 0, "gid": 0}, "args": list(argv(program, "/payload")), "cwd": "/", "noNewPrivileges": True,
            "env": ["PATH=/usr/bin:/bin", "LANG=C.UTF-8"],
            "capabilities": {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")},
        },
        "root": {"path": str(_empty_root(place)), "readonly": True},
        "mounts": mounts,
        "linux": linux,
    }  # fmt: skip


def _empty_root(place: Place) -> Path:
    root = place.work / "root"
    if not root.exists():
        root.mkdir()
        for name in ("usr", "proc", "dev", "tmp", "payload", "etc", "sys", "run", "var"):
            (root / name).mkdir()
        for name in ("bin", "sbin", "lib", "lib64"):
            (root / name).symlink_to(f"usr/{name}")
        for name in ("null", "zero", "full", "random", "urandom", "tty"):
            (root / "dev" / name).touch()
        (root / "etc" / "os-release").touch()
    return root


def _docker_filter(place: Place) -> Path:
    if place.profile is None:
        raise Failed("no profile of container tools: install golang-github-containers-common, or --seccomp-json FILE")
    path = place.work / "filter.bpf"
    path.write_bytes(compile_docker(place.profile, TREE))
    return path


def _kafel_policy(place: Place) -> Path:
    """Return an allow list for nsjail; names that its kafel does not know are left out, one by one."""
    if place.profile is None:
        raise Failed("no profile of container tools: install golang-github-containers-common, or --seccomp-json FILE")
    default, rules = read_docker(place.profile)
    names = {name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"] if name[0] != "_"}
    path = place.work / "policy.kafel"
    trial = ("nsjail", "-Mo", "--nice_level", "0", "--disable_rlimits", "--chroot", "/", "-P", str(path), "--", "/bin/true")
    for _ in range(_KAFEL_TRIES):
        path.write_text(f"POLICY p {{ ALLOW {{ {', '.join(sorted(names))} }} }} USE p DEFAULT ERRNO({default & 0xFFFF})\n")
        done = subprocess.run(trial, env=place.variables, capture_output=True, text=True, check=False)
        unknown = set(re.findall(r"[Uu]ndefined (?:syscall|identifier) [`'\"]?(\w+)", done.stderr)) & names
        if not unknown:
            if "Could not compile" in done.stderr:
                raise Failed(f"its policy cannot be compiled: {done.stderr[-200:]}")
            return path
        names -= unknown
    raise Failed("too many names that kafel does not know")
