"""CPU seconds of every test file, and of the dearest tests: `bash tests/run.sh -p tests.timings`.

Those of the processes that a test starts are counted with it; a fixture counts with the first test
that asks for it. Other programs of the machine change them little, unlike pytest's --durations.
"""

from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

SHOWN_TESTS = 60


def cpu_seconds() -> float:
    """Of this process and of all below it, those that have ended included."""
    process = psutil.Process()
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        try:
            times = each.cpu_times()
        except psutil.Error:
            continue  # it ended just now
        total += times.user + times.system + times.children_user + times.children_system
    return total


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    item.stash[BEFORE] = cpu_seconds()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    now = cpu_seconds()
    report.cpu_seconds = now - item.stash[BEFORE]
    item.stash[BEFORE] = now
    return report


BEFORE = pytest.StashKey[float]()


def pytest_terminal_summary(terminalreporter) -> None:
    tests, files = Counter(), Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if seconds := getattr(report, "cpu_seconds", None):
                tests[report.nodeid] += seconds
                files[report.nodeid.partition("::")[0]] += seconds
    terminalreporter.section(f"CPU seconds: {sum(files.values()):.0f} in all")
    for counter in (files, tests):
        for name, seconds in counter.most_common(None if counter is files else SHOWN_TESTS):
            terminalreporter.line(f"{seconds:8.1f}  {name}")
