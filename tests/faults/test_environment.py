"""What else goes wrong around a command: full and read-only disks, damage, other writers, clocks.

Each ends in one line, or with the bytes of an undisturbed run, as soon as the fault is gone.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.running import Finished, Running
from tests.faults.trees import Tree, differences, go_back, tree_of
from tests.faults.world import COMMANDS, Command, build_world

MODELS = shutil.ignore_patterns("models")
NAMES = [command.name for command in COMMANDS]


def mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


class Disk:
    """The world on a file system of its own, and what it is before and after each command."""

    def __init__(self, folder: Path, rest: Path) -> None:
        self.folder, self.rest = folder, rest
        for command in COMMANDS:
            self.keep(command.name, "before")
            assert self.run(command).code == 0
            self.keep(command.name, "after")

    def keep(self, *names: str) -> None:
        shutil.copytree(self.folder, self.rest.joinpath(*names), ignore=MODELS)

    def set_up(self, name: str, when: str) -> Command:
        """The world as the command finds it, or as it leaves it."""
        go_back(self.folder, {})
        shutil.copytree(self.rest / name / when, self.folder, dirs_exist_ok=True)
        return COMMANDS[NAMES.index(name)]

    def tree(self, name: str, when: str) -> Tree:
        return tree_of(self.rest / name / when)

    def begin(
        self, command: Command, log: str = "log", signal_at: tuple[int, int] = (0, 0)
    ) -> Running:
        return Running(command.arguments, self.folder, self.rest / log, signal_at)

    def run(self, command: Command) -> Finished:
        return self.begin(command).finished()

    def differs(self, name: str, when: str = "after") -> list[str]:
        return differences(self.tree(name, when), tree_of(self.folder))

    def fill(self, free: int) -> None:
        """Leave only so many bytes."""
        self.ballast.write_bytes(bytes(max(0, shutil.disk_usage(self.folder).free - free)))

    @property
    def ballast(self) -> Path:
        return self.folder / "models" / "ballast"


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Iterator[Disk]:
    if os.geteuid() != 0:
        assert "EXPO_TEST_EVERYTHING" not in os.environ, "only root can mount a small file system"
        pytest.skip("only root can mount a small file system")
    folder = tmp_path_factory.mktemp("disk")
    mount("-t", "tmpfs", "-o", "size=512m", "tmpfs", folder)
    try:
        yield Disk(build_world(folder), tmp_path_factory.mktemp("rest"))
    finally:
        subprocess.run(["umount", folder], check=True)


def only_line(run: Finished) -> str:
    """What a failed command says is wrong; it says nothing else after it."""
    assert run.code in (1, 2), run
    assert "Traceback" not in run.errors
    *_, last = run.errors.splitlines()
    assert last.startswith("expo: "), run.errors
    return last


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk(name, disk):
    command = disk.set_up(name, when="before")
    before, after = disk.tree(name, "before"), disk.tree(name, "after")
    size = sum(len(after[path] or b"") for path in after.keys() - before.keys())
    for share in (0, random.Random(name).random()):
        disk.fill(free=int(share * size))
        run = disk.run(command)
        disk.ballast.unlink()
        assert "No space left on device" in only_line(run)
        # What is there under its final name is what belongs there.
        left = tree_of(disk.folder)
        assert not [path for path in left if path.endswith(".partial")]
        for path in left.keys() & after.keys():
            if not path.endswith(("run.json", "metrics.jsonl")):
                assert left[path] == after[path], path
    assert disk.run(command).code == 0
    assert not disk.differs(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_cannot_be_written(name, disk):
    command = disk.set_up(name, when="before")
    mount("-o", "remount,ro", disk.folder)
    try:
        assert "Read-only file system" in only_line(disk.run(command))
    finally:
        mount("-o", "remount,rw", disk.folder)
    assert not disk.differs(name, "before")


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("rollout", "main/part-00001.jsonl"),
        ("rollout", "main/part-00001.safetensors"),
        ("score", "main/scores/part-00000.a.jsonl"),
        ("make-pairs-import", "offline/pairs.latents/part-00000.safetensors"),
        ("train", "checkpoint/model_index.json"),
        ("train-lora", "adapter/adapter_config.json"),
    ],
)
def test_a_lost_file_is_made_again(name, lost, disk):
    command = disk.set_up(name, when="after")
    (disk.folder / lost).unlink()
    if name == "make-pairs-import":
        (disk.folder / "offline/pairs.jsonl").unlink()
    assert disk.run(command).code == 0
    assert not disk.differs(name)


@pytest.mark.parametrize(
    ("reader", "damaged"),
    [
        ("score", "main/part-00000.safetensors"),
        ("train", "main/part-00000.safetensors"),
        ("train-lora", "offline/pairs.latents/part-00000.safetensors"),
        ("evaluate", "main/part-00000.safetensors"),
        ("evaluate", "main/scores/part-00000.a.safetensors"),
    ],
)
def test_a_flipped_byte_is_found_by_who_reads_it(reader, damaged, disk):
    command = disk.set_up(reader, when="before")
    flip_a_byte(disk.folder / damaged)
    line = only_line(disk.run(command))
    assert f"{damaged}: damaged" in line
    assert "run the command that made it again" in line


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_of_a_checkpoint_is_found_by_who_draws_with_it(disk):
    disk.set_up("evaluate", when="after")
    flip_a_byte(disk.folder / "checkpoint/unet/diffusion_pytorch_model.safetensors")
    flip_a_byte(disk.folder / "adapter/pytorch_lora_weights.safetensors")
    for policy in ("checkpoint", "adapter"):
        arguments = ("rollout", "prompts.jsonl", "--policy", policy, "--out", f"by-{policy}")
        line = only_line(disk.run(Command("rollout", arguments)))
        assert policy in line
        assert "damaged" in line


@pytest.mark.parametrize("name", ["prep-prompts", "rollout", "score", "make-pairs-import", "train"])
def test_two_writers_at_once(name, disk):
    """Both succeed, or one reports the other; if both are killed, a third one completes their work."""
    command = disk.set_up(name, when="before")
    runs = [run.finished() for run in [disk.begin(command, "first"), disk.begin(command, "second")]]
    for run in runs:
        assert run.code == 0 or "another process is writing it" in only_line(run)
    assert 0 in [run.code for run in runs]
    assert not disk.differs(name)

    disk.set_up(name, when="before")
    both = [disk.begin(command, "first"), disk.begin(command, "second")]
    while len(both[1].changes()) < 3 and not both[1].ends_within(0.01):
        pass
    for run in both:
        run.kill(signal.SIGKILL)
        run.process.wait()
    assert disk.run(command).code == 0
    assert not disk.differs(name)


def test_locks_and_partial_files_of_the_dead_are_no_obstacle(disk):
    disk.set_up("train", when="after")
    begun = (disk.folder / "checkpoint/run.json").read_bytes()
    command = disk.set_up("train", when="before")
    (disk.folder / "checkpoint.lock").touch()
    (disk.folder / "checkpoint/state/step-00000003.partial").mkdir(parents=True)
    (disk.folder / "checkpoint/run.json").write_bytes(begun)
    (disk.folder / "checkpoint/state/step-00000003.partial/weights.safetensors").write_bytes(b"x")
    assert disk.run(command).code == 0
    assert not disk.differs("train")


def test_a_full_disk_leaves_the_training_state_before_it(disk):
    command = disk.set_up("train", when="before")
    changes = [change.what for change in disk.run(command).changes]
    disk.set_up("train", when="before")
    second = changes.index("os.mkdir checkpoint/state/step-00000002.partial")
    run = disk.begin(command, signal_at=(signal.SIGSTOP, second + 2))
    # Another process's child, so there is no waiting for it but this.
    while len(run.changes()) < second + 2 or state(run.worker()) != "T":
        assert not run.ends_within(0.01)
    disk.fill(free=0)
    run.kill(signal.SIGCONT)
    assert "No space left on device" in only_line(run.finished())
    disk.ballast.unlink()
    assert [path.name for path in (disk.folder / "checkpoint/state").iterdir()] == ["step-00000001"]
    assert "continuing after step 1" in disk.run(command).errors
    assert not disk.differs("train")


def state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def test_an_output_that_is_a_symbolic_link_is_overwritten_where_it_leads(disk):
    command = disk.set_up("rollout", when="after")
    (disk.folder / "main").rename(disk.folder / "elsewhere")
    (disk.folder / "main").symlink_to("elsewhere")
    (disk.folder / "elsewhere" / "part-00000.jsonl").write_text("of another plan")
    run = disk.run(Command("rollout", (*command.arguments, "--overwrite")))
    assert run.code == 0, run.errors
    (disk.folder / "main").unlink()
    (disk.folder / "elsewhere").rename(disk.folder / "main")
    # Which names --overwrite among the arguments.
    assert not [line for line in disk.differs("rollout") if "run.json" not in line]


@pytest.mark.parametrize("name", ["prep-prompts", "train-lora", "evaluate"])
def test_a_wrong_clock(name, disk):
    """In the year 2001, with time going backwards between two commands, as on a broken node."""
    if not shutil.which("faketime"):
        assert "EXPO_TEST_EVERYTHING" not in os.environ, "faketime is not installed"
        pytest.skip("no faketime; `bash tests/install.sh` installs it")
    command = disk.set_up(name, when="before")
    expo = [sys.executable, "-m", "expo_cli", *command.arguments]
    done = subprocess.run(["faketime", "2001-02-03 04:05:06", *expo], cwd=disk.folder, text=True)
    assert done.returncode == 0
    assert not disk.differs(name)
