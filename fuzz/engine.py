"""Runs one fuzz target: under atheris where it is installed, else with the mutator of this file, which needs nothing.

A target is a function of bytes that raises when something is wrong, and may return a word for what happened. The process that was asked only
supervises: a child does the work, so that a crash, a hang or an exhausted memory ends with a stored input, a figure and a clear message in any
case. Imported by the targets; nothing of the product may import this folder.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import NoReturn

Target = Callable[[bytes], str | None]

HERE = Path(__file__).resolve().parent
# Of a checkout that belongs to somebody else, nothing is written to.
_OWN = os.access(HERE, os.W_OK)
_STATE = HERE.parent / ".cache" / "fuzz" if _OWN else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sandbox" / "fuzz"
_MEMORY_MB = 3072
_TIMEOUT_S = 180  # wall clock: a busy machine stretches an input of two seconds
_MAXIMUM_INPUT = 8192
_KEEP_FILES = 300
_KEEP_BYTES = 200_000
_CHILD = "SANDBOX_FUZZ_CHILD"
_SCRATCH = "SANDBOX_FUZZ_SCRATCH"
_SHOW_EVERY_S = 60
# What libFuzzer looks for in a C program.
_NOISE = re.compile(rb'WARNING: Failed to find function|Dictionary: |INFO: +\d+ files found|.*DE: "|\s*$')
_PROGRESS = re.compile(rb"#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+)")


def instrumented(running: bool) -> contextlib.AbstractContextManager[object]:
    """Return a context in which imports of the product are instrumented for coverage, when this process will fuzz with atheris.

    Args:
        running: whether the target is the program that runs; tests import targets as plain modules.
    """
    if running and os.environ.get(_CHILD) == "atheris":
        import atheris

        return atheris.instrument_imports(include=["sandbox"])
    return contextlib.nullcontext()


@functools.cache
def scratch() -> str:
    """Return a directory for a target's files; it goes when the run ends."""
    given = os.environ.get(_SCRATCH)
    if given is not None:
        return given
    path = _scratch()
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def _scratch() -> str:
    return tempfile.mkdtemp(prefix="sandbox-fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


def has_atheris() -> bool:
    """Tell whether the coverage-guided engine is there."""
    return importlib.util.find_spec("atheris") is not None


def corpus(target: str) -> list[Path]:
    """Return a target's stored inputs, and every input that once broke it; not the written-out ones, which are no bytes for a generator."""
    folders = (HERE / "corpus" / target, HERE / "crashes" / target)
    return sorted(path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_file() and path.suffix != ".txt")


def main(
    target: str,
    one_input: Target,
    seeds: Iterable[bytes] = (),
    words: Iterable[str] = (),
    replay: Callable[[str], str] | None = None,
) -> NoReturn:
    """Fuzz as the command line says, and exit: 0 nothing found, 1 something found, 2 the command line is wrong.

    Args:
        target: the target's name.
        one_input: raises for an input that shows a bug.
        seeds: inputs to begin with, besides the stored ones.
        words: a dictionary: words that are worth inserting.
        replay: runs an input that is written out, a file named ``*.txt``.
    """
    if _CHILD in os.environ:
        _work(target, one_input, list(seeds), sorted(set(words)))
    arguments = sys.argv[1:]
    seconds = 60
    if arguments and arguments[0].isdigit():
        seconds = int(arguments.pop(0))
    engine = "atheris" if has_atheris() else "plain"
    if arguments[:1] == ["--plain"]:
        engine = "plain"
        arguments.pop(0)
    if arguments[:1] == ["--minimise"]:
        sys.exit(_minimise(target, one_input))
    inputs = [Path(argument) for argument in arguments if not argument.startswith("-")]
    if missing := [path for path in inputs if not path.is_file()]:
        print(f"usage: ./dev fuzz {target} [SECONDS] [--plain | --minimise] [-LIBFUZZER=OPTION...] [INPUT...]", file=sys.stderr)
        print(f"error: `{missing[0]}` is no file", file=sys.stderr)
        sys.exit(2)
    if inputs:
        for path in inputs:
            outcome = replay(path.read_text()) if replay is not None and path.suffix == ".txt" else one_input(path.read_bytes())
            print(f"{path}: {outcome or 'fine'}")
        sys.exit(0)
    sys.exit(_supervise(target, engine, seconds, [argument for argument in arguments if argument.startswith("-")]))


def _supervise(target: str, engine: str, seconds: int, options: list[str]) -> int:
    """Run the child, copy its words, and print one line of figures when it has ended."""
    began = time.monotonic()
    read_end, write_end = os.pipe()
    scratch = _scratch()
    pid = os.fork()
    if not pid:
        os.dup2(write_end, 2)
        os.environ[_CHILD] = engine
        os.environ[_SCRATCH] = scratch
        os.execv(sys.executable, [sys.executable, "-I", sys.argv[0], str(seconds), *options])
    os.close(write_end)
    last: tuple[bytes, ...] = (b"0", b"0", b"0")
    shown = 0.0
    with open(read_end, "rb") as lines:
        for line in lines:
            found = _PROGRESS.search(line)
            if found is not None:
                last = found.groups()
                if time.monotonic() < shown + _SHOW_EVERY_S:
                    continue
                shown = time.monotonic()
            elif _NOISE.match(line):
                continue
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
    _, status, usage = os.wait4(pid, 0)
    shutil.rmtree(scratch, ignore_errors=True)
    code = os.waitstatus_to_exitcode(status)
    executions, edges, features = map(int, last)
    figures = {
        "target": target,
        "engine": engine,
        "executions": executions,
        "edges": edges,
        "features": features,
        "wall_seconds": round(time.monotonic() - began),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "memory_mb": usage.ru_maxrss // 1024,
        "exit": code,
    }
    print(json.dumps(figures), file=sys.stderr)
    return 1 if code else 0


def _work(target: str, one_input: Target, seeds: list[bytes], words: list[str]) -> NoReturn:
    seconds = int(sys.argv[1])
    working = _STATE / target
    crashes = (HERE if _OWN else _STATE) / "crashes" / target
    for folder in (working, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (working / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    if os.environ[_CHILD] == "plain":
        _plain(one_input, seconds, working, crashes, target, [word.encode() for word in words])
    import atheris

    dictionary = _STATE / f"{target}.dict"
    dictionary.write_text("".join(f'"{_escape(word)}"\n' for word in words))
    folders = [str(folder) for folder in (working, HERE / "corpus" / target, crashes) if folder.is_dir()]
    # -len_control=0: most targets read structure from the bytes, and short inputs hold little of it.
    options = [
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={_MEMORY_MB}",
        f"-timeout={_TIMEOUT_S}",
        f"-max_len={_MAXIMUM_INPUT}",
        "-len_control=0",
        f"-artifact_prefix={crashes}/",
        *([f"-dict={dictionary}"] if words else []),
        f"-report_slow_units={_TIMEOUT_S}",
        *[argument for argument in sys.argv[2:] if argument.startswith("-")],
    ]

    def run(data: bytes) -> None:
        one_input(data)

    atheris.Setup([target, *options, *folders], run)
    atheris.Fuzz()
    sys.exit(0)


def _escape(word: str) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in word.encode())


def _plain(one_input: Target, seconds: int, working: Path, crashes: Path, target: str, words: list[bytes]) -> NoReturn:
    """Mutate stored inputs at random; one that leads to an outcome not met before is kept and mutated on."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_MB << 20, _MEMORY_MB << 20))
    seed = next((int(option.removeprefix("-seed=")) for option in sys.argv[2:] if option.startswith("-seed=")), time.time_ns())
    chance = random.Random(seed)
    print(f"INFO: plain engine, -seed={seed}", file=sys.stderr, flush=True)
    pool = [path.read_bytes() for path in (*sorted(working.iterdir()), *corpus(target))] or [b""]
    met: set[str] = set()
    runs = 0
    end = time.monotonic() + seconds
    shown = 0.0

    def too_long(*_: object) -> NoReturn:
        raise TimeoutError(f"one input took more than {_TIMEOUT_S} s")

    signal.signal(signal.SIGALRM, too_long)
    while time.monotonic() < end:
        data = pool[runs] if runs < len(pool) else mutate(chance, pool, words)
        signal.alarm(_TIMEOUT_S)
        try:
            outcome = one_input(data) or ""
        except BaseException:
            path = crashes / f"crash-{hashlib.sha1(data).hexdigest()}"
            path.write_bytes(data)
            print(f"#{runs + 1} CRASH cov: {len(met)} ft: {len(met)}\nstored as {path}", file=sys.stderr, flush=True)
            raise
        finally:
            signal.alarm(0)
        runs += 1
        new = outcome not in met
        if new:
            met.add(outcome)
            pool.append(data)
            (working / hashlib.sha1(data).hexdigest()).write_bytes(data)
        if new or time.monotonic() > shown + 10:
            shown = time.monotonic()
            # An outcome counts as an edge: this engine sees no others.
            print(f"#{runs} {'NEW' if new else 'pulse'} cov: {len(met)} ft: {len(met)} corp: {len(pool)}", file=sys.stderr, flush=True)
    print(f"#{runs} DONE cov: {len(met)} ft: {len(met)} corp: {len(pool)}", file=sys.stderr, flush=True)
    sys.exit(0)


def mutate(chance: random.Random, pool: list[bytes], words: list[bytes]) -> bytes:
    """Return a changed copy of one of the inputs, or new random bytes."""
    data = bytearray(chance.choice(pool))
    if not data or chance.random() < 0.05:
        return chance.randbytes(chance.randrange(1, 512))
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = chance.randrange(256)
        elif kind == 2:
            data[at:at] = chance.randbytes(chance.randrange(1, 9))
        elif kind == 3:
            del data[at : at + chance.randrange(1, 17)]
        elif kind == 4 and words:
            data[at:at] = chance.choice(words)
        else:
            other = chance.choice(pool)
            begin = chance.randrange(len(other) + 1)
            data[at : at + chance.randrange(33)] = other[begin : begin + chance.randrange(65)]
    return bytes(data[:_MAXIMUM_INPUT])


def _minimise(target: str, one_input: Target) -> int:
    """Replace the stored corpus by few small inputs that together take every step between lines that the working one takes."""
    stored = HERE / "corpus" / target
    stored.mkdir(parents=True, exist_ok=True)
    everything = {path.read_bytes() for folder in (stored, _STATE / target) if folder.is_dir() for path in folder.iterdir()}
    steps: set[tuple[str, int, int]] = set()
    kept: list[bytes] = []
    for data in sorted(everything, key=lambda data: (len(data), data)):
        taken = _trace(one_input, data)
        if taken - steps:
            steps |= taken
            kept.append(data)
        if len(kept) == _KEEP_FILES or sum(map(len, kept)) > _KEEP_BYTES:
            break
    for old in stored.iterdir():
        old.unlink()
    for data in kept:
        (stored / hashlib.sha1(data).hexdigest()[:16]).write_bytes(data)
    print(f"{target}: {len(kept)} of {len(everything)} inputs, {sum(map(len, kept))} bytes, {len(steps)} steps")
    return 0


def _trace(one_input: Target, data: bytes) -> set[tuple[str, int, int]]:
    """Return the steps from line to line that an input takes within the product."""
    steps: set[tuple[str, int, int]] = set()
    own = str(HERE.parent / "sandbox")

    def enter(frame: FrameType, event: str, argument: object) -> Callable[..., object] | None:
        name = frame.f_code.co_filename
        if not name.startswith(own):
            return None
        last = frame.f_lineno

        def line(frame: FrameType, event: str, argument: object) -> Callable[..., object]:
            nonlocal last
            steps.add((name, last, frame.f_lineno))
            last = frame.f_lineno
            return line

        return line

    sys.settrace(enter)
    try:
        one_input(data)
    finally:
        sys.settrace(None)
    return steps
