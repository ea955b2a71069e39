"""`expo train` against the inner loop of the Diffusion-DPO scripts of diffusers and Salesforce.

    python -m tests.benchmarks.train                                    # the embedded model
    python -m tests.benchmarks.train --sd15 FOLDER --use-lora --batch 4 --steps 2   # SD 1.5's width

The same pairs, noise, timesteps, weights, optimiser and precision, in turn in one process. Theirs
encodes both images and the caption in every step and asks the reference; the decoding and resizing
of image files, which theirs does too, is left out. Ours is `expo train` itself, from latents:

- ours: every prompt is new to it, and the reference is asked
- ours, reference cached: the same with a full --reference-cache
- ours, reference cached, prompts seen: from the second visit to a prompt on, its embedding is there

Both are compared step by step first. Then peak memory, each way in a process of its own, and where
the time of ours goes.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from expo_cli.config import RunOptions, TrainConfig
from expo_cli.contracts import jsonl
from expo_cli.contracts.ids import pair_seed
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.records import Pair, SampleRef
from expo_cli.contracts.sources import model_folder
from expo_cli.contracts.tensors import read_tensors, write_tensors
from expo_cli.core.noise import training_noise, uniform_timestep
from expo_cli.core.visits import visits
from expo_cli.models.loading import load_encoder
from expo_cli.stages.common.device import DTYPES, default_device
from expo_cli.stages.common.progress import Notes
from expo_cli.stages.train.evidence import PromptEmbeddings
from expo_cli.stages.train.metrics import MetricsLog
from expo_cli.stages.train.origin import origin_of
from expo_cli.stages.train.pair_evidence import PairEvidence
from expo_cli.stages.train.plan import build_objective, train_policy
from expo_cli.stages.train.processes import start_processes
from expo_cli.stages.train.records import read_pairs
from expo_cli.stages.train.reference import Reference
from expo_cli.stages.train.settings import resolve
from expo_cli.stages.train.trainer import Trainer
from expo_cli.stages.train.weights import MasterWeights
from tests.benchmarks.alternating import alternate, report_against, timed
from tests.benchmarks.children import Child, show_work
from tests.benchmarks.profiles import show_arithmetic, show_shares
from tests.checkpoints.sd import stable_diffusion

BETA = 5000.0
LEARNING_RATE = 1e-5
RANK = 8
COMPARED = 3  # steps
OURS, CACHED, SEEN = "ours", "ours, reference cached", "ours, reference cached, prompts seen"
THEIRS = "theirs"


@dataclass
class Work:
    """What both train on: `pixels` [pairs, 2, 3, H, W] in [-1, 1], winner first, and the same
    images' latents in the pairs of the file `pairs`."""

    policy: str
    pixels: Tensor
    prompts: list[str]
    pairs: Path
    options: argparse.Namespace

    @property
    def config(self) -> TrainConfig:
        options = self.options
        return resolve(
            TrainConfig(
                init_from=self.policy,
                objective=f"dpo:beta={BETA}",
                max_train_steps=COMPARED + options.steps * (options.rounds + 2) + 2,
                train_batch_size=options.batch,
                learning_rate=LEARNING_RATE,
                warmup_ratio=0.0,
                mixed_precision=options.precision,
                use_lora=options.use_lora,
                lora_rank=RANK,
                logging_steps=10,
            )
        )


def policy_of(options: argparse.Namespace) -> str:
    return str(options.sd15) if options.sd15 else "embedded:emoji-sd"


def prompts_of(options: argparse.Namespace) -> list[str]:
    return [f"a picture of {n} cats and a dog" for n in range(options.pairs)]


def open_work(folder: Path, options: argparse.Namespace) -> Work:
    """What `make_work` made; no part of a model is loaded for it."""
    pixels = read_tensors(folder / "pixels.safetensors")["pixels"]
    return Work(policy_of(options), pixels, prompts_of(options), folder / "pairs.jsonl", options)


