"""Two executors, one table: what the native and the Python one build and how they fail must not differ.

Each scene is one plan, lowered once; both executors run the very same bytes. What is compared is what the kernel says of the payload
and of init, and for bad plans the row and the errno.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.api.finish import explain_failure
from sandbox.api.prepare import Command, Prepared, prepare
from sandbox.api.requesting import build_request
from sandbox.errors import SandboxError, SetupError
from sandbox.launch.idmap import claim_host_id, write_maps
from sandbox.launch.spawn import Launched, executor_command, spawn
from sandbox.plan.build import build_plan
from sandbox.plan.codec import Table
from sandbox.plan.lower import lower_plan
from sandbox.plan.steps import (
    AttachTree,
    CloneDevice,
    CloneTree,
    Execute,
    InstallFilter,
    MakeDirectory,
    MapIds,
    MountTmpfs,
    Plan,
    SetLimit,
    SetWorkdir,
    Step,
    WriteFile,
)  # fmt: skip
from sandbox.policy.profile import Limits
from sandbox.policy.profile_load import load_profile, override_profile
from sandbox.seccomp.initfilter import build_init_filter
from sandbox.supervise.monitor import Monitor, Watched
from sandbox.supervise.pump import Pump
from sandbox.supervise.records import Collected

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]

EXECUTORS = ("native", "python")
pytestmark.append(pytest.mark.skipif(len(executor_command()) > 1, reason="the native executor is not built"))

LOOK = """
import ctypes, os
def show(name, text): print(f"== {name}\\n{text}")
for name in ("mountinfo", "uid_map", "gid_map", "setgroups", "limits", "oom_score_adj", "cgroup"):
    show(name, open(f"/proc/self/{name}").read())
show("status", open("/proc/self/status").read())
show("files", sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1])
show("ids", (os.getresuid(), os.getresgid(), os.getgroups(), os.getpid(), os.getppid(), os.getsid(0), os.getpgrp()))
show("names", (os.uname().nodename, os.getcwd(), os.environ))
show("umask", os.umask(0))
show("tree", sorted(os.popen("find / -xdev -not -path '/proc/*' -printf '%M %U:%G %p %l\\\\n' 2>&1").read().splitlines()))
show("tmp", os.stat("/tmp").st_mode)
show("statvfs", [tuple(os.statvfs(path))[:10] for path in ("/tmp", "/dev/shm", "/home/user")])
show("prctl", [ctypes.CDLL(None).prctl(n, 0, 0, 0, 0) for n in (2, 3, 21, 27, 39)])
"""
# What may differ between two runs of one plan: kernel-made numbers, and memory that the interpreter itself took.
VOLATILE = re.compile(
    r"^(Pid|Tgid|Ngid|PPid|NS\w+|Vm\w+|Rss\w+|Hugetlb\w+|voluntary_ctxt|nonvoluntary_ctxt|Cpus_allowed|Mems_allowed|x86_\w+|Threads|SigQ)"
)


def prepare_scene(profile: str, program: str, **changes: Any) -> Prepared:
    """Look up one sandbox that runs a Python program."""
    loaded = override_profile(load_profile(profile), origin="test", **changes)
    return prepare(
        Command(argv=("/usr/bin/python3", "-I", "-S", "-c", program), profile=loaded, environ={"PATH": "/usr/bin:/bin"}, audit=False)
    )


def make_plan(prepared: Prepared, outside_id: int) -> Plan:
    """Build the plan that both executors run: without cgroups, and with the init filter that suits the larger of the two."""
    plain = replace(prepared, backend=None)
    request = build_request(plain, outside_id=outside_id, cgroup=None)
    return build_plan(replace(request, init_filter_bpf=build_init_filter(prepared.arch, reference=True)))


Facts = dict[str, str]


def run_table(
    prepared: Prepared, table: Table, executor: str, outside_id: int, look: Callable[[int], Facts | None] | None = None
) -> tuple[Collected, bytes, tuple[int, int] | None]:
    """Run a table under one executor; return what was collected, standard output and the failing (row, errno), if any.

    Args:
        look: is called with init's pid again and again until it returns something; only then the payload's input ends.
    """
    failures: list[tuple[int, int]] = []
    pids: list[int] = []

    def explain(row: int, error: int) -> SandboxError:
        failures.append((row, error))
        return SetupError("row", error)

    def started(pid: int) -> None:
        pids.append(pid)
        if prepared.as_root:
            write_maps(pid, inside_uid=prepared.profile.uid, inside_gid=prepared.profile.gid, outside=outside_id)

    ends = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
    feed = Pump(-1, os.dup(ends[0][1]), close_destination=True)
    pumps = [feed, Pump(ends[1][0], -1, count=True), Pump(ends[2][0], -1, count=True)]
    always = os.eventfd(1)  # readable for ever: the monitor calls `on_wake` in each turn
    holding = [ends[0][1]] if look is not None else []
    if look is None:
        os.close(ends[0][1])

    def on_wake(monitor: Monitor) -> None:
        if holding and pids and look is not None and look(pids[0]) is not None:
            os.close(holding.pop())

    watched = Watched(
        limits=Limits(wall_ns=240_000_000_000), started=started, needs_word=prepared.external_map, explain=explain, pumps=pumps,
        watches=((always, on_wake),) if look is not None else (),
    )  # fmt: skip
    try:
        launched = Launched()
        spawn(launched, table, stdio=(ends[0][0], ends[1][1], ends[2][1]), executor=executor)
    finally:
        for fd in (ends[0][0], ends[1][1], ends[2][1], *([] if look is not None else [always])):
            os.close(fd)
    with launched:
        monitor = Monitor(launched, watched)
        try:
            monitor.run()
        except SandboxError:
            assert failures, "an error that is no failing row"
    if look is not None:
        os.close(always)
        assert not holding, "the run ended before anybody looked"
    assert len(failures) <= 1
    if not failures:
        assert not pumps[2].captured, pumps[2].captured.decode()
    return monitor.collected, pumps[1].captured, failures[0] if failures else None


@pytest.fixture(scope="module")
def outside_id() -> Any:
    """Return the host id of root's payloads, -1 for an ordinary user."""
    if os.geteuid():
        yield -1
        return
    claim = claim_host_id()
    yield claim.number
    claim.close()


