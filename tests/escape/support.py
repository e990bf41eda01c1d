"""The harness of the escape tests: run a hostile payload under a whole plan, and under the same plan with a wall taken out.

A plan is a value, so a wall is taken out by dropping or changing steps of it after `check_plan` has proved the whole one. What runs is the
launch path of the product, from `prepare` to the monitor; only the plan between `build_plan` and `lower_plan` differs. A test runs its attack
twice: under the whole plan it must be stopped, without its wall it must succeed, or the test could not fail.

Payloads live in tests/payloads and report lines `name=value` on standard output. Python ones may import `attack` (raw system calls, `attempt`).
Only tests of this directory import this module, as ``from escape.support import …``.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import select
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from escape.callers import Terminal, in_child, namespace_members, open_terminal
from escape.walls import Alteration, Wall, change, drop, insert, no_filter, one_user_namespace, same_namespaces

import sandbox.api.execute as launch_path
import sandbox.api.spawned as spawned
import sandbox.api.streams as streams_of
from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_table
from sandbox.api.prepare import Command, Prepared, prepare
from sandbox.audit.events import Event
from sandbox.audit.sinks import MemorySink
from sandbox.launch import idmap
from sandbox.launch.idmap import HostId
from sandbox.plan.build import Request, build_plan
from sandbox.plan.codec import Table
from sandbox.plan.lower import lower_plan
from sandbox.plan.steps import Plan
from sandbox.policy.profile import Profile, Volume
from sandbox.policy.profile_load import load_profile, override_profile
from sandbox.result import Result, Usage, Verdict
from sandbox.rootfs.volumes import parse_volume
from sandbox.supervise.pump import Pump

__all__ = [
    "ENVIRON", "HOME", "PATIENCE_S", "PAYLOADS", "PAYLOAD_ID", "WALL_S", "Alteration", "Neighbour", "Run", "Terminal", "Wall", "build_program",
    "change", "drop", "give", "in_child", "insert", "namespace_members", "neighbour", "no_filter", "one_user_namespace", "open_terminal",
    "parse_facts", "payload_files", "run_payload", "run_plain", "same_namespaces", "shared_directory",
]  # fmt: skip

PAYLOADS = Path(__file__).resolve().parent.parent / "payloads"
ENVIRON = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
HOME = "/home/user"
"""The payload's home and, unless a test says otherwise, working directory."""
PYTHON = ("/usr/bin/python3", "-S", "-B")
WALL_S = 120.0
"""Wall limit of a payload, so that an attack that hangs fails its test instead of holding it up; far off, so that a busy machine ends none."""
PATIENCE_S = 60.0
"""How long a test waits for what is on its way."""

PAYLOAD_ID = os.geteuid() or 61234
"""The host uid and gid of a payload that runs with `same_user`."""

_T = TypeVar("_T")


# ---- running ---------------------------------------------------------------------------------------------------------

_alteration: contextvars.ContextVar[Alteration | None] = contextvars.ContextVar("alteration", default=None)
_direct: contextvars.ContextVar[Mapping[int, int]] = contextvars.ContextVar("direct")
_seen: contextvars.ContextVar[list[Plan]] = contextvars.ContextVar("seen")
_same_user: contextvars.ContextVar[bool] = contextvars.ContextVar("same_user", default=False)
_open_streams = streams_of._open_streams
_give_away = streams_of.give_away
_claim_host_id = idmap.claim_host_id


def _make_altered(request: Request, run_id: str) -> tuple[Plan, Table]:
    plan = build_plan(request)
    alter = _alteration.get()
    if alter is not None:
        plan = alter(plan)
    if (seen := _seen.get(None)) is not None:
        seen.append(plan)
    return plan, lower_plan(plan)


def _open_direct(streams: Any) -> tuple[tuple[int, int, int], list[Pump]]:
    children, pumps = _open_streams(streams)
    ends = list(children)
    for number, fd in _direct.get({}).items():
        if number and pumps[number].writer == ends[number]:
            pumps[number].writer = -1
        os.close(ends[number])
        ends[number] = os.dup(fd)
    return (ends[0], ends[1], ends[2]), pumps


