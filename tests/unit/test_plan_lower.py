"""Every step has rows, rows belong to their steps, and both architectures get their own numbers."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import get_args

import pytest

from sandbox.abi.arch import Arch
from sandbox.abi.host import HostFeatures
from sandbox.abi.tables import syscall_number
from sandbox.errors import InternalError
from sandbox.plan import fds, steps
from sandbox.plan.build import Request, build_plan
from sandbox.plan.codec import Op, Ref, Row, Slot
from sandbox.plan.lower import lower_plan
from sandbox.plan.root import Bind, Cover, FileBytes, LiveFiles, Overlay, RootSpec, Symlink, Tmpfs
from sandbox.plan.steps import Execute, Plan, Step
from sandbox.plan.template import build_run_plan, build_server_plan
from sandbox.plan.zygote import build_forked_plan, build_zygote_plan
from sandbox.policy.profile import LandlockMode, NetworkMode, ProcMode, Profile

EVERYTHING = Request(
    profile=Profile(name="p", description="", path="p.toml", policy="strict", proc=ProcMode.FULL, network=NetworkMode.LOOPBACK, time_namespace=True),
    host=HostFeatures(arch="x86_64", kernel="6.12.0", uid=0, gid=0, landlock_abi=6),
    root=RootSpec(
        entries=(
            Bind(path="/usr", source="/usr", directory=True), Bind(path="/usr/x", source="/srv", directory=True), Symlink(path="/bin", target="usr/bin"),
            Tmpfs(path="/tmp", size_bytes=1, inodes=1), FileBytes(path="/etc/f", content=b"text"),
            FileBytes(path="/sys/a/x", content=b"0"), FileBytes(path="/sys/a/y", content=b"0"),
            LiveFiles(path="/sys/m", files=(("d/f", b"0"),), directories=("d",)),
        ),
        workdir="/tmp", argv0="/usr/bin/true",
        covers=(Cover(path="/proc/x", source="/sys/a/x"), Cover(path="/sys/a", source="/sys/m/d")),
    ),
    argv=("true", "a b"), environment=(("A", "b"),), outside_uid=5, outside_gid=5, filter_bpf=bytes(16), init_filter_bpf=bytes(8), external_map=True,
    directories=1, joins=((0, "r/cgroup.procs"),), removals=((0, "r"),), rlimits=((7, 1, 2),), interactive=True,
)  # fmt: skip


def plan_of(arch: str = "x86_64", uid: int = 0) -> Plan:
    """Return a plan that has nearly every step."""
    return build_plan(
        replace(EVERYTHING, host=replace(EVERYTHING.host, arch=arch, uid=uid), external_map=uid == 0, nice=5, affinity=(0, 70))
    )


def served_plans() -> list[Plan]:
    """Return a server's plan and its runs' of both kinds."""
    request = replace(
        EVERYTHING,
        host=replace(EVERYTHING.host, uid=1001),
        external_map=False,
        root=replace(EVERYTHING.root, entries=(*EVERYTHING.root.entries, Bind(path="/tmp/kept", source="/srv", directory=True))),
    )
    plans = [build_server_plan(request, template=template) for template in (False, True)]
    plans += [build_run_plan(request, template=template, waits=template) for template in (False, True)]
    zygote = build_zygote_plan(request, text="pass", command=("python3",), environment=())
    return [*plans, zygote, build_forked_plan(replace(request, interactive=False))]


def layered_plan() -> Plan:
    """Return the plan of a run on an image with its own ids."""
    root = RootSpec(entries=(Overlay(path="/", lowers=("/layers/a", "/layers/b"), size_bytes=1 << 20, inodes=100),), workdir="/", argv0="/bin/sh")
    profile = Profile(name="p", description="", path="p.toml", policy="strict")
    host = HostFeatures(arch="x86_64", kernel="6.12.0", uid=1001, gid=1001)
    return build_plan(
        Request(
            profile=replace(profile, landlock=LandlockMode.OFF, image="x", uid=0), host=host, root=root, argv=("sh",), environment=(),
            outside_uid=1001, outside_gid=1001, filter_bpf=bytes(8), init_filter_bpf=bytes(8), map_range=True, external_map=True,
            ranges=(((0, 1), (1, 65535)),) * 2,
        )
    )  # fmt: skip


def test_the_plans_have_every_kind_of_step() -> None:
    plans = (*(plan_of(uid=uid) for uid in (0, 1001)), *served_plans(), layered_plan())
    seen = {type(step) for plan in plans for step in plan.steps()}
    assert set(get_args(Step)) - seen == set()


@pytest.mark.parametrize(
    "plan", [plan_of(), plan_of(uid=1001), *served_plans(), layered_plan()],
    ids=["root", "user", "anew", "template", "run-anew", "run", "zygote", "forked", "layered"],
)
def test_every_step_has_rows_in_its_order(plan: Plan) -> None:
    table = lower_plan(plan)
    numbers = [row.step for row in table.rows]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(len(plan.steps())))
    assert all(row.label for row in table.rows)


def test_children_begin_at_the_first_row_of_their_section() -> None:
    plan = plan_of()
    table = lower_plan(plan)
    clones = [row for row in table.rows if row.op is Op.CLONE]
    starts = [len(plan.janitor), len(plan.janitor) + len(plan.init)]
    assert [table.rows[row.number].step for row in clones] == starts
    assert [table.rows[row.number - 1].step for row in clones] == [start - 1 for start in starts]


def test_each_process_ends() -> None:
    """No process may run on into the rows of the next one."""
    plan = plan_of()
    rows = lower_plan(plan).rows
    last = [
        max(index for index, row in enumerate(rows) if row.step < bound)
        for bound in (len(plan.janitor), len(plan.janitor) + len(plan.init), 10**6)
    ]
    assert [rows[index].op for index in last[:2]] == [Op.EXIT, Op.REAP]
    assert rows[last[2]].label.startswith("execve ")


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_numbers_are_those_of_the_architecture(arch: str) -> None:
    table = lower_plan(plan_of(arch))
    for row in table.rows:
        if row.op is Op.CALL:
            assert row.number == syscall_number(Arch(arch), row.label.split()[0])


def test_architectures_differ_in_numbers_and_flags_alone() -> None:
    one, other = lower_plan(plan_of("x86_64")), lower_plan(plan_of("aarch64"))
    assert [row.label for row in one.rows] == [row.label for row in other.rows]
    assert [row.number for row in one.rows] != [row.number for row in other.rows]


def test_lowering_is_deterministic() -> None:
    assert lower_plan(plan_of()).data == lower_plan(plan_of()).data


def string_at(data: bytes, row: Row, argument: int, base: int) -> bytes:
    """Return the NUL-terminated string a row's argument points to."""
    reference = row.args[argument]
    assert isinstance(reference, Ref)
    start = reference.offset + base
    return data[start : data.index(b"\0", start)]


