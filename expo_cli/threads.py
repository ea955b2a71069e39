"""How many threads compute, and how they wait for each other.

OpenMP reads both from the environment when torch is loaded. `expo_cli` itself calls `set_defaults`, so
that they hold for every start: `expo`, `python -m expo_cli`, launchers, and the programs these start.
"""

import math
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from expo_cli.cgroups import ROOT, cpu_quota

NUM_THREADS = "OMP_NUM_THREADS"
# What a user may have said about waiting: to any OpenMP, to GCC's, to LLVM's and Intel's.
WAITING_NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# torch's GCC OpenMP lets a thread that has nothing to do spin for milliseconds, which another program
# could use; and whoever waits for a thread that is not running spins in vain. Chosen by
# tests/benchmarks/busy.py.
WAITING = {"OMP_WAIT_POLICY": "passive"}


def set_defaults(environ: MutableMapping[str, str] = os.environ, root: Path = ROOT) -> None:
    """Set what the user has not: how threads wait, and their number where a cgroup's quota of CPU time
    is below what torch takes, a thread per physical core.

    The number never depends on the load: it changes the last bits of results, and a run that goes on
    must get the same.
    """
    if environ.keys().isdisjoint(WAITING_NAMES):
        environ.update(WAITING)
    cores = physical_cores(root)
    threads = within_quota(cores, root)
    if NUM_THREADS not in environ and threads < cores:
        environ[NUM_THREADS] = str(threads)


def within_quota(cores: int, root: Path) -> int:
    """No more of them than a cgroup lets this process keep busy, rounded up."""
    quota = cpu_quota(root)
    return cores if quota is None else min(cores, math.ceil(quota))


def affinity() -> set[int]:
    """The logical cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def physical_cores(root: Path = ROOT) -> int:
    """Of those, without their second threads."""
    folder = root / "sys/devices/system/cpu"
    return len({siblings(folder / f"cpu{core}/topology", core) for core in affinity()})


def siblings(topology: Path, core: int) -> str:
    """The logical cores that share a physical one, as the system writes them."""
    try:
        return (topology / "thread_siblings_list").read_text()
    except OSError:
        return str(core)


def usable_cores(root: Path = ROOT) -> int:
    """The logical cores that affinity and quota leave to this process."""
    return within_quota(len(affinity()), root)


def num_workers(environ: Mapping[str, str] = os.environ, root: Path = ROOT) -> int:
    """How many workers, or threads, to start: what `nproc` says, but within a cgroup's quota.

    As there, OMP_NUM_THREADS wins.
    """
    given = environ.get(NUM_THREADS, "").partition(",")[0].strip()
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return usable_cores(root)
