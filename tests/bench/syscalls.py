"""What a filter costs: system calls in a C loop without a filter, under ours and under others, and the installing of each filter.

Paired and interleaved: one process for each filter, all on one processor; each round asks every process once, in an order shuffled anew, and ratios are
medians of the rounds' own. Needs gcc; `--docker FILE` takes Docker's default profile (moby/profiles, seccomp/default.json).
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pyseccomp

from sandbox.abi.arch import native_arch
from sandbox.abi.tables import syscall_number
from sandbox.policy.load import load_policy
from sandbox.policy.model import SyscallPolicy
from sandbox.seccomp.compile import compile_filter
from sandbox.seccomp.evaluate import RET_ALLOW, RET_ERRNO, RET_KILL_PROCESS
from sandbox.seccomp.lower import Tree, decision_tree, return_value

CALLS = ("getpid", "read", "openat+close", "futex", "fcntl", "ioctl")
_SOURCE = Path(__file__).with_name("syscalls.c")
_LOOPS = 20_000
_OPERATORS = {
    "SCMP_CMP_NE": pyseccomp.NE, "SCMP_CMP_LT": pyseccomp.LT, "SCMP_CMP_LE": pyseccomp.LE, "SCMP_CMP_EQ": pyseccomp.EQ, "SCMP_CMP_GE": pyseccomp.GE,
    "SCMP_CMP_GT": pyseccomp.GT, "SCMP_CMP_MASKED_EQ": pyseccomp.MASKED_EQ,
}  # fmt: skip


def main(rounds: int, policies: tuple[str, ...], docker: str | None, seed: int) -> int:
    """Measure and print."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        print("syscalls: no C compiler; `apt-get install gcc`")
        return 2
    cpu = max(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        program = Path(directory, "syscalls")
        subprocess.run([compiler, "-O2", "-o", str(program), str(_SOURCE)], check=True)
        filters = dict(_filters(policies, docker))
        paths = {}
        for index, (name, bpf) in enumerate(filters.items()):
            paths[name] = Path(directory, f"{index}.bpf")
            paths[name].write_bytes(bpf)
        os.sched_setaffinity(0, {cpu})
        ask: dict[str, Callable[[str], float]] = {}
        for name in ("no filter", *filters):
            line = [str(program), *([str(paths[name])] if name in paths else [])]
            process = stack.enter_context(subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            ask[name] = _asker(process)
        order = random.Random(seed)
        print(
            f"processor {cpu}, {rounds} rounds of {_LOOPS} calls, uid {os.geteuid()}, load {os.getloadavg()[0] / (os.cpu_count() or 1):.1f} a processor\n"
        )
        print("| | instructions | install, µs | " + " | ".join(CALLS) + " |\n|---|---:|---:|" + "---:|" * len(CALLS))
        times = {name: {call: [] for call in CALLS} for name in ask}  # type: dict[str, dict[str, list[float]]]
        installs: dict[str, list[float]] = {name: [] for name in filters}
        for _ in range(rounds):
            for name in order.sample(list(ask), len(ask)):
                for call in CALLS:
                    times[name][call].append(ask[name](call))
                if name in filters:
                    done = subprocess.run([str(program), "install", str(paths[name]), "5"], capture_output=True, text=True, check=True)
                    installs[name].append(statistics.median(map(float, done.stdout.split())) / 1000)
        for name in ask:
            cells = []
            for call in CALLS:
                own, bare = times[name][call], times["no filter"][call]
                ratio = statistics.median(a / b for a, b in zip(own, bare, strict=True))
                cells.append(f"{statistics.median(own):.0f} ns" + (f" ({ratio:.2f})" if name in filters else ""))
            size = f"{len(filters[name]) // 8} | {statistics.median(installs[name]):.0f}" if name in filters else "0 | "
            print(f"| {name} | {size} | " + " | ".join(cells) + " |")
    return 0


def _asker(process: subprocess.Popen[str]) -> Callable[[str], float]:
    def ask(call: str) -> float:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{call} {_LOOPS}\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    return ask


def _filters(policies: tuple[str, ...], docker: str | None) -> Iterator[tuple[str, bytes]]:
    for name in policies:
        policy = load_policy(name)
        yield name, compile_filter(policy, native_arch()).bpf
        yield f"{name}, no listener", compile_filter(policy, native_arch(), notify=False).bpf
    first = load_policy(policies[0])
    for text, optimize in (("tree", 2), ("list", 1)):
        yield f"{policies[0]} as libseccomp's {text}", _plain(first, optimize)
    if docker is not None:
        yield "Docker's default, libseccomp's tree", _docker(Path(docker), 2)
        yield "Docker's default, libseccomp's list", _docker(Path(docker), 1)


def _plain(policy: SyscallPolicy, optimize: int) -> bytes:
    """Return a policy's filter as libseccomp makes it from one set of rules, without `link`."""
    arch, default = native_arch(), return_value(policy.default, notify=True)
    tree = _tree(default, optimize)
    for syscall in policy.rules:
        number = syscall_number(arch, syscall)
        if number is None:
            continue
        for tests, value in _paths(decision_tree(policy, syscall, arch, notify=True)):
            if value != default:
                tree.add_rule_exactly(
                    value, number, *(pyseccomp.Arg(index, pyseccomp.MASKED_EQ, mask, wanted) for index, mask, wanted in tests)
                )
    return _export(tree)


def _paths(tree: Tree) -> Iterator[tuple[tuple[tuple[int, int, int], ...], int]]:
    if isinstance(tree, int):
        yield (), tree
        return
    for cubes, below in tree.ways:
        for tests, value in _paths(below):
            for care, wanted in cubes:
                yield ((tree.index, care, wanted), *tests), value


def _docker(path: Path, optimize: int) -> bytes:
    """Return Docker's default filter for this machine and no capabilities, as runc has libseccomp make it, but for this architecture only."""
    profile = json.loads(path.read_text())
    default = RET_ERRNO | profile.get("defaultErrnoRet", errno.EPERM)
    tree = _tree(default, optimize)
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    for rule in profile["syscalls"]:
        wanted, unwanted = rule.get("includes") or {}, rule.get("excludes") or {}
        if wanted.get("caps") or machine not in wanted.get("arches", [machine]) or machine in unwanted.get("arches", []):
            continue
        value = RET_ALLOW if rule["action"] == "SCMP_ACT_ALLOW" else RET_ERRNO | rule.get("errnoRet", errno.EPERM)
        arguments = [pyseccomp.Arg(a["index"], _OPERATORS[a["op"]], a["value"], a.get("valueTwo", 0)) for a in rule.get("args") or []]
        for name in rule["names"] if value != default else ():
            number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
            if number >= 0:
                tree.add_rule(value, number, *arguments)
    return _export(tree)


def _tree(default: int, optimize: int) -> pyseccomp.SyscallFilter:
    tree = pyseccomp.SyscallFilter(default)
    tree.set_attr(pyseccomp.Attr.ACT_BADARCH, RET_KILL_PROCESS)
    tree.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, optimize)
    return tree


def _export(tree: pyseccomp.SyscallFilter) -> bytes:
    with open(os.memfd_create("filter", os.MFD_CLOEXEC), "w+b", buffering=0) as file:
        tree.export_bpf(file)
        file.seek(0)
        return file.read()