def make_work(folder: Path, options: argparse.Namespace) -> None:
    """Random smooth images, each encoded once, as `make-pairs --layout ... --posterior mean` does."""
    if options.sd15 and not (options.sd15 / "model_index.json").exists():
        stable_diffusion(options.sd15, full=True)
    encoder = load_encoder(policy_of(options), default_device(), DTYPES[options.precision])
    size = options.image_size if options.sd15 else encoder.image_size()
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2 * options.pairs, 3, 8, 8, generator=generator) * 2 - 1
    pixels = F.interpolate(coarse, size=(size, size), mode="bicubic").clamp(-1, 1)
    latents = {f"s{n}": encoder.encode(pixels[n : n + 1])[0][0].cpu() for n in range(len(pixels))}
    write_tensors(folder / "part-00000.safetensors", latents)

    def ref(n: int) -> SampleRef:
        return SampleRef(sample_id=f"s{n}", part="part-00000.safetensors")

    pairs = [
        Pair(
            pair_id=f"pair{n}",
            prompt_id=f"p{n}",
            prompt=prompt,
            winner=ref(2 * n),
            loser=ref(2 * n + 1),
            winner_score=1.0,
            loser_score=0.0,
            margin=1.0,
            reward="r",
            source="offline",
            iteration=0,
        )
        for n, prompt in enumerate(prompts_of(options))
    ]
    jsonl.write(folder / "pairs.jsonl", pairs)
    pixels = pixels.unflatten(0, (options.pairs, 2))
    write_tensors(folder / "pixels.safetensors", {"pixels": pixels})


class Theirs:
    """Salesforce's train.py and, with LoRA, diffusers' train_diffusion_dpo.py, as they are run:
    trained weights in fp32, under autocast where the precision is lower, frozen ones in it."""

    def __init__(self, work: Work) -> None:
        self.work, options = work, work.options
        folder, dtype = model_folder(work.policy), DTYPES[options.precision]
        self.dtype, self.device = dtype, default_device()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
        self.vae = AutoencoderKL.from_pretrained(folder / "vae")
        self.scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet").to(self.device)
        for frozen in (self.text_encoder, self.vae):
            frozen.requires_grad_(False).to(self.device, dtype)
        if options.use_lora:
            self.unet.requires_grad_(False)
            self.unet.to(dtype)
            names = ["to_k", "to_q", "to_v", "to_out.0"]
            torch.manual_seed(0)
            self.unet.add_adapter(
                LoraConfig(
                    r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=names
                )
            )
            for parameter in self.unet.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        else:
            self.reference = UNet2DConditionModel.from_pretrained(folder / "unet")
            self.reference.requires_grad_(False).to(self.device, dtype)
        self.trained = [p for p in self.unet.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=LEARNING_RATE, weight_decay=1e-2)
        self.number = 0

    def predict_reference(self, *inputs: Tensor) -> Tensor:
        if not self.work.options.use_lora:
            return self.reference(*inputs).sample
        self.unet.disable_adapters()
        prediction = self.unet(*inputs).sample
        self.unet.enable_adapters()
        return prediction

    def step(self) -> float:
        work, batch = self.work, self.work.options.batch
        chosen = visits(0, len(work.prompts), self.number * batch, batch)
        pixels = torch.cat([work.pixels[[visit.item for visit in chosen], n] for n in (0, 1)])
        prompts = [work.prompts[visit.item] for visit in chosen]
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids.to(self.device)
        with torch.no_grad():
            latents = self.vae.encode(pixels.to(self.device, self.dtype)).latent_dist.mode()
            latents = latents * self.vae.config.scaling_factor
            drawn = [
                training_noise(
                    pair_seed(0, f"pair{visit.item}", visit.draw),
                    latents.shape[1:],
                    uniform_timestep(1000),
                )
                for visit in chosen
            ]
            noise = torch.stack([noise for noise, _ in drawn]).to(self.device, self.dtype)
            noise = noise.repeat(2, 1, 1, 1)
            timesteps = torch.tensor([timestep for _, timestep in drawn], device=self.device)
            timesteps = timesteps.repeat(2)
            noisy = self.scheduler.add_noise(latents, noise, timesteps)
            states = self.text_encoder(tokens)[0].repeat(2, 1, 1)
        lower = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype) if lower else nullcontext():
            prediction = self.unet(noisy, timesteps, states).sample
            errors = F.mse_loss(prediction.float(), noise.float(), reduction="none")
            winner, loser = errors.mean(dim=[1, 2, 3]).chunk(2)
            with torch.no_grad():
                prediction = self.predict_reference(noisy, timesteps, states)
                errors = F.mse_loss(prediction.float(), noise.float(), reduction="none")
                reference_winner, reference_loser = errors.mean(dim=[1, 2, 3]).chunk(2)
            inside = -0.5 * BETA * ((winner - loser) - (reference_winner - reference_loser))
            loss = -F.logsigmoid(inside).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.gradients = [p.grad for p in self.trained]
        self.optimizer.zero_grad()
        self.number += 1
        return loss.item()


