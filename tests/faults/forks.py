"""`expo` commands in processes that have imported everything already, and die when they are told.

A server imports torch, diffusers and the stages once; each command is the real one, in a child
forked from it. So a run takes as long as its work, and a kill at any moment hits work.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PRELOADED = [
    "expo_cli.main",
    "expo_cli.stages.common.decoding",
    "expo_cli.stages.rollout.run",
    "expo_cli.stages.preferences.encoding",
    "expo_cli.stages.evaluate.run",
    "expo_cli.stages.preferences.exports",
    "expo_cli.stages.score.run",
    "expo_cli.stages.train.run",
    "expo_cli.rewards.hpsv2",
    "expo_cli.rewards.pickscore",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
    "transformers.models.clip.image_processing_pil_clip",
    "tests.faults.world",
]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link")

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(PRELOADED)


@dataclass(frozen=True)
class Change:
    """Something a command was about to do to the disk, `seconds` after it began."""

    seconds: float
    what: str


@dataclass(frozen=True)
class Finished:
    """`code` is negative where a signal ended the process; `changes` are those before the end."""

    code: int
    errors: str
    seconds: float
    changes: Sequence[Change]

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Running:
    """A command at work in `folder`; its changes there are counted from 1."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, log: Path, signal_at: tuple[int, int] = (0, 0)
    ) -> None:
        """`signal_at` is a signal and the change right before which the command gets it."""
        self.log = log
        log.mkdir(parents=True, exist_ok=True)
        self.process = SERVER.Process(target=run_expo, args=(arguments, folder, log, *signal_at))
        self.process.start()

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.process.is_alive():
            os.kill(self.process.pid, number)

    def finished(self, timeout: float = 300) -> Finished:
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still running after {timeout} s"
        changes = []
        for line in (self.log / "changes").read_text().splitlines():
            seconds, _, what = line.partition(" ")
            changes.append(Change(float(seconds), what))
        code, errors = self.process.exitcode, (self.log / "stderr").read_text()
        seconds = changes.pop().seconds if changes and changes[-1].what == "end" else 0.0
        return Finished(code, errors, seconds, changes)


def run_expo(arguments: Sequence[str], folder: Path, log: Path, number: int, moment: int) -> None:
    """What the child does: `expo ARGUMENTS` in `folder`, as the console script runs it."""
    from expo_cli.main import main

    os.chdir(folder)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(log / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    changes = os.open(log / "changes", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    write = note_changes(folder, changes, number, moment)
    sys.argv = ["expo", *arguments]
    try:
        main()
    finally:
        write("end")


def note_changes(folder: Path, log: int, number: int, moment: int) -> Callable[[str], None]:
    """Write each change below `folder` to `log` before it is made; signal this process at one."""
    started, root, count = time.monotonic(), f"{folder}{os.sep}", 0

    def write(what: str) -> None:
        os.write(log, f"{time.monotonic() - started:.4f} {what}\n".encode())

    def hook(event: str, details: tuple) -> None:
        nonlocal count
        if event == "open":
            path, inside = details[0], details[2] & WRITES
        elif event in CHANGES:
            # A folder is removed through descriptors, by names relative to them.
            path, inside = details[0], True
            if details[-1] != -1 and event in ("os.remove", "os.rmdir"):
                path = root + os.fsdecode(path)
        else:
            return
        if not inside or isinstance(path, int):
            return
        name = os.path.abspath(os.fsdecode(path))
        if name.startswith(root):
            count += 1
            write(f"{event} {name.removeprefix(root)}")
            if count == moment:
                os.kill(os.getpid(), number)

    sys.addaudithook(hook)
    return write
