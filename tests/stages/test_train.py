"""`expo train` on random weights in SD 1.5's layout."""

import json
import math
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft.utils import get_peft_model_state_dict
from torch.nn.utils import parameters_to_vector

from expo_cli.config import RunOptions, TrainConfig
from expo_cli.contracts.ids import pair_seed
from expo_cli.contracts.tensors import read_tensors, write_tensors
from expo_cli.core.noise import training_noise, uniform_timestep
from expo_cli.core.objectives import DiffusionDPO, DiffusionKTO, Objective
from expo_cli.core.visits import visits
from expo_cli.errors import ContractError, ExpoError, UsageError
from expo_cli.models.loading import load_model
from expo_cli.models.lora import ADAPTER_WEIGHTS
from expo_cli.stages.status import read_status
from expo_cli.stages.train.evidence import PromptEmbeddings
from expo_cli.stages.train.plan import train_policy
from expo_cli.stages.train.policies import load_policy
from expo_cli.stages.train.settings import plan_and_free, resolve
from expo_cli.stages.train.trainer import Trainer
from tests.conftest import EXPO
from tests.first_step import assert_same_first_step
from tests.latent_pairs import write_latent_pairs

OPTIONS = RunOptions(quiet=True)
SMALL = {
    "objective": "dpo",
    "max_train_steps": 6,
    "train_batch_size": 2,
    "mixed_precision": "fp32",
    "logging_steps": 2,
    "checkpointing_steps": 2,
    "warmup_ratio": 0.0,
}


@pytest.fixture
def pairs(tmp_path) -> Path:
    return write_latent_pairs(tmp_path)


def train(pairs, out, policy, options=OPTIONS, **settings) -> list[dict]:
    """Train and return the lines of metrics.jsonl."""
    config = TrainConfig(init_from=str(policy), **SMALL | settings)
    train_policy([pairs], out, config, options)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def flags(**settings) -> list[str]:
    return [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in (SMALL | settings).items()
    ]


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def test_policy_and_reference_round_alike(pairs, tiny_sd, tmp_path):
    """In bf16 another way to compute attention would give equal weights other errors."""
    settings = {"mixed_precision": "bf16", "max_train_steps": 1, "objective": "dpo:beta=1e6"}
    (first,) = train(pairs, tmp_path / "out", tiny_sd, **settings)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("layout", ["tiny_sd", "tiny_sd_v"])
def test_the_first_step_is_what_diffusers_would_compute(layout, pairs, tmp_path, request):
    """One step of Diffusion-DPO, written out with diffusers alone: batch of both images, MSE,
    logsigmoid, AdamW."""
    folder = request.getfixturevalue(layout)
    metrics = train(
        pairs,
        tmp_path / "out",
        folder,
        max_train_steps=1,
        learning_rate=1e-3,
        objective="dpo:beta=3000",
        max_grad_norm=0.0,
    )
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    scheduler = load_model(str(folder), torch.device("cpu"), torch.float32).schedule
    latents = read_tensors(tmp_path / "rollout" / "part-00000.safetensors")
    optimizer = torch.optim.AdamW(pipeline.unet.parameters(), lr=1e-3, weight_decay=1e-2)
    chosen = [visit.item for visit in visits(0, 6, 0, 2)]
    losses = []
    for n in chosen:
        noise, timestep = training_noise(
            pair_seed(0, f"pair{n}", 0), (4, 8, 8), uniform_timestep(1000)
        )
        clean = torch.stack([latents[f"s{n}-winner"], latents[f"s{n}-loser"]]).float()
        noise = noise.expand_as(clean)
        timesteps = torch.tensor([timestep, timestep])
        tokens = pipeline.tokenizer(
            [f"prompt {n}"] * 2, padding="max_length", truncation=True, return_tensors="pt"
        )
        prediction = pipeline.unet(
            scheduler.add_noise(clean, noise, timesteps),
            timesteps,
            pipeline.text_encoder(tokens.input_ids).last_hidden_state.detach(),
        ).sample
        target = noise if layout == "tiny_sd" else scheduler.get_velocity(clean, noise, timesteps)
        error = (prediction - target).pow(2).mean(dim=(1, 2, 3))
        change = error - error.detach()  # the reference is the policy before its first step
        losses.append(-torch.nn.functional.logsigmoid(-1500 * (change[0] - change[1])))
    torch.stack(losses).mean().backward()
    optimizer.step()
    assert metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert_same_first_step(tmp_path / "out", folder, pipeline)


