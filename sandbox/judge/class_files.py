"""Which compiled classes of a Java virtual machine can be started: a reader of class files, as far as method names.

The files are untrusted: every read is bounded by the bytes there are, and a file that is not as it should be has no method. `source_files` imports this module.

Source: The Java Virtual Machine Specification, chapter 4.
"""

from __future__ import annotations

import os
import posixpath
import struct

_MAGIC = 0xCAFEBABE
_PUBLIC_STATIC = 0x0009
_FILES = 20_000
_BYTES = 1 << 20
# Tag of a constant → bytes after the tag; 1 is text with a length of its own, 5 and 6 take two places.
_SIZES = {3: 4, 4: 4, 5: 8, 6: 8, 7: 2, 8: 2, 9: 4, 10: 4, 11: 4, 12: 4, 15: 3, 16: 2, 17: 4, 18: 4, 19: 2, 20: 2}
_WIDE = (5, 6)


def main_classes(directory: str) -> list[str]:
    """Return the names of classes below a directory that have a ``public static void main(String[])``, outer ones and short names first."""
    found = []
    seen = 0
    for path, _, names in os.walk(directory):
        for name in names:
            seen += 1
            if not name.endswith(".class") or seen > _FILES:
                continue
            with open(posixpath.join(path, name), "rb") as file:
                if has_main(file.read(_BYTES)):
                    relative = posixpath.relpath(posixpath.join(path, name), directory)
                    found.append(relative.removesuffix(".class").replace("/", "."))
    return sorted(found, key=lambda each: ("$" in each, each.count("."), each))


def has_main(data: bytes) -> bool:
    """Whether a class file has a method ``main`` that a virtual machine starts."""
    try:
        return _read(data)
    except (struct.error, IndexError, KeyError):
        return False


def _read(data: bytes) -> bool:
    (magic, _, _, count) = struct.unpack_from(">IHHH", data)
    if magic != _MAGIC:
        return False
    texts: dict[int, bytes] = {}
    at, index = 10, 1
    while index < count:
        tag = data[at]
        if tag == 1:
            (length,) = struct.unpack_from(">H", data, at + 1)
            texts[index] = data[at + 3 : at + 3 + length]
            at += 3 + length
        else:
            at += 1 + _SIZES[tag]
        index += 2 if tag in _WIDE else 1
    (interfaces,) = struct.unpack_from(">H", data, at + 6)
    at += 8 + 2 * interfaces
    for kind in ("fields", "methods"):
        (members,) = struct.unpack_from(">H", data, at)
        at += 2
        for _ in range(members):
            flags, name, descriptor, attributes = struct.unpack_from(">HHHH", data, at)
            at += 8
            if (
                kind == "methods"
                and flags & _PUBLIC_STATIC == _PUBLIC_STATIC
                and texts.get(name) == b"main"
                and texts.get(descriptor) == b"([Ljava/lang/String;)V"
            ):
                return True
            for _ in range(attributes):
                (length,) = struct.unpack_from(">I", data, at + 2)
                at += 6 + length
    return False


__all__ = ["has_main", "main_classes"]
