"""Syscall numbers, signatures and architecture words: against the headers of this machine, libseccomp and facts known by heart."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sandbox.abi import signatures
from sandbox.abi.arch import X32_SYSCALL_BIT, Arch, audit_arch, native_arch
from sandbox.abi.tables import known_anywhere, syscall_name, syscall_names, syscall_number, syscall_table

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- Architectures ---


def test_audit_words() -> None:
    assert audit_arch(Arch.X86_64) == 62 | 0x8000_0000 | 0x4000_0000
    assert audit_arch(Arch.AARCH64) == 183 | 0x8000_0000 | 0x4000_0000


@pytest.mark.parametrize(("machine", "arch"), [("x86_64", Arch.X86_64), ("aarch64", Arch.AARCH64)])
def test_native_arch(machine: str, arch: Arch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.uname", lambda: type("u", (), {"machine": machine}))
    assert native_arch() is arch


@pytest.mark.parametrize("machine", ["i686", "armv7l", "riscv64", "X86_64", ""])
def test_native_arch_of_another_machine(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.uname", lambda: type("u", (), {"machine": machine}))
    with pytest.raises(ValueError, match="not supported: only x86_64, aarch64"):
        native_arch()


# --- Numbers ---


@pytest.mark.parametrize(
    ("name", "x86_64", "aarch64"),
    [
        ("read", 0, 63),
        ("openat", 257, 56),
        ("open", 2, None),
        ("clone", 56, 220),
        ("clone3", 435, 435),
        ("newfstatat", 262, 79),
        ("fstat", 5, 80),
        ("fcntl", 72, 25),
        ("mmap", 9, 222),
        ("renameat", 264, 38),
        ("getrlimit", 97, 163),
        ("memfd_secret", 447, 447),
        ("uprobe", 336, None),
        ("mseal", 462, 462),
        ("open_tree_attr", 467, 467),
        ("file_getattr", 468, 468),
        ("listns", 470, 470),
        ("rseq_slice_yield", 471, 471),
        ("mmap2", None, None),
        ("socketcall", None, None),
        ("", None, None),
    ],
)
def test_numbers(name: str, x86_64: int | None, aarch64: int | None) -> None:
    assert (syscall_number(Arch.X86_64, name), syscall_number(Arch.AARCH64, name)) == (x86_64, aarch64)
    assert known_anywhere(name) == (x86_64 is not None or aarch64 is not None)


@pytest.mark.parametrize("arch", Arch)
def test_names_and_numbers_are_one_to_one(arch: Arch) -> None:
    assert all(syscall_name(arch, number) == name for name, number in syscall_table(arch).items())
    assert syscall_name(arch, 4096) is None


@pytest.mark.parametrize("number", [512, 547, X32_SYSCALL_BIT, X32_SYSCALL_BIT | 1])
def test_x32_numbers_have_no_name(number: int) -> None:
    assert syscall_name(Arch.X86_64, number) is None


def test_x86_64_numbers_agree_with_the_installed_header() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    theirs = re.findall(r"^#define __NR_(\w+)\s+(\d+)$", header.read_text(), re.MULTILINE)
    assert len(theirs) > 300
    # The installed headers may be newer than the tables; a number that both have must be the same call.
    ours = syscall_table(Arch.X86_64)
    newest = max(ours.values())
    assert {name: int(number) for name, number in theirs if ours.get(name) != int(number) and int(number) <= newest} == {}


def test_aarch64_numbers_agree_with_the_generic_header() -> None:
    header = Path("/usr/include/asm-generic/unistd.h")
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    text = header.read_text()
    # `__NR3264_x` is what a 32-bit and a 64-bit machine call differently; the 64-bit name comes first.
    wide = dict(re.findall(r"^#define __NR3264_(\w+)\s+(\d+)$", text, re.MULTILINE))
    theirs = dict(re.findall(r"^#define __NR_(\w+)\s+(\d+)$", text, re.MULTILINE))
    names = re.findall(r"^#define __NR_(\w+) __NR3264_(\w+)$", text, re.MULTILINE)
    theirs = {name: wide[alias] for name, alias in reversed(names) if alias in wide} | theirs
    both = {name: int(number) for name, number in theirs.items() if name in syscall_names(Arch.AARCH64)}
    assert len(both) > 250
    assert {name: number for name, number in both.items() if syscall_number(Arch.AARCH64, name) != number} == {}


@pytest.mark.parametrize("arch", Arch)
def test_numbers_agree_with_libseccomp(arch: Arch) -> None:
    pyseccomp = pytest.importorskip("pyseccomp")
    token = {Arch.X86_64: pyseccomp.Arch.X86_64, Arch.AARCH64: pyseccomp.Arch.AARCH64}[arch]
    known = {}
    for name in sorted(syscall_names(Arch.X86_64)):
        try:
            number = pyseccomp.resolve_syscall(token, name)
        except Exception:
            continue
        if number >= 0:  # negative: a pseudo number for a call that the architecture lacks
            known[name] = number
    assert len(known) > 280
    assert {name: (number, syscall_number(arch, name)) for name, number in known.items() if syscall_number(arch, name) != number} == {}


def test_only_the_asked_table_is_imported() -> None:
    """The run path pays for one architecture and for no signatures."""
    import subprocess

    program = (
        "import sys; from sandbox.abi.arch import Arch; from sandbox.abi.tables import syscall_number;"
        "syscall_number(Arch.AARCH64, 'read');"
        "print(sorted(m for m in sys.modules if m.startswith('sandbox.abi.tables.')))"
    )
    done = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['sandbox.abi.tables.aarch64']"


# --- The generator ---

TABLE = """\
# comment
0\tcommon\tread\tsys_read
1\t64\twrite\tsys_write  # trailing comment
2\t64\tuselib
25\t32\tfcntl64\tsys_fcntl64
25\t64\tfcntl\tsys_fcntl
38\trenameat renameat\tsys_renameat
244\tarc\tcacheflush\tsys_cacheflush
447\tmemfd_secret\tmemfd_secret\tsys_memfd_secret
512\tx32\trt_sigaction\tcompat_sys_rt_sigaction
"""


def test_generator_takes_the_right_columns() -> None:
    parse = script("generate_tables").parse_source
    common = {"read": 0, "write": 1, "uselib": 2, "fcntl": 25}
    assert parse(TABLE, "x86_64") == common
    assert parse(TABLE, "aarch64") == common | {"renameat": 38, "memfd_secret": 447}
    assert parse("#define __NR_read 0\n#define __NR_write 1\n#define __NR_syscalls_x __NR_read\n", "x86_64") == {"read": 0, "write": 1}


@pytest.mark.parametrize("text", ["", "0 x32 read\n", "0 common read\n0 common write\n", "0 common read\n1 common read\n"])
def test_generator_refuses_a_table_that_cannot_be(text: str) -> None:
    with pytest.raises(ValueError, match=r"no syscalls|more than once"):
        script("generate_tables").parse_source(text, "x86_64")


@pytest.mark.parametrize("arch", Arch)
def test_tables_are_as_the_generator_writes_them(arch: Arch) -> None:
    generator = script("generate_tables")
    path = ROOT / "sandbox" / "abi" / "tables" / f"{arch}.py"
    namespace: dict[str, object] = {}
    exec(path.read_text(), namespace)
    assert generator.render_module(arch, syscall_table(arch), namespace["LINUX"]) == path.read_text()


# --- Signatures ---


@pytest.mark.parametrize("arch", Arch)
def test_every_syscall_has_a_signature(arch: Arch) -> None:
    for name in syscall_names(arch):
        arguments = signatures.signature(name, arch)
        assert len(arguments) <= 6, name
        assert len({argument for argument, _ in arguments}) == len(arguments), name
        for index, (argument, c_type) in enumerate(arguments):
            assert argument.isidentifier(), name
            assert signatures.type_mask(c_type) in (0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF), name
            assert signatures.argument_index(name, argument, arch) == index, name
            assert signatures.is_pointer(name, index, arch) == ("*" in c_type), name


def test_no_signature_is_left_over() -> None:
    assert set(signatures.SIGNATURES) == syscall_names(Arch.X86_64) | syscall_names(Arch.AARCH64)
    assert len(signatures.SIGNATURES) == len(set(signatures.SIGNATURES))


@pytest.mark.parametrize(
    ("name", "argument", "index", "bits", "mask"),
    [
        # Each of these compared in 64 bits has been, or would be, a bypass.
        ("ioctl", "cmd", 1, 32, 0xFFFF_FFFF),
        ("socket", "family", 0, 32, 0xFFFF_FFFF),
        ("personality", "personality", 0, 32, 0xFFFF_FFFF),
        ("prctl", "option", 0, 32, 0xFFFF_FFFF),
        ("keyctl", "option", 0, 32, 0xFFFF_FFFF),
        ("clone", "flags", 0, 32, 0xFFFF_FFFF),
        ("fcntl", "cmd", 1, 32, 0xFFFF_FFFF),
        ("futex", "op", 1, 32, 0xFFFF_FFFF),
        ("kill", "pid", 0, 32, 0xFFFF_FFFF),
        ("ptrace", "pid", 1, 32, 0xFFFF_FFFF),
        ("mmap", "fd", 4, 32, 0xFFFF_FFFF),
        ("writev", "fd", 0, 32, 0xFFFF_FFFF),
        ("mbind", "mode", 2, 32, 0xFFFF_FFFF),
        ("quotactl", "id", 2, 32, 0xFFFF_FFFF),
        ("add_key", "ringid", 4, 32, 0xFFFF_FFFF),
        ("timer_settime", "timer_id", 0, 32, 0xFFFF_FFFF),
        ("landlock_add_rule", "rule_type", 1, 32, 0xFFFF_FFFF),
        ("chmod", "mode", 1, 32, 0xFFFF),
        ("openat", "mode", 3, 32, 0xFFFF),
        # And these are compared whole.
        ("ioctl", "arg", 2, 64, 0xFFFF_FFFF_FFFF_FFFF),
        ("ptrace", "request", 0, 64, 0xFFFF_FFFF_FFFF_FFFF),
        ("unshare", "flags", 0, 64, 0xFFFF_FFFF_FFFF_FFFF),
        ("mmap", "prot", 2, 64, 0xFFFF_FFFF_FFFF_FFFF),
        ("mprotect", "prot", 2, 64, 0xFFFF_FFFF_FFFF_FFFF),
        ("mount", "flags", 3, 64, 0xFFFF_FFFF_FFFF_FFFF),
        ("read", "count", 2, 64, 0xFFFF_FFFF_FFFF_FFFF),
        ("fanotify_mark", "mask", 2, 64, 0xFFFF_FFFF_FFFF_FFFF),
        ("lseek", "offset", 1, 64, 0xFFFF_FFFF_FFFF_FFFF),
    ],
)
def test_widths(name: str, argument: str, index: int, bits: int, mask: int) -> None:
    assert signatures.argument_index(name, argument) == index
    assert signatures.argument_bits(name, index) == bits
    assert signatures.argument_mask(name, index) == mask


def test_clone_differs_by_architecture() -> None:
    places = [[signatures.argument_index("clone", name, arch) for name in ("flags", "tls", "child_tid")] for arch in Arch]
    assert places == [[0, 4, 3], [0, 3, 4]]
    assert signatures.argument_index("clone", "tls") is None
    assert signatures.argument_bits("clone", 3) == 64
    assert not signatures.is_pointer("clone", 3)


def test_arguments_that_are_not_there() -> None:
    assert signatures.argument_index("socket", "domain") is None
    assert signatures.argument_bits("getpid", 0) == 64
    assert signatures.argument_mask("read", 5) == 0xFFFF_FFFF_FFFF_FFFF
    with pytest.raises(KeyError):
        signatures.signature("nosuch", Arch.X86_64)


def test_arguments_whose_type_another_argument_decides() -> None:
    found = {
        (name, argument) for name, arguments in signatures.SIGNATURES.items() for argument, c_type in arguments if c_type == "per-command"
    }
    assert {("ioctl", "arg"), ("fcntl", "arg"), ("prctl", "arg2"), ("keyctl", "arg2"), ("semctl", "arg")} <= found
    assert all(signatures.is_per_command(name, signatures.argument_index(name, argument) or 0) for name, argument in found)
    assert not signatures.is_per_command("ioctl", 1)


def test_pointers() -> None:
    assert signatures.is_pointer("openat", 1) and signatures.is_pointer("clone3", 0) and signatures.is_pointer("capset", 1)
    assert not signatures.is_pointer("openat", 0) and not signatures.is_pointer("getpid", 0)


def test_an_unknown_type_is_no_width() -> None:
    with pytest.raises(KeyError):
        signatures.type_mask("short")
