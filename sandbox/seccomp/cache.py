"""Compiled filters on disk, so that a run never loads libseccomp.

An entry is named by everything that determines its bytes: the policy's digest, the numbers, argument places and constants that our tables give it,
architecture, `notify`, libseccomp's version, the compiling machine and the compiler's own version. It carries its hash and the digest of its proof, and
one that is not exactly what we would have written ourselves is ignored and written anew: so is one that an older prover accepted. Imported by
`api`; a hit imports neither pyseccomp nor the prover.
"""

from __future__ import annotations

import hashlib
import os

from sandbox.abi.arch import Arch, audit_arch
from sandbox.abi.constants import constant
from sandbox.abi.signatures import argument_index, argument_mask
from sandbox.abi.tables import syscall_number
from sandbox.policy.conditions import leaves, names
from sandbox.seccomp.filter import INSTRUCTION_BYTES, MAXIMUM_INSTRUCTIONS, Filter, make_filter, proof_digest
from sandbox.store import cache_path, open_directory, read_entry, write_entry

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
    directory = open_directory(cache_dir if cache_dir is not None else default_cache_dir())
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
    return cache_path(os.environ, "filters")


def _seal(key: str, bpf: bytes, proof: bytes) -> bytes:
    """Return the entry's bytes; the key is hashed too, so that one entry cannot stand in for another."""
    return _MAGIC + hashlib.sha256(key.encode() + proof + bpf).hexdigest().encode() + b"\n" + proof + b"\n" + bpf


def _read(directory: int, key: str, arch: Arch) -> tuple[bytes, str] | None:
    """Return an entry's program and the digest of its proof, or None when it is missing or anything about it is wrong."""
    content = read_entry(directory, key, _HEADER_BYTES + MAXIMUM_INSTRUCTIONS * INSTRUCTION_BYTES)
    if content is None or len(content) <= _HEADER_BYTES:
        return None
    bpf = content[_HEADER_BYTES:]
    proof = content[_HEADER_BYTES - _HEX_BYTES - 1 : _HEADER_BYTES - 1]
    if content != _seal(key, bpf, proof) or not proof.isalnum() or len(bpf) % INSTRUCTION_BYTES:
        return None
    # The program of the right key for the wrong architecture cannot exist; a filter that does not test its architecture must not.
    return (bpf, proof.decode("ascii")) if bpf[12:16] == audit_arch(arch).to_bytes(4, "little") else None


def _write(directory: int, key: str, filter: Filter) -> None:
    """Add an entry; failing to is no error."""
    write_entry(directory, key, _seal(key, filter.bpf, filter.proof.encode()))
