"""The command line as a person and a script meet it: help, options and their errors, results, dry runs, listings, completion."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox.policy.locate import names
from sandbox.result import Verdict

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]

VERBS = ("exec", "ps", "top", "stats", "pause", "resume", "kill", "doctor", "profiles", "policies", "volume", "judge", "completion")
STRICT = ("exec", "-q", "-p", "strict")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a working directory that everybody may read."""
    tmp_path.chmod(0o755)
    return tmp_path


# ---- help ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"], *([verb, "--help"] for verb in VERBS), ["exec", "-h"]])
def test_help_fits_a_screen(sandbox_cli: Any, words: list[str]) -> None:
    done = sandbox_cli(*words)
    lines = done.stdout.decode().splitlines()
    assert (done.returncode, done.stderr) == (0, b"")
    assert lines[0].startswith("usage: sandbox")
    long = words[0] == "exec" or len(words) == 1  # all options of a run, all verbs
    assert len(lines) <= (40 if long else 24)
    assert [line for line in lines if len(line) > 80] == []


def test_help_names_every_verb(sandbox_cli: Any) -> None:
    text = sandbox_cli("--help").stdout.decode()
    assert [verb for verb in VERBS if f"\n  {verb} " not in text] == []


def test_version(sandbox_cli: Any) -> None:
    done = sandbox_cli("--version")
    assert re.fullmatch(rb"sandbox \d+\.\d+\.\d+\n", done.stdout)


def test_no_verb_is_misuse(sandbox_cli: Any) -> None:
    done = sandbox_cli()
    assert done.returncode == 125
    assert done.stdout.startswith(b"usage: sandbox")


# ---- errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "expected"), [
    (["exce", "true"], "error: unknown verb `exce`\n\nhint: did you mean `sandbox exec`?\n"),
    (["true"], "error: unknown verb `true`\n\nhint: see `sandbox --help`; to run a command: `sandbox exec -- COMMAND`\n"),
    (["exec"], "error: no command given\n\nhint: `sandbox exec --profile strict -- python3 script.py`\n"),
    (["exec", "--"], "error: no command given\n\nhint: `sandbox exec --profile strict -- python3 script.py`\n"),
    (["exec", "--proflie", "strict", "true"], "error: unknown option `--proflie`\n\nhint: did you mean `--profile`?\n"),
    (["exec", "--xyzzy"], "error: unknown option `--xyzzy`\n\nhint: see `sandbox exec --help`\n"),
    (["exec", "--profile"], "error: option `--profile` needs NAME\n\nhint: see `sandbox exec --help`\n"),
    (["exec", "-p", "strict", "-p", "default", "true"], "error: option `-p` is given twice\n"),
    (["exec", "--quiet=yes", "true"], "error: option `--quiet` takes no value\n"),
    (["exec", "-l", "memory", "true"], "error: `--limit memory` is not KEY=VALUE\n\nhint: for example `--limit memory=64M`\n"),
    (["exec", "--audit", "x", "--no-audit", "true"], "error: `--audit` and `--no-audit` exclude each other\n"),
    (["exec", "--tty", "--no-tty", "true"], "error: `--tty` and `--no-tty` exclude each other\n"),
    (["exec", "--tty", "true"], "error: `--tty` needs a terminal as standard input\n"),
    (["exec", "--dry-run=xml", "true"], "error: `--dry-run=xml`: unknown form\n\nhint: json or syscalls\n"),
    (["exec", "--executor", "magic", "true"], "error: unknown executor `magic`\n\nhint: one of auto, native, python\n"),
    (["profiles", "a", "b"], "error: one name at most, not 2\n"),
    (["completion"], "error: say which shell\n\nhint: `sandbox completion bash|zsh|fish`\n"),
    (["completion", "tcsh"], "error: say which shell\n\nhint: `sandbox completion bash|zsh|fish`\n"),
])  # fmt: skip
def test_misuse(sandbox_cli: Any, words: list[str], expected: str) -> None:
    done = sandbox_cli(*words)
    assert done.stderr.decode() == expected
    assert (done.returncode, done.stdout) == (125, b"")


