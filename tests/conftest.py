"""What every test may rely on: capabilities of the host as markers, nothing left behind, the CLI as a fixture.

A marker named like a capability (`@pytest.mark.userns`) skips its test, with the reason, where the host lacks it;
``SANDBOX_MUST_WORK=userns,seccomp`` turns such a skip into a failure, so that a CI machine cannot go green by skipping.
After every test the process must have the children, mounts, cgroups and file descriptors that it had before.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import json
import os
import pwd
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GRACE_S = 30.0
"""How long what a test started may take to disappear after it, when its end is asynchronous (a killed client): less than what payloads sleep."""
_SOON_S = 3.0
_late: list[str] = []
"""Tests after which something was there for longer than `_SOON_S`; the summary names them."""
_KEPT_CGROUP = re.compile(r"/sandbox-(\d+|supervisor)/?$")
"""Directories that stay on purpose: an administrator's base for a user, and where the supervisor of a delegated subtree lives."""

# What each capability needs, in the words of `sandbox doctor`, which tries every feature for real.
FINDINGS = {
    "userns": ("user namespace", "nested namespace", "other namespaces", "mounts"),
    "seccomp": ("seccomp filter",),
    "notify": ("user notification",),
    "landlock": ("Landlock",),
}
# In a process of its own, because the probe forks and pytest may have threads.
_PROBE = """
import json
from sandbox.cgroup.find import explain_backend
from sandbox.kernel.probe_deep import probe_deep
cgroup = explain_backend()
found = {f.name: [f.status, f.detail] for f in probe_deep()}
print(json.dumps([found, cgroup.backend, cgroup.reason]))
"""


@functools.cache
def _probed() -> tuple[dict[str, tuple[str, str]], str, str]:
    """Return (finding → (status, detail), the chosen cgroup backend, why it was chosen)."""
    done = subprocess.run([sys.executable, "-c", _PROBE], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(f"the capability probe failed:\n{done.stderr}")
    findings, backend, reason = json.loads(done.stdout)
    return {name: (status, detail) for name, (status, detail) in findings.items()}, backend, reason


def _why_not_found(capability: str) -> str:
    findings = _probed()[0]
    return "; ".join(f"{name}: {findings[name][1]}" for name in FINDINGS[capability] if findings[name][0] == "missing")


def _why_not_cgroup(version: str) -> str:
    _, backend, reason = _probed()
    return "" if backend == version else f"the backend here is `{backend}`: {reason}"


def _why_no_newuidmap() -> str:
    if os.geteuid() == 0:
        return "root needs no newuidmap"
    user = pwd.getpwuid(os.geteuid()).pw_name
    for tool, table in (("newuidmap", "/etc/subuid"), ("newgidmap", "/etc/subgid")):
        if shutil.which(tool) is None:
            return f"`{tool}` is not installed"
        try:
            lines = Path(table).read_text().splitlines()
        except OSError as error:
            return f"`{table}`: {error.strerror}"
        if not any(line.split(":")[0] in (user, str(os.geteuid())) for line in lines):
            return f"`{table}` has no range for `{user}`"
    return ""


def _why_not_root() -> str:
    if os.geteuid() != 0:
        return f"runs as uid {os.geteuid()}"
    status = Path("/proc/self/status").read_text()
    effective = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)
    return "" if effective >> 21 & 1 else "root without CAP_SYS_ADMIN"


def _why_not_slow() -> str:
    return "" if os.environ.get("SANDBOX_SLOW") == "1" else "ask with --slow"


def _why_no_problemtools() -> str:
    sys.path.insert(0, str(ROOT / "tests" / "suites"))
    try:
        import packages
    finally:
        sys.path.pop(0)
    return "" if packages.find_sdist() else "its sdist is not in the cache (`python tests/suites/packages.py --fetch`)"


CAPABILITIES: dict[str, Callable[[], str]] = {
    **{name: functools.partial(_why_not_found, name) for name in FINDINGS},
    "cgroup1": functools.partial(_why_not_cgroup, "cgroup1"),
    "cgroup2": functools.partial(_why_not_cgroup, "cgroup2"),
    "newuidmap": _why_no_newuidmap,
    "problemtools": _why_no_problemtools,
    "root": _why_not_root,
    "slow": _why_not_slow,
}


@functools.cache
def why_not(capability: str) -> str:
    """Return why this host lacks a capability, empty when it has it."""
    return CAPABILITIES[capability]()