def sections(output: bytes) -> dict[str, str]:
    """Split what LOOK printed."""
    found = {}
    for part in output.decode().split("== ")[1:]:
        name, _, text = part.partition("\n")
        found[name] = text
    return found


def steady(name: str, text: str) -> str:
    """Remove what is another number in every run."""
    if name == "status":
        return "\n".join(line for line in text.splitlines() if not VOLATILE.match(line))
    if name == "mountinfo":  # mount ids, peer groups, anonymous device numbers
        lines = [line.split() for line in text.splitlines() if line]
        order = {fields[0]: str(index) for index, fields in enumerate(lines)}
        return "\n".join(
            " ".join(
                [order.get(fields[1], "outside"), re.sub(r"^0:\d+$", "0:N", fields[2]), *(re.sub(r":\d+$", ":N", f) for f in fields[3:])]
            )
            for fields in lines
        )
    return text


# ---- what they build -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["strict", "default", "python", "build", "shell"])
def test_payload_sees_the_same(profile: str, outside_id: int) -> None:
    prepared = prepare_scene(profile, LOOK)
    table = lower_plan(make_plan(prepared, outside_id))
    seen = []
    for executor in EXECUTORS:
        collected, output, failure = run_table(prepared, table, executor, outside_id)
        assert failure is None
        assert collected.wait_status == 0
        seen.append({name: steady(name, text) for name, text in sections(output).items()})
    native, reference = seen
    assert native.keys() == reference.keys() >= {"mountinfo", "status", "limits", "uid_map", "tree"}
    for name in native:
        assert native[name] == reference[name], name
    # The comparison is worth something only if it looked at a confined process.
    assert "CapBnd:\t0000000000000000" in native["status"] and "NoNewPrivs:\t1" in native["status"] and "Seccomp:\t2" in native["status"]
    assert native["uid_map"].split() == ["1000", "1000", "1"]
    assert native["files"].strip() == "[0, 1, 2]"


