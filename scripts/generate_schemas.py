#!/usr/bin/env python3
"""Write policies/policy.schema.json and profiles/profile.schema.json from the tables that the loaders use.

Usage:
    scripts/generate_schemas.py            write both
    scripts/generate_schemas.py --check    fail when one of them is not what would be written

JSON Schema, draft 2020-12. Editors complete and explain TOML files by it (taplo, Even Better TOML: the ``#:schema`` line of a file). It refuses what it can
say; what needs a signature, a constant, another file or an earlier rule is left to `sandbox policy check`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sandbox.abi.arch import Arch
from sandbox.abi.signatures import signature
from sandbox.abi.tables import syscall_names
from sandbox.policy import locate
from sandbox.policy.groups import load_groups, primary_group
from sandbox.policy.load import ERRNOS, MAXIMUM_NAME, RULE_KEYS, TOP_KEYS
from sandbox.policy.model import Action
from sandbox.policy.profile import CwdMode, IdMode, LandlockMode, MachineView, NetworkMode, OverlayMode, ProcMode
from sandbox.policy.profile_fields import FALLBACKS, FIELDS, SYNTHETIC_ETC, TABLES
from sandbox.policy.profile_fields import TOP_KEYS as PROFILE_TOP_KEYS
from sandbox.policy.profile_volumes import NAME

Schema = dict[str, object]

ROOT = Path(__file__).resolve().parent.parent

DRAFT = "https://json-schema.org/draft/2020-12/schema"
TEXT: Schema = {"type": "string", "pattern": r"\S"}
BOOLEAN: Schema = {"type": "boolean"}

# ---------------------------------------------------------------- policies

ACTIONS = {
    Action.ALLOW: "The call is made.",
    Action.LOG: "The call is made, and the kernel's audit log gets a line.",
    Action.EMULATE: "The supervisor answers from the sandbox's own limits; without a machine view the call is made.",
    Action.ERRNO: "The call is refused with this errno and recorded; with `audit = false` without a record.",
    Action.NOTIFY: "The same as `errno` with a record, said outright.",
    Action.TRAP: "The thread gets SIGSYS.",
    Action.KILL_PROCESS: "The process ends by SIGSYS.",
}

TOP_DOCS = {
    "name": "The policy's name, which is the file's without `.toml`: lower-case letters, digits and hyphens.",
    "description": "One line, for lists.",
    "extends": "Policies that lie below this one, by name or by path from this file; the last named on top, each file once.",
    "default": "What calls get that no rule names, newer kernels' among them. Needed once in the stack; `base` says `errno ENOSYS`.",
    "default_audit": "`false`: such calls are refused without a record.",
    "rule": "A call is decided by the first rule that matches it, from the top file down and in each file from the first line.",
}
RULE_DOCS = {
    "syscalls": "System calls by name, and `@groups`. A call that an architecture lacks is skipped there.",
    "action": "What happens to the calls that match.",
    "when": "A condition on the arguments: `family in {AF_UNIX, AF_INET} and type & 0xf == SOCK_STREAM`. Without it every call matches.",
    "else": "What the calls get for which the condition does not hold. Without it they go on to the next rule.",
    "audit": "`false`: refuse in the kernel, without a record. Goes with `errno`.",
    "reason": "A sentence for records and summaries.",
}


def policy_schema() -> Schema:
    """Return the schema of a policy file."""
    refusing = {"pattern": r"^(errno|notify) "}
    recorded = {"anyOf": [{"properties": {"action": refusing}}, {"properties": {"else": refusing}, "required": ["else"]}]}
    silent = {"properties": {"action": {"not": {"pattern": "^notify "}}, "else": {"not": {"pattern": "^notify "}}}}
    rule: Schema = {
        "type": "object",
        "additionalProperties": False,
        "required": ["syscalls", "action"],
        "dependentRequired": {"else": ["when"]},
        "properties": documented(
            RULE_DOCS,
            {
                "syscalls": {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"$ref": "#/$defs/syscall"}},
                "action": {"$ref": "#/$defs/action"},
                "when": {**TEXT, "maxLength": 8192},
                "else": {"$ref": "#/$defs/action"},
                "audit": BOOLEAN,
                "reason": {"type": "string"},
            },
        ),
        "allOf": [
            {"if": {"required": ["audit"]}, "then": recorded},
            {"if": {"required": ["audit"], "properties": {"audit": {"const": False}}}, "then": silent},
        ],
    }
    properties: dict[str, Schema] = {
        "name": {"type": "string", "pattern": "^[a-z][a-z0-9-]*$", "maxLength": MAXIMUM_NAME},
        "description": TEXT,
        "extends": {"type": "array", "uniqueItems": True, "items": {"anyOf": [names("policies"), {"type": "string", "minLength": 1}]}},
        "default": {"$ref": "#/$defs/action"},
        "default_audit": BOOLEAN,
        "rule": {"type": "array", "items": {"$ref": "#/$defs/rule"}},
    }
    assert set(properties) == set(TOP_KEYS) and set(RULE_DOCS) == set(RULE_KEYS), "document the new key of policies"
    return {
        "$schema": DRAFT,
        "$id": "urn:sandbox:policy.schema.json",
        "title": "sandbox policy",
        "description": "Which system calls a program may make; see sandbox-policy(5).",
        "type": "object",
        "additionalProperties": False,
        "required": ["name", "description"],
        "dependentRequired": {"default_audit": ["default"]},
        "if": {"required": ["default_audit"]},
        "then": {"properties": {"default": refusing}},
        "properties": documented(TOP_DOCS, properties),
        "$defs": {"rule": rule, "action": action(), "syscall": syscall()},
    }


def action() -> Schema:
    """Return the schema of an action: words, each with its meaning."""
    plain = {str(each): text for each, text in ACTIONS.items() if each not in (Action.ERRNO, Action.NOTIFY)}
    choices: list[Schema] = [enum(plain)]
    for each in (Action.ERRNO, Action.NOTIFY):
        choices.append({"description": ACTIONS[each], "enum": [f"{each} {name}" for name in sorted(ERRNOS)]})
    return {"type": "string", "anyOf": choices}


def syscall() -> Schema:
    """Return the schema of a name in `syscalls`: the @groups with their help, and every syscall with its arguments."""
    groups = {f"@{name}": group.help for name, group in load_groups().items()}
    calls = {}
    for name in sorted(syscall_names(Arch.X86_64) | syscall_names(Arch.AARCH64)):
        arches = [arch for arch in Arch if name in syscall_names(arch)]
        arguments = ", ".join(argument for argument, _ in signature(name, arches[0]))
        only = f" ({arches[0]} only)" if len(arches) == 1 else ""
        calls[name] = f"{name}({arguments}), of @{primary_group(name)}{only}"
    return {"type": "string", "anyOf": [enum(groups), enum(calls)]}


# ---------------------------------------------------------------- profiles

SIZE: Schema = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*[KMGTkmgt]?([iI]?[bB])?\s*$"}],
}
DURATION: Schema = {
    "anyOf": [{"type": "number", "minimum": 0.001}, {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*(ns|us|ms|s|m|h)?\s*$"}],
}
INODES: Schema = {"type": "integer", "minimum": 8, "maximum": 1 << 32}
ABSOLUTE: Schema = {"type": "string", "pattern": "^/"}
OPERATIONS: Schema = {"type": "integer", "minimum": 1, "maximum": 0xFFFF_FFFF}
IO: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["device"],
    "minProperties": 2,
    "properties": {
        "device": {
            "type": "string",
            "minLength": 1,
            "description": "A block device, MAJOR:MINOR, or a path: the disk below its file system.",
        },
        **{each: {**SIZE, "description": f"Bytes a second to {each}, at least 4096."} for each in ("read", "write")},
        **{f"{each}-iops": {**OPERATIONS, "description": f"{each.capitalize()} operations a second."} for each in ("read", "write")},
    },
}
OWN_ETC = [f"/etc/{name}" for name in SYNTHETIC_ETC]
PATH_LIST: Schema = {"type": "array", "uniqueItems": True, "items": ABSOLUTE}


_TARGET: Schema = {**ABSOLUTE, "description": "Path inside."}
_WRITABLE: Schema = {**BOOLEAN, "description": "Whether the program may write there."}


def table(required: list[str], properties: dict[str, Schema]) -> Schema:
    """Return the schema of one kind of volume."""
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


SHARED_PATH = table(
    ["source"],
    {
        "source": {"type": "string", "minLength": 1, "description": "Path on the host; relative to this file, `~` is the home."},
        "target": {**ABSOLUTE, "description": "Path inside; the source's own unless said."},
        "writable": _WRITABLE,
    },
)
NAMED_VOLUME = table(
    ["name", "target"],
    {
        "name": {"type": "string", "pattern": f"^{NAME.pattern}$", "description": "A volume, kept between runs; made where there is none."},
        "target": _TARGET,
        "writable": {**_WRITABLE, "description": "Whether the program may write there; true unless said."},
        "copy": {**BOOLEAN, "description": "Fill it, when it is empty, from what is at the target; true unless said."},
        "lock": {**BOOLEAN, "description": "Keep other writers out as long as the run lives."},
        "wait": {**DURATION, "description": "How long to wait for the lock."},
        "subpath": {"type": "string", "pattern": "^[^/]", "description": "A directory in the volume to mount instead of its top."},
    },
)
NAMED_VOLUME["dependentRequired"] = {"wait": ["lock"]}
TMPFS = table(
    ["type", "target"],
    {
        "type": {"const": "tmpfs", "description": "An empty file system in memory, the run's own."},
        "target": _TARGET,
        "size": {**SIZE, "description": "At least one page; 64M unless said."},
        "mode": {"type": "string", "pattern": "^[01]?[0-7]{3}$", "description": "Octal; 1777 unless said."},
        "executable": {**BOOLEAN, "description": "Whether files in it can be executed."},
    },
)


def or_none(schema: Schema) -> Schema:
    """Return a schema that also takes ``none``, for a limit that can be lifted."""
    return {"anyOf": [{"const": "none"}, schema]}


# key: schema, what it means. Every key of the loader has to be here.
PROFILE: dict[str, tuple[Schema, str]] = {
    "description": (TEXT, "One line, for lists."),
    "policy": ({"anyOf": []}, "The system call policy, by name, or by path from this file."),
    "landlock": ({"enum": [str(mode) for mode in LandlockMode]}, "`required`: refuse to run without Landlock. `best-effort`: use it where it is."),
    "machine-view": ({"enum": [str(mode) for mode in MachineView]}, "Whose processors and memory programs see; `live`: and what is used."),
    "fallback": (
        {"type": "array", "uniqueItems": True, "items": {"enum": list(FALLBACKS)}},
        "Limits that may be kept by rlimits and sampling where no cgroup is writable; what is not named refuses to run there.",
    ),
    "limits.wall": (or_none(DURATION), "Time from the start of the command: seconds, or text as `10s`, `500ms`, `2m`."),
    "limits.cpu": (or_none(DURATION), "CPU time, user and system, of all processes together."),
    "limits.idle": (or_none(DURATION), "Wall time less the CPU time of all processes together: how long a run may do nothing."),
    "limits.cpus": (
        or_none({"anyOf": [{"type": "number", "minimum": 0.01, "maximum": 8192}, {"type": "string", "pattern": r"^[0-9]{1,4}(\.[0-9]{1,6})?$"}]}),
        "How many processors' worth of CPU time all processes together may use in any 100 ms.",
    ),
    "limits.cpu-weight": (or_none({"type": "integer", "minimum": 1, "maximum": 10_000}), "Share of CPU time when others want it too; 100 is what anybody has."),
    "limits.cpuset": (
        {
            "anyOf": [
                {"const": "none"},
                {"type": "integer", "minimum": 0, "maximum": 8191},
                {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": 8191}},
                {"type": "string", "pattern": r"^\s*[0-9]{1,5}(-[0-9]{1,5})?\s*(,\s*[0-9]{1,5}(-[0-9]{1,5})?\s*)*$"},
            ]
        },
        "The processors that may be used: `0-3,5`, a number or a list of numbers.",
    ),
    "limits.nice": ({"type": "integer", "minimum": 0, "maximum": 19}, "Nice value; 0 unless said."),
    "limits.io-priority": (
        or_none({"enum": ["idle", "best-effort", *(f"best-effort:{level}" for level in range(8))]}),
        "Whose disk requests go first: `best-effort:0` first, `best-effort:7` last, `idle` when nobody else has any.",
    ),
    "limits.io": (
        {"anyOf": [{"const": "none"}, {"type": "string", "pattern": "="}, IO, {"type": "array", "minItems": 1, "items": IO}]},
        "Bytes and operations a second between the run and a disk.",
    ),
    "limits.memory": (or_none(SIZE), "Memory of all processes together, with their tmpfs files; at least 1 MiB."),
    "limits.processes": (or_none({"type": "integer", "minimum": 1, "maximum": 4_194_304}), "Processes and threads at one time."),
    "limits.output": (or_none(SIZE), "Bytes on stdout and stderr together; more ends the run."),
    "limits.open-files": ({"type": "integer", "minimum": 8, "maximum": 1 << 20}, "Descriptors of each process."),
    "limits.file-size": (or_none(SIZE), "Bytes of each file that is written."),
    "limits.stack": (or_none({"anyOf": [SIZE, {"const": "unlimited"}]}), "Stack of each process; at least 128 KiB. `unlimited` lifts the caller's own limit."),
    "limits.tmp": (SIZE, "Size of the tmpfs on /tmp; at least one page."),
    "limits.tmp-inodes": (INODES, "Number of files on /tmp."),
    "limits.shm": (SIZE, "Size of the tmpfs on /dev/shm."),
    "limits.shm-inodes": (INODES, "Number of files on /dev/shm."),
    "limits.home": (SIZE, "Size of the tmpfs on the home."),
    "limits.home-inodes": (INODES, "Number of files in the home."),
    "limits.root": (SIZE, "Size of the tmpfs that has what is written over an image; a file of the image that is changed counts whole."),
    "limits.root-inodes": (INODES, "Number of files written over an image."),
    "mounts.cwd": ({"enum": [str(mode) for mode in CwdMode]}, "Share the caller's working directory at its own path: read-only, writable or not at all."),
    "mounts.volumes": (
        {
            "type": "array",
            "items": {"anyOf": [SHARED_PATH, NAMED_VOLUME, TMPFS]},
        },
        "Host paths to share, named volumes (`name`) and file systems in memory (`type = \"tmpfs\"`). Those of a parent are kept.",
    ),
    "mounts.etc": (
        {"type": "array", "uniqueItems": True, "items": {"type": "string", "minLength": 1, "not": {"enum": [*SYNTHETIC_ETC, *OWN_ETC]}}},
        "Names below /etc, with `*` within a name: shared read-only where they exist and others may read them.",
    ),
    "mounts.system": (PATH_LIST, "Host directories with programs and libraries, shared read-only where they exist."),
    "mounts.image": (
        {"type": "string", "minLength": 1, "examples": ["debian:12"]},
        "An image of the store that is the root, in the place of the host's system; user, home and working directory are then the image's.",
    ),
    "mounts.overlay": (
        {"enum": [str(mode) for mode in OverlayMode]},
        "Whether a read-only copy may stand in where overlayfs is refused: `best-effort`, or `required` to refuse the run then.",
    ),
    "environment.pass": (
        {"type": "array", "uniqueItems": True, "items": {"type": "string", "pattern": r"^[A-Za-z_][A-Za-z0-9_]*\*?$"}},
        "Variables to let in, by name or as `PREFIX*`.",
    ),
    "environment.set": (
        {"type": "object", "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}, "additionalProperties": {"type": "string"}},
        "Variables to set; they win over those that are passed. Those of a parent are kept.",
    ),
    "namespaces.proc": ({"enum": [str(mode) for mode in ProcMode]}, "`minimal`: processes only. `full`: all of procfs, the host's facts masked. `none`."),
    "namespaces.network": ({"enum": [str(mode) for mode in NetworkMode]}, "`none`: not even loopback is up. `loopback`: 127.0.0.1 and ::1."),
    "namespaces.time": (BOOLEAN, "A time namespace, in which the monotonic and the boot clock begin near zero."),
    "namespaces.nested": (BOOLEAN, "Leave room for namespaces made inside; the policy must allow the calls, too."),
    "namespaces.ids": ({"enum": [str(mode) for mode in IdMode]}, "`single`: one id is mapped. `range`: 65536 ids through newuidmap(1)."),
    "launch.template": (BOOLEAN, "Let runs of one `Sandbox` inherit a finished root that was built once, instead of building each its own."),
    "launch.recycle-network": (BOOLEAN, "Give a later run of the same `Sandbox` a network namespace in which nothing is left and nothing could be made."),
    "launch.cgroups-ahead": (BOOLEAN, "Make the cgroup of the next run before it is asked for."),
    "measure.instructions": (BOOLEAN, "Count the user-mode instructions of all processes, where the host has and allows such a counter."),
    "identity.hostname": ({"type": "string", "minLength": 1, "maxLength": 64}, "Host name inside."),
    "identity.user": ({"type": "string", "pattern": "^[a-z_][a-z0-9_-]{0,31}$", "not": {"enum": ["root", "nobody"]}}, "Login name inside."),
    "identity.uid": ({"type": "integer", "minimum": 1, "maximum": 65533}, "User id inside."),
    "identity.gid": ({"type": "integer", "minimum": 1, "maximum": 65533}, "Group id inside."),
    "identity.home": ({"type": "string", "pattern": "^/.+/.+"}, "Home inside, a directory of its own such as `/home/user`: an empty tmpfs."),
}  # fmt: skip
TABLE_DOCS = {
    "limits": "What the run may use. A parent's value holds where this file says nothing; `none` lifts one.",
    "mounts": "What of the host's files is shared.",
    "environment": "Variables.",
    "namespaces": "What the run has of its own.",
    "identity": "Who the program is inside.",
    "launch": "What a `Sandbox` of the Python interface may keep or make ahead; false makes it anew for each run.",
    "measure": "What to measure that costs something or that few hosts can.",
}


def profile_schema() -> Schema:
    """Return the schema of a profile file."""
    missing = [key for key in FIELDS if key not in PROFILE] + [key for key in PROFILE if key not in FIELDS]
    assert not missing, f"document in {Path(__file__).name} the keys of profiles: {', '.join(missing)}"
    assert set(TABLE_DOCS) == set(TABLES), "document the new table of profiles"
    keys = {key: {**schema, "description": text} for key, (schema, text) in PROFILE.items()}
    keys["policy"] = {"anyOf": [names("policies"), {"type": "string", "minLength": 1}], "description": PROFILE["policy"][1]}
    extends = {"anyOf": [names("profiles"), {"type": "string", "minLength": 1}]}
    properties: dict[str, Schema] = {
        "extends": {
            "anyOf": [extends, {"type": "array", "items": extends}],
            "description": "A profile, or a list of them: names, or paths from this file. Later ones win.",
        }
    }
    for top in PROFILE_TOP_KEYS:
        if top in TABLES:
            inner = {key.partition(".")[2]: schema for key, schema in keys.items() if key.startswith(top + ".")}
            properties[top] = {"type": "object", "additionalProperties": False, "description": TABLE_DOCS[top], "properties": inner}
        elif top != "extends":
            properties[top] = keys[top]
    return {
        "$schema": DRAFT,
        "$id": "urn:sandbox:profile.schema.json",
        "title": "sandbox profile",
        "description": "A whole sandbox; see sandbox-profile(5).",
        "type": "object",
        "additionalProperties": False,
        # What a profile lacks, one that it extends may have.
        "anyOf": [{"required": ["extends"]}, {"required": ["description", "policy"]}],
        "properties": properties,
    }


# ---------------------------------------------------------------- both


def enum(texts: dict[str, str]) -> Schema:
    """Return words with a text for each, where taplo looks for it."""
    return {"enum": list(texts), "x-taplo": {"docs": {"enumValues": list(texts.values())}}}


def names(kind: locate.Kind) -> Schema:
    """Return the shipped names, for completion; the user's own are not known here."""
    shipped = sorted(path.stem for path in locate.data_dir(kind).glob("*.toml") if path.stem != "groups")
    return {"enum": shipped}


def documented(docs: dict[str, str], properties: dict[str, Schema]) -> dict[str, Schema]:
    """Return properties with their descriptions."""
    return {key: {**schema, "description": docs[key]} for key, schema in properties.items()}


def render(schema: Schema) -> str:
    """Return a schema as text."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def targets() -> dict[Path, str]:
    """Return path → text of both schemas."""
    return {ROOT / "policies/policy.schema.json": render(policy_schema()), ROOT / "profiles/profile.schema.json": render(profile_schema())}


def main() -> int:
    """Write or compare both files."""
    parser = argparse.ArgumentParser(description="Write the JSON Schemas of policies and profiles.")
    parser.add_argument("--check", action="store_true", help="only say which file is not current")
    check = parser.parse_args().check
    stale = [path for path, text in targets().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if check:
            print(f"{path.relative_to(ROOT)} is not current: run scripts/generate_schemas.py", file=sys.stderr)
        else:
            path.write_text(targets()[path])
            print(path.relative_to(ROOT))
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
