"""Upper directories that a program could have left, and worse: some that it could not make through an overlay. Each says what it tries.

The names are below three directories of a test: `upper`, which is the run's, `tree`, the original, and `victim`, which nobody may touch.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LONG = "n" * 255
NAMES = (
    "new\nline", "\x1b[2J\x1b]0;title\x07", "tab\there", "\r", "trailing ", " ", "-rf", "--force", "*", "[a-z]", "a\\b", 'quo"te', "'", "$(id)", "`id`",
    "\u202egpj.exe", "\u2066", "bad\udcff", "\udc80", LONG, "...", "..x", ".", "NUL", "a:b", "{}", '{"path":"x"}', "%s%n", "\x7f", "\u0085",
)  # fmt: skip
TARGETS = (
    "{victim}/secret", "{victim}", "../victim/secret", "../../../../../../../../etc/passwd", "/proc/self/root", "/proc/self/cwd", "/proc/self/fd/0",
    "/dev/null", "self", ".", "..", "/", "x" * 4000, "{victim}/absent", "sub/../../victim/secret",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Hostile:
    """One tree.

    Attributes:
        name: for the test's id.
        tries: what it is to achieve.
        before: makes the original.
        after: makes the upper.
        meanwhile: what happens to the original between the listing and `apply`.
    """

    name: str
    tries: str
    after: Callable[[Path, Path], None]
    before: Callable[[Path, Path], None] = lambda tree, victim: None
    meanwhile: Callable[[Path, Path], None] = lambda tree, victim: None


def whiteout(path: Path) -> None:
    """Make an overlay's mark that a name is gone."""
    os.mknod(path, stat.S_IFCHR, 0)


def _files(top: Path, *paths: str) -> None:
    for path in paths:
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text("theirs\n")


def _links() -> list[Hostile]:
    found = []
    for number, target in enumerate(TARGETS):

        def link(upper: Path, victim: Path, target: str = target) -> None:
            os.symlink(target.format(victim=victim), upper / "self")

        def in_place(upper: Path, victim: Path, target: str = target) -> None:
            os.symlink(target.format(victim=victim), upper / "a")

        def directory(upper: Path, victim: Path, target: str = target) -> None:
            os.symlink(target.format(victim=victim), upper / "sub")

        tries = f"a link to {target[:40]} is read or written as the caller"
        found += [
            Hostile(name=f"link-new-{number}", tries=tries, after=link),
            Hostile(name=f"link-for-a-file-{number}", tries=tries, after=in_place),
            Hostile(name=f"link-for-a-directory-{number}", tries=tries + ", with what was in the directory removed through it", after=directory),
        ]
    return found


def _names() -> list[Hostile]:
    found = []
    for number, name in enumerate(NAMES):
        if name == ".":
            continue

        def file(upper: Path, victim: Path, name: str = name) -> None:
            (upper / name).write_text("x\n\x1b[2J")

        found.append(Hostile(name=f"name-{number}", tries="a name breaks a line, moves a cursor, is an option or a pattern", after=file))
    return found


def _special() -> list[Hostile]:
    def fifo(upper: Path, victim: Path) -> None:
        os.mkfifo(upper / "fifo")
        os.mkfifo(upper / "a")

    def bound(upper: Path, victim: Path) -> None:
        here = os.getcwd()
        os.chdir(upper)
        try:
            with socket.socket(socket.AF_UNIX) as one:
                one.bind("socket")
        finally:
            os.chdir(here)

    def whiteouts(upper: Path, victim: Path) -> None:
        for name in ("a", "nothing", "sub"):
            whiteout(upper / name)

    def whiteout_below(upper: Path, victim: Path) -> None:
        (upper / "sub").mkdir()
        whiteout(upper / "sub/b")
        whiteout(upper / "sub/none")
        (upper / "other").mkdir()
        whiteout(upper / "other/none")

    def set_id(upper: Path, victim: Path) -> None:
        for name, mode in (("a", 0o4755), ("new", 0o6755), ("dir", 0)):
            if name != "dir":
                (upper / name).write_text("#!/bin/sh\n")
                (upper / name).chmod(mode)
        (upper / "dir").mkdir()
        (upper / "dir").chmod(0o7777)

    def locked(upper: Path, victim: Path) -> None:
        _files(upper, "locked/in/file", "closed")
        (upper / "closed").chmod(0)
        (upper / "locked/in/file").chmod(0o200)
        (upper / "locked/in").chmod(0)
        (upper / "locked").chmod(0o111)

    return [
        Hostile(name="fifo", tries="whoever reads it waits for ever", after=fifo),
        Hostile(name="socket", tries="it is connected to, or copied", after=bound),
        Hostile(name="whiteouts", tries="what is not there is removed elsewhere", after=whiteouts),
        Hostile(name="whiteouts-below", tries="likewise, in a directory", after=whiteout_below),
        Hostile(name="set-id", tries="a program of the caller's that anybody may run as the caller", after=set_id),
        Hostile(name="locked", tries="it can be neither listed nor removed", after=locked),
    ]