def _must_work() -> set[str]:
    return {name for name in os.environ.get("SANDBOX_MUST_WORK", "").split(",") if name}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run tests marked slow, too")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--slow"):
        os.environ["SANDBOX_SLOW"] = "1"
    # Runs of the tests are nobody else's business, and `sandbox kill --all` of a test must not be that of the developer's own runs.
    os.environ["SANDBOX_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="sandbox-runs-")
    unknown = _must_work() - CAPABILITIES.keys()
    if unknown:
        raise pytest.UsageError(f"SANDBOX_MUST_WORK names {', '.join(sorted(unknown))}; known are {', '.join(CAPABILITIES)}")
    config.addinivalue_line("markers", "orphans: leaves zombies to this process (it is the subreaper of what the test kills)")
    # So that a daemon that loses its parent becomes our child and is seen below, instead of vanishing to the system's init.
    if ctypes.CDLL(None, use_errno=True).prctl(36, ctypes.c_ulong(1), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


_interruptions: list[str] = []


def pytest_keyboard_interrupt(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Remember it: a test that was cut short leaves things, and to fail for them now would cost the summary of all others."""
    _interruptions.append(str(excinfo.value))


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ.get("SANDBOX_RUNTIME_DIR", ""), ignore_errors=True)


def pytest_report_header() -> list[str]:
    states = {name: why_not(name) for name in CAPABILITIES}
    lines = ["capabilities: " + " ".join(name for name, reason in states.items() if not reason)]
    lines += [f"  not {name}: {reason}" for name, reason in states.items() if reason and name != "slow"]
    return lines


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    privileged = ROOT / "tests" / "privileged"
    for item in items:
        if privileged in item.path.parents:
            item.add_marker("root")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers():
        if mark.name in CAPABILITIES and (reason := why_not(mark.name)):
            if mark.name in _must_work():
                pytest.fail(f"`{mark.name}` must work here (SANDBOX_MUST_WORK): {reason}", pytrace=False)
            pytest.skip(f"{mark.name}: {reason}")


# ---- nothing left behind ---------------------------------------------------------------------------------------------


def _children() -> set[int]:
    """Return this process's children. One that ends while the kernel writes the list may hide others in it, so two lists must agree."""
    found = _list_children()
    while (again := _list_children()) != found:
        found = again
    return found


def _list_children() -> set[int]:
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        try:
            found.update(map(int, Path(f"/proc/self/task/{task}/children").read_text().split()))
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread has just ended; its children moved to another one
    return found


def _describe_process(pid: int) -> str:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return f"{pid} (gone)"
    return f"{pid} [{state}] {name}: {command}"


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _mounts() -> set[str]:
    """Return the mounts that this user can have made: an ordinary one only its own of FUSE, root all but those of others."""
    lines = _lines("/proc/self/mountinfo")
    if os.geteuid() != 0:
        lines = [line for line in lines if f"user_id={os.geteuid()}," in line]
    else:
        lines = [line for line in lines if " - fuse" not in line or "user_id=0," in line]
    return {f"{line.split()[0]} on {line.split()[4]}" for line in lines}


@functools.cache
def _cgroup_bases() -> tuple[str, ...]:
    """Return the directories in which sandboxes may make cgroups: the root of each hierarchy and our own node in it."""
    own = {line.split(":", 2)[2].rstrip("/") for line in _lines("/proc/self/cgroup")}
    mounts = [line.split() for line in _lines("/proc/self/mountinfo") if " - cgroup" in line]
    points = [fields[4] for fields in mounts if "cgroup2" in fields or {"memory", "pids"} & set(fields[-1].split(","))]
    return tuple(point + path for point in points for path in own | {""} if os.path.isdir(point + path))


def _cgroups() -> set[str]:
    """Return the empty cgroups of our runs: one with processes in it is a run of somebody else beside us, as is another user's."""
    found: set[str] = set()
    for base in _cgroup_bases():
        for name in _directories(base):
            if name.startswith("sandbox"):
                found.update(f"{base}/{name}/{inner}" for inner in _directories(f"{base}/{name}"))
                if name.startswith("sandbox-"):
                    found.add(f"{base}/{name}")
    return {path for path in found if not _KEPT_CGROUP.search(path) and _is_ours(path) and not _lines(f"{path}/cgroup.procs")}


def _directories(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _is_ours(path: str) -> bool:
    """Whether a directory is there and this user's: what our runs make is."""
    try:
        return os.stat(path).st_uid == os.geteuid()
    except OSError:
        return False


def _held_by_others(cgroups: set[str]) -> set[str]:
    """Return those that a process has open which is none of ours: the supervisor of somebody else's run, of this user too."""
    held: set[str] = set()
    ours = {os.getpid(), *_children()}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        if pid in ours:
            continue
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(f"/proc/{pid}/fd/{name}")
                    held.update(path for path in cgroups if target.startswith(path.rstrip("/")))
    return held


def _entries() -> set[str]:
    """Return what is registered as running, a bare directory included that somebody removed."""
    try:
        return set(os.listdir(os.environ["SANDBOX_RUNTIME_DIR"]))
    except FileNotFoundError:
        return set()


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return ["gone"]


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the directory listing itself
    return found


def _wait_for_end(pids: set[int], deadline: float) -> None:
    """Wait until every child in `pids` has ended or the deadline (monotonic seconds) has passed."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError), os.fdopen(os.pidfd_open(pid)) as pidfd:
            select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests left something that went by itself, but not soon: on a quiet machine there should be none."""
    if _late:
        terminalreporter.section("what was left went late")
        for line in _late:
            terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that leaves a process, mount, cgroup, entry of a run or file descriptor behind."""
    entries = _entries()
    children, mounts, cgroups, descriptors = _children(), _mounts(), _cgroups(), _descriptors()
    yield
    deadline = time.monotonic() + GRACE_S
    problems = []
    while fresh := _children() - children:
        _wait_for_end(fresh, deadline)
        living = {pid for pid in fresh if not _is_zombie(pid)}
        zombies = fresh - living
        if zombies and request.node.get_closest_marker("orphans") is None:
            problems += [f"process not waited for: {_describe_process(pid)}" for pid in sorted(zombies)]
        if living and time.monotonic() >= deadline:
            problems += [f"process left: {_describe_process(pid)}" for pid in sorted(living)]
            for pid in living:
                os.kill(pid, 9)
        # The next test begins clean whatever this one did; what a reaped one leaves becomes ours in the next round.
        for pid in fresh if time.monotonic() >= deadline else zombies:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
    while _mounts() - mounts and time.monotonic() < deadline:
        select.select([], [], [], 0.01)  # somebody else's, with whom this machine is shared, goes as it came
    problems += [f"mount left: {mount}" for mount in sorted(_mounts() - mounts)]
    # A cgroup can be removed only some moments after its last process is gone, and the janitor does that beside us.
    left = _cgroups() - cgroups
    look_at = 0.0
    while left and time.monotonic() < deadline:
        if time.monotonic() >= look_at:
            left -= _held_by_others(left)
            look_at = time.monotonic() + 0.5
        select.select([], [], [], 0.01)
        left &= _cgroups()
    problems += [f"cgroup left: {path}" for path in sorted(left)]
    while _entries() - entries and time.monotonic() < deadline:
        select.select([], [], [], 0.01)
    problems += [f"entry of a run left: {name}" for name in sorted(_entries() - entries)]
    after = _descriptors()
    if after.keys() - descriptors.keys():
        gc.collect()
    # A thread that has told its result closes what it had, too.
    while (after := _descriptors()).keys() - descriptors.keys() and time.monotonic() < deadline:
        select.select([], [], [], 0.01)
    problems += [f"fd left: {fd} → {after[fd]}" for fd in sorted(after.keys() - descriptors.keys())]
    if (took := time.monotonic() - deadline + GRACE_S) > _SOON_S:
        _late.append(f"{request.node.nodeid}: {took:.1f} s")
    if problems and not _interruptions:
        pytest.fail("left behind by this test:\n  " + "\n  ".join(problems), pytrace=False)


# ---- running the CLI -------------------------------------------------------------------------------------------------


class SandboxCli:
    """Runs the command line of this checkout in a process of its own.

    `command` is the argument vector that stands for the word ``sandbox``.
    """

    command: tuple[str, ...] = (sys.executable, "-I", str(ROOT / "sandbox" / "__main__.py"))

    def __call__(
        self,
        *arguments: str | os.PathLike[str],
        input: bytes = b"",
        timeout: float = 300,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``sandbox ARGUMENTS`` to its end and return exit code, stdout and stderr.

        Args:
            input: what stdin delivers.
            timeout: seconds; when they pass the CLI is killed and the test fails.
            env: added to the environment of the test.
            cwd: working directory, the test's own by default.
            pass_fds: descriptors to leave open in the CLI, to see that they do not reach the payload.
        """
        with self.popen(*arguments, env=env, cwd=cwd, pass_fds=pass_fds) as process:
            try:
                out, err = process.communicate(input, timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                pytest.fail(f"`sandbox {' '.join(map(str, arguments))}` took more than {timeout} s\nstdout: {out!r}\nstderr: {err!r}")
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def popen(
        self,
        *arguments: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        pass_fds: Sequence[int] = (),
        stdin: int | None = subprocess.PIPE,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        """Start ``sandbox ARGUMENTS``; the caller waits for it or kills it."""
        return subprocess.Popen(
            [*self.command, *[os.fspath(argument) for argument in arguments]],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=os.environ | dict(env or {}),
            cwd=cwd,
            pass_fds=pass_fds,
        )


@pytest.fixture(scope="session")
def sandbox_cli() -> SandboxCli:
    """Return the CLI: ``sandbox_cli("exec", "--profile", "strict", "--", "true").returncode``."""
    return SandboxCli()
