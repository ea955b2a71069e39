"""The step-aware PickScore: PickScore itself until it is trained, then a function of the timestep."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.models.clip.configuration_clip import CLIPConfig

from expo_cli.contracts import jsonl
from expo_cli.contracts.files import sha256
from expo_cli.contracts.ids import fraction, pair_id, prompt_id
from expo_cli.contracts.records import Pair, SampleRef
from expo_cli.errors import ContractError
from expo_cli.registry import REWARDS, build
from expo_cli.rewards.pickscore import PickScore
from expo_cli.rewards.protocol import Batch
from expo_cli.rewards.step_clip import TimeConditioning, sinusoids
from expo_cli.rewards.step_pickscore import StepPickScore

PROJECT = Path(__file__).parents[2]
TIMESTEPS = [0, 1, 500, 999]


@pytest.fixture(scope="module")
def batch():
    noise = np.random.default_rng(0)
    images = [
        Image.fromarray(noise.integers(0, 256, (40, 32, 3), dtype=np.uint8)) for _ in TIMESTEPS
    ]
    return Batch(["a", "b", "c", "d"], ["a red cat", "a dog", "a red cat", "a tree"], images)


def step_aware(folder: Path, clip: Path, spread: float) -> Path:
    """`clip` with a time conditioning that is off by `spread` from an untrained one."""
    shutil.copytree(clip, folder)
    torch.manual_seed(0)
    untrained = TimeConditioning(CLIPConfig.from_pretrained(clip).vision_config)
    tensors = {
        name: tensor + spread * torch.randn_like(tensor)
        for name, tensor in untrained.state_dict().items()
    }
    save_file(tensors, folder / "time_conditioning.safetensors")
    return folder


@pytest.fixture(scope="module")
def untrained(tiny_clip, tmp_path_factory):
    return step_aware(tmp_path_factory.mktemp("step") / "untrained", tiny_clip, 0.0)


@pytest.fixture(scope="module")
def trained(tiny_clip, tmp_path_factory):
    return step_aware(tmp_path_factory.mktemp("step") / "trained", tiny_clip, 0.1)


def loaded(reward):
    reward.load(torch.device("cpu"), torch.float32)
    return reward


def test_an_untrained_one_is_pickscore_at_every_timestep(tiny_clip, untrained, batch):
    expected = loaded(PickScore(model=str(tiny_clip))).judge(batch)
    found = loaded(StepPickScore(model=str(untrained))).judge_at(batch, TIMESTEPS)
    assert found.raw == pytest.approx(expected.raw, abs=1e-6)
    assert found.scale == expected.scale
    torch.testing.assert_close(found.embeddings, expected.embeddings)


def test_a_trained_one_depends_on_the_timestep_and_judges_finished_images_at_0(trained, batch):
    reward = loaded(StepPickScore(model=str(trained)))
    finished = reward.judge(batch)
    assert reward.judge_at(batch, [0] * 4).raw == finished.raw
    late = reward.judge_at(batch, [999] * 4)
    assert all(abs(a - b) > 1e-4 for a, b in zip(late.raw, finished.raw, strict=True))


def test_a_score_does_not_depend_on_the_rest_of_the_batch(trained, batch):
    reward = loaded(StepPickScore(model=str(trained)))
    together = reward.judge_at(batch, TIMESTEPS).raw
    alone = [
        reward.judge_at(Batch([s], [p], [i]), [t]).raw[0]
        for s, p, i, t in zip(batch.sample_ids, batch.prompts, batch.images, TIMESTEPS, strict=True)
    ]
    assert together == pytest.approx(alone, abs=1e-6)


def test_timesteps_become_waves_of_growing_length():
    waves = sinusoids(torch.tensor([0, 3]))
    assert waves[0].tolist() == [1.0] * 128 + [0.0] * 128
    # The fastest wave has period 2 pi; the 64th of 128 is 100 times as long.
    assert waves[1, [0, 64, 128, 192]].tolist() == pytest.approx(
        [np.cos(3), np.cos(0.03), np.sin(3), np.sin(0.03)], abs=1e-6
    )


def test_the_identity_follows_the_conditioning(untrained, trained, tiny_clip):
    one, other = (StepPickScore(model=str(model)).identity() for model in (untrained, trained))
    assert one["time_conditioning"] == sha256(untrained / "time_conditioning.safetensors")
    assert one["time_conditioning"] != other["time_conditioning"]
    assert one["weights"] != other["weights"]
    assert one["processor"] == PickScore(model=str(tiny_clip)).identity()["processor"]


def test_a_plain_pickscore_is_refused(tiny_clip):
    reward = build(REWARDS, f"step-pickscore:model={tiny_clip}")
    with pytest.raises(ContractError, match=r"has no time_conditioning\.safetensors") as raised:
        reward.identity()
    assert "\n" not in str(raised.value)


def test_a_conditioning_of_another_network_is_one_line(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "odd")
    tensors = load_file(folder / "time_conditioning.safetensors")
    tensors["last.bias"] = torch.zeros(3)
    save_file(tensors, folder / "time_conditioning.safetensors")
    with pytest.raises(ContractError, match="does not fit the network: size mismatch") as raised:
        loaded(StepPickScore(model=str(folder)))
    assert "\n" not in str(raised.value)


def make_pairs(folder: Path) -> Path:
    """Pairs of random latents of 8x8 under prompts of which some are held back."""
    generator = torch.Generator().manual_seed(0)
    prompts = [f"prompt {n}" for n in range(12)]
    ids = {prompt: prompt_id(prompt) for prompt in prompts}
    assert {fraction("step-reward", i) < 0.5 for i in ids.values()} == {True, False}
    names = {prompt: (f"{ids[prompt]}-a", f"{ids[prompt]}-b") for prompt in prompts}
    latents = {
        name: torch.randn(4, 8, 8, generator=generator) for both in names.values() for name in both
    }
    save_file(latents, folder / "part.safetensors")
    jsonl.write(
        folder / "pairs.jsonl",
        [
            Pair(
                pair_id=pair_id(*names[prompt], 0),
                prompt_id=ids[prompt],
                prompt=prompt,
                winner=SampleRef(sample_id=names[prompt][0], part="part.safetensors"),
                loser=SampleRef(sample_id=names[prompt][1], part="part.safetensors"),
                winner_score=1.0,
                loser_score=0.0,
                margin=1.0,
                reward="pickscore",
                source="offline",
                iteration=0,
            )
            for prompt in prompts
        ],
    )
    return folder / "pairs.jsonl"


def train(pairs: Path, policy: Path, clip: Path, out: Path, **settings: object):
    settings = {
        "draws": 2,
        "max_train_steps": 3,
        "batch_size": 4,
        "validation_fraction": 0.5,
        "conditioning_learning_rate": 1e-2,
    } | settings
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    script = PROJECT / "recipes" / "spo" / "train_step_reward.py"
    places = ["--policy", policy, "--reward", clip, "--out", out]
    return subprocess.run(
        [sys.executable, script, pairs, *places, *flags], capture_output=True, text=True
    )


def test_the_training_script_makes_a_reward_that_knows_timesteps(
    tiny_sd, tiny_clip, batch, tmp_path
):
    pairs = make_pairs(tmp_path)
    done = train(pairs, tiny_sd, tiny_clip, tmp_path / "one")
    assert done.returncode == 0, done.stderr
    reward = loaded(StepPickScore(model=str(tmp_path / "one")))
    assert reward.judge_at(batch, [999] * 4).raw != reward.judge(batch).raw
    figures = json.loads((tmp_path / "one.json").read_text())
    assert figures["trained"] == reward.identity()
    plain, aware = (figures["validation"][name] for name in ("pickscore", "step-pickscore"))
    assert {name: entry["draws"] for name, entry in plain.items()} == {
        name: entry["draws"] for name, entry in aware.items()
    }
    held_back = figures["pairs"]["validation"]
    assert plain["finished"]["draws"] == held_back == 12 - figures["pairs"]["training"]
    assert plain["all"]["draws"] == 3 * held_back

    # Some draws are made anew after an interruption, and the weights are the same.
    shutil.copytree(tmp_path / "one.draws", tmp_path / "two.draws")
    (tmp_path / "two.draws" / "part-00000.safetensors").unlink()
    again = train(pairs, tiny_sd, tiny_clip, tmp_path / "two")
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "two.json").read_text())["trained"] == figures["trained"]

    other = train(pairs, tiny_sd, tiny_clip, tmp_path / "two", seed=1)
    assert other.returncode == 1
    assert "was begun with seed=0, not 1" in other.stderr
    assert other.stderr.splitlines()[-1].startswith("train_step_reward: ")
