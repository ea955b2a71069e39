import contextlib
import hashlib
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expo_cli.contracts.files import atomic, atomic_folder, inside, sha256
from expo_cli.errors import ContractError, ExpoError

KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from expo_cli.contracts.files import atomic, atomic_folder
path = Path(sys.argv[2])
if sys.argv[1] == "file":
    with atomic(path) as file:
        file.write(b"half of it")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
with atomic_folder(path) as folder:
    (folder / "a").write_bytes(b"half of it")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_kill_leaves_nothing_under_the_final_name(kind, tmp_path):
    path = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, kind, path])
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    assert all(left.name.endswith(".partial") for left in tmp_path.iterdir())


def test_the_folder_is_made_and_the_file_whole(tmp_path):
    path = tmp_path / "new" / "out"
    with atomic(path) as file:
        file.write(b"all")
        assert not path.exists()
    assert path.read_bytes() == b"all"
    assert os.listdir(path.parent) == ["out"]


def test_a_folder_replaces_what_an_interrupted_run_left(tmp_path):
    path = tmp_path / "out"
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "stale").touch()
    path.mkdir()
    (path / "old").touch()
    with atomic_folder(path) as folder:
        (folder / "new").touch()
    assert os.listdir(path) == ["new"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_failing_folder_leaves_the_old_one(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(ZeroDivisionError), atomic_folder(path):
        raise ZeroDivisionError
    assert os.listdir(path) == ["old"]


def test_what_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ExpoError, match="cannot be written: "), atomic(tmp_path / "file" / "out"):
        pass
    with (
        pytest.raises(ExpoError, match="cannot be written: "),
        atomic_folder(tmp_path / "file" / "out"),
    ):
        pass


@pytest.mark.parametrize("relative", ["a", "a/b.safetensors", "./a", "a//b", "..a/b..", ""])
def test_paths_inside(relative, tmp_path):
    assert inside(tmp_path, relative) == tmp_path / relative


@pytest.mark.parametrize("relative", ["/etc/passwd", "..", "../a", "a/../b", "a/../../b", "a\0b"])
def test_paths_that_leave(relative, tmp_path):
    with pytest.raises(ContractError, match="leaves the folder"):
        inside(tmp_path, relative)


def test_a_link_that_leaves(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path)
    with pytest.raises(ContractError, match="leaves the folder"):
        inside(tmp_path / "run", "link/secret")


@given(st.text())
def test_any_text_stays_inside_or_is_refused(tmp_path_factory, relative):
    folder = tmp_path_factory.getbasetemp()
    with contextlib.suppress(ContractError):
        assert inside(folder, relative).resolve().is_relative_to(folder.resolve())


def test_sha256(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256(path) == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(ExpoError, match="none: cannot be read: No such file"):
        sha256(tmp_path / "none")
