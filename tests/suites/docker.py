"""Docker's (or anybody's) seccomp profile against our conversion of it: are they the same filter, for every call?

Run by hand: ``python tests/suites/docker.py PROFILE.json``, with moby's ``seccomp/default.json`` of https://github.com/moby/profiles, which is not part
of this repository. With ``SANDBOX_DOCKER_PROFILE=PATH`` the tests run it. Every line is a proof over all calls:

- *by name*: libseccomp is given the names, as a runtime gives them, and what it does not know it leaves out; we convert the profile without these.
- *by number*: libseccomp is given our numbers, so that names newer than it are compared, too.

`reference` is written anew from what runtimes do (runc's and moby's sources), with nothing of the converters: the standard library's JSON, one rule of
libseccomp's for each rule and name. Exit status 0 when all exact conversions are equal and the others differ in arguments only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pyseccomp

from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_number
from sandbox.seccomp.convert import Converted, convert_profile
from sandbox.seccomp.evaluate import RET_KILL_PROCESS, Instruction, decode
from sandbox.seccomp.prove import Difference, PolicyDecider, ProgramDecider, describe_value, differences

_GO_ARCH = {Arch.X86_64: "amd64", Arch.AARCH64: "arm64"}
_ACTIONS = {
    "SCMP_ACT_KILL": 0, "SCMP_ACT_KILL_THREAD": 0, "SCMP_ACT_KILL_PROCESS": 0x8000_0000, "SCMP_ACT_TRAP": 0x3_0000, "SCMP_ACT_ERRNO": 0x5_0000,
    "SCMP_ACT_TRACE": 0x7FF0_0000, "SCMP_ACT_ALLOW": 0x7FFF_0000, "SCMP_ACT_LOG": 0x7FFC_0000, "SCMP_ACT_NOTIFY": 0x7FC0_0000,
}  # fmt: skip
KERNELS = ((4, 7), (4, 8), (6, 1))


def applies(rule: dict[str, Any], arch: Arch, capabilities: frozenset[str], kernel: tuple[int, int]) -> bool:
    """Tell whether moby would keep a rule for a container."""
    for key, wanted in (("excludes", False), ("includes", True)):
        filters = rule.get(key) or {}
        conditions = []
        if filters.get("arches"):
            conditions.append(_GO_ARCH[arch] in filters["arches"])
        if filters.get("caps"):
            # excluded by any of them, included by all
            conditions.append((all if wanted else any)(name in capabilities for name in filters["caps"]))
        if filters.get("minKernel"):
            conditions.append(kernel >= tuple(int(part) for part in filters["minKernel"].split(".")))
        if (wanted and not all(conditions)) or (not wanted and any(conditions)):
            return False
    return True


def action_of(table: dict[str, Any], key: str, number: str) -> int:
    """Return a filter's return value."""
    value = _ACTIONS[table[key]]
    if value in (0x5_0000, 0x7FF0_0000):
        data = table.get(number)
        return value | (1 if data is None else int(data))
    return value


def reference(
    profile: dict[str, Any], arch: Arch, capabilities: frozenset[str], kernel: tuple[int, int], resolve: Callable[[str], int | None]
) -> tuple[Instruction, ...]:
    """Return libseccomp's filter of a profile, whose rules are given to it as runtimes do.

    Args:
        profile: the parsed JSON.
        arch: the container's architecture.
        capabilities: its bounding set.
        kernel: its kernel.
        resolve: name → what libseccomp is to be given for it, None to leave it out.
    """
    default = action_of(profile, "defaultAction", "defaultErrnoRet")
    pyseccomp.set_api(5)
    tree = pyseccomp.SyscallFilter(default)
    if arch is Arch.AARCH64 and os.uname().machine == "x86_64":
        tree.add_arch(pyseccomp.Arch.AARCH64)
        tree.remove_arch(pyseccomp.Arch.X86_64)
    tree.set_attr(pyseccomp.Attr.ACT_BADARCH, RET_KILL_PROCESS)
    tree.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)
    for rule in profile.get("syscalls") or []:
        action = action_of(rule, "action", "errnoRet")
        if action == default or not applies(rule, arch, capabilities, kernel):
            continue
        args = [
            pyseccomp.Arg(arg["index"], getattr(pyseccomp, arg["op"].removeprefix("SCMP_CMP_")), arg["value"], arg.get("valueTwo") or 0)
            for arg in rule.get("args") or []
        ]
        indexes = [arg["index"] for arg in rule.get("args") or []]
        for name in [rule["name"]] if rule.get("name") else rule["names"]:
            number = resolve(name)
            if number is None:
                continue
            if len(indexes) == len(set(indexes)):
                tree.add_rule(action, number, *args)
            else:
                for arg in args:
                    tree.add_rule(action, number, arg)
    with open(os.memfd_create("reference", os.MFD_CLOEXEC), "w+b", buffering=0) as file:
        tree.export_bpf(file)
        file.seek(0)
        return decode(file.read())


