"""Where the time of a call goes, by the functions it passes through."""

import cProfile
import inspect
import pstats
from collections.abc import Callable, Mapping, Sequence


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
