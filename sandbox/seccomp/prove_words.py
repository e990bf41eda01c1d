"""Arithmetic and comparisons of numbers whose bits are conditions: what a machine does with words it does not know.

Unsigned, modulo two to the number of bits. Exact for every operation of classic BPF. Pure; imported by the `prove` modules.
"""

from __future__ import annotations

from functools import lru_cache

from sandbox.seccomp.prove_diagram import FALSE, TRUE, Bits, Diagram


@lru_cache(maxsize=1024)
def known_bits(value: int, width: int) -> Bits:
    """Return a known number's bits."""
    return tuple(value >> bit & 1 for bit in range(width))  # FALSE and TRUE are 0 and 1


def known_value(bits: Bits) -> int | None:
    """Return the number if every bit is known, else None."""
    if any(bit > TRUE for bit in bits):
        return None
    return sum(bit << place for place, bit in enumerate(bits))


def is_equal(diagram: Diagram, left: Bits, right: Bits) -> int:
    """Return the condition that two numbers are equal."""
    result = TRUE
    # From the lowest bit, which is asked last: each step puts one question on top of a finished diagram.
    for one, two in zip(left, right, strict=True):
        if two == TRUE:
            result = diagram.choose(one, result, FALSE)
        elif two == FALSE:
            result = diagram.choose(one, FALSE, result)
        else:
            result = diagram.choose(one, diagram.both(two, result), diagram.both(diagram.negate(two), result))
    return result


def is_greater(diagram: Diagram, left: Bits, right: Bits, *, or_equal: bool) -> int:
    """Return the condition that `left` is greater than `right` (or equal)."""
    result = TRUE if or_equal else FALSE
    for one, two in zip(left, right, strict=True):
        if two == TRUE:
            result = diagram.choose(one, result, FALSE)
        elif two == FALSE:
            result = diagram.choose(one, TRUE, result)
        else:
            lower = diagram.negate(two)
            result = diagram.choose(one, diagram.either(lower, result), diagram.both(lower, result))
    return result


def any_bit(diagram: Diagram, bits: Bits) -> int:
    """Return the condition that a number is not 0."""
    result = FALSE
    for bit in bits:
        result = diagram.either(bit, result)
    return result


def bit_and(diagram: Diagram, left: Bits, right: Bits) -> Bits:
    """Return the bits that both numbers have."""
    return tuple(diagram.both(one, two) for one, two in zip(left, right, strict=True))


def bit_or(diagram: Diagram, left: Bits, right: Bits) -> Bits:
    """Return the bits that either number has."""
    return tuple(diagram.either(one, two) for one, two in zip(left, right, strict=True))


def bit_xor(diagram: Diagram, left: Bits, right: Bits) -> Bits:
    """Return the bits that exactly one of the numbers has."""
    return tuple(diagram.choose(one, diagram.negate(two), two) for one, two in zip(left, right, strict=True))


def add(diagram: Diagram, left: Bits, right: Bits, carry: int = FALSE) -> Bits:
    """Return the sum, and one more where `carry` holds."""
    result = []
    for one, two in zip(left, right, strict=True):
        different = diagram.choose(one, diagram.negate(two), two)
        result.append(diagram.choose(different, diagram.negate(carry), carry))
        carry = diagram.choose(different, carry, one)
    return tuple(result)


def subtract(diagram: Diagram, left: Bits, right: Bits) -> Bits:
    """Return the difference."""
    return add(diagram, left, tuple(diagram.negate(bit) for bit in right), TRUE)


def multiply(diagram: Diagram, left: Bits, right: Bits) -> Bits:
    """Return the product."""
    width = len(left)
    result: Bits = (FALSE,) * width
    for place, factor in enumerate(right):
        part = (FALSE,) * place + tuple(diagram.both(factor, bit) for bit in left[: width - place])
        result = add(diagram, result, part)
    return result


def divide(diagram: Diagram, left: Bits, right: Bits) -> Bits:
    """Return the quotient where `right` is not 0; elsewhere the result has no meaning."""
    width = len(left)
    divisor = (*right, FALSE)
    rest: Bits = (FALSE,) * (width + 1)
    quotient = [FALSE] * width
    for place in reversed(range(width)):
        rest = (left[place], *rest[:-1])
        fits = is_greater(diagram, rest, divisor, or_equal=True)
        quotient[place] = fits
        less = subtract(diagram, rest, divisor)
        rest = tuple(diagram.choose(fits, one, two) for one, two in zip(less, rest, strict=True))
    return tuple(quotient)


def shift(diagram: Diagram, bits: Bits, by: Bits, *, left: bool) -> Bits:
    """Return a 32-bit number shifted by the lowest five bits of `by`."""
    for place, moved in enumerate(by[:5]):
        step = (FALSE,) * (1 << place)
        there = step + bits[: -(1 << place)] if left else bits[1 << place :] + step
        bits = tuple(diagram.choose(moved, one, two) for one, two in zip(there, bits, strict=True))
    return bits
