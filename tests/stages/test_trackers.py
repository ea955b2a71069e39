"""`expo train --report-to`: a missing tracker, and what a tracker receives."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import EXPO
from tests.latent_pairs import write_latent_pairs

INSTALLED = {name for name in ("tensorboard", "wandb") if importlib.util.find_spec(name)}


def train(folder: Path, policy: Path, tracker: str, **environment) -> subprocess.CompletedProcess:
    pairs = write_latent_pairs(folder)
    return subprocess.run(
        [EXPO, "train", pairs, "--init-from", policy, "--out", folder / "out"]
        + ["--report-to", tracker, "--max-train-steps=1", "--train-batch-size=2", "--quiet"],
        capture_output=True,
        text=True,
        **environment,
    )


@pytest.mark.parametrize("tracker", sorted({"tensorboard", "wandb"} - INSTALLED))
def test_a_tracker_that_is_not_installed_is_an_error_before_anything_is_written(
    tracker, tiny_sd, tmp_path
):
    done = train(tmp_path, tiny_sd, tracker)
    assert done.returncode == 1
    assert done.stderr == (
        f"expo: --report-to {tracker}: {tracker} is not installed; pip install {tracker}, or "
        "--report-to none\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif("tensorboard" not in INSTALLED, reason="no tensorboard")
def test_tensorboard_has_settings_and_losses_in_the_folder_of_the_run(tiny_sd, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = train(tmp_path, tiny_sd, "tensorboard")
    assert done.returncode == 0, done.stderr
    (settings,) = (tmp_path / "out" / "trackers").rglob("hparams.yml")
    assert f"init_from: {tiny_sd}\n" in settings.read_text()
    events = EventAccumulator(str(tmp_path / "out" / "trackers" / "expo"))
    events.Reload()
    (line,) = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert events.Scalars("loss")[0].value == pytest.approx(json.loads(line)["loss"])


@pytest.mark.skipif("wandb" not in INSTALLED, reason="no wandb")
def test_a_run_of_wandb_has_a_name_the_settings_and_its_folder_in_that_of_the_run(
    tiny_sd, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    done = train(tmp_path, tiny_sd, "wandb")
    assert done.returncode == 0, done.stderr
    (written,) = (tmp_path / "out" / "trackers").rglob("run-*.wandb")
    said = written.read_bytes()
    assert str(tmp_path / "out").encode()[-128:] in said
    assert b"adam_weight_decay" in said


@pytest.mark.skipif("wandb" not in INSTALLED, reason="no wandb")
def test_wandb_without_a_key_is_an_error_in_one_line(tiny_sd, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    done = train(tmp_path, tiny_sd, "wandb", stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("expo: --report-to wandb: No API key")
    assert not (tmp_path / "out" / "run.json").exists()
