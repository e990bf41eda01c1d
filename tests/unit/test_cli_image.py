"""The command line of images: help, mistakes, what is printed and how it ends. Sources are tiny; no sandbox runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from sandbox.cli import image
from sandbox.cli.main import main


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let every test have a store of its own, and start where its sources are."""
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("content")
    monkeypatch.setenv("SANDBOX_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data" / "images"


def run(capsys: Any, *words: str) -> tuple[int, str, str]:
    code = main(["image", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("command", image.commands())
def test_help_fits_a_terminal(capsys: Any, command: str) -> None:
    code, out, err = run(capsys, command, "--help")
    assert (code, err) == (0, "") and out.startswith(f"usage: sandbox image {command}")
    assert [line for line in out.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), ""),
        (("imprt",), "did you mean `sandbox image import`?"),
        (("import",), "say what to import"),
        (("import", "a", "b"), "surplus operand `b`"),
        (("import", "nothing"), "open `nothing`: No such file or directory (ENOENT)"),
        (("import", "tree", "--name", "Bad"), "image name `Bad`"),
        (("import", "tree", "--kind", "x"), "unknown kind `x`"),
        (("import", "tree", "--ids", "x"), "unknown form `x`"),
        (("import", "tree", "--env", "A"), "`A` is not of the form NAME=VALUE"),
        (("import", "tree", "--workdir", "a"), "must be an absolute path"),
        (("import", "tree", "--command", "[1]"), "JSON array"),
        (("import", "tree", "--entrypoint", "'"), "No closing quotation"),
        (("import", "tree", "--max-entries", "x"), "`x` is no number"),
        (("import", "tree", "--max-bytes", "x"), "size `x`"),
        (("import", "tree", "--max-entries", "1"), "`--max-entries` raises the bound"),
        (("import", "tree", "--max-bytes", "3"), "`--max-bytes` raises the bound"),
        (("show", "x"), "there is no image `x`"),
        (("rm",), "say which image"),
        (("rm", "x"), "there is no image `x`"),
        (("export", "x"), "say which image, and where to"),
        (("unpack", "x"), "there is no image `x`"),
        (("verify", "x"), "there is no image `x`"),
        (("ls", "x"), "surplus operand `x`"),
        (("ls", "--jsn"), "did you mean `--json`?"),
    ],
)
def test_mistakes_are_said_and_end_with_125(capsys: Any, store: Path, words: tuple[str, ...], says: str) -> None:
    code, _, err = run(capsys, *words)
    assert code == 125 and says in err
    assert not store.exists() or os.listdir(store / "tmp") == []


def test_an_image_from_its_import_to_its_end(capsys: Any, tmp_path: Path, store: Path) -> None:
    code, out, err = run(capsys, "import", "tree", "-n", "one:1", "-n", "two:2", "-e", "A=b=c", "--entrypoint", '["/x", ""]', "-c", "a 'b c'", "-u", "5")
    assert (code, err) == (0, "") and out.startswith("one:1, two:2  sha256:")
    digest = out.split()[-1]
    assert run(capsys, "import", "-q", "tree", "-n", "one:1", "-e", "A=b=c", "--entrypoint", '["/x", ""]', "-c", "a 'b c'", "-u", "5")[1] == digest + "\n"
    (shown,) = json.loads(run(capsys, "show", "--json", "one:1")[1])
    assert shown["digest"] == digest and shown["names"] == ["docker.io/library/one:1", "docker.io/library/two:2"]
    assert shown["config"]["entrypoint"] == ["/x", ""] and shown["config"]["command"] == ["a", "b c"] and shown["config"]["user"] == "5"
    assert shown["config"]["environment"]["A"] == "b=c" and Path(shown["layers"][0]["directory"], "file").read_text() == "content"
    assert "entrypoint   ['/x', '']" in run(capsys, "show", digest[:20])[1]
    lines = run(capsys, "ls")[1].splitlines()
    assert lines[0].split() == ["NAME", "ID", "ARCH", "LAYERS", "SIZE"] and [line.split()[0] for line in lines[1:]] == ["one:1", "two:2"]
    assert run(capsys, "ls", "-q")[1] == f"{digest[7:19]}\n" and len(json.loads(run(capsys, "ls", "--json")[1])) == 1
    for form in ("oci", "oci-archive", "docker-archive"):
        target = str(tmp_path / f"out-{form}")
        assert run(capsys, "export", "--format", form, "one:1", target) == (0, "", "")
        code, _, err = run(capsys, "export", "--format", form, "one:1", target)
        assert code == 125 and "is there already" in err
        if form != "oci":
            assert run(capsys, "export", "-f", "--format", form, "one:1", target)[0] == 0
        code, out, _ = run(capsys, "import", "--json", target)
        (found,) = json.loads(out)
        assert found["config"] == shown["config"] and (found["digest"] == digest or form == "docker-archive")
        assert "docker.io/library/one:1" in found["names"]
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]
    assert run(capsys, "verify") == (0, "", "")
    assert run(capsys, "rm", "--force", digest[:12])[0] == 0
    run(capsys, "prune", "--all")
    for room in ("blobs/sha256", "layers", "manifests", "names", "uses", "tmp"):
        assert os.listdir(store / room) == [], room


