"""Draw with the pipeline's parts, many captions in one batch, as uint8 images."""

from collections.abc import Sequence

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
)
from diffusers.models.attention_processor import AttnProcessor
from torch import Generator, Tensor
from unet import build_scheduler, embed
from vae import decode

BATCH_SIZE = 32
SAMPLERS = {
    "ddpm": (DDPMScheduler, {}),
    "ddim": (DDIMScheduler, {"eta": 0.0}),
    "ddim-eta-1": (DDIMScheduler, {"eta": 1.0}),
    "dpm-solver++": (DPMSolverMultistepScheduler, {}),
}


class Painter:
    """Draws captions with a pipeline's parts, the denoiser in bfloat16."""

    def __init__(self, pipeline: StableDiffusionPipeline) -> None:
        self.pipeline = pipeline
        # from_pretrained forgets which attention was chosen for CPU's sake.
        pipeline.unet.to(torch.bfloat16).set_attn_processor(AttnProcessor())

    def embed(self, captions: Sequence[str]) -> Tensor:
        return embed(self.pipeline.tokenizer, self.pipeline.text_encoder, list(captions))

    @torch.no_grad()
    def draw(
        self,
        captions: Sequence[str],
        *,
        negatives: Sequence[str] | None = None,
        seed: int = 0,
        sampler: str = "dpm-solver++",
        num_inference_steps: int = 12,
        guidance_scale: float = 2.0,
    ) -> Tensor:
        """uint8 images [count, 3, 64, 64]; image i depends on its captions, `seed` and i alone."""
        negatives = negatives or [""] * len(captions)
        wanted, unwanted = self.embed(captions), self.embed(negatives)
        images = []
        for start in range(0, len(captions), BATCH_SIZE):
            rows = range(start, min(start + BATCH_SIZE, len(captions)))
            generators = [Generator().manual_seed(seed * 1_000_003 + row) for row in rows]
            embeddings = torch.cat([unwanted[rows], wanted[rows]])
            latents = self._denoise(
                embeddings, generators, sampler, num_inference_steps, guidance_scale
            )
            images.append(decode(self.pipeline.vae, latents))
        return torch.cat(images)

    def _denoise(
        self,
        embeddings: Tensor,
        generators: list[Generator],
        sampler: str,
        num_inference_steps: int,
        guidance_scale: float,
    ) -> Tensor:
        kind, options = SAMPLERS[sampler]
        scheduler = kind.from_config(build_scheduler().config)
        scheduler.set_timesteps(num_inference_steps)
        latents = torch.stack([torch.randn(4, 16, 16, generator=g) for g in generators])
        for timestep in scheduler.timesteps:
            both = torch.cat([latents, latents]).to(self.pipeline.unet.dtype)
            without, within = self.pipeline.unet(both, timestep, embeddings).sample.float().chunk(2)
            noise = without + guidance_scale * (within - without)
            if kind is not DPMSolverMultistepScheduler:
                options = {**options, "generator": generators}
            latents = scheduler.step(noise, timestep, latents, **options).prev_sample
        return latents
