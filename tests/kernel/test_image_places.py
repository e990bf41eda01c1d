"""Stores in places that are full or strange, and an image that comes and goes while a run takes hold of it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import PolicyError
from sandbox.images import lookup
from tests.kernel.image_layouts import entry
from tests.kernel.test_image_hostile import Place

pytestmark = pytest.mark.userns

_BEGIN = """
import errno, os, sys
from pathlib import Path
from sandbox.api import images
from sandbox.errors import SandboxError
from tests.kernel.image_layouts import Layout, directory, entry, tar_of

place = Path(sys.argv[1])
os.environ["SANDBOX_DATA_DIR"] = str(place / "data")

def layout(name, *layers):
    made = Layout(Path(sys.argv[2]) / name)
    made.image([tar_of(layer) for layer in layers])
    return made.path
"""
_FULL = """
small = layout("small", [entry("f", b"x")])
large = layout("large", [directory("d"), *(entry(f"d/{n}", b"x") for n in range(200))])
images.import_image(small, name="first")
try:
    images.import_image(large, name="x")
except SandboxError as error:
    assert "No space left" in str(error), error
else:
    raise AssertionError("there was room")
assert os.listdir(place / "data/images/tmp") == []
try:
    for n in range(10_000):
        (place / f"fill{n}").touch()
except OSError as error:
    assert error.errno == errno.ENOSPC
left = place / "fill0"
left.unlink()
(place / "data/images/tmp/killed").mkdir()
assert images.remove("first").digest
assert images.prune().complete and os.listdir(place / "data/images/tmp") == []
images.import_image(small, name="second")
"""
_OVERLAY = """
first, second = [entry("f", b"x")], [entry(".wh.f", b"")]
images.import_image(layout("plain", first), name="plain")
try:
    images.import_image(layout("hidden", first, second), name="hidden")
except SandboxError as error:
    print(error.hint)
"""


def in_a_mount(path: Path, mount: str, script: str) -> str:
    """Run a script in namespaces of its own, with something mounted; return what it says."""
    mounted, sources = path / "mounted", path / "sources"
    for each in (mounted, sources):
        each.mkdir()
    command = f'{mount} && exec "$@"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, "sh", sys.executable, "-c", _BEGIN + script, mounted, sources], capture_output=True, text=True,
        env={**os.environ, "MOUNTED": str(mounted), "BESIDE": str(path), "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk_keeps_nobody_from_removing(tmp_path: Path) -> None:
    """A store in which nothing more can be made: an import leaves nothing there, and images and what was left go."""
    in_a_mount(tmp_path, 'mount -t tmpfs -o nr_inodes=100 tmpfs "$MOUNTED"', _FULL)


def test_a_store_on_overlayfs_says_what_it_lacks(tmp_path: Path) -> None:
    made = 'mount -t tmpfs tmpfs "$MOUNTED" && cd "$MOUNTED" && mkdir l u w && mount -t overlay -o lowerdir=l,upperdir=u,workdir=w,userxattr o "$MOUNTED"'
    assert "not on overlayfs itself" in in_a_mount(tmp_path, made, _OVERLAY)


def test_an_image_that_came_anew_is_not_held_by_its_old_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removed and imported again between the opening of its file and the lock: whoever removes it now would not see that lock."""
    place = Place(tmp_path)
    image = place.bring([entry("f", b"x")]).image
    uses = tmp_path / "data/images/uses" / image.digest[7:]
    os.close(lookup.hold_image(image, place.environ))
    lock = fcntl.flock

    def late(fd: int, operation: int) -> Any:
        uses.unlink()
        uses.touch()
        return lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(PolicyError, match="has been removed"):
        lookup.hold_image(image, place.environ)
