"""The plan of every shipped profile, word by word: a change of a profile or of the order of steps is a diff to review.

What a host would answer is pinned: kernel features, limits of the caller, file system, cgroups, the filter's bytes. Everything else
is the code that `sandbox exec --dry-run` runs. ``UPDATE_GOLDEN=1`` writes the files anew.
"""

from __future__ import annotations

import json
import os
import re
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sandbox.abi.arch import Arch
from sandbox.abi.host import HostFeatures
from sandbox.api import prepare as preparing
from sandbox.api.prepare import Command, prepare
from sandbox.api.requesting import build_request, dry_plan
from sandbox.cgroup.model import CgroupUsage
from sandbox.plan.lower import lower_plan
from sandbox.plan.render import render_json, render_rows, render_text
from sandbox.plan.root import Bind, Directory, FileBytes, Overlay, RootEntry, RootSpec, Symlink, Tmpfs
from sandbox.plan.template import build_run_plan, build_server_plan
from sandbox.plan.zygote import build_forked_plan, build_zygote_plan
from sandbox.policy.profile import CwdMode, Profile
from sandbox.policy.profile_load import load_profile
from sandbox.record import replace
from sandbox.rootfs import machine_view
from sandbox.rootfs.machine_view import Machine, add_machine

GOLDEN = Path(__file__).parent / "plans"
SHIPPED = sorted(path.stem for path in (Path(__file__).parents[2] / "profiles").glob("*.toml"))
CWD = "/home/alice/work"
ALLOW_EVERYTHING = bytes.fromhex("060000000000ff7f")
SITUATIONS = {
    "user": HostFeatures(arch="x86_64", kernel="6.12.0", uid=1001, gid=1001, landlock_abi=6),
    "root": HostFeatures(arch="x86_64", kernel="6.12.0", uid=0, gid=0, landlock_abi=6),
    "old": HostFeatures(
        arch="aarch64", kernel="5.15.0", uid=1001, gid=1001, landlock_abi=1, root_pivotable=False, keyrings=False, user_namespace_sysctl=False,
        notify_wait_killable=False, notify_sync_wake=False,
    ),
}  # fmt: skip


class PinnedRun:
    """A cgroup that is only named."""

    backend = "cgroup1"
    enforced = ()
    oom_fd = None
    joins = ((50, "sandbox-RUN/cgroup.procs"), (51, "sandbox-RUN/cgroup.procs"))
    removals = ((50, "sandbox-RUN"), (51, "sandbox-RUN"))
    thaws = ((51, "sandbox-RUN/freezer.state"),)

    def usage(self) -> CgroupUsage:
        """Nothing runs in a dry run."""
        raise AssertionError("a dry run reads no counters")

    def close(self) -> None:
        """Nothing is open."""


def pinned_root(profile: Profile, *, machine: Machine | None = None, **_: Any) -> tuple[RootSpec, dict[str, str]]:
    """Return what `build_root_spec` finds on a small host."""
    limits = profile.limits
    entries: list[RootEntry] = [
        Bind(path="/usr", source="/usr", directory=True, why="system directory `/usr`"),
        *(Symlink(path=f"/{name}", target=f"usr/{name}") for name in ("bin", "lib", "lib64", "sbin")),
        FileBytes(path="/etc/passwd", content=f"{profile.user}:x:{profile.uid}:{profile.gid}::{profile.home}:/bin/sh\n".encode()),
        Bind(path="/etc/ld.so.cache", source="/etc/ld.so.cache", directory=False, executable=False, why="configuration `/etc/ld.so.cache`"),
        Tmpfs(path="/tmp", size_bytes=limits.tmp_bytes, inodes=limits.tmp_inodes),
        Tmpfs(path=profile.home, size_bytes=limits.home_bytes, inodes=limits.home_inodes, mode=0o755),
        Directory(path="/run"),
    ]
    if profile.cwd is not CwdMode.NO:
        entries.append(Bind(path=CWD, source=CWD, directory=True, writable=profile.cwd is CwdMode.WRITABLE, why="working directory"))
        entries.append(Bind(path=f"{CWD}/agent", source="/dev/null", directory=False, executable=False, why="mask of the socket"))
    environment = {"HOME": profile.home, "PATH": "/usr/bin:/bin", **dict(profile.env_set)}
    shown, covers = add_machine(machine) if machine is not None else ([], ())
    entries += shown
    return RootSpec(entries=tuple(entries), workdir=CWD, argv0="/usr/bin/python3", notes=("a note of the root",), covers=covers), environment


