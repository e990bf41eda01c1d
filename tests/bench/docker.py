"""A filter as other sandboxes get it: Docker's or podman's default profile for this machine and no capabilities, compiled by libseccomp."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pyseccomp

from sandbox.seccomp.evaluate import RET_ALLOW, RET_ERRNO, RET_KILL_PROCESS

LIST, TREE = 1, 2
"""The two shapes that libseccomp makes."""

_OPERATORS = {
    "SCMP_CMP_NE": pyseccomp.NE, "SCMP_CMP_LT": pyseccomp.LT, "SCMP_CMP_LE": pyseccomp.LE, "SCMP_CMP_EQ": pyseccomp.EQ, "SCMP_CMP_GE": pyseccomp.GE,
    "SCMP_CMP_GT": pyseccomp.GT, "SCMP_CMP_MASKED_EQ": pyseccomp.MASKED_EQ,
}  # fmt: skip


def compile_docker(path: Path, optimize: int) -> bytes:
    """Return the filter that runc has libseccomp make of a profile (`seccomp/default.json` of moby/profiles), but for this architecture only."""
    default, rules = read_docker(path)
    tree = empty_filter(default, optimize)
    for rule in rules:
        value = RET_ALLOW if rule["action"] == "SCMP_ACT_ALLOW" else RET_ERRNO | rule.get("errnoRet", errno.EPERM)
        arguments = [pyseccomp.Arg(a["index"], _OPERATORS[a["op"]], a["value"], a.get("valueTwo", 0)) for a in rule.get("args") or []]
        for name in rule["names"] if value != default else ():
            number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
            if number >= 0:
                tree.add_rule(value, number, *arguments)
    return export_filter(tree)


def read_docker(path: Path) -> tuple[int, list[dict[str, Any]]]:
    """Return a profile's default return value and the rules of it that hold here for no capabilities."""
    profile = json.loads(path.read_text())
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    rules = []
    for rule in profile["syscalls"]:
        wanted, unwanted = rule.get("includes") or {}, rule.get("excludes") or {}
        if not (wanted.get("caps") or machine not in wanted.get("arches", [machine]) or machine in unwanted.get("arches", [])):
            rules.append(rule)
    return RET_ERRNO | profile.get("defaultErrnoRet", errno.EPERM), rules


def empty_filter(default: int, optimize: int) -> pyseccomp.SyscallFilter:
    """Return a filter without rules; `optimize` is `LIST` or `TREE`."""
    tree = pyseccomp.SyscallFilter(default)
    tree.set_attr(pyseccomp.Attr.ACT_BADARCH, RET_KILL_PROCESS)
    tree.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, optimize)
    return tree


def export_filter(tree: pyseccomp.SyscallFilter) -> bytes:
    """Return a filter as the kernel takes it."""
    with open(os.memfd_create("filter", os.MFD_CLOEXEC), "w+b", buffering=0) as file:
        tree.export_bpf(file)
        file.seek(0)
        return file.read()
