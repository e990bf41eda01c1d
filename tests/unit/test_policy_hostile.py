"""A stranger's policy file: it can neither hold the tools up, nor exhaust them, nor write to a terminal what it likes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sandbox.cli.main import main
from sandbox.errors import PolicyError
from sandbox.policy.lines import scan_lines
from sandbox.policy.load import load_policy
from sandbox.policy.toml_source import key_lines

HEAD = 'name = "{0}"\ndescription = "d"\n'
MANY = 300_000


@pytest.mark.parametrize("text", ['["{0}x"]\na = 1\n', "[a{0}. b]\nc = 1\n", "[[a{0}]]\nc = 1\n", "a{0}= 1\n"])
def test_a_name_with_very_many_blanks_is_read_in_one_pass(text: str) -> None:
    # A pattern that goes back for each of them would need an hour.
    text = text.replace("{0}", " " * MANY)
    assert [table.line for table in scan_lines(text)] == ([1, 1] if text[0] == "[" else [1])
    assert min(key_lines(text).values()) == 1


def chain(tmp_path: Path, length: int) -> str:
    for at in range(length):
        extends = f"./p{at + 1}.toml" if at + 1 < length else "base"
        (tmp_path / f"p{at}.toml").write_text(HEAD.format(f"p{at}") + f'extends = ["{extends}"]\n')
    return str(tmp_path / "p0.toml")


def test_a_chain_of_files_has_an_end(tmp_path: Path) -> None:
    assert len(load_policy(chain(tmp_path, 31), check=False).stack) == 32
    with pytest.raises(PolicyError, match="policies extend each other more than 32 deep") as caught:
        load_policy(chain(tmp_path, 2000), check=False)
    assert (caught.value.origin or "").endswith("p31.toml:3, extends")


def test_a_file_extends_a_bounded_number_of_others_and_a_stack_opens_a_bounded_number_of_files(tmp_path: Path) -> None:
    path = tmp_path / "wide.toml"
    path.write_text(HEAD.format("wide") + f"extends = [{', '.join(repr(f'./{at}.toml') for at in range(65))}]\n")
    with pytest.raises(PolicyError, match="more than 64 policies are extended"):
        load_policy(str(path))
    # Each file of a level extends the next level's twenty: 20^6 ways down, though there are 120 files.
    for level in range(6):
        for at in range(20):
            below = ", ".join(f'"./l{level + 1}-{each}.toml"' for each in range(20)) if level < 5 else '"base"'
            (tmp_path / f"l{level}-{at}.toml").write_text(HEAD.format(f"l{level}-{at}") + f"extends = [{below}]\n")
    with pytest.raises(PolicyError, match="policies extend each other more than 512 times"):
        load_policy(str(tmp_path / "l0-0.toml"), check=False)


NASTY = "a\x9b31m \u202eb"


def test_a_listed_policy_cannot_steer_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sandbox" / "policies"
    folder.mkdir(parents=True)
    text = f'name = "own"\ndescription = "{NASTY}"\nextends = ["base"] # {NASTY}\n\t\n'
    (folder / "own.toml").write_text(text)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert main(["policies"]) == 0
    assert "a\\x9b31m \\u202eb" in capsys.readouterr().out
    assert main(["policies", "own"]) == 0
    assert capsys.readouterr().out == text  # for a program it is the file
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["policies", "own"]) == 0
    assert capsys.readouterr().out == text.replace(NASTY, "a\\x9b31m \\u202eb")


@pytest.mark.parametrize("path", ["/dev/zero", "/"])
def test_what_is_listed_is_a_regular_file_of_a_policys_size(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policies", path]) == 125
    assert capsys.readouterr().err.startswith(f"error: read `{path}`: ")
