"""Every way to spoil one instruction of a small filter, a sample of strict's, and whether the measurement itself can fail."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.abi.arch import Arch
from sandbox.policy.load import load_policy
from sandbox.seccomp.prove_diagram import Diagram
from sandbox.seccomp.prove_program import SymbolicProgram

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "suites"))

import mutate

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