def base_of(data: bytes, rows: int) -> int:
    """Return where the data area begins; header and rows are multiples of 8."""
    return 32 + 72 * rows


@pytest.mark.parametrize(
    ("word", "encoded"), [("é", "é".encode()), (b"\xff\xfe".decode("utf-8", "surrogateescape"), b"\xff\xfe"), ("a\nb", b"a\nb")]
)
def test_arguments_reach_execve_byte_for_byte(word: str, encoded: bytes) -> None:
    plan = plan_of()
    changed = replace(plan, payload=(*plan.payload[:-1], Execute(path=f"/{word}", argv=(word,), environment=(("N", word),))))
    table = lower_plan(changed)
    base = base_of(table.data, len(table.rows))
    row = table.rows[-1]
    assert string_at(table.data, row, 0, base) == b"/" + encoded
    assert b"N=" + encoded + b"\0" in table.data


def test_waiting_rows_are_called_again_after_a_signal() -> None:
    for row in lower_plan(plan_of()).rows:
        if row.label.split()[0] in ("ppoll", "wait4", "read"):
            assert row.flags & 2, row.label


def test_only_named_errors_are_tolerated() -> None:
    """By step and errno, so that a new tolerance is seen here."""
    plan = plan_of()
    tolerated = {(type(plan.steps()[row.step]).__name__, number) for row in lower_plan(plan).rows for number in row.tolerate}
    assert tolerated == {
        ("Guard", errno.ESRCH), ("Guard", errno.EPIPE), ("Guard", errno.ECONNRESET), ("Guard", errno.ENOENT), ("Guard", errno.EBUSY),
        ("Guard", errno.ENOTEMPTY), ("ForbidNamespaces", errno.ENOENT), ("ForbidNamespaces", errno.EBADF), ("MaskProc", errno.ENOENT),
        ("MaskProc", errno.EBADF), ("CoverPath", errno.ENOENT), ("DropCapabilities", errno.EINVAL),
        ("LimitWatches", errno.ENOENT), ("LimitWatches", errno.EBADF),
    }  # fmt: skip


def test_stored_results_are_read_from_where_they_were_stored() -> None:
    rows = lower_plan(plan_of()).rows
    stored = {row.store for row in rows if row.store}
    for row in rows:
        for arg in row.args:
            if isinstance(arg, Slot) and "init's pidfd" not in row.label:  # written by clone3 itself
                assert arg.offset in stored, row.label


def test_a_step_without_rows_is_an_error_of_ours() -> None:
    class Unknown:
        def describe(self) -> str:
            return "unknown"

    plan = plan_of()
    with pytest.raises(InternalError, match="no rows for step `Unknown`"):
        lower_plan(replace(plan, payload=(Unknown(), *plan.payload)))  # type: ignore[arg-type]


def test_descriptors_are_disjoint() -> None:
    numbers = [fds.TABLE, fds.STATUS, fds.GO, fds.CONTROL, fds.SUPERVISOR, fds.RELEASE]
    assert numbers == list(range(3, fds.FIRST_EXTRA))


def test_every_step_describes_itself_in_one_line() -> None:
    for uid in (0, 1001):
        for step in plan_of(uid=uid).steps():
            text = step.describe()
            assert text and "\n" not in text and text == text.strip() and not text.endswith("."), text
    assert steps.NewSession().describe() == "new session, no terminal"
