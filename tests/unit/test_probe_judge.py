"""What observations of the deep probe mean, and how `sandbox doctor` says it in 80 columns."""

from __future__ import annotations

import errno
import json
import shlex
from pathlib import Path

import pytest

from sandbox.cgroup.model import BackendReport
from sandbox.cli import doctor
from sandbox.kernel.probe import parse_release
from sandbox.kernel.probe_judge import (
    Finding,
    Need,
    Status,
    judge_clone3,
    judge_hardening,
    judge_id_range,
    judge_landlock,
    judge_surroundings,
    judge_userns,
)
from sandbox.kernel.probe_trial import Outcome
from sandbox.kernel.probe_userns import UsernsFacts

HOST = {"kernel": "6.1.0-50-amd64", "arch": "x86_64", "uid": "1000"}


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("6.18.44-fc-v657", (6, 18)),
        ("5.15.0", (5, 15)),
        ("6.6+custom", (6, 6)),
        ("7.3", (7, 3)),
        ("odd", (0, 0)),
        ("6", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_parse_release(release: str, expected: tuple[int, int]) -> None:
    assert parse_release(release) == expected


def test_userns_granted_to_the_executor_by_a_profile_is_only_degraded() -> None:
    given = UsernsFacts(
        uid=1000, apparmor_restrict=1, apparmor_label="unconfined", executable="/o/sandbox-init", profile="/etc/apparmor.d/s"
    )
    finding = judge_userns(Outcome(errno=errno.EPERM, detail="write /proc/self/uid_map"), given)
    assert (finding.status, finding.fix) == (Status.DEGRADED, "sudo apparmor_parser -r /etc/apparmor.d/s")
    assert "/o/sandbox-init" in finding.detail


def test_userns_refused_and_clone3_hidden() -> None:
    given = UsernsFacts(uid=1000, container="docker", seccomp_mode=2)
    userns = judge_userns(Outcome(errno=errno.EPERM, detail="unshare(0x10000000)"), given)
    clone3 = judge_clone3(Outcome(errno=errno.ENOSYS, detail="clone3"), given)
    assert userns.detail == "unshare(0x10000000) (EPERM): the seccomp filter of this docker container refuses it"
    assert clone3.detail == "clone3 (ENOSYS): the seccomp filter of this docker container refuses it"
    assert userns.fix == clone3.fix == "docker run --security-opt seccomp=unconfined …"
    assert {userns.status, clone3.status} == {Status.MISSING} and {userns.need, clone3.need} == {Need.EVERY}


@pytest.mark.parametrize(
    ("abi", "number", "modules", "status", "need", "detail", "fix"),
    [
        (7, 0, None, Status.WORKS, Need.STRICT, "ABI 7", ""),
        (6, 0, None, Status.WORKS, Need.STRICT, "ABI 6", ""),
        (11, 0, None, Status.WORKS, Need.STRICT, "ABI 11", ""),
        (
            2,
            0,
            None,
            Status.DEGRADED,
            Need.OPTIONAL,
            "ABI 2, without truncation, TCP ports, device ioctls, abstract sockets and signals",
            "use Linux 6.12 or newer",
        ),
        (0, errno.ENOSYS, None, Status.MISSING, Need.STRICT, "not built into this kernel", "boot a kernel with CONFIG_SECURITY_LANDLOCK=y"),
        (
            0,
            errno.EOPNOTSUPP,
            "capability,yama",
            Status.MISSING,
            Need.STRICT,
            "built, but not",
            "add lsm=landlock,capability,yama to the kernel",
        ),
        (
            0,
            errno.EOPNOTSUPP,
            None,
            Status.MISSING,
            Need.STRICT,
            "built, but not",
            "put landlock first in the kernel command line's lsm= list",
        ),
        (0, errno.EPERM, None, Status.MISSING, Need.STRICT, "refused by an outer seccomp filter", "allow the landlock_ calls"),
    ],
)
def test_landlock(abi: int, number: int, modules: str | None, status: Status, need: Need, detail: str, fix: str) -> None:
    finding = judge_landlock(abi, number, modules)
    assert (finding.status, finding.need) == (status, need)
    assert finding.detail.startswith(detail) and finding.fix.startswith(fix) and bool(finding.fix) is bool(fix)


@pytest.mark.parametrize(
    ("pattern", "tiocsti", "yama", "release", "expected"),
    [
        ("core\n", 1, None, "6.18.1", {"core dumps": "works", "TIOCSTI": "degraded", "Yama": "works"}),
        ("|/usr/share/apport/apport -p%p\n", 0, 1, "6.8.0", {"core dumps": "works", "TIOCSTI": "works", "Yama": "works"}),
        (None, None, 2, "6.1.0", {"core dumps": "works", "TIOCSTI": "works", "Yama": "works"}),
        ("core", 0, 3, "6.8.0", {"core dumps": "works", "TIOCSTI": "works", "Yama": "missing"}),
    ],
)
def test_hardening(pattern: str | None, tiocsti: int | None, yama: int | None, release: str, expected: dict[str, str]) -> None:
    findings = judge_hardening(core_pattern=pattern, legacy_tiocsti=tiocsti, yama=yama, release=release)
    assert {finding.name: str(finding.status) for finding in findings} == expected
    assert all(bool(finding.fix) is (finding.status is not Status.WORKS) for finding in findings)
    if pattern and pattern.startswith("|"):
        assert "`/usr/share/apport/apport`" in findings[0].detail


@pytest.mark.parametrize(
    ("changes", "detail", "fix"),
    [
        ({"helpers": (None, "/usr/bin/newgidmap")}, "no newuidmap", "sudo apt-get install uidmap"),
        (
            {"subuid": (), "subgid": ()},
            "no range for `u` in /etc/subuid and /etc/subgid",
            "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 u",
        ),
        ({"subgid": ()}, "no range for `u` in /etc/subgid", "sudo usermod --add-subgids 100000-165535 u"),
        ({"no_new_privs": True}, "no_new_privs is set", "start from a shell without no_new_privs"),
    ],
)
def test_id_range(changes: dict[str, object], detail: str, fix: str) -> None:
    whole: dict[str, object] = {
        "subuid": ((100000, 65536),),
        "subgid": ((100000, 65536),),
        "helpers": ("/usr/bin/newuidmap", "/usr/bin/newgidmap"),
        "user": "u",
        "no_new_privs": False,
    }
    assert judge_id_range(**whole) is None  # type: ignore[arg-type]
    finding = judge_id_range(**{**whole, **changes})  # type: ignore[arg-type]
    assert finding is not None and finding.detail.startswith(detail) and finding.fix == fix


def test_surroundings() -> None:
    assert judge_surroundings(UsernsFacts()).detail == "nothing confines this process"
    given = UsernsFacts(container="docker", seccomp_mode=2, apparmor_label="docker-default (enforce)", chrooted=True, nested=True)
    assert (
        judge_surroundings(given).detail
        == "docker container, user namespace, seccomp filter, AppArmor profile docker-default (enforce), chroot"
    )


# ---- the command -----------------------------------------------------------------------------------------------------


def finding(status: Status, need: Need, **changes: str) -> Finding:
    return Finding(name=changes.pop("name", "thing"), status=status, need=need, detail=changes.pop("detail", "so"), **changes)


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([], 0),
        ([(Status.WORKS, Need.EVERY), (Status.MISSING, Need.OPTIONAL)], 0),
        ([(Status.WORKS, Need.EVERY), (Status.MISSING, Need.STRICT)], 1),
        ([(Status.DEGRADED, Need.STRICT)], 1),
        ([(Status.DEGRADED, Need.EVERY)], 1),
        ([(Status.MISSING, Need.EVERY), (Status.DEGRADED, Need.STRICT)], 125),
    ],
)
def test_grade(rows: list[tuple[Status, Need]], code: int) -> None:
    findings = [finding(status, need) for status, need in rows]
    assert doctor.grade(findings) == code
    verdict = {0: "can run in full", 1: "runs degraded", 125: "nothing can run"}[code]
    assert verdict in doctor.render_table(findings, HOST).splitlines()[-1]
    assert json.loads(doctor.render_json(findings, HOST))["strict"] == {0: "full", 1: "degraded", 125: "impossible"}[code]


