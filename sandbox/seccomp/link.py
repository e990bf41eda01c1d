"""Puts the programs that libseccomp made for a policy together into one, smaller and with fewer steps for each call.

Unit 0 decides by the number; what depends on arguments it leaves to other units, by returning a *link* (`lower.Link`). Each program is read into a
graph of tests, in which links are followed, tests whose answer is known are dropped (libseccomp compares the upper half of every `int` under the
mask 0), and equal parts are one. Numbers that are treated alike become ranges, searched by halving with the calls first that reach the filter most
often. Nothing here is trusted: the prover compares the result with the policy's text.

Pure: bytes to bytes. Imported by `seccomp.compile` and tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sandbox.abi.arch import X32_SYSCALL_BIT, Arch, audit_arch
from sandbox.errors import InternalError
from sandbox.seccomp import evaluate as bpf
from sandbox.seccomp.evaluate import Instruction
from sandbox.seccomp.lower import Link

_NUMBER, _ARCH = 0, 4
_U32 = 0xFFFF_FFFF
_NO_CALL = _U32
_FAR = 253  # a conditional jump reaches 255 instructions; two more may have to be put between
_FIXED_WEIGHT = 1
_NONE = -1

Loaded = tuple[int, int]
"""What the accumulator holds: the word at an offset, under a mask."""


class Graph:
    """Tests and return values; equal ones are the same node."""

    def __init__(self) -> None:
        # (offset, mask, operation, constant, node when it holds, node when not), or (value,) of a return
        self.nodes: list[tuple[int, ...]] = []
        self._known: dict[tuple[int, ...], int] = {}

    def returns(self, value: int) -> int:
        """Return the node that ends with a value."""
        return self._add((value,))

    def test(self, loaded: Loaded, operation: int, constant: int, then: int, other: int) -> int:
        """Return the node that compares; none at all when the answer makes no difference."""
        return then if then == other else self._add((*loaded, operation, constant, then, other))

    def _add(self, node: tuple[int, ...]) -> int:
        found = self._known.get(node)
        if found is None:
            found = self._known[node] = len(self.nodes)
            self.nodes.append(node)
        return found

    def below(self, node: int) -> tuple[int, ...]:
        """Return the nodes that a node goes to."""
        return self.nodes[node][4:]


class _Reader:
    """Reads libseccomp's programs into a graph, for one architecture word and one number at a time."""

    def __init__(self, graph: Graph, programs: Sequence[Sequence[Instruction]], arch_word: int) -> None:
        self._graph, self._programs, self._arch_word = graph, programs, arch_word
        self._units: dict[int, int] = {}

    def read(self, unit: int, number: int) -> int:
        """Return the node of what a unit does with calls of a number."""
        program = self._programs[unit]
        known = {_NUMBER: number, _ARCH: self._arch_word}
        made: dict[tuple[int, Loaded], int] = {}
        # With a stack of its own: chains of tests are longer than the caller's recursion limit may be.
        pending = [self._settle(program, 0, (0, 0), known)]
        top = pending[0]
        while pending:
            place = pending[-1]
            if place in made:
                pending.pop()
                continue
            at, loaded = place
            code, jt, jf, k = program[at]
            if code & 7 == bpf.RET:
                made[place] = self._returned(k)
                continue
            ways = [self._settle(program, at + 1 + jump, loaded, known) for jump in (jt, jf)]
            missing = [way for way in ways if way not in made]
            if missing:
                pending += missing
            else:
                made[place] = self._graph.test(loaded, code & 0xF0, k, made[ways[0]], made[ways[1]])
        return made[top]

    def _settle(self, program: Sequence[Instruction], at: int, loaded: Loaded, known: Mapping[int, int]) -> tuple[int, Loaded]:
        """Return the first instruction from `at` on whose effect is not known yet: a test of an argument, or a return."""
        while True:
            code, jt, jf, k = program[at]
            offset, mask = loaded
            value = 0 if not mask else known[offset] & mask if offset in known else None
            if code == bpf.LD | bpf.ABS:
                loaded = (k, _U32)
            elif code == bpf.ALU | bpf.AND:
                loaded = (offset, mask & k)
            elif code == bpf.JMP | bpf.JA:
                at += k
            elif code == bpf.RET:
                return at, (0, 0)
            elif code & 7 == bpf.JMP and not code & bpf.X:
                if value is None:
                    return at, loaded
                at += jt if _holds(code & 0xF0, value, k) else jf
            else:
                raise InternalError(f"libseccomp's filter has an instruction of a kind that it never had: {program[at]}")
            at += 1

    def _returned(self, value: int) -> int:
        link = Link.unit(value)
        if link is None:
            return self._graph.returns(value)
        if link not in self._units:
            self._units[link] = self.read(link, 0)
        return self._units[link]


def _holds(operation: int, value: int, k: int) -> bool:
    if operation == bpf.JEQ:
        return value == k
    if operation == bpf.JGT:
        return value > k
    return value >= k if operation == bpf.JGE else bool(value & k)


