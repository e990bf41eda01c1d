"""Named constants on both architectures, and argument values back to the names that people know."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.abi.arch import Arch
from sandbox.abi.constants import constant, constant_names, decode_argument
from sandbox.abi.signatures import SIGNATURES, argument_index, signature
from sandbox.abi.tables import syscall_names
from sandbox.abi.tables.meanings import MEANINGS
from sandbox.abi.tables.values import VALUES

X86, ARM = Arch.X86_64, Arch.AARCH64


@pytest.mark.parametrize(
    ("name", "x86_64", "aarch64"),
    [
        ("AF_UNIX", 1, 1),
        ("AF_LOCAL", 1, 1),
        ("AF_VSOCK", 40, 40),
        ("SOCK_STREAM", 1, 1),
        ("SOCK_CLOEXEC", 0o2000000, 0o2000000),
        ("CLONE_NEWUSER", 0x10000000, 0x10000000),
        ("CLONE_IO", 0x80000000, 0x80000000),
        ("CLONE_INTO_CGROUP", 1 << 33, 1 << 33),
        ("TIOCSTI", 0x5412, 0x5412),
        ("TIOCLINUX", 0x541C, 0x541C),
        ("TIOCGPTN", 0x80045430, 0x80045430),
        ("FIONREAD", 0x541B, 0x541B),
        ("TCGETS2", 0x802C542A, 0x802C542A),
        ("FS_IOC_SETFLAGS", 0x40086602, 0x40086602),
        ("FICLONE", 0x40049409, 0x40049409),
        ("NS_GET_USERNS", 0xB701, 0xB701),
        ("RTC_SET_TIME", 0x4024700A, 0x4024700A),
        ("SECCOMP_IOCTL_NOTIF_RECV", 0xC0502100, 0xC0502100),
        ("UFFDIO_API", 0xC018AA3F, 0xC018AA3F),
        ("PR_SET_NO_NEW_PRIVS", 38, 38),
        ("PR_SET_PTRACER_ANY", (1 << 64) - 1, (1 << 64) - 1),
        ("F_SETLEASE", 1024, 1024),
        ("F_NOTIFY", 1026, 1026),
        ("FUTEX_LOCK_PI", 6, 6),
        ("O_DIRECT", 0o40000, 0o200000),
        ("O_DIRECTORY", 0o200000, 0o40000),
        ("O_NOFOLLOW", 0o400000, 0o100000),
        ("O_TMPFILE", 0o20200000, 0o20040000),
        ("O_CLOEXEC", 0o2000000, 0o2000000),
        ("PROT_BTI", None, 16),
        ("MAP_32BIT", 0x40, None),
        ("MAP_ANON", 0x20, 0x20),
        ("ADDR_NO_RANDOMIZE", 0x40000, 0x40000),
        ("READ_IMPLIES_EXEC", 0x400000, 0x400000),
        ("PER_LINUX32", 8, 8),
        ("MADV_HWPOISON", 100, 100),
        ("KEYCTL_JOIN_SESSION_KEYRING", 1, 1),
        ("KEY_SPEC_SESSION_KEYRING", -3, -3),
        ("SECCOMP_SET_MODE_FILTER", 1, 1),
        ("SECCOMP_FILTER_FLAG_NEW_LISTENER", 8, 8),
        ("PTRACE_TRACEME", 0, 0),
        ("PTRACE_GETREGS", 12, None),
        ("PTRACE_SEIZE", 0x4206, 0x4206),
        ("IPPROTO_ICMPV6", 58, 58),
        ("SOL_SOCKET", 1, 1),
        ("SO_ATTACH_FILTER", 26, 26),
        ("SIGSYS", 31, 31),
        ("RLIMIT_NPROC", 6, 6),
        ("IPC_CREAT", 0o1000, 0o1000),
        ("SHM_EXEC", 0o100000, 0o100000),
        ("MFD_EXEC", 16, 16),
        ("UFFD_USER_MODE_ONLY", 1, 1),
        ("PERF_FLAG_FD_CLOEXEC", 8, 8),
        ("LANDLOCK_RULE_NET_PORT", 2, 2),
        ("BPF_PROG_LOAD", 5, 5),
        ("IORING_REGISTER_RESTRICTIONS", 11, 11),
        ("MS_BIND", 4096, 4096),
        ("MNT_DETACH", 2, 2),
        ("OPEN_TREE_CLONE", 1, 1),
        ("MOUNT_ATTR_IDMAP", 0x100000, 0x100000),
        ("ARCH_SET_FS", 0x1002, None),
        ("AT_FDCWD", -100, -100),
        ("AT_REMOVEDIR", 0x200, 0x200),
        ("AT_EACCESS", 0x200, 0x200),
        ("S_ISUID", 0o4000, 0o4000),
        ("S_IFCHR", 0o020000, 0o020000),
        ("SCHED_OTHER", 0, 0),
        ("SCHED_FIFO", 1, 1),
        ("LINUX_REBOOT_MAGIC1", 0xFEE1DEAD, 0xFEE1DEAD),
        ("P_PIDFD", 3, 3),
        ("__WALL", 0x40000000, 0x40000000),
        ("AF_NOSUCH", None, None),
        ("UNIX", None, None),
        ("AF_UNIX ", None, None),
        ("AF_UNIX=1 AF_UNIX", None, None),
        ("", None, None),
    ],
)
def test_constants(name: str, x86_64: int | None, aarch64: int | None) -> None:
    assert (constant(name, X86), constant(name, ARM)) == (x86_64, aarch64)


def test_every_listed_name_is_known() -> None:
    names = constant_names()
    assert len(names) > 1800 and len(set(names)) == len(names)
    assert [name for name in names if constant(name, X86) is None and constant(name, ARM) is None] == []
    assert [name for name in names if not re.fullmatch(r"[A-Z_][A-Za-z0-9_]*", name)] == []


@pytest.mark.parametrize("arch", Arch)
def test_a_name_has_one_value(arch: Arch) -> None:
    """`constant` takes the first match in the joined text, so a name that stood twice would hide its other value."""
    words = [
        item.partition("=")[0]
        for family, text in VALUES.items()
        if "@" not in family or family.endswith(f"@{arch}")
        for item in text.split()
    ]
    assert sorted(words) == sorted(set(words))


# Older kernel headers lack the newest constants; what they do have must have our value. A mask grows with the flags that it leaves out.
HEADERS = (
    "linux/sched.h asm/ioctls.h asm/fcntl.h linux/prctl.h linux/keyctl.h linux/futex.h linux/seccomp.h "
    "linux/personality.h linux/mount.h linux/ptrace.h linux/serial.h"
)


def test_values_agree_with_installed_headers(tmp_path: Path) -> None:
    if platform.machine() != "x86_64" or not shutil.which("gcc") or not Path("/usr/include/linux/seccomp.h").exists():
        pytest.skip("needs gcc and Linux headers on x86_64")
    includes = "".join(f"#include <{header}>\n" for header in HEADERS.split())
    macros = subprocess.run(["gcc", "-E", "-dM", "-xc", "-"], input=includes, capture_output=True, text=True, check=True).stdout
    names = [name for name in constant_names() if re.search(rf"^#define {name} ", macros, re.MULTILINE) and not name.endswith("_MASK")]
    assert len(names) > 300
    program = tmp_path / "a"
    body = "".join(f'printf("{name} %lld\\n", (long long)({name}));\n' for name in names)
    text = f"{includes}#include <linux/termios.h>\nint printf(const char *, ...);\nint main(void) {{ {body} }}\n"
    subprocess.run(["gcc", "-w", "-xc", "-", "-o", str(program)], input=text, text=True, check=True)
    lines = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.splitlines()
    theirs = {name: int(value) for name, value in map(str.split, lines)}
    word = (1 << 64) - 1
    assert {name: value for name, value in theirs.items() if (constant(name, X86) or 0) & word != value & word} == {}


# --- Decoding ---


@pytest.mark.parametrize(
    ("syscall", "index", "value", "text"),
    [
        ("socket", 0, 1, "AF_UNIX"),
        ("socket", 0, 40, "AF_VSOCK"),
        ("socket", 0, 99, "99"),
        ("socket", 1, 0x80801, "SOCK_STREAM|SOCK_NONBLOCK|SOCK_CLOEXEC"),
        ("socket", 1, 0x100003, "SOCK_RAW|0x100000"),
        ("clone", 0, 0x10000011, "CLONE_NEWUSER|SIGCHLD"),
        ("clone", 0, 0, "0"),
        ("clone", 0, 0x4000, "CLONE_VFORK"),
        ("unshare", 0, 0x10020000, "CLONE_NEWNS|CLONE_NEWUSER"),
        ("unshare", 0, 1 << 63, "0x8000000000000000"),
        ("ioctl", 1, 0x5412, "TIOCSTI"),
        ("ioctl", 1, 0x5412 | 1 << 32, "TIOCSTI (register 0x100005412)"),
        ("ioctl", 1, 0xFFFFFFFF80045430, "TIOCGPTN"),
        ("ioctl", 1, 0xDEADBEEF, "0xdeadbeef"),
        ("openat", 0, (1 << 32) - 100, "AT_FDCWD"),
        ("openat", 0, (1 << 64) - 100, "AT_FDCWD"),
        ("openat", 0, 5, "5"),
        ("openat", 1, 0x7FFD00, "0x7ffd00"),
        ("openat", 1, 0, "NULL"),
        ("openat", 2, 0o2001101, "O_WRONLY|O_CREAT|O_TRUNC|O_CLOEXEC"),
        ("openat", 2, 0x1000, "O_RDONLY|O_DSYNC"),
        ("openat", 2, 0x100000, "O_RDONLY|0x100000"),
        ("openat", 2, 0x101000, "O_RDONLY|O_SYNC"),
        ("openat", 3, 0o644, "0644"),
        ("openat", 3, 0, "0"),
        ("mknod", 1, 0o020666, "S_IFCHR|0666"),
        ("mmap", 2, 7, "PROT_READ|PROT_WRITE|PROT_EXEC"),
        ("mmap", 3, 0x22, "MAP_PRIVATE|MAP_ANONYMOUS"),
        ("mmap", 4, (1 << 64) - 1, "-1"),
        ("futex", 1, 0x189, "FUTEX_WAIT_BITSET|FUTEX_PRIVATE_FLAG|FUTEX_CLOCK_REALTIME"),
        ("futex", 1, 0x80, "FUTEX_WAIT|FUTEX_PRIVATE_FLAG"),
        ("personality", 0, 0x40000, "PER_LINUX|ADDR_NO_RANDOMIZE"),
        ("personality", 0, 0xFFFFFFFF, "0xffffffff"),
        ("prctl", 0, 38, "PR_SET_NO_NEW_PRIVS"),
        ("prctl", 0, 1, "PR_SET_PDEATHSIG"),
        ("prctl", 1, 0x7FF, "0x7ff"),
        ("fcntl", 1, 1024, "F_SETLEASE"),
        ("kill", 0, (1 << 64) - 1, "-1"),
        ("kill", 1, 9, "SIGKILL"),
        ("kill", 1, 0, "0"),
        ("unlinkat", 2, 0x200, "AT_REMOVEDIR"),
        ("faccessat2", 3, 0x200, "AT_EACCESS"),
        ("mount", 3, 0xC0ED1001, "MS_MGC_VAL|MS_RDONLY|MS_BIND"),
        ("wait4", 2, 0x40000001, "WNOHANG|__WALL"),
        ("sched_setscheduler", 1, 0x40000001, "SCHED_FIFO|SCHED_RESET_ON_FORK"),
        ("keyctl", 0, 1, "KEYCTL_JOIN_SESSION_KEYRING"),
        ("ptrace", 0, 16, "PTRACE_ATTACH"),
        ("clock_settime", 0, 0, "CLOCK_REALTIME"),
        ("prlimit64", 1, 6, "RLIMIT_NPROC"),
        ("setuid", 0, (1 << 32) - 1, "-1"),
        ("read", 0, 3, "3"),
        ("read", 2, 4096, "4096"),
        ("lseek", 1, (1 << 64) - 5, "-5"),
        ("exit_group", 0, 3, "3"),
        ("rseq", 3, 0x53053053, "0x53053053"),
        ("getpid", 0, 77, "0x4d"),
        ("nosuch", 0, 77, "0x4d"),
    ],
)
def test_decode(syscall: str, index: int, value: int, text: str) -> None:
    assert decode_argument(X86, syscall, index, value) == text


@pytest.mark.parametrize(
    ("arch", "syscall", "index", "value", "text"),
    [
        (X86, "openat", 2, 0x10000, "O_RDONLY|O_DIRECTORY"),
        (ARM, "openat", 2, 0x10000, "O_RDONLY|O_DIRECT"),
        (X86, "openat", 2, 0x4000, "O_RDONLY|O_DIRECT"),
        (ARM, "openat", 2, 0x4000, "O_RDONLY|O_DIRECTORY"),
        (X86, "mmap", 3, 0x42, "MAP_PRIVATE|MAP_32BIT"),
        (ARM, "mmap", 3, 0x42, "MAP_PRIVATE|0x40"),
        (X86, "clone", 3, 0, "NULL"),
        (ARM, "clone", 3, 0, "0"),
    ],
)
def test_decode_by_architecture(arch: Arch, syscall: str, index: int, value: int, text: str) -> None:
    assert decode_argument(arch, syscall, index, value) == text


@pytest.mark.parametrize("line", MEANINGS.splitlines(), ids=lambda line: line.split()[0])
def test_meanings_name_arguments_and_families_that_exist(line: str) -> None:
    syscall, *meanings = line.split()
    families = {family.partition("@")[0] for family in VALUES} | {"octal", "dirfd", "hex"}
    for meaning in meanings:
        argument, _, how = meaning.partition("=")
        if syscall == "*":
            assert any(argument == name for arguments in SIGNATURES.values() for name, _ in arguments)
        else:
            assert argument_index(syscall, argument, X86) is not None
        parts = how[1:].split(",") if how.startswith("=") else [part.partition("&")[0] for part in how.split("|")]
        assert set(parts) <= families


CALLS = sorted(syscall_names(X86) & syscall_names(ARM))


@settings(max_examples=300, deadline=None, database=None)
@given(st.sampled_from(list(Arch)), st.sampled_from(CALLS), st.integers(0, 5), st.integers(0, (1 << 64) - 1))
def test_decode_gives_short_printable_text_for_anything(arch: Arch, syscall: str, index: int, value: int) -> None:
    text = decode_argument(arch, syscall, index, value)
    assert text.isascii() and text.isprintable() and 0 < len(text) < 1200


@settings(max_examples=300, deadline=None, database=None)
@given(st.sampled_from(list(Arch)), st.sampled_from(["clone", "openat", "socket", "mmap", "mount", "unshare", "personality"]), st.data())
def test_decoded_flags_or_together_to_the_value(arch: Arch, syscall: str, data: st.DataObject) -> None:
    """Nothing is lost and nothing is invented: the names' values or-ed are the value."""
    index = {"clone": 0, "openat": 2, "socket": 1, "mmap": 3, "mount": 3, "unshare": 0, "personality": 0}[syscall]
    value = data.draw(st.integers(0, (1 << 31) - 1))
    assert signature(syscall, arch)
    total = 0
    for word in decode_argument(arch, syscall, index, value).split("|"):
        known = constant(word, arch)
        total |= int(word, 0) if known is None else known
    assert total == value
