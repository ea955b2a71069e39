"""Train the training reward: the CLIP of the text encoder, taught which of two images is better."""

import argparse
import logging
import random
from pathlib import Path

import torch
from clip import features, text_features
from data import load_drawings
from degrade import degraded_copies
from diffusers import AutoencoderKL
from rewards import CaptionBatches, OwnSamples, reward_loss
from torch import Tensor
from torch.nn import functional as F
from training import Run, as_tensor
from transformers import CLIPModel, CLIPTokenizer
from vae import decode, encode

BATCH_SIZE, COPIES, LARGEST_SHIFT = 64, 10, 3
OWN_SAMPLES_SHARE = 0.4


class Triples:
    """Captions, good images and bad ones; what went through the autoencoder is as good as the original."""

    def __init__(self, work: Path, seed: int, own_samples: bool) -> None:
        self.rng = random.Random(seed)
        images, drawings = load_drawings(work)
        self.batches = CaptionBatches(drawings, self.rng)
        self.clean = as_tensor(images)
        self.degraded, _ = degraded_copies(self.clean, COPIES, seed=5)
        vae = AutoencoderKL.from_pretrained(work / "vae")
        self.decoded = decode(vae, encode(vae, self.clean))
        self.own_samples = OwnSamples(work / "own_samples_a.pt") if own_samples else None

    def draw(self, size: int) -> tuple[list[str], Tensor, Tensor]:
        chosen, captions = self.batches.draw(size)
        good = [self.rng.choice([self.clean, self.decoded])[index] for index in chosen]
        bad = [self.degraded[index * COPIES + self.rng.randrange(COPIES)] for index in chosen]
        own = round(OWN_SAMPLES_SHARE * size) if self.own_samples else 0
        for row in self.rng.sample(range(size), own):
            captions[row], good[row], bad[row] = self.own_samples.draw(self.decoded, self.rng)
        return captions, self._moved(torch.stack(good)), self._moved(torch.stack(bad))

    def _moved(self, images: Tensor) -> Tensor:
        """The batch, moved by up to three pixels over white."""
        size, border = images.shape[-1], LARGEST_SHIFT
        padded = F.pad(images, [border] * 4, value=255)
        top, left = self.rng.randint(0, 2 * border), self.rng.randint(0, 2 * border)
        return padded[..., top : top + size, left : left + size]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument(
        "--own-samples", action="store_true", help="learn from own_samples.py's too"
    )
    arguments = parser.parse_args()
    tokenizer = CLIPTokenizer.from_pretrained(arguments.work / "tokenizer")
    clip = CLIPModel.from_pretrained(arguments.work / "clip", attn_implementation="eager")
    run = Run(
        clip,
        arguments.work / "reward_a.pt",
        minutes=arguments.minutes,
        learning_rate=5e-4,
        weight_decay=0.05,
    )
    triples = Triples(arguments.work, run.num_steps, arguments.own_samples)
    run.start()
    while not run.finished:
        captions, good, bad = triples.draw(BATCH_SIZE)
        words = text_features(run.module, tokenizer, captions)
        better, worse = features(run.module, torch.cat([good, bad])).chunk(2)
        scale = run.module.logit_scale.float().exp().clamp(max=100)
        run.step(reward_loss(scale, words, better, worse))
    run.average.save_pretrained(arguments.work / "reward_a")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    main()
