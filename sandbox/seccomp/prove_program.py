"""A BPF program as a decision diagram: what it returns for every call, by running it once with unknown words.

The machine is `evaluate.run_program`'s, with conditions for bits; the tests hold the two to each other. Jumps only go forward, so one pass down the
program finds every state in which an instruction is reached, and one pass up joins their results; ways are never listed, so
it does not matter how many there are. Pure; imported by `seccomp.prove` and tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sandbox.seccomp import evaluate as bpf
from sandbox.seccomp import prove_words as words
from sandbox.seccomp.evaluate import Instruction
from sandbox.seccomp.prove_diagram import FALSE, OTHER, TRUE, WORD_BITS, Bits, Diagram

_A, _X = 16, 17  # after the sixteen scratch words
_SLOTS = 18
_ZERO = words.known_bits(0, WORD_BITS)

State = tuple[Bits | None, ...]
"""Scratch words, A and X; None where the value will not be read again, so that states that cannot behave differently are one."""

_NOTHING: State = (None,) * _SLOTS

_Next = tuple[int, State]
_Step = tuple[int, _Next | None, _Next | None, int]
"""condition, where to when it holds, where to when not, finished result (FALSE when there is none)."""


def returned_values(program: Sequence[Instruction]) -> frozenset[int]:
    """Return every value that a program's text names and may end with, and 0, with which a division by 0 ends it."""
    return frozenset({0, *(k for code, _, _, k in program if code in (bpf.RET, bpf.LD | bpf.IMM, bpf.LDX | bpf.IMM))})


def _uses(instruction: Instruction) -> tuple[frozenset[int], frozenset[int]]:
    """Return (slots read, slots written) of an instruction."""
    code, _, _, k = instruction
    kind = code & 7
    by_x = bool(code & bpf.X)
    read: set[int] = set()
    written: set[int] = set()
    if kind in (bpf.LD, bpf.LDX):
        written.add(_A if kind == bpf.LD else _X)
        if code & 0xE0 == bpf.MEM:
            read.add(k)
    elif kind in (bpf.ST, bpf.STX):
        read.add(_A if kind == bpf.ST else _X)
        written.add(k)
    elif kind == bpf.ALU:
        read |= {_A, _X} if by_x and code & 0xF0 != bpf.NEG else {_A}
        written.add(_A)
    elif kind == bpf.JMP and code & 0xF0 != bpf.JA:
        read |= {_A, _X} if by_x else {_A}
    elif kind == bpf.RET and code & 0x18 == bpf.RET_A:
        read.add(_A)
    elif kind == bpf.MISC:
        source, target = (_X, _A) if code & bpf.TXA else (_A, _X)
        read.add(source)
        written.add(target)
    return frozenset(read), frozenset(written)


def _targets(program: Sequence[Instruction], at: int) -> tuple[int, ...]:
    code, jt, jf, k = program[at]
    if code & 7 == bpf.RET:
        return ()
    if code & 7 != bpf.JMP:
        return (at + 1,)
    return (at + 1 + k,) if code & 0xF0 == bpf.JA else (at + 1 + jt, at + 1 + jf)


def _live(program: Sequence[Instruction], known: Sequence[frozenset[int]] = ()) -> list[frozenset[int]]:
    """Return which slots may still be read, before each instruction; `known` are those before the last ones."""
    own = len(program) - len(known)
    live: list[frozenset[int]] = [frozenset()] * own + list(known)
    for at in reversed(range(own)):
        read, written = _uses(program[at])
        after = frozenset[int]().union(*(live[target] for target in _targets(program, at)))
        live[at] = (after - written) | read
    return live


