"""The steps of a root that is an overlay: a skeleton of mount points and files of ours, the layers below it, then what is mounted on top.

Whatever stands in the image where something of ours goes, a link to another place most of all, is hidden by the skeleton before anything is mounted. Pure;
only `plan.build_root` imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox.errors import UnsupportedError
from sandbox.plan.lower_overlay import MAXIMUM_LAYERS
from sandbox.plan.root import Bind, Directory, FileBytes, Overlay, RootEntry, Symlink, Tmpfs
from sandbox.plan.steps import AttachTree, BeginSkeleton, CloneTree, MakeDirectory, MakeSymlink, MountOverlay, MountTmpfs, Step, WriteFile

if TYPE_CHECKING:
    from sandbox.plan.build_root import RootSteps

DEVICES_BYTES, DEVICES_INODES = 64 << 10, 64


def add_overlay(entry: Overlay, steps: RootSteps, part: list[Step]) -> None:
    """Add the trees of an overlay and its mount.

    Raises:
        UnsupportedError: it has more layers than overlayfs takes.
    """
    trees, mount = overlay_steps(entry, len(steps.trees))
    steps.trees += trees
    part.append(mount)


def overlay_steps(entry: Overlay, taken: int = 0) -> tuple[list[CloneTree], MountOverlay]:
    """Return how the layers are taken, and how they are mounted.

    Args:
        entry: what is asked for.
        taken: how many trees there are before, for the names of these.

    Raises:
        UnsupportedError: it has more layers than overlayfs takes.
    """
    if len(entry.lowers) > MAXIMUM_LAYERS:
        raise UnsupportedError(
            f"{len(entry.lowers)} layers", entry.why or f"overlay at `{entry.path}`", reason=f"overlayfs takes {MAXIMUM_LAYERS} and ours",
            hint="make one layer of several: export the image and import it again",
        )  # fmt: skip
    why = f"layer of {entry.why}"
    binds = [
        Bind(path=entry.path, source=lower, directory=True, executable=entry.executable, why=why, mapped=entry.mapping) for lower in entry.lowers
    ]  # fmt: skip
    if entry.upper is not None:
        binds.append(Bind(path=entry.path, source=entry.upper, directory=True, writable=True, why=f"changes of {entry.why}"))
    trees = [CloneTree(bind=bind, key=f"tree:{number}") for number, bind in enumerate(binds, start=taken)]
    keys = [tree.key for tree in trees]
    mount = MountOverlay(
        path=entry.path, lowers=tuple(keys[: len(entry.lowers)]), upper=keys[-1] if entry.upper is not None else "", mode=entry.mode,
        size_bytes=entry.size_bytes, inodes=entry.inodes, executable=entry.executable, why=entry.why,
    )  # fmt: skip
    return trees, mount


def build_overlay_root(root: Overlay, entries: dict[str, RootEntry], steps: RootSteps) -> None:
    """Add the skeleton of everything that the sandbox has of its own, the overlay, and the mounts; all of it to `steps.shared`."""
    part = steps.shared
    entries = entries | {"/dev": Tmpfs(path="/dev", size_bytes=DEVICES_BYTES, inodes=DEVICES_INODES, mode=0o755, executable=False)}
    del entries["/"]
    entries.pop("/var/empty", None)  # a mask's; the stage has one
    order = sorted(entries, key=lambda path: path.split("/"))
    part.append(BeginSkeleton())
    made = {"/"}
    for path in order:
        if _cover(path, entries) is None:
            _add_ground(path, entries[path], made, part)
    add_overlay(root, steps, part)
    for path in order:
        entry = entries[path]
        above = _cover(path, entries)
        within = not isinstance(above, Tmpfs)
        if isinstance(above, Tmpfs):
            _add_ground(path, entry, made, part)
        match entry:
            case Tmpfs():
                part.append(
                    MountTmpfs(
                        path=path, size_bytes=entry.size_bytes, inodes=entry.inodes, mode=entry.mode, executable=entry.executable, within=within
                    )
                )
            case Bind():
                part.append(AttachTree(path=path, key=_take(steps, entry), within=within))
            case Overlay():
                add_overlay(entry, steps, part)
            case _:
                pass


def _take(steps: RootSteps, bind: Bind) -> str:
    key = f"tree:{len(steps.trees)}"
    steps.trees.append(CloneTree(bind=bind, key=key))
    return key


def _add_ground(path: str, entry: RootEntry, made: set[str], part: list[Step]) -> None:
    """Make what an entry is, or what it is mounted on, and its parents."""
    parts = path.split("/")[1:-1]
    for count in range(len(parts)):
        parent = "/" + "/".join(parts[: count + 1])
        if parent not in made:
            made.add(parent)
            part.append(MakeDirectory(path=parent))
    if path in made:
        return
    made.add(path)
    match entry:
        case Directory(mode=mode, owner=owner):
            part.append(MakeDirectory(path=path, mode=mode, owner=owner))
        case Symlink(target=target):
            part.append(MakeSymlink(path=path, target=target))
        case FileBytes(content=content, mode=mode):
            part.append(WriteFile(path=path, content=content, mode=mode))
        case Bind(directory=False):
            part.append(WriteFile(path=path, content=b"", mode=0o444))
        case _:
            part.append(MakeDirectory(path=path))


def _cover(path: str, entries: dict[str, RootEntry]) -> Tmpfs | Bind | Overlay | None:
    """Return what is mounted nearest above a path; None for the root."""
    while path.count("/") > 1:
        path = path.rpartition("/")[0]
        entry = entries.get(path)
        if isinstance(entry, (Tmpfs, Bind, Overlay)):
            return entry
    return None