class Ours:
    """The Trainer of `expo train`, a step at a time."""

    def __init__(self, work: Work, name: str) -> None:
        config = work.config
        folder = work.pairs.parent / name
        if name != OURS:
            cache = work.pairs.parent / "cache"
            config = replace(config, reference_cache=str(cache))
            if not cache.exists():
                quiet = RunOptions(quiet=True)
                train_policy([work.pairs], folder, config, quiet, shard_text="0/1")
        self.forgets_prompts = name != SEEN
        objective = build_objective(config.objective)
        run = Run(
            command="train",
            plan={"num_pairs": len(work.prompts)},
            free={"pairs": []},
        )
        self.trainer = Trainer(
            read_pairs([work.pairs], None),
            objective,
            folder,
            config,
            start_processes(config, folder),
            Notes(RunOptions(quiet=True)),
            origin_of(config, objective, run),
        )
        self.number = 0

    def step(self) -> float:
        if self.forgets_prompts:
            self.trainer.data.denoiser.prompts.cache.clear()
        self.trainer.step(self.number)
        self.number += 1
        log = self.trainer.log
        return log.collected[-1]["loss"] if log.collected else log.last()["loss"]


MAKE: dict[str, Callable[[Work], "Ours | Theirs"]] = {
    OURS: lambda work: Ours(work, OURS),
    CACHED: lambda work: Ours(work, CACHED),
    SEEN: lambda work: Ours(work, SEEN),
    THEIRS: Theirs,
}


def compare(ours: Ours, theirs: Theirs, steps: int) -> None:
    """Print losses side by side, and how far the first gradients are apart."""
    for number in range(steps):
        losses = ours.step(), theirs.step()
        print(f"  step {number + 1}: loss {losses[0]:.6f} ours, {losses[1]:.6f} theirs", end="")
        if number or ours.trainer.config.use_lora:  # adapters start from other random weights
            print()
            continue
        print(f"; gradients {gradients_apart(ours, theirs):.1e} of their norm apart")


def gradients_apart(ours: Ours, theirs: Theirs) -> float:
    """How far the gradients of all weights in both's last steps are apart, relative to theirs."""
    mine = torch.cat([m.grad.flatten() for m in ours.trainer.masters.masters])
    other = torch.cat([gradient.flatten() for gradient in theirs.gradients])
    return ((mine - other).norm() / other.norm()).item()


def take_steps(way: Ours | Theirs, steps: int) -> None:
    for _ in range(steps):
        way.step()


# What a step consists of, but for the policy's forward pass, which is nearly all of the rest.
SHARES: dict[str, list[Callable]] = {
    "pairs: latents, noise": [PairEvidence.rows],
    "text encoder": [PromptEmbeddings.rows],
    "reference, or its cache": [Reference.values],
    "policy, backward": [torch.Tensor.backward],
    "gradients: sum, norm, clip": [
        MasterWeights.clear_gradients,
        MasterWeights.collect_gradients,
        Trainer.gather_gradients,
    ],
    "optimiser": [Trainer.update],
    "measurements and log": [PairEvidence.measure, MetricsLog.add, Trainer.weight_change],
}


def peak_memory(name: str, work: Path) -> float:
    """GB of a process that takes two steps one way, torch and weights included."""
    only = ("--only", name, "--work", work)
    child = Child("tests.benchmarks.train", *sys.argv[1:], *only)
    child()
    return child.peak_mib * 2**20 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sd15", type=Path, help="Folder to keep SD 1.5-wide weights in.")
    parser.add_argument("--image-size", type=int, default=64, help="Of --sd15.")
    parser.add_argument("--use-lora", action="store_true")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4, help="A round.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only:
        show_work(partial(take_steps, MAKE[options.only](open_work(options.work, options)), 2))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_work(Path(folder), options)
        time_all(open_work(Path(folder), options))
        if not options.no_memory:
            for name in MAKE:
                print(f"  {name:<40} {peak_memory(name, Path(folder)):6.2f} GB at its peak")


def time_all(work: Work) -> None:
    """Compare, alternate and profile, and let go of all models: memory is measured after it."""
    options = work.options
    print(
        f"{work.policy}, {options.precision}, {'LoRA' if options.use_lora else 'all weights'}, "
        f"batches of {options.batch} pairs, {options.threads} threads"
    )
    ways = {name: make(work) for name, make in MAKE.items()}
    compare(ways[OURS], ways[THEIRS], COMPARED)
    timings = {name: timed(partial(take_steps, way, options.steps)) for name, way in ways.items()}
    seconds = alternate(timings, options.rounds)
    report_against(THEIRS, options.steps * options.batch, "pairs", seconds)
    for name in (OURS, SEEN):
        print(name, end=": ")
        show_shares(partial(take_steps, ways[name], options.steps), SHARES)
    show_arithmetic(ways[SEEN].step, DTYPES[options.precision])


if __name__ == "__main__":
    main()
