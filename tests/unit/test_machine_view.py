"""What a machine view says: how many processors, which files, of which length; and policies that have calls answered."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from sandbox.abi.arch import Arch
from sandbox.api import machine as api_machine
from sandbox.errors import PolicyError
from sandbox.plan.root import FileBytes, LiveFiles
from sandbox.policy.emulation import emulates, without_emulation
from sandbox.policy.load import load_policy
from sandbox.policy.model import Action
from sandbox.policy.profile import Limits, MachineView, ProcMode, Profile
from sandbox.record import replace
from sandbox.rootfs import machine_files, machine_view
from sandbox.rootfs.machine_files import Figures
from sandbox.rootfs.machine_view import Machine, add_machine, format_list, see_machine
from sandbox.seccomp.decide import decide
from sandbox.supervise.machine_view import Moment, _decay, _parse_list

GIBIBYTE = 1 << 30


class Host:
    """`os`, of a host with 8 processors, of which the caller may use 6, and 64 GiB."""

    O_RDONLY = O_CLOEXEC = 0

    @staticmethod
    def sched_getaffinity(pid: int) -> set[int]:
        return {0, 1, 2, 3, 6, 7}

    @staticmethod
    def cpu_count() -> int:
        return 8

    @staticmethod
    def sysconf(name: str) -> int:
        return {"SC_PHYS_PAGES": 16 << 20, "SC_PAGE_SIZE": 4096}[name]


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_view, "os", Host)
    monkeypatch.setattr(machine_view, "read_model", lambda: "model name\t: one\nflags\t\t: fpu sse\n")
    monkeypatch.setattr(machine_view, "find_origin", lambda: (1000, 5_000_000))


def profile(view: MachineView = MachineView.STATIC, proc: ProcMode = ProcMode.FULL, **limits: object) -> Profile:
    return Profile(name="p", description="", path="p.toml", policy="strict", machine_view=view, proc=proc, limits=Limits(**limits))  # type: ignore[arg-type]


def see(**how: object) -> Machine:
    machine = see_machine(profile(**how), time_namespace=True)  # type: ignore[arg-type]
    assert machine is not None
    return machine


@pytest.mark.parametrize(
    ("limits", "shown", "last"),
    [
        ({}, (0, 1, 2, 3, 6, 7), 7),
        ({"cpu_quota_ppm": 1_000_000}, (0,), 7),
        ({"cpu_quota_ppm": 10_000}, (0,), 7),
        ({"cpu_quota_ppm": 1_500_000}, (0, 1), 7),
        ({"cpu_quota_ppm": 5_000_001}, (0, 1, 2, 3, 6, 7), 7),
        ({"cpu_quota_ppm": 90_000_000}, (0, 1, 2, 3, 6, 7), 7),
        ({"cpuset": (2, 5)}, (2, 5), 5),
        ({"cpuset": (2, 5), "cpu_quota_ppm": 1_000_000}, (2,), 5),
    ],
)
def test_processors_of_limits(limits: dict[str, object], shown: tuple[int, ...], last: int) -> None:
    machine = see(**limits)
    assert (machine.processors, machine.last) == (shown, last)


def test_memory_of_limits() -> None:
    assert (see().memory_bytes, see().limited) == (64 * GIBIBYTE, False)
    assert (see(memory_bytes=GIBIBYTE).memory_bytes, see(memory_bytes=GIBIBYTE).limited) == (GIBIBYTE, True)
    assert see(memory_bytes=100 * GIBIBYTE).memory_bytes == 64 * GIBIBYTE, "a limit gives nobody memory that is not there"
    assert see_machine(profile(MachineView.OFF), time_namespace=True) is None


@pytest.mark.parametrize(("numbers", "text"), [((0,), "0"), ((0, 1, 2), "0-2"), ((0, 2, 3, 7), "0,2-3,7"), ((5, 6), "5-6")])
def test_lists_of_processors(numbers: tuple[int, ...], text: str) -> None:
    assert format_list(numbers) == text
    assert tuple(_parse_list(text.encode())) == numbers


def test_files_of_a_view() -> None:
    for view, proc in itertools.product((MachineView.STATIC, MachineView.LIVE), (ProcMode.MINIMAL, ProcMode.FULL)):
        entries, covers = add_machine(see(view=view, proc=proc, memory_bytes=GIBIBYTE))
        over = {cover.path for cover in covers if cover.path.startswith("/proc/")}
        assert ("/proc/meminfo" in over) is (proc is ProcMode.FULL)
        assert ("/proc/uptime" in over) is (proc is ProcMode.FULL and view is MachineView.LIVE), "one that stands still is worse than the kernel's"
        live = [entry for entry in entries if isinstance(entry, LiveFiles)]
        assert len(live) == (view is MachineView.LIVE)
        made = {entry.path: entry.content for entry in entries if isinstance(entry, FileBytes)}
        made |= {f"{entry.path}/{name}": content for entry in live for name, content in entry.files}
        made |= {cover.path + path[len(cover.source) :]: made[path] for cover in covers for path in list(made) if (path + "/").startswith(cover.source + "/")}
        assert made["/sys/fs/cgroup/memory.max"] == b"1073741824\n"
        assert made["/sys/devices/system/cpu/online"] == b"0-3,6-7\n" and made["/sys/devices/system/cpu/possible"] == b"0-7\n"
        assert {cover.source for cover in covers} <= set(made) | {"/sys/machine/pressure", "/sys/machine/cgroup"}


def test_live_files_have_one_length() -> None:
    machine = see(view=MachineView.LIVE, memory_bytes=GIBIBYTE)
    for figures in (
        Figures(),
        Figures(uptime_ns=10**18, lived_ns=10**18, busy_ns=6 * 10**18, memory_bytes=GIBIBYTE, file_bytes=GIBIBYTE, kernel_bytes=GIBIBYTE, processes=4_194_304,
                running=4_194_304, load=(4e6, 4e6, 4e6), boot_s=10**10),
    ):  # fmt: skip
        for make in (machine_files.live_proc_files, machine_files.live_cgroup_files):
            sizes = {name: len(content) for name, content in make(machine, Figures()).items()}
            assert sizes == {name: len(content) for name, content in make(machine, figures).items()}
    assert len(machine_files.live_proc_files(machine, Figures())["uptime"]) == api_machine.UPTIME_BYTES
    assert {name: getattr(Figures(), name) for name in Figures.__slots__} == {name: getattr(Moment(), name) for name in Moment.__slots__}


@pytest.mark.parametrize("used", [(0, 0, 0), (100, 40, 10), (1024, 1024, 0), (5000, 6000, 7000)])
def test_memory_adds_up(used: tuple[int, int, int]) -> None:
    machine = see(memory_bytes=1024 << 20)
    memory, file, kernel = (mebibytes << 20 for mebibytes in used)
    text = machine_files.meminfo(machine, Figures(memory_bytes=memory, file_bytes=file, kernel_bytes=kernel)).decode()
    found = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()}
    assert found["MemTotal"] == 1 << 20 and all(0 <= number <= found["MemTotal"] for number in found.values())
    assert found["MemTotal"] - found["MemFree"] == found["AnonPages"] + found["Cached"] + found["Slab"]
    assert found["MemFree"] <= found["MemAvailable"] <= found["MemTotal"]


def test_load_is_what_was_busy() -> None:
    load = (0.0, 0.0, 0.0)
    for _ in range(600):
        load = _decay(load, 2.0, 1.0)
    assert load[0] == pytest.approx(2.0, abs=0.01) and 1.6 < load[1] < 1.9 and 0.9 < load[2] < 1.1
    assert _decay(load, 0.0, 60.0)[0] == pytest.approx(2.0 / 2.718281828, abs=0.01), "a minute of rest leaves 1/e"


def write(directory: Path, rules: str) -> str:
    path = directory / "p.toml"
    path.write_text(f'name = "p"\ndescription = "d"\nextends = ["base"]\n{rules}\n')
    return str(path)


def test_only_what_can_be_answered_is_emulated(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"the supervisor cannot answer `getpid`") as caught:
        load_policy(write(tmp_path, '[[rule]]\nsyscalls = ["sysinfo", "getpid"]\naction = "emulate"'))
    assert caught.value.hint == "it can answer `sched_getaffinity` and `sysinfo`" and "p.toml:5, rule[1].action" in str(caught.value)
    with pytest.raises(PolicyError, match=r"no default can be `emulate`"):
        load_policy(write(tmp_path, 'default = "emulate"'))


def test_without_a_view_the_calls_are_made(tmp_path: Path) -> None:
    policy = load_policy("strict")
    plain = without_emulation(policy)
    for arch in Arch:
        for number in ({Arch.X86_64: 99, Arch.AARCH64: 179}[arch], {Arch.X86_64: 204, Arch.AARCH64: 123}[arch]):
            assert decide(policy, arch, number, (0,) * 6).action is Action.EMULATE
            assert decide(plain, arch, number, (0,) * 6).action is Action.ALLOW
    assert emulates(policy, "sysinfo") and not emulates(plain, "sysinfo")
    assert plain.digest != policy.digest and without_emulation(plain) is plain
    assert replace(plain, rules=policy.rules, digest=policy.digest) == policy
    other = load_policy(write(tmp_path, '[[rule]]\nsyscalls = ["sysinfo"]\naction = "errno EPERM"'))
    assert not emulates(other, "sysinfo") and emulates(other, "sched_getaffinity")
