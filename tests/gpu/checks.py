"""What a check is, and how a list of them is run."""

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from tests.gpu.setting import Setting


@dataclass(frozen=True)
class Rates:
    """The seconds of each way to do `items`, by round: ours first, then the peer's."""

    items: int
    seconds: Mapping[str, list[float]]


@dataclass(frozen=True)
class Check:
    """`measure` returns a distance, which must be at most `bound`; `why` says where that is from."""

    name: str
    says: str
    measure: Callable[[Setting], float]
    bound: float
    why: str
    needs_gpu: bool = False


@dataclass(frozen=True)
class Throughput:
    """A rate beside a peer's: it is told, not judged."""

    name: str
    unit: str
    measure: Callable[[Setting], Rates]


@dataclass(frozen=True)
class Outcome:
    name: str
    status: str
    """ok, FAIL or skip."""
    text: str
    seconds: float
    facts: Mapping[str, object]

    @property
    def line(self) -> str:
        return f"{self.status:<4} {self.text} ({self.seconds:.1f} s)"


def run_check(check: Check, setting: Setting, bound: float) -> Outcome:
    """A check that raises fails, with the traceback on stderr; the others still run."""
    facts = {"bound": bound, "why": check.why}
    if check.needs_gpu and setting.device.type != "cuda":
        return Outcome(check.name, "skip", f"{check.says}: needs a GPU", 0.0, facts)
    started = time.perf_counter()
    try:
        measured = check.measure(setting)
    except Exception as error:
        return broken(check.name, check.says, error, time.perf_counter() - started, facts)
    # NaN is within no bound.
    status = "ok" if measured <= bound else "FAIL"
    text = f"{check.says}, within {bound:g}: {measured:.2g}"
    took = time.perf_counter() - started
    return Outcome(check.name, status, text, took, facts | {"measured": measured})


def run_throughput(case: Throughput, setting: Setting, has_time: bool) -> Outcome:
    title = f"{case.unit} per second"
    if not has_time:
        return Outcome(case.name, "skip", f"{title}, {case.name}: no time left", 0.0, {})
    started = time.perf_counter()
    try:
        rates = case.measure(setting)
    except Exception as error:
        return broken(case.name, title, error, time.perf_counter() - started, {})
    took = time.perf_counter() - started
    per_second = {name: rates.items / median(seconds) for name, seconds in rates.seconds.items()}
    (ours, own), (peer, theirs) = rates.seconds.items()
    ratios = [their / our for our, their in zip(own, theirs, strict=True)]
    facts = {"per_second": per_second, "ratios": ratios, "ratio": median(ratios)}
    text = (
        f"{title}: {per_second[ours]:.3g} by {ours}, {per_second[peer]:.3g} by {peer}, "
        f"{median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    return Outcome(case.name, "ok", text, took, facts)


def broken(
    name: str, title: str, error: Exception, seconds: float, facts: Mapping[str, object]
) -> Outcome:
    traceback.print_exception(error)
    reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return Outcome(name, "FAIL", f"{title}: {reason}", seconds, facts | {"error": reason})
