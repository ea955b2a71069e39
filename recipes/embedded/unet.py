"""Train the denoiser on a world like the web: quality varies, and is sometimes named.

In the end 40 % of the images are degraded, two fifths of them with their flaws in the caption. A plain prompt then
draws mixed quality, a negative prompt has an effect, and preferences have something to teach.
"""

import argparse
import logging
import random
from pathlib import Path

import torch
from clip import TEXT_WIDTH, Captioned, named_flaws
from degrade import FLAWS
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from training import Run
from transformers import CLIPModel, CLIPTokenizer, PreTrainedModel
from vae import encode
from world import Drawing

from expo_cli.contracts.files import atomic

BATCH_SIZE, COPIES = 32, 12
# Shapes are learnt sooner from mostly clean images; most flaws come in the second half.
DEGRADED_SHARES, FIRST_PART = (0.15, 0.4), 0.5
NAMED_SHARE, FLAWS_ONLY_SHARE = 0.4, 0.06
# Guidance suppresses what is more frequent without a caption than with one. Flaws are therefore rarer without
# a caption: else plain prompts would draw no bad images, and negative prompts would have nothing to avoid.
EMPTY_SHARES = {"clean": 0.12, "degraded": 0.06}
MIN_SNR_GAMMA = 5.0


def build() -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        block_out_channels=[64, 96, 160],
        layers_per_block=1,
        # The number of heads: diffusers' name is wrong for historical reasons.
        attention_head_dim=[2, 3, 5],
        cross_attention_dim=TEXT_WIDTH,
    )
    # The backward pass of fused attention is slow on CPU.
    unet.set_attn_processor(AttnProcessor())
    return unet


def build_scheduler() -> DDPMScheduler:
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )


def describe(drawing: Drawing, flaws: list[str], rng: random.Random) -> str:
    """A caption that names the flaws, one that does not, or the names of the flaws alone."""
    if rng.random() < FLAWS_ONLY_SHARE:
        return ", ".join(rng.sample(flaws, len(flaws)))
    caption = rng.choice(all_captions(drawing))
    return named_flaws(caption, flaws, rng) if rng.random() < NAMED_SHARE else caption


def names_flaws(caption: str) -> bool:
    return any(flaw in caption for flaw in FLAWS)


def encode_world(work: Path) -> dict:
    """Latents and captions of the training images, and the text embeddings of all their captions."""
    rng = random.Random(3)
    pool = Captioned(work, COPIES, seed=3)
    vae = AutoencoderKL.from_pretrained(work / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    text_encoder = CLIPModel.from_pretrained(work / "clip").text_model
    clean_captions = [all_captions(drawing) for drawing in pool.drawings]
    degraded_captions = [
        [describe(pool.drawings[index // COPIES], flaws, rng)]
        for index, flaws in enumerate(pool.flaws)
    ]
    captions = sorted({"", *sum(clean_captions + degraded_captions, [])})
    return {
        "clean": encode(vae, pool.clean),
        "degraded": encode(vae, pool.degraded),
        "clean_captions": clean_captions,
        "degraded_captions": degraded_captions,
        "captions": captions,
        "embeddings": embed(tokenizer, text_encoder, captions),
    }


class World:
    """Draws batches of latents with the embeddings of one of their captions."""

    def __init__(self, work: Path, seed: int) -> None:
        cache = work / "world.pt"
        if not cache.exists():
            with atomic(cache) as file:
                torch.save(encode_world(work), file)
        self.encoded = torch.load(cache, weights_only=True)
        self.row = {caption: row for row, caption in enumerate(self.encoded["captions"])}
        self.rng = random.Random(seed)

    def draw(self, size: int, degraded_share: float) -> tuple[Tensor, Tensor]:
        """Latents [size, 4, 16, 16] and text embeddings [size, tokens, width]."""
        latents, rows = [], []
        for _ in range(size):
            kind = "degraded" if self.rng.random() < degraded_share else "clean"
            index = self.rng.randrange(len(self.encoded[kind]))
            caption = self.rng.choice(self.encoded[f"{kind}_captions"][index])
            if not names_flaws(caption) and self.rng.random() < EMPTY_SHARES[kind]:
                caption = ""
            latents.append(self.encoded[kind][index])
            rows.append(self.row[caption])
        return torch.stack(latents), self.encoded["embeddings"][rows]


def all_captions(drawing: Drawing) -> list[str]:
    """The full caption three times, then those that leave style, gender or skin tone out."""
    short = [drawing.caption(style=False)]
    if drawing.gender:
        short += [drawing.caption(gender=False), drawing.caption(tone=False)]
        short += [drawing.caption(style=False, gender=False, tone=False)]
    return [drawing.caption()] * 3 * len(short) + short


@torch.no_grad()
def embed(tokenizer: CLIPTokenizer, encoder: PreTrainedModel, captions: list[str]) -> Tensor:
    """Embeddings of captions by the pipeline's text encoder: [count, tokens, width] in bfloat16."""
    batches = []
    for start in range(0, len(captions), 256):
        part = captions[start : start + 256]
        tokens = tokenizer(part, padding="max_length", truncation=True, return_tensors="pt")
        batches.append(encoder(tokens.input_ids).last_hidden_state.bfloat16())
    return torch.cat(batches)


def stratified_timesteps(size: int) -> Tensor:
    """One timestep from each of `size` equal parts of 0..999: less noise in the loss."""
    return ((torch.arange(size) + torch.rand(size)) * (1000 / size)).long()


def denoising_loss(
    unet: UNet2DConditionModel, scheduler: DDPMScheduler, latents: Tensor, embeddings: Tensor
) -> Tensor:
    """Noise prediction, weighted by min-SNR (https://arxiv.org/abs/2303.09556)."""
    noise, timesteps = torch.randn_like(latents), stratified_timesteps(len(latents))
    noisy = scheduler.add_noise(latents, noise, timesteps).to(unet.dtype)
    prediction = unet(noisy, timesteps, embeddings.to(unet.dtype)).sample.float()
    errors = (prediction - noise).square().flatten(1).mean(1)
    alphas = scheduler.alphas_cumprod[timesteps]
    ratios = alphas / (1 - alphas)
    return (errors * ratios.clamp(max=MIN_SNR_GAMMA) / ratios).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=90)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    scheduler = build_scheduler()
    run = Run(build(), arguments.work / "unet.pt", minutes=arguments.minutes, learning_rate=1e-3)
    # A resumed run must not see its first batches again.
    torch.manual_seed(run.num_steps)
    world = World(arguments.work, seed=run.num_steps)
    run.start()
    while not run.finished:
        batch = world.draw(BATCH_SIZE, DEGRADED_SHARES[run.progress > FIRST_PART])
        run.step(denoising_loss(run.module, scheduler, *batch))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    main()
