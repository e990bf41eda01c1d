"""Real images, built here: what we unpack against what umoci and podman unpack, file by file; pulled from a registry; and programs run in them.

Run by hand, as an ordinary user: ``python tests/suites/images.py [DIRECTORY] [--tar ROOT.tar]``. Needs Debian's mmdebstrap (unless an archive of a root file
system is given), umoci, skopeo; podman and docker-registry where they are there. It makes

- ``debian``: a Debian root by mmdebstrap, one layer, an OCI layout by umoci;
- ``layered``: the same with 24 layers more, by ``umoci raw add-layer``: whiteouts, opaque directories, hard links, attributes, set-id files, changed
  files, deleted and added ones, directories for files and files for directories.

Prints a table of comparisons and of times. Exit status 0 when every difference is one of `EXPLAINED`.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from kernel.image_bytes import Entry, member, tar_of  # noqa: E402
from kernel.image_fixture import xattrs  # noqa: E402
from kernel.test_image_equal import merged  # noqa: E402

PODMAN = ["podman", "--storage-driver", "vfs"]
LAYERS = 24

# (who, pattern of a line of theirs or ours, why it differs)
EXPLAINED: tuple[tuple[str, str, str], ...] = (
    ("*", r"\S+ (char|block) .*", "devices are left out; in a run /dev is the sandbox's own"),
    ("umoci", r"dev/\S+ file \d+ 0 e3b0c44298fc1c14 .*", "rootless umoci has an empty file in place of a device"),
    ("podman", r"\S+ dir .*", "podman leaves the time of a directory to the last layer that wrote into it, and gives a root without an entry its own mode"),
)


def build(directory: Path, tar: Path | None) -> Path:
    """Make the layout with both images; return its path."""
    layout = directory / "layout"
    if (directory / "built").exists():
        return layout
    if tar is None:
        tar = directory / "root.tar"
        with timed("mmdebstrap bookworm (minbase, python3-minimal, attr)"):
            call("mmdebstrap", "--variant=minbase", "--include=python3-minimal,attr", "bookworm", str(tar))
    call("umoci", "init", "--layout", str(layout))
    call("umoci", "new", "--image", f"{layout}:debian")
    with timed("umoci raw add-layer of it"):
        call("umoci", "raw", "add-layer", "--image", f"{layout}:debian", str(tar))
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    call("umoci", "config", "--image", f"{layout}:debian", "--config.cmd", "/bin/bash", "--config.env", path)
    call("umoci", "tag", "--image", f"{layout}:debian", "layered")
    with timed(f"{LAYERS} layers more"):
        for number, content in enumerate(more_layers(tar)):
            path = directory / "layer.tar"
            path.write_bytes(content)
            call("umoci", "raw", "add-layer", "--image", f"{layout}:layered", str(path), *(["--history.comment", f"layer {number}"]))
    (directory / "built").touch()
    return layout


def more_layers(tar: Path) -> list[bytes]:
    """Return layers over a Debian root that do everything a layer can do, the same each time for the same root."""
    chance = random.Random(2026)
    with tarfile.open(tar) as archive:
        entries = {entry.name.removeprefix("./").rstrip("/"): entry for entry in archive}
    documents = sorted(name for name, entry in entries.items() if name.startswith("usr/share/") and entry.isreg() and entry.size < 200_000)
    folders = sorted(name for name, entry in entries.items() if name.startswith("usr/share/doc/") and entry.isdir() and name.count("/") == 3)
    programs = sorted(name for name, entry in entries.items() if name.startswith("usr/bin/") and entry.isreg() and entry.size < 300_000)
    made = []
    for number in range(LAYERS):
        own = f"srv/layer-{number}"
        layer: list[Entry] = [
            member(own, tarfile.DIRTYPE, mode=0o2775, pax_headers=xattrs(layer=str(number))),
            (member(f"{own}/file", mode=0o4755, pax_headers=xattrs(number=str(number))), b"%d\n" % number),
            member(f"{own}/again", tarfile.LNKTYPE, mode=0o4755, linkname=f"{own}/file"),
            member(f"{own}/link", tarfile.SYMTYPE, linkname="../../etc/debian_version"),
        ]
        gone = chance.sample(documents, 3)
        layer += [member(f"{name.rpartition('/')[0]}/.wh.{name.rpartition('/')[2]}") for name in gone]
        documents = [name for name in documents if name not in gone]
        layer += [(name, b"changed by layer %d\n" % number) for name in chance.sample(documents, 3)]
        program = chance.choice(programs)
        # As tar writes it: podman gives the file what a link's header says, umoci and we leave it.
        own_facts = {"mode": entries[program].mode, "mtime": entries[program].mtime}
        layer.append(member(f"{own}/program", tarfile.LNKTYPE, linkname=program, **own_facts))
        if number % 4 == 1:
            folder = chance.choice(folders)
            folders.remove(folder)
            documents = [name for name in documents if not name.startswith(folder + "/")]
            layer += [member(folder, tarfile.DIRTYPE), member(f"{folder}/.wh..wh..opq"), (f"{folder}/only", b"only\n")]
        if number % 4 == 2:
            folder = chance.choice(folders)
            folders.remove(folder)
            documents = [name for name in documents if not name.startswith(folder + "/")]
            layer.append((folder, b"a file in the place of a directory\n"))
        if number % 4 == 3:
            name = chance.choice(documents)
            documents.remove(name)
            layer += [member(name, tarfile.DIRTYPE), (f"{name}/inside", b"a directory in the place of a file\n")]
        made.append(tar_of(layer))
    return made


def call(*words: str, **options: object) -> str:
    """Run a program; end with its words when it fails."""
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"{' '.join(words)[:300]}: {done.stderr[-2000:]}")
    return str(done.stdout)


class timed:
    """Print how long a block takes, and how much processor time what it starts takes, when it has ended."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        self.began, self.spent = time.monotonic(), self.processor()

    def __exit__(self, *error: object) -> None:
        print(f"  {time.monotonic() - self.began:7.2f} s, {self.processor() - self.spent:6.2f} s of a processor: {self.what}", flush=True)

    @staticmethod
    def processor() -> float:
        """Return the processor time of all processes that were started and waited for."""
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime


