"""`expo train` in two processes on a CPU, by accelerate's launcher: the curve of one, and one end."""

import json
import math
import os
import socket
import subprocess
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from expo_cli.config import TrainConfig
from expo_cli.contracts.tensors import read_tensors
from expo_cli.core.visits import visits
from expo_cli.errors import ExpoError, UsageError
from expo_cli.stages.train.trainer import weight_slices
from tests.conftest import EXPO
from tests.latent_pairs import write_latent_pairs
from tests.stages.test_train import contents, flags, kill_after_step, replace_latents, train


@pytest.fixture
def pairs(tmp_path) -> Path:
    return write_latent_pairs(tmp_path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


TWO_PROCESSES = {"PATH": f"{EXPO.parent}:{os.environ['PATH']}", "ACCELERATE_USE_CPU": "true"}


def launch_two() -> list:
    """The prefix of `expo`'s arguments to run it in two processes on a CPU."""
    command = [EXPO.parent / "accelerate", "launch", "--multi_gpu", "--num_processes", 2]
    return [*command, "--main_process_port", free_port(), "-m", "expo_cli"]


@pytest.mark.parametrize("objective", [pytest.param("dpo", marks=pytest.mark.nightly), "kto"])
def test_two_processes_train_like_one(objective, pairs, tiny_sd, tmp_path):
    """KTO's reference point is a mean over the images of both."""
    one = train(pairs, tmp_path / "one", tiny_sd, objective=objective, train_batch_size=4)
    command = [*launch_two(), "train", pairs, "--num-processes", 2, *flags(objective=objective)]
    command += ["--init-from", tiny_sd, "--out", tmp_path / "two"]
    done = subprocess.run(
        list(map(str, command)), env=os.environ | TWO_PROCESSES, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    two = [json.loads(line) for line in (tmp_path / "two/metrics.jsonl").read_text().splitlines()]
    check_same_curve(one, two)
    if objective == "kto":
        points = [[line["reference_point"] for line in lines] for lines in (one, two)]
        assert points[0] == pytest.approx(points[1], rel=0.02, abs=1e-7)
        assert max(points[0]) > 0
    run = json.loads((tmp_path / "two/run.json").read_text())
    settings = run[
        "plan" if objective == "kto" else "free"
    ]  # what a later run must share, or may change
    assert (settings["num_processes"], settings["train_batch_size"]) == (2, 2)


@pytest.mark.parametrize(
    ("shard_optimizer", "step"),
    [
        (True, 2),
        pytest.param(False, 0, marks=pytest.mark.nightly),
        pytest.param(False, 2, marks=pytest.mark.nightly),
        pytest.param(True, 0, marks=pytest.mark.nightly),
    ],
)
def test_damaged_latents_in_one_process_end_both_and_keep_the_state_before(
    shard_optimizer, step, pairs, tiny_sd, tmp_path
):
    """The second process takes visit 2 step + 1; the six visits are of six pairs."""
    settings = {"max_train_steps": 3, "checkpointing_steps": 100, "train_batch_size": 1}
    if shard_optimizer:
        settings["shard_optimizer"] = True

    def run(out: Path) -> subprocess.CompletedProcess:
        command = [*launch_two(), "train", pairs, *flags(**settings)]
        command += ["--init-from", tiny_sd, "--out", out]
        return subprocess.run(
            list(map(str, command)),
            env=os.environ | TWO_PROCESSES,
            capture_output=True,
            text=True,
            timeout=600,
        )

    assert run(tmp_path / "whole").returncode == 0
    items = len(pairs.read_text().splitlines())
    name = f"s{visits(0, items, 2 * step + 1, 1)[0].item}-winner"
    good = read_tensors(pairs.parent / "rollout" / "part-00000.safetensors")[name]
    replace_latents(pairs, name, torch.full((4, 8, 8), math.nan))
    out = tmp_path / "out"
    failed = run(out)
    assert failed.returncode == 1
    assert f"latents {name} are not finite" in failed.stderr
    assert "expo: process 1 failed: " in failed.stderr
    if step:
        assert [path.name for path in (out / "state").iterdir()] == [f"step-{step:08d}"]
    else:  # nothing was made
        assert not out.exists()
    replace_latents(pairs, name, good)
    assert run(out).returncode == 0
    assert contents(out) == contents(tmp_path / "whole")


def check_same_curve(ours: list[dict], theirs: list[dict]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["step"] == other["step"]
        assert mine["loss"] == pytest.approx(other["loss"], abs=2e-3)
        assert mine["batch_size"] == other["batch_size"]


@pytest.mark.parametrize(
    ("begun_by", "continued_by"),
    [
        ((1, {"train_batch_size": 4}), (2, {"shard_optimizer": True})),
        pytest.param(
            (2, {"shard_optimizer": True}),
            (1, {"gradient_accumulation_steps": 2}),
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_it_goes_on_with_another_number_of_processes(
    begun_by, continued_by, pairs, tiny_sd, tmp_path
):
    out, steps = tmp_path / "out", {"max_train_steps": 20}

    def command(processes: int, settings: dict) -> list:
        launcher = [EXPO] if processes == 1 else launch_two()
        arguments = ["train", pairs, "--init-from", tiny_sd, "--out", out]
        return [*launcher, *arguments, *flags(**steps, **settings)]

    kill_after_step(4, command(*begun_by), out, env=os.environ | TWO_PROCESSES)
    done = subprocess.run(
        list(map(str, command(*continued_by))),
        env=os.environ | TWO_PROCESSES,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "; continuing after step" in done.stderr
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    check_same_curve(train(pairs, tmp_path / "whole", tiny_sd, **steps, train_batch_size=4), lines)


def test_slices_of_weights_are_refused_in_fp16(tiny_sd):
    config = TrainConfig(init_from=str(tiny_sd), shard_optimizer=True)
    with pytest.raises(UsageError, match="--mixed-precision bf16 or fp32"):
        weight_slices(config, Accelerator(), torch.float16)


def test_a_launch_that_gives_fewer_processes_than_asked_for_is_refused(pairs, tiny_sd, tmp_path):
    with pytest.raises(ExpoError, match="2 processes were requested, 1 launched"):
        train(pairs, tmp_path / "out", tiny_sd, num_processes=2)
