"""What both rewards learn: the right caption for an image, and the better of two images for a caption."""

import argparse
import random
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F
from training import Run
from vae import decode, encode
from world import Drawing, load_drawings

BATCH_SIZE = 64
GROUPED_SHARE = 0.5


def parse_arguments(description: str, minutes: float) -> argparse.Namespace:
    """WORK, --minutes and --own-samples."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument(
        "--own-samples", action="store_true", help="also learn from what own_samples.py drew"
    )
    return parser.parse_args()


def contrastive_loss(similarity: Tensor) -> Tensor:
    """InfoNCE both ways over scaled similarities [batch, batch]."""
    target = torch.arange(len(similarity))
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2


def reward_loss(scale: Tensor, words: Tensor, good: Tensor, bad: Tensor) -> Tensor:
    """Right captions for good images, and Bradley-Terry of good over bad, on unit features [batch, width]."""
    advantage = scale * (words * (good - bad)).sum(-1)
    return contrastive_loss(scale * words @ good.T) - F.logsigmoid(advantage).mean()


class CaptionBatches:
    """Chooses the drawings of a batch: at random, or in groups of one noun that differ in details only."""

    def __init__(self, drawings: Sequence[Drawing], rng: random.Random) -> None:
        self.drawings, self.rng = drawings, rng
        groups = defaultdict(list)
        for index, drawing in enumerate(drawings):
            groups[drawing.noun].append(index)
        self.groups = list(groups.values())

    def draw(self, size: int) -> tuple[list[int], list[str]]:
        """`size` indices of drawings and a caption for each."""
        if self.rng.random() < GROUPED_SHARE:
            chosen = self._groups_of(size)
            return chosen, [self.drawings[index].caption() for index in chosen]
        chosen = self.rng.sample(range(len(self.drawings)), size)
        return chosen, [self._shortened(self.drawings[index]) for index in chosen]

    def _groups_of(self, size: int) -> list[int]:
        """Up to four drawings per noun; nouns are chosen in proportion to their drawings."""
        chosen: list[int] = []
        while len(chosen) < size:
            group = self.rng.choices(self.groups, weights=[len(group) for group in self.groups])[0]
            members = [index for index in group if index not in chosen]
            chosen += self.rng.sample(members, min(4, len(members)))
        return chosen[:size]

    def _shortened(self, drawing: Drawing) -> str:
        return drawing.caption(style=self.rng.random() < 0.8, tone=self.rng.random() < 0.8)


class OwnSamples:
    """Pairs of the base model's samples, and of real images against them."""

    def __init__(self, pool: Path) -> None:
        self.pool = torch.load(pool, weights_only=True)

    def draw(self, real: Tensor, rng: random.Random) -> tuple[str, Tensor, Tensor]:
        """A caption, a good image and a worse one; `real` are the drawings that models train on."""
        row = rng.randrange(len(self.pool["captions"]))
        better, worse = self.pool["better"][row], self.pool["worse"][row]
        original = real[self.pool["drawing"][row]]
        pairs = [(better, worse), (original, worse), (original, better)]
        return self.pool["captions"][row], *rng.choice(pairs)


class Triples(ABC):
    """Batches of captions, good images and bad ones.

    Good ones are the artwork, as it is or as the autoencoder returns it. A share of the triples comes
    from the base model's own samples, where `own_samples` names their file.
    """

    def __init__(
        self, work: Path, rng: random.Random, own_samples: Path | None, own_share: float
    ) -> None:
        self.rng, self.own_share = rng, own_share if own_samples else 0.0
        self.clean, drawings = load_drawings(work)
        self.batches = CaptionBatches(drawings, rng)
        vae = AutoencoderKL.from_pretrained(work / "vae")
        self.decoded = decode(vae, encode(vae, self.clean))
        self.own_samples = OwnSamples(own_samples) if own_samples else None

    def draw(self, size: int) -> tuple[list[str], Tensor, Tensor]:
        """`size` captions, and their good and bad images [size, 3, 64, 64]."""
        chosen, captions = self.batches.draw(size)
        own = set(self.rng.sample(range(size), round(self.own_share * size)))
        good, bad = [], []
        for row, index in enumerate(chosen):
            if row in own:
                captions[row], better, worse = self.own_samples.draw(self.decoded, self.rng)
            else:
                better = self.rng.choice([self.clean, self.decoded])[index]
                worse = self.worse(index, better)
            good.append(better)
            bad.append(worse)
        return captions, self.varied(good), self.varied(bad)

    @abstractmethod
    def worse(self, index: int, image: Tensor) -> Tensor:
        """A flawed version of drawing `index`, of which `image` is a good one."""

    @abstractmethod
    def varied(self, images: list[Tensor]) -> Tensor:
        """The images, changed in ways that make none of them better or worse."""


def train(
    run: Run,
    triples: Triples,
    words: Callable[[nn.Module, list[str]], Tensor],
    features: Callable[[nn.Module, Tensor], Tensor],
) -> None:
    """Train until the time is spent. `words` and `features` give unit vectors [batch, width]."""
    run.start()
    while not run.finished:
        captions, good, bad = triples.draw(BATCH_SIZE)
        better, worse = features(run.module, torch.cat([good, bad])).chunk(2)
        scale = run.module.logit_scale.float().exp().clamp(max=100)
        run.step(reward_loss(scale, words(run.module, captions), better, worse))
