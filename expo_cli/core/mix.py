"""How visits are divided between files of records: `expo train --mix`."""

import math
from collections.abc import Sequence
from fractions import Fraction

NEWEST = "newest="
LARGEST_WEIGHT = 1000


def parse_mix(mix: str) -> Fraction | tuple[int, ...]:
    """`newest=SHARE` as the last file's share, or `N,N,...` as a weight per file.

    Raises ValueError for anything else.
    """
    try:
        if mix.startswith(NEWEST):
            share = Fraction(mix.removeprefix(NEWEST))
            if 0 < share < 1 and share.denominator <= LARGEST_WEIGHT:
                return share
        else:
            weights = tuple(map(int, mix.split(",")))
            if all(0 < weight <= LARGEST_WEIGHT for weight in weights):
                return weights
    except (ValueError, ZeroDivisionError):
        pass
    raise ValueError(
        f"--mix must be newest=SHARE with a share between 0 and 1 of at most 3 decimals, or whole "
        f"numbers from 1 to {LARGEST_WEIGHT} such as 2,1,1, one for each pair file; got {mix!r}"
    )


def pools(mix: str | None, sizes: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes and weights of the pools of a `VisitOrder` over files with so many records each.

    Without a mix all records are one pool. `newest=SHARE` makes two pools, the last file and the
    others, which so share the rest by their sizes; a single file is one pool.

    Raises ValueError when the number of weights is not that of the files.
    """
    chosen = None if mix is None else parse_mix(mix)
    if chosen is None or isinstance(chosen, Fraction) and len(sizes) == 1:
        return (sum(sizes),), (1,)
    if isinstance(chosen, Fraction):
        weights = (chosen.denominator - chosen.numerator, chosen.numerator)
        return (sum(sizes[:-1]), sizes[-1]), weights
    if len(chosen) != len(sizes):
        raise ValueError(f"--mix {mix}: {len(chosen)} weights for {len(sizes)} pair files")
    divisor = math.gcd(*chosen)
    return tuple(sizes), tuple(weight // divisor for weight in chosen)