def sandbox(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run our command line."""
    done = subprocess.run([sys.executable, "-I", str(ROOT / "sandbox" / "__main__.py"), *words], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if check and done.returncode:
        sys.exit(f"sandbox {' '.join(words)}: {done.stderr}")
    return done


def layers_of(name: str, suffix: str = "") -> list[str]:
    """Return an image's layers, topmost first."""
    from sandbox import images

    return [path.removesuffix("/tree") + suffix + "/tree" for path in images.show(name).layers]


def umoci(layout: Path, tag: str, directory: Path) -> list[str]:
    """Return the listing of what umoci unpacks."""
    from kernel.image_fixture import listing

    bundle = directory / f"umoci-{tag}"
    remove(bundle)
    with timed(f"umoci unpack --rootless {tag}"):
        call("umoci", "unpack", "--rootless", "--keep-dirlinks", "--image", f"{layout}:{tag}", str(bundle))
    found = listing(bundle / "rootfs")
    remove(bundle)
    return found


def podman(layout: Path, tag: str, owners: bool = False) -> list[str] | str:
    """Return the listing of what podman unpacks, or why it does not run."""
    if shutil.which("podman") is None:
        return "podman is not installed"
    with timed(f"podman pull {tag} (vfs)"):
        done = subprocess.run([*PODMAN, "pull", "-q", f"oci:{layout}:{tag}"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        return f"podman does not run here: {done.stderr.strip()[-300:]}"
    image = done.stdout.split()[-1]
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); from kernel.image_fixture import listing"
    script += f"; print('\\n'.join(listing(sys.argv[1], owners={owners})))"
    shell = f'exec {sys.executable} -I -c "$1" "$({" ".join(PODMAN)} image mount {image})"'
    unshare = [] if os.geteuid() == 0 else [*PODMAN, "unshare"]
    found = call(*unshare, "sh", "-c", shell, "sh", script).splitlines()
    return found


def remove(path: Path) -> None:
    """Remove a tree of modes that forbid it."""
    if path.exists():
        subprocess.run(["chmod", "-R", "u+rwx", str(path)], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", str(path)], check=True)


def untimed_directories(lines: Sequence[str]) -> list[str]:
    """Return a listing without the times of directories."""
    return [re.sub(r" @\d+$", "", line) if re.match(r".* dir \d+", line) else line for line in lines]


def regroup(lines: Sequence[str]) -> list[str]:
    """Return a listing without which names are one file, for names that a hard link to a layer below takes apart: overlay shows two files there."""
    return [re.sub(r" = \S+(?= )", "", line) for line in lines]


def report(who: str, tag: str, ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Print how two listings differ; return whether each difference is explained."""
    mine, other = set(ours), set(theirs)
    unexplained = []
    explained: dict[str, int] = {}
    for line in sorted(mine ^ other):
        why = next((reason for name, pattern, reason in EXPLAINED if name in ("*", who) and re.fullmatch(pattern, line)), None)
        if why is None:
            unexplained.append(("ours   " if line in mine else "theirs ") + line)
        else:
            explained[why] = explained.get(why, 0) + 1
    print(f"  {tag} against {who}: {len(mine)} entries of ours, {len(other)} of theirs, {len(mine & other)} equal, {len(unexplained)} unexplained")
    for why, count in explained.items():
        print(f"    {count:5} {why}")
    for line in unexplained[:20]:
        print(f"      {line}")
    return not unexplained


def ranged(layout: Path, tag: str, directory: Path) -> bool:
    """Compare owners: the form with the caller's subordinate ids, against podman, whose root is the caller, too."""
    if os.geteuid() == 0:
        print("  root has no subordinate ids here")
        return True
    with timed(f"sandbox image unpack --ids range {tag}"):
        sandbox("image", "unpack", "--ids", "range", f"{tag}:suite")
    layer_paths = layers_of(f"{tag}:suite", ".range")
    ours = merged(layer_paths, directory, wrapper=("unshare", "--map-root-user", "--map-auto", "-m"), owners=True)
    found = podman(layout, tag, owners=True)
    if isinstance(found, str):
        print(f"  {found}")
        return True
    kinds = {re.sub(r".* (\d+:\d+) .*", r"\1", line) for line in ours}
    print(f"  {len(kinds)} different owners")
    good = report("podman", f"{tag} with owners", untimed_directories(regroup(ours)), untimed_directories(regroup(found)))
    profile = directory / "range.toml"
    profile.write_text('description = "ids of an image"\nextends = "default"\n[namespaces]\nids = "range"\n')
    for command in (["apt-get", "check"], ["sh", "-c", "chown man:man /tmp && stat -c %U /tmp /usr"]):
        done = sandbox("exec", "-q", "-p", str(profile), "--image", f"{tag}:suite", "--", *command, check=False)
        good &= done.returncode == 0
        print(f"  {'ok ' if not done.returncode else 'BAD'} {tag}, ids of a range: {' '.join(command)[:60]}: {(done.stdout or done.stderr).strip()[:200]!r}")
    return good


def run_programs(tag: str) -> bool:
    """Run programs of the image."""
    good = True
    checks: list[tuple[list[str], Callable[[str], bool]]] = [
        (["cat", "/etc/os-release"], lambda out: "bookworm" in out),
        (["python3", "-c", "import os; print(sorted(os.listdir('/')))"], lambda out: "usr" in out),
        (["perl", "-e", "print join(',', map { $_ * 2 } 1..5)"], lambda out: out == "2,4,6,8,10"),
        (["dpkg", "--verify", "bash"], lambda out: True),
        (["bash", "-c", "echo $((6*7)); touch /root/x 2>/dev/null; ls /srv | wc -l"], lambda out: out.startswith("42")),
    ]
    for command, holds in checks:
        done = sandbox("exec", "-q", "--image", tag, "--", *command, check=False)
        fine = done.returncode == 0 and holds(done.stdout)
        good &= fine
        print(f"  {'ok ' if fine else 'BAD'} {tag}: {' '.join(command)[:70]}: {(done.stdout or done.stderr).strip()[:60]!r}")
    return good


def from_registry(layout: Path, directory: Path) -> bool:
    """Push both images to Debian's registry, pull them back with us and with skopeo."""
    if shutil.which("docker-registry") is None:
        print("  docker-registry is not installed")
        return True
    from kernel.registries import debian_registry

    good = True
    with debian_registry(directory / "registry") as registry:
        for tag in ("debian", "layered"):
            reference = registry.push(layout, f"suite/{tag}", tag)
            with timed(f"skopeo copy of {tag} from the registry into a directory"):
                call("skopeo", "copy", "-q", "--src-tls-verify=false", "--src-no-creds", f"docker://{reference}", f"oci:{directory / f'copied-{tag}'}:x")
            with timed(f"sandbox image pull {tag}, into a new store, unpacked"):
                env = {**os.environ, "SANDBOX_DATA_DIR": str(directory / f"pulled-{tag}")}
                pulled = call(sys.executable, "-I", str(ROOT / "sandbox" / "__main__.py"), "image", "pull", "-q", "--tls-verify=false", reference, env=env)
            with timed(f"the same again: {tag} is there"):
                call(sys.executable, "-I", str(ROOT / "sandbox" / "__main__.py"), "image", "pull", "-q", "--tls-verify=false", reference, env=env)
            same = pulled.strip() == sandbox("image", "show", "--json", f"{tag}:suite").stdout.split('"digest": "')[1].split('"')[0]
            good &= same
            print(f"  {'ok ' if same else 'BAD'} {tag}: the digest is that of the layout")
            remove(directory / f"pulled-{tag}")
            remove(directory / f"copied-{tag}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, nargs="?", default=Path("/var/tmp/sandbox-images-suite"))
    parser.add_argument("--tar", type=Path, help="an archive of a Debian root, instead of mmdebstrap")
    options = parser.parse_args()
    directory: Path = options.directory
    directory.mkdir(parents=True, exist_ok=True)
    os.environ["SANDBOX_DATA_DIR"] = str(directory / "data")
    PODMAN[1:1] = ["--root", str(directory / "podman"), "--runroot", str(directory / "podman-run")]
    good = True
    print("build")
    layout = build(directory, options.tar)
    for tag in ("debian", "layered"):
        print(tag)
        with timed(f"sandbox image import {tag}"):
            sandbox("image", "import", str(layout), "--ref", tag, "--name", f"{tag}:suite")
        with timed(f"sandbox image verify {tag}"):
            sandbox("image", "verify", f"{tag}:suite")
        ours = merged(layers_of(f"{tag}:suite"), directory)
        theirs = umoci(layout, tag, directory)
        good &= report("umoci", tag, regroup(ours) if tag == "layered" else ours, regroup(theirs) if tag == "layered" else theirs)
        found = podman(layout, tag)
        if isinstance(found, str):
            print(f"  {found}")
        else:
            good &= report("podman", tag, untimed_directories(regroup(ours)), untimed_directories(regroup(found)))
        good &= run_programs(f"{tag}:suite")
    print("owners")
    good &= ranged(layout, "debian", directory)
    print("registry")
    good &= from_registry(layout, directory)
    if (directory / "podman").exists():
        unshare = [] if os.geteuid() == 0 else [*PODMAN, "unshare"]
        subprocess.run([*unshare, "rm", "-rf", str(directory / "podman"), str(directory / "podman-run")], check=False)
    print("good" if good else "BAD")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
