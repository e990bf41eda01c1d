"""Plain values as text that is safe to read from an untrusted program: JSON with marks for what JSON lacks.

`None`, `bool`, `int`, `float`, `str`, `bytes`, lists, tuples, sets, frozensets and dicts of them. Reading makes nothing but these, whatever was written:
no class is looked up and no code is run, as `pickle` would. The same source runs inside the sandbox (`BOTH_SIDES`), so it must stay free of imports
of ours. Pure.
"""

from __future__ import annotations

import base64
import json

MARK = "$"
_DEPTH = 64
_SAME_HASH = 32


def encode_plain(value: object, depth: int = _DEPTH) -> object:
    """Return a value in JSON's own types.

    Raises:
        TypeError: a part of it is not plain; the message names its type.
        ValueError: it is nested deeper than 64, as what contains itself is.
    """
    if depth < 0:
        raise ValueError("value is nested too deep")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [encode_plain(item, depth - 1) for item in value]
    if type(value) is bytes:
        return {MARK: "bytes", "of": base64.b64encode(value).decode()}
    for kind in (tuple, set, frozenset):
        if type(value) is kind:
            return {MARK: kind.__name__, "of": [encode_plain(item, depth - 1) for item in value]}
    if type(value) is dict:
        if all(type(key) is str for key in value) and MARK not in value:
            return {key: encode_plain(item, depth - 1) for key, item in value.items()}
        return {MARK: "dict", "of": [[encode_plain(key, depth - 1), encode_plain(item, depth - 1)] for key, item in value.items()]}
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} is no plain value")


def decode_plain(data: object) -> object:
    """Return the value of what `encode_plain` made.

    Raises:
        ValueError: it is something else.
    """
    if type(data) is list:
        return [decode_plain(item) for item in data]
    if type(data) is not dict:
        return data
    if MARK not in data:
        return {key: decode_plain(item) for key, item in data.items()}
    kind, of = data.get(MARK), data.get("of")
    try:
        if kind == "bytes" and type(of) is str:
            return base64.b64decode(of, validate=True)
        if type(of) is list:
            if kind == "dict":
                pairs = [(decode_plain(key), decode_plain(item)) for key, item in of]
                return dict(zip(_distinguishable([key for key, _ in pairs]), [item for _, item in pairs], strict=True))
            for made in (tuple, set, frozenset):
                if kind == made.__name__:
                    items = [decode_plain(item) for item in of]
                    return made(items if made is tuple else _distinguishable(items))
    except (TypeError, ValueError) as error:
        raise ValueError(f"not a plain value: {error}") from None
    raise ValueError("not a plain value: unknown mark")


def _distinguishable(keys: list[object]) -> list[object]:
    """Return the keys, unless many have the same hash, as numbers can be chosen to have: a table of those takes the square of their number in time."""
    hashes = sorted(map(hash, keys))
    if any(one == other for one, other in zip(hashes, hashes[_SAME_HASH:], strict=False)):
        raise ValueError("too many keys have the same hash")
    return keys


def dump_plain(value: object) -> str:
    """Return a value as one line of ASCII; errors as `encode_plain`."""
    return json.dumps(encode_plain(value), separators=(",", ":"))


def load_plain(text: str | bytes) -> object:
    """Return the value of a text that `dump_plain` made.

    Raises:
        ValueError: it is something else, or nested too deep to be read.
    """
    try:
        return decode_plain(json.loads(text))
    except RecursionError:
        raise ValueError("not a plain value: nested too deep") from None
