"""What a folder holds, for comparing byte for byte."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

# A file's bytes by its path below the folder; a folder's are None.
Tree = Mapping[str, bytes | None]


def tree_of(folder: Path) -> Tree:
    """Everything in `folder`, but the seconds that `run.json` says a run took: they always differ."""
    return {
        path.relative_to(folder).as_posix(): content(path)
        for path in sorted(folder.rglob("*"))
        if "models" not in path.relative_to(folder).parts[:1]
    }


def content(path: Path) -> bytes | None:
    if path.is_dir():
        return None
    if not path.name.endswith("run.json"):
        return path.read_bytes()
    run = json.loads(path.read_bytes())
    return json.dumps(run | {"seconds": run["seconds"] is not None}).encode()


def go_back(folder: Path, tree: Tree) -> None:
    """Remove what is in `folder` but not in `tree`."""
    for name in sorted(tree_of(folder).keys() - tree.keys(), reverse=True):
        remove(folder / name)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def differences(wanted: Tree, found: Tree) -> list[str]:
    return (
        [f"{name} is missing" for name in wanted.keys() - found.keys()]
        + [f"{name} is left over" for name in found.keys() - wanted.keys()]
        + [
            f"{name} differs"
            for name in wanted.keys() & found.keys()
            if wanted[name] != found[name]
        ]
    )
