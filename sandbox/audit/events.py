"""What is recorded about a run, and how one record becomes one line that nobody can forge.

Pure values and their rendering; no files, no clocks. `supervise`, `api` and `cli` may import this module.

Names, paths and arguments are the payload's text. A newline in them would forge a record and an escape character would attack
the terminal of whoever reads the log. So text is first escaped to printable ASCII and then quoted for JSON: it stays harmless even
after a reader such as ``jq -r`` has undone the JSON. `json` is not imported: it would cost the run path more than rendering does.
"""

from __future__ import annotations

import time

from sandbox.record import dataclass

MAX_LINE_BYTES = 4096
"""No record is longer; also PIPE_BUF, so that one write(2) stays in one piece."""

_U64 = 0xFFFF_FFFF_FFFF_FFFF
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z
_TOP = 24  # system calls named in one `Suppressed` record


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """One system call that was refused.

    `syscall` is its name, or ``#`` and its number when it has none. `args` are the six raw registers, `decoded` the known ones in words
    (``clockid=CLOCK_REALTIME``). `pid` is the calling thread in the supervisor's pid namespace, 0 if unknown. `comm` is what the payload
    calls itself: untrusted, empty if the caller was gone. `errno` names the errno given. `rule_file` is empty when no rule decided.
    """

    time_ns: int
    run: str
    syscall: str
    number: int
    arch: str
    args: tuple[int, ...]
    decoded: tuple[str, ...]
    pid: int
    comm: bytes
    errno: str
    rule_file: str
    rule_line: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppressed:
    """How many denials were refused and counted but not recorded, since the last such record, by system call."""

    time_ns: int
    run: str
    counts: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFull:
    """The last record of a log that reached its cap: what follows is only counted."""

    time_ns: int
    run: str
    limit_bytes: int


Event = Denial | Suppressed | LogFull


def escape_untrusted(value: bytes | str, limit: int = 256) -> str:
    r"""Return printable ASCII for text from an untrusted source, for logs and terminals alike.

    A backslash is doubled; C0 controls and DEL become ``\x1b``, bytes that are not UTF-8 ``\xff``, every other character ``\u0085`` or
    ``\U0001f600`` (C1 controls, bidirectional overrides and look-alikes among them). Different texts that fit the limit never become
    the same.

    Args:
        value: bytes (taken as UTF-8) or text; lone surrogates from `os.fsdecode` are the bytes they stand for.
        limit: the longest result in characters; what is longer ends in ``...`` and never within an escape.
    """
    text = value[: limit * 4 + 4].decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
    if len(text) <= limit and text.isascii() and text.isprintable() and "\\" not in text:
        return text
    pieces: list[str] = []
    ends = [0]  # length after each piece
    for character in text:
        pieces.append(_escape_character(character))
        ends.append(ends[-1] + len(pieces[-1]))
        if ends[-1] > limit:
            while ends[-1] > max(limit - 3, 0):
                pieces.pop()
                ends.pop()
            return "".join(pieces) + "..."[:limit]
    return "".join(pieces)


def _escape_character(character: str) -> str:
    code = ord(character)
    if 0x20 <= code < 0x7F:
        return "\\\\" if character == "\\" else character
    if code < 0x80:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def render_json_line(event: Event) -> bytes:
    """Return one JSON object of at most `MAX_LINE_BYTES` ASCII bytes, ended by its only newline.

    Args:
        event: any event; its texts need not be safe.
    """
    if isinstance(event, Denial):
        args = ",".join(f'"0x{value & _U64:x}"' for value in event.args[:6])
        # The caps leave room for every character to double in quotes: 2 * (6*150 + 240 + 160 + 4*64 + 48) < 4096 - 600 for the rest.
        decoded = ",".join(_quote(text, 150) for text in event.decoded[:6])
        rule = f'{{"file":{_quote(event.rule_file, 160)},"line":{_number(event.rule_line)}}}' if event.rule_file else "null"
        body = (
            f'"syscall":{_quote(event.syscall, 48)},"number":{_number(event.number)},"arch":{_quote(event.arch, 24)},'
            f'"args":[{args}],"decoded":[{decoded}],"pid":{_number(event.pid)},"comm":{_quote(event.comm, 64)},'
            f'"errno":{_quote(event.errno, 24)},"rule":{rule},"reason":{_quote(event.reason, 240)}'
        )
        kind = "denial"
    elif isinstance(event, Suppressed):
        named = event.counts[:_TOP]
        counts = ",".join(f"[{_quote(name, 48)},{_number(count)}]" for name, count in named)
        total = sum(count for _, count in event.counts)
        rest = total - sum(count for _, count in named)
        kind, body = "suppressed", f'"total":{_number(total)},"counts":[{counts}],"unnamed":{_number(rest)}'
    else:
        kind, body = "log-full", f'"limit_bytes":{_number(event.limit_bytes)}'
    return f'{{"event":"{kind}","time":"{_render_time(event.time_ns)}","run":{_quote(event.run, 64)},{body}}}\n'.encode("ascii")


def _quote(value: bytes | str, limit: int) -> str:
    text = escape_untrusted(value, limit)
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _number(value: int) -> int:
    return max(-(1 << 63), min(value, _U64))  # at most 20 characters, whatever it is


def _render_time(time_ns: int) -> str:
    seconds, rest = divmod(max(time_ns, 0), 1_000_000_000)
    parts = time.gmtime(min(seconds, _LAST_SECOND))
    return f"{parts[0]:04d}-{parts[1]:02d}-{parts[2]:02d}T{parts[3]:02d}:{parts[4]:02d}:{parts[5]:02d}.{rest:09d}Z"
