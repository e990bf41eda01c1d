"""A policy as the seccomp JSON that Docker, Podman and OCI runtimes read.

Rules are disjoint sets of masked equalities, so that it does not matter in which order a runtime adds them, and only the bits that the kernel keeps are
compared. Pure; the front end and tests import this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_number
from sandbox.policy.model import SyscallPolicy
from sandbox.seccomp import evaluate as bpf
from sandbox.seccomp.convert_oci import OCI_ARCH
from sandbox.seccomp.convert_paths import tree_paths
from sandbox.seccomp.lower import Test, decision_tree, return_value

_NAMES: Mapping[int, str] = {
    bpf.RET_ALLOW: "SCMP_ACT_ALLOW",
    bpf.RET_LOG: "SCMP_ACT_LOG",
    bpf.RET_TRAP: "SCMP_ACT_TRAP",
    bpf.RET_USER_NOTIF: "SCMP_ACT_NOTIFY",
    bpf.RET_KILL_PROCESS: "SCMP_ACT_KILL_PROCESS",
}


def convert_to_oci(policy: SyscallPolicy, arch: Arch, *, notify: bool) -> str:
    """Return a policy as JSON for one architecture.

    Args:
        policy: the merged policy, checked.
        arch: whose numbers, constants and argument order.
        notify: write recorded refusals as SCMP_ACT_NOTIFY, for an agent to answer, instead of as the errno they get.

    Raises:
        PolicyError: conditions of a syscall are too complex together.
    """
    default = return_value(policy.default, notify)
    groups: dict[tuple[int, tuple[Test, ...], str], list[str]] = {}
    for syscall, entries in policy.rules.items():
        if syscall_number(arch, syscall) is None:
            continue
        for tests, value in tree_paths(decision_tree(policy, syscall, arch, notify)):
            if value != default:
                # Tests belong to one syscall: the same registers mean something else in another.
                reason = entries[0].rule.reason if len(entries) == 1 else ""
                groups.setdefault((value, tests, syscall if tests else reason), []).append(syscall)
    ordered = sorted(groups.items(), key=lambda item: (bool(item[0][1]), -item[0][0], item[1][0], item[0][1], item[0][2]))
    profile: dict[str, object] = {"defaultAction": _action(default)}
    if default & 0xFFFF_0000 == bpf.RET_ERRNO:
        profile["defaultErrnoRet"] = default & 0xFFFF
    profile["architectures"] = [OCI_ARCH[arch]]
    rules: list[str] = []
    for (value, tests, why), names in ordered:
        rule: dict[str, object] = {"names": sorted(names), "action": _action(value)}
        if value & 0xFFFF_0000 == bpf.RET_ERRNO:
            rule["errnoRet"] = value & 0xFFFF
        if tests:
            rule["args"] = [
                {"index": index, "value": mask, "valueTwo": wanted, "op": "SCMP_CMP_MASKED_EQ"} for index, mask, wanted in tests
            ]
        elif why:
            rule["comment"] = why
        rules.append("    " + json.dumps(rule))
    head = json.dumps(profile, indent=2)[:-2]
    return head + ',\n  "syscalls": [\n' + ",\n".join(rules) + "\n  ]\n}\n"


def _action(value: int) -> str:
    return "SCMP_ACT_ERRNO" if value & 0xFFFF_0000 == bpf.RET_ERRNO else _NAMES[value]