def _shapes() -> list[Hostile]:
    def deep(count: int, name: str = "d") -> Callable[[Path, Path], None]:
        def make(upper: Path, victim: Path) -> None:
            fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY)
            for _ in range(count):
                os.mkdir(name, dir_fd=fd)
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
            os.close(os.open("end", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd))
            os.close(fd)

        return make

    def wide(upper: Path, victim: Path) -> None:
        for number in range(3000):
            os.close(os.open(upper / f"f{number}", os.O_WRONLY | os.O_CREAT, 0o600))

    def sparse(upper: Path, victim: Path) -> None:
        for name in ("huge", "a"):
            with (upper / name).open("wb") as file:
                file.truncate(1 << 42)

    def one_file(upper: Path, victim: Path) -> None:
        (upper / "one").write_text("x")
        for number in range(500):
            os.link(upper / "one", upper / f"l{number}")
        os.link(upper / "one", upper / "a")

    def numbered(upper: Path, victim: Path) -> None:
        for name in (".1", ".2", ".3", ".10"):
            _files(upper, f"{name}/{name}/{name}/file")

    def attributes(upper: Path, victim: Path) -> None:
        (upper / "a").write_text("one\n")
        for number in range(12):
            os.setxattr(upper / "a", f"user.{'x' * 150}{number}", b"y" * 50)

    def slow_diff(upper: Path, victim: Path) -> None:
        (upper / "a").write_text("".join(f"{number % 2}\n{number % 3}\n" for number in range(60_000)))

    def one_line(upper: Path, victim: Path) -> None:
        (upper / "a").write_text("x" * 900_000)

    def slow_before(tree: Path, victim: Path) -> None:
        (tree / "a").write_text("".join(f"{number % 3}\n{number % 2}\n" for number in range(60_000)))

    found = [
        Hostile(name=f"deep-{count}-{len(name)}", tries="deeper than a path, a stack, or the descriptors of a process", after=deep(count, name))
        for count, name in ((30, "d"), (200, "d"), (1000, "d"), (3000, "d"), (30, LONG), (15, LONG))
    ]
    return [
        *found,
        Hostile(name="wide", tries="more names than memory", after=wide),
        Hostile(name="sparse", tries="four terabytes are read or written", after=sparse),
        Hostile(name="one-file-many-names", tries="counted, or copied, once for each", after=one_file),
        Hostile(name="numbered", tries="the names that removing uses are taken", after=numbered),
        Hostile(name="attributes", tries="more attributes than are looked at", after=attributes),
        Hostile(name="slow-difference", tries="a matcher of quadratic time", after=slow_diff, before=slow_before),
        Hostile(name="one-line", tries="a line of a megabyte", after=one_line),
    ]


def _forged() -> list[Hostile]:
    """Attributes that mean something to an overlay, as no program can set them through one: the kernel stores those under another name."""
    found = []
    values = (
        ("opaque", b"y"), ("opaque", b"x"), ("opaque", b""), ("redirect", b"/etc"), ("redirect", b"../victim"), ("redirect", b"\0" * 16), ("metacopy", b""),
        ("metacopy", b"\0" * 36), ("origin", b"\xff" * 64), ("impure", b"y"), ("nlink", b"U+9"), ("whiteout", b"y"), ("protattr", b"ia"), ("upper", b"x"),
        ("overlay.opaque", b"y"), ("overlay.redirect", b"/etc"),
    )  # fmt: skip
    for number, (name, value) in enumerate(values):

        def forge(upper: Path, victim: Path, name: str = name, value: bytes = value) -> None:
            _files(upper, "sub/new", "a")
            for path in ("sub", "a", "."):
                os.setxattr(upper / path, f"user.overlay.{name}", value)

        tries = f"user.overlay.{name} leads elsewhere, or ends up in the original"
        found.append(Hostile(name=f"forged-{number}-{name}", tries=tries, after=forge))
    return found


