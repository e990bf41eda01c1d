"""Where the time of one launch goes: the Python stages before the start, then every step of the plan by its own clock.

A plan is a table of rows, so it can be measured without a tracer: a `clock_gettime` row is put after every step, and each process sends its
times as one more record before it goes on. A row costs about 0.2 µs, so the picture is that of an undisturbed launch. Shipped with the tests.
"""

from __future__ import annotations

import os
import socket
import statistics
import struct
import time
from collections.abc import Callable
from dataclasses import replace

from sandbox.abi.arch import Arch
from sandbox.api import prepare as preparing
from sandbox.api import recall
from sandbox.api.requesting import build_request
from sandbox.kernel.calls import pidfd_getfd
from sandbox.kernel.probe import probe_host
from sandbox.launch.spawn import Launched, spawn
from sandbox.plan import fds
from sandbox.plan import lower as lowering
from sandbox.plan.build import Request, build_plan
from sandbox.plan.codec import RECORD, Kind, Ref, Table, decode_record
from sandbox.plan.lower_mounts import lower_mount_step
from sandbox.plan.steps import Execute, Guard, Plan, Reap
from sandbox.rootfs.host import build_root_spec
from sandbox.seccomp.cache import load_filter

_SECTIONS = ("janitor", "init", "payload")
_TAG = 0x1000  # above every `Kind`
_LAST = (Guard, Reap, Execute)  # the steps that do not come back; times are sent before them
_CREDENTIALS = struct.Struct("iII")

Stamps = dict[str, list[int]]


def main(runs: int, profile: str, argv: tuple[str, ...]) -> int:
    """Print both tables."""
    if os.geteuid() == 0:
        print("steps: run it as an ordinary user; root's launches wait for id maps from outside")
        return 2
    command = preparing.Command(argv=argv, profile=preparing.load_command_profile(profile), environ=dict(os.environ))
    prepared = replace(preparing.prepare(command), backend=None)
    request = build_request(prepared, outside_id=-1, cgroup=None)
    plan = build_plan(request)
    rows = len(lowering.lower_plan(plan).rows)
    print(f"profile `{profile}`, {' '.join(argv)}: {len(plan.steps())} steps, {rows} rows; median and fastest tenth of {runs}, µs\n")
    _print("in Python, before the start", _stages(prepared, request, plan, runs))
    _print("from posix_spawn to the last record", _launches(plan, runs))
    return 0


def _stages(prepared: preparing.Prepared, request: Request, plan: Plan, runs: int) -> list[tuple[str, list[float]]]:
    command, host = prepared.command, prepared.host

    def root() -> object:
        return build_root_spec(
            prepared.profile, argv=command.argv, cwd=command.cwd, environ=command.environ, files=command.files, is_root=host.uid == 0
        )

    stages: list[tuple[str, Callable[[], object]]] = [
        ("look up the profile", lambda: recall.recall_profile(prepared.profile.sources[-1])),
        ("probe the host", probe_host),
        ("look up the policy", lambda: recall.recall_policy(prepared.profile.policy)),
        ("look up the filter", lambda: recall.recall_filter(prepared.policy, Arch(host.arch), notify=True)),
        ("load the filter (a new process)", lambda: load_filter(prepared.policy, Arch(host.arch))),
        ("look at the file system", root),
        ("all of prepare(), limits included", lambda: preparing.prepare(command)),
        ("build the plan (only for a new request)", lambda: build_plan(request)),
        ("lower it (only for a new request)", lambda: lowering.lower_plan(plan)),
    ]
    return [(name, [_timed(call) for _ in range(runs)]) for name, call in stages]


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - began) / 1000


def _lower_stamped(plan: Plan) -> tuple[Table, dict[str, list[str]]]:
    """Lower a plan as `lower_plan` does, with a clock after every step; return the table and the steps' names by section."""
    low = lowering.Lowering(arch=Arch(plan.arch))
    failure = low.record(Kind.FAILED)
    low.ready = low.record(Kind.READY, a=-1, b=-1)
    starts: list[int] = []
    names: dict[str, list[str]] = {}
    for tag, (section, steps) in enumerate(zip(_SECTIONS, (plan.janitor, plan.init, plan.payload), strict=True)):
        starts.append(len(low.builder.rows))
        size = 8 + 16 * (len(steps) + 1)
        area = low.builder.reserve(size, struct.pack("<II", _TAG + tag, len(steps)))
        low.step += 1
        low.call("clock_gettime", 1, Ref(area.offset + 8))
        low.step -= 1
        names[section] = []
        for index, step in enumerate(steps):
            low.step += 1
            if isinstance(step, _LAST):
                low.call("write", fds.STATUS, area, size)
            if not lower_mount_step(low, step):
                lowering._lower_step(low, step)
            names[section].append(type(step).__name__)
            if not isinstance(step, _LAST):
                low.call("clock_gettime", 1, Ref(area.offset + 8 + 16 * (index + 1)))
    for index, start in zip(low.clones, starts[1:], strict=True):
        low.builder.rows[index] = replace(low.builder.rows[index], number=start)
    return low.builder.encode(failure_record=failure, status_fd=fds.STATUS), names


