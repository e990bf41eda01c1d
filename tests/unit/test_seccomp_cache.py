"""The cache of compiled filters: hits without libseccomp, and nothing believed that is not exactly what was written."""

from __future__ import annotations

import errno
import functools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox import store
from sandbox.abi.arch import Arch
from sandbox.policy.load import load_policy
from sandbox.policy.model import SyscallPolicy
from sandbox.seccomp import cache
from sandbox.seccomp import compile as compiler
from sandbox.seccomp import filter as filter_module
from sandbox.seccomp.cache import cache_key, default_cache_dir, libseccomp_version, load_filter
from sandbox.seccomp.filter import Filter, proof_digest

POLICY = load_policy("base")
compiled: list[str] = []


@pytest.fixture(autouse=True)
def counted_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile each policy once for all tests, and count how often the cache asked for it."""
    compiled.clear()

    def compile_filter(policy: SyscallPolicy, arch: Arch, *, notify: bool) -> Filter:
        compiled.append(policy.name)
        return really_compiled(policy.name)

    monkeypatch.setattr(compiler, "compile_filter", compile_filter)


@functools.cache
def really_compiled(name: str, compile_filter: Callable[..., Filter] = compiler.compile_filter) -> Filter:
    return compile_filter(load_policy(name), Arch.X86_64)


def load(directory: Path) -> Filter:
    return load_filter(POLICY, Arch.X86_64, cache_dir=str(directory))


def read(directory: Path, key: str) -> tuple[bytes, str] | None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        return cache._read(fd, key, Arch.X86_64)
    finally:
        os.close(fd)


def entry(directory: Path) -> Path:
    (path,) = directory.iterdir()
    return path


def test_an_entry_is_private_and_found_again_without_libseccomp(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "filters"
    first = load(directory)
    assert directory.stat().st_mode & 0o777 == 0o700 and entry(directory).stat().st_mode & 0o777 == 0o600
    script = (
        "import sys; from sandbox.policy.load import load_policy; from sandbox.seccomp.cache import load_filter; from sandbox.abi.arch import Arch\n"
        f"f = load_filter(load_policy('base', check=False), Arch.X86_64, cache_dir={str(directory)!r})\n"
        "print(f.digest, 'pyseccomp' in sys.modules, 'sandbox.policy.check' in sys.modules and 'ctypes' in sys.modules, 'sandbox.seccomp.prove' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.split() == [first.digest, "False", "False", "False"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def stand_in(path: Path) -> None:
    # A whole and well-formed entry of another key.
    other = load_filter(load_policy("permissive"), Arch.X86_64, cache_dir=str(path.parent.parent / "other"))
    path.write_bytes(entry(path.parent.parent / "other").read_bytes())
    assert other.digest


def link(path: Path) -> None:
    target = path.parent.parent / "target"
    path.rename(target)
    path.symlink_to(target)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped bit": flip,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-8]),
    "grown": lambda path: path.write_bytes(path.read_bytes() + bytes(8)),
    "empty": lambda path: path.write_bytes(b""),
    "huge": lambda path: os.truncate(path, 1 << 30),
    "another's": stand_in,
    "group-writable": lambda path: path.chmod(0o620),
    "world-writable": lambda path: path.chmod(0o602),
    "a link": link,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_doubtful_entry_is_ignored_and_written_anew(tmp_path: Path, damage: str) -> None:
    directory = tmp_path / "filters"
    good = load(directory)
    DAMAGES[damage](entry(directory))
    assert read(directory, cache_key(POLICY, Arch.X86_64, True)) is None
    assert load(directory) == good and compiled.count("base") == 2
    path = entry(directory)
    assert not path.is_symlink() and path.stat().st_mode & 0o777 == 0o600
    assert read(directory, path.name) == (good.bpf, good.proof)
    assert load(directory) == good and compiled.count("base") == 2


def test_an_entry_records_its_proof_and_is_nothing_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "filters"
    good = load(directory)
    assert good.proof == proof_digest(POLICY.digest, good.digest, Arch.X86_64, True)
    assert load(directory) == good and compiled.count("base") == 1
    # What an older prover accepted is proven again.
    with monkeypatch.context() as patch:
        patch.setattr(filter_module, "PROVER_VERSION", filter_module.PROVER_VERSION + 1)
        load(directory)
        assert compiled.count("base") == 2
    # Whole, sealed and of the right key, but the proof is another program's.
    key = entry(directory).name
    fd = os.open(directory, os.O_RDONLY)
    try:
        cache._write(fd, key, replace(good, proof=proof_digest(POLICY.digest, "0" * 64, Arch.X86_64, True)))
    finally:
        os.close(fd)
    assert read(directory, key) is not None
    assert load(directory) == good and compiled.count("base") == 3


@pytest.mark.parametrize("kind", ["world-writable", "link", "file", "fifo inside", "unwritable parent"])
def test_without_a_safe_directory_it_compiles_in_memory(tmp_path: Path, kind: str) -> None:
    directory = tmp_path / "filters"
    if kind == "world-writable":
        directory.mkdir()
        directory.chmod(0o777)
    elif kind == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        directory.symlink_to(tmp_path / "real")
    elif kind == "file":
        directory.write_text("")
    elif kind == "fifo inside":
        directory.mkdir(mode=0o700)
        os.mkfifo(directory / cache_key(POLICY, Arch.X86_64, True))
    else:
        directory = Path("/proc/nowhere/filters")
    assert load(directory).instructions > 100 and compiled == ["base"]
    if kind in ("world-writable", "link"):
        assert not list(directory.iterdir())


def test_a_foreign_owner_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "filters"
    good = load(directory)
    name = entry(directory).name
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(directory).st_uid + 1)
    assert store.open_directory(str(directory)) is None
    assert read(directory, name) is None
    assert load(directory) == good and len(compiled) == 2


def test_no_directory_is_made_in_somebody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root with a user's HOME, or with an XDG_CACHE_HOME of somebody else's: nothing is left there, and the filter is compiled all the same."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".cache").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    if os.geteuid() == 0:
        os.chown(tmp_path / "elsewhere", 65534, 65534)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    for _ in range(2):
        assert load(home / ".cache" / "sandbox" / "filters").digest == really_compiled("base").digest
    assert compiled == ["base", "base"] and not list((tmp_path / "elsewhere").iterdir())


def test_the_key_follows_everything_that_decides_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [cache_key(POLICY, Arch.X86_64, True), cache_key(POLICY, Arch.X86_64, False), cache_key(POLICY, Arch.AARCH64, True)]
    keys.append(cache_key(load_policy("strict"), Arch.X86_64, True))
    changes: list[tuple[str, object]] = [
        ("COMPILER_VERSION", 0),
        ("libseccomp_version", lambda: "other"),
        ("constant", lambda name, arch: 1),
        ("syscall_number", lambda arch, name: 1),
        ("argument_mask", lambda *arguments: 1),
    ]
    for name, change in changes:
        with monkeypatch.context() as patch:
            patch.setattr(cache, name, change)
            keys.append(cache_key(POLICY, Arch.X86_64, True))
    assert len(set(keys)) == len(keys)


def test_libseccomp_is_found_without_loading_it() -> None:
    assert libseccomp_version().startswith("libseccomp.so.2.")


def test_relative_directories_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "x")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_cache_dir() == "/home/someone/.cache/sandbox/filters"
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert default_cache_dir() == "/c/sandbox/filters"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    assert default_cache_dir() is None


# ---------------------------------------------------------------- many processes, killed at any moment


def without_nameless_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behave like a file system that has no O_TMPFILE."""
    real = os.open

    def open_(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", open_)


def without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def link_(source: str, *arguments: object, **options: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", source)

    monkeypatch.setattr(os, "link", link_)


WAYS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "nameless": lambda monkeypatch: None,
    "no O_TMPFILE": without_nameless_files,
    "no /proc": without_proc,
}


@pytest.mark.parametrize("way", WAYS)
def test_an_entry_is_kept_on_every_file_system(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WAYS[way](monkeypatch)
    good = load(tmp_path / "filters")
    assert load(tmp_path / "filters") == good and compiled.count("base") == 1
    flip(entry(tmp_path / "filters"))
    assert load(tmp_path / "filters") == good and load(tmp_path / "filters") == good and compiled.count("base") == 2
    assert entry(tmp_path / "filters").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("cut", [0, 20, 150, -8])
def test_what_a_kill_leaves_without_nameless_files_is_replaced(cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_nameless_files(monkeypatch)
    good = load(tmp_path / "filters")
    path = entry(tmp_path / "filters")
    path.write_bytes(path.read_bytes()[:cut])
    assert load(tmp_path / "filters") == good and compiled.count("base") == 2
    assert load(tmp_path / "filters") == good and compiled.count("base") == 2


NAMES = ("base", "strict", "permissive")
WRITERS, KILLS = 4, 40


def _use_the_cache(directory: str, seed: int, progress: int) -> None:
    """Load, check, and now and then spoil or remove entries, for ever: what a worker of the next test does until it is killed."""
    order = random.Random(seed)
    while True:
        name = order.choice(NAMES)
        policy = POLICIES[name]
        found = load_filter(policy, Arch.X86_64, cache_dir=directory)
        # A reader gets the right bytes whatever the others are doing.
        os.write(progress, b"." if found == really_compiled(name) else b"!")
        path = os.path.join(directory, cache_key(policy, Arch.X86_64, True))
        try:
            if order.random() < 0.3:
                os.unlink(path)
            elif order.random() < 0.1:
                os.truncate(path, cache._HEADER_BYTES + 160)  # well-formed, but for its hash
        except FileNotFoundError:
            pass


POLICIES = {name: load_policy(name) for name in NAMES}


@pytest.mark.parametrize("way", WAYS)
def test_writers_killed_at_any_moment_leave_nothing_bad(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WAYS[way](monkeypatch)
    directory = str(tmp_path / "filters")
    good = {cache_key(POLICIES[name], Arch.X86_64, True): really_compiled(name) for name in NAMES}
    order = random.Random(7)
    reader, progress = os.pipe()
    workers: list[int] = []
    seen = b""
    try:
        for seed in range(WRITERS + KILLS):
            if len(workers) == WRITERS:
                # After some steps of whoever runs: no step of the victim is spared.
                seen += os.read(reader, order.randint(1, 40))
                victim = workers.pop(order.randrange(WRITERS))
                os.kill(victim, signal.SIGKILL)
                os.waitpid(victim, 0)
            pid = os.fork()
            if pid == 0:
                try:
                    _use_the_cache(directory, seed, progress)
                finally:
                    os._exit(1)
            workers.append(pid)
        seen += os.read(reader, 1)  # of a worker that is still at it, however slow
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.set_blocking(reader, False)
        with suppress(BlockingIOError):
            seen += os.read(reader, 1 << 20)
        os.close(reader)
        os.close(progress)
    assert set(seen) == set(b".") and len(seen) > KILLS
    # No file under another name, and nothing believed that is not right.
    names = set(os.listdir(directory))
    assert names <= set(good)
    for key in names:
        found = read(Path(directory), key)
        assert found in (None, (good[key].bpf, good[key].proof))
    for name in NAMES:
        assert load_filter(POLICIES[name], Arch.X86_64, cache_dir=directory) == really_compiled(name)
        assert read(Path(directory), cache_key(POLICIES[name], Arch.X86_64, True)) is not None
