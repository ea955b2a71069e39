"""Which item is trained on when: a function of the step, so that resuming needs no state."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from expo_cli.contracts.ids import digest, fraction


@lru_cache(maxsize=16)
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


@lru_cache(maxsize=64)
def _block(seed: int, number: int, weights: tuple[int, ...]) -> list[int]:
    order = [pool for pool, weight in enumerate(weights) for _ in range(weight)]
    random.Random(digest("block", seed, number)).shuffle(order)
    return order


@dataclass(frozen=True)
class VisitOrder:
    """An endless stream of visits to items that lie in consecutive pools of `sizes` items.

    Of each block of visits, as many as the sum of `weights`, pool p gets exactly `weights[p]`, in an
    order shuffled anew for each block. The visits to a pool are shuffled epochs of that pool. A stream
    of one pool is that of `visits`.
    """

    seed: int
    sizes: tuple[int, ...]
    weights: tuple[int, ...]
    num_draws: int | None = None

    @cached_property
    def block_size(self) -> int:
        return sum(self.weights)

    def visits(self, start: int, count: int) -> list[Visit]:
        if len(self.sizes) == 1:
            return visits(self.seed, self.sizes[0], start, count, self.num_draws)
        return [self.visit(place) for place in range(start, start + count)]

    def visit(self, place: int) -> Visit:
        number, offset = divmod(place, self.block_size)
        block = _block(self.seed, number, self.weights)
        pool = block[offset]
        earlier = number * self.weights[pool] + block[:offset].count(pool)
        seed = digest("pool", self.seed, pool)
        (visit,) = visits(seed, self.sizes[pool], earlier, 1, self.num_draws)
        return Visit(sum(self.sizes[:pool]) + visit.item, visit.draw)

    @property
    def num_distinct(self) -> int | None:
        """After so many visits every draw of every item has been used; None if draws never repeat."""
        if self.num_draws is None:
            return None
        if len(self.sizes) == 1:
            return self.num_draws * self.sizes[0]
        blocks = (
            math.ceil(self.num_draws * size / weight)
            for size, weight in zip(self.sizes, self.weights, strict=True)
        )
        return max(blocks) * self.block_size

    def share(self, chosen: Sequence[bool]) -> float:
        """The share of all visits that goes to the `chosen` items."""
        total, first = 0.0, 0
        for size, weight in zip(self.sizes, self.weights, strict=True):
            total += weight * sum(chosen[first : first + size]) / size
            first += size
        return total / self.block_size


def balanced(place: int, share: float) -> tuple[bool, int]:
    """(True, n) if visit `place` belongs to a class that receives `share` of all visits, else
    (False, n); n counts the earlier visits of its class. The classes alternate evenly."""
    before, after = math.floor(place * share + 1e-9), math.floor((place + 1) * share + 1e-9)
    return (True, before) if after > before else (False, place - before)


def drops_caption(seed: int, item_id: str, draw: int, probability: float) -> bool:
    return fraction("caption", seed, item_id, draw) < probability
