"""The compiled filter as a value. Types only; every floor from `seccomp` up may import this module."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sandbox.abi.arch import Arch

INSTRUCTION_BYTES = 8
MAXIMUM_INSTRUCTIONS = 4096
"""BPF_MAXINSNS (Source: linux/bpf_common.h)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A seccomp program, ready for seccomp(SECCOMP_SET_MODE_FILTER).

    `bpf` is an array of struct sock_filter in little-endian order, which is that of both architectures. `notify` tells whether it may return
    SECCOMP_RET_USER_NOTIF, so that it must be installed with SECCOMP_FILTER_FLAG_NEW_LISTENER. `digest` is SHA-256 of `bpf` in hex.
    """

    bpf: bytes
    arch: Arch
    policy: str
    policy_digest: str
    notify: bool
    digest: str

    @property
    def instructions(self) -> int:
        """Return the number of BPF instructions."""
        return len(self.bpf) // INSTRUCTION_BYTES


def make_filter(bpf: bytes, *, arch: Arch, policy: str, policy_digest: str, notify: bool) -> Filter:
    """Return a `Filter` for program bytes, with their digest."""
    return Filter(bpf=bpf, arch=arch, policy=policy, policy_digest=policy_digest, notify=notify, digest=hashlib.sha256(bpf).hexdigest())
