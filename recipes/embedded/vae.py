"""Train the autoencoder: 64x64 pixels to 4 latent channels of 16x16 and back."""

import argparse
import logging
from pathlib import Path

import torch
from degrade import degraded_copies
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F
from training import Run
from world import load_drawings

CROP_SHARE, CROP_SIZE, BATCH_SIZE = 0.5, 32, 32
COPIES = 4
EDGE_WEIGHT, KL_WEIGHT = 0.5, 2e-4


def build() -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=64,
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[24, 48, 96],
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def edges(image: Tensor) -> tuple[Tensor, Tensor]:
    return image.diff(dim=-1), image.diff(dim=-2)


def reconstruction_loss(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
    drawn = vae.decode(posterior.sample()).sample.float()
    edge = sum(F.l1_loss(a, b) for a, b in zip(edges(drawn), edges(pixels), strict=True))
    divergence = posterior.kl().float().mean() / posterior.mean[0].numel()
    return F.l1_loss(drawn, pixels) + EDGE_WEIGHT * edge + KL_WEIGHT * divergence


def draw_batch(pools: list[Tensor], crop: bool) -> Tensor:
    """Half clean images, half degraded ones, in -1..1; crops are cheaper."""
    halves = [pool[torch.randint(len(pool), (BATCH_SIZE // 2,))] for pool in pools]
    pixels = torch.cat(halves) / 127.5 - 1
    if crop:
        top, left = torch.randint(pixels.shape[-1] - CROP_SIZE + 1, (2,)).tolist()
        pixels = pixels[..., top : top + CROP_SIZE, left : left + CROP_SIZE]
    return pixels


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor, batch_size: int = 64) -> Tensor:
    """uint8 images [count, 3, 64, 64] to the means of their latents [count, 4, 16, 16]."""
    batches = [vae.encode(batch / 127.5 - 1).latent_dist.mean for batch in images.split(batch_size)]
    return torch.cat(batches)


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor, batch_size: int = 64) -> Tensor:
    """Latents [count, 4, 16, 16] to uint8 images [count, 3, 64, 64]."""
    batches = [vae.decode(batch).sample for batch in latents.split(batch_size)]
    return (torch.cat(batches).clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)


def peak_signal_to_noise(vae: AutoencoderKL, images: Tensor) -> float:
    drawn = decode(vae, encode(vae, images))
    errors = ((drawn.float() - images.float()) / 255).square().flatten(1).mean(1)
    return (-10 * errors.log10()).mean().item()


@torch.no_grad()
def whiten(vae: AutoencoderKL, images: Tensor) -> None:
    """Fold the latents' means and standard deviations into the 1x1 convolutions: scaling_factor is 1."""
    latents = encode(vae, images)
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    into, out = vae.quant_conv, vae.post_quant_conv
    into.bias[:4] = (into.bias[:4] - mean) / deviation
    into.weight[:4] /= deviation.view(-1, 1, 1, 1)
    into.bias[4:] -= 2 * deviation.log()
    out.bias += (out.weight[:, :, 0, 0] * mean).sum(1)
    out.weight *= deviation.view(1, -1, 1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=12)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    clean, _ = load_drawings(arguments.work)
    pools = [clean, degraded_copies(clean, COPIES, seed=1)[0]]

    vae = build()
    run = Run(vae, arguments.work / "vae.pt", minutes=arguments.minutes, learning_rate=2e-3)
    while not run.finished:
        run.step(reconstruction_loss(run.module, draw_batch(pools, run.progress < CROP_SHARE)))

    hidden, _ = load_drawings(arguments.work, heldout=True)
    logging.info("PSNR of held-out images %.2f dB", peak_signal_to_noise(run.average, hidden))
    whiten(run.average, torch.cat(pools))
    run.average.save_pretrained(arguments.work / "vae")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    main()
