"""What a folder holds, kept in memory: taken, put back, compared, without reading what is known."""

import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """`content` is a file's bytes, a link's target; a folder and anything else has none."""

    kind: str
    content: bytes = b""


Tree = Mapping[str, Entry]

KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
FOLDER = Entry("folder")


class Workplace:
    """The folder that commands run in. A file is read or written only where it has changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.known: dict[str, tuple[tuple, Entry]] = {}

    def take(self) -> Tree:
        """What is there now."""
        known, self.known = self.known, {}
        stack = [self.root]
        while stack:
            with os.scandir(stack.pop()) as entries:
                for item in entries:
                    name = item.path[len(str(self.root)) + 1 :]
                    status = item.stat(follow_symlinks=False)
                    signature = signature_of(status)
                    before = known.get(name)
                    if before and before[0] == signature:
                        entry = before[1]
                    else:
                        entry = read(item.path, status, before and before[1])
                    if entry.kind == "folder":
                        stack.append(Path(item.path))
                    self.known[name] = (signature, entry)
        return {name: entry for name, (_, entry) in sorted(self.known.items())}

    def put(self, tree: Tree) -> None:
        """Make the folder hold this and nothing else."""
        self.root.mkdir(parents=True, exist_ok=True)
        there = self.take()
        for name in sorted(there, reverse=True):
            if tree.get(name) != there[name]:
                remove(self.root / name)
                del self.known[name]
        for name in sorted(tree):
            if name not in self.known:
                write(self.root / name, tree[name])
                self.known[name] = (signature_of((self.root / name).lstat()), tree[name])


def signature_of(status: os.stat_result) -> tuple:
    if stat.S_ISDIR(status.st_mode):
        return ("folder", status.st_ino)
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def read(path: str, status: os.stat_result, before: Entry | None) -> Entry:
    kind = KINDS.get(stat.S_IFMT(status.st_mode), "other")
    if kind == "link":
        return Entry(kind, os.fsencode(os.readlink(path)))
    entry = Entry(kind, Path(path).read_bytes() if kind == "file" else b"")
    return before if entry == before else entry


def write(path: Path, entry: Entry) -> None:
    if entry.kind == "folder":
        path.mkdir()
    elif entry.kind == "link":
        path.symlink_to(os.fsdecode(entry.content))
    elif entry.kind == "file":
        path.write_bytes(entry.content)
    else:
        os.mkfifo(path)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def below(tree: Tree, place: str) -> Tree:
    """What is at `place` and below it."""
    return {
        name: entry for name, entry in tree.items() if name == place or name.startswith(f"{place}/")
    }