@pytest.mark.parametrize(("words", "parts"), [
    (["-p", "nope"], ["no profile is called `nope`"]),
    (["--policy", "nope"], ["nope"]),
    (["-l", "memory=lots"], ["lots", "command line"]),
    (["-l", "colour=1"], ["colour"]),
    (["-l", "wall=-1"], ["-1"]),
    (["--network", "internet"], ["internet"]),
    (["--cwd", "maybe"], ["maybe"]),
    (["-v", "/no/such/thing"], ["/no/such/thing"]),
    (["-v", "/usr:relative"], ["relative"]),
    (["-e", "=x"], ["name"]),
    (["--result", "/no/such/dir/file"], ["--result /no/such/dir/file", "hint: "]),
    (["--audit", "/no/such/dir/file"], ["/no/such/dir/file", "ENOENT"]),
])  # fmt: skip
def test_bad_values(sandbox_cli: Any, words: list[str], parts: list[str]) -> None:
    done = sandbox_cli("exec", *words, "--", "true")
    text = done.stderr.decode()
    assert (done.returncode, done.stdout) == (125, b""), text
    assert text.startswith("error: ") and "Traceback" not in text
    assert [part for part in parts if part not in text] == [], text


@pytest.mark.parametrize("text", ["a\nerror: forged", "\x1b[2J\x1b]0;title\x07", "tab\tand\rreturn", "\u202eesrever", "a\x7f\x9bb"])
def test_names_in_errors_are_escaped(sandbox_cli: Any, text: str) -> None:
    for words in (["--", text], ["-p", text, "true"], ["-v", f"/{text}", "true"], [f"--{text}", "true"], ["-l", f"{text}=1", "true"]):
        done = sandbox_cli("exec", *words)
        assert done.returncode in (125, 127)
        shown = done.stderr.decode("ascii")
        assert not re.search(r"[^\x20-\x7e\n]", shown)
        assert shown.startswith("error: ") and "\nerror: forged" not in shown


def test_notes_are_one_line_each(sandbox_cli: Any, place: Path) -> None:
    hostile = place / "dir\n\x1b[31m\nsandbox: all is well"
    hostile.mkdir()
    (hostile / "home").mkdir()
    done = sandbox_cli("exec", "-p", "strict", "--", "true", cwd=hostile, env={"HOME": str(hostile)})
    shown = done.stderr.decode("ascii")
    assert done.returncode == 0
    assert "not shared" in shown and "\\x0a\\x1b" in shown
    assert all(line.startswith("sandbox: ") and line != "sandbox: all is well" for line in shown.splitlines())


def test_working_directory_that_is_gone(sandbox_cli: Any, place: Path) -> None:
    gone = place / "gone"
    gone.mkdir()
    script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", gone, *sandbox_cli.command, *STRICT, "--", "true"], capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 125
    assert done.stderr.startswith(b"error: the working directory does not exist any more")


