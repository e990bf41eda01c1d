"""Every way to spoil one instruction of a small filter or one word of its policy, samples of strict's, and whether the measurement itself can fail.

With SANDBOX_SUITES=1 and --slow: every mutant of every shipped filter, a minute of processor time each.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.abi.arch import Arch
from sandbox.policy.load import load_policy
from sandbox.seccomp.prove_diagram import Diagram
from sandbox.seccomp.prove_program import SymbolicProgram

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "suites"))

import mutate
import mutate_policy

X86 = Arch.X86_64


def test_every_spoiled_instruction_of_a_small_filter_is_caught() -> None:
    figures = mutate.measure(mutate.small_policy(), X86, growth=10_000)
    assert figures.missed == [] and figures.counts["caught"] > 2500 and figures.counts["undecided"] <= 10, str(figures)


@pytest.mark.parametrize("arch", Arch)
def test_spoiled_instructions_of_strict_are_caught(arch: Arch) -> None:
    figures = mutate.measure(load_policy("strict"), arch, every=101, phase=13)
    assert figures.missed == [] and figures.counts["caught"] > 150, str(figures)


def test_the_measurement_can_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    # A prover that takes every spoiled filter for the good one is found out by running calls.
    monkeypatch.setattr(SymbolicProgram, "__init__", _blind(SymbolicProgram.__init__))
    figures = mutate.measure(mutate.small_policy(), X86, every=40)
    assert len(figures.missed) > 50 and figures.counts["caught"] == 0


def _blind(init: Callable[..., None]) -> Callable[..., None]:
    def blinded(
        self: SymbolicProgram,
        diagram: Diagram,
        program: object,
        values: object,
        *,
        like: SymbolicProgram | None = None,
        same_from: int = 0,
    ) -> None:
        init(self, diagram, program if like is None else like.program, values)

    return blinded


def test_every_spoiled_word_of_a_small_policy_is_caught() -> None:
    for notify in (True, False):
        figures = mutate_policy.measure_policy(mutate.small_policy(), X86, notify=notify)
        assert figures.missed == [] and figures.caught > 100, str(figures)


@pytest.mark.parametrize("arch", Arch)
def test_spoiled_words_of_strict_are_caught(arch: Arch) -> None:
    figures = mutate_policy.measure_policy(load_policy("strict"), arch, every=37, phase=5)
    assert figures.missed == [] and figures.caught > 80, str(figures)


def test_a_spoiled_word_that_is_overlooked_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    # A reading of policies that is blind to what was spoiled calls everything equal; deciding single calls finds that out.
    policy = mutate.small_policy()
    good = mutate_policy.policy_diagram

    def blind(diagram: Diagram, spoiled: object, *rest: Any, **how: Any) -> int:
        good(diagram, spoiled, *rest, **how)  # type: ignore[arg-type]  # refuses values that do not fit
        return good(diagram, policy, *rest, **how)

    monkeypatch.setattr(mutate_policy, "policy_diagram", blind)
    figures = mutate_policy.measure_policy(policy, X86)
    assert len(figures.missed) > 100 and figures.caught == 0


@pytest.mark.slow
@pytest.mark.parametrize("arch", Arch)
@pytest.mark.parametrize("name", mutate.SHIPPED)
def test_every_spoiled_instruction_of_what_ships_is_caught(name: str, arch: Arch) -> None:
    if not os.environ.get("SANDBOX_SUITES"):
        pytest.skip("a quarter of an hour of processor time in all: asked for with SANDBOX_SUITES=1")
    figures = mutate.measure(load_policy(name), arch)
    assert figures.missed == [] and figures.counts["caught"] > 10_000, str(figures)
    words = mutate_policy.measure_policy(load_policy(name), arch)
    assert words.missed == [] and words.caught > 2000, str(words)
