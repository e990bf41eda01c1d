"""The table: the byte layout that both executors read, and the fixed records they write.

A table is one block of memory: header, rows, relocations, data. A row is one system call, or one of a handful of other
operations. Pointers and slots are offsets into the block; the executor adds its own base address to every word listed
in the relocations and then knows nothing but numbers. ``launch/native/init.c`` has the same layout in C: change both.

Pure. Imported by `plan.lower` (writes), `launch` (reads records, the reference executor).
"""

from __future__ import annotations

import struct

from sandbox.enums import IntEnum, IntFlag
from sandbox.record import dataclass, field

MAGIC = 0x31544253  # "SBT1"
HEADER = struct.Struct("<IIIIIIII")  # magic, size, rows offset, rows, relocations offset, relocations, failure record, status fd
ROW = struct.Struct("<BBHI6QII4H")  # op, slot mask, flags, number or target, args, store, reserved, tolerated errnos
RECORD = struct.Struct("<IIqq144s")  # kind, row, a, b, struct rusage
RUSAGE = struct.Struct(
    "<18q"
)  # utime, stime (s, us each), maxrss, ixrss, idrss, isrss, minflt, majflt, nswap, inblock, oublock, …; getrusage(2)
REQUEST = struct.Struct("<IIQ")  # magic, `Ask` flags, clone flags; what a server is asked for
REQUEST_MAGIC = 0x31525153  # "SQR1"
COMMAND = struct.Struct("<IIIIQQQ")  # magic, size, relocations offset, relocations; then pointers to path, argv, environment
COMMAND_MAGIC = 0x31435153  # "SQC1"
NO_ROW = 0xFFFF_FFFF  # in a FAILED record: the server could not clone the run's init
_BLOCK = 512  # in which inblock and oublock count; kernel include/linux/task_io_accounting_ops.h


class Op(IntEnum):
    """What a row does."""

    CALL = 0  # system call `number`
    CLONE = 1  # clone3(2); the child goes on at row `target`, the caller at the next row
    EXPECT = 2  # memory at args[0], args[1] bytes wide, masked with args[2], must equal args[3]; else errno args[4]
    EXIT = 3  # exit_group(args[0])
    REAP = 4  # the loop of pid 1: args = payload pid, control fd, record, status fd, patience in ns
    SERVE = 5  # the loop of a server: args = requests fd, members, how many, record, /proc fd or -1
    COMMAND = 6  # read a command block: args = fd, memory for it, its size, where three pointers go
    BECOME = 7  # no execve: the interpreter that runs the table goes on, as the payload (a zygote's members only)


class Flag(IntFlag):
    """How a row's result is treated."""

    STORE32 = 1  # store 32 bits instead of 64
    RETRY = 2  # call again on EINTR
    REPEAT = 4  # call again as long as the result is above 0: wait4 until nobody is left


NO_FLAG = Flag(0)


class Ask(IntFlag):
    """What a request wants besides a clone."""

    RECYCLE_NETWORK = 1  # a network namespace that was used before and is proved empty, or a new one to be used again


class Kind(IntEnum):
    """What a record tells."""

    FAILED = 1  # row, a = errno
    STARTED = 2  # init runs; the sender's pid is in the message's credentials
    READY = 3  # the payload is confined and waits: row = tmpfs of live files or 0, a = notify listener or -1, b = pty master or -1
    EXITED = 4  # init: a = wait status of the payload, b = CLOCK_MONOTONIC ns of its end, rusage of all children
    REAPED = 5  # janitor or server: a = wait status of init, rusage of init and its children


@dataclass(frozen=True, slots=True)
class Ref:
    """An offset into the table's memory: a pointer once the executor has added its base."""

    offset: int


@dataclass(frozen=True, slots=True)
class Slot:
    """The 64-bit value that the executor finds at `offset` when it comes to the row."""

    offset: int


