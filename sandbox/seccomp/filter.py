"""The compiled filter as a value. Types only; every floor from `seccomp` up may import this module."""

from __future__ import annotations

import hashlib

from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.abi.arch import Arch

INSTRUCTION_BYTES = 8
MAXIMUM_INSTRUCTIONS = 4096
"""BPF_MAXINSNS (Source: linux/bpf_common.h)."""

PROVER_VERSION = 1
"""Raise it whenever the prover may refuse what it accepted before: cached filters are then proven again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A seccomp program, ready for seccomp(SECCOMP_SET_MODE_FILTER).

    `bpf` is an array of struct sock_filter in little-endian order, which is that of both architectures. `notify` tells whether it may return
    SECCOMP_RET_USER_NOTIF, so that it must be installed with SECCOMP_FILTER_FLAG_NEW_LISTENER. `digest` is SHA-256 of `bpf` in hex.
    `proof` is the digest of its proof (`prove.Proof.digest`), empty as long as nobody has shown that it does what its policy says.
    """

    bpf: bytes
    arch: Arch
    policy: str
    policy_digest: str
    notify: bool
    digest: str
    proof: str = ""

    @property
    def instructions(self) -> int:
        """Return the number of BPF instructions."""
        return len(self.bpf) // INSTRUCTION_BYTES


def make_filter(bpf: bytes, *, arch: Arch, policy: str, policy_digest: str, notify: bool, proof: str = "") -> Filter:
    """Return a `Filter` for program bytes, with their digest."""
    digest = hashlib.sha256(bpf).hexdigest()
    return Filter(bpf=bpf, arch=arch, policy=policy, policy_digest=policy_digest, notify=notify, digest=digest, proof=proof)


def proof_digest(policy_digest: str, filter_digest: str, arch: Arch, notify: bool) -> str:
    """Return SHA-256 in hex over what a proof is about and the prover's version; here because a cache hit must not import the prover."""
    return hashlib.sha256(f"proof {PROVER_VERSION} {policy_digest} {filter_digest} {arch} {notify}\n".encode()).hexdigest()
