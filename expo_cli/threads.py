"""The number of compute threads, and how they wait for each other.

OpenMP reads both from the environment when torch is loaded. `expo_cli` itself calls `set_defaults`, so
that they hold for every start: `expo`, `python -m expo_cli`, launchers, and the programs these start.
"""

import math
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from expo_cli.cgroups import ROOT, cpu_quota

NUM_THREADS = "OMP_NUM_THREADS"
# Variables by which a user controls waiting: of any OpenMP, of GCC's, of LLVM's and Intel's.
WAITING_NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# By default idle threads of torch's GCC OpenMP spin for milliseconds, which takes CPU time from other
# programs, and is useless while the awaited thread is not running. Chosen by tests/benchmarks/busy.py.
WAITING = {"OMP_WAIT_POLICY": "passive"}


def set_defaults(environ: MutableMapping[str, str] = os.environ, root: Path = ROOT) -> None:
    """Set how threads wait, and limit their number to a cgroup's CPU quota if that is below torch's
    default of one thread per physical core. The user's own settings are kept.

    The number never depends on the load: it affects the last bits of results, and a resumed run must
    get the same.
    """
    if environ.keys().isdisjoint(WAITING_NAMES):
        environ.update(WAITING)
    cores = physical_cores(root)
    threads = within_quota(cores, root)
    if NUM_THREADS not in environ and threads < cores:
        environ[NUM_THREADS] = str(threads)


def within_quota(cores: int, root: Path) -> int:
    """`cores`, but at most the cgroup's CPU quota, rounded up."""
    quota = cpu_quota(root)
    return cores if quota is None else min(cores, math.ceil(quota))


def affinity() -> set[int]:
    """The logical cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def physical_cores(root: Path = ROOT) -> int:
    """The number of physical cores among them."""
    folder = root / "sys/devices/system/cpu"
    return len({siblings(folder / f"cpu{core}/topology", core) for core in affinity()})


def siblings(topology: Path, core: int) -> str:
    """The logical cores that share a physical one with `core`, in the system's format."""
    try:
        return (topology / "thread_siblings_list").read_text()
    except OSError:
        return str(core)


def usable_cores(root: Path = ROOT) -> int:
    """The number of logical cores that affinity and quota allow this process."""
    return within_quota(len(affinity()), root)


def num_workers(environ: Mapping[str, str] = os.environ, root: Path = ROOT) -> int:
    """How many workers or threads to start: as `nproc`, but within a cgroup's quota.

    As in `nproc`, OMP_NUM_THREADS takes precedence.
    """
    given = environ.get(NUM_THREADS, "").partition(",")[0].strip()
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return usable_cores(root)
