"""The steps that build the root from its entries: all of them for one launch, or in two parts, for a server's root and for what each of its runs mounts.

A run's own are its tmpfs and everything below one, what is mounted inside of a shared tree, /proc and the terminals; all else is read-only and the same for
every run. Pure; only `plan.build` and `plan.template` import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox.errors import UnsupportedError
from sandbox.plan.build_overlay import add_overlay, build_overlay_root
from sandbox.plan.root import Bind, Directory, FileBytes, LiveFiles, Overlay, RootEntry, RootSpec, Symlink, Tmpfs
from sandbox.plan.steps import (
    AttachTree,
    CloneDevice,
    CloneTree,
    CoverPath,
    LinkFile,
    MakeDirectory,
    MakeSymlink,
    MaskProc,
    MountDevpts,
    MountLive,
    MountProc,
    MountRoot,
    MountTmpfs,
    Step,
    TakeStash,
    WriteFile,
)  # fmt: skip
from sandbox.policy.profile import ProcMode
from sandbox.record import dataclass, field

if TYPE_CHECKING:
    from sandbox.plan.build import Request

ROOT_BYTES = 16 << 20
ROOT_INODES = 4096
STASH = "/dev/shm"  # the run's own tmpfs covers it, so nothing of what was kept below can be seen from inside

EMPTY = ("/var/empty", "/.empty")
"""An empty directory, which masks are made of; the second where /var is shared."""

DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))

# What a full procfs tells of the host or lets a holder of the wrong capability do; OCI's masked and read-only paths and more.
PROC_HIDDEN_FILES = (
    "cmdline", "config.gz", "interrupts", "kallsyms", "kcore", "key-users", "keys", "kmsg", "kpagecgroup", "kpagecount", "kpageflags", "latency_stats",
    "modules", "sched_debug", "slabinfo", "sys/kernel/random/boot_id", "sysrq-trigger", "timer_list", "timer_stats", "vmallocinfo",
)  # fmt: skip
PROC_HIDDEN_DIRECTORIES = ("acpi", "driver", "scsi")
PROC_READ_ONLY = ("bus", "fs", "irq", "sys")
# With a machine view nothing of procfs tells how large or how busy the host is, or what it is made of. Each is a mount of every launch.
VIEW_HIDDEN_FILES = ("buddyinfo", "iomem", "ioports", "schedstat", "softirqs", "zoneinfo")
VIEW_HIDDEN_DIRECTORIES = ("asound", "bus", "irq")
MACHINE = "/sys"
"""Nothing of the kernel's is mounted there: what a machine view shows is ours, and read-only whatever the root is."""


@dataclass(slots=True, kw_only=True)
class RootSteps:
    """The root in parts.

    `trees` and `devices` are to be taken before it exists, `shared` builds what all runs of a server have, `stashed` keeps there the trees that
    the run mounts, `taken` takes them again, and `own` makes what is the run's.
    """

    trees: list[CloneTree] = field(default_factory=list)
    devices: list[CloneDevice] = field(default_factory=list)
    shared: list[Step] = field(default_factory=list)
    stashed: list[Step] = field(default_factory=list)
    taken: list[Step] = field(default_factory=list)
    own: list[Step] = field(default_factory=list)


def whole_root(request: Request, notes: list[str]) -> RootSteps:
    """Return the steps of one launch's root, all of them in `shared`."""
    steps = RootSteps()
    _build(request, notes, steps, steps.shared, split=False)
    return steps


def split_root(request: Request, notes: list[str]) -> RootSteps:
    """Return the steps in parts. `split_refusal` must have said that it can be done."""
    steps = RootSteps()
    _build(request, notes, steps, steps.own, split=True)
    return steps


def split_refusal(request: Request) -> str:
    """Return why a root cannot be built once for many runs, or nothing."""
    entries = _all_entries(request)
    for entry in entries.values():
        if isinstance(entry, Overlay):
            return f"what is written to the overlay at `{entry.path}` is the run's own"
        if isinstance(entry, Bind) and entry.mapped:
            return f"volume `{entry.mapped}` is opened for each run"
    if not isinstance(entries.get(STASH), Tmpfs):
        return f"`{STASH}` is not a tmpfs"
    for path, entry in entries.items():
        if isinstance(entry, Tmpfs) and _covering_bind(path, entries) is not None:
            # By then a program may have put a link in the mount point's place.
            return f"a tmpfs at `{path}`, in a shared tree"
    return ""


