"""The size of a volume, where the host can enforce one: as root, on a file system with project quotas. Made here: ext4 in a file, on a loop device."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import sandbox
from sandbox.errors import SandboxError, UnsupportedError
from sandbox.volumes import quota

pytestmark = [pytest.mark.root, pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]
LIMIT = 4 << 20


def mounted(path: Path, options: str) -> Iterator[Path]:
    """Mount a new ext4 with the feature of project quotas, and take it away again."""
    image, top = path / "image", path / "mnt"
    top.mkdir()
    with open(image, "wb") as file:
        file.truncate(128 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "project,quota", str(image)], check=True, capture_output=True)
    done = subprocess.run(["mount", "-o", f"loop,{options}", str(image), str(top)], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no ext4 with `{options}` can be mounted on a loop device here: {done.stderr.strip()}")
    try:
        yield top
    finally:
        subprocess.run(["umount", str(top)], check=True, capture_output=True)


@pytest.fixture
def enforced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("no mkfs.ext4")
    for top in mounted(tmp_path, "prjquota"):
        monkeypatch.setenv("SANDBOX_DATA_DIR", str(top / "data"))
        yield top / "data/volumes"


WRITE = (
    "head -c {size} /dev/zero > /v/one; echo $?; for n in $(seq 60); do head -c 128K /dev/zero > /v/many$n 2>/dev/null || break; done; "
    "du -s /v | cut -f1; fallocate -l {size} /v/ahead; echo $?"
)


def fill_up(*volumes: str) -> tuple[list[str], str]:
    result = sandbox.run(["sh", "-c", WRITE.format(size=2 * LIMIT)], volumes=volumes, limits={"file-size": "none", "wall": "300s", "cpu": "none"})
    return (result.stdout or b"").decode().split(), (result.stderr or b"").decode()


def test_a_volume_grows_to_its_size_and_no_further(enforced: Path) -> None:
    made = sandbox.volumes.create("v", size="4M")
    assert made.limit_bytes == LIMIT
    (one, used, ahead), errors = fill_up("v:/v")
    assert one != "0" and ahead != "0" and int(used) * 1024 <= LIMIT and "Disk quota exceeded" in errors
    # Taking files away makes room, and another run has the same limit.
    assert sandbox.run(["sh", "-c", "rm /v/*"], volumes=["v:/v"]).ok
    (one, used, ahead), _ = fill_up("v:/v")
    assert one != "0" and int(used) * 1024 <= LIMIT
    # The control: one without.
    sandbox.volumes.create("w")
    (one, used, ahead), _ = fill_up("w:/v")
    assert one == ahead == "0" and int(used) * 1024 > LIMIT
    sandbox.volumes.remove("v")
    assert sandbox.volumes.create("v", size="8M").limit_bytes == 2 * LIMIT


def test_a_program_cannot_leave_the_project(enforced: Path) -> None:
    """The kernel lets nobody outside of the first user namespace change a project; moving a file to where another counts is another file system's affair."""
    sandbox.volumes.create("v", size="4M")
    sandbox.volumes.create("w")
    script = (
        "import fcntl, os, struct, errno\n"
        "fd = os.open('/v/x', os.O_RDWR | os.O_CREAT); b = bytearray(28); fcntl.ioctl(fd, 0x801C581F, b)\n"
        "words = list(struct.unpack('<IIIII8x', b)); print(words[3] != 0)\n"
        "words[3] = 0\n"
        "try: fcntl.ioctl(fd, 0x401C5820, struct.pack('<IIIII8x', *words)); print('left')\n"
        "except OSError as error: print(errno.errorcode[error.errno])\n"
        "try: os.rename('/v/x', '/w/x'); print('moved')\n"
        "except OSError as error: print(errno.errorcode[error.errno])\n"
        "try: os.link('/v/x', '/w/x'); print('linked')\n"
        "except OSError as error: print(errno.errorcode[error.errno])\n"
    )
    result = sandbox.run(["python3", "-c", script], profile="default", volumes=["v:/v", "w:/w"])
    found = (result.stdout or b"").decode().split()
    assert found[0] == "True" and found[1] in ("EINVAL", "EPERM") and found[2:] == ["EXDEV", "EXDEV"], (found, result.stderr)


def test_a_fill_is_limited_too(enforced: Path, tmp_path: Path) -> None:
    """Root's own writing is under no quota: the copy counts for itself."""
    sandbox.volumes.create("v", size="1M")
    with pytest.raises(SandboxError, match=r"it has more than 1 MiB"):
        sandbox.run(["true"], volumes=[f"v:{sorted(Path('/usr/lib').glob('python3.*'))[0]}"])  # some 30 MiB
    assert os.listdir(enforced / "v/data") == []


def test_counting_without_a_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ext4 with the feature, mounted without the option, counts and limits nothing."""
    for top in mounted(tmp_path, "defaults"):
        monkeypatch.setenv("SANDBOX_DATA_DIR", str(top / "data"))
        with pytest.raises(UnsupportedError, match="is not mounted with `prjquota`"):
            sandbox.volumes.create("v", size="4M")
        # What the refusal prevents: the limit is set, and nothing keeps it.
        monkeypatch.setattr(quota, "_mount_options", lambda device: ("prjquota",))
        sandbox.volumes.create("v", size="4M")
        (one, used, _), _ = fill_up("v:/v")
        assert one == "0" and int(used) * 1024 > LIMIT


def test_nothing_is_left_where_the_quota_cannot_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(quota, "_mount_options", lambda device: ("prjquota",))
    with pytest.raises(SandboxError, match=r"limit project \d+ to 4194304 bytes: no quotas there"):
        sandbox.volumes.create("v", size="4M")
    assert sorted(os.listdir(tmp_path / "data/volumes")) == [".lock", ".tmp"] and os.listdir(tmp_path / "data/volumes/.tmp") == []