# ---- streams of the caller -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closing", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_not_taken_for_files_of_ours(sandbox_cli: Any, place: Path, closing: str) -> None:
    audit = place / "audit.jsonl"
    program = "echo to-out; echo to-err >&2; cat; unshare -U true; exit 6"
    words = " ".join(sandbox_cli.command)
    script = f"exec {words} exec -p strict --audit {audit} -- sh -c '{program}' {closing}"
    done = subprocess.run(["sh", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
    assert done.returncode == 6
    assert done.stdout == (b"to-out\n" if closing in ("<&-", "2>&-") else b"")
    assert (b"to-err\n" in done.stderr) is ("2>&-" not in closing)
    events = [json.loads(line) for line in audit.read_text().splitlines()]
    assert events and all("syscall" in event for event in events)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_output_that_cannot_be_written_is_an_error(sandbox_cli: Any) -> None:
    with open("/dev/full", "wb") as full:
        process = sandbox_cli.popen(*STRICT, "--", "echo", "lost", stdout=full)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 125
    assert errors == b"sandbox: standard output was lost: No space left on device (ENOSPC)\n"


def test_output_appended_to_a_file(sandbox_cli: Any, place: Path) -> None:
    path = place / "log"
    path.write_text("before\n")
    with path.open("ab") as file:
        process = sandbox_cli.popen(*STRICT, "--", "sh", "-c", "echo one; echo two", stdout=file)
        process.communicate(timeout=120)
    assert path.read_text() == "before\none\ntwo\n"


def test_caller_descriptors_do_not_reach_the_payload(sandbox_cli: Any) -> None:
    read, write = os.pipe()
    try:
        done = sandbox_cli(*STRICT, "--", "sh", "-c", "ls /proc/self/fd; echo x >&" + str(write), pass_fds=(read, write))
        ready, _, _ = select.select([read], [], [], 0)
    finally:
        os.close(read)
        os.close(write)
    assert done.stdout == b"0\n1\n2\n3\n"  # 3 is ls's own
    assert done.returncode != 0 and not ready


# ---- results -------------------------------------------------------------------------------------------------------------

NUMBER, MAYBE = int, (int, type(None))
TEXT, MAYBE_TEXT = str, (str, type(None))
SCHEMA: dict[str, Any] = {
    "schema": NUMBER, "run": TEXT, "launched": TEXT,
    "verdict": TEXT, "cause": TEXT, "exit_code": NUMBER, "signal": MAYBE, "wall_ns": NUMBER, "cpu_user_ns": NUMBER,
    "cpu_sys_ns": NUMBER, "cpu_source": TEXT, "limits_hit": list, "near_limits": list, "evidence": list, "paused_ns": NUMBER, "memory_samples": NUMBER,
    **dict.fromkeys((
        "memory_anon_peak_bytes", "memory_file_peak_bytes", "memory_kernel_peak_bytes", "memory_sample_gap_ns", "memory_sample_step_bytes",
        "memory_sampled_bytes", "maxrss_bytes", "memory_max_hits", "io_read_bytes", "io_write_bytes", "voluntary_switches", "involuntary_switches",
        "minor_faults", "major_faults", "throttled_ns", "throttled_periods", "pressure_cpu_ns", "pressure_memory_ns", "pressure_io_ns", "instructions",
    ), MAYBE), "oom_source": MAYBE_TEXT, "instructions_source": MAYBE_TEXT, "io_source": MAYBE_TEXT,
    "memory_peak_bytes": MAYBE, "memory_source": MAYBE_TEXT, "processes_peak": MAYBE,
    "processes_source": MAYBE_TEXT, "output_bytes": NUMBER, "oom_kills": MAYBE, "process_limit_hits": MAYBE, "denials": dict,
    "changes": (dict, type(None)), "denials_suppressed": NUMBER, "enforced": list, "notes": list, "profile": dict, "policy": dict,
}  # fmt: skip


def check_schema(document: dict[str, Any]) -> None:
    """Assert that a result has exactly the fields that are promised, with their types."""
    assert document.keys() == SCHEMA.keys()
    for name, kind in SCHEMA.items():
        assert isinstance(document[name], kind) and not isinstance(document[name], bool), name
    assert document["schema"] == 1
    assert document["verdict"] in set(Verdict)
    for entry in document["enforced"]:
        assert entry.keys() == {"what", "how", "weaker"} and all(isinstance(text, str) for text in entry.values())
    for entry in document["evidence"]:
        assert entry.keys() == {"limit", "counter", "value", "bound", "unit", "hit"}
    for entry in document["near_limits"]:
        assert entry.keys() == {"limit", "value", "bound", "ratio"}
    for part in ("profile", "policy"):
        assert document[part].keys() == {"name", "digest"} and re.fullmatch("[0-9a-f]{64}", document[part]["digest"])


@pytest.mark.parametrize(("script", "verdict", "code", "number"), [
    ("exit 0", "ok", 0, None), ("exit 3", "nonzero-exit", 3, None), ("kill -9 $$", "signaled", 137, 9), ("sleep 600", "wall-limit", 137, 9),
    ("yes", "output-limit", 137, 9),
])  # fmt: skip
def test_result_file(sandbox_cli: Any, place: Path, script: str, verdict: str, code: int, number: int | None) -> None:
    path = place / "result.json"
    path.write_text("what was here before")
    wall = "500ms" if verdict == "wall-limit" else "100s"
    done = sandbox_cli(*STRICT, "-l", f"wall={wall}", "-l", "output=1M", "--result", path, "--", "sh", "-c", script, timeout=240)
    document = json.loads(path.read_text())
    check_schema(document)
    assert done.returncode == code
    assert (document["verdict"], document["exit_code"], document["signal"]) == (verdict, code, number)
    assert (document["profile"]["name"], document["policy"]["name"]) == ("strict", "strict")
    assert os.listdir(place) == ["result.json"]


def test_result_has_the_denials(sandbox_cli: Any, place: Path) -> None:
    path = place / "result.json"
    sandbox_cli(*STRICT, "--no-audit", "--result", path, "--", "unshare", "-U", "true")
    assert json.loads(path.read_text())["denials"] == {}
    sandbox_cli(*STRICT, "--audit", place / "a", "--result", path, "--", "unshare", "-U", "true")
    assert json.loads(path.read_text())["denials"] == {"unshare": 1}


def test_result_is_replaced_whole(sandbox_cli: Any, place: Path) -> None:
    """Whoever reads meanwhile sees the old file or the new one, and a hard link keeps the old."""
    path = place / "result.json"
    path.write_text("old")
    os.link(path, place / "link")
    with path.open() as reader:
        sandbox_cli(*STRICT, "--result", path, "--", "true")
        assert reader.read() == "old"
    assert (place / "link").read_text() == "old"
    check_schema(json.loads(path.read_text()))


def test_result_to_a_descriptor_and_a_fifo(sandbox_cli: Any, place: Path) -> None:
    read, write = os.pipe()
    try:
        done = sandbox_cli(*STRICT, "--result", f"/dev/fd/{write}", "--", "true", pass_fds=(write,))
        document = json.loads(os.read(read, 1 << 16))
    finally:
        os.close(read)
        os.close(write)
    assert done.returncode == 0
    check_schema(document)
    fifo = place / "fifo"
    os.mkfifo(fifo)
    with sandbox_cli.popen(*STRICT, "--result", fifo, "--", "true", stdout=subprocess.DEVNULL) as process:
        check_schema(json.loads(fifo.read_text()))
        assert process.wait(120) == 0


def test_no_result_when_nothing_ran(sandbox_cli: Any, place: Path) -> None:
    path = place / "result.json"
    assert sandbox_cli(*STRICT, "--result", path, "--", "no-such-command").returncode == 127
    assert not path.exists()


# ---- summary lines and quiet ---------------------------------------------------------------------------------------------


def test_quiet_and_a_clean_run_say_nothing(sandbox_cli: Any) -> None:
    assert sandbox_cli(*STRICT, "--", "unshare", "-U", "true").stderr.count(b"sandbox: ") == 0
    assert sandbox_cli(*STRICT, "--", "true").stderr == b""


def test_denials_are_summarised(sandbox_cli: Any) -> None:
    done = sandbox_cli("exec", "-p", "strict", "--", "unshare", "-U", "true")
    assert re.search(rb"^sandbox: .*unshare", done.stderr, re.MULTILINE)


def test_limit_is_told(sandbox_cli: Any) -> None:
    done = sandbox_cli("exec", "-p", "strict", "-l", "wall=200ms", "--", "sleep", "600")
    assert re.search(rb"^sandbox: wall-limit: wall \d+ ns, limit 200000000 ns$", done.stderr, re.MULTILINE)


def test_require_cgroup(sandbox_cli: Any) -> None:
    done = sandbox_cli("exec", "-p", "strict", "--require-cgroup", "--", "true")
    notes = sandbox_cli("exec", "-p", "strict", "--", "true").stderr
    if b"no writable cgroup" in notes:
        assert done.returncode == 125
        assert done.stderr.startswith(b"error: `--require-cgroup` needs a writable cgroup, which this host does not offer")
    else:
        assert (done.returncode, done.stderr, notes) == (0, b"", b"")


# ---- dry runs, listings --------------------------------------------------------------------------------------------------


def test_dry_run_forms(sandbox_cli: Any, place: Path) -> None:
    marker = place / "made"
    words = ("exec", "-p", "strict", "-v", f"{place}:{place}:rw", "--", "touch", marker)
    text = sandbox_cli(*words[:1], "--dry-run", *words[1:])
    document = sandbox_cli(*words[:1], "--dry-run=json", *words[1:])
    rows = sandbox_cli(*words[:1], "--dry-run=syscalls", *words[1:])
    assert [done.returncode for done in (text, document, rows)] == [0, 0, 0]
    assert not marker.exists()
    steps = json.loads(document.stdout)
    sections = [section for section in ("janitor", "init", "payload") for _ in steps[section]]
    lines = [line for line in text.stdout.decode().splitlines() if re.match(r" +\d+  ", line)]
    assert len(lines) == len(sections)
    flat = [step for section in ("janitor", "init", "payload") for step in steps[section]]
    run_id = re.compile(r"[0-9a-f]{11}-[0-9a-f]{8}")  # names the cgroups
    assert [run_id.sub("RUN", re.sub(r"^ +\d+  ", "", line)) for line in lines] == [run_id.sub("RUN", step["text"]) for step in flat]
    numbers = [int(line.split()[0]) for line in rows.stdout.decode().splitlines() if not line.startswith("#")]
    assert numbers == list(range(len(numbers))) and len(numbers) > 300
    assert rows.stdout.rstrip().splitlines()[-1].startswith(b"# %d rows, " % len(numbers))


@pytest.mark.parametrize("kind", ["profiles", "policies"])
def test_listings(sandbox_cli: Any, kind: Any) -> None:
    lines = sandbox_cli(kind).stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == list(names(kind))
    assert "(broken" not in "\n".join(lines)
    rows = json.loads(sandbox_cli(kind, "--json").stdout)
    assert [row["name"] for row in rows] == list(names(kind))
    for row in rows:
        assert row["description"]
        shown = sandbox_cli(kind, row["name"]).stdout
        assert shown == Path(row["path"]).read_bytes()


@pytest.mark.parametrize("kind", ["profiles", "policies"])
def test_listing_of_what_is_not_there(sandbox_cli: Any, kind: str) -> None:
    done = sandbox_cli(kind, "nope")
    assert done.returncode == 125
    assert b"`nope`" in done.stderr


# ---- completion ----------------------------------------------------------------------------------------------------------


def complete(sandbox_cli: Any, place: Path, *words: str) -> list[str]:
    """Let bash load the completion script and return what it offers for the last word."""
    tool = place / "bin" / "sandbox"
    if not tool.exists():
        tool.parent.mkdir()
        tool.write_text('#!/bin/sh\nexec {} "$@"\n'.format(" ".join(sandbox_cli.command)))
        tool.chmod(0o755)
    script = 'eval "$(sandbox completion bash)"\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _sandbox; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", "sandbox", *words], cwd=place, capture_output=True, text=True, timeout=120, check=True,
        env={"PATH": f"{tool.parent}:/usr/bin:/bin", "HOME": str(place), "SANDBOX_RUNTIME_DIR": str(place / "runs")},
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


def test_completion_in_bash(sandbox_cli: Any, place: Path) -> None:
    (place / "some-file").touch()
    assert complete(sandbox_cli, place, "ex") == ["exec"]
    assert set(complete(sandbox_cli, place, "")) >= set(VERBS)
    assert complete(sandbox_cli, place, "exec", "--prof") == ["--profile"]
    assert complete(sandbox_cli, place, "exec", "--profile", "str") == ["strict"]
    assert sorted(complete(sandbox_cli, place, "exec", "-p", "")) == sorted(names("profiles"))
    assert sorted(complete(sandbox_cli, place, "exec", "--policy", "")) == sorted(names("policies"))
    assert complete(sandbox_cli, place, "exec", "--cwd", "") == ["ro", "rw", "no"]
    assert complete(sandbox_cli, place, "exec", "--result", "some") == ["some-file"]
    assert complete(sandbox_cli, place, "exec", "--", "ls", "some") == ["some-file"]
    assert "ls" in complete(sandbox_cli, place, "exec", "--", "ls")
    assert complete(sandbox_cli, place, "completion", "b") == ["bash"]
    assert complete(sandbox_cli, place, "profiles", "str") == ["strict"]
    assert complete(sandbox_cli, place, "doctor", "--j") == ["--json"]
    assert complete(sandbox_cli, place, "stats", "--w") == ["--watch"]
    assert complete(sandbox_cli, place, "kill", "") == ["--signal", "--all", "--help"]  # nothing runs
    assert complete(sandbox_cli, place, "top", "--o") == ["--once"]
    assert complete(sandbox_cli, place, "judge", "some") == ["some-file"]
    assert complete(sandbox_cli, place, "judge", "la") == ["languages"]
    assert complete(sandbox_cli, place, "judge", "--format", "j") == ["json", "junit"]
    assert complete(sandbox_cli, place, "judge", "some-file", "--st") == ["--strict"]


def test_completion_knows_every_option_of_the_help(sandbox_cli: Any, place: Path) -> None:
    options = set(re.findall(r"--[a-z-]+", sandbox_cli("exec", "--help").stdout.decode().split("\n\nExit")[0]))
    assert options <= set(complete(sandbox_cli, place, "exec", "-"))
    fish = sandbox_cli("completion", "fish").stdout.decode()
    assert [option for option in options if f"-l {option[2:]}" not in fish] == []


# ---- habits of options ---------------------------------------------------------------------------------------------------


def test_ways_to_write_options(sandbox_cli: Any) -> None:
    for words in (["--profile", "strict"], ["--profile=strict"], ["-p", "strict"], ["-pstrict"], ["-qp", "strict"]):
        done = sandbox_cli("exec", *words, "-e", "A=1", "-eB=2", "--", "sh", "-c", "echo $A$B")
        assert (done.returncode, done.stdout) == (0, b"12\n"), done.stderr


def test_options_end_at_the_command(sandbox_cli: Any) -> None:
    assert sandbox_cli(*STRICT, "echo", "-p", "--help").stdout == b"-p --help\n"
    assert sandbox_cli(*STRICT, "--", "echo", "--", "-q").stdout == b"-- -q\n"


def test_environment_options(sandbox_cli: Any) -> None:
    done = sandbox_cli(*STRICT, "-e", "SECRET", "-e", "SET=x=y", "-e", "ABSENT", "--", "env", env={"SECRET": "passed", "OTHER": "kept out"})
    lines = done.stdout.decode().splitlines()
    assert "SECRET=passed" in lines and "SET=x=y" in lines
    assert not [line for line in lines if line.startswith(("OTHER=", "ABSENT="))]


def test_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", *STRICT, "--", "sh", "-c", "exit 9"], capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 9, done.stderr


def test_interrupt_before_the_start(sandbox_cli: Any) -> None:
    """Ctrl-C while the interpreter is still loading: no traceback of ours, no zombie."""
    with sandbox_cli.popen(*STRICT, "--", "sleep", "60") as process:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(2)
        out, _ = process.communicate(timeout=120)
    assert out == b""
    assert process.returncode in (130, -2, 1)