def look_at_init(pid: int) -> Facts | None:
    """Read from outside what init is, once it is confined."""
    wanted = ("Umask", "Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp:", "SigBlk", "ShdPnd")
    lines = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(wanted)]
    if "Seccomp:\t2" not in lines:
        return None
    facts = {"status": "\n".join(lines), "threads": str(len(os.listdir(f"/proc/{pid}/task")))}
    if os.geteuid() == 0:  # init is not dumpable, so only root may look further
        files = sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
        if 0 not in files:  # the signalfd of the reaping loop, which it opens last
            return None
        facts["files"] = str(files)
        facts["environment"] = Path(f"/proc/{pid}/environ").read_text()
    return facts


def test_init_is_the_same(outside_id: int) -> None:
    prepared = prepare_scene("strict", "import sys; sys.stdin.read()")
    table = lower_plan(make_plan(prepared, outside_id))
    seen: list[Facts] = []
    for executor in EXECUTORS:
        looked: list[Facts] = []

        def look(pid: int, looked: list[Facts] = looked) -> Facts | None:
            facts = look_at_init(pid)
            if facts is not None:
                looked.append(facts)
            return facts

        collected, _, failure = run_table(prepared, table, executor, outside_id, look)
        assert (collected.wait_status, failure) == (0, None)
        seen.append(looked[0])
    assert seen[0] == seen[1]
    for name in ("Eff", "Prm", "Inh", "Amb"):  # the bounding set is for execve, which init's filter kills
        assert f"Cap{name}:\t{0:016x}" in seen[0]["status"]
    if os.geteuid() == 0:
        assert seen[0]["files"] == "[0, 4, 6]" and seen[0]["environment"] == ""


@pytest.mark.parametrize("status", ["0", "255", "9", "11"])
def test_ends_are_reported_the_same(outside_id: int, status: str) -> None:
    program = f"import os\nn = {status}\nos._exit(n) if n in (0, 255) else os.kill(os.getpid(), n)"
    prepared = prepare_scene("strict", program)
    table = lower_plan(make_plan(prepared, outside_id))
    ends = [run_table(prepared, table, executor, outside_id)[0] for executor in EXECUTORS]
    assert ends[0].wait_status == ends[1].wait_status
    for end in ends:
        assert end.tree is not None and end.whole is not None
        assert end.whole.cpu_ns > end.tree.cpu_ns > 0 and end.tree.maxrss_bytes > 0 and end.wall_ns > 0


def test_both_reap_orphans_and_forward_signals(outside_id: int) -> None:
    program = (
        "import os, time\n"
        "if not os.fork():\n"
        " for _ in range(50):\n"
        "  if not os.fork(): os._exit(1)\n"
        " os._exit(0)\n"
        "os.wait()\n"
        "while len([n for n in os.listdir('/proc') if n.isdigit()]) > 1: time.sleep(0.01)\n"
        "print('alone')\n"
    )
    prepared = prepare_scene("strict", program, limits={"processes": 60})
    table = lower_plan(make_plan(prepared, outside_id))
    for executor in EXECUTORS:
        collected, output, failure = run_table(prepared, table, executor, outside_id)
        assert (collected.wait_status, output, failure) == (0, b"alone\n", None)


# ---- how they fail -------------------------------------------------------------------------------------------------------


