"""`expo train --objective spo` on the step pairs of a rollout of random weights."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from expo_cli.config import MakePairsConfig, PairImagesConfig, RunOptions, TrainConfig
from expo_cli.contracts import jsonl
from expo_cli.contracts.records import StepPair
from expo_cli.contracts.rollouts import step_tensor
from expo_cli.contracts.tensors import read_tensors, write_tensors
from expo_cli.core.visits import visits
from expo_cli.errors import ContractError, UsageError
from expo_cli.models.loading import load_model
from expo_cli.stages.make_pairs.run import make_pairs
from expo_cli.stages.train.plan import train_policy
from tests.first_step import assert_same_first_step
from tests.latent_pairs import write_latent_pairs

OPTIONS = RunOptions(quiet=True)
SMALL = {
    "objective": "spo",
    "max_train_steps": 6,
    "train_batch_size": 2,
    "mixed_precision": "fp32",
    "logging_steps": 1,
    "checkpointing_steps": 2,
    "warmup_ratio": 0.0,
}
STEP_TENSORS = "rollout/part-00000.steps.safetensors"


@pytest.fixture
def step_pairs(branched, tmp_path) -> Path:
    """The first 12 step pairs of the branched rollout: those of its part 0, as steps 1, 2 and 3."""
    shutil.copytree(branched, tmp_path / "rollout")
    config = MakePairsConfig(pairing="step-best-worst:min_confidence=0", limit=12)
    make_pairs(
        [tmp_path / "rollout"],
        tmp_path / "step-pairs.jsonl",
        config,
        PairImagesConfig(),
        OPTIONS,
        "0/1",
    )
    return tmp_path / "step-pairs.jsonl"


def train(pairs, out, policy, **settings) -> list[dict]:
    """Train and return the lines of metrics.jsonl."""
    config = TrainConfig(init_from=str(policy), **SMALL | settings)
    train_policy([pairs], out, config, OPTIONS)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


@pytest.mark.parametrize("use_lora", [False, True])
def test_a_policy_equal_to_its_reference_has_ratio_1_and_loses_log_2(
    use_lora, step_pairs, tiny_sd, tmp_path
):
    first, *others = train(
        step_pairs, tmp_path / "out", tiny_sd, use_lora=use_lora, learning_rate=1e-4
    )
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert (first["ratio_winner"], first["ratio_loser"], first["clipped"]) == (1, 1, 0)
    assert first["grad_norm"] > 0
    assert all(math.isfinite(line["loss"]) for line in others)
    assert others[-1]["ratio_winner"] != 1


def log_densities(pipeline, scheduler, pair, tensors) -> list[torch.Tensor]:
    """Those of winner and loser, with diffusers' pipeline, its scheduler and torch's Normal."""
    embeddings = pipeline.encode_prompt(pair.prompt, "cpu", 1, do_classifier_free_guidance=True)
    x_t, *drawn = (
        tensors[step_tensor(pair.step_id, name)][None] for name in ("x_t", "winner", "loser")
    )
    negative, positive = pipeline.unet(
        x_t.repeat(2, 1, 1, 1), pair.timestep, torch.cat(embeddings[::-1]).detach()
    ).sample.chunk(2)
    prediction = negative + pair.guidance_scale * (positive - negative)

    def stepped(noise: float) -> torch.Tensor:
        variance_noise = torch.full_like(x_t, noise)
        return scheduler.step(
            prediction, pair.timestep, x_t, eta=pair.eta, variance_noise=variance_noise
        ).prev_sample

    mean = stepped(0.0)
    deviation = (stepped(1.0) - mean).mean().detach()
    distribution = torch.distributions.Normal(mean, deviation)
    return [distribution.log_prob(previous).mean() for previous in drawn]


def ddim(policy: Path):
    scheduler = load_model(str(policy), torch.device("cpu"), torch.float32).make_scheduler("ddim")
    scheduler.set_timesteps(4)
    return scheduler


def test_the_first_step_is_what_diffusers_would_compute(step_pairs, tiny_sd, tmp_path):
    """One step of SPO, written out with diffusers, torch's Normal and AdamW alone."""
    train(
        *(step_pairs, tmp_path / "out", tiny_sd),
        max_train_steps=1,
        learning_rate=1e-3,
        max_grad_norm=0.0,
    )
    pipeline, scheduler = StableDiffusionPipeline.from_pretrained(tiny_sd), ddim(tiny_sd)
    optimizer = torch.optim.AdamW(pipeline.unet.parameters(), lr=1e-3, weight_decay=1e-2)
    tensors = read_tensors(tmp_path / STEP_TENSORS)
    pairs = list(jsonl.read(step_pairs, StepPair))
    losses = []
    for visit in visits(0, len(pairs), 0, 2):
        winner, loser = log_densities(pipeline, scheduler, pairs[visit.item], tensors)
        # The reference is the policy before its first step, so neither ratio is clipped.
        advantage = (winner - winner.detach()) - (loser - loser.detach())
        losses.append(-torch.nn.functional.logsigmoid(10 * advantage))
    torch.stack(losses).mean().backward()
    optimizer.step()
    assert_same_first_step(tmp_path / "out", tiny_sd, pipeline)


