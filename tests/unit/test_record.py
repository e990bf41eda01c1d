"""Records behave as the standard dataclasses do, for everything that this project uses; each case is run with both decorators."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sandbox import record

BOTH = pytest.mark.parametrize("module", [record, dataclasses], ids=["record", "dataclasses"])


def make(module: object) -> SimpleNamespace:
    """Return the same classes made by one of the two modules."""
    dataclass, field = module.dataclass, module.field  # type: ignore[attr-defined]

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Point:
        """Two numbers."""

        x: int
        y: int = 2
        tags: list[int] = field(default_factory=list)

        @property
        def total(self) -> int:
            return self.x + self.y

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Deep(Point):
        z: int = 3

    @dataclass(slots=True)
    class Open:
        a: int
        b: dict[str, int] = field(default_factory=dict)

    @dataclass(frozen=True, slots=True)
    class Pair:
        left: int
        right: int = 5

    return SimpleNamespace(Point=Point, Deep=Deep, Open=Open, Pair=Pair)


@BOTH
def test_values_defaults_and_factories(module: object) -> None:
    kinds = make(module)
    one, two = kinds.Point(x=1), kinds.Point(x=1)
    assert (one.x, one.y, one.tags, one.total) == (1, 2, [], 3)
    assert one.tags is not two.tags
    assert kinds.Deep(x=1, z=9).z == 9
    assert kinds.Pair(1).right == 5 and kinds.Pair(1, 2).right == 2 and kinds.Pair(left=1).left == 1


@BOTH
def test_many_instances_are_like_the_first(module: object) -> None:
    kinds = make(module)
    made = [kinds.Pair(number, right=number + 1) for number in range(100)]
    assert [(pair.left, pair.right) for pair in made] == [(number, number + 1) for number in range(100)]
    points = [kinds.Point(x=number) for number in range(100)]
    assert len({id(point.tags) for point in points}) == 100
    with pytest.raises(TypeError):
        kinds.Point()


@BOTH
@pytest.mark.parametrize(
    ("name", "args", "given"),
    [
        ("Point", (), {}),
        ("Point", (1,), {}),
        ("Point", (), {"x": 1, "q": 2}),
        ("Pair", (1, 2, 3), {}),
        ("Pair", (1,), {"left": 1}),
        ("Open", (), {"b": {}}),
    ],
)
def test_wrong_arguments_are_type_errors(module: object, name: str, args: tuple[int, ...], given: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        getattr(make(module), name)(*args, **given)


@BOTH
def test_frozen_and_slotted(module: object) -> None:
    kinds = make(module)
    point = kinds.Point(x=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        del point.x
    assert not hasattr(point, "__dict__")
    opened = kinds.Open(1)
    opened.a = 7
    assert opened.a == 7
    with pytest.raises(AttributeError):
        opened.unknown = 1


@BOTH
def test_equality_hash_and_text(module: object) -> None:
    kinds = make(module)
    assert kinds.Pair(1) == kinds.Pair(1) and kinds.Pair(1) != kinds.Pair(2) and kinds.Pair(1) != (1, 5)
    assert hash(kinds.Pair(1)) == hash(kinds.Pair(1)) and len({kinds.Pair(1), kinds.Pair(1)}) == 1
    with pytest.raises(TypeError):
        hash(kinds.Open(1))
    assert repr(kinds.Pair(1)).endswith("Pair(left=1, right=5)")
    assert kinds.Point(x=1) != kinds.Deep(x=1)


@BOTH
def test_match_replace_and_copies(module: object) -> None:
    kinds = make(module)
    match kinds.Pair(3, 4):
        case kinds.Pair(left, 4):
            assert left == 3
        case _:
            pytest.fail("no match")
    point = kinds.Point(x=1)
    for replace in (record.replace if module is record else dataclasses.replace, dataclasses.replace):
        changed = replace(point, y=8)
        assert (changed.x, changed.y) == (1, 8) and changed.tags is point.tags
    assert copy.copy(point) == point and copy.deepcopy(point) == point
    assert [entry.name for entry in dataclasses.fields(kinds.Deep)] == ["x", "y", "tags", "z"]
    assert dataclasses.is_dataclass(kinds.Point) and dataclasses.asdict(kinds.Open(1)) == {"a": 1, "b": {}}
    assert kinds.Point.__doc__ == "Two numbers."


def test_a_mutable_default_is_refused() -> None:
    with pytest.raises(ValueError, match="default_factory"):

        @record.dataclass(frozen=True)
        class _Wrong:
            items: list[int] = []  # noqa: RUF012


def test_a_record_of_the_project_can_be_pickled() -> None:
    from sandbox.policy.profile import Limits

    limits = Limits(wall_ns=5)
    assert pickle.loads(pickle.dumps(limits)) == limits


def test_records_import_nothing() -> None:
    root = Path(__file__).parents[2]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); import sandbox.record; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert not {"dataclasses", "inspect"} & set(shown.stdout.split())
