"""Files that run by themselves: which names are told, and that git does execute what two of them lead to."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sandbox.changes.autorun import hooks_of, may_be_of_bare, why_autorun
from sandbox.changes.model import Change, Facts, Kind, Type


def change(path: str, kind: Type = Type.FILE, mode: int = 0o644) -> Change:
    """Return an added file."""
    facts = Facts(type=kind, mode=mode, size=1, mtime_ns=0, device=1, inode=2, ctime_ns=0)
    return Change(tree=0, path=path, kind=Kind.ADDED, after=facts)


@pytest.mark.parametrize(
    "path",
    [
        ".git/hooks", ".git/info", ".git/modules", ".git/modules/lib", "bare.git/hooks", ".vscode", ".husky", ".config", "home/.config/fish", ".local",
        ".local/bin", "v/lib/python3.11/site-packages", ".ssh", ".git", ".hg",
    ],
)  # fmt: skip
def test_a_link_in_the_place_of_a_directory_that_something_obeys_is_told(path: str) -> None:
    """What it leads to has an innocent name: `.git/hooks -> ../fine`, and `fine/pre-commit`."""
    assert why_autorun(change(path, Type.SYMLINK))
    assert not why_autorun(change("fine/pre-commit", mode=0o755))


def test_a_link_on_the_way_of_the_path_is_told() -> None:
    link = change("bin", Type.SYMLINK)
    assert why_autorun(link, "/home/u", "/usr/bin:/home/u/bin") and why_autorun(link, "/home/u", "/home/u/bin/tools")
    assert not why_autorun(link, "/home/u", "/usr/bin:/home/u/binary")


@pytest.mark.parametrize("path", ["HEAD", "b/HEAD", "x.git/y/HEAD", ".git/y/HEAD"])
def test_what_makes_a_directory_a_repository_is_told(path: str) -> None:
    assert "repository" in why_autorun(change(path))


@pytest.mark.parametrize(
    "path",
    [
        ".git/HEAD", ".git/logs/HEAD", ".git/logs/refs/remotes/origin/HEAD", ".git/refs/remotes/origin/HEAD", ".git/modules/a/HEAD",
        ".git/worktrees/a/HEAD", "x.git/HEAD", "a/HEADER", ".git/objects/12/34", ".git/index", ".git/hooks/pre-commit.sample",
    ],
)  # fmt: skip
def test_what_git_writes_every_day_is_not(path: str) -> None:
    assert not why_autorun(change(path))


@pytest.mark.parametrize(("path", "below"), [("b/config", "config"), ("b/hooks/pre-commit", "hooks/pre-commit"), ("b/info/attributes", "info/attributes")])
def test_files_of_a_repository_of_any_name_are_told_once_it_is_one(path: str, below: str) -> None:
    assert may_be_of_bare(path) == ("b", below.split("/"))
    assert why_autorun(change(path), bare=True) and not why_autorun(change(path))
    assert may_be_of_bare("b/other") == ("", [])


@pytest.mark.parametrize("path", [".git/worktrees/w/commondir", ".git/modules/a/b/config", ".git/worktrees/w/config.worktree", ".hg/hgrc", "a/.Rprofile"])
def test_other_files_that_something_obeys(path: str) -> None:
    assert why_autorun(change(path))


def _git(where: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=where, check=True, capture_output=True, timeout=300)


def test_git_executes_through_a_link_and_from_a_directory_called_anything(tmp_path: Path) -> None:
    """Without the two rules above these would be applied without a word."""
    top = tmp_path / "t"
    top.mkdir()
    _git(top, "init", "-q")
    (top / ".git/hooks").rename(top / ".git/old")
    (top / ".git/hooks").symlink_to("../fine")
    (top / "fine").mkdir()
    (top / "fine/pre-commit").write_text(f"#!/bin/sh\ntouch {tmp_path}/one\n")
    (top / "fine/pre-commit").chmod(0o755)
    _git(top, "commit", "-q", "--allow-empty", "-m", "x")
    assert (tmp_path / "one").exists()
    bare = top / "b"
    for name in ("objects", "refs"):
        (bare / name).mkdir(parents=True)
    (bare / "HEAD").write_text("ref: refs/heads/main\n")
    (bare / "config").write_text(f'[core]\nrepositoryformatversion=0\nbare=false\nworktree=..\nfsmonitor="touch {tmp_path}/two;"\n')
    _git(bare, "status")
    assert (tmp_path / "two").exists()


def test_where_a_configuration_says_that_hooks_are() -> None:
    assert hooks_of('[core]\n\tbare = false\n\thooksPath = ./tools/hooks/\n') == ["tools/hooks"]
    assert hooks_of('[core] HooksPath = "a b"\n') == ["a b"]
    assert hooks_of("[core]\nhooksPath = /etc/hooks\n[x]\nhooks = y\nhooksPath = ~/h\nhooksPath =\n") == []
