"""Container runtimes' JSON, both ways.

- Bytes as JSON, and JSON built and then spoiled: only `PolicyError` and `CompileError` come out, with a place.
- What an exact conversion accepts means what a naive reading of the JSON (by the standard library's parser) says, wherever the JSON says one thing.
- A policy written as JSON and read back means the same, and so does that written once more.

The first byte chooses: 0 to 85 the rest is JSON as it stands, to 170 it builds JSON, else it builds a policy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import engine

with engine.instrumented(__name__ == "__main__"):
    from fuzz import facts, grammar
    from fuzz.choose import Bytes, Chooser
    from fuzz.policies import check_error, load, outcome, write_files
    from sandbox.abi.arch import Arch, audit_arch
    from sandbox.abi.tables import syscall_number
    from sandbox.errors import CompileError, PolicyError
    from sandbox.seccomp.compile import compile_filter
    from sandbox.seccomp.convert import Converted, convert_policy, convert_profile
    from sandbox.seccomp.convert_kafel import convert_to_kafel
    from sandbox.seccomp.evaluate import decode, pack_data, run_program
    from sandbox.seccomp.prove import ProgramDecider, differences

ALL_BITS = (1 << 64) - 1
KERNEL = (6, 1)
OWNED = frozenset({"CAP_SYS_ADMIN", "CAP_KILL"})
ACTIONS = ("ALLOW", "ERRNO", "KILL_PROCESS", "LOG", "TRAP", "KILL", "KILL_THREAD", "TRACE", "NOTIFY")
OPERATORS = ("EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ")
VALUES = {"ALLOW": 0x7FFF0000, "LOG": 0x7FFC0000, "TRAP": 0x30000, "KILL_PROCESS": 0x80000000, "ERRNO": 0x50000}
CALLS = tuple(name for name in grammar.SYSCALLS if name in facts.SIGNATURES["aarch64"])
WORDS = (
    '"defaultAction":"SCMP_ACT_ERRNO"', '"defaultErrnoRet":', '"syscalls":[', '"names":["socket"]', '"action":"SCMP_ACT_ALLOW"', '"args":[', '"index":0',
    '"value":', '"op":"SCMP_CMP_MASKED_EQ"', '"op":"SCMP_CMP_NE"', '"includes":{', '"excludes":{', '"caps":["CAP_SYS_ADMIN"]', '"minKernel":"4.8"',
    '"arches":["amd64"]', '"architectures":["SCMP_ARCH_X86_64"]', '"archMap":[', '"errnoRet":', '"errno":"EPERM"', '"flags":["SECCOMP_FILTER_FLAG_LOG"]',
    "null", "true", "18446744073709551616", "-1", "1e3", "\\ud800", "9" * 4400, '"' + "9" * 4400 + '"', '"²"', "[" * 200,
)  # fmt: skip
SEEDS = (
    b'\0{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_X86_64"],"syscalls":[{"names":["read","write"],'
    b'"action":"SCMP_ACT_ALLOW"},{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":40,"op":"SCMP_CMP_NE"}],"comment":"c",'
    b'"includes":{"caps":["CAP_SYS_ADMIN"],"minKernel":"4.8"},"excludes":{"arches":["s390x"]}}]}',
    b'\0{"defaultAction":"SCMP_ACT_KILL_PROCESS","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],"syscalls":'
    b'[{"names":["personality"],"action":"SCMP_ACT_ERRNO","errnoRet":1,"args":[{"index":0,"value":131080,"valueTwo":8,"op":"SCMP_CMP_MASKED_EQ"}]}]}',
    *(bytes([kind]) + bytes((seed * each) & 255 for each in range(1, 300)) for seed in range(1, 6) for kind in (100, 200)),
)


def one_input(data: bytes) -> str:
    """Convert one input in the direction that it chooses."""
    kind = data[0] if data else 0
    chooser = Bytes(data[1:])
    if kind <= 85:
        return foreign(Bytes(data[::-1]), data[1:])
    if kind <= 170:
        return foreign(chooser, profile(chooser))
    return round_trip(chooser)


def foreign(chooser: Chooser, content: bytes) -> str:
    """Convert JSON, and hold an exact conversion to what the JSON says."""
    exact = chooser.odds(2)
    arch = chooser.pick(tuple(Arch))
    try:
        made = convert(content, arch, exact=exact)
    except PolicyError as error:
        check_error(error)
        return outcome(error)
    except CompileError as error:
        return "".join(letter for letter in error.message if not letter.isdigit()).partition("`")[0]
    if exact:
        check_meaning(chooser, json.loads(content), arch, made)
    return f"converted, {len(made.differences)} {len(made.notes)}"


def convert(content: bytes, arch: Arch, *, exact: bool) -> Converted:
    """Return a conversion for a container with two capabilities."""
    return convert_profile(content, "p.json", arch, capabilities=OWNED, kernel=KERNEL, name="p", description="d", exact=exact)


def profile(chooser: Chooser) -> bytes:
    """Return JSON, mostly right."""
    whole: dict[str, object] = {"defaultAction": f"SCMP_ACT_{chooser.pick(ACTIONS[:5])}"}
    if whole["defaultAction"] == "SCMP_ACT_ERRNO" and chooser.odds(2):
        whole["defaultErrnoRet"] = chooser.pick((1, 38, 0, 4095))
    rules: list[object] = []
    for _ in range(chooser.integer(0, 4)):
        action = chooser.pick(ACTIONS if chooser.odds(4) else ACTIONS[:3])
        rule: dict[str, object] = {"names": [chooser.pick(CALLS) for _ in range(chooser.integer(1, 3))], "action": f"SCMP_ACT_{action}"}
        if action == "ERRNO" and chooser.odds(2):
            rule["errnoRet"] = chooser.pick((1, 13, 38))
        if not chooser.odds(3):
            rule["args"] = [argument(chooser) for _ in range(chooser.integer(1, 2))]
        for key in ("includes", "excludes"):
            if chooser.odds(6):
                rule[key] = chooser.pick(
                    (
                        {"caps": ["CAP_SYS_ADMIN"]},
                        {"caps": ["CAP_BPF"]},
                        {"arches": ["amd64"]},
                        {"minKernel": "4.8"},
                        {"minKernel": "6.2"},
                        {},
                    )
                )
        rules.append(rule)
    whole["syscalls"] = rules
    content = json.dumps(whole, indent=chooser.pick((None, 1))).encode()
    if chooser.odds(4):
        at = chooser.integer(0, len(content) - 1)
        piece = chooser.pick(WORDS).encode() if chooser.odds(2) else bytes([chooser.integer(0, 255)])
        content = content[:at] + piece + content[at + chooser.integer(0, 2) :]
    return content


def argument(chooser: Chooser) -> dict[str, object]:
    """Return one test of a register."""
    operator = chooser.pick(OPERATORS)
    value = grammar.number(chooser, chooser.pick((16, 32, 64)))[1] & ALL_BITS
    test: dict[str, object] = {"index": chooser.integer(0, 3), "value": value, "op": f"SCMP_CMP_{operator}"}
    if operator == "MASKED_EQ":
        test["valueTwo"] = chooser.integer(0, ALL_BITS) & (value if not chooser.odds(8) else ALL_BITS)
    return test


def check_meaning(chooser: Chooser, whole: dict[str, object], arch: Arch, made: Converted) -> None:
    """Compare a filter with the JSON's rules, read naively, for calls of which the rules say one thing."""
    program = decode(made.filter.bpf)
    rules = [rule for rule in whole.get("syscalls") or () if applies(rule, arch)]  # type: ignore[attr-defined]
    names = sorted({name for rule in rules for name in rule_names(rule) if syscall_number(arch, name) is not None})
    points: dict[int, set[int]] = {}
    for rule in rules:
        for test in rule.get("args") or ():
            for value in (test["value"], test.get("valueTwo", 0)):
                near = {value, value + 1, value - 1, value | 1 << 32, ~value, value ^ 1 << 63}
                points.setdefault(test["index"], {0, ALL_BITS}).update(each & ALL_BITS for each in near)
    default = value_of(str(whole["defaultAction"]), whole.get("defaultErrnoRet"), whole.get("defaultErrno"))
    for _ in range(24):
        name = chooser.pick(names) if names and not chooser.odds(5) else "getpid"
        number = syscall_number(arch, name)
        registers = grammar.registers(chooser, points)
        said = {
            value_of(rule["action"], rule.get("errnoRet"), rule.get("errno"))
            for rule in rules
            if name in rule_names(rule) and rule_matches(rule, registers)
        }
        wanted = said or {default}
        if len(wanted) == 1 and None not in wanted and number is not None:
            actual = run_program(program, pack_data(number, audit_arch(arch), registers))
            assert actual in wanted, f"{name}{registers} on {arch}: converted {actual:#x}, the JSON says {wanted}"


