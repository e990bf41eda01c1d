"""Runs that a server starts, driven by the test itself: the launch floor alone, without the supervisor and the API above it.

A server and its runs are built from one prepared sandbox; plans may be altered after they were proved, so that a test sees an attack succeed without a wall.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from sandbox.abi.arch import Arch
from sandbox.api.finish import explain_failure
from sandbox.api.prepare import Command, Prepared, prepare
from sandbox.api.requesting import build_request
from sandbox.errors import SandboxError
from sandbox.kernel.calls import pidfd_getfd
from sandbox.launch.idmap import HostId, claim_host_id, write_maps
from sandbox.launch.resident import Channel, Server
from sandbox.launch.spawn import Launched, sealed_memory
from sandbox.launch.zygote import Zygote, zygote_text
from sandbox.plan import fds
from sandbox.plan.build import Request
from sandbox.plan.codec import RECORD, Kind, Record, decode_record, encode_command
from sandbox.plan.lower import lower_plan
from sandbox.plan.steps import Plan
from sandbox.plan.template import build_run_plan, build_server_plan, clone_flags
from sandbox.plan.zygote import FORK_FLAGS, build_forked_plan, build_zygote_plan
from sandbox.policy.profile_load import load_profile, override_profile
from sandbox.record import replace
from sandbox.seccomp.initfilter import build_init_filter

PATIENCE_S = 120.0
Alteration = Callable[[Plan], Plan]


def same(plan: Plan) -> Plan:
    """Alter nothing."""
    return plan


def prepare_for(
    argv: Sequence[str], profile: str = "strict", *, audit: bool = False, files: dict[str, bytes] | None = None, **changes: Any
) -> Prepared:
    """Look up one sandbox, without cgroups."""
    loaded = override_profile(load_profile(profile), origin="test", limits=changes.pop("limits", None), volumes=changes.pop("volumes", ()))
    loaded = replace(loaded, **changes)
    command = Command(argv=tuple(argv), profile=loaded, environ={"PATH": "/usr/bin:/bin"}, audit=audit, files=files or {})
    return replace(prepare(command), backend=None)


@dataclass(slots=True)
class Ended:
    """One run, ended or failed: what it reported, by kind; the raw wait status; the words on its streams."""

    records: dict[Kind, Record] = field(default_factory=dict)
    out: bytes = b""
    failure: tuple[int, int] | None = None

    @property
    def status(self) -> int | None:
        """The payload's wait status, None when init could not tell."""
        return self.records[Kind.EXITED].a if Kind.EXITED in self.records else None

    @property
    def facts(self) -> dict[str, str]:
        """The payload's ``name=value`` lines."""
        pairs = (line.partition("=") for line in self.out.decode(errors="replace").splitlines())
        return {name: value for name, equals, value in pairs if equals}