Arg = int | Ref | Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row, before encoding; `step` is the index of the plan step it belongs to."""

    op: Op
    number: int = 0
    args: tuple[Arg, ...] = ()
    store: int = 0
    flags: Flag = NO_FLAG
    tolerate: tuple[int, ...] = ()
    step: int = -1
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Encoded bytes, and what the parent needs to explain a failure: the rows themselves."""

    data: bytes
    rows: tuple[Row, ...]


@dataclass(slots=True)
class TableBuilder:
    """Collects data and rows; `encode` lays them out.

    Data offsets are relative to the data area until `encode` knows how many rows there are, so `Ref`,
    `Slot` and `store` hold data-relative offsets and are shifted there.
    """

    rows: list[Row] = field(default_factory=list)
    _data: bytearray = field(default_factory=lambda: bytearray(8))  # offset 0 means "no store"
    _pointers: list[int] = field(default_factory=list)
    _strings: dict[bytes, int] = field(default_factory=dict)

    def reserve(self, size: int, content: bytes = b"") -> Ref:
        """Set `size` zeroed bytes aside, 8-aligned, beginning with `content`."""
        while len(self._data) % 8:
            self._data.append(0)
        offset = len(self._data)
        self._data += content + bytes(size - len(content))
        return Ref(offset)

    def blob(self, content: bytes) -> Ref:
        """Place bytes (shared when equal: rows never write to them)."""
        if content not in self._strings:
            self._strings[content] = self.reserve(len(content), content).offset
        return Ref(self._strings[content])

    def string(self, text: str) -> Ref:
        """Place a NUL-terminated path or name."""
        return self.blob(text.encode("utf-8", "surrogateescape") + b"\0")

    def slot(self, value: int = -1) -> int:
        """Set a 64-bit slot aside and return its offset."""
        return self.reserve(8, struct.pack("<q", value)).offset

    def pointer_at(self, offset: int, target: Ref) -> None:
        """Store a pointer to `target` in the data at `offset`."""
        struct.pack_into("<Q", self._data, offset, target.offset)
        self._pointers.append(offset)

    def vector(self, items: list[bytes]) -> Ref:
        """Place a NULL-terminated array of strings, as execve(2) wants it."""
        references = [self.blob(item + b"\0") for item in items]
        vector = self.reserve(8 * (len(items) + 1))
        for index, reference in enumerate(references):
            self.pointer_at(vector.offset + 8 * index, reference)
        return vector

    def encode(self, *, failure_record: Ref, status_fd: int) -> Table:
        """Lay everything out and return the table."""
        rows_offset = HEADER.size
        relocations: list[int] = []
        base = rows_offset + ROW.size * len(self.rows)
        base += -base % 8
        encoded = bytearray(ROW.size * len(self.rows))
        for index, row in enumerate(self.rows):
            mask = 0
            words = [0, 0, 0, 0, 0, 0]
            start = rows_offset + index * ROW.size
            for position, arg in enumerate(row.args):
                if isinstance(arg, int):
                    words[position] = arg & 0xFFFFFFFFFFFFFFFF
                    continue
                words[position] = arg.offset + base
                relocations.append(start + 8 + 8 * position)
                if isinstance(arg, Slot):
                    mask |= 1 << position
            tolerate = (*row.tolerate, 0, 0, 0, 0)[:4] if row.tolerate else (0, 0, 0, 0)
            store = row.store + base if row.store else 0
            ROW.pack_into(encoded, start - rows_offset, row.op, mask, row.flags, row.number, *words, store, 0, *tolerate)
        data = bytearray(self._data)
        for offset in self._pointers:
            (target,) = struct.unpack_from("<Q", data, offset)
            struct.pack_into("<Q", data, offset, target + base)
            relocations.append(base + offset)
        padding = bytes(base - rows_offset - len(encoded))
        body = bytes(encoded) + padding + bytes(data)
        body += bytes(-len(body) % 4)
        relocations_offset = rows_offset + len(body)
        tail = struct.pack(f"<{len(relocations)}I", *relocations)
        header = HEADER.pack(
            MAGIC,
            relocations_offset + len(tail),
            rows_offset,
            len(self.rows),
            relocations_offset,
            len(relocations),
            failure_record.offset + base,
            status_fd,
        )
        return Table(data=header + body + tail, rows=tuple(self.rows))


