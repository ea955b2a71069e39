"""Every stage on a pretended GPU: no tensor is left on another device, and all files are the CPU's."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from expo_cli.config import (
    MakePairsConfig,
    PairImagesConfig,
    RolloutConfig,
    RunOptions,
    ScoreConfig,
    TrainConfig,
)
from expo_cli.contracts.tensors import read_tensors
from expo_cli.models.families import has_t5
from expo_cli.stages.common.device import default_device
from expo_cli.stages.make_pairs.run import make_pairs
from expo_cli.stages.rollout.plan import roll_out
from expo_cli.stages.score.plan import score_folder
from expo_cli.stages.train.plan import train_policy
from tests.branched import roll_out_branched
from tests.checkpoints.flux import flux
from tests.checkpoints.sd import stable_diffusion
from tests.checkpoints.sd3 import stable_diffusion_3
from tests.checkpoints.sdxl import stable_diffusion_xl
from tests.latent_pairs import write_latent_pairs
from tests.preferences import write_pick_a_pic
from tests.pretended_gpu import CUDA, WrongDevice, pretended_gpu

OPTIONS = RunOptions(quiet=True)
LEARNING_RATE = 1e-4
SMALL = {
    "objective": "dpo:beta=100",
    "max_train_steps": 2,
    "train_batch_size": 2,
    "learning_rate": LEARNING_RATE,
    "warmup_ratio": 0.0,
    "mixed_precision": "fp32",
    "max_error_ratio": 100.0,
}
FAMILIES = {
    "sd": stable_diffusion,
    "sdxl": stable_diffusion_xl,
    "sd3": stable_diffusion_3,
    "flux-dev": flux,
    "flux-schnell": functools.partial(flux, dev=False),
}


@pytest.fixture
def on_both(tmp_path):
    """Do the same in two folders, on the CPU and on the pretended GPU, and compare what is made.

    AdamW steps many tensors at once on a GPU only, and rounds otherwise: where a gradient is all
    but 0, weights differ by as much as two steps.
    """

    def run(work: Callable[[Path], None]) -> None:
        cpu, gpu = tmp_path / "cpu", tmp_path / "gpu"
        cpu.mkdir()
        work(cpu)
        gpu.mkdir()
        with pretended_gpu():
            work(gpu)
        assert made(cpu)
        torch.testing.assert_close(made(gpu), made(cpu), atol=2 * LEARNING_RATE, rtol=1e-3)

    return run


def made(folder: Path) -> dict[str, dict[str, torch.Tensor | float]]:
    """All tensors and scores, by path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".safetensors":
            found[name] = read_tensors(path)
        elif path.suffix == ".jsonl" and path.parent.name == "scores":
            lines = map(json.loads, path.read_text().splitlines())
            found[name] = {line["sample_id"]: line["score"] for line in lines}
    return found


def roll_out_twice(folder: Path, out: str, policy: str | Path, **settings) -> Path:
    prompts = folder / "prompts.jsonl"
    prompts.write_text('{"prompt_id": "p0", "prompt": "a red cat"}\n')
    drawing = {"num_inference_steps": 2, "height": 64, "width": 64, "dtype": "fp32"} | settings
    config = RolloutConfig(policy=str(policy), num_images_per_prompt=2, **drawing)
    roll_out(prompts, folder / out, config, OPTIONS, "0/1")
    return folder / out


def pair(inputs: list[Path], out: Path, images: PairImagesConfig | None = None, **settings) -> Path:
    config = MakePairsConfig(**settings)
    make_pairs(inputs, out, config, images or PairImagesConfig(), OPTIONS, "0/1")
    return out


def train(pairs: Path, out: Path, policy: Path, **settings) -> Path:
    config = TrainConfig(init_from=str(policy), **SMALL | settings)
    train_policy([pairs], out, config, OPTIONS)
    assert Accelerator().device.type == default_device().type
    return out


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_the_loop_of_each_family(make, on_both, tmp_path, tiny_clip):
    model = make(tmp_path / "model")

    def work(folder: Path) -> None:
        main = roll_out_twice(folder, "main", model)
        scoring = ScoreConfig(reward=(f"pickscore:model={tiny_clip}",), dtype="fp32")
        score_folder(main, main / "scores", scoring, OPTIONS, "0/1")
        pairs = pair([main], folder / "pairs.jsonl")
        kept = {"text_cache": str(folder / "t5")} if has_t5(model) else {}
        checkpoint = train(pairs, folder / "checkpoint", model, use_lora=True, **kept)
        roll_out_twice(folder, "again", checkpoint, **kept)

    on_both(work)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm-solver++", "euler", "euler-ancestral"])