def test_ratios_to_the_reference_are_those_of_the_stored_candidates(step_pairs, tiny_sd, tmp_path):
    started = tmp_path / "started"
    train(step_pairs, started, tiny_sd, max_train_steps=3, learning_rate=3e-5)
    first = train(
        *(step_pairs, tmp_path / "out", started),
        ref=str(tiny_sd),
        max_train_steps=1,
        train_batch_size=12,
        objective="spo:beta=30,clip=0.01",
    )[0]
    tensors, pairs = read_tensors(tmp_path / STEP_TENSORS), jsonl.read(step_pairs, StepPair)
    policy, reference = map(StableDiffusionPipeline.from_pretrained, (started, tiny_sd))
    scheduler = ddim(tiny_sd)
    ratios, losses = [], []
    with torch.no_grad():
        for pair in pairs:
            ours = torch.stack(log_densities(policy, scheduler, pair, tensors))
            theirs = torch.stack(log_densities(reference, scheduler, pair, tensors))
            ratios.append((ours - theirs).exp())
            winner, loser = ratios[-1].clamp(0.99, 1.01).log()
            losses.append(-torch.nn.functional.logsigmoid(30 * (winner - loser)))
    ratios = torch.stack(ratios)
    assert (ratios - 1).abs().max() > 0.01
    winner, loser = ratios.mean(dim=0).tolist()
    assert first["ratio_winner"] == pytest.approx(winner, abs=1e-4)
    assert first["ratio_loser"] == pytest.approx(loser, abs=1e-4)
    assert first["clipped"] == pytest.approx(((ratios - 1).abs() > 0.01).float().mean().item())
    assert first["loss"] == pytest.approx(torch.stack(losses).mean().item(), abs=1e-3)


def test_spo_learns_its_steps(step_pairs, tiny_sd, tmp_path):
    metrics = train(
        *(step_pairs, tmp_path / "out", tiny_sd),
        max_train_steps=15,
        train_batch_size=12,
        learning_rate=1e-4,
    )
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert metrics[-1]["implicit_accuracy"] > 0.8
    assert metrics[-1]["ratio_winner"] > metrics[-1]["ratio_loser"]


@pytest.mark.parametrize("use_lora", [False, True])
def test_stopped_by_a_broken_step_and_repaired_it_ends_with_the_same_bytes(
    use_lora, step_pairs, tiny_sd, tmp_path
):
    settings = {"use_lora": use_lora, "learning_rate": 1e-4, "checkpointing_steps": 100}
    train(step_pairs, tmp_path / "whole", tiny_sd, **settings)
    pairs = list(jsonl.read(step_pairs, StepPair))
    later = pairs[visits(0, len(pairs), 6, 1)[0].item]  # what the fourth step begins with
    tensors = read_tensors(tmp_path / STEP_TENSORS)
    broken = {step_tensor(later.step_id, "x_t"): torch.full((4, 8, 8), math.nan)}
    write_tensors(tmp_path / STEP_TENSORS, tensors | broken)
    with pytest.raises(ContractError, match=f"{later.step_id}.x_t are not finite"):
        train(step_pairs, tmp_path / "stopped", tiny_sd, **settings)
    assert [path.name for path in (tmp_path / "stopped/state").iterdir()] == ["step-00000003"]
    write_tensors(tmp_path / STEP_TENSORS, tensors)
    train(step_pairs, tmp_path / "stopped", tiny_sd, **settings)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


