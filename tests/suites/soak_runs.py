"""The runs of the soak: ordinary ones, and those that fail, are ended, flood, never read, leave processes behind or attack; each knows its own output.

Every run prints a token of its own. What comes back is compared byte for byte, so that nothing lost and nothing of another run goes unseen.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

from sandbox import Sandbox, SandboxError
from sandbox.result import Result, Verdict

TOKEN = re.compile("token-[0-9a-f]{8}-[0-9a-f]{16}")
_PYTHON = "/usr/bin/python3"

# Knocks at everything that a pool or a server might have left open or in reach. What it must not do is harm another run: theirs would miss their outputs.
_ATTACK = r"""
import os, signal, socket, sys
forged = bytes(range(48)) + b"token-ffffffff-ffffffffffffffff"
for pid in (-1, 1, os.getppid(), os.getpgid(0) + 1):
    for number in (signal.SIGSTOP, signal.SIGCONT, signal.SIGTERM, signal.SIGKILL):
        try:
            if pid not in (0, os.getpid()): os.kill(pid, number)
        except OSError: pass
for fd in range(3, 260):
    for knock in (lambda: os.write(fd, forged), lambda: os.set_blocking(fd, False), lambda: os.read(fd, 64), lambda: os.ftruncate(fd, 0), lambda: os.close(fd),
                  lambda: socket.socket(fileno=os.dup(fd)).send(forged)):
        try: knock()
        except (OSError, ValueError): pass
for pid in (name for name in os.listdir("/proc") if name.isdigit()):
    for name in ("mem", "fd/0", "fd/1", "fd/3", "fd/5", "ns/mnt", "root/etc/passwd", "environ", "oom_score_adj"):
        for flags in (os.O_RDONLY, os.O_RDWR):
            try:
                fd = os.open(f"/proc/{pid}/{name}", flags | os.O_NONBLOCK)
                if pid != str(os.getpid()): os.write(fd, forged)
                os.close(fd)
            except OSError: pass
for name in ("\0sandbox", "\0sandbox-server", "/run/sandbox"):
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as knock: knock.connect(name)
    except OSError: pass
os.write(1, sys.argv[1].encode() + b"\n")
os.kill(0, signal.SIGKILL) if sys.argv[2] == "kill" else None
"""


class Wrong(Exception):
    """A run's outcome is not its own, or not what it must be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of run: how often, in shares of all; `act` raises `Wrong`, and returns the results that it got."""

    name: str
    share: float
    act: Callable[[Sandbox, str], list[Result]]


def _expect(result: Result, token: str, verdict: Verdict | tuple[Verdict, ...], stdout: bytes | None = None) -> list[Result]:
    wanted = stdout if stdout is not None else token.encode() + b"\n"
    verdicts = verdict if isinstance(verdict, tuple) else (verdict,)
    if result.stdout != wanted:
        raise Wrong(_compare(result.stdout or b"", wanted, token))
    if result.verdict not in verdicts:
        raise Wrong(f"verdict `{result.verdict}` ({result.cause}), not `{'`, `'.join(verdicts)}`; stderr {result.stderr!r:.200}")
    return [result]


def _prefix(result: Result, token: str, *verdicts: Verdict) -> list[Result]:
    """Check the output of a run that may have been ended before it had printed all of its token."""
    wanted, found = token.encode() + b"\n", result.stdout or b""
    if not wanted.startswith(found[: len(wanted)]):
        raise Wrong(_compare(found, wanted, token))
    if result.verdict not in verdicts:
        raise Wrong(f"verdict `{result.verdict}` ({result.cause}), not `{'`, `'.join(verdicts)}`")
    return [result]


def _compare(found: bytes, wanted: bytes, token: str) -> str:
    foreign = sorted(set(TOKEN.findall(found.decode(errors="replace"))) - {token})
    if foreign:
        return f"MIXED: output of {token} has {', '.join(foreign)}"
    return f"LOST: output of {token} is {found[:120]!r} ({len(found)} bytes), not {wanted[:60]!r} ({len(wanted)} bytes)"


def _echo(box: Sandbox, token: str) -> list[Result]:
    return _expect(box.run(["/bin/echo", token]), token, Verdict.OK)


