"""Where the time of a call goes, by the functions it passes through."""

import cProfile
import inspect
import pstats
from collections.abc import Callable, Mapping


def show_shares(call: Callable[[], object], functions: Mapping[str, Callable]) -> None:
    """Print the share of the call's time that each function took, with all that it called.

    The functions must not call each other.
    """
    profiler = cProfile.Profile()
    profiler.runcall(call)
    stats = pstats.Stats(profiler)
    left = 1.0
    print("where the time goes:")
    for name, function in functions.items():
        code = inspect.unwrap(function).__code__
        key = (code.co_filename, code.co_firstlineno, code.co_name)
        share = stats.stats[key][3] / stats.total_tt if key in stats.stats else 0.0
        left -= share
        print(f"  {name:<40} {share:10.1%}")
    print(f"  {'the rest':<40} {left:10.1%}")
