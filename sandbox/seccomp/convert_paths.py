"""A decision tree as the ways through it, for formats that have rules and no trees. Pure; imported by the writers."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox.seccomp.lower import Test, Tree


def tree_paths(tree: Tree) -> Iterator[tuple[tuple[Test, ...], int]]:
    """Yield every path of a decision tree: tests of which exactly one path's hold for any call, and the value at its end."""
    if isinstance(tree, int):
        yield (), tree
        return
    for cubes, below in tree.ways:
        for tests, value in tree_paths(below):
            for care, wanted in cubes:
                yield ((tree.index, care, wanted), *tests), value
