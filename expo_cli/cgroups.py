"""The limits of this process by Linux's control groups (cgroups, version 1 or 2).

The limits of all parent groups apply too, so the smallest counts. `root` is the folder with `proc`
and the mounted groups.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def cpu_quota(root: Path = ROOT) -> float | None:
    """CPU seconds per second, for example 1.5; None without a limit."""
    quotas = (quota_of(folder) for folder in group_folders("cpu", root))
    return min((quota for quota in quotas if quota is not None), default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """Bytes; None without a limit. In version 1 a number above all memory means no limit."""
    names = ("memory.max", "memory.limit_in_bytes")
    folders = group_folders("memory", root)
    return min(
        (n for folder in folders for name in names for n in numbers(folder / name)), default=None
    )


def quota_of(folder: Path) -> float | None:
    quota, period = (numbers(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    match numbers(folder / "cpu.max") or [*quota, *period]:
        case [quota, period] if quota > 0:
            return quota / period
    return None


def numbers(path: Path) -> list[int]:
    """The numbers in a file; empty if there is no file, or if one of them is "max"."""
    try:
        return list(map(int, path.read_text().split()))
    except (OSError, ValueError):
        return []


def group_folders(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's group and all parent groups, in every hierarchy with the
    controller."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return
    # Lines are `ID:CONTROLLERS:PATH`; version 2 names no controllers.
    paths = {
        name: path
        for _, names, path in (g.split(":", 2) for g in groups)
        for name in names.split(",")
    }
    for mount in mounts:
        place, _, kind = mount.partition(" - ")
        mounted, point = place.split()[3:5]
        file_system, _, options = kind.split(maxsplit=2)
        version_1 = file_system == "cgroup" and controller in options.split(",")
        name = controller if version_1 else ""
        if (version_1 or file_system == "cgroup2") and name in paths:
            yield from folders_between(root / point.lstrip("/"), paths[name], mounted)


def folders_between(point: Path, group: str, mounted: str) -> Iterator[Path]:
    """The folders from a group up to `point`, where the group `mounted` is mounted."""
    inside = PurePosixPath(group)
    inside = inside.relative_to(mounted) if inside.is_relative_to(mounted) else PurePosixPath()
    for part in (inside, *inside.parents):
        yield point / part
