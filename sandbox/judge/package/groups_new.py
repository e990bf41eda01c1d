"""Groups of the format 2025-09: directories of ``secret`` with a ``test_group.yaml``.

Source: Problem package format, ``2025-09``, test data and result aggregation.
"""

from __future__ import annotations

from sandbox.judge.errors import PackageError
from sandbox.judge.package.confine import shown
from sandbox.judge.package.yaml_source import Node, check_keys, present, read_yaml
from sandbox.judge.problem import Case, Grading, Group
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.judge.package.confine import Tree
    from sandbox.judge.package.listing import Listing
    from sandbox.judge.package.problem_yaml import Settings

FILE = "test_group.yaml"
_OPTIONS = ("args", "input_validator_args", "output_validator_args", "input_visualizer_args", "output_visualizer_args", "full_feedback")
_GROUP = (*_OPTIONS, "max_score", "score_aggregation", "static_validation_score", "require_pass", "static_validator_args")
_CASE = (*_OPTIONS, "hint", "description")
_OLD = {"input_validator_flags": "input_validator_args", "output_validator_flags": "output_validator_args"}
_SCORES = ("max_score", "score_aggregation", "require_pass")
_AGGREGATIONS = ("pass-fail", "sum", "min")
_MAXIMUM_ARGUMENT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is said of a case, by its own YAML file or by those of the directories it is in."""

    args: tuple[str, ...] = ()
    input_args: tuple[str, ...] = ()
    input_args_for: Mapping[str, tuple[str, ...]] | None = None
    output_args: tuple[str, ...] = ()
    full_feedback: bool = False

    def case(self, *, name: str, input: str, answer: str, files: str = "", output: str = "") -> Case:
        """Return a case with these options. Arguments of the submission are given to input validators too, behind their own."""
        by_name = self.input_args_for
        return Case(
            name=name,
            input=input,
            answer=answer,
            files=files,
            output=output,
            args=self.args,
            output_validator_flags=self.output_args,
            input_validator_flags=(*self.input_args, *self.args),
            input_validator_flags_for=None if by_name is None else {each: (*flags, *self.args) for each, flags in by_name.items()},
            sample=name.startswith("sample/"),
            full_feedback=self.full_feedback,
        )


def read_new_data(tree: Tree, settings: Settings, listing: Listing) -> Group:
    """Return the root group with ``sample`` and ``secret`` below it.

    Raises:
        PackageError: a YAML file is wrong, a case has no answer, or groups are as they may not be.
    """
    return _Reader(tree, settings, listing).root()


def case_options(tree: Tree, listing: Listing, name: str) -> Options:
    """Return the options of one case that no submission runs on."""
    keys: dict[str, Node] = {}
    parts = name.split("/")[:-1]
    for count in range(len(parts) + 1):
        keys.update(_group_keys(tree, listing, "/".join(parts[:count]), {}))
    return _options({**keys, **_case_keys(tree, listing, name)}, name)


class _Reader:
    def __init__(self, tree: Tree, settings: Settings, listing: Listing) -> None:
        self._tree = tree
        self._settings = settings
        self._listing = listing
        self._cache: dict[str, dict[str, Node]] = {}

    def root(self) -> Group:
        """Return everything."""
        if FILE in self._listing.directories[""].files:
            self._tree.warn("is in none of the places that the format names; what it says holds for `sample` and `secret`", f"data/{FILE}")
        children = []
        if "sample" in self._listing.directories[""].directories:
            children.append(self._group("sample", self._listing.cases_below("sample"), {}))
        if "secret" in self._listing.directories[""].directories:
            children.append(self._secret())
        return Group(name="", grading=Grading(scoring=self._settings.scoring, on_reject_break=False, aggregation="pass-fail"), children=tuple(children))

    def _secret(self) -> Group:
        below = self._listing.directories["secret"].directories
        names = [f"secret/{each}" for each in below if FILE in self._listing.directories[f"secret/{each}"].files]
        for name, directory in self._listing.directories.items():
            if FILE in directory.files and name.count("/") >= 2 and name.startswith("secret/"):
                if self._settings.scoring or not self._own(name).keys() <= set(_OPTIONS):
                    raise PackageError("groups have no groups in them", origin=self._tree.place(f"data/{name}/{FILE}"))
                self._tree.warn("groups have no groups in them; only its options are read, for the cases below", f"data/{name}/{FILE}")
        loose = self._listing.cases_below("secret", without=frozenset(names))
        if names and loose:
            if self._settings.scoring:
                raise PackageError(f"`secret` has groups, so `{loose[0]}` must be in one", origin=self._tree.place(f"data/{loose[0]}.in"))
            self._tree.warn(f"`secret` has groups, and `{loose[0]}` is in none", "data/secret")
        keys = self._keys("secret")
        grading = self._grading("secret", keys, ())
        children: list[Case | Group] = []
        for name in names:
            cases = self._listing.cases_below(name)
            group = self._group(name, cases, keys)
            if not cases and group.grading.static_validation_score is None:
                raise PackageError(f"group `{name}` has no cases", origin=self._tree.place(f"data/{name}"))
            children.append(group)
        children += [self._case(name) for name in loose]
        children.sort(key=lambda each: each.name.split("/"))
        group = Group(name="secret", grading=grading, children=tuple(children))
        if self._settings.scoring:
            self._check_scores(group, {each: self._own(each) for each in names})
        return group

    def _group(self, name: str, cases: list[str], above: Mapping[str, Node]) -> Group:
        groups = self._listing.directories["secret"].directories if name != "sample" else ()
        earlier = ("sample", *(f"secret/{each}" for each in groups if f"secret/{each}" < name))
        return Group(name=name, grading=self._grading(name, self._own(name), earlier), children=tuple(self._case(each) for each in cases))

    def _own(self, name: str) -> dict[str, Node]:
        if name not in self._cache:
            self._cache[name] = _group_keys(self._tree, self._listing, name, self._settings.constants)
        return self._cache[name]

    def _keys(self, name: str) -> dict[str, Node]:
        """Return the keys of a directory, options inherited from those above. Scores are not inherited."""
        keys: dict[str, Node] = {}
        parts = name.split("/")
        for count in range(len(parts) + 1):
            at = "/".join(parts[:count])
            if at == "" or at in self._listing.directories:
                keys.update({key: node for key, node in self._own(at).items() if key in _OPTIONS or at == name})
        return keys

    def _case(self, name: str) -> Case:
        if f"{name}.ans" not in self._listing.paths:
            raise PackageError(f"case `{name}` has no answer", origin=self._tree.place(f"data/{name}.in"))
        if name.rpartition("/")[2] == "test_group":
            raise PackageError("a case must not be called `test_group`", origin=self._tree.place(f"data/{name}.in"))
        keys = {**self._keys(name.rpartition("/")[0]), **_case_keys(self._tree, self._listing, name)}
        files = f"{name}.files"
        return _options(keys, name).case(
            name=name,
            input=self._tree.host_path(f"data/{name}.in"),
            answer=self._tree.host_path(f"data/{name}.ans"),
            files=self._tree.host_path(f"data/{files}") if files in self._listing.case_files else "",
        )

    def _grading(self, name: str, keys: Mapping[str, Node], earlier: tuple[str, ...]) -> Grading:
        scoring = self._settings.scoring
        secret = name == "secret"
        for key in _SCORES:
            if key in keys and (not scoring or name == "sample"):
                what = "`sample`" if name == "sample" else "problems of type `pass-fail`"
                raise keys[key].error(f"`{key}` is not for {what}")
        node = present(dict(keys), "score_aggregation")
        if node is not None and node.value not in _AGGREGATIONS:
            raise node.wrong("`pass-fail`, `sum` or `min`")
        aggregation = node.text() if node is not None else "sum" if secret and scoring else "pass-fail"
        most: float | None = 100.0 if secret and scoring else None
        node = present(dict(keys), "max_score")
        if node is not None:
            most = None if node.value == "unbounded" else float(node.integer("a whole number, not negative, or `unbounded`", least=0))
        static: float | None = None
        node = present(dict(keys), "static_validation_score")
        if node is not None:
            static = 0.0 if node.value == "pass-fail" else float(node.integer("a whole number, not negative, or `pass-fail`", least=0))
            if static and (aggregation == "pass-fail" or not scoring):
                raise node.error("`static_validation_score` must be `pass-fail` where a group passes or fails")
            if self._tree.missing("static_validator"):
                raise node.error("`static_validation_score` needs a program in `static_validator`")
        elif "static_validator_args" in keys:
            raise keys["static_validator_args"].error("`static_validator_args` needs `static_validation_score`")
        return Grading(
            scoring=scoring,
            on_reject_break=False,
            aggregation=aggregation,
            max_score=most,
            require_pass=self._required(present(dict(keys), "require_pass"), name, earlier),
            static_validation_score=static,
            static_validator_args=_arguments(keys.get("static_validator_args")),
        )

    def _required(self, node: Node | None, name: str, earlier: tuple[str, ...]) -> tuple[str, ...]:
        if node is None:
            return ()
        found = []
        for word in node.words():
            full = word if word == "sample" or word.startswith("secret/") else f"secret/{word}"
            if name == "secret" and full != "sample":
                raise node.error("`require_pass` of `secret` can only be `sample`")
            if full not in ("sample", *earlier) or (full != "sample" and FILE not in self._listing.directories[full].files):
                raise node.error(f"`require_pass` names `{shown(word)}`, which is no earlier group")
            found.append(full)
        return tuple(found)

    def _check_scores(self, secret: Group, keys: Mapping[str, Mapping[str, Node]]) -> None:
        """Check what the format says about scores of several groups together."""
        groups = {each.name: each for each in secret.children if isinstance(each, Group)}
        for name, group in groups.items():
            place = self._tree.place(f"data/{name}/{FILE}")
            grading = group.grading
            if secret.grading.aggregation == "pass-fail" and grading.aggregation != "pass-fail":
                raise PackageError("`secret` passes or fails, so must all its groups", origin=place)
            if grading.max_score is None and (secret.grading.max_score is not None or grading.aggregation == "pass-fail"):
                # `secret` that passes or fails as a whole never asks for its groups' scores.
                if secret.grading.aggregation != "pass-fail":
                    raise PackageError(f"group `{name}` needs a `max_score`", origin=place)
            for each in grading.require_pass:
                if each in groups and groups[each].grading.aggregation != "pass-fail":
                    raise keys[name]["require_pass"].error(f"`require_pass` names `{each}`, which does not pass or fail but has scores")
        together, most = sum(group.grading.max_score or 0.0 for group in groups.values()), secret.grading.max_score
        if secret.grading.aggregation == "sum" and most is not None and together > most:
            path = f"data/secret/{FILE}" if FILE in self._listing.directories["secret"].files else "data/secret"
            self._tree.warn(f"groups can earn {together:g} together, and `max_score` of `secret` is {most:g}: more than that is an error of the judge", path)
        if secret.grading.aggregation == "pass-fail" and secret.grading.max_score is None:
            raise PackageError("`secret` passes or fails, so it needs a `max_score`", origin=self._tree.place(f"data/secret/{FILE}"))


def _group_keys(tree: Tree, listing: Listing, name: str, constants: Mapping[str, str]) -> dict[str, Node]:
    if FILE not in listing.directories[name].files:
        return {}
    path = f"data/{name}/{FILE}" if name else f"data/{FILE}"
    return _renamed(read_yaml(tree, path, constants)[0].mapping(), _GROUP, tree, path)


def _case_keys(tree: Tree, listing: Listing, name: str) -> dict[str, Node]:
    if f"{name}.yaml" not in listing.paths:
        return {}
    path = f"data/{name}.yaml"
    return _renamed(read_yaml(tree, path)[0].mapping(), _CASE, tree, path)


def _renamed(keys: dict[str, Node], known: tuple[str, ...], tree: Tree, path: str) -> dict[str, Node]:
    for old, new in _OLD.items():
        if old in keys:
            tree.warn(f"`{old}` is now `{new}`", path, keys[old].line)
            keys[new] = keys.pop(old)
    check_keys(keys, known)
    return keys


def _options(keys: Mapping[str, Node], name: str) -> Options:
    feedback = present(dict(keys), "full_feedback")
    given = keys.get("input_validator_args")
    by_name = given is not None and isinstance(given.value, dict)
    return Options(
        args=_arguments(keys.get("args")),
        input_args=() if by_name else _arguments(given),
        input_args_for={each: _arguments(node) for each, node in given.mapping().items()} if by_name and given is not None else None,
        output_args=_arguments(keys.get("output_validator_args")),
        full_feedback=feedback.boolean() if feedback else name.startswith("sample/"),
    )


def _arguments(node: Node | None) -> tuple[str, ...]:
    """Return a list of text; one text is split at blanks, which is what those who write one mean."""
    if node is None or node.is_null:
        return ()
    words = node.text().split() if isinstance(node.value, str) else [each.value if isinstance(each.value, str) else each.text() for each in node.items()]
    for each in words:
        if len(each) > _MAXIMUM_ARGUMENT or "\0" in each:
            raise node.error(f"`{node.key}` must be at most {_MAXIMUM_ARGUMENT} characters without a null byte")
    return tuple(words)