def _launch(table: Table) -> tuple[dict[str, int], Stamps]:
    """Run a stamped table once; return the supervisor's moments and each section's, all CLOCK_MONOTONIC ns."""
    moments: dict[str, int] = {"begin": time.monotonic_ns()}
    stamps: Stamps = {}
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    kept = [null]
    try:
        with Launched() as launched:
            spawn(launched, table, stdio=(null, null, null))
            moments["spawned"] = time.monotonic_ns()
            channel = socket.socket(fileno=launched.descriptors.status)
            try:
                while "reaped" not in moments:
                    data, ancillary, _, _ = channel.recvmsg(1 << 16, socket.CMSG_SPACE(_CREDENTIALS.size))
                    pid = _CREDENTIALS.unpack(ancillary[0][2][: _CREDENTIALS.size])[0] if ancillary else 0
                    if len(data) != RECORD.size:
                        tag, count = struct.unpack_from("<II", data)
                        pairs = struct.iter_unpack("<qq", data[8 : 8 + 16 * (count + 1)])
                        stamps[_SECTIONS[tag - _TAG]] = [seconds * 10**9 + ns for seconds, ns in pairs]
                        continue
                    record = decode_record(data, pid)
                    assert record is not None
                    moments[record.kind.name.lower()] = time.monotonic_ns()
                    if record.kind is Kind.FAILED:
                        raise SystemExit(f"row {record.row} failed with errno {record.a}")
                    if record.kind is Kind.READY:
                        pidfd = os.pidfd_open(record.pid)
                        kept.append(pidfd)
                        if record.a >= 0:
                            kept.append(pidfd_getfd(pidfd, record.a))
                        moments["go"] = time.monotonic_ns()
                        os.write(launched.descriptors.go, bytes([fds.WORD_GO]))
            finally:
                channel.detach()
        moments["end"] = time.monotonic_ns()
    finally:
        for fd in kept:
            os.close(fd)
    return moments, stamps


def _launches(plan: Plan, runs: int) -> list[tuple[str, list[float]]]:
    table, names = _lower_stamped(plan)
    samples: dict[str, list[float]] = {}
    for _ in range(runs):
        moments, stamps = _launch(table)
        for name, us in _spans(moments, stamps, names).items():
            samples.setdefault(name, []).append(us)
    return list(samples.items())


def _spans(moments: dict[str, int], stamps: Stamps, names: dict[str, list[str]]) -> dict[str, float]:
    """Cut one launch into consecutive spans along its critical path, and the parallel ends of janitor and init."""
    spans: dict[str, float] = {}

    def add(name: str, ns: int) -> None:
        spans[name] = spans.get(name, 0.0) + ns / 1000

    janitor, init, payload = (stamps[section] for section in _SECTIONS)
    add("descriptors and posix_spawn, as the caller sees it", moments["spawned"] - moments["begin"])
    add("  of it until the executor's first row", janitor[0] - moments["begin"])
    clone = names["janitor"].index("CloneInit")
    for index in range(clone):
        add(f"janitor {names['janitor'][index]}", janitor[index + 1] - janitor[index])
    add("janitor CloneInit: until init's first row", init[0] - janitor[clone])
    add("  of it until the call has returned", janitor[clone + 1] - janitor[clone])
    clone = names["init"].index("ClonePayload")
    for index in range(clone):
        add(f"init {names['init'][index]}", init[index + 1] - init[index])
    add("init ClonePayload: until the payload's first row", payload[0] - init[clone])
    wait = names["payload"].index("AwaitGo")
    for index in range(wait):
        add(f"payload {names['payload'][index]}", payload[index + 1] - payload[index])
    add("AwaitGo: listener fetched, word sent, payload woken", payload[wait + 1] - payload[wait])
    add("execve, run, exit, until init's record", moments["exited"] - payload[wait + 1])
    add("init's and the namespaces' end, until the janitor's record", moments["reaped"] - moments["exited"])
    add("janitor reaped", moments["end"] - moments["reaped"])
    add("all", moments["end"] - moments["begin"])
    last = max(index for index, at in enumerate(init) if at)
    add("  beside it: init's own confinement after ClonePayload", init[last] - init[clone + 1])
    return spans


def _print(title: str, rows: list[tuple[str, list[float]]]) -> None:
    print(title)
    for name, us in rows:
        print(f"  {statistics.median(us):9.1f} {sorted(us)[len(us) // 10]:9.1f}  {name}")
    print()
