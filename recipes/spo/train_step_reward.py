"""Train SPO's step-aware preference model from a PickScore (https://arxiv.org/abs/2406.04314).

    python recipes/spo/train_step_reward.py PAIRS.jsonl ... --policy BASE --reward PICKSCORE --out FOLDER

Winner and loser of a pair are noised with the same noise to the same timestep, the base model
predicts the final image of each, and the reward learns which of the two comes from the winner:
PickScore's cross entropy over the two scores. The vision tower, its projection and the time
conditioning are trained; the text tower and the logit scale stay PickScore's.

The final images of all draws (noise and timestep) of a pair are predicted before the training, into
FOLDER.draws, where an interrupted run continues; the training itself starts again. FOLDER.json
holds, by timestep, how often the trained reward, as stored, and the plain PickScore rank the pairs
of held-back prompts correctly. The same seed gives the same weights.

The defaults are SPO's, which trains PickScore_v1 on Pick-a-Pic: guidance 5 and learning rate 3e-6.
"""

import argparse
import json
import logging
import math
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from expo_cli.contracts.files import atomic, atomic_folder, sha256
from expo_cli.contracts.identity import (
    NETWORK,
    SCHEDULER,
    TEXT,
    VAE,
    model_sha256s,
    one_sha256,
)
from expo_cli.contracts.ids import fraction, pair_seed
from expo_cli.contracts.outputs import Input, Parts
from expo_cli.contracts.provenance import Run, package_versions
from expo_cli.contracts.shards import num_parts, part_name, part_path
from expo_cli.contracts.tensors import TensorFiles, write_tensors
from expo_cli.core.gaussian_steps import clean_latents
from expo_cli.core.noise import training_noise
from expo_cli.errors import ContractError, ExpoError
from expo_cli.models.loading import load_model
from expo_cli.models.protocol import Conditioning, DiffusionModel
from expo_cli.models.sampling import guided
from expo_cli.rewards.clip_files import PREPROCESSING, TOKENIZER
from expo_cli.rewards.pickscore import PickScore
from expo_cli.rewards.step_clip import StepCLIP
from expo_cli.rewards.step_pickscore import TIME_CONDITIONING, StepPickScore
from expo_cli.stages.common.decoding import to_images
from expo_cli.stages.common.device import DTYPES, default_device, resolve_dtype
from expo_cli.stages.train.records import TrainingPair, read_pairs

log = logging.getLogger("step_reward")
PART_SIZE = 256  # draws per file
BIN = 200  # timesteps, for the figures; finished images are a bin of their own
PROMPTS_AT_ONCE = 256


@dataclass(frozen=True)
class Draw:
    """A pair at one timestep. The draw numbered 0 is the finished images, at timestep 0."""

    pair: TrainingPair
    number: int

    @property
    def name(self) -> str:
        return f"{self.pair.pair.pair_id}-{self.number}"


class DrawParts(Parts):
    """The folder of all draws: one safetensors file per part."""

    remedy = "delete the folder, or choose another --out"

    def part_files(self, part: int) -> list[str]:
        return [f"{part_name(part)}.safetensors"]

    def own_files(self) -> Iterator[Path]:
        yield from sorted(self.path.glob("part-*.safetensors"))


