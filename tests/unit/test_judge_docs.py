"""The page about problem packages against the code: keys, limits, directories, flags and bounds are those that are read. The reference likewise."""

from __future__ import annotations

import inspect
import re

import pytest

from sandbox import judge
from sandbox.judge.package import (
    archive,
    confine,
    expected,
    groups_legacy,
    groups_new,
    listing,
    problem_yaml,
    sources,
    stage,
    submissions,
    yaml_source,
)
from sandbox.record import fields
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "reference" / "problem-packages.md").read_text()
REFERENCE = (ROOT / "docs" / "reference" / "python.md").read_text()


def section(title: str) -> str:
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def words(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")]


def test_every_key_of_problem_yaml_is_there_in_its_formats() -> None:
    keys = [row for row in rows(section("`problem.yaml`")) if len(row) == 4]
    found = {name: (row[1] != "no", row[2] != "no") for row in keys for name in words(row[0])}
    limits = {"time_limit", "time_resolution", "time_multipliers", "time_multiplier", "time_safety_margin", "validation_passes"}
    limits |= {*problem_yaml._SIZES, *problem_yaml._TIMES, *problem_yaml._EXTENSIONS}
    assert {name for name in found if name in limits} == limits
    assert {name for name, (old, _) in found.items() if old} - limits == set(problem_yaml._LEGACY)
    assert {name for name, (_, new) in found.items() if new} - limits == set(problem_yaml._NEW)


def test_every_format_is_named() -> None:
    assert set(problem_yaml.VERSIONS) <= words(PAGE.split("##")[0])


def test_every_key_of_groups_and_every_flag_is_named() -> None:
    found = words(section("Groups and grading"))
    assert {*groups_legacy._KEYS, *groups_new._GROUP, *groups_new._CASE} <= found
    assert set(groups_legacy._MODES) - {"no_errors"} <= found


def test_every_directory_and_key_of_labels_is_named() -> None:
    text = section("Labels")
    assert {*submissions._LEGACY, *expected._DEFAULTS, *submissions._DOMJUDGE} <= {name for row in rows(text) for name in words(row[0])}
    assert {*expected._DEMANDS, *expected._ABOUT} <= words(text)


def test_bounds_are_those_of_the_code() -> None:
    text = section("What a hostile package meets")
    for number in (confine.MAXIMUM_ENTRIES, listing._MAXIMUM_CASES, archive.MAXIMUM_MEMBERS):
        assert f"{number:,}".replace(",", " ") in text
    for size, unit in (
        (confine.MAXIMUM_SOURCE_BYTES >> 20, "MiB"),
        (sources.MAXIMUM_PROGRAM_BYTES >> 20, "MiB"),
        (yaml_source.MAXIMUM_TOGETHER >> 20, "MiB"),
        (stage.MAXIMUM_FILE >> 30, "GiB"),
        (stage.MAXIMUM_STAGE >> 30, "GiB"),
        (archive.MAXIMUM_ARCHIVE >> 30, "GiB"),
        (archive.MAXIMUM_UNPACKED >> 30, "GiB"),
    ):
        assert f"{size} {unit}" in text
    assert f"nesting of {listing._MAXIMUM_DEPTH}" in text


@pytest.mark.parametrize("name", ["Task", "Task.grade", "Task.grade_all", "run_case", "run_package", "pass_at_k"])
def test_every_parameter_of_a_function_is_in_the_reference_with_its_default(name: str) -> None:
    (text,) = re.findall(rf"`{name.rpartition('.')[2]}\(([^`]*)\)(?: -> \w+)?`", REFERENCE)
    function = judge
    for part in name.split("."):
        function = getattr(function, part)
    parameters = [each for each in inspect.signature(function).parameters.values() if each.name != "self"]  # type: ignore[arg-type]
    wanted = [each.replace(annotation=inspect.Parameter.empty) for each in parameters]
    assert text.replace("\n", " ").replace('"', "'") == str(inspect.Signature(wanted))[1:-1]


@pytest.mark.parametrize("name", ["Test", "Part"])
def test_every_field_of_what_a_grader_states_is_in_the_reference(name: str) -> None:
    (text,) = re.findall(rf"`{name}\(([^`]*)\)`", REFERENCE)
    assert re.findall(r"(\w+)=", text) == [field.name for field in fields(getattr(judge, name))]


@pytest.mark.parametrize("name", ["TaskResult", "TestResult", "Output", "Outcome", "Step", "Student", "Dialogue"])
def test_everything_that_a_class_shows_is_in_the_reference(name: str) -> None:
    (row,) = re.findall(rf"^\| `{name}` \|(.*)\|$", REFERENCE, re.MULTILINE)
    named = {word.partition("(")[0] for word in words(row)}
    shown = {each for each in dir(getattr(judge, name)) if not each.startswith("_")} - {"close", "drain"}
    assert shown <= named
