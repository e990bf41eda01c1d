"""What is read of a host, against trees of files that stand for hosts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sandbox.cli import judge_environment
from sandbox.cli.options import UsageError
from sandbox.errors import SandboxError, SetupError
from sandbox.judge import noise as noise_module
from sandbox.judge.environment import Fact, State, read_facts
from sandbox.judge.host import Tree, parse_list, read_ticks, steal_share
from sandbox.judge.noise import LEAST_RUNS, MOST_RUNS, Noise, Timing, measure_noise
from sandbox.judge.repeat import measure_spread

CPU = "sys/devices/system/cpu"
NAMES = ["governor", "turbo", "smt", "processors", "load", "steal", "clock", "numa", "swap", "thp", "ksm", "aslr", "cgroup"]

DESKTOP = {
    f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave\n",
    f"{CPU}/cpu1/cpufreq/scaling_governor": "performance\n",
    f"{CPU}/cpu2/cpufreq/scaling_governor": "powersave\n",
    f"{CPU}/cpu3/cpufreq/scaling_governor": "powersave\n",
    f"{CPU}/intel_pstate/no_turbo": "0\n",
    f"{CPU}/smt/active": "1\n",
    **{f"{CPU}/cpu{n}/topology/thread_siblings_list": f"{n % 2},{n % 2 + 2}\n" for n in range(4)},
    f"{CPU}/online": "0-3\n",
    f"{CPU}/isolated": "\n",
    "proc/loadavg": "3.20 1.00 0.50 2/900 1234\n",
    "proc/pressure/cpu": "some avg10=12.50 avg60=1.00 avg300=0.10 total=1\n",
    "proc/stat": "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 2 3\n",
    "proc/cpuinfo": "flags\t\t: fpu vme\n",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet\n",
    "sys/devices/system/node/node0/x": "",
    "sys/devices/system/node/node1/x": "",
    "proc/sys/kernel/numa_balancing": "1\n",
    "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2\tpartition\t2097152\t0\t-2\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never\n",
    "sys/kernel/mm/ksm/run": "1\n",
    "proc/sys/kernel/randomize_va_space": "2\n",
    "proc/self/cgroup": "0::/user.slice\n",
    "proc/self/mountinfo": "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    "sys/fs/cgroup/user.slice/cgroup.controllers": "cpu memory pids\n",
    "sys/fs/cgroup/user.slice/memory.peak": "1\n",
    "sys/fs/cgroup/user.slice/cgroup.procs": "",
}
QUIET = DESKTOP | {
    **{f"{CPU}/cpu{n}/cpufreq/scaling_governor": "performance\n" for n in range(4)},
    f"{CPU}/intel_pstate/no_turbo": "1\n",
    f"{CPU}/smt/active": "0\n",
    **{f"{CPU}/cpu{n}/topology/thread_siblings_list": f"{n}\n" for n in range(4)},
    "proc/loadavg": "0.02 1.00 0.50 2/900 1234\n",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
    "proc/sys/kernel/numa_balancing": "0\n",
    "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/kernel/mm/ksm/run": "0\n",
    "proc/sys/kernel/randomize_va_space": "0\n",
}


@pytest.fixture
def host(tmp_path: Path) -> Callable[..., dict[str, Fact]]:
    def make(files: Mapping[str, str | None], allowed: frozenset[int] = frozenset(range(4))) -> dict[str, Fact]:
        for name, text in files.items():
            if text is not None:
                path = tmp_path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        return {fact.name: fact for fact in read_facts(Tree(str(tmp_path), allowed))}

    return make


def test_a_desktop_is_noisy_in_everything(host: Callable[..., dict[str, Fact]]) -> None:
    facts = host(DESKTOP)
    assert list(facts) == NAMES
    states = {name: fact.state for name, fact in facts.items()}
    assert {name for name, state in states.items() if state is not State.NOISY} == {"processors", "steal", "cgroup"}
    assert facts["governor"].value == "performance on 1 processor, powersave on 3 processors"
    assert facts["smt"].value == "2 cores with several threads among 4 processors"
    assert "--jobs 2" in facts["smt"].advice
    assert facts["load"].value == "3.20 on 4 processors, 12.50 % of the last 10 s somebody waited for one"
    assert facts["swap"].value == "1 area of 2048 MiB"
    assert facts["numa"].value == "2 nodes, pages are moved between them"
    assert facts["clock"].value == "hpet"
    assert facts["cgroup"].value == "v2, memory.peak"
    assert all(fact.effect and fact.source for fact in facts.values())
    assert all(fact.advice for fact in facts.values() if fact.state is State.NOISY)


def test_a_judge_machine_is_quiet_in_everything(host: Callable[..., dict[str, Fact]]) -> None:
    facts = host(QUIET)
    assert {name: fact.state for name, fact in facts.items() if fact.state is not State.QUIET} == {}


def test_nothing_to_read_is_an_answer(host: Callable[..., dict[str, Fact]]) -> None:
    facts = host({})
    assert list(facts) == NAMES
    unknown = {name for name, fact in facts.items() if fact.state is State.UNKNOWN}
    assert unknown == {"governor", "turbo", "smt", "load", "steal", "clock", "swap", "thp", "aslr"}
    assert facts["cgroup"].value == "no memory controller"


@pytest.mark.parametrize(
    "text", ["", "\0\xff", "a" * 5000, "-1", "99999999999999999999", "1 2 3 4 5 6 7 8 9 10 11 12", "\n\n\n", "[", ":::", "0::\n1:memory"]
)
def test_nonsense_in_every_file_is_no_crash(host: Callable[..., dict[str, Fact]], text: str) -> None:
    facts = host(dict.fromkeys(DESKTOP, text))
    assert list(facts) == NAMES
    assert all(fact.value for fact in facts.values())


def test_names_of_the_host_do_not_reach_the_terminal(host: Callable[..., dict[str, Fact]]) -> None:
    facts = host(
        DESKTOP
        | {
            f"{CPU}/cpu0/cpufreq/scaling_governor": "\x1b[2Jx",
            "proc/self/cgroup": "0::/\x1b[31mred\n",
            "sys/fs/cgroup/\x1b[31mred/cgroup.controllers": "memory\n",
        }
    )
    assert "\x1b" not in judge_environment.render_table(list(facts.values()), None)
    assert "\\x1b[31mred" in facts["cgroup"].source


def test_one_thread_of_each_core_is_quiet(host: Callable[..., dict[str, Fact]]) -> None:
    facts = host(DESKTOP, frozenset({0, 1}))
    assert facts["smt"].state is State.QUIET
    assert facts["smt"].value == "one thread of each core is used"
    assert facts["governor"].value == "performance on 1 processor, powersave on 1 processor"


def test_amd_boost_and_other_switches(host: Callable[..., dict[str, Fact]]) -> None:
    facts = host({f"{CPU}/cpufreq/boost": "1\n"})
    assert facts["turbo"].state is State.NOISY
    assert facts["turbo"].advice == "echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        (
            {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"},
            "held to the time of 1.5",
        ),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, ""),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/a\n",
                "proc/self/mountinfo": "30 1 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
            },
            "held to the time of 0.5",
        ),
    ],
)  # fmt: skip
def test_a_quota_of_ours_or_of_a_parent(host: Callable[..., dict[str, Fact]], files: dict[str, str], quota: str) -> None:
    facts = host(QUIET | files)
    assert (facts["processors"].state is State.NOISY) == bool(quota)
    assert quota in facts["processors"].value


def test_steal_of_a_virtual_machine(host: Callable[..., dict[str, Fact]]) -> None:
    facts = host(DESKTOP | {"proc/stat": "cpu 400 0 100 1000 0 0 0 500 0 0\n", "proc/cpuinfo": "flags : fpu hypervisor\n"})
    assert (facts["steal"].state, facts["steal"].value) == (State.NOISY, "50.00% since boot, in a virtual machine")


def test_steal_between_two_readings() -> None:
    zero = dict.fromkeys(("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"), 0)
    assert steal_share(zero, zero | {"user": 9, "steal": 1, "idle": 90}) == pytest.approx(0.1)
    assert steal_share(zero, zero) == 0.0
    assert steal_share(None, None) is None
    # iowait goes down on some kernels.
    assert steal_share(zero | {"iowait": 5}, zero | {"user": 1}) == 0.0


@pytest.mark.parametrize(
    ("tree", "state", "value"),
    [
        ({"sys/fs/cgroup/user.slice/memory.peak": None, "proc/sys/kernel/osrelease": "5.14.0-1\n"}, State.NOISY, "v2, no memory.peak"),
        ({"sys/fs/cgroup/user.slice/memory.peak": None, "proc/sys/kernel/osrelease": "6.1.0\n"}, State.QUIET, "v2, memory.peak"),
        ({"sys/fs/cgroup/user.slice/cgroup.controllers": "cpu\n"}, State.NOISY, "no memory controller"),
    ],
)
def test_what_a_cgroup_counts(host: Callable[..., dict[str, Fact]], tree: dict[str, str | None], state: State, value: str) -> None:
    facts = host(DESKTOP | tree)
    assert (facts["cgroup"].state, facts["cgroup"].value) == (state, value)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-3,8", {0, 1, 2, 3, 8}), ("", set()), ("5", {5}), ("0-1:2/4,x,3-", {0, 1}), ("7-3", set()), ("0-999999", set(range(4097)))],
)
def test_lists_of_processors(text: str, numbers: set[int]) -> None:
    assert parse_list(text) == numbers


def test_this_host_has_an_answer_to_everything() -> None:
    assert [fact.name for fact in read_facts(Tree())] == NAMES
    assert read_ticks(Tree()) is not None


# ---- the probe, without a sandbox -------------------------------------------------------------------------------


def test_the_probe_ends_with_its_time_and_with_its_most_runs(tmp_path: Path) -> None:
    now = [0]

    def run() -> Timing:
        now[0] += 10
        return Timing(cpu_ns=100 + len(made), wall_ns=made.append(1) or 200)

    made: list[int] = []
    noise = measure_noise(1, 4_000, run, tree=Tree(str(tmp_path)), clock=lambda: now[0])
    assert (noise.alone.count, noise.busy.count) == (MOST_RUNS, MOST_RUNS)
    made.clear()
    noise = measure_noise(1, 0, run, tree=Tree(str(tmp_path)), clock=lambda: now[0])
    assert (noise.alone.count, noise.busy.count) == (LEAST_RUNS, LEAST_RUNS)
    # The first run is thrown away.
    assert noise.alone.minimum == 101


def test_a_failure_of_a_worker_is_raised(tmp_path: Path) -> None:
    def run() -> Timing:
        made.append(1)
        if len(made) > LEAST_RUNS + 2:
            raise SetupError("clone", 11)
        return Timing(cpu_ns=1, wall_ns=1)

    made: list[int] = []
    with pytest.raises(SetupError):
        measure_noise(2, 0, run, tree=Tree(str(tmp_path)), clock=lambda: 0)


def _noise(*, alone: list[int], busy: list[int]) -> Noise:
    wall = measure_spread([1_000_000])
    return Noise(
        alone=measure_spread(alone), busy=measure_spread(busy), wall_alone=wall, wall_busy=wall, workers=2, steal=0.0, cpu_source="cpu.stat"
    )


@pytest.mark.parametrize(
    ("alone", "busy", "word", "worst"),
    [
        ([100] * 20, [102] * 20, "quiet", 1.02),
        ([100] * 20, [100] * 18 + [110] * 4, "usable", 1.1),
        ([100] * 20, [100] * 15 + [300] * 5, "noisy", 3.0),
    ],
)
def test_what_figures_mean(alone: list[int], busy: list[int], word: str, worst: float) -> None:
    noise = _noise(alone=alone, busy=busy)
    assert noise.worst == worst
    assert noise.judgement.startswith(f"{word}: the same work took up to {worst:.2f} times")


# ---- the command ------------------------------------------------------------------------------------------------


def test_command_prints_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[int, int]] = []

    def probe(workers: int, budget_ns: int) -> Noise:
        asked.append((workers, budget_ns))
        return _noise(alone=[100, 120], busy=[100, 130])

    monkeypatch.setattr(noise_module, "probe_noise", probe)
    assert judge_environment.run(["--format", "json", "--jobs", "3", "--time", "500ms"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert asked == [(3, 500_000_000)]
    assert [fact["name"] for fact in found["facts"]] == NAMES
    assert found["noise"]["cpu_busy_ns"]["maximum"] == 130
    assert found["noise"]["worst"] == 1.3


def test_command_without_a_probe_runs_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(noise_module, "probe_noise", lambda *_: pytest.fail("probed"))
    assert judge_environment.run(["--no-probe"]) == 0
    out = capsys.readouterr().out
    assert "governor" in out and "p95" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_what_was_read_is_printed_though_the_probe_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def probe(workers: int, budget_ns: int) -> Noise:
        raise SetupError("clone3", 1)

    monkeypatch.setattr(noise_module, "probe_noise", probe)
    with pytest.raises(SandboxError, match="clone3"):
        judge_environment.run([])
    assert "aslr" in capsys.readouterr().out


def test_table_of_the_probe_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    text = judge_environment.render_table([], _noise(alone=[95_000_000, 100_000_000], busy=[100_000_000, 120_000_000]))
    assert max(map(len, text.splitlines())) <= 80
    assert "CPU time, 2 at a time           2   110.0 ms   119.0 ms   120.0 ms      1.082" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x"], "takes no `x`"), (["--format", "xml"], "table or json"), (["--jobs", "0"], "`--jobs 0`"), (["--jobs", "1e3"], "`--jobs 1e3`"),
        (["--time", "0"], "more than nothing"), (["--time", "11m"], "at most 600 s"), (["--time", "soon"], "duration `soon`"), (["--fast"], "unknown option"),
    ],
)  # fmt: skip
def test_wrong_words(words: list[str], message: str) -> None:
    with pytest.raises(SandboxError, match=message):
        judge_environment.run(words)
    assert issubclass(UsageError, SandboxError)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert judge_environment.run(["--help"]) == 0
    assert "--no-probe" in capsys.readouterr().out