def test_table_fits_80_columns_and_escapes() -> None:
    hostile = finding(
        Status.MISSING,
        Need.EVERY,
        name="core\x1b]0;x\x07",
        detail="a\x1b[2J\n\u202eb\udcff " + "word " * 40,
        fix="sudo x " + "argument " * 30,
        needed_by="z\r",
    )
    prose = finding(Status.DEGRADED, Need.STRICT, fix="ask the one who runs this machine, " * 5)
    text = doctor.render_table([hostile, prose], {**HOST, "kernel": "6\x1b[1m"})
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(one.isprintable() or one == "\n" for one in text)
    assert "\\x1b[2J\\n\\u202eb\\udcff" in text
    assert text.splitlines()[2].startswith("! missing")
    # a command can be pasted, prose has no backslashes
    assert text.count(" \\\n") == 4


def test_json_has_what_the_table_has() -> None:
    row = json.loads(doctor.render_json([finding(Status.MISSING, Need.STRICT, fix="sudo x", needed_by="y")], HOST))["findings"][0]
    assert row == {"name": "thing", "status": "missing", "need": "strict", "detail": "so", "fix": "sudo x", "needed_by": "y"}


@pytest.mark.parametrize(
    "command",
    [
        "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 somebody-with-a-long-name",
        "sandbox doctor --apparmor-profile | sudo tee /etc/apparmor.d/sandbox-init && sudo apparmor_parser -r /etc/apparmor.d/sandbox-init",
        "sudo printf 'two  words in a quotation that must not be broken however long the line gets' --and --some --more",
        "sudo " + "x" * 100,
    ],
)
def test_wrapped_command_means_the_same_to_a_shell(command: str) -> None:
    lines = doctor.wrap_command(command, "    fix: ", "         ")
    pasted = "\n".join(lines).removeprefix("    fix: ").replace("\\\n", "")
    assert shlex.split(pasted) == shlex.split(command)
    assert all(len(line) <= 80 or " " not in line.strip().removeprefix("fix: sudo \\") or "'" in line for line in lines)