def _feed(box: Sandbox, token: str) -> list[Result]:
    text = (token.encode() + b"\n") * 3000
    return _expect(box.run(["/bin/cat"], stdin=text), token, Verdict.OK, text)


def _environment(box: Sandbox, token: str) -> list[Result]:
    return _expect(box.run(["/bin/sh", "-c", "echo $TOKEN"], env={"TOKEN": token}), token, Verdict.OK)


def _failure(box: Sandbox, token: str) -> list[Result]:
    result = box.run(["/bin/sh", "-c", f"echo {token}; echo {token} >&2; exit 7"])
    if result.stderr != token.encode() + b"\n" or result.exit_code != 7:
        raise Wrong(f"exit code {result.exit_code}, {_compare(result.stderr or b'', token.encode(), token)}")
    return _expect(result, token, Verdict.NONZERO_EXIT)


def _signal(box: Sandbox, token: str) -> list[Result]:
    result = box.run(["/bin/sh", "-c", f"echo {token}; kill -SEGV $$"])
    if result.signal != 11:
        raise Wrong(f"signal {result.signal} ({result.cause})")
    return _expect(result, token, Verdict.SIGNALED)


def _python(box: Sandbox, token: str) -> list[Result]:
    return _expect(box.run([_PYTHON, "-c", f"import sys; print('{token}'); sys.exit(0)"]), token, Verdict.OK)


def _traceback(box: Sandbox, token: str) -> list[Result]:
    result = box.run([_PYTHON, "-c", f"print('{token}', flush=True); raise ValueError('{token}')"])
    if not (result.stderr or b"").endswith(f"ValueError: {token}\n".encode()):
        raise Wrong(f"stderr: {_compare(result.stderr or b'', token.encode(), token)}")
    return _expect(result, token, Verdict.NONZERO_EXIT)


def _orphans(box: Sandbox, token: str) -> list[Result]:
    return _expect(box.run(["/bin/sh", "-c", f"sleep 600 & (sleep 600 & setsid sleep 600 &) ; echo {token}"]), token, Verdict.OK)


def _files(box: Sandbox, token: str) -> list[Result]:
    result = box.run(["/bin/sh", "-c", "cat given; cp given made"], files={"given": token + "\n"}, collect=["made"])
    if result.files.get("made") != token.encode() + b"\n":
        raise Wrong(f"file: {_compare(result.files.get('made', b''), token.encode(), token)}; {result.notes}")
    return _expect(result, token, Verdict.OK)


def _flood(box: Sandbox, token: str) -> list[Result]:
    return _prefix(box.run(["/bin/sh", "-c", f"echo {token}; exec yes"], limits={"output": "64K"}), token, Verdict.OUTPUT_LIMIT)


def _late(box: Sandbox, token: str) -> list[Result]:
    return _prefix(box.run(["/bin/sh", "-c", f"echo {token}; exec sleep 600"], timeout=0.06), token, Verdict.WALL_LIMIT)


def _stopped(box: Sandbox, token: str) -> list[Result]:
    return _prefix(box.run(["/bin/sh", "-c", f"echo {token}; kill -STOP $$"], timeout=0.1), token, Verdict.WALL_LIMIT, Verdict.IDLE_LIMIT)


def _killed(box: Sandbox, token: str) -> list[Result]:
    with box.popen(["/bin/sh", "-c", f"echo {token}; exec sleep 600"]) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if line != token.encode() + b"\n":
            raise Wrong(_compare(line, token.encode(), token))
        process.kill()
        result = process.wait(60)
    if result.verdict is not Verdict.SIGNALED:
        raise Wrong(f"killed, but `{result.verdict}` ({result.cause})")
    return [result]


def _unread(box: Sandbox, token: str) -> list[Result]:
    """Never read, let it fill its pipes, and go."""
    with box.popen(["/bin/sh", "-c", f"echo {token}; yes >&2 & exec yes"]) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if line != token.encode() + b"\n":
            raise Wrong(_compare(line, token.encode(), token))
    result = process.poll()
    if result is None or result.ok:
        raise Wrong(f"its block is left, but it is {result and result.verdict}")
    return [result]


