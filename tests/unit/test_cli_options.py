"""The option parser: GNU habits, exact errors, help that lines up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.cli.exec import OPTIONS as EXEC
from sandbox.cli.options import Option, UsageError, format_options, parse_options

OPTIONS = (
    Option(name="name", short="n", metavar="TEXT", help="a text"),
    Option(name="many", short="m", metavar="TEXT", help="several", many=True),
    Option(name="flag", short="f", help="a flag"),
    Option(name="loud", short="l", help="again and again", many=True),
    Option(name="form", metavar="[=KIND]", help="an optional value"),
    Option(name="long-only", metavar="X", help="no short form"),
)


def parse(*words: str) -> tuple[dict[str, list[str]], list[str]]:
    """Parse with the table above."""
    return parse_options(list(words), OPTIONS, "verb")


@pytest.mark.parametrize(("words", "options", "rest"), [
    ([], {}, []),
    (["a", "--flag"], {}, ["a", "--flag"]),
    (["--flag", "a", "-n"], {"flag": [""]}, ["a", "-n"]),
    (["--name", "x"], {"name": ["x"]}, []),
    (["--name=x"], {"name": ["x"]}, []),
    (["--name=x=y"], {"name": ["x=y"]}, []),
    (["--name="], {"name": [""]}, []),
    (["--name", ""], {"name": [""]}, []),
    (["--name", "--flag"], {"name": ["--flag"]}, []),
    (["--name", "--"], {"name": ["--"]}, []),
    (["-n", "x"], {"name": ["x"]}, []),
    (["-nx"], {"name": ["x"]}, []),
    (["-nx=y"], {"name": ["x=y"]}, []),
    (["-fn", "x"], {"flag": [""], "name": ["x"]}, []),
    (["-fnx"], {"flag": [""], "name": ["x"]}, []),
    (["-fl", "-lf"], None, None),
    (["-ll"], {"loud": ["", ""]}, []),
    (["-m", "1", "--many", "2", "-m3"], {"many": ["1", "2", "3"]}, []),
    (["--form"], {"form": [""]}, []),
    (["--form", "json"], {"form": [""]}, ["json"]),
    (["--form=json"], {"form": ["json"]}, []),
    (["--"], {}, []),
    (["--", "--flag"], {}, ["--flag"]),
    (["-f", "--", "--", "x"], {"flag": [""]}, ["--", "x"]),
    (["-"], {}, ["-"]),
    (["-f", "-", "-n"], {"flag": [""]}, ["-", "-n"]),
])  # fmt: skip
def test_words(words: list[str], options: dict[str, list[str]] | None, rest: list[str] | None) -> None:
    if options is None:
        with pytest.raises(UsageError, match="given twice"):
            parse(*words)
    else:
        assert parse(*words) == (options, rest)


@pytest.mark.parametrize(("words", "message", "hint"), [
    (["--nmae", "x"], "unknown option `--nmae`", "did you mean `--name`?"),
    (["--xyzzy"], "unknown option `--xyzzy`", "see `sandbox verb --help`"),
    (["--nam=x"], "unknown option `--nam`", "did you mean `--name`?"),
    (["-x"], "unknown option `-x`", None),
    (["-fx"], "unknown option `-x`", None),
    (["--name"], "option `--name` needs TEXT", "see `sandbox verb --help`"),
    (["-n"], "option `-n` needs TEXT", "see `sandbox verb --help`"),
    (["-fn"], "option `-n` needs TEXT", "see `sandbox verb --help`"),
    (["--flag=x"], "option `--flag` takes no value", None),
    (["--flag="], "option `--flag` takes no value", None),
    (["-f", "-f"], "option `-f` is given twice", None),
    (["--name", "a", "-n", "b"], "option `-n` is given twice", None),
    (["--form", "--form=x"], "option `--form` is given twice", None),
])  # fmt: skip
def test_errors(words: list[str], message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*words)
    assert caught.value.message == message
    assert caught.value.exit_code == 125
    if hint is not None:
        assert caught.value.hint == hint


@given(st.lists(st.text(max_size=8), max_size=8))
def test_any_words_parse_or_are_a_usage_error(words: list[str]) -> None:
    try:
        options, rest = parse(*words)
    except UsageError:
        return
    assert options.keys() <= {option.name for option in OPTIONS}
    assert words[len(words) - len(rest) :] == rest


@given(st.lists(st.text(), max_size=6))
def test_everything_after_two_dashes_is_untouched(words: list[str]) -> None:
    assert parse("-f", "--", *words) == ({"flag": [""]}, words)


def test_help_lines_up() -> None:
    lines = format_options(OPTIONS)
    assert lines[0] == "  -n, --name TEXT  a text"
    assert lines[4] == "  --form[=KIND]    an optional value"
    assert {line.index(option.help) for line, option in zip(lines, OPTIONS, strict=True)} == {19}


def test_options_of_exec_are_sound() -> None:
    names = [option.name for option in EXEC]
    shorts = [option.short for option in EXEC if option.short]
    assert len(set(names)) == len(names) and len(set(shorts)) == len(shorts)
    for option in EXEC:
        assert option.help and not option.help.endswith(".") and option.help[0].islower()
        assert len(option.short) <= 1
