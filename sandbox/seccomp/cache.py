"""Compiled filters on disk, so that a run never loads libseccomp.

An entry is named by everything that determines its bytes: the policy's digest, the numbers, argument places and constants that our tables give it,
architecture, `notify`, libseccomp's version, the compiling machine and the compiler's own version. It carries its hash and the digest of its proof, and
one that is not exactly what we would have written ourselves is ignored and written anew: so is one that an older prover accepted. Imported by
`api`; a hit imports neither pyseccomp nor the prover.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat

from sandbox.abi.arch import Arch, audit_arch
from sandbox.abi.constants import constant
from sandbox.abi.signatures import argument_index, argument_mask
from sandbox.abi.tables import syscall_number
from sandbox.policy.conditions import leaves, names
from sandbox.seccomp.filter import INSTRUCTION_BYTES, MAXIMUM_INSTRUCTIONS, Filter, make_filter, proof_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.policy.model import SyscallPolicy

COMPILER_VERSION = 3
"""Raise it whenever the compiler may produce other bytes for the same input, or `policy.check` may refuse what it accepted: a hit is not checked again."""

_MAGIC = b"sandbox filter 2\n"
_HEX_BYTES = 64
_HEADER_BYTES = len(_MAGIC) + 2 * (_HEX_BYTES + 1)
_LIBRARY = "libseccomp.so.2"
_LIBRARY_DIRS = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/lib64",
    "/usr/lib",
    "/lib",
    "/usr/local/lib64",
    "/usr/local/lib",
)


def load_filter(policy: SyscallPolicy, arch: Arch, *, notify: bool = True, cache_dir: str | None = None) -> Filter:
    """Return a policy's filter, from the cache or compiled now.

    Args:
        policy: the merged policy; it need not be checked, compiling checks it and a cached filter was compiled once.
        arch: the architecture whose calls are judged.
        notify: see `compile.compile_filter`.
        cache_dir: where entries lie; None means ``$XDG_CACHE_HOME/sandbox/filters``. Made with mode 0700 if missing. When it cannot be used, or
            somebody else could write there, the filter is compiled in memory.

    Raises:
        PolicyError: the policy's meaning is wrong.
        CompileError: it cannot become a filter.
    """
    key = cache_key(policy, arch, notify)
    directory = _open_directory(cache_dir if cache_dir is not None else default_cache_dir())
    try:
        entry = _read(directory, key, arch) if directory is not None else None
        if entry is not None:
            bpf, proof = entry
            found = make_filter(bpf, arch=arch, policy=policy.name, policy_digest=policy.digest, notify=notify, proof=proof)
            if proof == proof_digest(policy.digest, found.digest, arch, notify):
                return found
        from sandbox.seccomp.compile import compile_filter

        result = compile_filter(policy, arch, notify=notify)
        if directory is not None:
            _write(directory, key, result)
        return result
    finally:
        if directory is not None:
            os.close(directory)


def cache_key(policy: SyscallPolicy, arch: Arch, notify: bool) -> str:
    """Return the hex name of an entry: SHA-256 over everything that determines its bytes."""
    head = (COMPILER_VERSION, policy.digest, str(arch), audit_arch(arch), notify, libseccomp_version(), os.uname().machine)
    lines = [repr(head)]
    for syscall, entries in policy.rules.items():
        number = syscall_number(arch, syscall)
        lines.append(f"{syscall} {number}\n")
        if number is None:
            continue
        for entry in entries:
            condition = entry.rule.condition
            if condition is None:
                continue
            for leaf in leaves(condition):
                index = argument_index(syscall, leaf.argument, arch)
                mask = argument_mask(syscall, index, arch) if index is not None else None
                lines.append(f"{leaf.argument} {index} {mask}\n")
            lines += [f"{name} {constant(name, arch)}\n" for name in names(condition)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def libseccomp_version() -> str:
    """Return the file name behind libseccomp.so.2, such as ``libseccomp.so.2.5.4``, without loading it; empty where it is not in a usual place.

    The name carries the version in every distribution's package; its size and time tell rebuilt ones apart.
    """
    for directory in _LIBRARY_DIRS:
        path = os.path.join(directory, _LIBRARY)
        try:
            status = os.stat(path)
        except OSError:
            continue
        return f"{os.path.basename(os.path.realpath(path))} {status.st_size} {status.st_mtime_ns}"
    return ""


def default_cache_dir() -> str | None:
    """Return ``$XDG_CACHE_HOME/sandbox/filters`` (default ``~/.cache``), or None when neither variable gives an absolute path."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        home = os.environ.get("HOME", "")
        if not os.path.isabs(home):
            return None
        base = os.path.join(home, ".cache")
    return os.path.join(base, "sandbox", "filters")