def swap(plan: Plan, kind: type[Step], change: Callable[[Any], Any], which: Callable[[Any], bool] = lambda step: True) -> Plan:
    """Return the plan with the first step of a kind changed."""
    done = False

    def walk(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        nonlocal done
        out = []
        for step in steps:
            if not done and isinstance(step, kind) and which(step):
                done = True
                step = change(step)
            out.append(step)
        return tuple(out)

    changed = replace(plan, janitor=walk(plan.janitor), init=walk(plan.init), payload=walk(plan.payload))
    assert done, f"no {kind.__name__} in the plan"
    return changed


def source(path: str) -> Callable[[CloneTree], CloneTree]:
    """Return a change of what is shared."""
    return lambda step: replace(step, bind=replace(step.bind, source=path))


BAD: dict[str, tuple[type[Step], Callable[[Any], Any], int, str]] = {
    "missing source": (CloneTree, source("/no/such/source"), 2, "CloneTree"),
    "source that is a symlink": (CloneTree, source("/proc/self/cwd"), 40, "CloneTree"),
    "source below a file": (CloneTree, source("/etc/passwd/below"), 20, "CloneTree"),
    "device of another number": (CloneDevice, lambda step: replace(step, minor=7), 19, "CloneDevice"),
    "device that is a directory": (CloneDevice, lambda step: replace(step, name="shm"), 19, "CloneDevice"),
    "directory without a parent": (MakeDirectory, lambda step: replace(step, path="/no/such/parent"), 2, "MakeDirectory"),
    "file without a parent": (WriteFile, lambda step: replace(step, path="/no/such/file"), 2, "WriteFile"),
    "file that exists": (WriteFile, lambda step: replace(step, path="/dev"), 17, "WriteFile"),
    "file larger than the root": (WriteFile, lambda step: replace(step, content=bytes(20 << 20)), 28, "WriteFile"),
    "tmpfs on nothing": (MountTmpfs, lambda step: replace(step, path="/no/such/point"), 2, "MountTmpfs"),
    "tmpfs of a negative size": (MountTmpfs, lambda step: replace(step, size_bytes=-1), 22, "MountTmpfs"),
    "tree on nothing": (AttachTree, lambda step: replace(step, path="/no/such/point"), 2, "AttachTree"),
    "foreign id in the map": (MapIds, lambda step: replace(step, outside_uid=step.outside_uid + 1), 1, "MapIds"),
    "limit above the hard one": (SetLimit, lambda step: replace(step, resource=99), 22, "SetLimit"),
    "workdir that is missing": (SetWorkdir, lambda step: replace(step, path="/no/such/directory"), 2, "SetWorkdir"),
    "workdir that is a file": (SetWorkdir, lambda step: replace(step, path="/dev/null"), 20, "SetWorkdir"),
    "filter that is no program": (InstallFilter, lambda step: replace(step, bpf=b"\xff" * 64), 22, "InstallFilter"),
    "empty filter": (InstallFilter, lambda step: replace(step, bpf=b""), 22, "InstallFilter"),
    "command that is missing": (Execute, lambda step: replace(step, path="/no/such/command"), 2, "Execute"),
    "command that is a directory": (Execute, lambda step: replace(step, path="/tmp"), 13, "Execute"),
    "command that is no program": (Execute, lambda step: replace(step, path="/etc/group"), 13, "Execute"),
}


@pytest.mark.parametrize("scene", BAD)
def test_bad_plans_fail_alike(scene: str, outside_id: int) -> None:
    kind, change, error, expected = BAD[scene]
    prepared = prepare_scene("strict", "raise SystemExit('this must not run')")
    plan = make_plan(prepared, outside_id)
    bad = swap(plan, kind, change)
    table = lower_plan(bad)
    failures = []
    for executor in EXECUTORS:
        collected, output, failure = run_table(prepared, table, executor, outside_id)
        assert failure is not None, f"{executor}: {collected}"
        assert output == b""
        failures.append(failure)
    assert failures[0] == failures[1]
    row, number = failures[0]
    assert number == error, os.strerror(number)
    step = bad.steps()[table.rows[row].step]
    assert type(step).__name__ == expected
    words = str(explain_failure(bad, table, row, number))
    assert step.describe() in words and os.strerror(number) in words


def test_failing_rows_name_their_step(outside_id: int) -> None:
    """The number of a row means the same to the executor, the table and the words."""
    prepared = prepare_scene("strict", "pass")
    plan = swap(make_plan(prepared, outside_id), SetWorkdir, lambda step: replace(step, path="/no/such"))
    table = lower_plan(plan)
    _, _, failure = run_table(prepared, table, "native", outside_id)
    assert failure is not None
    index = next(number for number, row in enumerate(table.rows) if row.label == "openat2 `/no/such`")
    assert failure == (index, 2)
