"""Files that run by themselves: that a shell, git, an editor, a login or another program executes or obeys without being asked to run that file.

A program in a sandbox that can leave one in a tree waits for its user to work there: the usual way out of an agent's sandbox. What somebody runs on purpose
(a Makefile, a test, `package.json`'s scripts) is not meant: that is what the tree is for. Pure; only this floor imports it.
"""

from __future__ import annotations

import os

from sandbox.changes.model import Change, Kind, Type

_SHELLS = "a shell reads it when it starts"
_NAMES = {
    ".bashrc": _SHELLS, ".bash_profile": _SHELLS, ".bash_login": _SHELLS, ".bash_logout": _SHELLS, ".bash_aliases": _SHELLS, ".profile": _SHELLS,
    ".login": _SHELLS, ".cshrc": _SHELLS, ".tcshrc": _SHELLS, ".kshrc": _SHELLS, ".mkshrc": _SHELLS, ".xonshrc": _SHELLS,
    ".zshrc": _SHELLS, ".zshenv": _SHELLS, ".zprofile": _SHELLS, ".zlogin": _SHELLS, ".zlogout": _SHELLS, ".inputrc": "every line editor obeys it",
    ".envrc": "direnv executes it", ".mise.toml": "mise executes parts of it", "mise.toml": "mise executes parts of it", ".autoenv": "autoenv executes it",
    ".env.fish": _SHELLS, ".gdbinit": "gdb executes it", ".lldbinit": "lldb executes it", ".vimrc": "vim executes it", ".gvimrc": "vim executes it",
    ".exrc": "vi executes it", ".nvimrc": "nvim executes it", ".nvim.lua": "nvim executes it", ".lvimrc": "vim executes it",
    ".dir-locals.el": "emacs obeys it", ".emacs": "emacs executes it", ".tmux.conf": "tmux executes parts of it", ".screenrc": "screen obeys it",
    ".pythonrc": "python executes it", "sitecustomize.py": "every python executes it", "usercustomize.py": "every python executes it",
    ".gitconfig": "git executes what it names", ".gitmodules": "git fetches what it names", ".pre-commit-config.yaml": "a git hook executes what it names",
    ".lefthook.yml": "a git hook executes what it names", "lefthook.yml": "a git hook executes what it names",
    ".pam_environment": "every login obeys it",
    ".Rprofile": "R executes it", ".ghci": "ghci executes it", ".irbrc": "irb executes it", ".pryrc": "pry executes it", ".pdbrc": "pdb executes it",
    ".octaverc": "octave executes it",
    ".xprofile": "every login executes it", ".xinitrc": "every login executes it", ".xsession": "every login executes it",
    ".Xresources": "every login obeys it", ".netrc": "it holds passwords for hosts", ".npmrc": "npm obeys it, and executes what it names",
    ".yarnrc": "yarn executes what it names",
    ".yarnrc.yml": "yarn executes what it names", ".pnpmfile.cjs": "pnpm executes it", ".curlrc": "curl obeys it", ".wgetrc": "wget obeys it",
    ".ssh": "ssh obeys what is in it", ".pypirc": "it holds passwords for hosts", ".mcp.json": "an agent starts what it names",
}  # fmt: skip
_BELOW = {
    ".git/hooks": "git executes it", ".husky": "a git hook executes it", ".githooks": "a git hook executes it", ".ssh": "ssh obeys it",
    ".vscode": "the editor executes what it names", ".idea": "the editor executes what it names", ".zed": "the editor executes what it names",
    ".devcontainer": "the editor executes what it names", ".fleet": "the editor executes what it names", ".cursor": "an agent obeys it",
    ".claude": "an agent obeys it", ".config/fish": _SHELLS, ".config/autostart": "every login executes it",
    ".config/systemd": "every login executes it", ".config/environment.d": "every login obeys it", ".config/git": "git executes what it names",
    ".config/nvim": "nvim executes it", ".emacs.d": "emacs executes it", ".vim": "vim executes it", ".cargo": "cargo executes what it names",
    ".local/bin": "it may stand before a program of that name", ".local/share/systemd": "every login executes it", ".config/direnv": "direnv executes it",
    ".hg": "hg executes what its hgrc names",
    ".config/pip": "pip obeys it", ".local/share/applications": "the desktop executes it", ".oh-my-zsh": _SHELLS, ".bashrc.d": _SHELLS,
}  # fmt: skip
_GIT_FILES = {
    "config": "git executes what it names", "config.worktree": "git executes what it names", "info/attributes": "git runs filters that it names",
    "commondir": "git takes another repository's hooks by it",
}  # fmt: skip
_PACKAGES = ("site-packages", "dist-packages")
_GIT_OWN = ("HEAD", "refs", "logs", "modules", "worktrees", "rebase-merge", "rebase-apply")
"""Where a repository has files called HEAD that make none of another directory."""