def _is_ours(status: os.stat_result) -> bool:
    # Whoever else can write the file chooses the filter; sudo with the user's HOME is the usual way to meet one.
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _open_directory(path: str | None) -> int | None:
    """Return an fd of the cache directory, owned by the caller, or None when it cannot be trusted or used."""
    if path is None:
        return None
    try:
        _make_directory(path)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    if _is_ours(os.fstat(fd)):
        return fd
    os.close(fd)
    return None


def _make_directory(path: str) -> None:
    """Make the cache directory if it is not there, but not in somebody else's.

    Under sudo with the user's HOME root would follow whatever links are there, and the user, who cannot use a directory of root's, would compile at
    every run from then on.

    Raises:
        OSError: it cannot or must not be made.
    """
    if os.path.lexists(path):
        return
    above = os.path.dirname(os.path.abspath(path))
    while not os.path.exists(above):
        above = os.path.dirname(above)
    if os.stat(above).st_uid not in (0, os.geteuid()):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), above)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass


def _seal(key: str, bpf: bytes, proof: bytes) -> bytes:
    """Return the entry's bytes; the key is hashed too, so that one entry cannot stand in for another."""
    return _MAGIC + hashlib.sha256(key.encode() + proof + bpf).hexdigest().encode() + b"\n" + proof + b"\n" + bpf


def _read(directory: int, key: str, arch: Arch) -> tuple[bytes, str] | None:
    """Return an entry's program and the digest of its proof, or None when it is missing or anything about it is wrong."""
    limit = _HEADER_BYTES + MAXIMUM_INSTRUCTIONS * INSTRUCTION_BYTES
    try:
        fd = os.open(key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not _is_ours(status) or not _HEADER_BYTES < status.st_size <= limit:
            return None
        content = os.read(fd, limit + 1)
    except OSError:
        return None
    finally:
        os.close(fd)
    bpf = content[_HEADER_BYTES:]
    proof = content[_HEADER_BYTES - _HEX_BYTES - 1 : _HEADER_BYTES - 1]
    if content != _seal(key, bpf, proof) or not proof.isalnum() or len(bpf) % INSTRUCTION_BYTES:
        return None
    # The program of the right key for the wrong architecture cannot exist; a filter that does not test its architecture must not.
    return (bpf, proof.decode("ascii")) if bpf[12:16] == audit_arch(arch).to_bytes(4, "little") else None


def _write(directory: int, key: str, filter: Filter) -> None:
    """Add an entry; failing to is no error.

    It is written to a file without a name, which a SIGKILL cannot leave behind, and linked when whole. Where the file system has none (NFS, FAT, some
    FUSE), it is written under its own name: what a SIGKILL leaves then is a part of an entry, which nobody believes and the next writer replaces. Of
    two writers the first wins; both hold the same. An entry that could not be used is taken away first.
    """
    content = _seal(key, filter.bpf, filter.proof.encode())
    try:
        if not _link_whole(directory, key, content):
            _unlink(directory, key)
            fd = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
            _put(fd, content)
    except OSError:
        pass


def _link_whole(directory: int, key: str, content: bytes) -> bool:
    """Write a file without a name and give it one; return whether that can be done here."""
    try:
        fd = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except OSError as error:
        return error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
    try:
        if os.write(fd, content) == len(content):
            _unlink(directory, key)
            os.link(f"/proc/self/fd/{fd}", key, dst_dir_fd=directory, follow_symlinks=True)
    except FileExistsError:
        pass  # another writer's
    except FileNotFoundError:
        return False  # no /proc here
    finally:
        os.close(fd)
    return True


def _put(fd: int, content: bytes) -> None:
    try:
        os.write(fd, content)  # where it falls short, nobody believes the entry
    finally:
        os.close(fd)


def _unlink(directory: int, key: str) -> None:
    try:
        os.unlink(key, dir_fd=directory)
    except FileNotFoundError:
        pass
