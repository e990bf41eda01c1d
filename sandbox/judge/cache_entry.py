"""One entry of the cache of built programs: how it is written, and when it is believed.

It is a directory ``KEY/`` with ``files/`` and ``entry.json``, which names the key and every file with its size and SHA-256. It is believed only where nobody
but the caller can write, nothing is missing, nothing is there that it does not name, and every byte has its digest.

Attacks that this stops: an entry put there under another's key, a file changed, added or linked in, a directory of another user's.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import stat

from sandbox.audit.events import escape_untrusted
from sandbox.store import is_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = 1
_MANIFEST_BYTES = 8 << 20


def write_entry(new: str, key: str, files: Mapping[str, bytes], notes: Mapping[str, str]) -> None:
    """Write an entry.

    Args:
        new: an empty directory of mode 0700.
        key: digest of everything that the program was made of.
        files: contents by relative path; checked by whoever calls.
        notes: short texts to find again with it.

    Raises:
        OSError: it cannot be written; what was is left in `new`.
    """
    root = posixpath.join(new, "files")
    os.mkdir(root)
    os.chmod(root, 0o755)  # a payload of root's runs under an id that is nobody's; `new` keeps everybody else out
    for name, content in files.items():
        path = root
        for part in name.split("/")[:-1]:
            path = posixpath.join(path, part)
            if not os.path.isdir(path):
                os.mkdir(path)
                os.chmod(path, 0o755)
        path = posixpath.join(root, name)
        # Whether a file is a program is for whoever starts it to know: all may be executed, none can be written.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o700)
        with open(fd, "wb") as file:
            file.write(content)
            os.fchmod(fd, 0o555)
    manifest = {
        "schema": SCHEMA, "key": key, "notes": dict(notes),
        "files": {name: [len(content), hashlib.sha256(content).hexdigest()] for name, content in files.items()},
    }  # fmt: skip
    fd = os.open(posixpath.join(new, "entry.json"), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as file:
        json.dump(manifest, file)


def verify_entry(path: str, key: str) -> dict[str, str]:
    """Check all of an entry and return its notes.

    Args:
        path: of the entry.
        key: that it has to be the entry of.

    Raises:
        ValueError: it cannot be believed, with the reason.
        OSError: it cannot be read.
    """
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or not is_ours(status):
        raise ValueError("somebody else can write to it")
    text = _read(posixpath.join(path, "entry.json"), _MANIFEST_BYTES, 0o600)
    try:
        manifest = json.loads(text)
        named, files, notes, schema = (manifest[word] for word in ("key", "files", "notes", "schema"))
    except (KeyError, TypeError, ValueError, RecursionError):  # ValueError also for what is not UTF-8, and numbers too long to be read
        raise ValueError("`entry.json` is damaged") from None
    if not isinstance(files, dict) or not isinstance(notes, dict) or schema != SCHEMA:
        raise ValueError("it is of another form")
    if not all(type(facts) is list and list(map(type, facts)) == [int, str] for facts in files.values()):
        raise ValueError("`entry.json` is damaged")
    if named != key:
        raise ValueError(f"it is the entry of another program, `{_show(str(named)[:12])}`")
    if sorted(os.listdir(path)) != ["entry.json", "files"]:
        raise ValueError("a file was put beside it")
    present = set(_walk(posixpath.join(path, "files")))
    if present != set(files):
        odd = sorted(present ^ set(files))[0]
        raise ValueError(f"`{_show(odd)}` {'was put there' if odd in present else 'is missing'}")
    for name, (size, digest) in files.items():
        content = _read(posixpath.join(path, "files", name), size, 0o555)
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"`{_show(name)}` was changed")
    return {str(name): str(text) for name, text in notes.items()}


def _walk(root: str) -> list[str]:
    """Return the relative paths of all files below a directory of ours.

    Raises:
        ValueError: something there is neither a directory nor a file of the caller's alone.
    """
    found: list[str] = []
    pending = [""]
    while pending:
        prefix = pending.pop()
        directory = posixpath.join(root, prefix) if prefix else root
        if not is_ours(status := os.lstat(directory)) or stat.S_IMODE(status.st_mode) != 0o755:
            raise ValueError(f"the mode or owner of `{_show(prefix or 'files')}` was changed")
        with os.scandir(directory) as scan:
            items = list(scan)
        for item in items:
            name = prefix + item.name
            if item.is_dir(follow_symlinks=False):
                pending.append(name + "/")
            elif item.is_file(follow_symlinks=False):
                found.append(name)
            else:
                raise ValueError(f"`{_show(name)}` is a link or no file")
    return found


def _read(path: str, limit: int, mode: int) -> bytes:
    """Return the bytes of a file with that mode.

    Raises:
        ValueError: it is longer than `limit`, has another name or mode, or others can write to it.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        name = posixpath.basename(path)
        if not stat.S_ISREG(status.st_mode) or not is_ours(status) or status.st_nlink != 1:
            raise ValueError(f"`{_show(name)}` is not the caller's alone")
        if stat.S_IMODE(status.st_mode) != mode:
            raise ValueError(f"the mode of `{_show(name)}` was changed")
        if status.st_size > limit:
            raise ValueError(f"`{_show(name)}` was changed")
        content = bytearray()
        most = min(limit, status.st_size) + 1  # one more shows that it grows
        while len(content) < most and (part := os.read(fd, most - len(content))):
            content += part
        return bytes(content)
    finally:
        os.close(fd)


def _show(name: object) -> str:
    return escape_untrusted(str(name), 100)


__all__ = ["SCHEMA", "verify_entry", "write_entry"]
