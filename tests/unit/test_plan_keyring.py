"""When a run may have its server's session keyring: only if no call for keys passes its filter."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from sandbox.abi.arch import Arch
from sandbox.abi.host import HostFeatures
from sandbox.api.finish import explain_failure
from sandbox.plan.build import Request, build_plan
from sandbox.plan.lower import lower_plan
from sandbox.plan.network import refuses_keys
from sandbox.plan.root import Directory, RootSpec
from sandbox.plan.steps import NewKeyring, Plan
from sandbox.plan.template import build_run_plan, build_server_plan
from sandbox.policy.load import load_policy
from sandbox.policy.profile import Profile
from sandbox.record import replace
from sandbox.seccomp.compile import compile_filter

STRICT = load_policy("strict")
REQUEST = Request(
    profile=Profile(name="p", description="", path="p.toml", policy="strict"),
    host=HostFeatures(arch="x86_64", kernel="6.12.0", uid=1001, gid=1002, landlock_abi=6),
    root=RootSpec(entries=(Directory(path="/tmp"),), workdir="/tmp", argv0="/usr/bin/true"),
    argv=("true",), environment=(), outside_uid=1001, outside_gid=1002,
    filter_bpf=compile_filter(STRICT, Arch.X86_64).bpf, init_filter_bpf=bytes(8),
)  # fmt: skip


def has_keyring(plan: Plan) -> bool:
    """Say whether a step of a plan makes a session keyring."""
    return any(isinstance(step, NewKeyring) for step in plan.steps())


@pytest.mark.parametrize("template", [False, True])
def test_one_keyring_for_all_runs_that_cannot_reach_it(template: bool) -> None:
    assert has_keyring(build_server_plan(REQUEST, template=template))
    assert not has_keyring(build_run_plan(REQUEST, template=template))


@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize("name", ["keyctl", "add_key", "request_key"])
@pytest.mark.parametrize("arch", list(Arch))
def test_a_keyring_of_its_own_where_a_call_passes(tmp_path: Path, template: bool, name: str, arch: Arch) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(f'name = "keys"\ndescription = "a test"\nextends = ["strict"]\n[[rule]]\nsyscalls = ["{name}"]\naction = "allow"\nreason = "a test"\n')
    allowed = compile_filter(load_policy(str(file)), arch).bpf
    request = replace(REQUEST, filter_bpf=allowed, host=replace(REQUEST.host, arch=arch.value))
    assert not refuses_keys(allowed, arch)
    assert has_keyring(build_run_plan(request, template=template))


def test_a_condition_is_no_refusal(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    rule = 'syscalls = ["keyctl"]\naction = "allow"\nwhen = "option == 0"\nelse = "errno EPERM"\nreason = "a test"\n'
    file.write_text(f'name = "keys"\ndescription = "a test"\nextends = ["strict"]\n[[rule]]\n{rule}')
    assert not refuses_keys(compile_filter(load_policy(str(file)), Arch.X86_64).bpf, Arch.X86_64)


def test_without_a_filter_or_with_one_of_another_machine() -> None:
    assert has_keyring(build_run_plan(replace(REQUEST, filter_bpf=None), template=True))
    assert not refuses_keys(compile_filter(STRICT, Arch.AARCH64).bpf, Arch.X86_64)


def test_every_shipped_policy_refuses_keys() -> None:
    for name in ("strict", "default", "python", "build", "judge"):
        assert refuses_keys(compile_filter(load_policy(name), Arch.X86_64).bpf, Arch.X86_64), name


def test_no_keyrings_on_this_host() -> None:
    plain = replace(REQUEST, host=replace(REQUEST.host, keyrings=False))
    assert not has_keyring(build_server_plan(plain, template=True))


def test_a_full_quota_is_explained() -> None:
    plan = build_plan(REQUEST)
    table = lower_plan(plan)
    row = next(index for index, entry in enumerate(table.rows) if isinstance(plan.steps()[entry.step], NewKeyring))
    assert "kernel.keys.maxkeys" in str(explain_failure(plan, table, row, errno.EDQUOT))
    assert "kernel.keys.maxkeys" not in str(explain_failure(plan, table, row, errno.EPERM))
