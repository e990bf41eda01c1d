"""Functions of a system call as decision diagrams: one node for each different function, so that equal functions *are* the same node.

The bits of struct seccomp_data are the variables, in one fixed order; a diagram asks them in that order, shares equal parts and never asks a bit that
makes no difference. That form is unique (Source: Bryant, Graph-Based Algorithms for Boolean Function Manipulation, 1986), which is
what makes the comparison of two filters exact over the whole input space: 2^512 calls, none sampled. Nothing here knows
BPF or policies. Pure; imported by the other `prove` modules and tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

FALSE = 0
TRUE = 1
"""Nodes of the two constant conditions. Return values are other leaves, so 0 and 1 as values cannot be mistaken for them."""

OTHER = -1
"""Value of the leaf for "some value that neither side names": what a program that returns a computed word may give."""

WORD_BITS = 32
ARCH, NUMBER = 1, 0
_IP_LOW, _IP_HIGH = 2, 3
# The architecture and the number first, because a policy is a choice of them; then registers from the first, each from its top bit, so that
# the first difference met is the smallest.
_WORD_ORDER = (ARCH, NUMBER, *(word for low in range(4, 16, 2) for word in (low + 1, low)), _IP_HIGH, _IP_LOW)
_PLACE = {word: place for place, word in enumerate(_WORD_ORDER)}
_LEAF = len(_WORD_ORDER) * WORD_BITS
_MAXIMUM_NODES = 250_000

Bits = tuple[int, ...]
"""A number as one condition for each bit, the lowest first."""


class UnprovableError(Exception):
    """The comparison needs more memory than it may have, or the answer is no exact one; nothing is proven."""


def register_words(index: int) -> tuple[int, int]:
    """Return which words of struct seccomp_data hold the low and the high half of argument `index`."""
    return 4 + 2 * index, 5 + 2 * index


class Diagram:
    """A store of nodes. Nodes of one store can be compared with ``==``; those of two stores cannot.

    Args:
        maximum_nodes: `UnprovableError` is raised instead of making more.
    """

    def __init__(self, maximum_nodes: int = _MAXIMUM_NODES) -> None:
        self._level = [_LEAF, _LEAF]
        self._low = [FALSE, TRUE]
        self._high = [FALSE, TRUE]
        self._unique: dict[tuple[int, int, int], int] = {}
        self._chosen: dict[tuple[int, int, int], int] = {}
        self._leaves: dict[int, int] = {}
        self._values: dict[int, int] = {}
        self._words: dict[int, Bits] = {}
        self.maximum = maximum_nodes

    def __len__(self) -> int:
        return len(self._level)

    def mark(self) -> tuple[int, ...]:
        """Return where the store ends now, for `roll_back`."""
        return (len(self._level), *(len(store) for store in self._stores()))

    def roll_back(self, mark: tuple[int, ...]) -> None:
        """Forget every node made since `mark`; whoever still holds one holds nothing."""
        for nodes in (self._level, self._low, self._high):
            del nodes[mark[0] :]
        for store, size in zip(self._stores(), mark[1:], strict=True):
            while len(store) > size:
                store.popitem()  # the latest

    def _stores(self) -> tuple[dict[Any, Any], ...]:
        return self._unique, self._chosen, self._leaves, self._values, self._words

    def leaf(self, value: int) -> int:
        """Return the node of a constant return value."""
        node = self._leaves.get(value)
        if node is None:
            node = self._leaves[value] = self._append(_LEAF, FALSE, FALSE)
            self._values[node] = value
        return node

    def value(self, node: int) -> int | None:
        """Return the value of a leaf made by `leaf`, None for any other node."""
        return self._values.get(node)

    def word(self, word: int) -> Bits:
        """Return the bits of one 32-bit word (0-15) of struct seccomp_data."""
        bits = self._words.get(word)
        if bits is None:
            top = _PLACE[word] * WORD_BITS
            bits = self._words[word] = tuple(self._node(top + WORD_BITS - 1 - bit, FALSE, TRUE) for bit in range(WORD_BITS))
        return bits

    def register(self, index: int) -> Bits:
        """Return the 64 bits of an argument."""
        low, high = register_words(index)
        return self.word(low) + self.word(high)

    def _append(self, level: int, low: int, high: int) -> int:
        if len(self._level) >= self.maximum:
            raise UnprovableError(f"the comparison needs more than {self.maximum} nodes")
        self._level.append(level)
        self._low.append(low)
        self._high.append(high)
        return len(self._level) - 1

    def _node(self, level: int, low: int, high: int) -> int:
        """Return the node that asks the variable at `level`; no node at all when the answer makes no difference."""
        if low == high:
            return low
        key = (level, low, high)
        node = self._unique.get(key)
        if node is None:
            node = self._unique[key] = self._append(level, low, high)
        return node

    def choose(self, test: int, then: int, other: int) -> int:
        """Return the function that is `then` where the condition `test` holds, and `other` elsewhere.

        `then` and `other` are conditions or value functions. With a stack of its own instead of recursion, whose limit belongs to the caller.
        """
        found = self._known(test, then, other)
        if found is not None:
            return found
        level, low, high = self._level, self._low, self._high
        done: list[int] = []
        tasks: list[tuple[int, int, int, int]] = [(test, then, other, -1)]
        while tasks:
            c, t, e, at = tasks.pop()
            if at >= 0:
                above = done.pop()
                below = done.pop()
                node = self._node(at, below, above)
                if len(self._chosen) >= 4 * self.maximum:
                    raise UnprovableError(f"the comparison needs more than {4 * self.maximum} steps")
                self._chosen[c, t, e] = node
                done.append(node)
                continue
            found = self._known(c, t, e)
            if found is not None:
                done.append(found)
                continue
            at = min(level[c], level[t], level[e])
            c0, c1 = (low[c], high[c]) if level[c] == at else (c, c)
            t0, t1 = (low[t], high[t]) if level[t] == at else (t, t)
            e0, e1 = (low[e], high[e]) if level[e] == at else (e, e)
            # Taken from the end: low first, its result below the high one's.
            tasks += ((c, t, e, at), (c1, t1, e1, -1), (c0, t0, e0, -1))
        return done.pop()

    def _known(self, test: int, then: int, other: int) -> int | None:
        if test == TRUE or then == other:
            return then
        if test == FALSE:
            return other
        if then == TRUE and other == FALSE:
            return test
        return self._chosen.get((test, then, other))

    def both(self, left: int, right: int) -> int:
        """Return the condition that both hold."""
        return self.choose(left, right, FALSE)

    def either(self, left: int, right: int) -> int:
        """Return the condition that at least one holds."""
        return self.choose(left, TRUE, right)

    def negate(self, condition: int) -> int:
        """Return the condition that `condition` does not hold."""
        return self.choose(condition, FALSE, TRUE)

    def at(self, node: int, data: tuple[int, ...]) -> int:
        """Return the leaf that a function reaches for one call.

        Args:
            node: the function.
            data: sixteen words, as `evaluate.pack_data` makes them.
        """
        return self.given(node, dict(enumerate(data)))

    def given(self, node: int, words: Mapping[int, int]) -> int:
        """Return what is left of a function when its first words are known.

        Args:
            node: the function.
            words: values of `ARCH`, or of `ARCH` and `NUMBER`, which are asked before all others.
        """
        while self._level[node] < _LEAF:
            place, bit = divmod(self._level[node], WORD_BITS)
            if _WORD_ORDER[place] not in words:
                break
            taken = words[_WORD_ORDER[place]] >> (WORD_BITS - 1 - bit) & 1
            node = self._high[node] if taken else self._low[node]
        return node

    def _reachable(self, node: int) -> list[int]:
        seen = {node}
        pending = [node]
        while pending:
            each = pending.pop()
            for child in (self._low[each], self._high[each]):
                if child not in seen and self._level[each] < _LEAF:
                    seen.add(child)
                    pending.append(child)
        return sorted(seen, key=lambda each: -self._level[each])

    def size(self, node: int) -> int:
        """Return how many nodes a function is made of."""
        return len(self._reachable(node))

    def cases(self, node: int) -> int:
        """Return into how many disjoint sets of calls (ways from the top to a leaf) a function divides all calls."""
        count: dict[int, int] = {}
        for each in self._reachable(node):
            count[each] = 1 if self._level[each] == _LEAF else count[self._low[each]] + count[self._high[each]]
        return count[node]

    def values(self, node: int) -> frozenset[int]:
        """Return every value that a function takes somewhere."""
        return frozenset(self._values[each] for each in self._reachable(node) if each in self._values)

    def pairs(self, left: int, right: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Yield each pair of different leaves that two functions reach for the same call, once, with the smallest such call.

        Smallest in the order of the variables: architecture word, number, then the arguments from the first; what makes no difference is 0.

        Yields:
            (leaf on the left, leaf on the right, sixteen words of struct seccomp_data).
        """
        level = self._level
        came: dict[tuple[int, int], tuple[tuple[int, int], int, int] | None] = {}
        met: set[tuple[int, int]] = set()
        pending: list[tuple[tuple[int, int], tuple[tuple[int, int], int, int] | None]] = [((left, right), None)]
        while pending:
            pair, origin = pending.pop()
            if pair in came or pair[0] == pair[1]:
                continue
            came[pair] = origin
            one, two = pair
            at = min(level[one], level[two])
            if at == _LEAF:
                if pair not in met:
                    met.add(pair)
                    yield one, two, self._trace(came, pair)
                continue
            one0, one1 = (self._low[one], self._high[one]) if level[one] == at else (one, one)
            two0, two1 = (self._low[two], self._high[two]) if level[two] == at else (two, two)
            pending += (((one1, two1), (pair, at, 1)), ((one0, two0), (pair, at, 0)))

    @staticmethod
    def _trace(came: dict[tuple[int, int], tuple[tuple[int, int], int, int] | None], pair: tuple[int, int]) -> tuple[int, ...]:
        words = [0] * len(_WORD_ORDER)
        step = came[pair]
        while step is not None:
            pair, at, taken = step
            place, bit = divmod(at, WORD_BITS)
            words[_WORD_ORDER[place]] |= taken << (WORD_BITS - 1 - bit)
            step = came[pair]
        return tuple(words)
