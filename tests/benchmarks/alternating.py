"""Ways of doing the same work, timed in turn."""

import time
from collections.abc import Callable, Mapping
from statistics import median

Seconds = dict[str, list[float]]


def timed(way: Callable[[], object]) -> Callable[[], float]:
    """The way as one that returns the seconds it took."""

    def measure() -> float:
        started = time.perf_counter()
        way()
        return time.perf_counter() - started

    return measure


def alternate(ways: Mapping[str, Callable[[], float]], rounds: int) -> Seconds:
    """The seconds that each way says it took in each of `rounds` rounds, after one that does not
    count.

    Every other round goes backwards, so that a machine that slows down favours nobody.
    """
    seconds: Seconds = {name: [] for name in ways}
    for number in range(rounds + 1):
        names = list(ways)
        for name in names if number % 2 else reversed(names):
            took = ways[name]()
            if number:
                seconds[name].append(took)
    return seconds


def report_against(peer: str, items: int, unit: str, seconds: Seconds) -> None:
    """Print the rate of each way, and how many times as fast as the peer's it is; as `report`."""
    for name, took in seconds.items():
        ratios = [theirs / own for own, theirs in zip(took, seconds[peer], strict=True)]
        print(
            f"  {name:<40} {items / median(took):10.2f} {unit}/s {median(ratios):10.2f} times "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def report(title: str, items: int, unit: str, seconds: Seconds) -> None:
    """Print the rate of each way, and the speed of the first one relative to each other one.

    Both are medians over the rounds; a ratio is followed by its lowest and highest round.
    """
    ours, *others = seconds
    print(f"{title}: {items} {unit}, {len(seconds[ours])} rounds")
    for name, took in seconds.items():
        print(f"  {name:<40} {items / median(took):10.2f} {unit}/s")
    for name in others:
        ratios = [theirs / own for own, theirs in zip(seconds[ours], seconds[name], strict=True)]
        print(
            f"  {ours} / {name:<33} {median(ratios):10.2f} times "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
