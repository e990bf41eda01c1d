"""Each warning of the lint fires on its gap and is quiet without it; shipped policies have only the gaps that are named here; `policy check` tells all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sandbox.abi.arch import Arch
from sandbox.abi.signatures import argument_index, signature
from sandbox.abi.tables import known_anywhere, syscall_number
from sandbox.cli.main import main
from sandbox.policy.load import load_policy
from sandbox.policy.locate import data_dir, names
from sandbox.policy.mistakes import load_or_explain
from sandbox.seccomp.explain import explain_shape, is_permitted
from sandbox.seccomp.lint import IDS, lint
from sandbox.seccomp.lint_families import BLIND, FAMILIES, PROBED
from sandbox.seccomp.shape import parse_call

HEAD = 'name = "own"\ndescription = "x"\n'


def rule(names: str, action: str = "allow", when: str = "", otherwise: str = "") -> str:
    """Return one rule as TOML."""
    text = f"[[rule]]\nsyscalls = [{', '.join(f'{name!r}' for name in names.split())}]\naction = {action!r}\n"
    return text + (f"when = {when!r}\n" if when else "") + (f"else = {otherwise!r}\n" if otherwise else "")


def findings(directory: Path, body: str, default: str = "errno ENOSYS") -> list[tuple[str, str]]:
    path = directory / "own.toml"
    path.write_text(f"{HEAD}default = {default!r}\n{body}")
    return [(found.id, found.message) for found in lint(load_policy(str(path)))]


READ_ONLY = "flags & O_ACCMODE == O_RDONLY"
PLAIN_CLONE = "flags & CLONE_NEWUSER == 0"

# id, a policy with the gap, what the message must say, policies without the gap.
GAPS: list[tuple[str, str, str, list[str]]] = [
    (
        "bypass-open",
        rule("openat", when=READ_ONLY, otherwise="errno EPERM") + rule("openat2"),
        "`openat2` can open files where `openat` may not (own.toml:4), as in `openat2(",
        [
            rule("openat", when=READ_ONLY, otherwise="errno EPERM") + rule("openat2", "errno ENOSYS"),
            rule("openat", when=READ_ONLY, otherwise="errno EPERM") + rule("open", when=READ_ONLY, otherwise="errno EPERM"),
            rule("open openat openat2 creat") + rule("open_by_handle_at", "errno EPERM"),
            rule("openat"),
        ],
    ),
    (
        "bypass-open",
        rule("open openat", when=READ_ONLY, otherwise="errno EPERM") + rule("creat"),
        "`creat` can open files where `open`, `openat` may not",
        [rule("open openat", when="flags & O_DIRECTORY == 0", otherwise="errno EPERM") + rule("creat")],
    ),
    (
        "bypass-io-uring",
        rule("socket", when="family == AF_UNIX", otherwise="errno EPERM") + rule("io_uring_setup"),
        "`io_uring_setup` can do the same in a ring where `socket` may not",
        [rule("socket") + rule("io_uring_setup"), rule("socket", "errno EPERM") + rule("io_uring_setup", "errno EPERM")],
    ),
    (
        "bypass-namespace",
        rule("clone", when=PLAIN_CLONE, otherwise="errno EPERM") + rule("unshare"),
        "`unshare` can make or join namespaces where `clone` may not (own.toml:4), as in `unshare(flags=CLONE_NEWUSER)`",
        [
            rule("clone unshare", when=PLAIN_CLONE, otherwise="errno EPERM") + rule("clone3", "errno ENOSYS"),
            rule("clone", when="flags == SIGCHLD", otherwise="errno EPERM") + rule("unshare", when="flags == CLONE_FILES", otherwise="errno EPERM"),
            rule("unshare setns clone3"),
        ],
    ),
    (
        "bypass-fork",
        rule("clone", when="flags & CLONE_THREAD == CLONE_THREAD", otherwise="errno EPERM") + rule("vfork"),
        "`vfork` can make processes where `clone` may not",
        [
            rule("fork vfork", "errno EPERM") + rule("clone", when="flags & CLONE_THREAD == CLONE_THREAD", otherwise="errno EPERM"),
            rule("clone", when=PLAIN_CLONE, otherwise="errno EPERM") + rule("fork vfork"),
        ],
    ),
    (
        "bypass-signal",
        rule("kill", when="sig in {0, SIGTERM}", otherwise="errno EPERM") + rule("tgkill"),
        "`tgkill` can send signals where `kill` may not (own.toml:4), as in `tgkill(tgid=0, pid=0, sig=SIGHUP)`",
        [rule("kill tgkill", when="sig in {0, SIGTERM}", otherwise="errno EPERM"), rule("kill")],
    ),
    ("bypass-read", rule("read") + rule("pread64 readv", "errno EPERM"), "`read` can read where `pread64`, `readv` may not", [rule("read pread64")]),
    ("bypass-write", rule("write") + rule("writev", "errno EPERM"), "`write` can write where `writev` may not", [rule("write")]),
    ("bypass-stat", rule("stat lstat", "errno EPERM") + rule("statx"), "`statx` can ask about files where `stat`, `lstat` may not", [rule("statx")]),
    (
        "bypass-chmod",
        rule("chmod fchmod", when="mode & 0o6000 == 0", otherwise="errno EPERM") + rule("fchmodat2"),
        "`fchmodat2` can change modes where `chmod`, `fchmod` may not (own.toml:4), as in `fchmodat2(dfd=0, filename=NULL, mode=02000, flags=0)`",
        [rule("chmod fchmod fchmodat fchmodat2", when="mode & 0o6000 == 0", otherwise="errno EPERM")],
    ),
    ("bypass-chown", rule("chown", "errno EPERM") + rule("fchownat"), "`fchownat` can change owners", [rule("chown fchownat", "errno EPERM")]),
    (
        "bypass-rename",
        rule("renameat2", when="flags & RENAME_EXCHANGE == RENAME_EXCHANGE", otherwise="errno EPERM") + rule("rename"),
        "`rename` can rename where `renameat2` may not",
        [rule("renameat2", when="flags & RENAME_EXCHANGE == 0", otherwise="errno EPERM") + rule("rename renameat")],
    ),
    (
        "bypass-unlink",
        rule("unlink", "errno EPERM") + rule("unlinkat"),
        "`unlinkat` can remove names where `unlink` may not (own.toml:4), as in `unlinkat(dfd=0, pathname=NULL, flags=0)`",
        [rule("unlink", "errno EPERM") + rule("unlinkat", when="flags == AT_REMOVEDIR", otherwise="errno EPERM") + rule("rmdir")],
    ),
    ("bypass-mkdir", rule("mkdir", "errno EPERM") + rule("mkdirat"), "`mkdirat` can make directories", [rule("mkdir mkdirat")]),
    (
        "bypass-mknod",
        rule("mknod", when="mode & S_IFMT == S_IFIFO", otherwise="errno EPERM") + rule("mknodat"),
        "`mknodat` can make nodes",
        [rule("mknod mknodat", when="mode & S_IFMT == S_IFIFO", otherwise="errno EPERM")],
    ),
    ("bypass-link", rule("link", "errno EPERM") + rule("linkat"), "`linkat` can link", [rule("link linkat", "errno EPERM")]),
    ("bypass-symlink", rule("symlinkat", "errno EPERM") + rule("symlink"), "`symlink` can make symbolic links", [rule("symlink symlinkat")]),
    ("bypass-times", rule("utimensat", "errno EPERM") + rule("utime"), "`utime` can set times", [rule("utimensat utime", "errno EPERM")]),
    ("bypass-xattr", rule("setxattr", "errno EPERM") + rule("setxattrat"), "`setxattrat` can set attributes", [rule("setxattr", "errno EPERM")]),
    ("bypass-truncate", rule("truncate", "errno EPERM") + rule("ftruncate"), "`ftruncate` can cut files", [rule("truncate ftruncate")]),
    (
        "bypass-mount",
        rule("mount", "errno EPERM") + rule("move_mount open_tree"),
        "`move_mount` can change mounts where `mount` may not",
        [rule("@mount", "errno EPERM"), rule("mount move_mount")],
    ),
    (
        "bypass-trace",
        rule("ptrace", "errno EPERM") + rule("process_vm_writev"),
        "`process_vm_writev` can read or steer other processes where `ptrace` may not",
        [rule("ptrace process_vm_readv process_vm_writev pidfd_getfd", "errno EPERM")],
    ),
    ("bypass-exec", rule("execve") + rule("execveat", "errno EPERM"), "`execve` can execute programs where `execveat`", [rule("execve execveat")]),
    (
        "bypass-clock",
        rule("clock_settime settimeofday", "errno EPERM") + rule("clock_adjtime"),
        "`clock_adjtime` can set the clock where `clock_settime`, `settimeofday` may not",
        [rule("clock_settime settimeofday adjtimex clock_adjtime", "errno EPERM")],
    ),
    (
        "bypass-socket",
        rule("socket", "errno EPERM") + rule("socketpair"),
        "`socketpair` can make a datagram socket where `socket` may not (own.toml:4), as in `socketpair(family=AF_UNIX, type=SOCK_DGRAM, protocol=0, sv=NULL)`",
        [
            rule("socket", "errno EPERM") + rule("socketpair", when="type & 0xf == SOCK_STREAM", otherwise="errno EPERM"),
            rule("socket", when="family == AF_UNIX", otherwise="errno EPERM") + rule("socketpair"),
        ],
    ),
    (
        "bypass-message",
        rule("sendto", when="flags & MSG_OOB == 0", otherwise="errno EPERM") + rule("sendmsg"),
        "`sendmsg` can send messages where `sendto` may not (own.toml:4), as in `sendmsg(fd=0, msg=NULL, flags=MSG_OOB)`",
        [rule("sendto sendmsg sendmmsg", when="flags & MSG_OOB == 0", otherwise="errno EPERM")],
    ),
    ("bypass-accept", rule("accept", "errno EPERM") + rule("accept4"), "`accept4` can accept connections", [rule("accept accept4", "errno EPERM")]),
    (
        "bypass-limit",
        rule("setrlimit", when="resource != RLIMIT_CORE", otherwise="errno EPERM") + rule("prlimit64"),
        "`prlimit64` can set limits where `setrlimit` may not (own.toml:4), as in `prlimit64(pid=0, resource=RLIMIT_CORE, ",
        [
            rule("setrlimit", when="resource != RLIMIT_CORE", otherwise="errno EPERM")
            + rule("prlimit64", when="resource != RLIMIT_CORE or new_rlim == 0", otherwise="errno EPERM"),
        ],
    ),
    (
        "bypass-priority",
        rule("setpriority", "errno EPERM") + rule("sched_setattr"),
        "`sched_setattr` can change scheduling",
        [rule("setpriority", "errno EPERM")],
    ),
    (
        "bypass-protection",
        rule("mprotect", when="prot & PROT_EXEC == 0", otherwise="errno EPERM") + rule("mmap"),
        "`mmap` can change what memory may do where `mprotect` may not",
        [rule("mprotect mmap pkey_mprotect", when="prot & PROT_EXEC == 0", otherwise="errno EPERM")],
    ),
    (
        "bypass-huge-pages",
        rule("memfd_create", when="flags & MFD_HUGETLB == 0", otherwise="errno EPERM") + rule("mmap shmget"),
        "`mmap` can take huge pages where `memfd_create` may not (own.toml:4), as in `mmap(",
        [
            rule("memfd_create", when="flags & MFD_HUGETLB == 0", otherwise="errno EPERM")
            + rule("mmap", when="flags & MAP_HUGETLB == 0", otherwise="errno EPERM")
            + rule("shmget", when="shmflg & SHM_HUGETLB == 0", otherwise="errno EPERM"),
        ],
    ),
    ("bypass-kernel", rule("init_module", "errno EPERM") + rule("finit_module"), "`finit_module` can load kernel code", [rule("init_module",
     "errno EPERM")]),
    (
        "bypass-filter",
        rule("seccomp", "errno EPERM") + rule("prctl", when="option != PR_SET_MM", otherwise="errno EPERM"),
        "`prctl` can install a filter where `seccomp` may not (own.toml:4), as in `prctl(option=PR_SET_SECCOMP",
        [
            rule("seccomp", "errno EPERM") + rule("prctl", when="option != PR_SET_SECCOMP", otherwise="errno EPERM"),
            rule("seccomp", when="op == SECCOMP_SET_MODE_FILTER and flags == 0", otherwise="errno EPERM")
            + rule("prctl", when="option != PR_SET_MM", otherwise="errno EPERM"),
        ],
    ),
    (
        "clone3-errno",
        rule("clone3", "errno EPERM"),
        "`clone3` gets errno EPERM: glibc falls back to clone on ENOSYS only, so threads cannot be made",
        [rule("clone3", "errno ENOSYS"), rule("clone3"), ""],
    ),
    (
        "kill-probe",
        rule("io_uring_setup", "kill-process"),
        "`io_uring_setup` gets kill-process, but runtimes merely try it at their start and take a no",
        [rule("io_uring_setup", "errno EPERM"), rule("ptrace", "kill-process")],
    ),
    (
        "listener",
        rule("seccomp", when="op == SECCOMP_SET_MODE_FILTER", otherwise="errno EPERM"),
        "a program may install a filter with a listener of its own",
        [rule("seccomp", when="op == SECCOMP_SET_MODE_FILTER and flags & SECCOMP_FILTER_FLAG_NEW_LISTENER == 0", otherwise="errno EPERM")],
    ),
    (
        "terminal-input",
        rule("ioctl", when="cmd != TIOCLINUX", otherwise="errno EPERM"),
        "`ioctl(cmd=TIOCSTI)` is permitted",
        [rule("ioctl", when="cmd not in {TIOCSTI, TIOCLINUX}", otherwise="errno EPERM"), rule("ioctl", "errno EPERM")],
    ),
    ("open-prctl", rule("prctl"), "`prctl` is permitted with every option", [rule("prctl", when="option != PR_SET_MM", otherwise="errno EPERM")]),
    (
        "open-personality",
        rule("personality"),
        "`personality` is permitted with every value",
        [rule("personality", when="personality == 0", otherwise="errno EPERM")],
    ),
    (
        "pointer-argument",
        rule("connect", when="addrlen == 110", otherwise="errno EPERM"),
        "a condition on `connect` cannot see the address, which lies in memory",
        [rule("connect"), rule("sendto", when="addr == 0", otherwise="errno EPERM")],
    ),
    (
        "upper-bits",
        rule("ioctl", when="register(cmd) != TIOCSTI", otherwise="errno EPERM"),
        "`ioctl` is permitted where it is refused without bits that the kernel drops, as in `ioctl(fd=0, cmd=TIOCSTI (register 0x",
        [
            rule("ioctl", when="cmd != TIOCSTI", otherwise="errno EPERM"),
            rule("ioctl", when="register(cmd) in {FIONREAD, FIONBIO}", otherwise="errno EPERM"),
            rule("mmap", when="register(len) != 0", otherwise="errno EPERM"),
            rule("ioctl", when="register(5) != 7", otherwise="errno EPERM"),
        ],
    ),
    (
        "upper-bits",
        rule("socket", when="register(family) < 38 or register(family) in {39, 46}", otherwise="errno EPERM")
        + rule("openat", when="register(dfd) != 0", otherwise="errno EPERM"),
        "`openat` is permitted where it is refused without bits that the kernel drops",
        [rule("socket", when="register(family) < 38 or register(family) in {39, 46}", otherwise="errno EPERM")],
    ),
    (
        "upper-bits",  # the shape of a well-known engine's list, which a family with an upper bit passes
        rule("socket", when="register(family) < 38 or register(family) == 39 or register(family) > 45", otherwise="errno EPERM"),
        "as in `socket(family=AF_ALG (register 0x100000026), type=0, protocol=0)`",
        [],
    ),
    (
        "terminal-input",
        rule("ioctl"),
        "`ioctl(cmd=TIOCSTI)` and `ioctl(cmd=TIOCLINUX)` are permitted",
        [],
    ),
    (
        "signed-order",
        rule("setpriority", when="niceval < 5", otherwise="errno EPERM"),
        "`niceval < 5` of `setpriority`: niceval is signed, but comparisons are unsigned",
        [rule("mmap", when="len < 4096", otherwise="errno EPERM"), rule("setpriority", when="niceval in {0, 1}", otherwise="errno EPERM")],
    ),
    (
        "pid-value",
        rule("kill", when="pid == 42", otherwise="errno EPERM"),
        "`pid` of `kill` is compared with a process number",
        [rule("kill", when="pid in {0, -1}", otherwise="errno EPERM"), rule("prlimit64", when="pid == 0", otherwise="errno EPERM")],
    ),
    (
        "foreign-constant",
        rule("socket", when="family in {AF_UNIX, SOCK_RAW}", otherwise="errno EPERM"),
        "`family` of `socket` is compared with SOCK_RAW, which is none of its constants",
        [
            rule("socket", when="family in {AF_UNIX, 2}", otherwise="errno EPERM"),
            rule("setsockopt", when="level in {SOL_SOCKET, IPPROTO_TCP}", otherwise="errno EPERM"),
            rule("sched_get_priority_max", when="policy == SCHED_OTHER", otherwise="errno EPERM"),
        ],
    ),
    (
        "bypass-protection",
        rule("mmap mprotect pkey_mprotect", when="prot & PROT_EXEC == 0", otherwise="errno EPERM") + rule("shmat"),
        "`shmat` can change what memory may do where",
        [
            rule("mmap mprotect pkey_mprotect", when="prot & PROT_EXEC == 0", otherwise="errno EPERM")
            + rule("shmat", when="shmflg & SHM_EXEC == 0", otherwise="errno EPERM"),
        ],
    ),
    (
        "flag-value",
        rule("socket", "errno EPERM", when="type == SOCK_RAW") + rule("socket"),
        "`type` of `socket` may not be SOCK_RAW, but where a flag is added it may, as in `socket(family=AF_UNSPEC, type=SOCK_RAW|SOCK_CLOEXEC,",
        [
            rule("socket", "errno EPERM", when="type & 0xf == SOCK_RAW") + rule("socket"),
            rule("socket", when="type in {SOCK_STREAM, SOCK_DGRAM}", otherwise="errno EPERM"),
            rule("socket", "errno EACCES", when="type == SOCK_RAW") + rule("socket", "errno EPERM"),
            rule("socket", "errno EPERM", when="family == AF_UNIX and type == SOCK_RAW") + rule("socket", when="family != AF_UNIX", otherwise="errno EACCES"),
        ],
    ),
    (
        "flag-value",
        rule("unshare", when="flags not in {CLONE_NEWUSER, CLONE_NEWNET}", otherwise="errno EPERM"),
        "`flags` of `unshare` may not be CLONE_NEWUSER, but where a flag is added it may",
        [rule("unshare", when="flags & (CLONE_NEWUSER | CLONE_NEWNET) == 0", otherwise="errno EPERM")],
    ),
    (
        "flag-value",
        rule("mknod", "errno EPERM", when="mode == S_IFBLK") + rule("mknod"),
        "as in `mknod(filename=NULL, mode=S_IFBLK|0",
        [rule("mknod", "errno EPERM", when="mode & S_IFMT == S_IFBLK") + rule("mknod")],
    ),
    (
        "fd-value",
        rule("write", when="fd in {1, 2}", otherwise="errno EPERM"),
        "`fd` of `write` is compared with a descriptor's number",
        [rule("openat", when="dfd == AT_FDCWD", otherwise="errno EPERM"), rule("mmap", when="fd == -1", otherwise="errno EPERM")],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("id", "body", "message"), [gap[:3] for gap in GAPS], ids=[gap[0] for gap in GAPS])
def test_a_gap_is_found(id: str, body: str, message: str, tmp_path: Path) -> None:
    assert [text for found, text in findings(tmp_path, body) if found == id and message in text]


@pytest.mark.parametrize(("id", "body"), [(gap[0], body) for gap in GAPS for body in gap[3]])
def test_without_the_gap_the_lint_is_quiet(id: str, body: str, tmp_path: Path) -> None:
    assert [text for found, text in findings(tmp_path, body) if found == id] == []


@pytest.mark.parametrize("body", [gap[1] for gap in GAPS if gap[0].startswith("bypass")])
def test_the_example_of_a_way_round_is_permitted(body: str, tmp_path: Path) -> None:
    examples = [message.partition(", as in `")[2][:-1] for id, message in findings(tmp_path, body) if id.startswith("bypass")]
    policy = load_policy(str(tmp_path / "own.toml"))
    for example in examples:
        (case,) = explain_shape(policy, parse_call(example, "x86_64"))
        assert is_permitted(case.outcome), example


def test_every_kind_is_tested() -> None:
    assert {gap[0] for gap in GAPS} == set(IDS)


def test_a_list_of_refusals_is_gone_round_by_what_it_forgets(tmp_path: Path) -> None:
    """In a policy that allows by default the way round is what no rule names; its place is the default's."""
    found = [text for id, text in findings(tmp_path, rule("open openat", "errno EPERM"), default="allow") if id == "bypass-open"]
    assert [text.partition(" can ")[0] for text in found] == ["`creat`", "`open_by_handle_at`", "`openat2`"]