@pytest.fixture
def pin(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that pins the host to a situation."""

    def pin(situation: str) -> None:
        host = SITUATIONS[situation]
        backend = None
        if situation == "root":
            provides = frozenset({"memory", "processes", "cpu"})
            backend = SimpleNamespace(name="cgroup1", ready=True, provides=provides, reserve=lambda run_id, limits: PinnedRun())
        bpf = ALLOW_EVERYTHING * 40

        def pinned_filter(policy: Any, arch: Arch, *, notify: bool) -> SimpleNamespace:
            return SimpleNamespace(bpf=bpf, notify=notify, instructions=len(bpf) // 8)

        monkeypatch.setattr(preparing, "probe_host", lambda: host)
        monkeypatch.setattr(preparing, "recall_filter", pinned_filter)
        monkeypatch.setattr(preparing, "build_root_spec", pinned_root)
        monkeypatch.setattr(preparing, "find_backend", lambda: backend)
        monkeypatch.setattr("sandbox.api.limits.caller_scheduling", lambda: (0, 0, False))
        monkeypatch.setattr(machine_view, "find_origin", lambda: (5000, 1_700_000_000))
        monkeypatch.setattr(machine_view, "read_model", lambda: "model name\t: of the host\n")
        pages = {"SC_PHYS_PAGES": 4 << 20, "SC_PAGE_SIZE": 4096}
        host_os = SimpleNamespace(sched_getaffinity=lambda pid: {0, 1, 2, 3}, cpu_count=lambda: 4, sysconf=pages.__getitem__)
        monkeypatch.setattr(machine_view, "os", host_os)
        monkeypatch.setattr("sandbox.rootfs.machine_files.os", SimpleNamespace(uname=lambda: ("Linux", "host", "6.18.0", "#1 SMP", "x86_64")))
        monkeypatch.setattr(resource, "getrlimit", lambda number: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    return pin


def dry_run(name: str, interactive: bool = False) -> Any:
    """Return (plan, notes) as the command line's dry run has them."""
    command = Command(
        argv=("python3", "script.py"), profile=load_profile(name), cwd=CWD, environ={"PATH": "/usr/bin:/bin"}, interactive=interactive, executor="auto"
    )  # fmt: skip
    prepared = prepare(command)
    return dry_plan(prepared), prepared.notes


def compare(name: str, text: str) -> None:
    """Compare with the golden file, or write it."""
    path = GOLDEN / f"{name}.txt"
    # Which executor is installed decides on the rules for init, not on the plan.
    text = re.sub(r"(install filter of policy `init` )\(\d+ instructions\)", r"\1(N instructions)", text) + "\n"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text, "the plan changed; review it with UPDATE_GOLDEN=1 and git diff"


@pytest.mark.parametrize("profile", SHIPPED)
@pytest.mark.parametrize("situation", ["user", "root"])
def test_plan_of_every_profile(pin: Any, profile: str, situation: str) -> None:
    pin(situation)
    plan, notes = dry_run(profile)
    compare(f"{profile}.{situation}", render_text(plan, notes))


def test_plan_of_an_old_host(pin: Any) -> None:
    pin("old")
    plan, notes = dry_run("strict")
    compare("strict.old-aarch64", render_text(plan, notes))


def test_plan_with_a_terminal(pin: Any) -> None:
    pin("user")
    plan, notes = dry_run("shell", interactive=True)
    compare("shell.terminal", render_text(plan, notes))


@pytest.mark.parametrize("situation", ["user", "root"])
def test_plans_of_a_server_and_its_runs(pin: Any, situation: str) -> None:
    """A server with a template, a run of it, one that waits for its command, a zygote and a fork of it; for a user also the ones without a template."""
    pin(situation)
    prepared = prepare(
        Command(argv=("python3", "script.py"), profile=load_profile("python"), cwd=CWD, environ={"PATH": "/usr/bin:/bin"}, executor="auto")
    )
    request = build_request(prepared, outside_id=0x70000000, cgroup=None)
    plans = {
        "server": build_server_plan(request, template=True),
        "run": build_run_plan(request, template=True),
        "run that waits": build_run_plan(request, template=True, waits=True),
        "zygote": build_zygote_plan(request, text="pass", command=("python3",), environment=()),
        "fork": build_forked_plan(request),
    }
    if situation == "user":
        plans |= {
            "server without a template": build_server_plan(request, template=False),
            "run built anew": build_run_plan(request, template=False),
        }
    compare(f"served.{situation}", "\n\n".join(f"=== {name}\n{render_text(plan, ())}" for name, plan in plans.items()))


@pytest.mark.parametrize("situation", ["user", "root"])
def test_plan_of_layers(pin: Any, situation: str) -> None:
    """A run on an image, and one that writes to a copy of the working directory; with the rows of the first."""
    pin(situation)
    prepared = prepare(Command(argv=("sh",), profile=load_profile("strict"), environ={"PATH": "/usr/bin:/bin"}, executor="auto"))
    image = Overlay(path="/", lowers=("/store/layers/top", "/store/layers/base"), size_bytes=1 << 28, inodes=65536, why="image `debian:12`")
    own: tuple[RootEntry, ...] = (
        Directory(path="/etc"), FileBytes(path="/etc/hostname", content=b"sandbox\n"), Tmpfs(path="/tmp", size_bytes=1 << 26, inodes=8192),
        Bind(path="/srv/data", source="/srv/data", directory=True, why="volume `-v /srv/data`"),
    )  # fmt: skip
    copy = Overlay(path=CWD, lowers=(CWD,), upper="/home/alice/.local/state/sandbox/changes/RUN", why=f"copy-on-write `{CWD}`")
    plans = {
        "image": dry_plan(replace(prepared, root=replace(prepared.root, entries=(image, *own)))),
        "copy-on-write": dry_plan(replace(prepared, root=replace(prepared.root, entries=(*prepared.root.entries, copy)))),
    }
    text = "\n\n".join(f"=== {name}\n{render_text(plan, ())}" for name, plan in plans.items())
    rows = render_rows(plans["image"], lower_plan(plans["image"]))
    start = rows.index("mount an empty tmpfs as the new root")
    rows = rows[start : rows.index("make the tmpfs at `/dev` read-only")]
    rows = re.sub(r"(?m)^ *\d+ ", "", re.sub(r"0x[0-9a-f]+\]", "slot]", re.sub(r"&0x[0-9a-f]+", "&data", rows)))
    compare(f"layers.{situation}", f"{text}\n\n=== rows of the image\n{rows}")


def test_rows_of_strict(pin: Any) -> None:
    """The very system calls, with offsets and the run's own sizes left out."""
    pin("user")
    plan, _ = dry_run("strict")
    rows = render_rows(plan, lower_plan(plan))
    rows = re.sub(r"0x[0-9a-f]+\]", "slot]", re.sub(r"&0x[0-9a-f]+", "&data", rows))
    rows = re.sub(r"# (\d+) rows, \d+ bytes", r"# \1 rows", rows)
    # The init filter's rows are the same whatever its length.
    compare("strict.user.rows", re.sub(r"`init` \(\d+ instructions\)", "`init` (N instructions)", rows))


def test_all_forms_of_one_plan_agree(pin: Any) -> None:
    pin("root")
    plan, notes = dry_run("default")
    document = json.loads(render_json(plan, notes))
    text = render_text(plan, notes)
    steps = [step for section in ("janitor", "init", "payload") for step in document[section]]
    assert [step["text"] for step in steps] == [step.describe() for step in plan.steps()]
    for number, step in enumerate(steps, 1):
        assert f"  {number:3}  {step['text']}" in text
    assert document["notes"] == [line.removeprefix("note: ") for line in text.splitlines() if line.startswith("note: ")]
    headings = [line for line in render_rows(plan, lower_plan(plan)).splitlines() if line.startswith("# step ")]
    described = [re.sub(r"^# step \d+: ", "", line) for line in headings]
    assert set(described) <= {step["text"] for step in steps}