class Running:
    """A run between its request and its end; closing it ends it."""

    def __init__(self, launched: Launched, out: int, command: bytes | None) -> None:
        self.launched = launched
        self._out = out
        self._go = bytes([fds.WORD_GO]) if command is None else command
        self._channel = socket.socket(fileno=os.dup(launched.descriptors.status))
        self.ended = Ended()
        self.pids: dict[Kind, int] = {}

    def receive(self) -> Record | None:
        """Take one record, None at the end."""
        ready, _, _ = select.select([self._channel], [], [], PATIENCE_S)
        assert ready, f"nothing is reported after {list(self.ended.records)}"
        try:
            data, ancillary, _, _ = self._channel.recvmsg(RECORD.size, socket.CMSG_SPACE(12))
        except ConnectionResetError:
            return None
        if not data:
            return None
        record = decode_record(data, struct.unpack_from("i", ancillary[0][2])[0])
        assert record is not None
        self.ended.records[record.kind] = record
        self.pids[record.kind] = record.pid
        if record.kind is Kind.FAILED:
            self.ended.failure = (record.row, record.a)
        return record

    def until(self, kind: Kind) -> Record:
        """Take records until one of a kind."""
        while True:
            record = self.receive()
            assert record is not None, f"the run ended before {kind.name}: {self.ended}"
            if record.kind is kind:
                return record
            assert record.kind is not Kind.FAILED, record

    def go(self) -> None:
        """Let the payload go, as a supervisor does: the listener first."""
        record = self.until(Kind.READY)
        if record.a >= 0:
            pidfd = os.pidfd_open(record.pid)
            os.close(pidfd_getfd(pidfd, record.a))
            os.close(pidfd)
        self.say_go()

    def say_go(self) -> None:
        """Write what lets it go."""
        left = self._go
        while left:
            left = left[os.write(self.launched.descriptors.go, left) :]

    def finish(self) -> Ended:
        """Take everything to the end of the socket, and the words."""
        while self.receive() is not None:
            pass
        self.close()
        return self.ended

    def read_until(self, text: bytes) -> bytes:
        """Read words of the payload while it runs, until a whole line with `text` is among them."""
        words = b""
        while not (text in words and words.endswith(b"\n")):
            ready, _, _ = select.select([self._out], [], [], PATIENCE_S)
            assert ready, f"the payload says {words!r} and no more"
            chunk = os.read(self._out, 1 << 16)
            assert chunk, f"the payload said {words!r} and ended"
            words += chunk
        return words

    def close(self) -> None:
        """End the run, if it has not; take what it has said."""
        if self._out >= 0:
            self._channel.close()
            self.launched.close()
            while chunk := os.read(self._out, 1 << 16):
                self.ended.out += chunk
            os.close(self._out)
            self._out = -1

    def __enter__(self) -> Running:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Resident:
    """A server for one prepared sandbox; a context manager.

    Args:
        prepared: what it runs.
        template: which kind of server.
        executor: ``native`` or ``python``.
        alter_server: applied to the server's proved plan.
        removals: directories to be removed by the keeper, relative to `directory`.
        entries: files, the same.
        directory: a descriptor, borrowed.
    """

    def __init__(
        self, prepared: Prepared, *, template: bool = True, executor: str = "native", alter_server: Alteration = same, removals: tuple[str, ...] = (),
        entries: tuple[str, ...] = (), directory: int = -1,
    ) -> None:  # fmt: skip
        self.prepared, self.template = prepared, template
        self._host_id: HostId | None = claim_host_id() if prepared.as_root else None
        self.request: Request = build_request(prepared, outside_id=self._host_id.number if self._host_id else -1, cgroup=None)
        self.request = replace(self.request, init_filter_bpf=build_init_filter(prepared.arch, reference=True))
        given = replace(
            self.request,
            directories=int(directory >= 0),
            removals=tuple((0, name) for name in removals),
            entries=tuple((0, name) for name in entries),
        )
        plan = alter_server(build_server_plan(given, template=template))
        table = lower_plan(plan)
        extra = (directory,) if directory >= 0 else ()

        def explain(row: int, error: int) -> SandboxError:
            return explain_failure(plan, table, row, error)

        try:
            self.server = Server.start(
                table, executor=executor, extra=extra, started=self._maps if self._host_id else None, explain=explain
            )
        except BaseException:
            if self._host_id:
                self._host_id.close()
            raise

    def _maps(self, pid: int) -> None:
        assert self._host_id is not None
        write_maps(pid, inside_uid=self.prepared.profile.uid, inside_gid=self.prepared.profile.gid, outside=self._host_id.number)

    def start(
        self, argv: Sequence[str] | None = None, *, recycle: bool = False, stdin: int | None = None, alter: Alteration = same, waits: bool = False,
        command: bytes | None = None, flags: int | None = None,
    ) -> Running:  # fmt: skip
        """Ask for a run.

        Args:
            argv: another command than the prepared one.
            recycle: with a network namespace that was used before.
            stdin: a descriptor (borrowed) instead of nothing.
            alter: applied to the run's proved plan.
            waits: the payload is told what to execute when it waits.
            command: that, instead of `argv`.
            flags: other clone flags.
        """
        request = self.request
        if argv is not None:
            request = replace(request, argv=tuple(argv), root=replace(request.root, argv0=argv[0]))
        if waits and command is None:
            command = encode_command(request.root.argv0, request.argv, request.environment)
        plan = alter(build_run_plan(request, template=self.template, waits=waits))
        flags = clone_flags(template=self.template, recycled_network=recycle) if flags is None else flags
        return self.start_plan(self.server, plan, flags, stdin, recycle=recycle, command=command)

    def start_plan(
        self, channel: Channel, plan: Plan, flags: int, stdin: int | None = None, *, recycle: bool = False, command: bytes | None = None
    ) -> Running:
        """Ask a server or zygote for a run of this plan."""
        memory = sealed_memory(lower_plan(plan))
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        out_r, out_w = os.pipe2(os.O_CLOEXEC)
        if self._host_id is not None:
            os.fchown(out_w, self._host_id.number, self._host_id.number)
        launched = Launched()
        try:
            channel.launch(launched, memory, stdio=(null if stdin is None else stdin, out_w, out_w), flags=flags, recycle_network=recycle)
        except BaseException:
            launched.close()
            os.close(out_r)
            raise
        finally:
            for fd in (memory, null, out_w):
                os.close(fd)
        return Running(launched, out_r, command)

    def run(self, argv: Sequence[str] | None = None, **options: Any) -> Ended:
        """Run something to its end."""
        with self.start(argv, **options) as running:
            return self.drive(running)

    @staticmethod
    def drive(running: Running) -> Ended:
        """Let a run go and take everything to its end."""
        with running:
            while (record := running.receive()) is not None:
                if record.kind is Kind.READY:
                    if record.a >= 0:
                        pidfd = os.pidfd_open(record.pid)
                        os.close(pidfd_getfd(pidfd, record.a))
                        os.close(pidfd)
                    running.say_go()
            return running.finish()

    def close(self) -> None:
        """End the server and everything of it."""
        self.server.close()
        if self._host_id is not None:
            self._host_id.close()

    def __enter__(self) -> Resident:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Forks(Resident):
    """A server with a zygote, whose every run is a fork of an interpreter that goes on with `code`; a context manager.

    Args:
        code: Python that each member runs.
        modules: imported before.
        first: Python that the zygote runs before anything else.
        profile: the name of one.
        alter_zygote: applied to the zygote's proved plan.
        changes: of the prepared sandbox, see `prepare_for`.
    """

    def __init__(
        self,
        code: str,
        *,
        modules: tuple[str, ...] = (),
        first: str = "",
        profile: str = "python",
        alter_zygote: Alteration = same,
        **changes: Any,
    ) -> None:
        prepared = prepare_for(("/usr/bin/python3", "-c", code), profile, **changes)
        super().__init__(prepared)
        try:
            text = first + "\n" + zygote_text(Arch(prepared.arch.value), modules) + code
            plan = alter_zygote(
                build_zygote_plan(self.request, text=text, command=("python3", "-I", "-S"), environment=self.request.environment)
            )
            table = lower_plan(plan)

            def explain(row: int, error: int) -> SandboxError:
                return explain_failure(plan, table, row, error)

            memory = sealed_memory(table)
            try:
                self.zygote = Zygote.start(self.server, memory, flags=clone_flags(template=True, recycled_network=False), explain=explain)
            finally:
                os.close(memory)
        except BaseException:
            super().close()
            raise

    def fork(self, alter: Alteration = same, stdin: int | None = None) -> Running:
        """Ask for a run."""
        return self.start_plan(self.zygote, alter(build_forked_plan(self.request)), FORK_FLAGS, stdin)

    def run_fork(self, alter: Alteration = same) -> Ended:
        """Run one to its end."""
        return self.drive(self.fork(alter))

    def close(self) -> None:
        """End everything."""
        self.zygote.close()
        super().close()