def test_what_is_left_to_the_default_is_not_guarded(tmp_path: Path) -> None:
    assert findings(tmp_path, rule("openat statx preadv kill")) == []


def test_the_upper_half_of_an_int_is_no_way_round(tmp_path: Path) -> None:
    """unshare's flags are 64 bits, clone's 32: bits that clone drops are no difference."""
    body = rule("clone unshare", when=PLAIN_CLONE, otherwise="errno EPERM")
    assert [id for id, _ in findings(tmp_path, body)] == []


EXCEPTIONS = {
    ("permissive", "open-personality"): "permissive permits all that is not always refused; it is for learning, and says so",
}


@pytest.mark.parametrize("name", names("policies"))
def test_shipped_policies_have_only_the_gaps_that_are_named(name: str) -> None:
    if not (data_dir("policies") / f"{name}.toml").exists():
        pytest.skip("a policy of this user's, not shipped")
    found = {(name, finding.id) for finding in lint(load_policy(name))}
    assert found == {exception for exception in EXCEPTIONS if exception[0] == name}


def test_families_name_arguments_that_exist() -> None:
    for family in FAMILIES:
        for member in family.members:
            assert known_anywhere(member.syscall), member
            for arch in Arch:
                if syscall_number(arch, member.syscall) is not None:
                    for argument in member.arguments.values():
                        assert argument_index(member.syscall, argument, arch) is not None, (member.syscall, argument)
    for syscall in (*PROBED, *BLIND):
        assert known_anywhere(syscall) and signature(syscall, Arch.X86_64) is not None


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["policy", "check", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_check_prints_sizes_and_warnings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f'{HEAD}extends = ["base"]\n' + rule("unshare"))
    status, out, _ = run(capsys, str(path))
    assert status == 0
    first, *warnings = out.splitlines()
    assert first.startswith("ok  own: ") and first.endswith(" instructions for aarch64, proven") and f"({path}, base.toml)" in first
    assert warnings[0].startswith(
        f"{path}:4: warning bypass-namespace: `unshare` can make or join namespaces where `clone` may not (base.toml:"
    )
    assert warnings[1].startswith("    clone3's flags lie in memory")
    assert run(capsys, "--strict", str(path))[0] == 1
    assert run(capsys, "--strict", "--accept", "bypass-namespace", str(path))[0] == 0
    assert run(capsys, "--accept", "bypass-namespce", str(path))[2].startswith(
        "error: unknown warning `bypass-namespce`\n\nhint: did you mean"
    )


