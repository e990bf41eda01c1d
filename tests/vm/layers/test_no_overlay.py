"""A kernel without overlayfs, for its module is not loaded: runs on an image get a read-only tree, say so, and can be refused instead."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from kernel.stored_images import put_image

import sandbox
from sandbox.errors import SetupError, UnsupportedError
from sandbox.policy.profile_load import load_profile, override_profile


@pytest.fixture
def image(place: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put an image with a shell into a store of its own."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    monkeypatch.setenv("SANDBOX_DATA_DIR", str(place / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    layer = place / "layer"
    (layer / "bin").mkdir(parents=True)
    shutil.copy(busybox, layer / "bin/busybox")
    for tool in ("sh", "touch", "cat"):
        (layer / "bin" / tool).symlink_to("busybox")
    put_image(place / "data/images", "test", [layer])
    return "test"


def test_a_read_only_tree_stands_in(image: str) -> None:
    assert "overlay" not in Path("/proc/filesystems").read_text()
    result = sandbox.run(["sh", "-c", "touch /new; touch /tmp/new && cat /etc/hostname"], image=image, profile="default", timeout=60)
    assert result.stdout == b"sandbox\n" and b"Read-only file system" in result.stderr
    root = next(entry for entry in result.enforced if entry.what == "root filesystem")
    assert "No such device (ENODEV)" in root.weaker
    assert os.listdir(Path(os.environ["XDG_CACHE_HOME"]) / "sandbox" / "overlays") == []


def test_strictness_refuses_with_the_fix(image: str) -> None:
    profile = override_profile(load_profile("default"), overlay="required", origin="test")
    with pytest.raises(UnsupportedError) as caught:
        sandbox.run(["sh"], image=image, profile=profile)
    assert "modprobe overlay" in (caught.value.hint or "")


def test_an_overlay_that_is_insisted_on_names_its_step(image: str, place: Path) -> None:
    from dataclasses import replace

    from sandbox.api.execute import Hooks, execute
    from sandbox.api.prepare import Command, prepare
    from sandbox.api.streams import Streams
    from sandbox.plan.root import Overlay

    tree = place / "tree"
    tree.mkdir()
    prepared = prepare(Command(argv=("/bin/true",), profile=load_profile("default"), environ={"PATH": "/usr/bin:/bin"}))
    entry = Overlay(path="/work", lowers=(str(tree),), size_bytes=1 << 20, inodes=100, why="copy-on-write `/work`")
    with pytest.raises(SetupError, match="mount overlay lowerdir=1") as caught:
        execute(replace(prepared, root=replace(prepared.root, entries=(*prepared.root.entries, entry)), kept=None), Streams(), Hooks())
    assert "modprobe overlay" in (caught.value.hint or "")
