"""The byte layout of the table and of the records: what the C side declares, and what survives the way there and back."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.plan import codec, fds
from sandbox.plan.codec import (
    COMMAND,
    HEADER,
    MAGIC,
    RECORD,
    REQUEST,
    ROW,
    RUSAGE,
    Ask,
    Flag,
    Kind,
    Op,
    Ref,
    Row,
    Slot,
    TableBuilder,
    decode_record,
    encode_command,
)
from sandbox.plan.lower_served import MEMBER_BYTES

SOURCE = Path(__file__).parents[2] / "sandbox" / "launch" / "native" / "init.c"
SIZES = {
    "header": HEADER.size, "row": ROW.size, "record": RECORD.size, "request": REQUEST.size, "command": COMMAND.size, "member": MEMBER_BYTES,
}  # fmt: skip


def decode_rows(data: bytes) -> tuple[tuple[int, ...], list[tuple[int, ...]], list[int]]:
    """Return header, rows and relocations of an encoded table."""
    header = HEADER.unpack_from(data)
    _, _, rows, count, relocations, n_relocations, _, _ = header
    return (
        header,
        [ROW.unpack_from(data, rows + n * ROW.size) for n in range(count)],
        list(struct.unpack_from(f"<{n_relocations}I", data, relocations)),
    )


def make_table(rows: list[Row], builder: TableBuilder | None = None) -> bytes:
    """Encode rows with an empty failure record."""
    builder = builder or TableBuilder()
    builder.rows += rows
    return builder.encode(failure_record=builder.reserve(RECORD.size), status_fd=4).data


def test_c_side_declares_the_same_sizes_and_numbers() -> None:
    text = SOURCE.read_text()
    declared = dict(re.findall(r"_Static_assert\(sizeof\(struct (\w+)\) == (\d+)", text))
    assert {name: int(size) for name, size in declared.items()} == SIZES
    numbers = {name: int(value, 0) for name, value in re.findall(r"\b([A-Z][A-Z_0-9]+) = (0x[0-9a-f]+|[1-9]\d*)\b", text)}
    assert numbers["MAGIC"] == MAGIC
    assert (numbers["REQUEST_MAGIC"], numbers["COMMAND_MAGIC"]) == (codec.REQUEST_MAGIC, codec.COMMAND_MAGIC)
    assert "NO_ROW = -1 " in text and codec.NO_ROW == 0xFFFF_FFFF
    assert (numbers["ASK_RECYCLE_NETWORK"], numbers["KIND_REAPED"]) == (Ask.RECYCLE_NETWORK, Kind.REAPED)
    assert (numbers["STATUS_FD"], numbers["FIRST_FREE"], numbers["MAXIMUM_PASSED"]) == (fds.STATUS, fds.SERVED_EXTRA, fds.MAXIMUM_PASSED)
    ops = re.search(r"enum \{ (OP_\w+(?:, OP_\w+)*) \}", text)
    assert ops is not None and ops[1].split(", ") == [f"OP_{op.name}" for op in Op]
    assert [int(value) for value in re.findall(r"FLAG_(?:STORE32|RETRY|REPEAT) = (\d)", text)] == list(Flag)
    assert int(re.search(r"KIND_FAILED = (\d)", text)[1]) == Kind.FAILED  # type: ignore[index]


def test_header_describes_the_table() -> None:
    builder = TableBuilder()
    text = builder.string("name")
    data = make_table([Row(op=Op.CALL, number=7, args=(1, text)), Row(op=Op.EXIT, args=(0,))], builder)
    header, rows, relocations = decode_rows(data)
    magic, size, rows_offset, count, relocations_offset, n_relocations, failure, status_fd = header
    assert (magic, size, rows_offset, count, status_fd) == (MAGIC, len(data), HEADER.size, 2, 4)
    assert relocations_offset + 4 * n_relocations == len(data)
    assert failure % 8 == 0 and failure + RECORD.size <= relocations_offset
    assert [row[3] for row in rows] == [7, 0]
    (offset,) = relocations
    (pointer,) = struct.unpack_from("<Q", data, offset)
    assert data[pointer : pointer + 5] == b"name\0"


def test_slots_are_marked_and_stores_are_offsets() -> None:
    builder = TableBuilder()
    slot = builder.slot(-1)
    first = Row(op=Op.CALL, number=1, store=slot, flags=Flag.STORE32, tolerate=(2, 3))
    second = Row(op=Op.CALL, number=2, args=(Slot(slot), 5, Ref(slot), Slot(slot)))
    data = make_table([first, second], builder)
    _, rows, relocations = decode_rows(data)
    op, mask, flags, number, *rest = rows[0]
    store = rest[6]
    assert (op, mask, flags, number) == (Op.CALL, 0, Flag.STORE32, 1)
    assert rest[8:] == [2, 3, 0, 0]
    assert struct.unpack_from("<q", data, store) == (-1,)
    assert rows[1][1] == 0b1001
    assert rows[1][4:10] == (store, 5, store, store, 0, 0)
    assert len(relocations) == 3
    assert rows[1][10] == 0, "no store"


def test_no_store_and_offset_zero_are_different() -> None:
    assert TableBuilder().slot() != 0


def test_equal_blobs_are_shared_and_reserved_space_is_not() -> None:
    builder = TableBuilder()
    assert builder.blob(b"same") == builder.blob(b"same")
    assert builder.blob(b"same") != builder.blob(b"other")
    assert builder.reserve(8) != builder.reserve(8)
    assert builder.string("same") != builder.blob(b"same")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9])
def test_everything_is_aligned(size: int) -> None:
    builder = TableBuilder()
    for _ in range(3):
        assert builder.reserve(size).offset % 8 == 0


def test_vectors_end_in_null_and_point_to_their_strings() -> None:
    builder = TableBuilder()
    vector = builder.vector([b"one", b"", b"three \xff"])
    data = make_table([Row(op=Op.CALL, args=(vector,))], builder)
    _, rows, relocations = decode_rows(data)
    at = rows[0][4]
    pointers = struct.unpack_from("<4Q", data, at)
    assert pointers[3] == 0
    assert [data[p : data.index(b"\0", p)] for p in pointers[:3]] == [b"one", b"", b"three \xff"]
    assert set(relocations) == {at, at + 8, at + 16, HEADER.size + 8}


def test_names_that_are_not_utf8_survive() -> None:
    builder = TableBuilder()
    name = b"caf\xe9\n".decode("utf-8", "surrogateescape")
    data = make_table([Row(op=Op.CALL, args=(builder.string(name),))], builder)
    _, rows, _ = decode_rows(data)
    assert data[rows[0][4] :].startswith(b"caf\xe9\n\0")


WORDS = st.one_of(st.integers(-(1 << 63), (1 << 64) - 1), st.binary(max_size=40))


@given(st.lists(st.tuples(st.sampled_from(list(Op)), st.integers(0, 0xFFFFFFFF), st.lists(WORDS, max_size=6)), max_size=20))
def test_whatever_is_encoded_reads_back(drawn: list[tuple[Op, int, list[int | bytes]]]) -> None:
    builder = TableBuilder()
    rows = [Row(op=op, number=n, args=tuple(builder.blob(w) if isinstance(w, bytes) else w for w in words)) for op, n, words in drawn]
    data = make_table(rows, builder)
    header, decoded, relocations = decode_rows(data)
    assert header[1] == len(data) and len(decoded) == len(rows)
    assert len(set(relocations)) == len(relocations)
    for (op, number, words), row in zip(drawn, decoded, strict=True):
        assert (row[0], row[3]) == (op, number)
        for word, value in zip(words, row[4:10], strict=False):
            if isinstance(word, bytes):
                assert data[value : value + len(word)] == word
            else:
                assert value == word & 0xFFFFFFFFFFFFFFFF


@given(
    st.integers(0, 9),
    st.integers(0, 0xFFFFFFFF),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.lists(st.integers(0, 1 << 30), min_size=18, max_size=18),
)
def test_records(kind: int, row: int, number: int, times: list[int]) -> None:
    data = RECORD.pack(kind, row, number, -number - 1, RUSAGE.pack(*times))
    record = decode_record(data, 77)
    if kind not in set(Kind):
        assert record is None
        return
    assert record is not None
    assert (record.kind, record.row, record.a, record.b, record.pid) == (kind, row, number, -number - 1, 77)
    used = record.rusage
    assert used.user_ns == times[0] * 10**9 + times[1] * 1000
    assert used.sys_ns == times[2] * 10**9 + times[3] * 1000
    assert used.maxrss_bytes == times[4] * 1024
    # As struct rusage has them: getrusage(2).
    assert (used.minor_faults, used.major_faults) == (times[8], times[9])
    assert (used.read_bytes, used.write_bytes) == (times[11] * 512, times[12] * 512)
    assert (used.voluntary_switches, used.involuntary_switches) == (times[16], times[17])


@given(st.binary(max_size=400))
def test_anything_else_is_no_record(data: bytes) -> None:
    record = decode_record(data, 1)
    assert record is None or len(data) == RECORD.size


# ---- commands ------------------------------------------------------------------------------------------------------------

words = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40)


@given(words, st.lists(words, max_size=6), st.lists(st.tuples(words, words), max_size=6))
def test_a_command_block_becomes_the_command(path: str, argv: list[str], environment: list[tuple[str, str]]) -> None:
    """What an executor does with it: add its own address to every word that the relocations name, then follow the pointers."""
    block = bytearray(encode_command(path, tuple(argv), tuple(environment)))
    base = 1 << 20
    magic, size, relocations, count, *_ = COMMAND.unpack_from(block)
    assert (magic, size) == (codec.COMMAND_MAGIC, len(block)) and relocations + 4 * count == size
    for (offset,) in struct.iter_unpack("<I", block[relocations:]):
        assert offset % 8 == 0
        (word,) = struct.unpack_from("<Q", block, offset)
        assert word < size
        struct.pack_into("<Q", block, offset, word + base)

    def text(pointer: int) -> str:
        start = pointer - base
        return block[start : block.index(0, start)].decode("utf-8", "surrogateescape")

    def vector(pointer: int) -> list[str]:
        found = []
        while (word := struct.unpack_from("<Q", block, pointer - base)[0]) != 0:
            found.append(text(word))
            pointer += 8
        return found

    pointers = COMMAND.unpack_from(block)[4:]
    assert text(pointers[0]) == path
    assert vector(pointers[1]) == argv
    assert vector(pointers[2]) == [f"{name}={value}" for name, value in environment]