def test_expo_learns_its_pairs(pairs, tiny_sd, tmp_path):
    metrics = train(
        pairs,
        tmp_path / "out",
        tiny_sd,
        objective="expo:beta=500,alpha=0.1",
        max_train_steps=20,
        learning_rate=3e-4,
        train_batch_size=6,
        logging_steps=5,
    )
    first, last = metrics[0], metrics[-1]
    assert last["preference_loss"] < first["preference_loss"]
    assert last["implicit_accuracy"] > 0.8
    assert last["weight_change"] > 0
    assert last["exploration_grad_norm"] > 0
    assert {"winner_error_change", "loser_error_change", "saturation", "learning_rate"} <= set(last)


def test_the_checkpoint_loads_in_plain_diffusers(pairs, tiny_sd, tmp_path):
    train(pairs, tmp_path / "out", tiny_sd)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    ours = read_tensors(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    assert pipeline.unet.conv_in.weight.equal(ours["conv_in.weight"])


def test_parts_that_a_snapshot_lacks_are_not_named_in_the_checkpoint(pairs, tiny_sd, tmp_path):
    """As Stable Diffusion 1.5 comes from the hub: the index names a safety checker, left there."""
    snapshot = shutil.copytree(tiny_sd, tmp_path / "snapshot")
    index = json.loads((snapshot / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (snapshot / "model_index.json").write_text(json.dumps(index))
    (snapshot / "logs").mkdir()
    train(pairs, tmp_path / "out", snapshot, max_train_steps=1)
    assert StableDiffusionPipeline.from_pretrained(tmp_path / "out").safety_checker is None
    assert not (tmp_path / "out" / "logs").exists()


def test_a_prompts_embedding_does_not_depend_on_its_neighbours():
    """Else a resumed run, whose cache is empty, would see other bits than the one that was killed."""
    model = load_model("embedded:emoji-sd", torch.device("cpu"), torch.float32)
    prompts = [f"cat number {n}" for n in range(16)]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = PromptEmbeddings(model).rows(prompts).prompt_embeds
        alone = PromptEmbeddings(model).rows(prompts[:1]).prompt_embeds
    finally:
        torch.set_num_threads(threads)
    assert together[:1].equal(alone)


@dataclass(frozen=True)
class Hinge(Objective):
    """A user's own objective: as the README promises, one class and nothing else."""

    margin: float = 1.0

    def terms(self, errors):
        return {"hinge": (self.margin + errors.winner.change - errors.loser.change).relu()}


def test_an_objective_of_the_users_own(pairs, tiny_sd, tmp_path):
    objective = f"{__name__}.Hinge:margin=0.5"
    last = train(pairs, tmp_path / "out", tiny_sd, objective=objective)[-1]
    assert "hinge_loss" in last
    assert "saturation" not in last


def test_explore_without_main_is_refused(pairs, tiny_sd, tmp_path):
    first = json.loads(pairs.read_text().splitlines()[0]) | {"main": None}
    pairs.write_text(json.dumps(first) + "\n")
    with pytest.raises(ContractError, match="jsonl:1: explore and main must be given together"):
        train(pairs, tmp_path / "out", tiny_sd)


def test_a_lora_checkpoint_loads_in_plain_diffusers_and_here(pairs, tiny_sd, tmp_path):
    out = tmp_path / "out"
    train(pairs, out, tiny_sd, use_lora=True, lora_rank=4, lora_alpha=8, learning_rate=1e-2)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd)
    pipeline.load_lora_weights(out)
    model = load_model(str(out), torch.device("cpu"), torch.float32)
    latents, timesteps = torch.randn(1, 4, 8, 8), torch.tensor([500])
    conditioning = model.encode(["a prompt"])
    ours = model.predict(latents, timesteps, conditioning)
    theirs = pipeline.unet(latents, timesteps, conditioning.prompt_embeds).sample
    torch.testing.assert_close(ours, theirs)
    with model.reference():
        plain = model.predict(latents, timesteps, conditioning)
    base = load_model(str(tiny_sd), torch.device("cpu"), torch.float32)
    torch.testing.assert_close(plain, base.predict(latents, timesteps, conditioning))
    assert not torch.allclose(ours, plain)


def test_a_second_lora_run_goes_on_with_the_adapter(pairs, tiny_sd, tmp_path):
    settings = {"use_lora": True, "lora_rank": 4, "learning_rate": 1e-2}
    train(pairs, tmp_path / "one", tiny_sd, **settings)
    metrics = train(pairs, tmp_path / "two", tmp_path / "one", ref=str(tiny_sd), **settings)
    assert metrics[0]["winner_error_change"] != 0
    with pytest.raises(UsageError, match="add --use-lora"):
        train(pairs, tmp_path / "three", tmp_path / "one")


@pytest.mark.parametrize("max_shard_size", ["100KB", "1GB"])
def test_the_weight_change_is_how_far_the_weights_moved(max_shard_size, pairs, tiny_sd, tmp_path):
    """Whether they come in one file or in many."""
    network = UNet2DConditionModel.from_pretrained(tiny_sd / "unet")
    base = shutil.copytree(tiny_sd, tmp_path / "base")
    shutil.rmtree(base / "unet")
    network.save_pretrained(base / "unet", max_shard_size=max_shard_size)
    last = train(pairs, tmp_path / "out", base, learning_rate=1e-3)[-1]
    trained = UNet2DConditionModel.from_pretrained(tmp_path / "out" / "unet")
    before, after = (parameters_to_vector(n.parameters()).detach() for n in (network, trained))
    expected = (after - before).norm() / before.norm()
    assert last["weight_change"] == pytest.approx(expected.item(), rel=1e-4)


def test_only_the_adapter_of_a_lora_policy_is_in_fp32(pairs, tiny_sd, tmp_path):
    """Twice the memory for the rest would say nothing, and a rounded adapter would forget."""
    settings = {"use_lora": True, "lora_rank": 4, "learning_rate": 1e-2}
    train(pairs, tmp_path / "one", tiny_sd, **settings)
    config = resolve(TrainConfig(init_from=str(tmp_path / "one"), use_lora=True, lora_rank=4))
    policy, _ = load_policy(config, torch.device("cpu"), torch.bfloat16)
    kept = read_tensors(tmp_path / "one" / ADAPTER_WEIGHTS)
    adapter = get_peft_model_state_dict(policy.network)
    assert all(tensor.equal(kept[f"unet.{name}"]) for name, tensor in adapter.items())
    assert len(adapter) == len(kept)
    others = {p.dtype for name, p in policy.network.named_parameters() if "lora_" not in name}
    assert others == {torch.bfloat16}


def adapted(folder: Path) -> set[str]:
    """The last parts of the names of the layers that an adapter's weights are of."""
    names = read_tensors(folder / "pytorch_lora_weights.safetensors")
    return {name.split(".lora_")[0].rsplit("transformer_blocks.0.")[-1] for name in names}


def test_lora_adapts_the_layers_that_are_asked_for(pairs, tiny_sd, tmp_path):
    settings = {"use_lora": True, "lora_rank": 2, "lora_target_modules": ("attn1.to_q", "ff.net.2")}
    train(pairs, tmp_path / "one", tiny_sd, **settings)
    assert adapted(tmp_path / "one") == {"attn1.to_q", "ff.net.2"}
    StableDiffusionPipeline.from_pretrained(tiny_sd).load_lora_weights(tmp_path / "one")
    # Training that continues from an adapter keeps its layers, whether they are named again or not.
    del settings["lora_target_modules"]
    train(pairs, tmp_path / "two", tmp_path / "one", **settings)
    assert adapted(tmp_path / "two") == {"attn1.to_q", "ff.net.2"}
    settings["lora_target_modules"] = ("to_q",)
    with pytest.raises(ExpoError, match="its LoRA adapts attn1.to_q, ff.net.2, not to_q"):
        train(pairs, tmp_path / "three", tmp_path / "one", **settings)


def test_layers_that_lora_cannot_adapt_are_refused(pairs, tiny_sd, tmp_path):
    for name in ("to_w", "norm1"):
        with pytest.raises(UsageError, match="^--lora-target-modules: Target module"):
            train(pairs, tmp_path / name, tiny_sd, use_lora=True, lora_target_modules=(name,))
    with pytest.raises(ValueError, match="--lora-target-modules needs --use-lora"):
        TrainConfig(init_from=str(tiny_sd), lora_target_modules=("to_q",))


def kill_after_step(step: int, command: list, out: Path, **settings) -> None:
    """Run a command that trains, in all its processes, until it has saved that step."""
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, **settings)
    while not (out / "state" / f"step-{step:08d}").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    # Its children by themselves: a launcher gives them sessions of their own.
    for each in (process, *psutil.Process(process.pid).children(recursive=True)):
        each.kill()
    process.wait()
    process.stderr.close()
    assert not (out / "model_index.json").exists()


@pytest.mark.parametrize("use_lora", [False, True])
def test_killed_at_any_step_it_ends_with_the_same_bytes(use_lora, pairs, tiny_sd, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = {"max_train_steps": 40, "objective": "expo:alpha=0.1", "logging_steps": 3}
    command = [EXPO, "train", pairs, "--init-from", tiny_sd, "--out", killed]
    command += flags(**settings) + (["--use-lora"] if use_lora else [])
    kill_after_step(4, command, killed)
    for out in (whole, killed):
        train(pairs, out, tiny_sd, use_lora=use_lora, **settings)
    assert contents(whole) == contents(killed)


@pytest.fixture
def stopped(pairs, tiny_sd, tmp_path, monkeypatch) -> Path:
    """A run of six steps that was stopped in its last, with states of steps 2 and 4."""
    step = Trainer.step

    def stop_in_the_last(trainer: Trainer, number: int) -> None:
        if number == 5:
            raise KeyboardInterrupt
        step(trainer, number)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stop_in_the_last)
        with pytest.raises(KeyboardInterrupt):
            train(pairs, tmp_path / "stopped", tiny_sd)
    return tmp_path / "stopped"


def test_a_broken_newest_state_costs_steps_and_nothing_else(
    stopped, pairs, tiny_sd, tmp_path, capfd
):
    whole = tmp_path / "whole"
    train(pairs, whole, tiny_sd)
    weights = stopped / "state" / "step-00000004" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (stopped / "metrics.jsonl").write_text('{"step": 2, "lo')
    train(pairs, stopped, tiny_sd, options=RunOptions())
    assert contents(stopped) == contents(whole)
    [line] = [line for line in capfd.readouterr().err.splitlines() if "WARNING" in line]
    assert f"{weights}: truncated or damaged" in line
    assert line.endswith("; continuing after step 2")


def test_a_stopped_run_has_the_status_of_its_newest_state(stopped):
    [output] = read_status([stopped]).outputs
    assert (output.done, output.total, output.complete) == (4, 6, False)


def test_without_a_whole_state_it_ends_with_what_to_do(stopped, expo, pairs, tiny_sd):
    for step in (2, 4):
        (stopped / "state" / f"step-{step:08d}" / "optimizer.safetensors").unlink()
    command = ["train", pairs, "--init-from", tiny_sd, "--out", stopped, *flags(), "--quiet"]
    done = expo(*command)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "step-00000004/optimizer.safetensors: cannot be read: No such file" in done.stderr
    assert "no complete state is left to continue from: restore one" in done.stderr
    assert not (stopped / "model_index.json").exists()


def test_a_signal_saves_before_it_stops(pairs, tiny_sd, tmp_path):
    out = tmp_path / "out"
    command = [EXPO, "train", pairs, "--init-from", tiny_sd, "--out", out]
    command += ["--max-train-steps", 100000, "--checkpointing-steps", 100000]
    command += ["--logging-steps", 1]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    while not (out / "metrics.jsonl").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    stderr = process.communicate()[1]
    assert process.returncode == 75
    assert "stopped by SIGUSR1" in stderr
    assert len(list((out / "state").glob("step-*"))) == 1


def test_gradient_accumulation_equals_a_larger_batch(pairs, tiny_sd, tmp_path):
    large = train(pairs, tmp_path / "large", tiny_sd, train_batch_size=4)
    small = train(
        pairs, tmp_path / "small", tiny_sd, train_batch_size=2, gradient_accumulation_steps=2
    )
    for one, two in zip(large, small, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], abs=2e-3)
        assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=2e-2)
    assert large[0]["batch_size"] == small[0]["batch_size"] == 4