def mounts_in_shared(root: RootSpec) -> bool:
    """Return whether something is mounted inside of a shared tree: a mask, mostly. The kernel drops it when the host removes or replaces its mount point, so a
    root that has one is not made long before it is used.
    """
    entries = {entry.path: entry for entry in root.entries}
    return any(isinstance(entry, (Bind, Tmpfs, Overlay)) and _covering_bind(path, entries) is not None for path, entry in entries.items())


def _build(request: Request, notes: list[str], steps: RootSteps, own: list[Step], *, split: bool) -> None:
    entries = _all_entries(request)
    steps.shared.append(MountRoot(size_bytes=ROOT_BYTES, inodes=ROOT_INODES))
    root = entries.get("/")
    if isinstance(root, Overlay):
        build_overlay_root(root, entries, steps)
    else:
        _build_entries(entries, steps, own, split=split)
    _add_devices_and_proc(request, notes, steps, own, split=split)


def _build_entries(entries: dict[str, RootEntry], steps: RootSteps, own: list[Step], *, split: bool) -> None:
    made = {"/"}
    written: dict[tuple[bytes, int], str] = {}
    for path in sorted(entries, key=lambda p: p.split("/")):
        entry = entries[path]
        within = _covering_bind(path, entries) is not None
        # The kernel drops a mount whose mount point is removed or replaced by the host: in a shared tree each run makes it anew.
        part = own if split and (within or _below_tmpfs(path, entries)) else steps.shared
        if not within:
            for parent in _parents(path):
                if parent not in made:
                    made.add(parent)
                    (own if split and _below_tmpfs(parent, entries) else steps.shared).append(MakeDirectory(path=parent))
        match entry:
            case Tmpfs():
                if not (path in made or within):
                    part.append(MakeDirectory(path=path))
                own.append(
                    MountTmpfs(path=path, size_bytes=entry.size_bytes, inodes=entry.inodes, mode=entry.mode, executable=entry.executable, within=within)
                )
            case Bind():
                _add_bind(entry, within, path in made, steps, part, split and part is own)
            case Directory():
                if path not in made:
                    part.append(MakeDirectory(path=path, mode=entry.mode))
            case Symlink():
                part.append(MakeSymlink(path=path, target=entry.target))
            case FileBytes():
                first = written.setdefault((entry.content, entry.mode), path) if path.startswith("/sys/") and entry.content else path
                part.append(WriteFile(path=path, content=entry.content, mode=entry.mode) if first == path else LinkFile(path=path, source=first))
            case LiveFiles():
                part.append(MakeDirectory(path=path))
            case Overlay():
                if not (path in made or within):
                    part.append(MakeDirectory(path=path))
                add_overlay(entry, steps, part)
        made.add(path)


def _add_devices_and_proc(request: Request, notes: list[str], steps: RootSteps, own: list[Step], *, split: bool) -> None:
    profile = request.profile
    steps.devices = [CloneDevice(name=name, major=major, minor=minor, key=f"dev:{name}") for name, major, minor in DEVICES]
    for device in steps.devices:
        steps.shared += [WriteFile(path=f"/dev/{device.name}", content=b""), AttachTree(path=f"/dev/{device.name}", key=device.key)]
    own.append(MountDevpts())
    if profile.proc is not ProcMode.NONE:
        if not request.host.proc_mountable:
            raise UnsupportedError(
                "a fresh /proc", "namespaces.proc", reason="parts of the outer /proc are masked, so the kernel refuses a new one",
                hint="run the outer container with its /proc unmasked (docker: `--security-opt systempaths=unconfined`), or set `proc = \"none\"`",
            )  # fmt: skip
        minimal = profile.proc is ProcMode.MINIMAL
        if split:
            # A new procfs may only be mounted where one can be seen already; the server's own shows nothing but the server and its runs' inits.
            steps.shared.append(MountProc(minimal=minimal))
        own.append(MountProc(minimal=minimal))
        if not minimal:
            empty = next(path for path in EMPTY if path in _all_entries(request))
            own.append(mask_proc(empty, viewed=any(cover.path.startswith("/proc/") for cover in request.root.covers)))
    else:
        notes.append("no /proc inside: asked for by the profile")
    _add_machine(request.root, steps, own)