def rule_names(rule: dict[str, object]) -> list[str]:
    """Return the names of a rule; old profiles have one."""
    return [*(rule.get("names") or ()), *([str(rule["name"])] if rule.get("name") else [])]  # type: ignore[misc]


def rule_matches(rule: dict[str, object], registers: tuple[int, ...]) -> bool:
    """Tell whether a rule matches; tests of one register twice mean any of them, as runtimes have it."""
    tests: list[dict[str, int | str]] = rule.get("args") or []  # type: ignore[assignment]
    results = [holds(test, registers) for test in tests]
    return all(results) if len({test["index"] for test in tests}) == len(tests) else any(results)


def holds(test: dict[str, int | str], registers: tuple[int, ...]) -> bool:
    """Tell whether one test holds of a call."""
    actual, value, two = registers[int(test["index"])], int(test["value"]), int(test.get("valueTwo") or 0)
    return {
        "SCMP_CMP_EQ": actual == value,
        "SCMP_CMP_NE": actual != value,
        "SCMP_CMP_LT": actual < value,
        "SCMP_CMP_LE": actual <= value,
        "SCMP_CMP_GT": actual > value,
        "SCMP_CMP_GE": actual >= value,
        "SCMP_CMP_MASKED_EQ": actual & value == two,
    }[str(test["op"])]


