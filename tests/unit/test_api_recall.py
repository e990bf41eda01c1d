"""What a process that runs many sandboxes remembers, and when it must not."""

from __future__ import annotations

import pytest

from sandbox.abi.arch import Arch
from sandbox.api import recall
from sandbox.policy.model import SyscallPolicy
from sandbox.seccomp.filter import Filter


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_policies", "_profiles", "_filters"):
        monkeypatch.setattr(recall, name, {})


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[SyscallPolicy, bool]]:
    seen: list[tuple[SyscallPolicy, bool]] = []

    def load_filter(policy: SyscallPolicy, arch: Arch, *, notify: bool) -> Filter:
        seen.append((policy, notify))
        return Filter(bpf=b"", arch=arch, policy=policy.name, policy_digest=policy.digest, notify=notify, digest="")

    monkeypatch.setattr(recall, "load_filter", load_filter)
    return seen


def test_a_filter_is_loaded_once_for_the_same_policy(loads: list[tuple[SyscallPolicy, bool]]) -> None:
    policy = recall.recall_policy("strict")
    first = recall.recall_filter(policy, Arch.X86_64, notify=True)
    assert recall.recall_filter(policy, Arch.X86_64, notify=True) is first
    assert len(loads) == 1


def test_with_and_without_notification_are_two_filters(loads: list[tuple[SyscallPolicy, bool]]) -> None:
    policy = recall.recall_policy("strict")
    assert recall.recall_filter(policy, Arch.X86_64, notify=True) != recall.recall_filter(policy, Arch.X86_64, notify=False)
    assert [notify for _, notify in loads] == [True, False]


def test_an_equal_policy_that_is_another_object_is_loaded_anew(loads: list[tuple[SyscallPolicy, bool]]) -> None:
    first = recall.recall_policy("strict")
    recall._policies.clear()
    second = recall.recall_policy("strict")
    assert first is not second
    recall.recall_filter(first, Arch.X86_64, notify=True)
    recall.recall_filter(second, Arch.X86_64, notify=True)
    assert [policy is second for policy, _ in loads] == [False, True]