def test_check_tells_every_mistake(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        f'{HEAD}extends = ["base"]\n\n'
        + '[[rule]]\nsyscalls = ["opennat"]\naction = "allow"\n\n'
        + '[[rule]]\nsyscalls = ["mkdir"]\naction = "allow"\n\n'
        + '[[rule]]\nsyscalls = ["socket"]\naction = "errno EPREM"\n\n'
        + '[[rule]]\nsyscalls = ["chmod"]\naction = "allow"\nwhn = "mode == 0"\n'
    )
    status, out, _ = run(capsys, str(path), "base")
    assert status == 1
    assert out.splitlines()[:8] == [
        f"wrong  {path}: 3 mistakes",
        f"  {path}:6, rule[1].syscalls[0]: unknown syscall `opennat`",
        "    hint: did you mean `openat`?",
        f"  {path}:15, rule[3].action: unknown errno `EPREM`",
        "    hint: did you mean `EPERM`?",
        f"  {path}:20, rule[4].whn: unknown key `whn`",
        "    hint: did you mean `when`?",
        out.splitlines()[7],
    ]
    assert out.splitlines()[7].startswith("ok  base: ")
    status, out, _ = run(capsys, "--json", str(path))
    (report,) = json.loads(out)
    assert status == 1 and [error["origin"].rpartition(":")[2] for error in report["errors"]] == [
        "6, rule[1].syscalls[0]", "15, rule[3].action", "20, rule[4].whn",
    ]  # fmt: skip