def _give_direct(fd: int, number: int) -> None:
    if _direct.get({}):
        os.fchown(fd, number, number)  # what the payload gets itself need not be a pipe
    else:
        _give_away(fd, number)


def _claim_chosen() -> HostId:
    return HostId(PAYLOAD_ID, None) if _same_user.get() else _claim_host_id()


# By context variable and for good, not patched for the time of a run: two runs may overlap in two threads.
spawned._make_table = _make_altered  # type: ignore[assignment]
streams_of._open_streams = _open_direct
streams_of.give_away = _give_direct
idmap.claim_host_id = _claim_chosen  # imported where it is called


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One finished run: `facts` are the payload's ``name=value`` lines, `events` the audited denials, `plan` what was run."""

    result: Result
    out: bytes
    err: bytes
    facts: Mapping[str, str]
    events: Sequence[Event]
    plan: Plan

    def __getitem__(self, name: str) -> str:
        """Return what the payload reported by a name; a payload that did not get there fails the test with its words."""
        if name not in self.facts:
            words = f"{self.result.verdict}: {self.result.cause}\nstdout: {self.out.decode(errors='replace')}\nstderr: {self.err.decode(errors='replace')}"
            pytest.fail(f"the payload did not report `{name}`: {words}", pytrace=False)
        return self.facts[name]


def parse_facts(text: bytes) -> dict[str, str]:
    """Read a payload's ``name=value`` lines; other lines do not count."""
    found = {}
    for line in text.decode(errors="surrogateescape").splitlines():
        name, equals, value = line.partition("=")
        if equals and name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            found[name] = value
    return found


@functools.cache
def numbers() -> bytes:
    """Return the module `numbers_here`, the syscall numbers of this machine, which payloads cannot import from us."""
    return f"NUMBERS = {syscall_table(Arch(os.uname().machine))!r}\n".encode()


