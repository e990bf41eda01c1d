"""A finished table with another command line and environment than the one it was lowered with. Pure; imported by `api.stored`."""

from __future__ import annotations

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# As in `codec`, whose import takes longer than all of this; a test compares the two.
HEADER = Struct("<IIIIIIII")
ROW_BYTES = 72
_WORDS = 8  # where a row's six words begin


def replace_vectors(data: bytes, row: int, argv: Sequence[bytes], environment: Sequence[bytes]) -> bytes:
    """Return the table's bytes with two new vectors at the end of its data.

    Args:
        data: of a `Table`.
        row: the index of the row that is execve(path, argv, environment); both are pointers already.
        argv: words without NUL.
        environment: ``NAME=value`` each, likewise.
    """
    magic, _, rows, count, relocations, pointers, failure, status = HEADER.unpack_from(data)
    body = bytearray(data[:relocations])
    body += bytes(-len(body) % 8)
    added: list[int] = []
    for place, words in ((1, argv), (2, environment)):
        vector = len(body)
        body += bytes(8 * (len(words) + 1))
        start = rows + row * ROW_BYTES + _WORDS + 8 * place
        body[start : start + 8] = vector.to_bytes(8, "little")
        for index, word in enumerate(words):
            at = vector + 8 * index
            body[at : at + 8] = len(body).to_bytes(8, "little")
            added.append(at)
            body += word + b"\0"
        body += bytes(-len(body) % 8)
    tail = data[relocations : relocations + 4 * pointers] + b"".join(at.to_bytes(4, "little") for at in added)
    head = HEADER.pack(magic, len(body) + len(tail), rows, count, len(body), pointers + len(added), failure, status)
    return head + bytes(body[HEADER.size :]) + tail


__all__ = ["HEADER", "ROW_BYTES", "replace_vectors"]
