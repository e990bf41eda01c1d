"""Steps that only servers and their runs have. Values only; `steps.py` says what a step is, `lower_served.py` makes rows of them."""

from __future__ import annotations

from sandbox.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptOrphans:
    """PR_SET_CHILD_SUBREAPER: the runs of a server that was killed become the keeper's children, so that it waits for their end before it removes anything."""

    def describe(self) -> str:
        return "adopt the runs of a server that ends"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepHostProc:
    """dup3(2) of the host's /proc to the number at which the runs of a server find it."""

    def describe(self) -> str:
        return "keep the host's /proc for the runs (closed before execve)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve:
    """A server's life: clone an init for each request, report the end of each, until the socket of requests closes."""

    template: bool

    def describe(self) -> str:
        return "serve: clone an init for each request" + (", into a copy of this root" if self.template else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class InheritRoot:
    """Nothing is mounted: clone3(2) has copied the mount namespace in which the server built the root. Dumpable again, see `Dumpable`."""

    def describe(self) -> str:
        return "live in a copy of the server's root"


@dataclass(frozen=True, slots=True, kw_only=True)
class InheritForked:
    """The same of a zygote's copy, which belongs to another user namespace: nothing that was mounted there can be unmounted or changed here."""

    def describe(self) -> str:
        return "live in a copy of the zygote's root"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dumpable:
    """PR_SET_DUMPABLE 1: the server is not, and its child's /proc/self files would belong to the host's root."""

    def describe(self) -> str:
        return "dumpable again, unlike the server"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveCommand:
    """mmap(2) of the memory that the command is read into, while no filter stands; only what is used of it takes memory."""

    size_bytes: int

    def describe(self) -> str:
        return f"reserve memory for a command of up to {self.size_bytes} bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitCommand:
    """Report READY, then read from GO what to execute: `ExecuteCommand` takes its three pointers from there."""

    size_bytes: int

    def describe(self) -> str:
        return "report ready, wait for a command"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecuteCommand:
    """execve(2) of what the command says."""

    def describe(self) -> str:
        return "execute the command"


@dataclass(frozen=True, slots=True, kw_only=True)
class Become:
    """The interpreter that was forked goes on by itself, confined. There is no execve that closes what is left of ours: GO, the listener, the status."""

    def describe(self) -> str:
        return "go on as the interpreter that was forked"