@pytest.mark.parametrize("use_lora", [False, True])
def test_what_the_reference_said_of_a_step_is_asked_once(
    use_lora, step_pairs, tiny_sd, tmp_path, no_reference
):
    """Six steps of two of twelve step pairs, each seen by the reference once, then never again."""
    settings = {"use_lora": use_lora, "learning_rate": 1e-4}
    train(step_pairs, tmp_path / "plain", tiny_sd, **settings)
    settings |= {"reference_cache": str(tmp_path / "cache")}
    config = TrainConfig(init_from=str(tiny_sd), **SMALL | settings | {"max_train_steps": 100})
    result = train_policy([step_pairs], tmp_path / "never", config, OPTIONS, shard_text="0/1")
    assert (result.values_computed, result.values_known) == (12, 0)
    no_reference()
    train(step_pairs, tmp_path / "out", tiny_sd, **settings)
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")


def test_the_command_makes_the_same_checkpoint(step_pairs, tiny_sd, tmp_path, expo):
    train(step_pairs, tmp_path / "stage", tiny_sd)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    out = tmp_path / "command"
    done = expo("train", step_pairs, "--init-from", tiny_sd, "--out", out, *flags)
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    assert "SPO(beta=10.0, clip=0.1) on 12 steps, 6 optimiser steps" in done.stderr
    assert contents(out) == contents(tmp_path / "stage")


def test_without_guidance_the_negative_prompt_has_no_say(step_pairs, tiny_sd, tmp_path):
    lines = [json.loads(line) | {"guidance_scale": 1.0} for line in step_pairs.open()]
    for name, negative in (("one", "blurry"), ("two", "")):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(
            "".join(json.dumps(x | {"negative_prompt": negative}) + "\n" for x in lines)
        )
        train(path, tmp_path / name, tiny_sd, max_train_steps=2)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    # The cards tell which file each was trained on.
    assert one.pop("README.md") != two.pop("README.md")
    assert one == two


def test_caption_dropout_is_refused(step_pairs, tiny_sd, tmp_path):
    with pytest.raises(UsageError, match="--caption-dropout contradicts step pairs"):
        train(step_pairs, tmp_path / "out", tiny_sd, caption_dropout=0.1)


@pytest.mark.parametrize("objective", ["dpo", "expo", "sft", "kto"])
def test_step_pairs_are_no_pairs_of_samples(objective, step_pairs, tiny_sd, tmp_path):
    with pytest.raises(UsageError, match="step-pairs.jsonl: holds step pairs;"):
        train(step_pairs, tmp_path / "out", tiny_sd, objective=objective)
    assert not (tmp_path / "out").exists()


def test_pairs_of_samples_are_no_step_pairs(tiny_sd, tmp_path, expo):
    pairs = write_latent_pairs(tmp_path)
    out = tmp_path / "out"
    done = expo(
        *("train", pairs, "--init-from", tiny_sd, "--out", out, "--objective", "spo", "--quiet")
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"{pairs}: holds pairs; --objective spo learns from step pairs" in done.stderr
    assert not out.exists()


def test_the_same_step_twice_is_refused(step_pairs, tiny_sd, tmp_path):
    first = step_pairs.read_text().splitlines(keepends=True)[0]
    other = step_pairs.with_name("other.jsonl")
    other.write_text(first * 2)
    with pytest.raises(
        ContractError, match=r"jsonl:2: step pair p0-main-0-0-1 is already at .*jsonl:1"
    ):
        train(other, tmp_path / "out", tiny_sd)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timestep": 1000, "previous_timestep": 750}, "at timestep 1000: the policy has 1000"),
        ({"timestep": -1, "previous_timestep": -251}, r"jsonl:1: timestep -1 leads to -251"),
        ({"previous_timestep": 751}, r"jsonl:1: timestep 751 leads to 751"),
        ({"eta": 0.0}, r"jsonl:1: eta must be in \(0, 1\], got 0.0"),
        ({"part": "../rollout/part-00000.steps.safetensors"}, "leaves the folder"),
        ({"step_id": "p9"}, "p9.x_t"),
    ],
)
def test_steps_that_the_policy_does_not_have(changes, message, step_pairs, tiny_sd, tmp_path):
    first = json.loads(step_pairs.read_text().splitlines()[0])
    other = step_pairs.with_name("other.jsonl")
    other.write_text(json.dumps(first | {"timestep": 751} | changes) + "\n")
    with pytest.raises(ContractError, match=message):
        train(other, tmp_path / "out", tiny_sd)
