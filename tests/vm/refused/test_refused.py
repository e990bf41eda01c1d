"""A host that refuses what rootless sandboxes are made of, in each way that is known: `doctor` and `exec` say which it is and name the command that mends it.

Root takes it away from everybody and gives it back after the test; what asks is an ordinary user. The first test shows that the same user's sandbox runs
when nothing refuses it, so that it is the refusal that is told about.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest

SLOW_S = 120.0  # an emulated processor, and perhaps a busy one under it
Asks: TypeAlias = "Callable[..., subprocess.CompletedProcess[bytes]]"
PLAIN = ("runuser", "-u", "user", "--", "env", "HOME=/home/user")
UNIT = (
    "systemd-run",
    "--quiet",
    "--collect",
    "--wait",
    "--pipe",
    "--property",
    "User=user",
    "--setenv",
    "HOME=/home/user",
    "--setenv",
    "PATH",
)
SESSION = (*UNIT, "--property", "PAMName=login")
USER_UNIT = ("systemd-run", "--user", "--quiet", "--collect", "--wait", "--pipe")
NESTED = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
ids = os.getuid(), os.getgid()
while libc.unshare(0x10000000) == 0:
    for name, text in (("setgroups", "deny"), ("uid_map", f"{ids[0]} {ids[0]} 1"), ("gid_map", f"{ids[1]} {ids[1]} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
os.execv(sys.argv[1], sys.argv[1:])
"""
# No `capability` rule: with the parser of Debian 12 a user namespace can be made and is worth nothing. The shape of Ubuntu's restriction.
PROFILE = """
profile without-capabilities /usr/bin/python3* {
  file,
  network,
  signal,
  ptrace,
  unix,
  dbus,
  mount,
  umount,
  pivot_root,
  change_profile,
  /** mrwlkix,
}
"""


@pytest.fixture(scope="module", autouse=True)
def manager() -> None:
    """Start the user's own manager, and what it mounts, before the first look at what is mounted."""
    subprocess.run(["systemctl", "start", "user@1000.service"], check=True)


@pytest.fixture
def asks(sandbox_cli: Any) -> Asks:
    """Return what runs the command line as the ordinary user: (words of it, what goes before)."""

    def run(words: Sequence[str], before: Sequence[str] = PLAIN) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*before, *sandbox_cli.command, *words], cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=SLOW_S, check=False
        )

    return run


@contextlib.contextmanager
def sysctl(name: str, value: str) -> Iterator[None]:
    path = Path("/proc/sys") / name.replace(".", "/")
    before = path.read_text()
    path.write_text(value)
    try:
        yield
    finally:
        path.write_text(before)


def told(asks: Asks, cause: str, fix: str, before: Sequence[str] = PLAIN) -> None:
    """Assert that a run is refused with the cause and the fix, and that doctor names them, too."""
    run = asks(["exec", "-p", "strict", "--", "/bin/true"], before)
    assert run.returncode == 125, (run.returncode, run.stdout, run.stderr)
    words = b" ".join(run.stderr.split()).decode()
    assert cause in words and fix in words, words
    doctor = asks(["doctor"], before)
    assert doctor.returncode != 0
    words = b" ".join(doctor.stdout.split()).decode()
    assert fix in words, words


def test_nothing_refuses_it(asks: Asks) -> None:
    run = asks(["exec", "-p", "strict", "--", "/bin/true"])
    assert run.returncode == 0, run.stderr
    doctor = asks(["doctor"]).stdout.decode()
    assert not any(word in doctor for word in ("_namespaces=", "userns_clone=", "`userns", "RestrictNamespaces", "systemd-nspawn")), doctor


def test_debians_sysctl(asks: Asks) -> None:
    with sysctl("kernel.unprivileged_userns_clone", "0"):
        told(asks, "the sysctl kernel.unprivileged_userns_clone is 0", "sudo sysctl -w kernel.unprivileged_userns_clone=1")


@pytest.mark.parametrize("kind", ["user", "mnt", "pid", "net", "ipc", "uts"])
def test_a_limit_of_namespaces(asks: Asks, kind: str) -> None:
    with sysctl(f"user.max_{kind}_namespaces", "0"):
        told(asks, f"the sysctl user.max_{kind}_namespaces is 0", f"sudo sysctl -w user.max_{kind}_namespaces=16384")


# One that does not see the user's manager, as most do not, has nobody to ask for a scope; in a scope the anchor is refused first.
@pytest.mark.parametrize("hidden", [True, False])
def test_a_service_that_restricts_namespaces(asks: Asks, hidden: bool) -> None:
    unit = (*UNIT, "--unit", "restricted.service", "--property", "RestrictNamespaces=yes")
    told(
        asks,
        "RestrictNamespaces= of the unit restricted.service",
        "systemctl edit restricted.service: `[Service]`, `RestrictNamespaces=no`",
        (*unit, "--property", "TemporaryFileSystem=/run/user") if hidden else unit,
    )


def test_a_service_of_the_user_that_restricts_namespaces(asks: Asks) -> None:
    unit = (*SESSION, *USER_UNIT, "--unit", "restricted.service", "--property", "RestrictNamespaces=yes")
    told(asks, "RestrictNamespaces= of the unit restricted.service", "systemctl --user edit restricted.service:", unit)


@pytest.mark.orphans  # the janitor of a run that AppArmor broke may end after its client
def test_apparmor_without_capabilities(asks: Asks, tmp_path: Path) -> None:
    assert Path("/sys/module/apparmor/parameters/enabled").read_text().strip() == "Y"
    profile = tmp_path / "profile"
    profile.write_text(PROFILE)
    subprocess.run(["apparmor_parser", "-r", profile], check=True, capture_output=True)
    try:
        told(asks, "the AppArmor profile without-capabilities", "add `userns, capability, mount, umount, pivot_root,` to that profile")
    finally:
        subprocess.run(["apparmor_parser", "-R", profile], check=True, capture_output=True)


def test_a_chroot(asks: Asks) -> None:
    tree = Path("/srv/tree")
    tree.mkdir()
    subprocess.run(["mount", "--rbind", "/", tree], check=True)
    try:
        subprocess.run(["mount", "--make-rslave", tree], check=True)
        told(
            asks,
            "the process runs in a chroot",
            "systemd-nspawn -D DIR",
            ("chroot", "--userspec=user:user", str(tree), "env", "HOME=/home/user"),
        )
    finally:
        subprocess.run(["umount", "--recursive", "--lazy", tree], check=True)
        tree.rmdir()


def test_user_namespaces_nested_too_deep(asks: Asks) -> None:
    told(asks, "nested too deep", "start it", (*PLAIN, sys.executable, "-I", "-c", NESTED))


def test_what_was_refused_works_again(asks: Asks) -> None:
    test_nothing_refuses_it(asks)
