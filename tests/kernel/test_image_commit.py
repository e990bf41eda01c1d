"""What a run wrote over an image: kept, listed against the image, gone on from, and made a new image whose tree is what the run saw."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import sandbox
from sandbox.api.changes import find_kept, kept_runs
from sandbox.api.commit import commit_run
from sandbox.api.images import import_image
from sandbox.api.images import remove as remove_image
from sandbox.cli import image as image_verbs
from tests.kernel.overlays import attributes

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]
BUSYBOX = shutil.which("busybox")
if BUSYBOX is None:
    pytest.skip("no busybox, of which the image is made", allow_module_level=True)
TOOLS = ("sh", "ls", "cat", "rm", "mkdir", "touch", "ln", "chmod", "cp", "mv", "find", "stat", "sort", "md5sum", "true", "readlink")
# Every file of the tree but what is the run's own: type, mode, size, number of names, content.
LOOK = (
    "cd /; find bin etc opt srv home made | sort | while read -r f; do case $f in etc/host*|etc/resolv*) continue;; esac; "
    "if [ -L $f ]; then echo $f $(readlink $f); elif [ -d $f ]; then stat -c '%n %a' $f; else stat -c '%n %a %s %h' $f; md5sum $f; fi; done"
)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Import an image of a shell and a few files."""
    monkeypatch.setenv("SANDBOX_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tmp_path.chmod(0o755)
    top = tmp_path / "root"
    for path in ("bin", "etc", "opt/old/deep", "srv/again", "home"):
        (top / path).mkdir(parents=True)
    assert BUSYBOX is not None
    shutil.copy(BUSYBOX, top / "bin/busybox")
    for tool in (*TOOLS, "grep"):
        (top / "bin" / tool).symlink_to("busybox")
    (top / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (top / "etc/conf").write_text("one\n")
    (top / "opt/old/deep/file").write_text("x")
    (top / "srv/again/hidden").write_text("x")
    (top / "srv/to-link").write_text("x")
    import_image(top, name="base")
    yield "base"


def run(*argv: str, image: str | None = None, **more: object) -> sandbox.Result:
    """Run on an image."""
    return sandbox.run(list(argv), profile="default", image=image, limits={"memory": "none", "processes": "none", "cpu": "none"}, **more)  # type: ignore[arg-type]


WORK = (
    "echo two >>/etc/conf; rm -r /opt/old; mkdir /made /made/dir; echo '#!/bin/sh' >/made/tool; echo echo made >>/made/tool; chmod 755 /made/tool; "
    "rm -r /srv/again; mkdir /srv/again; touch /srv/again/new; rm /srv/to-link; ln -s conf /srv/to-link; ln /made/tool /made/twin; chmod 750 /made/dir; "
    "cp /bin/busybox /bin/copy"
)


def test_a_committed_run_is_an_image_with_the_tree_that_the_run_saw(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = run("sh", "-c", f"{WORK}; {LOOK}", image=base, keep=True)
    assert first.ok, first.stderr
    assert first.changes is not None
    listed = {change.path: str(change.kind) for change in first.changes.list()}
    expected = {
        "bin/copy": "added", "etc/conf": "modified", "made": "added", "made/dir": "added", "made/tool": "added", "made/twin": "added", "opt/old": "deleted",
        "opt/old/deep": "deleted", "opt/old/deep/file": "deleted", "srv/again/hidden": "deleted", "srv/again/new": "added", "srv/to-link": "replaced",
    }  # fmt: skip
    assert listed == expected
    assert first.changes.diff("etc/conf").endswith(" one\n+two\n")
    with pytest.raises(sandbox.PolicyError, match="never changes"):
        first.changes.apply()
    assert image_verbs.run(["commit", first.changes.short_id, "next", "--command", '["sh", "-c", "/made/tool"]']) == 0
    assert capsys.readouterr().out.startswith("next:latest  sha256:")
    seen = run("sh", "-c", LOOK, image="next")
    assert seen.ok and seen.stdout == first.stdout and b"made/twin" in (seen.stdout or b"")
    assert run(image="next").stdout == b"made\n", "it has the command that it was given"
    assert run("cat", "/etc/conf", image=base).stdout == b"one\n", "the image is as it was"


def test_a_run_goes_on_from_another_with_programs_that_that_one_installed(base: str) -> None:
    first = run("sh", "-c", WORK, image=base, keep=True)
    assert first.changes is not None
    second = run("/made/tool", resume=first.changes)
    assert second.stdout == b"made\n", second.stderr
    third = run("sh", "-c", "rm -r /made; echo three >>/etc/conf", resume=first.changes)
    assert third.changes is not None
    kinds = {change.path: str(change.kind) for change in third.changes.list()}
    assert "made" not in kinds and kinds["etc/conf"] == "modified"
    commit_run(third.changes, "third", owner=(7, 8))
    assert run("sh", "-c", "ls /made; cat /etc/conf; ls /srv/again", image="third").stdout == b"one\ntwo\nthree\nnew\n"


def test_an_image_stays_while_a_run_on_it_is_kept(base: str) -> None:
    first = run("sh", "-c", "echo x >/made", image=base, keep=True)
    assert first.changes is not None
    pins = Path(os.environ["SANDBOX_DATA_DIR"]) / "images/pins"
    assert os.listdir(pins) == [f"changes-{first.changes.run_id}"]
    with pytest.raises(sandbox.SandboxError):
        remove_image("base")
    first.changes.discard()
    assert os.listdir(pins) == [] and kept_runs() == []
    remove_image("base")


def test_what_cannot_be_committed_is_refused(base: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    plain = sandbox.run(["sh", "-c", f"echo x >{tree}/x"], profile="default", cow=[tree], limits={"memory": "none", "processes": "none", "cpu": "none"})
    assert plain.changes is not None
    with pytest.raises(sandbox.PolicyError, match="kept nothing of an image"):
        commit_run(find_kept(plain.changes.run_id), "x")
    with pytest.raises(sandbox.PolicyError, match="there is none"):
        sandbox.run(["true"], profile="default", keep=True)
    marked = run("sh", "-c", "touch /srv/.wh.forged", image=base, keep=True)
    assert marked.changes is not None
    with pytest.raises(sandbox.SandboxError, match="whiteout"):
        commit_run(marked.changes, "x")


def test_the_layer_has_no_set_id_surprise_and_no_mark_of_the_overlay(base: str) -> None:
    done = run("sh", "-c", "rm -r /srv/again; mkdir /srv/again; cp /bin/busybox /bin/s; chmod 4755 /bin/s", image=base, keep=True)
    assert done.changes is not None
    image = commit_run(done.changes, "marked")
    layer = Path(image.layers[0])
    assert stat.S_IMODE((layer / "bin/s").stat().st_mode) & 0o7777 == 0o4755, "an image may have set-id files; a run's mounts ignore them"
    assert run("sh", "-c", "ls -A /srv/again", image="marked").stdout == b""
    assert not attributes(str(layer / "bin/s"))


def test_a_file_that_its_owner_may_not_read_is_in_the_image(base: str) -> None:
    done = run("sh", "-c", "echo hidden >/srv/shut; chmod 0 /srv/shut", image=base, keep=True)
    assert done.changes is not None
    commit_run(done.changes, "shut")
    assert run("sh", "-c", "stat -c %a /srv/shut; chmod 600 /srv/shut; cat /srv/shut", image="shut").stdout == b"0\nhidden\n"
