"""Legacy groups: every directory is one, and what ``testdata.yaml`` says is inherited. Source: Problem package format, ``legacy``, test data groups."""

from __future__ import annotations

import math

from sandbox.judge.package.confine import shown
from sandbox.judge.package.words import split_flags
from sandbox.judge.package.yaml_source import Node, check_keys, present, read_yaml
from sandbox.judge.problem import Case, Grading, Group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.judge.package.confine import Tree
    from sandbox.judge.package.listing import Listing
    from sandbox.judge.package.problem_yaml import Settings

FILE = "testdata.yaml"
_KEYS = (
    "on_reject", "grading", "grader_flags", "input_validator_flags", "output_validator_flags", "accept_score", "reject_score", "range",
)  # fmt: skip
_SCORING = ("accept_score", "reject_score", "range")
_MODES = ("worst_error", "first_error", "always_accept", "no_errors", "sum", "avg", "min", "max", "ignore_sample", "accept_if_any_accepted")


def read_legacy_data(tree: Tree, settings: Settings, listing: Listing) -> Group:
    """Return the root group with ``sample`` and ``secret`` below it.

    Raises:
        PackageError: a ``testdata.yaml`` is wrong.
    """
    reader = _Reader(tree, settings, listing)
    keys = reader.keys("", {})
    tops = [name for name in ("sample", "secret") if name in listing.directories[""].directories]
    return Group(name="", grading=reader.grading("", keys), children=tuple(reader.group(name, keys) for name in tops))


