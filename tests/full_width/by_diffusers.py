"""The images of a rollout once more, by diffusers' own pipeline, in a process of its own.

    python -m tests.full_width.by_diffusers ROLLOUT CHECKPOINT OUT [--lora FOLDER] [--scheduler CLASS]

OUT/images gets a PNG file a sample, drawn in bf16.
"""

import argparse
from pathlib import Path

import diffusers
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from expo_cli.contracts.records import Sample
from expo_cli.contracts.rollouts import open_rollout
from expo_cli.contracts.tensors import read_tensors
from expo_cli.core.noise import generators, normal
from expo_cli.models.flux import pack
from expo_cli.models.lora import ADAPTER_WEIGHTS


def image_of(pipeline: DiffusionPipeline, sample: Sample, shape: tuple[int, ...]) -> Image.Image:
    """Drawn from the sample's noise, latents of `shape` [channels, height, width]."""
    (generator,) = generators([sample.seed])
    noise = normal(generator, shape)[None].to(pipeline.dtype)
    return pipeline(
        sample.prompt,
        height=sample.height,
        width=sample.width,
        num_inference_steps=sample.num_inference_steps,
        guidance_scale=sample.guidance_scale,
        latents=pack(noise) if type(pipeline).__name__ == "FluxPipeline" else noise,
    ).images[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rollout", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--lora", type=Path)
    parser.add_argument("--scheduler", help="Instead of the checkpoint's own.")
    arguments = parser.parse_args()

    pipeline = DiffusionPipeline.from_pretrained(arguments.checkpoint, dtype=torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    if arguments.scheduler:
        scheduler = getattr(diffusers, arguments.scheduler)
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    if arguments.lora:
        pipeline.load_lora_weights(arguments.lora, weight_name=ADAPTER_WEIGHTS)

    rollout = open_rollout(arguments.rollout)
    shapes = {
        name: tuple(latents.shape)
        for name, latents in read_tensors(rollout.latents_path(0)).items()
    }
    images = arguments.out / "images"
    images.mkdir(parents=True)
    for sample in rollout.samples(0):
        image_of(pipeline, sample, shapes[sample.sample_id]).save(images / Path(sample.image).name)


if __name__ == "__main__":
    main()