def test_gradient_checkpointing_changes_nothing(pairs, tiny_sd, tmp_path):
    plain = train(pairs, tmp_path / "plain", tiny_sd, max_train_steps=2)
    saved = train(
        pairs, tmp_path / "saved", tiny_sd, max_train_steps=2, gradient_checkpointing=True
    )
    assert plain[0]["grad_norm"] == pytest.approx(saved[0]["grad_norm"], rel=1e-4)


def test_scale_lr_multiplies_by_the_global_batch(pairs, tiny_sd, tmp_path):
    metrics = train(
        *(pairs, tmp_path / "out", tiny_sd),
        learning_rate=1e-6,
        scale_lr=True,
        gradient_accumulation_steps=3,
        max_train_steps=2,
    )
    assert metrics[0]["learning_rate"] == pytest.approx(6e-6)


def test_bf16_training_keeps_updates_that_bf16_weights_could_not_hold(pairs, tiny_sd, tmp_path):
    train(pairs, tmp_path / "out", tiny_sd, mixed_precision="bf16", learning_rate=1e-6)
    name = "unet/diffusion_pytorch_model.safetensors"
    before, after = read_tensors(tiny_sd / name), read_tensors(tmp_path / "out" / name)
    moved = sum((after[key] != before[key]).sum().item() for key in before)
    lost = sum(
        ((after[key] != before[key]) & (after[key].bfloat16() == before[key].bfloat16()))
        .sum()
        .item()
        for key in before
    )
    assert after["conv_in.weight"].dtype == torch.float32
    assert moved > 0.5 * sum(tensor.numel() for tensor in before.values())
    assert lost > 0.9 * moved