def why_autorun(change: Change, tree: str = "", search: str = "", *, bare: bool = False) -> str:
    """Return what would run a file without being asked, or nothing.

    Args:
        change: what became of it; nothing runs what is gone.
        tree: the path of the tree, for names that count only at a place.
        search: the caller's PATH.
        bare: its directory is a repository whatever its name, see `may_be_of_bare`.
    """
    after = change.after
    if after is None or after.type is Type.DIRECTORY or change.kind is Kind.DELETED:
        return ""
    parts = change.path.split("/")
    whole = [part for part in tree.split("/") if part] + parts
    if reason := _git(whole) or (bare and _git(["x.git", *may_be_of_bare(change.path)[1]])):
        return reason
    if after.type is Type.SYMLINK and (reason := _link(whole, search)):
        return reason
    for count in range(1, len(whole)):
        for size in (1, 2, 3):
            found = _BELOW.get("/".join(whole[max(0, count - size) : count]))
            if found and size <= count and not (found == "git executes it" and parts[-1].endswith(".sample")):
                return found
    name = parts[-1]
    if name in _NAMES:
        return _NAMES[name]
    if name.endswith(".pth") and len(whole) > 1 and whole[-2] in _PACKAGES:
        return "every python executes it"
    if name == ".git":
        return "git takes another repository by it"
    directory = os.path.dirname(os.path.join(tree, change.path)) if tree else ""
    if directory and after.mode & 0o111 and directory in search.split(":"):
        return "its directory is on your PATH"
    return ""


def hooks_of(config: str) -> list[str]:
    """Return the directories below a repository's top that its configuration says have its hooks."""
    found = []
    for line in config.splitlines():
        key, equals, value = line.rpartition("]")[2].partition("=")
        path = value.strip().strip('"').removeprefix("./").strip("/")
        if equals and key.strip().lower() == "hookspath" and path and not value.strip().strip('"').startswith(("/", "~")):
            found.append(path)
    return found


def may_be_of_bare(path: str) -> tuple[str, list[str]]:
    """Return the directory that would be the repository and the path in it, where git obeys such a file of one; else two empty ones."""
    parts = path.split("/")
    for size in (1, 2):
        below = parts[-size:]
        if len(below) == size and ("/".join(below) in _GIT_FILES or (size == 2 and below[0] == "hooks")):
            return "/".join(parts[:-size]), below
    return "", []


def _git(whole: list[str]) -> str:
    """Say it of a file of a repository, whose directory may have any name: `.git`, or `x.git` of a bare one, or below `.git/modules`."""
    for count, part in enumerate(whole[:-1]):
        if part == ".git" or part.endswith(".git"):
            below = whole[count + 1 :]
            if below[0] in ("modules", "worktrees") and len(below) > 2:
                below = next((below[at:] for at in range(2, len(below)) if below[at] in ("hooks", "info") or below[at] in _GIT_FILES), below)
            if below[0] == "hooks" and len(below) > 1 and not below[-1].endswith(".sample"):
                return "git executes it"
            found = _GIT_FILES.get("/".join(below))
            if found:
                return found
    if whole[-1] == "HEAD" and not any(
        (part == ".git" or part.endswith(".git")) and whole[count + 1] in _GIT_OWN for count, part in enumerate(whole[:-1])
    ):
        return "git takes its directory for a repository, and executes what a `config` beside it names"
    return ""


def _link(whole: list[str], search: str) -> str:
    """Say it of a link in the place of a directory: what it leads to is found there, whatever its own name."""
    if any(part == ".git" or part.endswith(".git") for part in whole[:-1]):
        return "git follows it"
    if whole[-1] in _PACKAGES:
        return "every python executes what is there"
    for place, reason in _BELOW.items():
        parts = place.split("/")
        if any(whole[-size:] == parts[:size] for size in range(1, len(parts) + 1)):
            return f"it leads elsewhere than to `{place}`, where {reason}"
    path = "/" + "/".join(whole)
    if any(entry == path or entry.startswith(path + "/") for entry in search.split(":")):
        return "your PATH leads through it"
    return ""


__all__ = ["hooks_of", "may_be_of_bare", "why_autorun"]