@functools.cache
def build_program(name: str, static: bool = True) -> bytes:
    """Compile tests/payloads/NAME and return the program's bytes; skip the test where there is no compiler.

    A guest of `./dev vm` has those that its host compiled in $SANDBOX_BUILT.
    """
    built = Path(os.environ.get("SANDBOX_BUILT", "/nonexistent")) / name
    if built.exists():
        return built.read_bytes()
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "program"
        done = subprocess.run(
            [compiler, "-O1", "-Wall", "-pthread", *(["-static"] if static else []), "-o", str(output), str(PAYLOADS / name)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{name} does not compile:\n{done.stderr}"
        return output.read_bytes()


def payload_files(payload: str) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """Return (argv, files in the working directory) of a payload by the name of its source."""
    if payload.endswith(".c"):
        return (f"{HOME}/program",), {"program": build_program(payload)}
    names = {"main.py": payload, "attack.py": "attack.py"}
    files = {name: (PAYLOADS / source).read_bytes() for name, source in names.items()}
    return (*PYTHON, f"{HOME}/main.py"), {**files, "numbers_here.py": numbers()}


def run_payload(
    payload: str | Sequence[str],
    *arguments: str,
    profile: str | Profile = "strict",
    policy: str | None = None,
    without: Sequence[Wall] = (),
    alter: Alteration | Sequence[Alteration] = (),
    refit: Callable[[Prepared], Prepared] | None = None,
    volumes: Sequence[str | Volume] = (),
    stdin: bytes | int | None = None,
    stdout: int | None = None,
    direct: Mapping[int, int] | None = None,
    files: Mapping[str, bytes] | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    limits: Mapping[str, object] | None = None,
    audit: bool = True,
    executor: str = "auto",
    interactive: bool = False,
    same_user: bool = False,
    profile_changes: Mapping[str, Any] | None = None,
) -> Run:
    """Run a payload in a sandbox, whole or with walls taken out, to its end.

    Args:
        payload: the name of a source in tests/payloads (``a1_push.c``, ``a2_look.py``), or a whole argument vector.
        arguments: added to the payload's own.
        profile: a profile's name, path, or a loaded one.
        policy: another policy than the profile's, by name or path.
        without: steps to drop from the proved plan, see `drop`.
        alter: further alterations of it, applied in order after `without`.
        refit: changes what `prepare` found, before the plan is built.
        volumes: as for `sandbox.run`.
        stdin: bytes or a descriptor (borrowed) that the supervisor reads for the payload; None is empty.
        stdout: a descriptor (borrowed) that the supervisor copies the payload's output to; None captures, and only then are there facts.
        direct: standard stream → descriptor that the payload gets *itself*: the wall of pipes taken out (for these numbers).
        files: more files for the payload's working directory.
        environ: the caller's environment.
        cwd: the caller's working directory; None is none. The payload's source is a file of the sandbox's home, so leave it None with a source.
        limits: as for `sandbox.run`; the wall limit is `WALL_S` unless given.
        audit: whether denials are recorded.
        executor: ``auto``, ``native`` or ``python``.
        interactive: gives the payload a terminal of its own; `stdin` and `stdout` do not count then.
        same_user: as root, give the payload the host id `PAYLOAD_ID` instead of one that nobody has, so that it can be made the owner of files and
            the user of processes; an ordinary caller's payload has the caller's id anyway.
        profile_changes: fields of the loaded profile to replace, such as ``{"proc": ProcMode.FULL}``.

    Raises:
        SandboxError: the set-up failed, which for some attacks is the right answer.
    """
    argv, made = payload_files(payload) if isinstance(payload, str) else (tuple(payload), {})
    parsed = [parse_volume(item, os.getcwd()) if isinstance(item, str) else item for item in volumes]
    loaded = override_profile(
        profile if isinstance(profile, Profile) else load_profile(profile),
        limits={"wall": WALL_S, **(limits or {})},
        volumes=parsed,
        policy=policy,
        origin="test",
    )
    loaded = replace(loaded, **(profile_changes or {}))
    prepared = prepare(
        Command(
            argv=(*argv, *arguments),
            profile=loaded,
            cwd=None if cwd is None else os.path.realpath(os.fspath(cwd)),
            environ=dict(ENVIRON if environ is None else environ),
            files={**made, **(files or {})},
            audit=audit,
            executor=executor,
            interactive=interactive,
        )
    )
    if refit is not None:
        prepared = refit(prepared)
    alterations = ([drop(*without)] if without else []) + ([alter] if callable(alter) else list(alter))

    def alter_all(plan: Plan) -> Plan:
        for alteration in alterations:
            plan = alteration(plan)
        return plan

    sink, seen = MemorySink(), list[Plan]()

    def go() -> tuple[Result, bytes]:
        _alteration.set(alter_all)
        _direct.set(direct or {})
        _seen.set(seen)
        _same_user.set(same_user)
        with contextlib.ExitStack() as stack:
            streams = streams_of.Streams(stdin=stdin, stdout=stdout)
            if interactive:
                screen = stack.enter_context(tempfile.TemporaryFile())
                null = stack.enter_context(open(os.devnull, "rb"))
                streams = streams_of.Streams(stdin=null.fileno(), stdout=screen.fileno(), terminal=lambda master: None)
            result = launch_path.execute(prepared, streams, launch_path.Hooks(sink=sink)).result
            return result, os.pread(screen.fileno(), 1 << 20, 0).replace(b"\r\n", b"\n") if interactive else result.stdout or b""

    result, out = contextvars.copy_context().run(go)
    err = result.stderr or b""
    return Run(result=result, out=out, err=err, facts=parse_facts(out + b"\n" + err), events=sink.events, plan=seen[0])


def run_plain(payload: str, *arguments: str, direct: Mapping[int, int] | None = None, as_caller: bool = False) -> Run:
    """Run a payload with every wall removed: without a sandbox, as the user `PAYLOAD_ID` or the caller's, in the caller's session and group.

    For attacks that no altered plan may be given, because what they reach is not the test's own.
    """
    argv, files = payload_files(payload)
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as out:
        for name, content in files.items():
            (Path(directory) / name).write_bytes(content)
            (Path(directory) / name).chmod(0o755)
        Path(directory).chmod(0o755)
        command = [word.replace(HOME, directory) for word in argv]
        ends = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        ends |= {("stdin", "stdout", "stderr")[number]: fd for number, fd in (direct or {}).items()}
        ids = {"user": PAYLOAD_ID, "group": PAYLOAD_ID, "extra_groups": []} if os.geteuid() == 0 and not as_caller else {}
        done = subprocess.run([*command, *arguments], stdout=out, timeout=PATIENCE_S, check=False, cwd=directory, env=ENVIRON, **ends, **ids)  # type: ignore[call-overload]
        out.seek(0)
        words, err = out.read(), done.stderr or b""
    plan = Plan(arch=os.uname().machine, janitor=(), init=(), payload=(), notes=("no sandbox",))
    result = Result(
        verdict=Verdict.OK if done.returncode == 0 else Verdict.NONZERO_EXIT,
        cause=f"exit {done.returncode}",
        exit_code=done.returncode,
        signal=None,
        usage=Usage(wall_ns=0, cpu_user_ns=0, cpu_sys_ns=0, cpu_source="none"),
        run_id="plain",
        profile="none",
        profile_digest="",
        policy="none",
        policy_digest="",
    )
    return Run(result=result, out=words, err=err, facts=parse_facts(words + b"\n" + err), events=(), plan=plan)


# ---- runs beside the test --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Neighbour:
    """A sandbox that runs in a thread until its standard input ends; `facts` is what it has said so far."""

    _feed: int
    _words: int
    _thread: threading.Thread
    facts: dict[str, str] = field(default_factory=dict)
    run: Run | None = None
    failure: BaseException | None = None
    _rest: bytes = b""

    def wait_for(self, name: str, timeout_s: float = PATIENCE_S) -> str:
        """Read the payload's words until it reports `name`, and return that."""
        while name not in self.facts:
            ready, _, _ = select.select([self._words], [], [], timeout_s)
            chunk = os.read(self._words, 65536) if ready else b""
            if not chunk:
                pytest.fail(f"the neighbour did not report `{name}`: {self.failure or self.facts}", pytrace=False)
            whole, _, self._rest = (self._rest + chunk).rpartition(b"\n")
            self.facts.update(parse_facts(whole))
        return self.facts[name]

    def write(self, data: bytes) -> None:
        """Send the payload bytes on its standard input."""
        os.write(self._feed, data)

    def end(self) -> Run:
        """Close its input, wait for its end and return it."""
        if self._feed >= 0:
            os.close(self._feed)
            self._feed = -1
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the neighbour does not end"
        if self.failure is not None:
            raise self.failure
        assert self.run is not None
        return self.run


@contextlib.contextmanager
def neighbour(payload: str | Sequence[str], *arguments: str, **options: Any) -> Iterator[Neighbour]:
    """Run a payload beside the test; arguments as for `run_payload`."""
    feed_r, feed_w = os.pipe2(os.O_CLOEXEC)
    words_r, words_w = os.pipe2(os.O_CLOEXEC)

    def body() -> None:
        try:
            beside.run = run_payload(payload, *arguments, stdin=feed_r, stdout=words_w, **options)
        except BaseException as failure:
            beside.failure = failure
        finally:
            os.close(words_w)

    beside = Neighbour(feed_w, words_r, threading.Thread(target=body))
    beside._thread.start()
    try:
        yield beside
        beside.end()
    finally:
        if beside._feed >= 0:
            os.close(beside._feed)
            beside._feed = -1
        beside._thread.join(PATIENCE_S)
        os.close(feed_r)
        os.close(words_r)


def shared_directory(path: Path) -> Path:
    """Make a directory that the payload may use whoever it is outside, and owns with `same_user`."""
    path.mkdir(exist_ok=True)
    path.chmod(0o777)
    give(path)
    return path


def give(path: Path) -> Path:
    """Make `PAYLOAD_ID` the owner of a file."""
    if os.geteuid() == 0:
        os.chown(path, PAYLOAD_ID, PAYLOAD_ID, follow_symlinks=False)
    return path