def test_sft_needs_no_reference(pairs, tiny_sd, tmp_path):
    metrics = train(pairs, tmp_path / "out", tiny_sd, objective="sft", ref=None)
    assert metrics[0]["loss"] == pytest.approx(metrics[0]["winner_error"])


def test_sft_on_winners_alone_does_not_depend_on_the_losers(pairs, tiny_sd, tmp_path):
    train(pairs, tmp_path / "one", tiny_sd, objective="sft", max_train_steps=2)
    for n in range(6):
        replace_latents(pairs, f"s{n}-loser", torch.zeros(4, 8, 8))
    train(pairs, tmp_path / "two", tiny_sd, objective="sft", max_train_steps=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize(
    ("objective", "at_first"),
    [
        ("dpo:loss=hinge", 1),
        ("dpo:loss=ipo", 1 / 4),
        ("expo:alpha=0,label_smoothing=0.1", math.log(2)),
    ],
)
def test_variants_of_dpo_start_where_their_formula_says(
    objective, at_first, pairs, tiny_sd, tmp_path
):
    first, last = train(
        pairs, tmp_path / "out", tiny_sd, objective=objective, max_train_steps=2, logging_steps=1
    )
    assert first["loss"] == pytest.approx(at_first, abs=1e-3)
    assert first["saturation"] == 0
    assert first["grad_norm"] > 0
    assert math.isfinite(last["loss"])


def test_kto_starts_at_half_and_its_first_step_goes_where_the_labels_ask(pairs, tiny_sd, tmp_path):
    settings = {"objective": "kto:desirable_fraction=0.5", "max_train_steps": 1}
    settings |= {"train_batch_size": 12, "learning_rate": 1e-5, "ref": str(tiny_sd)}
    [before] = train(pairs, tmp_path / "one", tiny_sd, **settings)
    assert before["loss"] == before["kto_loss"] == pytest.approx(1 / 2, abs=1e-3)
    assert before["reference_point"] == pytest.approx(0, abs=1e-6)
    assert before["saturation"] == 0
    # The same images, noise and timesteps again, seen by the policy that the step made.
    [after] = train(pairs, tmp_path / "two", tmp_path / "one", **settings)
    assert after["loss"] < before["loss"]
    assert after["desirable_error_change"] < after["undesirable_error_change"]
    assert after["implicit_accuracy"] > 0.5


def test_limit_counts_the_pairs_that_kto_takes_its_images_from(pairs, tiny_sd, tmp_path):
    config = TrainConfig(init_from=str(tiny_sd), **SMALL | {"objective": "kto", "limit": 4})
    result = train_policy([pairs], tmp_path / "out", config, RunOptions(quiet=True, dry_run=True))
    assert (result.learns_from, result.num_items) == ("images", 8)


@pytest.mark.parametrize("use_lora", [False, True])
def test_kto_stopped_by_broken_latents_and_repaired_ends_with_the_same_bytes(
    use_lora, pairs, tiny_sd, tmp_path
):
    settings = {"objective": "kto:reference_point=mismatched", "use_lora": use_lora}
    settings |= {"checkpointing_steps": 100, "caption_dropout": 0.2}
    train(pairs, tmp_path / "whole", tiny_sd, **settings)
    # Of places 0 to 6, two are undesirable images (0 and 5): the fourth step begins with the
    # fifth desirable one.
    name = f"s{visits(0, 6, 4, 1)[0].item}-winner"
    whole = read_tensors(pairs.parent / "rollout" / "part-00000.safetensors")[name]
    replace_latents(pairs, name, torch.full((4, 8, 8), math.nan))
    with pytest.raises(ContractError, match=f"{name} are not finite"):
        train(pairs, tmp_path / "stopped", tiny_sd, **settings)
    assert [path.name for path in (tmp_path / "stopped/state").iterdir()] == ["step-00000003"]
    replace_latents(pairs, name, whole)
    train(pairs, tmp_path / "stopped", tiny_sd, **settings)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_the_command_trains_kto_to_the_same_bytes(pairs, tiny_sd, tmp_path, expo):
    settings = SMALL | {"objective": "kto:beta=500,utility=loss-averse"}
    train(pairs, tmp_path / "stage", tiny_sd, **settings)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    out = tmp_path / "command"
    done = expo("train", pairs, "--init-from", tiny_sd, "--out", out, *flags)
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    assert "on 12 images, 6 optimiser steps" in done.stderr
    assert "beta 500 is k = 500" in done.stderr
    assert contents(out) == contents(tmp_path / "stage")


def test_a_run_that_breaks_down_stops_and_keeps_its_last_state(pairs, tiny_sd, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ExpoError, match="lower the learning rate"):
        train(pairs, out, tiny_sd, learning_rate=3.0, max_train_steps=50, checkpointing_steps=1)
    assert list((out / "state").glob("step-*"))
    assert not (out / "model_index.json").exists()


def test_a_finished_checkpoint_is_left_alone(pairs, tiny_sd, tmp_path):
    out = tmp_path / "out"
    train(pairs, out, tiny_sd, max_train_steps=2)
    before = contents(out)
    train(pairs, out, tiny_sd, max_train_steps=2)
    assert contents(out) == before
    with pytest.raises(
        ContractError, match="was begun with max_train_steps=2, not 4, .*--keep-state"
    ):
        train(pairs, out, tiny_sd, max_train_steps=4)
    anew = RunOptions(quiet=True, overwrite=True)
    assert train(pairs, out, tiny_sd, options=anew, max_train_steps=4)[-1]["step"] == 4


@pytest.mark.parametrize("use_lora", [False, True])
def test_a_kept_state_goes_on_to_more_steps_as_if_they_had_been_asked_for(
    use_lora, pairs, tiny_sd, tmp_path
):
    """Five steps end between two lines of metrics; neither grid of states meets 5 or 9."""
    settings = {"logging_steps": 3, "checkpointing_steps": 4, "use_lora": use_lora}
    train(pairs, tmp_path / "whole", tiny_sd, max_train_steps=9, **settings)
    out = tmp_path / "out"
    lines = train(pairs, out, tiny_sd, max_train_steps=5, keep_state=True, **settings)
    assert [line["step"] for line in lines] == [3, 5]
    assert [path.name for path in (out / "state").iterdir()] == ["step-00000005"]
    train(pairs, out, tiny_sd, max_train_steps=5, **settings)  # nothing to do, nothing removed
    lines = train(pairs, out, tiny_sd, max_train_steps=9, **settings)
    assert [line["step"] for line in lines] == [3, 6, 9]
    assert contents(out) == contents(tmp_path / "whole")
    assert json.loads((out / "run.json").read_text())["plan"]["max_train_steps"] == 9
    with pytest.raises(ContractError, match="max_train_steps=9, not 5"):
        train(pairs, out, tiny_sd, max_train_steps=5, **settings)


def test_going_on_with_another_number_of_threads_is_said(
    pairs, tiny_sd, tmp_path, capsys, monkeypatch
):
    """And not that of the same number."""
    for steps, threads in ((1, 1), (2, 1), (3, 2)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        capsys.readouterr()
        settings = {"max_train_steps": steps, "keep_state": True}
        train(pairs, tmp_path / "out", tiny_sd, options=RunOptions(), **settings)
        assert ("continues with" in capsys.readouterr().err) == (threads == 2)
    assert json.loads((tmp_path / "out/run.json").read_text())["free"]["threads"] == 2


@pytest.mark.parametrize("schedule", [{"warmup_ratio": 0.5}, {"lr_scheduler": "linear"}])
def test_more_steps_are_refused_where_the_first_would_have_been_others(
    schedule, pairs, tiny_sd, tmp_path
):
    out = tmp_path / "out"
    train(pairs, out, tiny_sd, max_train_steps=2, keep_state=True, **schedule)
    before = contents(out), (out / "run.json").read_bytes()
    with pytest.raises(UsageError, match="--max-train-steps 6: .* would have had other learning"):
        train(pairs, out, tiny_sd, max_train_steps=6, **schedule)
    assert (contents(out), (out / "run.json").read_bytes()) == before


def replace_latents(pairs: Path, name: str, tensor: torch.Tensor) -> None:
    path = pairs.parent / "rollout" / "part-00000.safetensors"
    write_tensors(path, read_tensors(path) | {name: tensor})


def test_latents_of_another_shape_are_refused(pairs, tiny_sd, tmp_path):
    replace_latents(pairs, "s0-winner", torch.zeros(16, 8, 8))
    with pytest.raises(ContractError, match=r"s0-winner have shape \[16, 8, 8\]"):
        train(pairs, tmp_path / "out", tiny_sd)
    replace_latents(pairs, "s0-winner", torch.zeros(4, 8, 8))
    replace_latents(pairs, "s3-loser", torch.zeros(4, 16, 8))
    with pytest.raises(ContractError, match=r"s3-loser have shape \[4, 16, 8\]"):
        train(pairs, tmp_path / "out", tiny_sd)


def test_latents_that_are_not_finite_are_refused(pairs, tiny_sd, tmp_path):
    replace_latents(pairs, "s2-loser", torch.full((4, 8, 8), math.nan))
    with pytest.raises(ContractError, match="s2-loser are not finite"):
        train(pairs, tmp_path / "out", tiny_sd)


def test_a_pickle_where_safetensors_belong_is_refused(pairs, tiny_sd, tmp_path):
    torch.save({"s0-winner": torch.zeros(4, 8, 8)}, pairs.parent / "rollout/part-00000.safetensors")
    with pytest.raises(ContractError, match="is a pickle; only safetensors are read"):
        train(pairs, tmp_path / "out", tiny_sd)


def test_a_pair_file_from_a_stranger_reads_nothing_outside_its_folder(pairs, tiny_sd, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    text = pairs.read_text()
    for part in (
        "../rollout/part-00000.safetensors",
        str(tmp_path / "rollout/part-00000.safetensors"),
    ):
        (inner / "pairs.jsonl").write_text(text.replace("rollout/part-00000.safetensors", part))
        with pytest.raises(ContractError, match="leaves the folder"):
            train(inner / "pairs.jsonl", tmp_path / "out", tiny_sd)
        assert not (tmp_path / "out").exists()


def test_the_same_pair_twice_is_refused(pairs, tiny_sd, tmp_path):
    shutil.copy(pairs, tmp_path / "again.jsonl")
    config = TrainConfig(init_from=str(tiny_sd), **SMALL)
    with pytest.raises(
        ContractError, match=r"again.jsonl:1: pair pair0 is already at .*pairs.jsonl:1"
    ):
        train_policy([pairs, tmp_path / "again.jsonl"], tmp_path / "out", config, OPTIONS)


def test_another_global_batch_is_refused(pairs, tiny_sd, tmp_path):
    out = tmp_path / "out"
    train(pairs, out, tiny_sd, max_train_steps=1)
    halved = {"train_batch_size": 1, "gradient_accumulation_steps": 2}
    train(pairs, out, tiny_sd, max_train_steps=1, **halved)
    message = "begun with global_batch_size=2, not 1; give the settings .* --train-batch-size x"
    with pytest.raises(ContractError, match=message):
        train(pairs, out, tiny_sd, max_train_steps=1, train_batch_size=1)


def test_where_a_batch_is_mixed_its_size_is_part_of_the_plan(tiny_sd):
    config = resolve(TrainConfig(init_from=str(tiny_sd)))
    plan, free = plan_and_free(config, DiffusionKTO())
    assert "train_batch_size" in plan
    assert "train_batch_size" not in free
    plan, free = plan_and_free(config, DiffusionDPO())
    assert "train_batch_size" in free
    assert plan["global_batch_size"] == free["train_batch_size"] == 4


def pickle_latents(pairs: Path) -> None:
    torch.save({"s0-winner": torch.zeros(4, 8, 8)}, pairs.parent / "rollout/part-00000.safetensors")


def leave_the_folder(pairs: Path) -> None:
    pairs.write_text(pairs.read_text().replace("rollout/part", "../rollout/part"))


def truncate_the_last_line(pairs: Path) -> None:
    pairs.write_text(pairs.read_text()[:-40])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda pairs: replace_latents(pairs, "s0-winner", torch.zeros(16, 8, 8)), "have shape"),
        (pickle_latents, "is a pickle; only safetensors are read"),
        (leave_the_folder, "leaves the folder"),
        (truncate_the_last_line, "pairs.jsonl:6: "),
        (Path.unlink, "pairs.jsonl: cannot be read"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(spoil, message, expo, pairs, tiny_sd, tmp_path):
    spoil(pairs)
    out = tmp_path / "out"
    done = expo("train", pairs, "--init-from", tiny_sd, "--out", out, "--quiet")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (out / "model_index.json").exists()