def applies(rule: dict[str, object], arch: Arch) -> bool:
    """Tell whether a rule is there for the container."""
    own = {Arch.X86_64: "amd64", Arch.AARCH64: "arm64"}[arch]
    include: dict[str, object] = rule.get("includes") or {}  # type: ignore[assignment]
    exclude: dict[str, object] = rule.get("excludes") or {}  # type: ignore[assignment]

    def version(table: dict[str, object]) -> tuple[int, ...] | None:
        return tuple(map(int, str(table["minKernel"]).split("."))) if table.get("minKernel") else None

    if own in (exclude.get("arches") or ()) or OWNED & set(exclude.get("caps") or ()):  # type: ignore[operator, call-overload]
        return False
    since, until = version(include), version(exclude)
    if (until is not None and until <= KERNEL) or (since is not None and since > KERNEL):
        return False
    wanted_arches = include.get("arches") or [own]
    return own in wanted_arches and set(include.get("caps") or ()) <= OWNED  # type: ignore[operator, call-overload]


def value_of(action: str, number: object, name: object) -> int | None:
    """Return what an action returns; None where this reading has no opinion."""
    word = action.removeprefix("SCMP_ACT_")
    if name or word not in VALUES:
        return None
    return VALUES[word] | ((1 if number is None else int(str(number))) if word == "ERRNO" else 0)


def round_trip(chooser: Chooser) -> str:
    """Write a random policy as JSON, read it back, and write that again: the meaning stays."""
    arch = chooser.pick(tuple(Arch))
    text = grammar.policy(chooser, shape=grammar.Shape(actions=("allow", "errno EPERM", "log", "kill-process", "trap", "errno ENOSYS")))
    folder = write_files({"p.toml": text.encode()}, "convert")
    policy = load(f"{folder}/p.toml")
    if isinstance(policy, PolicyError):
        return outcome(policy)
    try:
        own = ProgramDecider(decode(compile_filter(policy, arch, notify=False, launch=False).bpf))
        written = convert_policy(policy, arch, notify=False)
        kafel = convert_to_kafel(policy, arch, notify=False)
        back = convert(written.encode(), arch, exact=True)
        again = convert(convert_policy(back.policy, arch, notify=False).encode(), arch, exact=True)
    except PolicyError as error:
        check_error(error)
        return f"back: {outcome(error)}"
    except CompileError as error:
        return "back: " + "".join(letter for letter in error.message if not letter.isdigit()).partition("`")[0]
    assert "POLICY" in kafel or "DEFAULT" in kafel
    for made in (back, again):
        assert not differences(own, ProgramDecider(decode(made.filter.bpf)), arch), "a round trip changed the meaning"
    return f"round trip, {len(policy.rules)}"


if __name__ == "__main__":
    engine.main("converters", one_input, SEEDS, WORDS)
