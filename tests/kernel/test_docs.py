"""The documents' examples, run as they are printed.

A ```console block is a session: lines after ``$ `` are commands (``> `` continues one), the rest is what they print, stdout and stderr together, where
``...`` stands for anything. A ```python block is run; the ```text block right after it is what it prints. A block with ``file=NAME`` behind its
language is written to that file. All blocks of a document share one directory, in order. Other blocks (```sh) are for the reader alone.
"""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    *sorted(path for folder in ("tutorial", "how-to", "explanation", "reference", "man") for path in (ROOT / "docs" / folder).glob("*.md")),
]
_FENCE = re.compile(r"^( *)```(\S*) *(?:file=(\S+))?[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# True of this host, or of whoever runs the tests, and not of what the documents tell.
_HOST_NOTE = re.compile(
    r"^(?:sandbox|note): (?:no writable cgroup: |the program runs with nice \d+, like the caller|`[^`]*` is too large to look for sockets)[^\n]*\n",
    re.MULTILINE,
)

# Background jobs of an example outlive its shell and become ours.
pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify, pytest.mark.landlock, pytest.mark.orphans]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block: where it starts, its language, the file it is to be written to (or empty), its text."""

    line: int
    language: str
    file: str
    text: str


def read_blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a Markdown text."""
    found = []
    for match in _FENCE.finditer(text):
        indent = len(match[1])
        body = "".join(line[indent:] for line in match[4].splitlines(keepends=True))
        found.append(Block(line=text.count("\n", 0, match.start()) + 1, language=match[2], file=match[3] or "", text=body))
    return found


def read_session(text: str) -> list[tuple[str, str]]:
    """Return (command, expected output) pairs of a console block."""
    steps: list[tuple[str, str]] = []
    for line in text.splitlines(keepends=True):
        if line.startswith("$ "):
            steps.append((line[2:], ""))
        elif line.startswith("> ") and not steps[-1][1]:
            steps[-1] = (steps[-1][0] + line[2:], "")
        else:
            steps[-1] = (steps[-1][0], steps[-1][1] + line)
    return steps


def matches(want: str, got: str) -> bool:
    """Tell whether an output is the one that a document shows."""
    return doctest.OutputChecker().check_output(want, got, doctest.ELLIPSIS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A reader's machine: a working directory, a home and a PATH with `sandbox` on it."""

    work: Path
    environment: dict[str, str]

    def execute(self, command: list[str], **environment: str) -> bytes:
        """Run a command and return what it prints; one that has not ended in ten minutes hangs."""
        done = subprocess.run(
            command, cwd=self.work, env=self.environment | environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=600, check=False,
        )  # fmt: skip
        return done.stdout

    def session(self, steps: list[tuple[str, str]]) -> list[str]:
        """Type commands into one shell and return what each prints."""
        mark = "<end-of-command>"
        script = "".join(f"{command}__status=$?; printf '{mark}'; (exit $__status)\n" for command, _ in steps)
        outputs = self.execute(["sh", "-c", script]).decode(errors="replace").split(mark)[:-1]
        return [_HOST_NOTE.sub("", output) for output in outputs]


@pytest.fixture(scope="module")
def cache() -> Iterator[str]:
    """Compiled filters: making them anew for every document would take most of the time."""
    with tempfile.TemporaryDirectory(prefix="sandbox-docs-cache-") as directory:
        yield directory


@pytest.fixture
def place(cache: str) -> Iterator[Place]:
    # Not pytest's own: nobody but its owner may enter that, and as root the payload is somebody else.
    top = Path(tempfile.mkdtemp(prefix="sandbox-docs-"))
    try:
        top.chmod(0o755)
        work, home, programs = top / "work", top / "home", top / "bin"
        for directory in (work, home, programs):
            directory.mkdir()
        launcher = programs / "sandbox"
        launcher.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -P -s -m sandbox "$@"\n')
        launcher.chmod(0o755)
        passed = {name: os.environ[name] for name in ("SANDBOX_CGROUP",) if name in os.environ}
        yield Place(
            work=work,
            environment={
                "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
                "HOME": str(home),
                "LANG": "C.UTF-8",
                "XDG_CACHE_HOME": cache,
                "SANDBOX_RUNTIME_DIR": str(top / "runs"),
                **passed,
            },
        )
    finally:
        shutil.rmtree(top)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_print_what_the_document_shows(path: Path, place: Place) -> None:
    text = path.read_text()
    blocks = read_blocks(text)
    assert text.count("\n```") == 2 * len(blocks), "a fence is not closed, or not understood here"
    wrong = []
    for block, after in zip(blocks, [*blocks[1:], None], strict=False):
        if block.file:
            (place.work / block.file).parent.mkdir(parents=True, exist_ok=True)
            (place.work / block.file).write_text(block.text)
        elif block.language == "console":
            steps = read_session(block.text)
            got = place.session(steps)
            for (command, want), printed in zip(steps, [*got, *["<the shell ended>"] * (len(steps) - len(got))], strict=True):
                if not matches(want, printed):
                    wrong.append(f"{path.relative_to(ROOT)}:{block.line}: `{command.strip()}`\n  shows: {want!r}\n  prints: {printed!r}")
        elif block.language == "python":
            # From a file, because some read their own source; beside the working directory, whose contents documents show.
            (place.work.parent / "example.py").write_text(block.text)
            printed = place.execute([sys.executable, "-P", "-s", str(place.work.parent / "example.py")], PYTHONPATH=str(ROOT)).decode()
            want = after.text if after is not None and after.language == "text" and not after.file else ""
            if not matches(want, printed):
                wrong.append(f"{path.relative_to(ROOT)}:{block.line}: python\n  shows: {want!r}\n  prints: {printed!r}")
    assert not wrong, "\n".join(wrong)


def test_a_wrong_example_is_seen(place: Place) -> None:
    (block,) = read_blocks("x\n```console\n$ echo one; false\none\n$ echo $?\n1\n$ echo three\nthree\n```\n")
    got = place.session(read_session(block.text))
    assert got == ["one\n", "1\n", "three\n"]
    assert not matches("one\ntwo\n", got[0])
    assert matches("t...e\n", got[2])


def test_first_command_of_the_readme(place: Place) -> None:
    command = "./dev exec --profile strict -- python3 examples/untrusted.py"
    assert command in (ROOT / "README.md").read_text()
    shutil.copytree(ROOT / "examples", place.work / "examples")
    shutil.copy(place.environment["PATH"].split(":")[0] + "/sandbox", place.work / "dev")
    printed = place.execute(["sh", "-c", f"{command}; echo exit $?"]).decode()
    assert ", 0 got through\n" in printed
    assert "denied clock_settime" in printed
    assert printed.endswith("exit 0\n")
