"""What a `Sandbox` keeps of a run for the next one: never longer than it may, and never for another call."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox import Sandbox
from sandbox.api import call as calling
from sandbox.api import recipe as recipes
from sandbox.api.call import Call
from sandbox.api.prepare import Command, Prepared, prepare
from sandbox.api.requesting import build_request, inner_argv
from sandbox.api.tables import ANY_ID, build_table, generalize, placeholder
from sandbox.errors import PolicyError, SandboxError
from sandbox.plan.codec import HEADER, ROW, Op, Table
from sandbox.plan.steps import Plan


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    """Return the commands for which the host was looked at."""
    seen: list[Command] = []

    def look(command: Command) -> Prepared:
        seen.append(command)
        return prepare(command)

    monkeypatch.setattr(calling, "prepare", look)
    return seen


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with Sandbox() as made:
        yield made


def ask(box: Sandbox, *argv: str, **options: object) -> Call:
    return box._prepare(argv or ("true",), options)  # type: ignore[arg-type]


def table(call: Call) -> bytes:
    """Return what a spawned run of a call would execute, its id taken out."""
    prepared = call.prepared
    assert prepared.kept is not None
    request = generalize(build_request(prepared, outside_id=-1, cgroup=None), prepared.run_id)
    found = prepared.kept.find("test", lambda: build_table(request))
    return prepared.kept.fill("test", found, prepared.command.files, inner_argv(prepared), prepared.environment)


def test_the_same_call_is_prepared_once_and_each_run_has_its_own_id(box: Sandbox, looks: list[Command]) -> None:
    first, second = ask(box), ask(box)
    assert len(looks) == 1 and first.prepared.kept is second.prepared.kept is not None
    assert first.prepared.run_id != second.prepared.run_id
    assert ask(box, name="one").prepared.command.name == "one" and ask(box).prepared.command.name == ""
    assert len(looks) == 1


def test_only_the_first_word_of_a_command_line_is_looked_up(box: Sandbox, looks: list[Command]) -> None:
    calls = [ask(box, "true", "a"), ask(box, "true"), ask(box, "true", "b", "\udcff", "")]
    assert len(looks) == 1
    assert [call.prepared.command.argv[1:] for call in calls] == [("a",), (), ("b", "\udcff", "")]
    assert ask(box, "/bin/false").prepared.root.argv0 != calls[0].prepared.root.argv0 and len(looks) == 2
    with pytest.raises(ValueError, match="NUL"):
        ask(box, "true", "a\0b")


@pytest.mark.parametrize("words", [(), ("b",), ("", "a b", "\udcff\u00e9"), tuple(map(str, range(500)))])
def test_a_kept_table_with_another_command_line_executes_that(box: Sandbox, words: tuple[str, ...]) -> None:
    """The bytes are not those of a table that was built for it, but its execve has the same words, and all other rows are the same."""
    table(ask(box, "true", "first"))
    filled = ask(box, "true", *words)
    built = build_request(filled.prepared, outside_id=-1, cgroup=None)
    fresh = build_table(generalize(built, filled.prepared.run_id))[1]
    data = table(filled)
    row = next(index for index, row in enumerate(fresh.rows) if row.op is Op.CALL and row.label.startswith("execve "))
    assert vectors(data, row) == vectors(fresh.data, row) == [[word.encode("utf-8", "surrogateescape") for word in ("true", *words)], environment(filled)]
    assert HEADER.unpack_from(data)[2:4] == HEADER.unpack_from(fresh.data)[2:4]
    begin, end = HEADER.unpack_from(data)[2], HEADER.unpack_from(data)[2] + row * ROW.size
    assert data[begin:end] == table(ask(box, "true", "first"))[begin:end]


def environment(call: Call) -> list[bytes]:
    return [f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in call.prepared.environment]


def vectors(data: bytes, row: int) -> list[list[bytes]]:
    """Return the argument vector and the environment of a row that is an execve, as the kernel would read them."""
    found = []
    for place in (1, 2):
        at = struct.unpack_from("<Q", data, HEADER.unpack_from(data)[2] + row * ROW.size + 8 + 8 * place)[0]
        words = []
        while pointer := struct.unpack_from("<Q", data, at)[0]:
            words.append(data[pointer : data.index(b"\0", pointer)])
            at += 8
        found.append(words)
    return found


@pytest.mark.parametrize(
    "options", [{"timeout": 3}, {"limits": {"processes": 7}}, {"env": {"A": "1"}}, {"volumes": ["/usr/share:/data"]}, {"collect": ["*"]}]
)
def test_another_call_is_another_recipe(box: Sandbox, looks: list[Command], options: dict[str, object]) -> None:
    plain = ask(box)
    changed = ask(box, **options)
    assert len(looks) == 2 and changed != plain
    ask(box, **options)
    ask(box)
    assert len(looks) == 2


def test_two_threads_that_build_one_table_each_get_their_own_command_line(box: Sandbox) -> None:
    kept = ask(box, "echo", "any").prepared.kept
    assert kept is not None
    given: dict[str, list[bytes]] = {}

    def run(word: str, meanwhile: Callable[[], None]) -> None:
        prepared = ask(box, "echo", word).prepared

        def build() -> tuple[Plan, Table]:
            built = build_table(generalize(build_request(prepared, outside_id=-1, cgroup=None), prepared.run_id))
            meanwhile()
            return built

        made = kept.find("test", build)
        row = next(index for index, row in enumerate(made[1].rows) if row.op is Op.CALL and row.label.startswith("execve "))
        if kept.differs("test", made, prepared.command.argv):
            data = kept.fill("test", made, {}, prepared.command.argv, prepared.environment)
        else:
            data = os.pread(kept.memory("test", made[1]), 1 << 20, 0)
        given[word] = vectors(data, row)[0]

    run("slower", lambda: run("faster", lambda: None))
    assert given == {"faster": [b"echo", b"faster"], "slower": [b"echo", b"slower"]}


def test_what_is_only_equal_is_not_the_same(box: Sandbox) -> None:
    ask(box, limits={"processes": 1})
    with pytest.raises(PolicyError, match="whole number"):
        ask(box, limits={"processes": True})
    ask(box, collect=["a", "b"])
    with pytest.raises((TypeError, ValueError, SandboxError)):
        ask(box, collect="ab")


def test_after_a_second_the_host_is_looked_at_and_an_unchanged_one_keeps_its_table(
    box: Sandbox, looks: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask(box)
    monkeypatch.setattr(recipes, "AGE_NS", 0)
    second = ask(box)
    assert len(looks) == 2 and second.prepared.kept is first.prepared.kept
    files = ask(box, files={"a": b"1"})
    assert ask(box, files={"a": b"2"}).prepared.kept is files.prepared.kept


def test_environment_directory_and_priority_count_at_once(
    box: Sandbox, looks: list[Command], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ask(box)
    monkeypatch.setenv("LANG", "tlh")
    assert dict(ask(box).prepared.environment)["LANG"] == "tlh"
    monkeypatch.chdir(tmp_path)
    ask(box)
    monkeypatch.setattr(recipes, "caller_scheduling", lambda: (0, 3, True))
    ask(box)
    assert len(looks) == 4


def test_edits_of_profiles_and_policies_count_at_once(looks: list[Command], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(recipes, "SETTLED_NS", -(10**18))  # these files are young
    policy, profile = tmp_path / "mine.toml", tmp_path / "profile.toml"
    policy.write_text('name = "mine"\ndescription = "mine"\nextends = ["strict"]\n')
    profile.write_text('description = "p"\nextends = "strict"\npolicy = "./mine.toml"\n[limits]\nprocesses = 3\n')
    with Sandbox(str(profile)) as box:
        before = ask(box)
        assert ask(box).prepared.kept is before.prepared.kept and len(looks) == 1
        profile.write_text(profile.read_text().replace("= 3", "= 4"))
        assert ask(box).prepared.profile.limits.processes == 4
        policy.write_text(policy.read_text().replace('"mine"\ne', '"another"\ne'))
        assert ask(box).prepared.policy.description == "another"
        assert len(looks) == 3


def test_a_file_that_was_just_written_is_read_each_time(looks: list[Command], tmp_path: Path) -> None:
    profile = tmp_path / "profile.toml"
    profile.write_text('description = "p"\nextends = "strict"\n')
    with Sandbox(str(profile)) as box:
        ask(box)
        ask(box)
        assert len(looks) == 2


def test_a_shared_directory_that_is_another_now(box: Sandbox, looks: list[Command], tmp_path: Path) -> None:
    shared, other = tmp_path / "shared", tmp_path / "other"
    shared.mkdir()
    other.mkdir()
    link = tmp_path / "link"
    link.symlink_to(shared)
    for volume in (f"{shared}:/data", f"{link}:/data"):
        ask(box, volumes=[volume])
    assert len(looks) == 2
    shared.rename(tmp_path / "gone")
    shared.mkdir()
    link.unlink()
    link.symlink_to(other)
    assert ask(box, volumes=[f"{shared}:/data"]) is not None
    found = ask(box, volumes=[f"{link}:/data"])
    assert len(looks) == 4 and str(other) in {getattr(entry, "source", "") for entry in found.prepared.root.entries}


def test_a_failure_is_not_kept(box: Sandbox, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    volume = f"{tmp_path}:/data"
    with pytest.raises(SandboxError) as caught:
        ask(box, "/data/tool", volumes=[volume])
    assert caught.value.exit_code == 127
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    assert ask(box, "/data/tool", volumes=[volume]).prepared.root.argv0 == "/data/tool"


def test_files_of_one_run_are_in_no_other(box: Sandbox, looks: list[Command]) -> None:
    secret, other = b"first" * 20, b"2nd"
    first, second = ask(box, files={"a": secret, "b": b""}), ask(box, files={"a": other * 33, "b": b"#"})
    assert len(looks) == 1 and first.prepared.kept is second.prepared.kept
    assert secret in table(first) and secret not in table(second) and other * 33 in table(second)
    shorter = ask(box, files={"a": b"x" * 65, "b": b""})
    assert b"x" * 65 + bytes(63) in table(shorter) and len(looks) == 1, "nothing of a longer one is behind a short one"
    ask(box, files={"a": b"#!/bin/sh\n" + b"x" * 60, "b": b""})
    assert len(looks) == 2, "what can be executed has another mode"


def test_files_just_below_the_limit_are_not_refused_for_their_placeholders(looks: list[Command]) -> None:
    with Sandbox(limits={"home": "100K"}) as box:
        for _ in range(2):
            call = ask(box, files={"a": b"x" * 100_000})
            assert call.prepared.command.files == {"a": b"x" * 100_000}
        with pytest.raises(PolicyError, match="more than its limit"):
            ask(box, files={"a": b"x" * 110_000})


def test_large_files_are_not_kept(box: Sandbox) -> None:
    assert ask(box, files={"a": bytes(300 << 10)}).prepared.kept is None


def test_a_placeholder_is_as_long_as_it_must_be() -> None:
    for size in (0, 1, 63, 64, 65, 128, 5000):
        content = b"x" * size
        assert len(placeholder(content)) >= max(64, size) and placeholder(content) != placeholder(content)
    assert placeholder(b"#!/bin/sh -e\necho").startswith(b"#!/bin/sh -e\n") and placeholder(b"#!/bin/sh").startswith(b"#!/bin/sh\n")
    assert placeholder(b"\x7fELF" + bytes(99)).startswith(b"\x7fELF")


def test_recipes_are_bounded(box: Sandbox) -> None:
    for number in range(recipes._RECIPES + 5):
        ask(box, "true", timeout=number + 1)
    assert len(box._recipes._kept) == recipes._RECIPES


def test_an_id_has_the_length_of_its_stand_in() -> None:
    from sandbox.api.prepare import new_run_id

    assert len(new_run_id()) == len(ANY_ID)