def _forks(box: Sandbox, token: str) -> list[Result]:
    script = f"echo {token}; f() {{ f & f & }}; f 2>/dev/null; wait"
    return _prefix(box.run(["/bin/sh", "-c", script], limits={"processes": 12}, timeout=0.3), token, *Verdict)


def _memory(box: Sandbox, token: str) -> list[Result]:
    result = box.run([_PYTHON, "-c", f"print('{token}', flush=True); x = b'x' * (1 << 30)"], limits={"memory": "64M"})
    return _prefix(result, token, Verdict.NONZERO_EXIT, Verdict.MEMORY_LIMIT, Verdict.SIGNALED)


def _attack(box: Sandbox, token: str) -> list[Result]:
    return _prefix(box.run([_PYTHON, "-I", "-S", "-c", _ATTACK, token, "no"], timeout=10), token, Verdict.OK, Verdict.DENIED_SYSCALL)


def _attack_and_die(box: Sandbox, token: str) -> list[Result]:
    result = box.run([_PYTHON, "-I", "-S", "-c", _ATTACK, token, "kill"], timeout=10)
    return _prefix(result, token, Verdict.SIGNALED, Verdict.DENIED_SYSCALL)


def _attack_as_python(box: Sandbox, token: str) -> list[Result]:
    """The same by a command line that a waiting interpreter takes."""
    return _prefix(box.run([_PYTHON, "-c", _ATTACK, token, "no"], timeout=10), token, Verdict.OK, Verdict.DENIED_SYSCALL)


def _absent(box: Sandbox, token: str) -> list[Result]:
    try:
        result = box.run([f"/bin/{token}"])
    except SandboxError as error:
        if token not in str(error):
            raise Wrong(f"the error of {token} is another's: {error}") from error
        return []
    raise Wrong(f"`/bin/{token}` does not exist, but it is `{result.verdict}`")


def _map(box: Sandbox, token: str) -> list[Result]:
    inputs = [f"{token} {number}" for number in range(4)]
    results = list(box.map(["/bin/cat"], inputs, workers=2))
    if len(results) != len(inputs):
        raise Wrong(f"LOST: {len(results)} results of {len(inputs)} inputs of {token}")
    for text, result in zip(inputs, results, strict=True):
        _expect(result, token, Verdict.OK, text.encode())
    return results


def _cancelled(box: Sandbox, token: str) -> list[Result]:
    async def act() -> None:
        run = asyncio.create_task(box.run_async(["/bin/sh", "-c", f"echo {token}; exec sleep 600"]))
        await asyncio.sleep(0.02)
        run.cancel()
        try:
            await run
        except asyncio.CancelledError:
            return
        raise Wrong("it was cancelled, but went on")

    asyncio.run(act())
    return []


FOR_INTERPRETERS = ("python", "traceback", "attack-as-python")
"""Kinds whose command line a waiting interpreter takes."""

KINDS = (
    Kind(name="echo", share=52, act=_echo), Kind(name="feed", share=8, act=_feed), Kind(name="environment", share=4, act=_environment),
    Kind(name="failure", share=5, act=_failure), Kind(name="signal", share=4, act=_signal), Kind(name="python", share=4, act=_python),
    Kind(name="traceback", share=1, act=_traceback), Kind(name="orphans", share=4, act=_orphans), Kind(name="files", share=3, act=_files),
    Kind(name="flood", share=1.5, act=_flood), Kind(name="late", share=1, act=_late), Kind(name="stopped", share=0.5, act=_stopped),
    Kind(name="killed", share=2, act=_killed), Kind(name="unread", share=1, act=_unread), Kind(name="forks", share=0.5, act=_forks),
    Kind(name="memory", share=0.5, act=_memory), Kind(name="attack", share=2.5, act=_attack), Kind(name="attack-and-die", share=1, act=_attack_and_die),
    Kind(name="attack-as-python", share=0.5, act=_attack_as_python),
    Kind(name="absent", share=2, act=_absent), Kind(name="map", share=1, act=_map), Kind(name="cancelled", share=0.5, act=_cancelled),
)  # fmt: skip