def encode_request(clone_flags: int, ask: Ask) -> bytes:
    """Return one request to a server; the descriptors go beside it."""
    return REQUEST.pack(REQUEST_MAGIC, ask, clone_flags)


def encode_command(path: str, argv: tuple[str, ...], environment: tuple[tuple[str, str], ...]) -> bytes:
    """Return the block that an `Op.COMMAND` row reads from GO: what to execute, as offsets that the executor makes pointers of."""
    data = bytearray(COMMAND.size)
    pointers = [COMMAND.size - 24, COMMAND.size - 16, COMMAND.size - 8]

    def place(content: bytes) -> int:
        data.extend(content)
        return len(data) - len(content)

    def vector(items: list[str]) -> int:
        places = [place(item.encode("utf-8", "surrogateescape") + b"\0") for item in items]
        data.extend(bytes(-len(data) % 8))
        at = place(struct.pack(f"<{len(places) + 1}Q", *places, 0))
        pointers.extend(at + 8 * index for index in range(len(places)))
        return at

    start = place(path.encode("utf-8", "surrogateescape") + b"\0")
    arguments, names = vector(list(argv)), vector([f"{name}={value}" for name, value in environment])
    data.extend(bytes(-len(data) % 4))
    relocations = place(struct.pack(f"<{len(pointers)}I", *pointers))
    COMMAND.pack_into(data, 0, COMMAND_MAGIC, len(data), relocations, len(pointers), start, arguments, names)
    return bytes(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rusage:
    """What processes used; of several, `maxrss_bytes` is the largest one's. Source: getrusage(2)."""

    user_ns: int
    sys_ns: int
    maxrss_bytes: int
    minor_faults: int
    major_faults: int
    read_bytes: int
    write_bytes: int
    voluntary_switches: int
    involuntary_switches: int

    @property
    def cpu_ns(self) -> int:
        """User plus system time."""
        return self.user_ns + self.sys_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A decoded record; `pid` is the sender's, as the kernel translated it into our pid namespace."""

    kind: Kind
    row: int
    a: int
    b: int
    rusage: Rusage
    pid: int


def decode_record(data: bytes, pid: int) -> Record | None:
    """Return the record, or None when the bytes are not one."""
    if len(data) != RECORD.size:
        return None
    kind, row, a, b, rusage = RECORD.unpack(data)
    if kind not in Kind._value2member_map_:
        return None
    if rusage == _NO_RUSAGE:
        return Record(kind=Kind(kind), row=row, a=a, b=b, rusage=_NOTHING, pid=pid)
    fields = RUSAGE.unpack_from(rusage)
    used = Rusage(
        user_ns=fields[0] * 1_000_000_000 + fields[1] * 1000,
        sys_ns=fields[2] * 1_000_000_000 + fields[3] * 1000,
        maxrss_bytes=fields[4] * 1024,
        minor_faults=fields[8],
        major_faults=fields[9],
        read_bytes=fields[11] * _BLOCK,
        write_bytes=fields[12] * _BLOCK,
        voluntary_switches=fields[16],
        involuntary_switches=fields[17],
    )
    return Record(kind=Kind(kind), row=row, a=a, b=b, rusage=used, pid=pid)


_NO_RUSAGE = bytes(144)
_NOTHING = Rusage(
    user_ns=0, sys_ns=0, maxrss_bytes=0, minor_faults=0, major_faults=0, read_bytes=0, write_bytes=0, voluntary_switches=0, involuntary_switches=0
)  # fmt: skip
