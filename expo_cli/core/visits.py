"""Which pair is trained on when: a function of the step, so that resuming needs no memory."""

import random
from dataclasses import dataclass
from functools import lru_cache

from expo_cli.contracts.ids import digest, fraction


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, num_pairs: int) -> list[int]:
    order = list(range(num_pairs))
    random.Random(digest("epoch", seed, epoch)).shuffle(order)
    return order


@dataclass(frozen=True)
class Visit:
    """One use of a pair. `draw` counts the earlier visits to it, and so numbers its noise."""

    pair: int
    draw: int


def visits(seed: int, num_pairs: int, start: int, count: int) -> list[Visit]:
    """Visits `start` to `start + count` of the endless stream of shuffled epochs."""
    return [
        Visit(pair=_order(seed, n // num_pairs, num_pairs)[n % num_pairs], draw=n // num_pairs)
        for n in range(start, start + count)
    ]


def drops_caption(seed: int, pair_id: str, draw: int, probability: float) -> bool:
    return fraction("caption", seed, pair_id, draw) < probability
