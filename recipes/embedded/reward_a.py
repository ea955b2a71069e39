"""Train the training reward: the CLIP of the text encoder, taught which of two images is better."""

import logging
import random
from pathlib import Path

import torch
from clip import features, text_features
from degrade import degraded_copies
from rewards import Triples, parse_arguments, train
from torch import Tensor
from torch.nn import functional as F
from training import Run
from transformers import CLIPModel, CLIPTokenizer

COPIES, LARGEST_SHIFT = 10, 3
OWN_SAMPLES_SHARE = 0.4


class DegradedTriples(Triples):
    """Bad images have the flaws of the base model's world."""

    def __init__(self, work: Path, seed: int, own_samples: bool) -> None:
        pool = work / "own_samples_a.pt" if own_samples else None
        super().__init__(work, random.Random(seed), pool, OWN_SAMPLES_SHARE)
        self.degraded, _ = degraded_copies(self.clean, COPIES, seed=5)

    def worse(self, index: int, image: Tensor) -> Tensor:
        return self.degraded[index * COPIES + self.rng.randrange(COPIES)]

    def varied(self, images: list[Tensor]) -> Tensor:
        """Move all by the same up to three pixels over white."""
        size, border = images[0].shape[-1], LARGEST_SHIFT
        padded = F.pad(torch.stack(images), [border] * 4, value=255)
        top, left = self.rng.randint(0, 2 * border), self.rng.randint(0, 2 * border)
        return padded[..., top : top + size, left : left + size]


def main() -> None:
    arguments = parse_arguments(__doc__, minutes=25)
    tokenizer = CLIPTokenizer.from_pretrained(arguments.work / "tokenizer")
    run = Run(
        CLIPModel.from_pretrained(arguments.work / "clip", attn_implementation="eager"),
        arguments.work / "reward_a.pt",
        minutes=arguments.minutes,
        learning_rate=5e-4,
        weight_decay=0.05,
    )
    triples = DegradedTriples(arguments.work, run.num_steps, arguments.own_samples)
    train(run, triples, lambda clip, captions: text_features(clip, tokenizer, captions), features)
    run.average.save_pretrained(arguments.work / "reward_a")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    main()
