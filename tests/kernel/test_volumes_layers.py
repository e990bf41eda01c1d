"""The copy of layers that fills a volume against the kernel's own overlay of them: the same names, kinds, modes, times, contents, attributes and links."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest

from sandbox.volumes.fill import fill
from sandbox.volumes.place import Target
from tests.kernel import image_layouts
from tests.kernel.image_layouts import merged_tree, tree_of

pytestmark = pytest.mark.userns
NAMES = ("a", "b", "c", "d")


def grow(rng: random.Random, path: Path, depth: int, bottom: bool) -> None:
    """Put things of all kinds into a directory of a layer."""
    for name in NAMES:
        here = path / name
        kind = rng.choice(("none", "none", "file", "file", "link", "hard", "directory", "directory", "whiteout", "opaque"))
        if kind in ("directory", "opaque") and depth:
            here.mkdir()
            if kind == "opaque" and not bottom:
                os.setxattr(here, "user.overlay.opaque", b"y")
            grow(rng, here, depth - 1, bottom)
            here.chmod(rng.choice((0o755, 0o700, 0o1777, 0o750)))
        elif kind == "file":
            here.write_bytes(rng.randbytes(rng.randrange(0, 9000)))
            here.chmod(rng.choice((0o644, 0o600, 0o755)))
            if rng.random() < 0.3:
                os.setxattr(here, "user.mark", rng.randbytes(5))
        elif kind == "hard":
            others = [one for one in path.iterdir() if one.is_file() and not one.is_symlink()]
            if others:
                os.link(rng.choice(others), here)
        elif kind == "link":
            here.symlink_to(rng.choice(("a", "../b", "/d/c", "nowhere")))
        elif kind == "whiteout" and not bottom:
            os.mknod(here, stat.S_IFCHR | 0o600, 0)


def settle(path: Path, rng: random.Random) -> None:
    """Give everything a time of its own, whole seconds."""
    for top, directories, files in os.walk(path, topdown=False):
        for name in (*directories, *files, "."):
            when = rng.randrange(10**9, 15 * 10**8)
            os.utime(os.path.join(top, name), (when, when), follow_symlinks=False)


@pytest.mark.parametrize("seed", range(30))
def test_the_copy_is_what_the_kernel_shows(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where a directory is in one layer only, the kernel lists its whiteouts, as names that are not there.
    careful = "    try:\n        status = os.lstat(path)\n    except FileNotFoundError:\n        return\n"
    walk = image_layouts._WALK.replace("    status = os.lstat(path)\n", careful)
    assert walk != image_layouts._WALK
    monkeypatch.setattr(image_layouts, "_WALK", walk)
    rng = random.Random(seed)
    layers = []
    for number in range(rng.randrange(1, 5)):
        layer = tmp_path / f"l{number}"
        (layer / "d").mkdir(parents=True)
        grow(rng, layer / "d", 3, number == 0)
        settle(layer, rng)
        layers.insert(0, str(layer))
    (tmp_path / "volume/data").mkdir(parents=True)
    fd = os.open(tmp_path / "volume", os.O_RDONLY)
    try:
        done = fill(Target(volume=fd, temporary="fill", parent=fd, name="data", owner=os.geteuid()), layers, "/d", public=False)
    finally:
        os.close(fd)
    assert done is not None and not done.left
    ours = tree_of(tmp_path / "volume/data")
    kernel = merged_tree(layers, tmp_path)
    wanted = {name[2:] or ".": facts for name, facts in kernel.items() if name == "d" or name.startswith("d/")}
    for facts in wanted.values():  # names of one file, as they are below the copy
        if isinstance(facts[-1], list):
            facts[-1] = [name.removeprefix("d/") for name in facts[-1]]
    assert ours == wanted