def by_name(name: str) -> int | None:
    """Return libseccomp's number of a name (below 0 for one that the machine's architecture does not have), None for one that it does not know."""
    number: int = pyseccomp.resolve_syscall(pyseccomp.system_arch(), name)
    return None if number == -1 else number


def by_number(name: str) -> int | None:
    """Return our number of a name on the machine's architecture."""
    return syscall_number(Arch(os.uname().machine), name)


def without_unknown(profile: dict[str, Any]) -> dict[str, Any]:
    """Return a profile without the names that this libseccomp does not know."""
    rules = []
    for rule in profile.get("syscalls") or []:
        names = [name for name in ([rule["name"]] if rule.get("name") else rule["names"]) if by_name(name) is not None]
        if names:
            rules.append({key: value for key, value in rule.items() if key != "name"} | {"names": names})
    return profile | {"syscalls": rules}


def convert(profile: dict[str, Any], arch: Arch, capabilities: frozenset[str], kernel: tuple[int, int], *, exact: bool) -> Converted:
    """Convert a parsed profile."""
    return convert_profile(
        json.dumps(profile).encode(),
        "profile.json",
        arch,
        capabilities=capabilities,
        kernel=kernel,
        name="converted",
        description="d",
        exact=exact,
    )


def compare(converted: Converted, program: tuple[Instruction, ...], arch: Arch) -> tuple[Difference, ...]:
    """Return the calls that the converted policy's filter, and then its text, decide otherwise than a program."""
    right = ProgramDecider(program)
    found = differences(ProgramDecider(decode(converted.filter.bpf)), right, arch)
    assert [(one.call, one.left) for one in found] == [
        (one.call, one.left) for one in differences(PolicyDecider(converted.policy, arch, notify=False), right, arch)
    ]
    return found


def study(
    path: str,
    capabilities: Iterable[frozenset[str]],
    write: Callable[[str], object] = print,
    *,
    arches: Iterable[Arch] = tuple(Arch),
    kernels: Iterable[tuple[int, int]] = KERNELS,
) -> bool:
    """Compare a profile for all architectures, capability sets and kernels; return whether all exact conversions are equal."""
    with open(path, "rb") as file:
        profile = json.load(file)
    unknown = sorted({name for rule in profile["syscalls"] for name in rule.get("names") or [rule["name"]] if by_name(name) is None})
    write(f"{path}: not known to this libseccomp: {', '.join(unknown) or 'nothing'}")
    good = True
    for arch in arches:
        for owned in capabilities:
            for kernel in kernels:
                what = f"{arch} {{{', '.join(sorted(owned))}}} Linux {kernel[0]}.{kernel[1]}"
                for how, resolve, given in (("by name", by_name, without_unknown(profile)), ("by number", by_number, profile)):
                    if how == "by number" and arch != os.uname().machine:
                        continue  # libseccomp translates numbers for another architecture by name
                    program = reference(given, arch, owned, kernel, resolve)
                    for exact in (True, False):
                        made = convert(given, arch, owned, kernel, exact=exact)
                        found = compare(made, program, arch)
                        good = good and not (exact and found)
                        result = "EQUAL for every call" if not found else "differ:"
                        write(
                            f"{what}, {how}, {'exact' if exact else 'by C type'}: ours {made.filter.instructions} instructions, "
                            f"libseccomp's {len(program)}: {result}"
                        )
                        for one in found:
                            write(f"    {one.call}: ours {describe_value(one.left)}, libseccomp's {describe_value(one.right)}")
    return good


def main(words: list[str]) -> int:
    """Study the profiles named."""
    if not words:
        print(__doc__)
        return 2
    sets = (frozenset[str](), frozenset({"CAP_SYS_ADMIN"}))
    results = [study(path, sets) for path in words]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
