"""A sandbox that waits, confined, before its execve: how it is made, whom it fits, and how a run takes it. `pool_ahead` keeps them."""

from __future__ import annotations

import os
import select
import time

from sandbox.api.finish import explain_failure
from sandbox.api.requesting import build_request, inner_argv
from sandbox.api.served import Served
from sandbox.api.start import StartGoneError
from sandbox.api.streams import Streams, open_children
from sandbox.errors import SandboxError
from sandbox.launch.resident import ServerGoneError, clone_refusal
from sandbox.launch.spawn import Descriptors, Launched
from sandbox.plan import fds
from sandbox.plan.codec import encode_command
from sandbox.plan.lower import lower_plan
from sandbox.plan.root import Directory, FileBytes
from sandbox.plan.template import build_run_plan, clone_flags
from sandbox.record import replace
from sandbox.supervise.arrived import Arrived
from sandbox.supervise.held import HeldFeed, HeldOutput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.api.house import House, Way
    from sandbox.api.prepare import Prepared
    from sandbox.api.resident import Residents
    from sandbox.api.slots import Slot
    from sandbox.plan.codec import Table
    from sandbox.plan.root import RootSpec
    from sandbox.plan.steps import Plan
    from sandbox.policy.profile import Limits
    from sandbox.supervise.pump import Pump


