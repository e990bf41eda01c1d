"""Named volumes on images: what the image has at the target comes into an empty one, with the image's own links followed, and stays its own afterwards."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.errors import PolicyError
from sandbox.images.model import ImageConfig
from tests.kernel.stored_images import put_image

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]
BUSYBOX = shutil.which("busybox")
if BUSYBOX is None:
    pytest.skip("no busybox, of which the images are made", allow_module_level=True)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with the image `test`: a base, and a layer that hides some of it."""
    data = tmp_path / "data"
    monkeypatch.setenv("SANDBOX_DATA_DIR", str(data))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data.mkdir(mode=0o700)
    base, top = tmp_path / "base", tmp_path / "top"
    for name in ("bin", "etc", "srv/site/sub", "srv/empty", "run/old", "srv/opaque"):
        (base / name).mkdir(parents=True)
    assert BUSYBOX is not None
    shutil.copy(BUSYBOX, base / "bin/busybox")
    for tool in ("sh", "ls", "cat", "rm", "echo", "stat", "mkdir", "touch", "id"):
        (base / "bin" / tool).symlink_to("busybox")
    for name in ("srv/site/index", "srv/site/gone", "srv/site/sub/page", "run/old/pid", "srv/opaque/old", "srv/file"):
        (base / name).write_text(f"base {name}\n")
    (base / "var").mkdir()
    (base / "var/run").symlink_to("/run")
    (base / "srv/link").symlink_to("site")
    (base / "srv/empty").chmod(0o700)
    for name in ("srv/site", "srv/opaque"):
        (top / name).mkdir(parents=True)
    (top / "srv/site/new").write_text("top\n")
    (top / "srv/opaque/new").write_text("top\n")
    os.mknod(top / "srv/site/gone", stat.S_IFCHR | 0o600, 0)
    os.setxattr(top / "srv/opaque", "user.overlay.opaque", b"y")
    (top / "srv/site").chmod(0o775)
    put_image(data / "images", "test", [top, base], ImageConfig(volumes=("/srv/site",)))
    return data / "volumes"


def run(script: str, *volumes: str, **options: Any) -> str:
    result = sandbox.run(["sh", "-c", script], image="test", profile="default", volumes=volumes, **options)
    assert result.ok, (result.exit_code, result.stderr, result.notes)
    return (result.stdout or b"").decode()


def test_an_empty_volume_gets_what_the_image_has_there(store: Path) -> None:
    assert run("cd /srv/site; ls; cat index; stat -c %a .", "v:/srv/site") == "index\nnew\nsub\nbase srv/site/index\n775\n"
    assert run("cd /srv/site; rm -r index sub; echo mine > new; ls", "v:/srv/site") == "new\n"
    assert run("cat /srv/site/new; ls /srv/site", "v:/srv/site") == "mine\nnew\n"
    assert run("cat /srv/site/new; ls /srv/site") == "top\nindex\nnew\nsub\n"  # the image is what it was
    assert run("ls /srv/opaque", "o:/srv/opaque:ro") == "new\n"
    assert run("ls -A /srv/empty; stat -c %a /srv/empty; touch /srv/empty/x", "e:/srv/empty") == "700\n"
    assert run("ls -A /none/where; touch /none/where/x", "n:/none/where") == ""


def test_links_of_the_image_are_followed_inside(store: Path) -> None:
    assert run("ls /srv/link /srv/site", "v:/srv/link") == "/srv/link:\nindex\nnew\nsub\n\n/srv/site:\nindex\nnew\nsub\n"
    assert run("cd /var/run/old; ls; echo mine > pid; cat /run/old/pid", "w:/var/run/old") == "pid\nmine\n"


def test_a_file_of_the_image_is_no_place_for_a_volume(store: Path) -> None:
    for target in ("/srv/file", "/bin/sh", "/srv/file/below"):
        with pytest.raises(PolicyError, match="is a file"):
            run("true", f"v:{target}")
    assert not store.exists() or not sandbox.volumes.find("v").uses


def test_a_volume_that_the_image_declares(store: Path) -> None:
    """Docker makes one without a name, for each container anew; here it is in the root, which is the run's own."""
    result = sandbox.run(["sh", "-c", "mkdir -p /tmp/x; ls /srv/site"], image="test", profile="default")
    assert result.ok and any("/srv/site" in note for note in result.notes)
    assert run("ls /srv/site") == "index\nnew\nsub\n" and not store.exists()


@pytest.mark.parametrize("executor", ["native", "python"])
def test_both_executors(executor: str, store: Path) -> None:
    assert run("ls /srv/site; stat -c %U /srv/site/new", "v:/srv/site", executor=executor).startswith("index\nnew\nsub\n")
