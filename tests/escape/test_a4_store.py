"""A4: the store of images. A program must not reach it through what is shared: there are other images' set-id files, and what the next run will be made of.

The wall is shown with the attack, and with the attack succeeding where it is taken away.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import sandbox
from sandbox import images
from sandbox.api import prepare as preparing
from sandbox.errors import PolicyError


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a store with an image that has a secret."""
    monkeypatch.setenv("SANDBOX_DATA_DIR", str(tmp_path / "data"))
    tmp_path.chmod(0o755)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "key").write_text("secret")
    images.import_image(tmp_path / "tree", name="kept")
    (tmp_path / "tree" / "key").unlink()
    (tmp_path / "data").chmod(0o755)
    return tmp_path / "data/images"


@pytest.mark.parametrize("walled", [True, False], ids=["whole", "nothing hidden"])
def test_no_image_is_seen_through_a_shared_directory(walled: bool, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: the store is covered in whatever is shared; it cannot be shared itself, nor anything in it."""
    if not walled:
        monkeypatch.setattr(preparing, "hidden_paths", lambda environ: ())
    if os.geteuid() == 0:
        for path in (store, store / "layers", *(store / "layers").iterdir()):  # as if every other wall were down
            path.chmod(0o755)
    result = sandbox.run(["sh", "-c", "cat /x/images/layers/*/tree/key 2>/dev/null; ls -A /x/images"], volumes=[f"{store.parent}:/x"])
    said = (result.stdout or b"").decode()
    assert said == "" if walled else said.startswith("secret")
    if walled:
        for path in (store, store / "layers", store / "blobs/sha256"):
            with pytest.raises(PolicyError, match="images are there"):
                sandbox.run(["true"], volumes=[f"{path}:/x"])
        with pytest.raises(PolicyError, match="the sandbox's data directory"):
            sandbox.run(["true"], volumes=[f"{store.parent}:/x:rw"])


def test_set_id_files_lie_where_only_their_owner_gets(store: Path, tmp_path: Path) -> None:
    (tmp_path / "tree" / "su").touch()
    (tmp_path / "tree" / "su").chmod(0o4755)
    image = images.import_image(tmp_path / "tree", name="kept")
    assert os.lstat(f"{image.layers[0]}/su").st_mode & 0o7777 == 0o4755
    assert store.stat().st_mode & 0o777 == 0o700 == Path(image.layers[0]).parent.stat().st_mode & 0o777
    store.chmod(0o755)
    images.import_image(tmp_path / "tree", name="kept")
    assert store.stat().st_mode & 0o777 == 0o700, "who opens the store closes it to others"
