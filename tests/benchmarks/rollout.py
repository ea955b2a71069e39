"""`expo rollout` against diffusers' pipeline called a prompt at a time.

    python -m tests.benchmarks.rollout [--model sd15] [--dtype bf16]

Both have loaded the same weights before, draw the same images from the same noise by DDIM, decode
them and write PNG files; the pixels are compared.
"""

import argparse
import json
import tempfile
from pathlib import Path
from unittest import mock

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.utils.logging import disable_progress_bar

from expo_cli.config import RolloutConfig, RunOptions
from expo_cli.contracts.ids import prompt_id
from expo_cli.contracts.kinds import RolloutParts
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.records import Prompt
from expo_cli.contracts.sources import shipped
from expo_cli.contracts.tensors import write_tensors
from expo_cli.core.exploration import SamplingPlan
from expo_cli.core.image_statistics import image_checks
from expo_cli.core.noise import generators, normal
from expo_cli.models.loading import load_model
from expo_cli.models.protocol import DiffusionModel
from expo_cli.stages.common.device import DTYPES
from expo_cli.stages.common.progress import Notes
from expo_cli.stages.rollout import run as drawing
from tests.benchmarks.alternating import alternate, report, timed
from tests.benchmarks.profiles import show_arithmetic, show_shares
from tests.pixels import mean_difference

EMBEDDED = "embedded:emoji-sd"
# What differs where a batch is summed up in another order, in 8-bit steps on average.
TOLERANCE = {"fp32": 0.1, "bf16": 3.0}


def embedded_prompts(count: int) -> list[Prompt]:
    lines = shipped("embedded:prompts/train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["prompt"] for line in lines[:count]]
    return [Prompt(prompt_id=prompt_id(text), prompt=text) for text in texts]


def planned_drawing(
    policy: str, prompts: list[Prompt], arguments: argparse.Namespace
) -> drawing.Drawing:
    config = RolloutConfig(
        policy=policy,
        num_images_per_prompt=arguments.images_per_prompt,
        scheduler="ddim",
        num_inference_steps=arguments.steps,
        guidance_scale=3.0,
        images="png",
        dtype=arguments.dtype,
        batch_size=arguments.batch_size,
    )
    return drawing.Drawing(
        prompts=prompts,
        negative_prompts=[],
        negative_probability=0.0,
        samplings=[
            SamplingPlan(
                scheduler=config.scheduler,
                num_inference_steps=config.num_inference_steps,
                guidance_scale=config.guidance_scale,
            )
        ],
        policy=policy,
        policy_sha256="",
        config=config,
    )


def draw_ours(plan: drawing.Drawing, model: DiffusionModel, folder: Path) -> None:
    """What `expo rollout` does, except that the model is loaded already."""
    with mock.patch.object(drawing, "load_model", return_value=model):
        run = Run(command="rollout", plan={"num_parts": 1})
        output = RolloutParts(folder, run)
        drawing.draw_parts(plan, output, run, [0], Notes(RunOptions(quiet=True)))


def pipeline_of(model: DiffusionModel) -> StableDiffusionPipeline:
    """diffusers' pipeline of the same networks."""
    disable_progress_bar()
    pipeline = StableDiffusionPipeline.from_pretrained(
        model.folder,
        unet=model.network,
        text_encoder=model.text.clip,
        vae=model._decoder.vae,
        scheduler=model.make_scheduler("ddim"),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw_theirs(
    plan: drawing.Drawing,
    pipeline: StableDiffusionPipeline,
    model: DiffusionModel,
    size: int,
    folder: Path,
) -> None:
    (folder / "images").mkdir(parents=True)
    samples = drawing.plan_samples(plan, plan.prompts, size, size)
    count = plan.config.num_images_per_prompt
    for start in range(0, len(samples), count):
        batch = samples[start : start + count]
        shape = model.latent_shape(size, size)
        noise = [normal(generator, shape) for generator in generators([s.seed for s in batch])]
        images = pipeline(
            batch[0].prompt,
            height=size,
            width=size,
            num_images_per_prompt=count,
            num_inference_steps=plan.config.num_inference_steps,
            guidance_scale=plan.config.guidance_scale,
            latents=torch.stack(noise).to(model.device, model.dtype),
        ).images
        for sample, image in zip(batch, images, strict=True):
            image.save(folder / "images" / f"{sample.sample_id}.png")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["embedded", "sd15"], default="embedded")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--images-per-prompt", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=RolloutConfig.batch_size)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), chosen)


def measure(work: Path, arguments: argparse.Namespace) -> None:
    policy = EMBEDDED
    if arguments.model == "sd15":
        # Imported here: the embedded model needs none of it.
        from tests.checkpoints.sd import stable_diffusion

        policy = str(stable_diffusion(work / "sd15", full=True))
    model = load_model(policy, torch.device("cpu"), DTYPES[arguments.dtype])
    model.image_size = lambda: arguments.size
    plan = planned_drawing(policy, embedded_prompts(arguments.prompts), arguments)
    pipeline = pipeline_of(model)
    calls = 0

    def fresh(name: str) -> Path:
        nonlocal calls
        calls += 1
        return work / f"{name}-{calls}"

    def ours() -> None:
        draw_ours(plan, model, fresh("ours"))

    def theirs() -> None:
        draw_theirs(plan, pipeline, model, arguments.size, fresh("theirs"))

    draw_ours(plan, model, work / "ours")
    draw_theirs(plan, pipeline, model, arguments.size, work / "theirs")
    difference = mean_difference(work / "ours", work / "theirs")
    assert difference < TOLERANCE[arguments.dtype], f"{difference} steps of 255 apart"
    seconds = alternate(
        {"expo rollout": timed(ours), "StableDiffusionPipeline": timed(theirs)}, arguments.rounds
    )
    title = (
        f"{arguments.model}, {arguments.dtype}, {arguments.size}x{arguments.size}, "
        f"{arguments.steps} steps, {arguments.images_per_prompt} images per prompt"
    )
    images = arguments.prompts * arguments.images_per_prompt
    report(title, images, "images", seconds)
    print(f"images differ by {difference:.3f} of 255 on average")
    show_shares(
        ours,
        {
            "UNet": [type(model).predict],
            "VAE": [type(model).decode],
            "text encoder and tokenizer": [type(model).encode],
            "scheduler": [DDIMScheduler.step],
            "image checks": [image_checks],
            "PNG files": [drawing.write_image],
            "latents": [write_tensors],
        },
    )
    show_arithmetic(ours, model.dtype)


if __name__ == "__main__":
    main()