def test_mistakes_of_meaning_are_told_together_too(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        f'{HEAD}default = "errno ENOSYS"\n'
        + rule("socket", when="famly == AF_UNIX", otherwise="errno EPERM")
        + rule("openat")
        + rule("kill", when="sig == SIGFOO", otherwise="errno EPERM")
        + rule("openat", "errno EPERM")
        + rule("chmod", when="mode == 0")
    )
    policy, mistakes = load_or_explain(str(path))
    assert policy is None
    assert sorted((int((each.origin or "").split(":")[1].partition(",")[0]), each.message.split(";")[0]) for each in mistakes) == [
        (7, "syscall `socket` has no argument `famly`"),
        (15, "unknown constant `SIGFOO`"),
        (18, "syscall `openat` is shadowed here: line 10 of this file already decides all its calls"),
        (21, "no rule decides the calls of `chmod` for which this condition does not hold"),
    ]


@pytest.mark.parametrize(
    "text", [b"\xff", b"name = \n", b"", b'name = "own"\n', HEAD.encode() + b'extends = ["nowhere"]\n', HEAD.encode() + b"rule = 3\n"]
)
def test_a_file_that_is_no_policy_has_one_mistake(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes(text)
    policy, mistakes = load_or_explain(str(path))
    assert policy is None and len(mistakes) == 1


def test_a_mistake_below_has_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "below.toml").write_text('name = "below"\ndescription = "x"\n' + rule("nothing"))
    path = tmp_path / "own.toml"
    path.write_text(f'{HEAD}extends = ["./below.toml"]\n' + rule("mkdir"))
    _, (mistake,) = load_or_explain(str(path))
    assert mistake.message == "unknown syscall `nothing`" and "below.toml:4" in (mistake.origin or "")


def test_check_of_what_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, _, err = run(capsys, "stict")
    assert status == 125 and err.startswith("error: no policy is called `stict` in ") and "did you mean `strict`?" in err
    status, _, err = run(capsys, str(tmp_path / "none.toml"))
    assert status == 125 and err.startswith(f"error: open policy `{tmp_path}/none.toml`: No such file or directory")
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "big.toml").write_bytes(b"#" * (1 << 20) + b"\n")
    assert run(capsys, str(tmp_path / "pipe.toml"))[2].endswith("pipe.toml`: not a regular file\n")
    assert run(capsys, str(tmp_path / "big.toml"))[2].endswith("big.toml`: larger than 1048576 bytes\n")


def test_check_tells_a_policy_that_cannot_become_a_filter(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f'{HEAD}default = "errno ENOSYS"\n' + rule("mkdir"))
    status, out, _ = run(capsys, str(path))
    assert status == 1
    assert "compile policy `own` for x86_64: syscall `read` must be allowed unconditionally, the launch itself needs it" in out