def test_samplers_negative_prompts_and_kl(sampler, on_both, tiny_sd, tiny_sd_v, tmp_path):
    negatives = tmp_path / "negatives.txt"
    negatives.write_text("blurry\n")
    negative = {
        "neg_schedule": "constant",
        "negative_prompts": str(negatives),
        "iteration": 1,
        "iterations": 1,
    }
    kl = {"kl_to": str(tiny_sd_v)} if sampler == "ddpm" else {}
    settings = {"scheduler": sampler, "images": "png"} | negative | kl
    on_both(lambda folder: roll_out_twice(folder, "main", tiny_sd, **settings))


@pytest.mark.parametrize("objective", ["kto:beta=100", "expo:beta=100,alpha=0.1,gated=true"])
def test_objectives_with_a_reference_that_is_remembered(objective, on_both, tiny_sd, tmp_path):
    def work(folder: Path) -> None:
        pairs = write_latent_pairs(folder)
        cache = str(tmp_path / f"cache-{folder.name}")
        settings = {"objective": objective, "reference_cache": cache}
        train(pairs, folder / "first", tiny_sd, **settings)
        train(pairs, folder / "second", tiny_sd, **settings)

    on_both(work)


def test_another_reference_and_none(on_both, tiny_sd, tiny_sd_other):
    def work(folder: Path) -> None:
        pairs = write_latent_pairs(folder)
        train(pairs, folder / "dpo", tiny_sd, ref=str(tiny_sd_other), gradient_checkpointing=True)
        train(pairs, folder / "sft", tiny_sd, objective="sft")

    on_both(work)


def test_step_pairs(on_both, tiny_sd):
    def work(folder: Path) -> None:
        rollout = roll_out_branched(folder / "rollout", tiny_sd)
        pairing = "step-best-worst:min_confidence=0"
        pairs = pair([rollout], folder / "step-pairs.jsonl", pairing=pairing)
        train(pairs, folder / "checkpoint", tiny_sd, objective="spo:beta=10", use_lora=True)

    on_both(work)


def test_rewards(on_both, tiny_sd, tiny_clip, tiny_open_clip, tmp_path):
    shapes = {0: (1024, 16), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}
    predictor = {
        f"layers.{layer}.{name}": torch.full(size, 0.01)
        for layer, shape in shapes.items()
        for name, size in (("weight", shape), ("bias", shape[:1]))
    }
    save_file(predictor, tmp_path / "predictor.safetensors")
    rewards = (
        f"pickscore:model={tiny_clip}",
        f"clip-score:model={tiny_clip}",
        f"hpsv2:model={tiny_open_clip}",
        f"laion-aesthetic:weights={tmp_path / 'predictor.safetensors'},model={tiny_clip}",
        "step-pickscore:model=embedded:emoji-step-pickscore",
    )

    def work(folder: Path) -> None:
        main = roll_out_twice(folder, "main", tiny_sd, images="png")
        config = ScoreConfig(reward=rewards, dtype="fp32")
        score_folder(main, main / "scores", config, OPTIONS, "0/1")

    on_both(work)


def test_preferences_in_and_out(on_both, tiny_sd):
    def work(folder: Path) -> None:
        parquet = write_pick_a_pic(folder / "in" / "train.parquet")
        layout = PairImagesConfig(layout="pick-a-pic", vae=str(tiny_sd), flip=True)
        pairs = pair([parquet], folder / "pairs.jsonl", layout)
        pair([pairs], folder / "export", PairImagesConfig(export="imagefolder", vae=str(tiny_sd)))

    on_both(work)


def test_half_precision_scales_its_loss(tiny_sd, tmp_path):
    """fp16 is for GPUs alone; steps are skipped until the scale lets no gradient overflow."""
    pairs = write_latent_pairs(tmp_path)
    settings = {"max_train_steps": 8, "logging_steps": 1}
    by_precision = [train(pairs, tmp_path / "fp32", tiny_sd, **settings)]
    with pretended_gpu():
        settings["mixed_precision"] = "fp16"
        by_precision.append(train(pairs, tmp_path / "fp16", tiny_sd, **settings))
    fp32, fp16 = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in by_precision
    )
    errors = [line["reference_winner_error"] for line in fp32]
    assert [line["reference_winner_error"] for line in fp16] == pytest.approx(errors, rel=1e-2)
    assert 0 < fp16[-1]["weight_change"] < fp32[-1]["weight_change"]


def test_the_pretended_gpu_refuses_what_a_real_one_does():
    with pretended_gpu():
        here, there = torch.ones(2), torch.ones(2, device="cuda")
        assert (here.device.type, there.device, (there * 2).device) == ("cpu", CUDA, CUDA)
        assert (there.cpu().device.type, here.to(there).device) == ("cpu", CUDA)
        for mistake in (
            lambda: here + there,
            lambda: torch.stack([here, there]),
            lambda: torch.nn.Linear(2, 2)(there),
            lambda: here[there.long()],
            there.numpy,
            lambda: torch.randn(2, device="cuda", generator=torch.Generator()),
        ):
            with pytest.raises(WrongDevice):
                mistake()