class Draws:
    """The images of all draws as the reward's preprocessing crops them, and their timesteps."""

    def __init__(self, folder: Path, draws: Sequence[Draw]) -> None:
        self.folder, self.draws = folder, draws
        self.places = {draw.name: index // PART_SIZE for index, draw in enumerate(draws)}
        self.files = TensorFiles()

    def part(self, number: int) -> Sequence[Draw]:
        return self.draws[number * PART_SIZE : (number + 1) * PART_SIZE]

    def path(self, number: int) -> Path:
        return part_path(self.folder, number, ".safetensors")

    def read(self, draw: Draw) -> tuple[list[Image.Image], int]:
        """Winner and loser, and their timestep."""
        path = self.path(self.places[draw.name])
        images = self.files.get(path, draw.name).permute(0, 2, 3, 1).numpy()
        timestep = self.files.get(path, f"{draw.name}-timestep")
        return [Image.fromarray(image) for image in images], int(timestep)


def make_draws(draws: Draws, arguments: argparse.Namespace, clip: StepCLIP) -> None:
    """Write the parts that are missing. Raises ContractError when others were begun there."""
    count = num_parts(len(draws.draws), PART_SIZE)
    run = Run(
        command="step-reward",
        plan={
            "limit": arguments.limit,
            "draws": arguments.draws,
            "guidance_scale": arguments.guidance_scale,
            "seed": arguments.seed,
            "size": clip.image_processor.crop_size["height"],
        },
        free={"policy": arguments.policy, "pairs": list(map(str, arguments.pairs))},
        inputs=inputs_of(arguments),
    )
    output = DrawParts(draws.folder, run.command, count)
    output.begin(run, [Input("a pair file", path) for path in arguments.pairs])
    missing = output.missing()
    if not missing:
        return
    device = default_device()
    model = load_model(arguments.policy, device, resolve_dtype(arguments.dtype, device))
    latents = TensorFiles()
    for number in missing:
        started, chosen = time.monotonic(), draws.part(number)
        tensors: dict[str, Tensor] = {}
        for start in range(0, len(chosen), arguments.batch_size):
            rows = chosen[start : start + arguments.batch_size]
            tensors |= predict(rows, model, latents, clip, arguments)
        write_tensors(draws.path(number), tensors)
        rate = len(chosen) / (time.monotonic() - started)
        log.info("draws: part %d of %d, %.1f draws/s", number + 1, count, rate)


def inputs_of(arguments: argparse.Namespace) -> dict[str, str]:
    pairs = {f"pairs {n}": sha256(path) for n, path in enumerate(arguments.pairs, start=1)}
    return pairs | model_sha256s("policy", arguments.policy, (*NETWORK, *TEXT, *SCHEDULER, *VAE))


@torch.inference_mode()
def predict(
    rows: Sequence[Draw],
    model: DiffusionModel,
    files: TensorFiles,
    clip: StepCLIP,
    arguments: argparse.Namespace,
) -> dict[str, Tensor]:
    """The predicted images of each draw's winner and loser, and its timestep, by tensor name."""
    clean = [
        files.get(draw.pair.folder / ref.part, ref.sample_id).float()
        for draw in rows
        for ref in (draw.pair.pair.winner, draw.pair.pair.loser)
    ]
    finished = torch.stack(clean)
    noise, timesteps = [], []
    for draw in rows:
        own_noise, timestep = training_noise(
            pair_seed(arguments.seed, f"{draw.pair.pair.pair_id}/step-reward", draw.number),
            finished.shape[1:],
            model.training_timestep,
        )
        noise += [own_noise] * 2
        timesteps += [timestep if draw.number else 0] * 2
    at = torch.tensor(timesteps)
    predicted = [i for i in range(len(at)) if rows[i // 2].number]
    latents = finished.clone().to(model.device)
    if predicted:
        noisy = model.add_noise(finished[predicted], torch.stack(noise)[predicted], at[predicted])
        prompts = [rows[i // 2].pair.pair.prompt for i in predicted]
        latents[predicted] = predicted_latents(
            model, noisy.to(model.device), at[predicted], prompts, arguments.guidance_scale
        )
    images = to_images(model.decode(latents))
    cropped = clip.image_processor(
        images, do_rescale=False, do_normalize=False, return_tensors="pt"
    ).pixel_values.to(torch.uint8)
    pairs = {draw.name: cropped[2 * i : 2 * i + 2] for i, draw in enumerate(rows)}
    return pairs | {f"{draw.name}-timestep": at[2 * i] for i, draw in enumerate(rows)}


def predicted_latents(
    model: DiffusionModel,
    noisy: Tensor,
    timesteps: Tensor,
    prompts: Sequence[str],
    guidance_scale: float,
) -> Tensor:
    """The final latents predicted from noisy ones, with guidance: DDIM's x0, fp32."""
    timesteps = timesteps.to(noisy.device)
    conditioning = model.encode(prompts)
    if guidance_scale != 1:
        negative = model.encode([""] * len(prompts))
        conditioning = Conditioning.concatenate([negative, conditioning])
    prediction = guided(model, noisy, timesteps, conditioning, guidance_scale)
    alpha = model.alphas_cumprod().to(noisy.device)[timesteps]
    return clean_latents(noisy, model.epsilon(prediction, noisy, timesteps), alpha)


def preference_loss(winner: Tensor, loser: Tensor) -> Tensor:
    """Cross entropy of the winner being the better one, by scores [batch]; mean over the pairs."""
    return -F.logsigmoid(winner - loser).mean()


class Scorer:
    """Scores draws. Prompts are encoded once: the text tower is not trained."""

    def __init__(self, clip: StepCLIP, draws: Draws) -> None:
        self.clip, self.draws = clip, draws
        prompts = list(dict.fromkeys(draw.pair.pair.prompt for draw in draws.draws))
        self.words: dict[str, Tensor] = {}
        for start in range(0, len(prompts), PROMPTS_AT_ONCE):
            chosen = prompts[start : start + PROMPTS_AT_ONCE]
            with torch.no_grad():
                self.words |= zip(chosen, clip.words(chosen), strict=True)

    def __call__(self, rows: Sequence[Draw]) -> tuple[Tensor, Tensor, list[int]]:
        """Scores of winners and of losers [rows], and the rows' timesteps."""
        read = [self.draws.read(draw) for draw in rows]
        timesteps = [timestep for _, timestep in read]
        pixels = self.clip.pixels([image for images, _ in read for image in images])
        images = self.clip.images_at(pixels, torch.tensor(timesteps).repeat_interleave(2))
        words = torch.stack([self.words[draw.pair.pair.prompt] for draw in rows])
        cosines = (images.view(len(rows), 2, -1) * words[:, None]).sum(dim=-1)
        winner, loser = (self.clip.logit_scale * cosines).unbind(dim=1)
        return winner, loser, timesteps


def batches(count: int, size: int, seed: int) -> Iterator[list[int]]:
    """Batches of indices without end: each index once per pass."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while True:
        while len(order) < size:
            order += torch.randperm(count, generator=generator).tolist()
        yield order[:size]
        order = order[size:]


def train(
    clip: StepCLIP, draws: Draws, chosen: Sequence[Draw], arguments: argparse.Namespace
) -> None:
    """AdamW; the learning rates decay linearly to 0 after a warm-up of a tenth of the steps.

    Raises ExpoError when the loss is not finite.
    """
    scores = Scorer(clip, draws)
    tower = [*clip.network.vision_model.parameters(), *clip.network.visual_projection.parameters()]
    conditioning = list(clip.conditioning.parameters())
    for parameter in (*tower, *conditioning):
        parameter.requires_grad_(True)
    groups = [
        {"params": tower, "lr": arguments.learning_rate},
        {"params": conditioning, "lr": arguments.conditioning_learning_rate},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=arguments.weight_decay)
    steps = arguments.max_train_steps

    def rate(step: int) -> float:
        return min((step + 1) / max(0.1 * steps, 1), (steps - step) / (0.9 * steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    device, mean_loss, started = clip.network.device, math.nan, time.monotonic()
    for step, rows in enumerate(batches(len(chosen), arguments.batch_size, arguments.seed)):
        if step == steps:
            break
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            winner, loser, _ = scores([chosen[row] for row in rows])
            loss = preference_loss(winner, loser)
        if not loss.isfinite():
            raise ExpoError(f"the loss of step {step + 1} is {loss.item()}; lower --learning-rate")
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*tower, *conditioning], 1.0)
        optimiser.step()
        schedule.step()
        mean_loss = loss.item() if step == 0 else 0.95 * mean_loss + 0.05 * loss.item()
        if (step + 1) % 25 == 0 or step + 1 == steps:
            rate_now = (step + 1) / (time.monotonic() - started)
            log.info("step %d of %d, loss %.4f, %.2f steps/s", step + 1, steps, mean_loss, rate_now)
    for parameter in (*tower, *conditioning):
        parameter.requires_grad_(False)


@torch.inference_mode()
def accuracy(
    clip: StepCLIP, draws: Draws, chosen: Sequence[Draw], batch_size: int
) -> dict[str, dict[str, float]]:
    """Of all draws and by bin of timesteps: their number, the accuracy and the mean loss."""
    scores = Scorer(clip, draws)
    found: dict[str, list[tuple[bool, float]]] = {}
    for start in range(0, len(chosen), batch_size):
        rows = chosen[start : start + batch_size]
        for draw, winner, loser, timestep in zip(rows, *scores(rows), strict=True):
            entry = ((winner > loser).item(), preference_loss(winner, loser).item())
            for name in ("all", timestep_bin(draw, timestep)):
                found.setdefault(name, []).append(entry)
    return {
        name: {
            "draws": len(entries),
            "accuracy": round(fmean(hit for hit, _ in entries), 4),
            "loss": round(fmean(loss for _, loss in entries), 4),
        }
        for name, entries in sorted(found.items())
    }


def timestep_bin(draw: Draw, timestep: int) -> str:
    if draw.number == 0:
        return "finished"
    first = timestep // BIN * BIN
    return f"{first:03d}-{first + BIN - 1:03d}"


def write_model(clip: StepCLIP, reward: PickScore, out: Path, dtype: torch.dtype) -> None:
    """The folder of a `step-pickscore`, with the weights stored as `dtype`."""
    files = reward.files()
    with atomic_folder(out) as folder:
        clip.network.to(dtype).save_pretrained(folder)
        conditioning = clip.conditioning.to(dtype).state_dict()
        write_tensors(folder / TIME_CONDITIONING, conditioning, {"format": "pt"})
        shutil.copy(files.network / "config.json", folder)
        for name in (*PREPROCESSING, *TOKENIZER):
            if (files.processor / name).exists():
                shutil.copy(files.processor / name, folder)
        for path in folder.iterdir():
            path.chmod(0o644)


def write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic(path) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")


def run(arguments: argparse.Namespace) -> None:
    pairs = read_pairs(arguments.pairs, arguments.limit)
    held_back = {
        pair.pair.pair_id
        for pair in pairs
        if fraction("step-reward", pair.pair.prompt_id) < arguments.validation_fraction
    }
    draws = [Draw(pair, number) for pair in pairs for number in range(arguments.draws + 1)]
    validation = [draw for draw in draws if draw.pair.pair.pair_id in held_back]
    training = [draw for draw in draws if draw.pair.pair.pair_id not in held_back]
    if not validation or not training:
        raise ContractError(
            f"{len(held_back)} of {len(pairs)} pairs are held back for validation; give more pairs"
        )
    log.info("%d pairs to train on, %d held back", len(pairs) - len(held_back), len(held_back))

    torch.manual_seed(arguments.seed)
    device = default_device()
    reward = PickScore(model=arguments.reward, processor=arguments.processor)
    clip = StepCLIP(reward.files(), None, device, torch.float32)
    stored = Draws(arguments.out.with_name(arguments.out.name + ".draws"), draws)
    make_draws(stored, arguments, clip)

    def judged(by: StepCLIP) -> dict[str, dict[str, float]]:
        return accuracy(by, stored, validation, arguments.batch_size)

    before = judged(clip)
    started = time.monotonic()
    train(clip, stored, training, arguments)
    seconds = time.monotonic() - started
    write_model(clip, reward, arguments.out, DTYPES[arguments.store])
    trained = StepPickScore(model=str(arguments.out))
    clip = StepCLIP(trained.files(), trained.conditioning(), device, torch.float32)
    figures = {
        "settings": {
            name: [path.name for path in value] if name == "pairs" else value
            for name, value in vars(arguments).items()
            if name not in ("out", "policy", "reward", "processor", "dtype")
        },
        "pairs": {"training": len(pairs) - len(held_back), "validation": len(held_back)},
        "policy": one_sha256(inputs_of(arguments), "policy"),
        "reward": reward.identity(),
        "trained": trained.identity(),
        "validation": {"pickscore": before, "step-pickscore": judged(clip)},
        "training_seconds": round(seconds),
        "versions": package_versions(),
    }
    write_json(arguments.out.with_name(arguments.out.name + ".json"), figures)
    for name, plain in before.items():
        now = figures["validation"]["step-pickscore"][name]
        log.info("%s: accuracy %.3f (plain %.3f)", name, now["accuracy"], plain["accuracy"])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("pairs", type=Path, nargs="+", help="made by expo make-pairs")
    parser.add_argument("--policy", required=True, help="the base model: folder, hub id, embedded:")
    parser.add_argument("--reward", default=PickScore.model, help="the PickScore to start from")
    parser.add_argument("--processor", help="as pickscore's processor=")
    parser.add_argument("--out", type=Path, required=True, help="the model's folder")
    parser.add_argument("--guidance-scale", type=float, default=5.0, help="as SPO's sampling")
    parser.add_argument("--draws", type=int, default=8, help="timesteps of each pair")
    parser.add_argument("--validation-fraction", type=float, default=0.15, help="of the prompts")
    parser.add_argument("--max-train-steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=32, help="pairs")
    parser.add_argument("--learning-rate", type=float, default=3e-6, help="of the vision tower")
    parser.add_argument("--conditioning-learning-rate", type=float, default=3e-5)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--limit", type=int, help="use the first pairs only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["auto", *DTYPES], default="auto", help="base model's")
    parser.add_argument("--store", choices=list(DTYPES), default="fp32", help="dtype on disk")
    arguments = parser.parse_args()
    for name in ("draws", "max_train_steps", "batch_size"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be positive")
    return arguments


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    try:
        run(parse())
    except ExpoError as error:
        sys.exit(f"train_step_reward: {error}")