class _Reader:
    """Reads groups; what a directory inherits goes along as a map of nodes."""

    def __init__(self, tree: Tree, settings: Settings, listing: Listing) -> None:
        self._tree = tree
        self._settings = settings
        self._listing = listing

    def keys(self, name: str, above: Mapping[str, Node]) -> dict[str, Node]:
        """Return the keys that hold for a directory: its own over those of the directory above."""
        path = f"data/{name}/{FILE}" if name else f"data/{FILE}"
        if FILE not in self._listing.directories[name].files:
            if "test_group.yaml" in self._listing.directories[name].files:
                self._tree.warn("`test_group.yaml` is of the format 2025-09; it is not read", path.removesuffix(f"/{FILE}"))
            return dict(above)
        own = read_yaml(self._tree, path)[0].mapping()
        check_keys(own, _KEYS)
        for key in _SCORING:
            if key in own and not self._settings.scoring:
                self._tree.warn(f"`{key}` is for problems of type `scoring`", path, own[key].line)
        flags = present(own, "grader_flags")
        if flags is not None and "ignore_sample" in flags.text().split() and name:
            self._tree.warn("`ignore_sample` is for the root of the test data; it is not read", path, flags.line)
        return {**above, **{key: node for key, node in own.items() if not node.is_null}}

    def group(self, top: str, above: Mapping[str, Node]) -> Group:
        """Return a directory as a group, without recursion: the names that lie below one another are read outside in, and put together inside out."""
        keys: dict[str, dict[str, Node]] = {top: self.keys(top, above)}
        order = [top]
        for name in order:
            for below in self._listing.directories[name].directories:
                path = f"{name}/{below}"
                keys[path] = self.keys(path, keys[name])
                order.append(path)
        made: dict[str, Group] = {}
        for name in reversed(order):
            directory = self._listing.directories[name]
            cases = {base: self._case(f"{name}/{base}", keys[name]) for base in sorted(directory.inputs) if self._has_answer(f"{name}/{base}")}
            clash = sorted(set(cases) & set(directory.directories))
            if clash:
                self._tree.warn(f"`{clash[0]}` is both a case and a group", f"data/{name}")
            children: list[tuple[str, int, Case | Group]] = [(base, 0, case) for base, case in cases.items()]
            children += [(below, 1, made[f"{name}/{below}"]) for below in directory.directories]
            children.sort(key=lambda each: each[:2])
            if not children and name != "sample":
                self._tree.warn("group has no cases", f"data/{name}")
            made[name] = Group(name=name, grading=self.grading(name, keys[name]), children=tuple(each[2] for each in children))
        return made[top]

    def _has_answer(self, name: str) -> bool:
        if f"{name}.ans" in self._listing.paths:
            return True
        self._tree.warn("has no answer; it is no case", f"data/{name}.in")
        return False

    def _case(self, name: str, keys: Mapping[str, Node]) -> Case:
        path = f"data/{name.rpartition('/')[0]}/{FILE}"
        everybody, by_name = self._input_flags(keys, path)
        files = f"{name}.files"
        return Case(
            name=name,
            input=self._tree.host_path(f"data/{name}.in"),
            answer=self._tree.host_path(f"data/{name}.ans"),
            files=self._tree.host_path(f"data/{files}") if files in self._listing.case_files else "",
            output_validator_flags=(*self._settings.validator_flags, *self._output_flags(keys, path)),
            input_validator_flags=everybody,
            input_validator_flags_for=by_name,
            sample=name.startswith("sample/"),
            full_feedback=name.startswith("sample/"),
        )

    def _input_flags(self, keys: Mapping[str, Node], path: str) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]] | None]:
        """Flags for all, or by validator: as ``name`` and ``flags`` as the format says, or as a map of names, as tools write it."""
        node = keys.get("input_validator_flags")
        if node is None:
            return (), None
        if isinstance(node.value, str):
            return split_flags(node, self._tree, path), None
        given = node.mapping()
        if set(given) <= {"name", "flags"} and "name" in given:
            flags = present(given, "flags")
            return (), {given["name"].text(): split_flags(flags, self._tree, path) if flags else ()}
        return (), {name: split_flags(each, self._tree, path) if not each.is_null else () for name, each in given.items()}

    def _output_flags(self, keys: Mapping[str, Node], path: str) -> tuple[str, ...]:
        """A text is flags, whatever the format says about names: no tool reads it otherwise."""
        node = keys.get("output_validator_flags")
        if node is None:
            return ()
        if isinstance(node.value, str):
            return split_flags(node, self._tree, path)
        given = node.mapping()
        check_keys(given, ("name", "flags"), "output_validator_flags.")
        flags = present(given, "flags")
        if "name" in given:
            self._tree.warn("`output_validator_flags.name` is not read: all output validators run", path, node.line)
        return split_flags(flags, self._tree, path) if flags else ()

    def grading(self, name: str, keys: Mapping[str, Node]) -> Grading:
        """Return how a group is graded."""
        keys = {**keys, **{key: node for key, node in self._settings.legacy_grading.items() if key in _SCORING}}
        path = f"data/{name}/{FILE}" if name else f"data/{FILE}"
        scoring = self._settings.scoring
        custom = self._choice(keys, "grading", ("default", "custom"), "default") == "custom"
        node = keys.get("grader_flags")
        flags = split_flags(node, self._tree, path) if node else ()
        if not custom:
            for each in flags:
                if each not in _MODES:
                    self._tree.warn(f"the default grader knows no flag `{shown(each)}`", path, node.line if node else 0)
        if name:
            flags = tuple(each for each in flags if each != "ignore_sample")
        low, high = self._range(keys.get("range"))
        return Grading(
            scoring=scoring,
            on_reject_break=self._breaks(keys),
            custom=custom,
            flags=flags,
            accept_score=self._score(keys.get("accept_score"), 1.0) if scoring else 1.0,
            reject_score=self._score(keys.get("reject_score"), 0.0) if scoring else 0.0,
            minimum=low if scoring else -math.inf,
            maximum=high if scoring else math.inf,
        )

    def _breaks(self, keys: Mapping[str, Node]) -> bool:
        older = self._settings.legacy_grading.get("on_reject")
        if older is not None:
            word = older.text()
            if word not in ("first_error", "worst_error", "grade"):
                raise older.wrong("`first_error`, `worst_error` or `grade`")
            if word != "worst_error":
                return word == "first_error"
        return self._choice(keys, "on_reject", ("break", "continue"), "break") == "break"

    @staticmethod
    def _choice(keys: Mapping[str, Node], key: str, known: tuple[str, ...], default: str) -> str:
        node = keys.get(key)
        if node is None:
            return default
        if node.value not in known:
            raise node.wrong(" or ".join(f"`{each}`" for each in known))
        return node.text()

    @staticmethod
    def _score(node: Node | None, default: float) -> float:
        return default if node is None else node.number("a number", least=-1e9)

    @staticmethod
    def _range(node: Node | None) -> tuple[float, float]:
        if node is None:
            return -math.inf, math.inf
        words = node.text().split()
        if len(words) == 2:
            found = []
            for word in words:
                if word.lower().lstrip("+-") in ("inf", "infinity"):
                    found.append(-math.inf if word.startswith("-") else math.inf)
                else:
                    found.append(Node(node.file, node.key, node.line, word, plain=True).number("two numbers, the lower one first", least=-1e9))
            if found[0] <= found[1]:
                return found[0], found[1]
        raise node.wrong("two numbers, the lower one first")
