"""Where the time of a call goes, by the functions it passes through, and what is left to gain."""

import cProfile
import inspect
import pstats
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode


def show_shares(call: Callable[[], object], parts: Mapping[str, Sequence[Callable]]) -> None:
    """Print the share of the call's time that each part took: its functions, with all they called.

    The functions must not call each other.
    """
    profiler = cProfile.Profile()
    profiler.runcall(call)
    stats = pstats.Stats(profiler)
    left = 1.0
    print("where the time goes:")
    for name, functions in parts.items():
        codes = [inspect.unwrap(function).__code__ for function in functions]
        places = [(code.co_filename, code.co_firstlineno, code.co_name) for code in codes]
        share = sum(stats.stats[p][3] for p in places if p in stats.stats) / stats.total_tt
        left -= share
        print(f"  {name:<40} {share:10.1%}")
    print(f"  {'the rest':<40} {left:10.1%}")


def show_arithmetic(call: Callable[[], object], dtype: torch.dtype) -> None:
    """Print how fast the call multiplies matrices, and how fast this machine can: no way of making
    the same products is faster than that by more than the ratio."""
    with FlopCounterMode(display=False) as counter:
        call()
    started = time.perf_counter()
    call()
    rate = counter.get_total_flops() / (time.perf_counter() - started)
    side = 2048
    matrix = torch.randn(side, side).to(dtype)
    products = 5
    matrix @ matrix
    started = time.perf_counter()
    for _ in range(products):
        matrix @ matrix
    possible = products * 2 * side**3 / (time.perf_counter() - started)
    print(
        f"ours: {counter.get_total_flops() / 1e9:.1f} GFLOP in matrix products, "
        f"{rate / 1e9:.0f} GFLOP/s all in all; a large product alone {possible / 1e9:.0f} GFLOP/s "
        f"({rate / possible:.0%})"
    )