class Waiting(Served):
    """One that waits, and the run that takes it."""

    def __init__(self, prepared: Prepared, way: Way, house: House, slot: Slot, residents: Residents) -> None:
        super().__init__(prepared, way, house, slot, residents, True)
        self._asked = prepared
        self.made_ns = time.monotonic_ns()
        self._launched = Launched()
        self._pumps: list[Pump] = []
        self._made: tuple[Plan, Table] | None = None
        self._arrived: Arrived | None = None

    @property
    def moved(self) -> bool:
        """Whether it is put into its cgroups from outside."""
        return self._moved

    @property
    def joins(self) -> int:
        """How many cgroups it joins itself."""
        return len(self._extra())

    def _extra(self) -> tuple[int, ...]:
        return self.cgroup.directories if self.cgroup is not None and not self._moved else ()

    def is_like(self, prepared: Prepared, way: Way, affinity: frozenset[int]) -> bool:
        """Whether it is the sandbox that a run would get: of such a server, made by the same table, in a cgroup with the same limits."""
        if not self.house.fits(prepared, way, affinity):
            return False
        if prepared.kept is self._asked.kept:
            return self._made is not None  # of one recipe, whose runs differ by command, name and the contents of files
        table = find_table(prepared, self.joins, self._moved)[1]
        if self._made is None or not (self._made[1] is table or self._made[1].data == table.data):
            return False
        return _of_cgroup(self._asked.cgroup_limits) == _of_cgroup(prepared.cgroup_limits) and self._asked.sampled == prepared.sampled

    def make(self, plan: Plan, table: Table, table_fd: int) -> None:
        """Ask the server for it.

        Raises:
            SandboxError: there is no server any more.
        """
        children = open_children(self._pumps, Streams(made=_make_streams), self.house.host_id)
        try:
            self._server.launch(
                self._launched, table_fd, stdio=children, extra=self._extra(),
                flags=clone_flags(template=True, recycled_network=self._way.recycle), recycle_network=self._way.recycle,
            )  # fmt: skip
            os.write(self._launched.descriptors.control, bytes([fds.HOLD]))  # init's own deadline does not run while it waits
        except ServerGoneError:
            self.house.gone = True
            raise
        finally:
            for fd in children:
                os.close(fd)
        self._made = plan, table

    @property
    def alive(self) -> bool:
        """Whether it still waits, or will: nothing of it has ended."""
        arrived, poll = self._arrived, select.poll()
        if arrived is not None and arrived.dead:
            return False
        poll.register(self._launched.descriptors.status if arrived is None else arrived.channel.fileno(), select.POLLHUP)
        return not poll.poll(0)

    def settle(self) -> bool:
        """Take the reports that have come: whoever asks for it then does not wait for our reading them. Return whether there are more to come."""
        if self.needs_word:
            return False  # a part of its set-up waits for the run
        if self._arrived is None:
            status, self._launched.descriptors.status = self._launched.descriptors.status, -1
            self._arrived = Arrived(status)
        if not self._arrived.whole:
            self._arrived.look()
            if self._has_all():
                for pump in self._pumps[1:]:
                    assert isinstance(pump, HeldOutput)
                    pump.keep_open()
        return not self._has_all()

    def _has_all(self) -> bool:
        return self._arrived is not None and self._arrived.whole

    def take(self, prepared: Prepared) -> None:
        """Make it the run that was asked for."""
        self.prepared = prepared
        self.tier = "pool"
        self.held = False
        kept, argv = prepared.kept, inner_argv(prepared)
        assert kept is not None
        last = kept.command
        if last is None or last[0] != argv:
            last = kept.command = argv, encode_command(prepared.root.argv0, argv, prepared.environment)
        self.go = last[1]
        self._enter(prepared)
        self.announced = True

    def begin(self, launched: Launched, pumps: list[Pump], streams: Streams) -> tuple[Plan, Table]:
        """See `Start.begin`."""
        assert self._made is not None
        self.arrived, self._arrived = self._arrived, None
        launched.descriptors, self._launched.descriptors = self._launched.descriptors, Descriptors(status=-1, go=-1, control=-1, release=-1)
        pumps += self._pumps
        self._pumps = []
        try:
            os.write(launched.descriptors.control, bytes([fds.RESUME]))
        except BrokenPipeError:  # it has died since it was taken
            raise StartGoneError("take a sandbox that waits: it has ended") from None
        feed, *outputs = pumps
        assert isinstance(feed, HeldFeed)
        for output, destination in zip(outputs, (streams.stdout, streams.stderr), strict=True):
            assert isinstance(output, HeldOutput)
            output.release(-1 if destination is None else destination)
        if isinstance(streams.stdin, int):
            feed.release(b"", streams.stdin)
        else:
            assert streams.stdin is None or isinstance(streams.stdin, bytes)  # `Sandbox` refuses a file
            feed.release(streams.stdin or b"")
        return self._made

    def confined(self, pid: int) -> None:
        """See `Start.confined`: the files of this run go into its own directory, by its descriptor."""
        files = self.prepared.command.files
        if files:
            directory = os.open(f"/proc/{pid}/cwd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                for name, content in files.items():
                    _make_file(directory, name, content)
            finally:
                os.close(directory)

    def adopted(self, pid: int, stat: bytes) -> None:
        """See `Start.adopted`. No server is asked by this run: what the last one left is closed by who makes the next."""
        self._init = pid, stat
        self._entry.publish(pid, stat)

    def explain(self, plan: Plan, table: Table, row: int, error: int) -> SandboxError:
        """See `Start.explain`."""
        return clone_refusal(row, error) or explain_failure(
            plan, table, row, error, run_id=self.prepared.run_id, executed=self.prepared.root.argv0
        )  # fmt: skip

    def close(self) -> None:
        """See `Start.close`."""
        for pump in self._pumps:
            pump.close()
        for arrived in (self._arrived, self.arrived):
            if arrived is not None:
                arrived.close()
        self._launched.close()
        super().close()

    def forget(self) -> None:
        """In a fork: it is the parent's."""
        for pump in self._pumps:
            pump.close()
        if self._arrived is not None:
            self._arrived.close()
        self._launched.descriptors.close()
        self._residents = None


def _make_streams() -> tuple[tuple[int, int, int], list[Pump]]:
    made: list[int] = []
    try:
        for _ in range(3):
            made += os.pipe2(os.O_CLOEXEC)
        stdin_r, stdin_w, stdout_r, stdout_w, stderr_r, stderr_w = made
        return (stdin_r, stdout_w, stderr_w), [HeldFeed(stdin_w), HeldOutput(stdout_r, _ignore), HeldOutput(stderr_r, _ignore)]
    except BaseException:
        for fd in made:
            os.close(fd)
        raise


def _ignore(data: bytes) -> None:
    pass


def _make_file(directory: int, name: str, content: bytes) -> None:
    """Make a file below a directory in which nobody else is at work, following no link."""
    *parents, last = name.split("/")
    at = os.dup(directory)
    try:
        for parent in parents:
            try:
                os.mkdir(parent, 0o755, dir_fd=at)
            except FileExistsError:
                pass
            below = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
            os.fchmod(at, 0o755)
        mode = 0o755 if content.startswith((b"#!", b"\x7fELF")) else 0o644
        fd = os.open(last, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=at)
        try:
            os.fchmod(fd, mode)  # whatever our umask is
            left = memoryview(content)
            while left:
                left = left[os.write(fd, left) :]
        finally:
            os.close(fd)
    finally:
        os.close(at)


def _of_cgroup(limits: Limits) -> Limits:
    return replace(limits, wall_ns=None, idle_ns=None, output_bytes=None)  # the supervisor's, of the run itself


def find_table(prepared: Prepared, joins: int, moved: bool) -> tuple[Plan, Table]:
    """Return the plan and the table by which a sandbox for this run waits."""

    def build() -> tuple[Plan, Table]:
        request = build_request(replace(prepared, root=_without_files(prepared)), outside_id=-1, cgroup=None)
        request = replace(
            request, argv=("",), environment=(), directories=joins, joins=tuple((index, "cgroup.procs") for index in range(joins)),
            cgroups_made=not moved, moved=moved,
        )  # fmt: skip
        plan = build_run_plan(request, template=True, waits=True)
        return plan, lower_plan(plan)

    assert prepared.kept is not None
    return prepared.kept.find(("pool", joins, moved), build, files=False)


def _without_files(prepared: Prepared) -> RootSpec:
    """Return the root without the files of the run, and the directories that were made for them."""
    root = prepared.root
    if not prepared.command.files:
        return root
    below = root.workdir + "/"
    kept = tuple(entry for entry in root.entries if not (isinstance(entry, (FileBytes, Directory)) and entry.path.startswith(below)))
    return replace(root, entries=kept)
