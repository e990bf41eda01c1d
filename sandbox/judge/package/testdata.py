"""The test data of a package: which cases there are, in which groups and order, with which flags, graded how.

Two ways: legacy, where every directory is a group and ``testdata.yaml`` is inherited; and 2025-09, where only directories of ``secret`` with a
``test_group.yaml`` are. Packages of 2025-09 that have ``testdata.yaml`` instead, as its drafts did, are read the legacy way, as the reference tool does.
"""

from __future__ import annotations

import re

from sandbox.judge.errors import PackageError
from sandbox.judge.package.confine import shown
from sandbox.judge.package.groups_legacy import read_legacy_data
from sandbox.judge.package.groups_new import read_new_data
from sandbox.judge.package.listing import Listing, list_data
from sandbox.judge.problem import Case, Format

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sandbox.judge.package.confine import Tree
    from sandbox.judge.package.problem_yaml import Settings
    from sandbox.judge.problem import Group

INVALID = ("invalid_input", "invalid_output", "valid_output")
_OTHERS = ("testing_tool_test", "invalid_answer", "invalid_inputs", "invalid_outputs", "invalid_answers", "valid_outputs")  # of BAPCtools
_GENERATORS = "generators/generators.yaml"  # of BAPCtools
_FLAGS = re.compile(r"""[ \t-]*["']?(output_validator_(?:args|flags))["']?[ \t]*:""", re.ASCII)
_MAXIMUM_GENERATORS = 1 << 20
_NEEDS_ANSWER = ("invalid_output", "valid_output")


def read_test_data(tree: Tree, settings: Settings) -> tuple[Group, Mapping[str, tuple[Case, ...]]]:
    """Return the root of the test data, and the cases that only validators are tried with, by directory.

    Raises:
        PackageError: there are no secret cases, or something of them is wrong.
    """
    listing = list_data(tree, legacy=settings.format is not Format.V2025_09)
    top = listing.directories[""]
    if not listing.has_cases("secret"):
        if not listing.has_cases("sample"):
            raise PackageError("package has no test data", origin=tree.place("data"))
        # Checkouts whose cases are generated have none; their samples can be judged all the same.
        made = "" if tree.missing(_GENERATORS) else f"; `{_GENERATORS}` makes it"
        tree.warn(f"package has no secret test data{made}", "data/secret")
    for name in top.directories:
        if name not in ("sample", "secret", *INVALID, *_OTHERS) and listing.has_cases(name):
            tree.warn(f"cases in `{shown(name)}` are not judged, only those in `sample` and `secret` are", "data")
    if top.inputs:
        tree.warn(f"`{sorted(top.inputs)[0]}.in` is in neither `sample` nor `secret`, it is not judged", "data")
    legacy = settings.format is not Format.V2025_09 or _has_old_groups(listing)
    if legacy and settings.format is Format.V2025_09:
        tree.warn("groups are read from `testdata.yaml`, as in the legacy format and drafts of this one", "data")
    root = read_legacy_data(tree, settings, listing) if legacy else read_new_data(tree, settings, listing)
    if not any(each.output_validator_flags for each in _cases_of(root)):
        _doubt_flags(tree)
    return root, {name: _validation_cases(tree, listing, name) for name in INVALID if name in top.directories}


def _cases_of(group: Group) -> Iterator[Case]:
    for each in group.children:
        if isinstance(each, Case):
            yield each
        else:
            yield from _cases_of(each)


def _doubt_flags(tree: Tree) -> None:
    """Say where the generators' file gives flags to the output validator: they come with the data that it makes, which then is not made yet."""
    if tree.missing(_GENERATORS):
        return
    try:
        text = tree.read(_GENERATORS, _MAXIMUM_GENERATORS, "generators").decode("utf-8", "replace")
    except PackageError:
        return  # nothing of it is needed
    for number, line in enumerate(text.splitlines(), 1):
        if found := _FLAGS.match(line):
            tree.warn(f"gives the output validator `{found[1]}`, which no file of `data` does: what it makes has not been made", _GENERATORS, number)
            return


def _has_old_groups(listing: Listing) -> bool:
    files = [f for name, each in listing.directories.items() if name.split("/")[0] in ("", "sample", "secret") for f in each.files]
    return "testdata.yaml" in files and "test_group.yaml" not in files


def _validation_cases(tree: Tree, listing: Listing, name: str) -> tuple[Case, ...]:
    """Return the cases that input or output validators are tried with; flags are those of ``test_group.yaml`` and of the case."""
    from sandbox.judge.package.groups_new import case_options

    cases = []
    for base in listing.cases_below(name):
        options = case_options(tree, listing, base)
        answer, output = f"data/{base}.ans", f"data/{base}.out"
        if name in _NEEDS_ANSWER:
            for path in (answer, output):
                if path.removeprefix("data/") not in listing.paths:
                    raise PackageError(f"`{base}` has no `{path.rpartition('.')[2]}` file", origin=tree.place(f"data/{base}.in"))
        cases.append(
            options.case(
                name=base,
                input=tree.host_path(f"data/{base}.in"),
                answer=tree.host_path(answer) if name in _NEEDS_ANSWER else "",
                output=tree.host_path(output) if name in _NEEDS_ANSWER else "",
            )
        )
    return tuple(cases)