def test_wrapped_shell_script_means_the_same_to_a_shell() -> None:
    import subprocess

    script = (
        "sh -c 'for d in /sys/fs/cgroup/cpuacct /sys/fs/cgroup/memory /sys/fs/cgroup/pids; do echo $d/sandbox-1001 && echo 1001 $d; done'"
    )
    lines = doctor.wrap_command(script, "", "         ")
    assert len(lines) > 1 and all(len(line) <= 80 for line in lines)
    outputs = [subprocess.run(["sh", "-c", text], capture_output=True, check=True).stdout for text in (script, "\n".join(lines))]
    assert outputs[0] == outputs[1] != b""


@pytest.mark.parametrize(
    ("provides", "status", "detail"),
    [
        (("cpu", "memory", "processes"), Status.WORKS, "cgroup2: own node"),
        (("memory", "processes"), Status.DEGRADED, "cpu limited by rlimits and sampling: own node"),
        ((), Status.DEGRADED, "cpu, memory, processes limited by rlimits and sampling: own node"),
    ],
)
def test_cgroup(provides: tuple[str, ...], status: Status, detail: str) -> None:
    report = BackendReport(
        backend="cgroup2" if provides else None, provides=provides, reason="own node", fix="" if status is Status.WORKS else "sudo x"
    )
    found = doctor.judge_cgroup(report)
    assert (found.status, found.detail, found.need, found.fix) == (status, detail, Need.STRICT, report.fix)


def test_executor_and_compiler() -> None:
    native = Path("/x/sandbox-init")
    assert doctor.judge_executor("/x/sandbox-init", native).status is Status.WORKS
    assert doctor.judge_executor("/usr/bin/python3", native).status is Status.DEGRADED
    cases = {("2.5.4", True): Status.WORKS, ("2.4.4", True): Status.MISSING, (None, True): Status.MISSING, ("2.5.4", False): Status.MISSING}
    assert {case: doctor.judge_compiler(*case).status for case in cases} == cases


def test_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(["--help"]) == 0
    usage = capsys.readouterr().out
    assert all(len(line) <= 80 for line in usage.splitlines()) and "--json" in usage
    assert doctor.run(["--jso\x1b"]) == 125
    assert capsys.readouterr().err == "error: doctor does not take `--jso\\x1b`\n\nhint: sandbox doctor --help\n"
    assert doctor.run(["--json", "--json"]) == 125
    capsys.readouterr()
    assert doctor.run(["--apparmor-profile"]) == 0
    assert doctor.find_executable() in capsys.readouterr().out