def _swaps() -> list[Hostile]:
    """The original changes between the listing and `apply`: a directory becomes a link, a file becomes something else."""

    def below(upper: Path, victim: Path) -> None:
        _files(upper, "sub/secret", "sub/b", "sub/deeper/secret", "new/secret")
        whiteout(upper / "a")

    def gone(upper: Path, victim: Path) -> None:
        whiteout(upper / "sub")

    def link_to_victim(tree: Path, victim: Path) -> None:
        os.rename(tree / "sub", tree / "was")
        os.symlink(victim, tree / "sub")

    def relative(tree: Path, victim: Path) -> None:
        os.rename(tree / "sub", tree / "was")
        os.symlink("../victim", tree / "sub")

    def file_link(tree: Path, victim: Path) -> None:
        os.unlink(tree / "sub/b")
        os.symlink(victim / "secret", tree / "sub/b")

    def hard_link(tree: Path, victim: Path) -> None:
        os.unlink(tree / "sub/b")
        os.link(victim / "secret", tree / "sub/b")

    def other_directory(tree: Path, victim: Path) -> None:
        os.rename(tree / "sub", tree / "was")
        (tree / "sub").mkdir()

    def fifo(tree: Path, victim: Path) -> None:
        os.unlink(tree / "sub/b")
        os.mkfifo(tree / "sub/b")

    def made(tree: Path, victim: Path) -> None:
        os.symlink(victim, tree / "new")

    def deleted(tree: Path, victim: Path) -> None:
        os.unlink(tree / "a")
        os.symlink(victim / "secret", tree / "a")

    def in_sub(tree: Path, victim: Path) -> None:
        os.symlink(victim, tree / "sub/deeper")

    def late(tree: Path, victim: Path) -> None:
        (tree / "sub/late").write_text("mine\n")

    swaps = (link_to_victim, relative, file_link, hard_link, other_directory, fifo, made, deleted, in_sub, late)
    found = []
    for swap in swaps:
        tries = "the original is swapped for a way out of it, and what the run changed is written through that"
        name = swap.__name__.replace("_", "-")
        found.append(Hostile(name=f"swap-{name}", tries=tries, after=below, meanwhile=swap))
        found.append(Hostile(name=f"swap-gone-{name}", tries="likewise, for what is removed", after=gone, meanwhile=swap))
    return found


def _types() -> list[Hostile]:
    """Each type in the place of each other, some with links of the original in the way."""

    def original(tree: Path, victim: Path) -> None:
        for name in ("file", "dir", "link", "full"):
            for other in ("file", "dir", "link", "gone"):
                path = tree / f"{name}-{other}"
                if name == "file":
                    path.write_text("mine\n")
                elif name == "link":
                    os.symlink(victim, path)
                else:
                    path.mkdir()
                    if name == "full":
                        (path / "mine").write_text("mine\n")

    def changed(kind: str, other: str) -> Callable[[Path, Path], None]:
        def make(upper: Path, victim: Path) -> None:
            path = upper / f"{kind}-{other}"
            if other == "gone":
                whiteout(path)
            elif other == "file":
                path.write_text("theirs\n")
            elif other == "link":
                os.symlink(victim / "secret", path)
            else:
                path.mkdir()
                (path / "secret").write_text("theirs\n")

        return make

    return [
        Hostile(name=f"type-{kind}-{other}", tries="one type in the place of another is written through", before=original, after=changed(kind, other))
        for kind in ("file", "dir", "link", "full")
        for other in ("file", "dir", "link", "gone")
    ]


def _ours() -> list[Hostile]:
    def self_running(path: str) -> Callable[[Path, Path], None]:
        return lambda upper, victim: _files(upper, path)

    paths = (".git/hooks/pre-commit", ".git/config", ".envrc", ".vscode/tasks.json", ".bashrc", "sub/.git/modules/m/hooks/post-checkout", ".husky/pre-push")
    return [Hostile(name=f"autorun-{number}", tries=f"{path} is executed by its user", after=self_running(path)) for number, path in enumerate(paths)]


TREES = [*_links(), *_names(), *_special(), *_shapes(), *_forged(), *_swaps(), *_types(), *_ours()]
