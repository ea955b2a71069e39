"""What both rewards learn: the right caption for an image, and the better of two images for a caption."""

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from data import Drawing
from torch import Tensor
from torch.nn import functional as F

GROUPED_SHARE = 0.5


def contrastive_loss(similarity: Tensor) -> Tensor:
    """InfoNCE both ways over scaled similarities [batch, batch]."""
    target = torch.arange(len(similarity))
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2


def reward_loss(scale: Tensor, words: Tensor, good: Tensor, bad: Tensor) -> Tensor:
    """Right captions for good images, and Bradley-Terry of good over bad, on unit features [batch, width]."""
    advantage = scale * (words * (good - bad)).sum(-1)
    return contrastive_loss(scale * words @ good.T) - F.logsigmoid(advantage).mean()


class CaptionBatches:
    """Which drawings form a batch: at random, or in groups of one noun that only details tell apart."""

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
        """Up to four drawings of a noun each; professions come as often as they have drawings."""
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
