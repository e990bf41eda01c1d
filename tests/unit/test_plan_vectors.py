"""A table with other vectors is the table that would have been lowered with them, but for where they lie."""

from __future__ import annotations

import struct

import pytest

from sandbox.plan import codec, vectors
from sandbox.plan.codec import Op, Ref, Row, TableBuilder
from sandbox.plan.vectors import replace_vectors

Words = list[bytes]


def lowered(argv: Words, environment: Words) -> tuple[bytes, int]:
    builder = TableBuilder()
    failure = builder.reserve(codec.RECORD.size)
    builder.rows.append(Row(op=Op.CALL, number=39))
    builder.rows.append(Row(op=Op.CALL, number=59, args=(builder.string("/bin/x"), builder.vector(argv), builder.vector(environment))))
    builder.rows.append(Row(op=Op.EXIT, args=(Ref(8),)))
    return builder.encode(failure_record=failure, status_fd=4).data, 1


def read(data: bytes, row: int) -> tuple[bytes, Words, Words, set[int]]:
    """Return path, argv and environment of a row as an executor finds them, and the places of all pointers."""
    magic, size, rows, _, relocations, count, _, _ = codec.HEADER.unpack_from(data)
    assert (magic, size) == (codec.MAGIC, len(data))
    places = set(struct.unpack_from(f"<{count}I", data, relocations))
    assert len(places) == count and all(place + 8 <= relocations for place in places)
    words = codec.ROW.unpack_from(data, rows + row * codec.ROW.size)[4:10]
    start = rows + row * codec.ROW.size + 8
    assert {start, start + 8, start + 16} <= places

    def text(at: int) -> bytes:
        return data[at : data.index(b"\0", at)]

    def vector(at: int) -> Words:
        assert at % 8 == 0
        found = []
        while (pointer := struct.unpack_from("<Q", data, at)[0]) != 0:
            assert at in places
            found.append(text(pointer))
            at += 8
        return found

    return text(words[0]), vector(words[1]), vector(words[2]), places


@pytest.mark.parametrize(("argv", "environment"), [
    ([], []), ([b"x"], [b"A=1"]), ([b"x", b"", b"a" * 1000], []), ([b"\xff\xfe"] * 50, [b"B=" + b"c" * n for n in range(20)]),
])  # fmt: skip
def test_new_vectors(argv: Words, environment: Words) -> None:
    before, row = lowered([b"old"], [b"OLD=1", b"OLDER=2"])
    made = replace_vectors(before, row, argv, environment)
    path, words, variables, places = read(made, row)
    assert (path, words, variables) == (b"/bin/x", argv, environment)
    assert places >= read(before, row)[3]
    relocations = codec.HEADER.unpack_from(before)[4]
    start = codec.HEADER.unpack_from(before)[2] + row * codec.ROW.size + 16
    # All else is as it was, but for the header and the two pointers.
    assert made[codec.HEADER.size : start] == before[codec.HEADER.size : start] and made[start + 16 : relocations] == before[start + 16 : relocations]


def test_the_layout_is_the_codec_s() -> None:
    assert (vectors.HEADER.format, vectors.ROW_BYTES) == (codec.HEADER.format, codec.ROW.size)
