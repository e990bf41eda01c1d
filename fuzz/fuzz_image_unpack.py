"""Layers: only `ImageError` comes out, nothing outside of the tree changes, what is in it is of a kind that may be, and whiteouts may stand anywhere.

An even first byte: the rest is an archive. An odd one: the rest decides of two layers, whose entries come from few names, so that they meet; some are spoiled.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import engine

with engine.instrumented(__name__ == "__main__"):
    from fuzz.choose import Bytes, Chooser
    from sandbox.errors import UnsupportedError
    from sandbox.images.bounds import Bounds, Budget, ImageError
    from sandbox.images.facts import LayerFacts
    from sandbox.images.lower import Below, LowerView
    from sandbox.images.treeops import DIRECTORY_FLAGS, remove_at
    from sandbox.images.unpacking import unpack_layer

BOUNDS = Bounds(entries=400, bytes=1 << 20, ratio_free_bytes=1 << 20, depth=24, header_bytes=4096, seconds=20)
NAMES = (
    "a", "b", "a/b", "a/c", "a/b/c", "b/a", "l", "l/a", "l/b/c", ".", "/", "./a", "/a", "a/", "a//b", "..", "../outside/canary", "a/../b", "a/..", "OUT/canary",
    "OUT/new", ".wh.a", ".wh.b", "a/.wh.b", "a/.wh..wh..opq", ".wh..wh..opq", "l/.wh.a", ".wh.", ".wh..", ".wh...", "a/.wh..wh.x", "n" * 101, "n" * 256, "",
    "d/" * 30 + "x", "\xff", "x\n",
)  # fmt: skip
TARGETS = ("a", "b", "a/b", "..", "../..", "../../outside", "OUT", "OUT/canary", "/", "/a", "l", ".", "", "l/a", "/proc/self/cwd", "x" * 200)
KINDS = (b"0", b"5", b"2", b"1", b"0", b"5", b"2", b"1", b"3", b"4", b"6", b"7", b"\0", b"S", b"x", b"g", b"L", b"K", b"D", b"Z", b"V")
RECORDS = (b"path", b"linkpath", b"size", b"mtime", b"SCHILY.xattr.user.a", b"SCHILY.xattr.user.overlay.opaque", b"GNU.sparse.major")
MODES = (0o644, 0o755, 0, 0o6755, 0o1777, 0o7777777)
WORDS = (
    *filter(None, NAMES), "ustar\0" + "00", "0000000 ", "11 path=ab\n", "SCHILY.xattr.user.overlay.opaque=y", "GNU.sparse.major=1",
    "GNU.sparse.realsize=5", "\0" * 512,
)  # fmt: skip
SEEDS = tuple(b"\1" + bytes((seed * each * each) & 255 for each in range(1, 150)) for seed in range(1, 24))
_OPAQUE = "user.overlay.opaque"


def one_input(data: bytes) -> str:
    """Unpack one archive, or two layers."""
    kind, rest = data[:1], data[1:]
    scratch = Path(engine.scratch()) / "unpack"
    outside = scratch / "outside"
    if not outside.exists():
        outside.mkdir(parents=True)
        (outside / "canary").write_bytes(b"canary")
    if not kind or not kind[0] & 1:
        return unpacked([rest], scratch)[0]
    chooser = Bytes(rest)
    stack = [layer(chooser, str(outside)) for _ in range(chooser.integer(1, 2))]
    outcome, seen = unpacked([b"".join(each) + bytes(1024) for each in stack], scratch)
    if outcome.startswith("unpacked") and all(whiteouts_are_plain(each) for each in stack):
        moved = [[*(e for e in each if b".wh." in e[:100]), *(e for e in each if b".wh." not in e[:100])] for each in stack]
        again, then = unpacked([b"".join(each) + bytes(1024) for each in moved], scratch)
        assert again == outcome and then == seen, "whiteouts mean something else in another place"
    return outcome


def layer(chooser: Chooser, outside: str) -> list[bytes]:
    """Return the entries of a layer."""
    entries = []
    for _ in range(chooser.integer(1, 10)):
        kind = chooser.pick(KINDS[:8] if chooser.odds(2) else KINDS)
        name = chooser.pick(NAMES).replace("OUT", outside).encode("latin-1")
        target = chooser.pick(TARGETS).replace("OUT", outside).encode("latin-1")
        content = b""
        if kind in (b"0", b"\0", b"7", b"S"):
            content = b"x" * chooser.integer(0, 3)
        elif kind in (b"x", b"g"):
            content = record(chooser.pick(RECORDS), name)
        elif kind in (b"L", b"K"):
            content = name + b"\0"
        block = header(name, kind, target, len(content), chooser.pick(MODES))
        if chooser.odds(20):
            spoiled = bytearray(block)
            spoiled[chooser.integer(0, 511)] ^= 1 << chooser.integer(0, 7)
            block = bytes(spoiled)
        entries.append(block + content + bytes(-len(content) % 512))
    return entries


def header(name: bytes, kind: bytes, target: bytes, size: int, mode: int) -> bytes:
    """Return one header with its right checksum; an extended one in front where a name is long."""
    front = b""
    if kind in (b"0", b"1", b"2", b"5", b"6") and (len(name) > 100 or len(target) > 100):
        content = (record(b"path", name) if len(name) > 100 else b"") + (record(b"linkpath", target) if len(target) > 100 else b"")
        front = header(b"x", b"x", b"", len(content), 0o644) + content + bytes(-len(content) % 512)
    block = name[:100].ljust(100, b"\0") + b"%07o\0" % (mode & 0o7777777) + b"0000000\0" * 2 + b"%011o\0" % size + b"14524560000\0" + b" " * 8 + kind
    block += target[:100].ljust(100, b"\0") + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2
    block = block.ljust(512, b"\0")
    return front + block[:148] + b"%06o\0 " % sum(block) + block[156:]


def record(key: bytes, value: bytes) -> bytes:
    """Return a pax record."""
    raw = b" " + key + b"=" + value + b"\n"
    length = len(raw) + 2 if len(raw) < 98 else len(raw) + 3
    return b"%d" % length + raw


def whiteouts_are_plain(entries: list[bytes]) -> bool:
    """Whether every entry stands for itself: moving one with an extended header would take the header from another, and links on the way depend on order."""
    return all(entry[156:157] in (b"0", b"5") for entry in entries) and len({entry[:100].strip(b"/.\0") for entry in entries}) == len(entries)


def unpacked(archives: list[bytes], scratch: Path) -> tuple[str, list[str]]:
    """Unpack archives above one another; return what happened and what each tree looks like."""
    outside = scratch / "outside"
    before = look(outside)
    top = scratch / "trees"
    top.mkdir()
    below: list[Below] = []
    seen: list[str] = []
    outcome = "unpacked"
    trash = os.open(_made(top / "trash"), DIRECTORY_FLAGS)
    try:
        budget = Budget(BOUNDS)
        for number, archive in enumerate(archives):
            tree = os.open(_made(top / str(number)), DIRECTORY_FLAGS)
            below.insert(0, Below(root=tree, facts=LayerFacts()))
            try:
                facts = unpack_layer(io.BytesIO(archive), tree, trash, LowerView(below[1:]), budget, "fuzz", needs_end=False)
            except UnsupportedError as error:
                outcome = f"unsupported: {error.feature}"
                break
            except ImageError as error:
                assert error.message and not error.message.endswith(".")
                outcome = "refused: " + re.sub(r"`[^`]*`|b'.*?'|\d+", "…", error.message)
                break
            below[0] = Below(root=tree, facts=facts)
            seen += [f"{number} {line}" for line in look(top / str(number))]
            outcome += f", {sorted(facts.left_out)}{len(facts.opaque)}"
    finally:
        for each in below:
            os.close(each.root)
        os.close(trash)
        clean(scratch)
    assert look(outside) == before, "something outside has changed"
    return outcome, seen


def look(top: Path) -> list[str]:
    """Return a line for each entry of a tree; fail at what may not be there."""
    lines = []
    for path, names, files in os.walk(os.fsencode(top)):
        for name in sorted(names + files):
            full = os.path.join(path, name)
            status = os.lstat(full)
            kind = stat.S_IFMT(status.st_mode)
            whiteout = kind == stat.S_IFCHR and status.st_rdev == 0
            assert whiteout or kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO), f"{full!r} is of type {kind:o}"
            attributes = os.listxattr(full, follow_symlinks=False)
            assert all(each == _OPAQUE or (each.startswith("user.") and "overlay" not in each) for each in attributes), attributes
            words = hashlib.sha256(Path(os.fsdecode(full)).read_bytes()).hexdigest()[:8] if kind == stat.S_IFREG and os.access(full, os.R_OK) else ""
            words += os.readlink(os.fsdecode(full)) if kind == stat.S_IFLNK else ""
            lines.append(f"{full[len(os.fsencode(top)) :]!r} {status.st_mode:o} {status.st_nlink if kind == stat.S_IFREG else ''} {attributes} {words}")
    return sorted(lines)


def _made(path: Path) -> Path:
    path.mkdir(mode=0o700)
    return path


def clean(scratch: Path) -> None:
    """Remove the trees with the product's own removal, which has to be able to."""
    parent = os.open(scratch, DIRECTORY_FLAGS)
    trash = os.open(_made(scratch / "rubbish"), DIRECTORY_FLAGS)
    try:
        remove_at(parent, b"trees", trash)
        os.rmdir("rubbish", dir_fd=parent)
    finally:
        os.close(trash)
        os.close(parent)


if __name__ == "__main__":
    engine.main("image_unpack", one_input, SEEDS, WORDS)