def mask_proc(empty: str, *, viewed: bool) -> MaskProc:
    """Return what is hidden of a whole /proc; more where the files that tell of the machine are ours. `empty` is an empty directory."""
    if not viewed:
        return MaskProc(files=PROC_HIDDEN_FILES, directories=PROC_HIDDEN_DIRECTORIES, read_only=PROC_READ_ONLY, empty=empty)
    return MaskProc(
        files=PROC_HIDDEN_FILES + VIEW_HIDDEN_FILES,
        directories=PROC_HIDDEN_DIRECTORIES + VIEW_HIDDEN_DIRECTORIES,
        read_only=tuple(name for name in PROC_READ_ONLY if name not in VIEW_HIDDEN_DIRECTORIES),
        empty=empty,
    )


def _add_machine(root: RootSpec, steps: RootSteps, own: list[Step]) -> None:
    """Seal what a machine view shows, where the root itself does not do it in time, then mount what is live and what covers /proc."""
    live = [entry for entry in root.entries if isinstance(entry, LiveFiles)]
    kept = [entry.path for entry in root.entries if isinstance(entry, FileBytes) and entry.path.startswith(f"{MACHINE}/")]
    below = tuple(f"{entry.path}/" for entry in live)
    if kept and (any(isinstance(entry, Overlay) for entry in root.entries) or any(not cover.source.startswith(below) for cover in root.covers)):
        steps.shared.append(CoverPath(path=MACHINE, source=MACHINE))
    own += [MountLive(path=entry.path, files=entry.files, directories=entry.directories) for entry in live]
    own += [CoverPath(path=cover.path, source=cover.source, sealed=True) for cover in root.covers]


def _add_bind(entry: Bind, within: bool, made: bool, steps: RootSteps, part: list[Step], stash: bool) -> None:
    key = f"tree:{len(steps.trees)}"
    steps.trees.append(CloneTree(bind=entry, key=key))

    def ground(path: str) -> Step:
        return MakeDirectory(path=path) if entry.directory else WriteFile(path=path, content=b"", mode=0o444)

    if stash:
        kept = f"{STASH}/{len(steps.taken)}"
        steps.stashed += [ground(kept), AttachTree(path=kept, key=key)]
        steps.taken.append(TakeStash(path=kept, key=key))
    if not within and not made:
        part.append(ground(entry.path))
    part.append(AttachTree(path=entry.path, key=key, within=within))


def _all_entries(request: Request) -> dict[str, RootEntry]:
    limits = request.profile.limits
    own: list[RootEntry] = [
        Directory(path="/proc", mode=0o555),
        Directory(path="/dev"),
        Directory(path="/dev/pts"),
        Directory(path=EMPTY[0], mode=0o555),
        Tmpfs(path="/dev/shm", size_bytes=limits.shm_bytes, inodes=limits.shm_inodes, executable=False),
        Symlink(path="/dev/fd", target="/proc/self/fd"),
        Symlink(path="/dev/stdin", target="/proc/self/fd/0"),
        Symlink(path="/dev/stdout", target="/proc/self/fd/1"),
        Symlink(path="/dev/stderr", target="/proc/self/fd/2"),
        Symlink(path="/dev/ptmx", target="pts/ptmx"),
    ]
    entries = {entry.path: entry for entry in (*own, *request.root.entries)}
    if _covering_bind(EMPTY[0], entries) is not None and entries.get("/") is None:
        del entries[EMPTY[0]]
        entries[EMPTY[1]] = Directory(path=EMPTY[1], mode=0o555)
    return entries


def _parents(path: str) -> list[str]:
    parts = path.split("/")[1:-1]
    return ["/" + "/".join(parts[: count + 1]) for count in range(len(parts))]


def _below_tmpfs(path: str, entries: dict[str, RootEntry]) -> bool:
    return any(isinstance(entries.get(parent), Tmpfs) for parent in _parents(path))


def _covering_bind(path: str, entries: dict[str, RootEntry]) -> str | None:
    """The nearest entry above `path` that is a shared tree and not hidden by a tmpfs in between, or None."""
    for parent in reversed(_parents(path)):
        match entries.get(parent):
            case Bind() | Overlay():
                return parent
            case Tmpfs():
                return None
            case _:
                continue
    return None
