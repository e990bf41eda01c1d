"""A5, the filter: which entry and which number. int 0x80, x32, numbers that are none, clone3, and every number there is.

DMOJ 077d3ede ("x86-on-x64 process sandbox escape"), firejail 2016 (x32), moby#42681 and #42871 (clone3, lists that a new call breaks).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from escape.raw import ARCH, CLONE_NEWUSER, KILLED, X86, allow, calls, outcomes, refused, request, write_policy
from escape.support import no_filter, run_payload

from sandbox.abi.tables import syscall_name
from sandbox.audit.events import Denial
from sandbox.audit.tally import Tally
from sandbox.plan.steps import ForbidNamespaces
from sandbox.supervise import notify

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "a5_calls.txt"
PROFILES = ("strict", "python", "default", "build", "shell", "judge")
POLICIES = ("strict", "python", "build", "default", "judge", "permissive")
only_x86 = pytest.mark.skipif(not X86, reason="entries and numbers of x86_64")


@only_x86
@pytest.mark.parametrize("profile", PROFILES)
def test_i386_entry_kills(profile: str) -> None:
    """Rule: the first instructions compare the architecture. getpid, add_key, keyctl and ptrace by their i386 numbers. Removed: the filter."""
    attack = ["int80:20", "int80:286:'user,'a,'b,1,-3", "int80:288:0,-3", "int80:26:0"]
    stopped, _ = calls(*attack, profile=profile)
    assert stopped == [KILLED] * 4
    reached, _ = calls(attack[0], profile=profile, alter=no_filter)
    assert isinstance(reached[0], int) and reached[0] > 0  # a pid


@only_x86
def test_x32_numbers_kill() -> None:
    """Rule: numbers from 0x40000000 are killed by a comparison, not by a list. Removed: the filter; then ENOSYS, or a pid where x32 is built."""
    attack = [f"syscall:{0x40000000 | number}" for number in (0, 39, 511, 512, 547)] + [
        "syscall:0x7fffffff",
        "syscall:0x80000000",
        "syscall:0xfffffffe",
    ]
    stopped, _ = calls(*attack)
    assert stopped == [KILLED] * len(attack)
    reached, _ = calls(*attack, alter=no_filter)
    assert KILLED not in reached


def test_number_minus_one_is_refused_and_recorded() -> None:
    """Rule: what no rule names gets ENOSYS, -1 (with which a tracer skips a call) included. Removed: the filter; then nobody records it."""
    attack = ["syscall:-1", "syscall:0xffffffff", "syscall:0x1ffffffff", "syscall:1023"]
    stopped, run = calls(*attack)
    assert stopped == refused("ENOSYS") * 4
    assert [event.number & 0xFFFFFFFF for event in run.events if isinstance(event, Denial)] == [0xFFFFFFFF] * 3 + [1023]
    _, run = calls(*attack, alter=no_filter)
    assert not run.events


def test_clone3_is_absent_and_threads_work(tmp_path: Path) -> None:
    """Rule: clone3's flags lie in memory, so ENOSYS, not EPERM. Removed: the rule, then a user namespace; ENOSYS, then threads."""
    attack = request("clone3", f"#{CLONE_NEWUSER}.0.0.0.17", 88)
    for profile in PROFILES:
        assert calls(attack, profile=profile)[0] == refused("ENOSYS")
        assert run_payload("a5_threads.c", profile=profile).result.ok
    masked = request("clone", CLONE_NEWUSER | 17)
    weaker = write_policy(tmp_path, allow("clone3"))
    reached, _ = calls(attack, masked, policy=weaker, without=[ForbidNamespaces])
    assert outcomes(reached) == ["ok", "EPERM"]
    harsher = write_policy(tmp_path, '[[rule]]\nsyscalls = ["clone3"]\naction = "errno EPERM"\n', name="harsher")
    assert run_payload("a5_threads.c", policy=harsher).result.exit_code == 1


@only_x86
@pytest.mark.parametrize("policy", POLICIES)
def test_every_number_is_as_written_down(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: an allow-list. 1024 calls with all-ones arguments, against a table for people to read. Removed: any rule; its row changes.

    ``SANDBOX_WRITE_GOLDEN=1`` writes the policy's column anew from what happened; read the difference before you keep it.
    """
    monkeypatch.setattr(notify, "Tally", lambda now_ns: Tally(now_ns, max_counters=4096))  # every number counted by itself
    run = run_payload("a5_calls.c", "table:0-1023", policy=policy, limits={"cpu": "none"})
    assert run.result.ok, (run.result.cause, run.err)
    answers = {int(number): answer for number, answer in (line.split("\t") for line in run.out.decode().splitlines())}
    assert len(answers) == 1024
    seen = {}
    for number, answer in answers.items():
        denied = run.result.denials.get(syscall_name(ARCH, number) or f"#{number}", 0)
        assert denied in (0, 1), (number, denied)
        seen[number] = outcomes([int(answer)])[0] if denied else "-"
    if os.environ.get("SANDBOX_WRITE_GOLDEN") == "1":
        _write_golden(policy, seen)
    expected = _read_golden()[policy]
    assert seen == expected, [
        (number, syscall_name(ARCH, number), seen[number], expected[number]) for number in seen if seen[number] != expected[number]
    ]


def _read_golden() -> dict[str, dict[int, str]]:
    head, *rows = [line.split() for line in GOLDEN.read_text().splitlines() if not line.startswith("#")]
    return {policy: {int(row[0]): row[2 + column] for row in rows} for column, policy in enumerate(head[2:])}


def _write_golden(policy: str, seen: dict[int, str]) -> None:
    table = _read_golden() if GOLDEN.exists() else {}
    table[policy] = seen
    columns = [name for name in POLICIES if name in table]
    head = [
        "# What each shipped policy answers to every system call number of x86_64 with all-ones arguments: the errno of the record, or - for a call",
        "# that reached the kernel or is refused without a record (audit = false). Written by tests/escape/test_a5_numbers.py from what happened.",
        "number name " + " ".join(columns),
    ]
    rows = [f"{number} {syscall_name(ARCH, number) or '?'} " + " ".join(table[name][number] for name in columns) for number in range(1024)]
    GOLDEN.write_text("\n".join(head + rows) + "\n")