class SymbolicProgram:
    """A checked program, run with unknown words.

    Args:
        diagram: where its results are made.
        program: instructions that `evaluate.check_program` accepts.
        values: results to tell apart when the program returns a computed word; any other becomes `OTHER`.
        like: a program of the same diagram and values, already run, that is the same but for the instruction before `same_from`; what it found for the
            others is used again.
        same_from: see `like`.
    """

    def __init__(
        self,
        diagram: Diagram,
        program: Sequence[Instruction],
        values: Iterable[int],
        *,
        like: SymbolicProgram | None = None,
        same_from: int = 0,
    ) -> None:
        self.diagram = diagram
        self.program = tuple(program)
        self.values = frozenset(values)
        self._live: list[frozenset[int]] = _live(program, () if like is None else like._live[same_from:])
        self._kept = [tuple(sorted(slots)) for slots in self._live]
        self._like, self._changed = like, same_from - 1
        self._results: list[dict[State, int]] = [{} for _ in self.program]
        self._steps: list[dict[State, _Step | None]] = []
        self._tests: dict[tuple[int, Bits, Bits], int] = {} if like is None else dict(like._tests)

    def result(self) -> int:
        """Return the node of the function from calls to return values.

        Raises:
            UnprovableError: it is too large.
        """
        start = self._trim(0, [_ZERO] * _SLOTS)
        self._run(0, start)
        return self._results[0][start]

    def _trim(self, at: int, slots: Sequence[Bits | None]) -> State:
        kept = self._kept[at]
        if not kept:
            return _NOTHING
        state = list(_NOTHING)
        for index in kept:
            state[index] = slots[index]
        return tuple(state)

    def _run(self, at: int, state: State) -> None:
        pending, begin = self._begin(at, state)
        for place in range(begin, len(self.program)):
            for each in pending[place]:
                if self._found(place, each) is not None:
                    continue
                step = pending[place][each] = self._step(place, each)
                for following in step[1:3]:
                    if following is not None:
                        pending[following[0]].setdefault(following[1], None)
        self._steps = pending
        for place in reversed(range(at, len(self.program))):
            known = self._results[place]
            for each, made in pending[place].items():
                if made is not None:
                    known[each] = self._join(made)

    def _found(self, at: int, state: State) -> int | None:
        """Return the result of an instruction in a state, if it is known."""
        result = self._results[at].get(state)
        if result is None and self._like is not None and at > self._changed:
            result = self._like._results[at].get(state)
        return result

    def _begin(self, at: int, state: State) -> tuple[list[dict[State, _Step | None]], int]:
        """Return the states to be looked at, and from which instruction on their steps are not known."""
        like, changed = self._like, self._changed
        if like is None or not like._steps or self._live[: changed + 1] != like._live[: changed + 1]:
            pending: list[dict[State, _Step | None]] = [{} for _ in self.program]
            pending[at][state] = None
            return pending, at
        # Up to the changed instruction both programs come into the same states.
        return [*like._steps[:changed], dict.fromkeys(like._steps[changed]), *({} for _ in self.program[changed + 1 :])], changed

    def _join(self, step: _Step) -> int:
        test, there, here, result = step
        then = result if there is None else self._found(*there)
        other = result if here is None else self._found(*here)
        assert then is not None and other is not None, "an instruction's targets come after it"
        return self.diagram.choose(test, then, other)

    def _step(self, at: int, state: State) -> _Step:
        """Return what one instruction does in one state."""
        code, _, _, k = self.program[at]
        kind = code & 7
        if kind == bpf.RET:
            result = self._returned(_slot(state, _A)) if code & 0x18 == bpf.RET_A else self.diagram.leaf(k)
            return TRUE, None, None, result
        targets = _targets(self.program, at)
        if kind == bpf.JMP:
            test = TRUE if len(targets) == 1 else self._test(code, k, state)
            then = None if test == FALSE else (targets[0], self._trim(targets[0], state))
            other = None if test == TRUE else (targets[-1], self._trim(targets[-1], state))
            return test, then, other, FALSE
        slots = list(state)
        test, result = TRUE, FALSE
        if kind in (bpf.LD, bpf.LDX):
            slots[_A if kind == bpf.LD else _X] = self._load(code, k, state)
        elif kind in (bpf.ST, bpf.STX):
            slots[k] = state[_A if kind == bpf.ST else _X]
        elif kind == bpf.MISC:
            source, target = (_X, _A) if code & bpf.TXA else (_A, _X)
            slots[target] = state[source]
        else:
            operand = _slot(state, _X) if code & bpf.X and code & 0xF0 != bpf.NEG else words.known_bits(k, WORD_BITS)
            if code & 0xF0 == bpf.DIV:
                # Division by an X of 0 ends the program with 0.
                test, result = words.any_bit(self.diagram, operand), self.diagram.leaf(0)
            slots[_A] = self._compute(code & 0xF0, _slot(state, _A), operand)
        following = None if test == FALSE else (targets[0], self._trim(targets[0], slots))
        return test, following, None, result

    def _load(self, code: int, k: int, state: State) -> Bits | None:
        mode = code & 0xE0
        if mode == bpf.ABS:
            return self.diagram.word(k >> 2)
        if mode == bpf.MEM:
            return state[k]
        return words.known_bits(k if mode == bpf.IMM else bpf.SECCOMP_DATA_BYTES, WORD_BITS)

    def _test(self, code: int, k: int, state: State) -> int:
        a = _slot(state, _A)
        operand = _slot(state, _X) if code & bpf.X else words.known_bits(k, WORD_BITS)
        key = (code & 0xF0, a, operand)
        condition = self._tests.get(key)
        if condition is None:
            condition = self._tests[key] = self._compare(*key)
        return condition

    def _compare(self, test: int, a: Bits, operand: Bits) -> int:
        if test == bpf.JEQ:
            return words.is_equal(self.diagram, a, operand)
        if test == bpf.JSET:
            return words.any_bit(self.diagram, words.bit_and(self.diagram, a, operand))
        return words.is_greater(self.diagram, a, operand, or_equal=test == bpf.JGE)

    def _compute(self, operation: int, a: Bits, operand: Bits) -> Bits:
        diagram = self.diagram
        if operation == bpf.NEG:
            return words.subtract(diagram, _ZERO, a)
        if operation in (bpf.LSH, bpf.RSH):
            return words.shift(diagram, a, operand, left=operation == bpf.LSH)
        if operation == bpf.AND:
            return words.bit_and(diagram, a, operand)
        if operation == bpf.OR:
            return words.bit_or(diagram, a, operand)
        if operation == bpf.XOR:
            return words.bit_xor(diagram, a, operand)
        if operation == bpf.ADD:
            return words.add(diagram, a, operand)
        if operation == bpf.SUB:
            return words.subtract(diagram, a, operand)
        if operation == bpf.MUL:
            return words.multiply(diagram, a, operand)
        return words.divide(diagram, a, operand)

    def _returned(self, bits: Bits) -> int:
        """Return the function "this word": exact for the values to tell apart, `OTHER` elsewhere."""
        known = words.known_value(bits)
        if known is not None:
            return self.diagram.leaf(known if known in self.values else OTHER)
        result = self.diagram.leaf(OTHER)
        for value in sorted(self.values):
            test = words.is_equal(self.diagram, bits, words.known_bits(value, WORD_BITS))
            result = self.diagram.choose(test, self.diagram.leaf(value), result)
        return result


def _slot(state: State, index: int) -> Bits:
    bits = state[index]
    assert bits is not None, "a slot that is read is live"
    return bits
