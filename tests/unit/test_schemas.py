"""The JSON Schemas: current, true for everything that ships, and false for what a loader would refuse for the same reason."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest

from sandbox.errors import PolicyError
from sandbox.policy.load import load_policy
from sandbox.policy.profile_load import load_profile

ROOT = Path(__file__).resolve().parents[2]
KINDS = {"policies": "policy", "profiles": "profile"}
SHIPPED = sorted(path for kind in KINDS for path in (ROOT / kind).glob("*.toml") if path.stem != "groups")


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_schemas", ROOT / "scripts/generate_schemas.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def validator(kind: str) -> Any:
    schema = json.loads((ROOT / kind / f"{KINDS[kind]}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_schemas_are_current() -> None:
    for path, text in generator().targets().items():
        assert path.read_text() == text, f"{path.name} is not current: run scripts/generate_schemas.py"


def test_a_new_key_of_profiles_must_be_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    module = generator()
    monkeypatch.setitem(module.FIELDS, "limits.heat", ("heat", None))
    with pytest.raises(AssertionError, match=r"document in generate_schemas\.py the keys of profiles: limits\.heat"):
        module.profile_schema()


@pytest.mark.parametrize("path", SHIPPED, ids=[f"{path.parent.name}/{path.stem}" for path in SHIPPED])
def test_what_ships_is_valid(path: Path) -> None:
    validator(path.parent.name).validate(tomllib.loads(path.read_text()))


def test_words_have_their_texts() -> None:
    syscall = validator("policies").schema["$defs"]["syscall"]["anyOf"]
    for choice in syscall:
        assert len(choice["enum"]) == len(choice["x-taplo"]["docs"]["enumValues"]) > 60
    docs = dict(zip(syscall[1]["enum"], syscall[1]["x-taplo"]["docs"]["enumValues"], strict=True))
    assert docs["openat2"] == "openat2(dfd, filename, how, size), of @file-open"
    assert docs["arch_prctl"].endswith("(x86_64 only)")
    groups = dict(zip(syscall[0]["enum"], syscall[0]["x-taplo"]["docs"]["enumValues"], strict=True))
    assert groups["@file-copy"] == "Copy between two open files inside the kernel"


HEAD = 'name = "p"\ndescription = "d"\n'
RULE = 'default = "errno ENOSYS"\n[[rule]]\nsyscalls = ["read"]\n'
BAD_POLICIES = [
    'description = "d"\n',
    'name = "p"\n',
    'name = "P"\ndescription = "d"\n',
    f'name = "{"a" * 65}"\ndescription = "d"\n',
    'name = "p"\ndescription = " "\n',
    HEAD + 'defualt = "allow"\n',
    HEAD + 'default = "deny"\n',
    HEAD + 'default = "errno"\n',
    HEAD + 'default = "errno EPREM"\n',
    HEAD + 'default = "allow EPERM"\n',
    HEAD + "default_audit = false\n",
    HEAD + 'default = "allow"\ndefault_audit = false\n',
    HEAD + 'extends = "base"\n',
    HEAD + 'extends = ["base", "base"]\n',
    HEAD + 'extends = [""]\n',
    HEAD + "[rule]\nsyscalls = ['read']\naction = 'allow'\n",
    HEAD + RULE,
    HEAD + RULE + 'action = "allow"\nwehn = "fd == 1"\n',
    HEAD + RULE + 'action = "allow"\ndefault = "allow"\n',
    HEAD + RULE + 'action = "allow"\nelse = "errno EPERM"\n',
    HEAD + RULE + 'action = "allow"\naudit = true\n',
    HEAD + RULE + 'action = "notify EPERM"\naudit = false\n',
    HEAD + RULE + 'action = "errno EPERM"\naudit = "no"\n',
    HEAD + RULE + 'action = "allow"\nwhen = ""\n',
    HEAD + RULE + 'action = "allow"\nwhen = 1\n',
    HEAD + RULE + 'action = "allow"\nreason = 1\n',
    HEAD + RULE.replace('["read"]', "[]") + 'action = "allow"\n',
    HEAD + RULE.replace('["read"]', '"read"') + 'action = "allow"\n',
    HEAD + RULE.replace("read", "raed") + 'action = "allow"\n',
    HEAD + RULE.replace("read", "@klock") + 'action = "allow"\n',
    HEAD + RULE.replace('["read"]', '["read", "read"]') + 'action = "allow"\n',
]
BOTH = 'description = "d"\npolicy = "strict"\n'
BAD_PROFILES = [
    'description = "d"\n',
    'policy = "strict"\n',
    BOTH + 'wall = "1s"\n',
    BOTH + 'landlock = "on"\n',
    BOTH + 'fallback = ["output"]\n',
    BOTH + 'fallback = ["cpu", "cpu"]\n',
    BOTH + "extends = 3\n",
    BOTH + "limits = 3\n",
    BOTH + '[limits]\nwal = "1s"\n',
    BOTH + "[limits]\nwall = 0\n",
    BOTH + "[limits]\nwall = true\n",
    BOTH + '[limits]\nwall = "1 hour"\n',
    BOTH + '[limits]\nmemory = "1.5.2G"\n',
    BOTH + "[limits]\nprocesses = 0\n",
    BOTH + '[limits]\nopen-files = "none"\n',
    BOTH + '[limits]\ntmp = "none"\n',
    BOTH + "[limits]\ntmp-inodes = 7\n",
    BOTH + '[mounts]\ncwd = "yes"\n',
    BOTH + '[mounts]\nvolumes = [{ target = "/in" }]\n',
    BOTH + '[mounts]\nvolumes = [{ source = "/srv", taget = "/in" }]\n',
    BOTH + '[mounts]\nvolumes = [{ source = "/srv", target = "in" }]\n',
    BOTH + '[mounts]\nvolumes = [{ name = "v" }]\n',
    BOTH + '[mounts]\nvolumes = [{ name = ".v", target = "/v" }]\n',
    BOTH + '[mounts]\nvolumes = [{ name = "a/b", target = "/v" }]\n',
    BOTH + '[mounts]\nvolumes = [{ name = "v", source = "/v", target = "/v" }]\n',
    BOTH + '[mounts]\nvolumes = [{ name = "v", target = "/v", size = "1G" }]\n',
    BOTH + '[mounts]\nvolumes = [{ name = "v", target = "/v", wait = "1s" }]\n',
    BOTH + '[mounts]\nvolumes = [{ source = "/v", lock = true }]\n',
    BOTH + '[mounts]\nvolumes = [{ type = "ramfs", target = "/v" }]\n',
    BOTH + '[mounts]\nvolumes = [{ type = "tmpfs", target = "/v", mode = "4755" }]\n',
    BOTH + '[mounts]\netc = ["passwd"]\n',
    BOTH + '[mounts]\nsystem = ["usr"]\n',
    BOTH + '[environment]\npass = ["*"]\n',
    BOTH + '[environment]\nset = { "A B" = "c" }\n',
    BOTH + "[environment]\nset = { A = 1 }\n",
    BOTH + '[namespaces]\nnetwork = "host"\n',
    BOTH + '[namespaces]\ntime = "yes"\n',
    BOTH + "[identity]\nuid = 0\n",
    BOTH + '[identity]\nuser = "root"\n',
    BOTH + '[identity]\nhome = "/home"\n',
]


@pytest.mark.parametrize("text", BAD_POLICIES)
def test_bad_policies_are_invalid_to_both(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(PolicyError):
        load_policy(str(tmp_path / "p.toml"))
    assert not validator("policies").is_valid(tomllib.loads(text))


@pytest.mark.parametrize("text", BAD_PROFILES)
def test_bad_profiles_are_invalid_to_both(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(PolicyError):
        load_profile(str(tmp_path / "p.toml"))
    assert not validator("profiles").is_valid(tomllib.loads(text))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("policies", HEAD + 'extends = ["./x.toml", "mine"]\n' + RULE + 'action = "errno EPERM"\naudit = false\n'),
        ("policies", HEAD + RULE.replace("read", "@clock") + 'action = "allow"\nwhen = "fd == 1"\nelse = "notify EPERM"\naudit = true\n'),
        ("profiles", 'extends = ["mine", "./x.toml"]\n[limits]\nwall = 1.5\ncpu = "none"\nmemory = "1.5 GiB"\n'),
        ("profiles", BOTH + '[[mounts.volumes]]\nname = "v"\ntarget = "/v"\nlock = true\nwait = "5s"\n[[mounts.volumes]]\ntype = "tmpfs"\ntarget = "/t"\n'),
        ("profiles", BOTH + '[[mounts.volumes]]\nsource = "~/in"\n[environment]\nset = { A = "b" }\npass = ["LC_*"]\n'),
    ],
)
def test_good_texts_are_valid(kind: str, text: str) -> None:
    validator(kind).validate(tomllib.loads(text))
