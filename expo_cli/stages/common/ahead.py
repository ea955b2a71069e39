"""Computes results ahead of their use, in threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from expo_cli.threads import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

NUM_THREADS = min(8, usable_cores())


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Yields `function(item)` in order, while threads compute up to `ahead` further items.

    An exception is raised in place of its result. `items` is consumed in the caller's thread.
    """
    waiting: deque[Future[Result]] = deque()
    threads = ThreadPoolExecutor(NUM_THREADS)
    try:
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
