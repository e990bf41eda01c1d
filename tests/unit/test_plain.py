"""Plain values: what goes out comes back, and nothing that a program may write makes anything else."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.api.plain import decode_plain, dump_plain, encode_plain, load_plain

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
KEYS = SCALARS | st.tuples(SCALARS, SCALARS) | st.frozensets(st.integers())
VALUES = st.recursive(
    SCALARS | st.sets(st.integers()) | st.frozensets(st.text()),
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["$", "of", "bytes", "dict", "set", "tuple"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(["$", "of"]), inner, max_size=4),
    max_leaves=12,
)
PLAIN = (type(None), bool, int, float, str, bytes, list, tuple, set, frozenset, dict)


def kinds(value: object) -> set[type]:
    """Return the types of a value and of everything in it."""
    found = {type(value)}
    if isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    else:
        parts = list(value) if isinstance(value, (list, tuple, set, frozenset)) else []
    return found.union(*(kinds(part) for part in parts)) if parts else found


def same(one: object, two: object) -> bool:
    """Compare with types: 1 is not True, and 1.0 is not 1."""
    if type(one) is not type(two):
        return False
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)):
        return len(one) == len(two) and all(same(*pair) for pair in zip(one, two, strict=True))
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    return one == two


@given(VALUES)
def test_what_goes_out_comes_back(value: object) -> None:
    text = dump_plain(value)
    assert text.isascii() and "\n" not in text
    assert same(load_plain(text), value)


@given(JSON)
def test_any_json_is_a_plain_value_or_an_error(data: object) -> None:
    try:
        value = load_plain(json.dumps(data))
    except ValueError:
        return
    assert kinds(value) <= set(PLAIN)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_plain_value_or_an_error(data: bytes) -> None:
    try:
        assert kinds(load_plain(data)) <= set(PLAIN)
    except ValueError:
        return


def test_numbers_that_json_lacks() -> None:
    assert math.isnan(load_plain(dump_plain(float("nan"))))  # type: ignore[arg-type]
    assert load_plain(dump_plain(float("-inf"))) == float("-inf")


class _Own(dict):  # type: ignore[type-arg]
    pass


@pytest.mark.parametrize("value", [object(), _Own(), [print], {"a": 1j}, (range(3),), bytearray(b"x")])
def test_what_is_not_plain_is_named(value: object) -> None:
    with pytest.raises(TypeError, match="is no plain value"):
        encode_plain(value)


def test_depth_is_bounded_on_both_sides() -> None:
    deep: list[object] = []
    deep.append(deep)
    with pytest.raises(ValueError, match="nested too deep"):
        encode_plain(deep)
    with pytest.raises(ValueError):
        load_plain("[" * 100_000 + "]" * 100_000)


@pytest.mark.parametrize(
    "data",
    [
        {"$": "bytes", "of": 5}, {"$": "bytes", "of": "*"}, {"$": "set", "of": [[1]]}, {"$": "dict", "of": [[1]]}, {"$": "dict", "of": [[[], 1]]},
        {"$": "object", "of": []}, {"$": "set"}, {"$": ["set"], "of": []}, {"$": "tuple", "of": {"a": 1}},
    ],
)  # fmt: skip
def test_wrong_marks_are_errors(data: object) -> None:
    with pytest.raises(ValueError, match="not a plain value"):
        decode_plain(data)


@pytest.mark.parametrize(("kind", "form"), [("set", "{}"), ("frozenset", "{}"), ("dict", "[{},0]")])
def test_keys_of_one_hash_are_refused(kind: str, form: str) -> None:
    """500 kB of multiples of 2**61-1 took seven seconds to read, and four times as many sixteen times as long."""
    keys = [k * ((1 << 61) - 1) for k in range(1, 100)]
    assert len({hash(key) for key in keys}) == 1
    text = f'{{"$":"{kind}","of":[{",".join(form.format(key) for key in keys)}]}}'
    with pytest.raises(ValueError, match="same hash"):
        load_plain(text)
    spread = text.replace("2305843009213693951", "1")
    with pytest.raises(ValueError, match="same hash"):
        load_plain(spread)
    assert load_plain(f'{{"$":"{kind}","of":[{",".join(form.format(key << 40) for key in range(1000))}]}}')
