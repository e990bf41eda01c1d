"""The shipped groups divide the syscalls without rest, and a damaged file is refused with its line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sandbox.abi.arch import Arch
from sandbox.abi.tables import syscall_names
from sandbox.errors import PolicyError
from sandbox.policy.groups import groups_path, load_groups, primary_group, read_groups

EVERY_SYSCALL = sorted(syscall_names(Arch.X86_64) | syscall_names(Arch.AARCH64))


def test_every_syscall_is_in_exactly_one_group() -> None:
    placed = [syscall for group in load_groups().values() for syscall in group.syscalls]
    assert sorted(placed) == EVERY_SYSCALL


def test_groups_are_named_explained_and_placed() -> None:
    lines = Path(groups_path()).read_text().splitlines()
    for name, group in load_groups().items():
        assert lines[group.line - 1] == f"[{name}]" == f"[{group.name}]"
        assert group.help[0].isupper() and not group.help.endswith(".")
        assert list(group.syscalls) == sorted(group.syscalls)


@pytest.mark.parametrize(
    ("syscall", "group"),
    [
        ("clock_settime", "clock"),
        ("adjtimex", "clock"),
        ("clock_gettime", "time"),
        ("io_uring_enter", "io-uring"),
        ("unshare", "namespace"),
        ("open_tree_attr", "mount"),
        ("open_by_handle_at", "handle"),
        ("process_vm_readv", "ptrace"),
        ("pidfd_getfd", "ptrace"),
        ("userfaultfd", "userfaultfd"),
        ("vmsplice", "splice"),
        ("rseq_slice_yield", "thread"),
    ],
)
def test_primary_group(syscall: str, group: str) -> None:
    assert primary_group(syscall) == group


def test_primary_group_of_no_syscall() -> None:
    with pytest.raises(KeyError):
        primary_group("clock_set_time")


GOOD = '[a]\nhelp = "Reads"\nsyscalls = ["read"]\n'


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        (GOOD + '[b]\nhelp = "Writes"\nsyscalls = ["write", "read"]\n', "syscall `read` is in @a and in @b", 6),
        (GOOD + '[b]\nhelp = "Writes"\nsyscalls = ["writ"]\n', "unknown syscall `writ` in @b", 6),
        (GOOD + '[b]\nhelp = "Writes"\nsyscall = ["write"]\n', "unknown key `syscall` in @b: a group has help and syscalls", 6),
        (GOOD + '[b]\nsyscalls = ["write"]\n', "@b needs `help`, one line of text", 4),
        (GOOD + '[b]\nhelp = "Writes"\nsyscalls = []\n', "@b needs `syscalls`, a list of names", 6),
        (GOOD + '[b]\nhelp = "Writes"\nsyscalls = [1]\n', "@b needs `syscalls`, a list of names", 6),
        (GOOD + '[B_]\nhelp = "Writes"\nsyscalls = ["write"]\n', "`B_` is not a group: a table with a lower-case name is needed", 4),
        ("a = 1\n", "`a` is not a group: a table with a lower-case name is needed", 1),
    ],
)
def test_damaged_file(tmp_path: Path, text: str, message: str, line: int) -> None:
    path = tmp_path / "groups.toml"
    path.write_text(text)
    with pytest.raises(PolicyError) as caught:
        read_groups(str(path))
    assert (caught.value.message, caught.value.origin) == (message, f"{path}:{line}")


def test_no_toml_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "groups.toml"
    with pytest.raises(PolicyError, match=r"No such file or directory \(ENOENT\)"):
        read_groups(str(path))
    path.write_text("[a]\nhelp = \n")
    with pytest.raises(PolicyError) as caught:
        read_groups(str(path))
    assert caught.value.origin == f"{path}:2"


def test_unknown_syscall_hints_at_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "groups.toml"
    path.write_text('[b]\nhelp = "Writes"\nsyscalls = ["clock_setime"]\n')
    with pytest.raises(PolicyError) as caught:
        read_groups(str(path))
    assert caught.value.hint == "did you mean `clock_settime`?"


def test_the_order_of_members_does_not_depend_on_hashing() -> None:
    """A policy's digest covers the groups' members: two processes must see them in the same order."""
    import subprocess

    program = "from sandbox.policy.groups import load_groups; print([g.syscalls for g in load_groups().values()])"
    runs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(runs) == 1