def link_programs(
    programs: Sequence[Sequence[Instruction]], made_for: Arch, arch: Arch, weights: Mapping[int, int]
) -> tuple[Instruction, ...]:
    """Return one program for all units.

    Args:
        programs: unit 0 and the units that its links lead to.
        made_for: the architecture that libseccomp compiled them for.
        arch: the one whose word the program is to test. Without x32 numbers, what libseccomp gives those is left out.
        weights: how often numbers reach the filter, beside 1 for each range; only the order depends on it.

    Raises:
        InternalError: libseccomp made something that it never did before.
    """
    graph = Graph()
    reader = _Reader(graph, programs, audit_arch(made_for))
    starts = {0, X32_SYSCALL_BIT, _NO_CALL}
    for code, _, _, k in programs[0]:
        if code & 7 == bpf.JMP and code != bpf.JMP | bpf.JA:
            starts |= {k, (k + 1) & _U32}
    ranges: list[tuple[int, int]] = []
    for start in sorted(starts):
        foreign = arch is not Arch.X86_64 and start >= X32_SYSCALL_BIT
        node = reader.read(0, _NO_CALL if foreign else start)
        if not ranges or ranges[-1][1] != node:
            ranges.append((start, node))
    own = _search(graph, ranges, weights)
    top = graph.test((_ARCH, _U32), bpf.JEQ, audit_arch(arch), own, graph.returns(bpf.RET_KILL_PROCESS))
    return _lay_out(graph, top)


def _search(graph: Graph, ranges: Sequence[tuple[int, int]], weights: Mapping[int, int]) -> int:
    """Return the node that finds a number's range by halving what weighs."""
    number = (_NUMBER, _U32)
    heavy = [_FIXED_WEIGHT] * len(ranges)
    for index, (start, _) in enumerate(ranges):
        end = ranges[index + 1][0] if index + 1 < len(ranges) else _U32 + 1
        heavy[index] += sum(weight for each, weight in weights.items() if start <= each < end)
    before = [0]
    for weight in heavy:
        before.append(before[-1] + weight)

    def search(low: int, high: int) -> int:
        if high - low == 1:
            return ranges[low][1]
        if high - low == 3 and ranges[low][1] == ranges[low + 2][1] and ranges[low + 1][0] + 1 == ranges[low + 2][0]:
            return graph.test(number, bpf.JEQ, ranges[low + 1][0], ranges[low + 1][1], ranges[low][1])
        middle = min(range(low + 1, high), key=lambda cut: (abs(2 * before[cut] - before[low] - before[high]), cut))
        return graph.test(number, bpf.JGE, ranges[middle][0], search(middle, high), search(low, middle))

    return search(0, len(ranges))


def _order(graph: Graph, top: int) -> list[int]:
    """Return the nodes that can be reached, each before those that it goes to."""
    done: set[int] = set()
    backwards: list[int] = []
    pending = [(top, False)]
    while pending:
        node, left = pending.pop()
        if left:
            backwards.append(node)
        elif node not in done:
            done.add(node)
            pending.append((node, True))
            pending += [(each, False) for each in graph.below(node)]
    return backwards[::-1]


def _loads(graph: Graph, order: Sequence[int]) -> dict[int, list[Instruction]]:
    """Return what each test has to load or mask first, given what the accumulator holds on every way to it."""
    holding: dict[int, set[Loaded]] = {order[0]: {(_NONE, 0)}}
    result: dict[int, list[Instruction]] = {}
    for node in order:
        if len(graph.nodes[node]) == 1:
            continue
        offset, mask = wanted = graph.nodes[node][:2]
        load, keep = (bpf.LD | bpf.ABS, 0, 0, offset), (bpf.ALU | bpf.AND, 0, 0, mask)
        if holding[node] == {wanted}:
            result[node] = []
        elif all(held == offset and under & mask == mask for held, under in holding[node]):
            result[node] = [keep]
        else:
            result[node] = [load] if mask == _U32 else [load, keep]
        for each in graph.below(node):
            holding.setdefault(each, set()).add((offset, mask))
    return result


def _lay_out(graph: Graph, top: int) -> tuple[Instruction, ...]:
    """Return a graph as instructions. They are made from the last one up, so that the places of all targets are known."""
    order = _order(graph, top)
    loads = _loads(graph, order)
    backwards: list[Instruction] = []
    places: dict[int, int] = {}  # how many instructions there were after a node's first one was made

    def distance(node: int) -> int:
        return len(backwards) - places[node]

    def bring_near(node: int) -> None:
        """Make sure that a conditional jump reaches a node, if need be by way of another jump or of the same return."""
        if distance(node) > _FAR:
            only = graph.nodes[node]
            backwards.append((bpf.RET, 0, 0, only[0]) if len(only) == 1 else (bpf.JMP | bpf.JA, 0, 0, distance(node)))
            places[node] = len(backwards)

    for node in reversed(order):
        content = graph.nodes[node]
        if len(content) == 1:
            backwards.append((bpf.RET, 0, 0, content[0]))
        else:
            _, _, operation, constant, then, other = content
            bring_near(then)
            bring_near(other)
            backwards.append((bpf.JMP | operation, distance(then), distance(other), constant))
            backwards += reversed(loads[node])
        places[node] = len(backwards)
    return tuple(backwards[::-1])