def test_removal_says_what_is_in_the_way_and_goes_on(capsys: Any) -> None:
    run(capsys, "import", "tree", "-n", "a:1", "-n", "a:2")
    digest = json.loads(run(capsys, "show", "--json", "a:1")[1])[0]["digest"]
    code, _, err = run(capsys, "rm", digest)
    assert code == 125 and "has 2 names: `a:1`, `a:2`" in err
    code, out, err = run(capsys, "rm", "nope", "a:1")
    assert (code, out) == (125, "untagged a:1\n") and "`nope`" in err
    assert run(capsys, "rm", "--force", "nope")[0] == 0
    assert run(capsys, "rm", "a:2")[1] == f"untagged a:2\nremoved {digest}\n"


def test_a_name_that_moves_leaves_an_image_for_prune(capsys: Any, tmp_path: Path) -> None:
    run(capsys, "import", "tree", "-n", "x")
    old = run(capsys, "ls", "-q")[1].strip()
    (tmp_path / "tree" / "file").write_text("changed")
    run(capsys, "import", "tree", "-n", "x")
    assert [line.split()[0] for line in run(capsys, "ls", "--no-header")[1].splitlines()] == ["x:latest", "-"]
    out = run(capsys, "prune")[1]
    assert out.startswith(f"removed sha256:{old}") and "1 images, 1 layers, 3 blobs" in out
    assert json.loads(run(capsys, "prune", "--json")[1]) == {"images": [], "blobs": 0, "layers": 0, "bytes": 0, "complete": True}


def test_damage_is_found_and_mended(capsys: Any, store: Path) -> None:
    run(capsys, "import", "tree", "-n", "x")
    (shown,) = json.loads(run(capsys, "show", "--json", "x")[1])
    file = Path(shown["layers"][0]["directory"], "file")
    before = file.stat()
    file.write_text("CONTENT")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    code, out, _ = run(capsys, "verify", "x")
    assert code == 1 and out.endswith("tree/file: its content is different\n")
    assert run(capsys, "verify", "--fast")[0] == 0
    code, out, _ = run(capsys, "verify", "--repair", "--json")
    assert code == 0 and json.loads(out)[0]["mended"] and file.read_text() == "content"
    blob = store / "blobs" / "sha256" / shown["layers"][0]["blob"][7:]
    data = bytearray(blob.read_bytes())
    data[20] ^= 1
    blob.write_bytes(data)
    code, out, _ = run(capsys, "verify")
    assert code == 1 and "the blob's digest is" in out
    code, _, err = run(capsys, "export", "x", "out.tar")
    assert code == 125 and "is damaged" in err and not os.path.exists("out.tar")
    assert run(capsys, "verify", "--repair")[0] == 1 and not blob.exists()
    run(capsys, "import", "tree", "-n", "x")
    assert run(capsys, "verify") == (0, "", "")


def test_a_terminal_is_no_archive(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: fd == 0)
    assert "standard input is a terminal" in run(capsys, "import", "-")[2]
    monkeypatch.setattr(os, "isatty", lambda fd: fd == 1)
    assert run(capsys, "import", "tree", "-n", "x")[0] == 0
    code, _, err = run(capsys, "export", "x", "-")
    assert code == 125 and "an archive on a terminal" in err


def test_names_and_notes_of_strangers_are_harmless_for_a_terminal(capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "tree" / ".wh.\x1b[31m").touch()
    code, _, err = run(capsys, "import", "tree")
    assert code == 125 and "\x1b" not in err and "would be a whiteout" in err
