#!/usr/bin/env python3
"""Your own stage: a rollout drawn by another program, here diffusers' own pipeline.

    python recipes/plugins/own_rollout.py prompts.jsonl MODEL run/mine
    expo score run/mine --reward pickscore

It writes all that `score`, `make-pairs`, `train` and `evaluate` need: the records and latents of each
part, then run.json. In run.json, `plan` has the number of parts and samples, `free` the model whose
VAE decodes the latents; without `format` there is a note on an older expo. A sample's `digest` ties
scores and pairs to its latents; without it they are not checked.
"""

import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from expo_cli.contracts import jsonl
from expo_cli.contracts.ids import sample_id, sample_seed
from expo_cli.contracts.provenance import Run, write_run
from expo_cli.contracts.records import Prompt, Sample
from expo_cli.contracts.shards import part_path
from expo_cli.contracts.tensors import latents_digest, write_tensors
from expo_cli.core.image_statistics import image_checks

STEPS, GUIDANCE, IMAGES_PER_PROMPT = 4, 1.5, 2


def draw(
    pipeline: StableDiffusionPipeline, prompt: Prompt, index: int
) -> tuple[Sample, torch.Tensor]:
    seed = sample_seed(0, prompt.prompt_id, "main", 0, index)
    latents = pipeline(
        prompt.prompt,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
    ).images
    with torch.inference_mode():
        pixels = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    [checks] = image_checks((pixels / 2 + 0.5).clamp(0, 1))
    stored = latents[0].half()
    sample = Sample(
        sample_id=sample_id(prompt.prompt_id, "main", 0, index),
        prompt_id=prompt.prompt_id,
        prompt=prompt.prompt,
        agent="main",
        iteration=0,
        index=index,
        seed=seed,
        negative_prompt="",
        policy="my own program",
        scheduler=type(pipeline.scheduler).__name__,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        eta=0.0,
        width=pixels.shape[-1],
        height=pixels.shape[-2],
        checks=checks,
        digest=latents_digest(stored),
    )
    return sample, stored


def main(prompts_path: Path, model: str, out: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    prompts = list(jsonl.read(prompts_path, Prompt))
    for part, prompt in enumerate(prompts):  # one prompt per part, for brevity
        drawn = [draw(pipeline, prompt, index) for index in range(IMAGES_PER_PROMPT)]
        latents = {sample.sample_id: tensor for sample, tensor in drawn}
        write_tensors(part_path(out, part, ".safetensors"), latents)
        jsonl.write(part_path(out, part), [sample for sample, _ in drawn])
    plan = {
        "num_parts": len(prompts),
        "part_size": 1,
        "num_prompts": len(prompts),
        "num_images_per_prompt": IMAGES_PER_PROMPT,
        "num_samples": len(prompts) * IMAGES_PER_PROMPT,
    }
    write_run(out, Run(command="rollout", plan=plan, free={"drawn_by": model}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
