"""Which item is trained on when: a function of the step, so that resuming needs no state."""

import math
import random
from dataclasses import dataclass
from functools import lru_cache

from expo_cli.contracts.ids import digest, fraction


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, num_items: int) -> list[int]:
    order = list(range(num_items))
    random.Random(digest("epoch", seed, epoch)).shuffle(order)
    return order


@dataclass(frozen=True)
class Visit:
    """One use of an item. `draw` counts the earlier visits to it and selects its noise; it wraps
    around if the number of draws is bounded."""

    item: int
    draw: int


def visits(
    seed: int, num_items: int, start: int, count: int, num_draws: int | None = None
) -> list[Visit]:
    """Visits `start` to `start + count` of an endless stream of shuffled epochs."""
    chosen = []
    for n in range(start, start + count):
        epoch, place = divmod(n, num_items)
        draw = epoch if num_draws is None else epoch % num_draws
        chosen.append(Visit(item=_order(seed, epoch, num_items)[place], draw=draw))
    return chosen


def balanced(place: int, share: float) -> tuple[bool, int]:
    """(True, n) if visit `place` belongs to a class that receives `share` of all visits, else
    (False, n); n counts the earlier visits of its class. The classes alternate evenly."""
    before, after = math.floor(place * share + 1e-9), math.floor((place + 1) * share + 1e-9)
    return (True, before) if after > before else (False, place - before)


def drops_caption(seed: int, item_id: str, draw: int, probability: float) -> bool:
    return fraction("caption", seed, item_id, draw) < probability
