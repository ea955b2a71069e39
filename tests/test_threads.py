"""Threads: their number comes from cores and quota, and users decide over it and over waiting."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from expo_cli.cgroups import cpu_quota
from expo_cli.threads import NUM_THREADS, WAITING, WAITING_NAMES, num_workers, set_defaults

SETTINGS = (NUM_THREADS, *WAITING_NAMES)
GROUPS = Path("/sys/fs/cgroup/cpu")  # of version 1
CAN_MAKE_GROUPS = os.access(GROUPS, os.W_OK) and (GROUPS / "cpu.cfs_quota_us").exists()


def unset() -> dict[str, str]:
    """The environment of a user who has said nothing."""
    return {name: text for name, text in os.environ.items() if name not in SETTINGS}


def environment_of(*prefix: object, **settings: str) -> dict:
    """What `expo env` says in a process that `prefix` starts."""
    command = [*map(str, prefix), sys.executable, "-m", "expo_cli", "env", "--json"]
    done = subprocess.run(command, env=unset() | settings, capture_output=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A root folder of so many cores, of one or two threads, with a quota."""

    def make(cores: int, quota: str, siblings: int = 1) -> Path:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
        for core in range(cores):
            topology = tmp_path / f"sys/devices/system/cpu/cpu{core}/topology"
            topology.mkdir(parents=True)
            (topology / "thread_siblings_list").write_text(str(core // siblings))
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text("0::/\n")
        mount = "31 23 0:28 / /group rw shared:4 - cgroup2 cgroup2 rw\n"
        (tmp_path / "proc/self/mountinfo").write_text(mount)
        (tmp_path / "group").mkdir()
        (tmp_path / "group/cpu.max").write_text(quota)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("cores", "siblings", "quota", "threads"),
    [
        (8, 1, "max 100000", None),
        (8, 1, "300000 100000", "3"),
        (8, 1, "250000 100000", "3"),
        (8, 1, "50000 100000", "1"),
        (8, 1, "800000 100000", None),
        (8, 1, "770000 100000", None),
        # torch takes a thread per physical core, 4: the quota of 6 is no reason to take more.
        (8, 2, "600000 100000", None),
        (8, 2, "200000 100000", "2"),
    ],
)
def test_a_quota_below_what_torch_takes_is_the_number_of_threads(
    cores, siblings, quota, threads, machine
):
    environ: dict[str, str] = {}
    set_defaults(environ, machine(cores, quota, siblings))
    assert environ.get(NUM_THREADS) == threads


@pytest.mark.parametrize("name", SETTINGS)
def test_a_users_own_setting_wins(name, machine):
    environ = {name: "7"}
    set_defaults(environ, machine(8, "100000 100000"))
    if name == NUM_THREADS:
        assert environ == {name: "7"} | WAITING
    else:
        assert environ == {name: "7", NUM_THREADS: "1"}


@pytest.mark.parametrize(
    ("given", "cores"),
    [(None, 3), ("2", 2), ("6,2", 6), ("", 3), ("0", 3), ("many", 3)],
)
def test_cores_are_those_of_nproc_within_the_quota(given, cores, machine):
    environ = {} if given is None else {NUM_THREADS: given}
    assert num_workers(environ, machine(8, "300000 100000")) == cores


@pytest.mark.skipif(cpu_quota() is not None, reason="nproc knows no quota")
def test_expo_env_cores_is_nproc_where_there_is_no_quota():
    command = [sys.executable, "-m", "expo_cli", "env", "--cores"]
    found, nproc = (
        subprocess.run(each, env=unset(), capture_output=True, check=True).stdout
        for each in (command, ["nproc"])
    )
    assert found == nproc


def test_torch_keeps_to_the_affinity_and_threads_wait_as_expo_says():
    found = environment_of("taskset", "--cpu-list", min(os.sched_getaffinity(0)))
    assert (found["threads"], found["cores"]) == (1, 1)
    assert found["variables"] == dict.fromkeys(SETTINGS) | WAITING


def test_torch_gets_what_the_user_has_set():
    settings = {NUM_THREADS: "1", "GOMP_SPINCOUNT": "500"}
    found = environment_of(**settings)
    assert found["threads"] == 1
    assert found["variables"] == dict.fromkeys(SETTINGS) | settings


def test_a_program_that_is_started_inherits_the_settings():
    """As a launcher's processes do, and the programs of `--reward exec:`."""
    code = "import expo_cli, os; os.execlp('env', 'env')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=unset(), capture_output=True, text=True, check=True
    )
    for name, value in WAITING.items():
        assert f"{name}={value}\n" in done.stdout


@pytest.fixture
def half_a_core():
    """A real control group of version 1 within one that has a quota of half a core."""
    outer = GROUPS / f"expo-test-{uuid.uuid4().hex}"
    inner = outer / "inner"
    inner.mkdir(parents=True)
    (outer / "cpu.cfs_quota_us").write_text("50000")
    yield inner
    inner.rmdir()
    outer.rmdir()


@pytest.mark.skipif(not CAN_MAKE_GROUPS, reason="needs control groups of version 1, and root")
def test_the_quota_of_a_real_group_above(half_a_core):
    enter = f'echo $$ >{half_a_core}/cgroup.procs; exec "$@"'
    found = environment_of("sh", "-c", enter, "sh")
    assert (found["cpu_quota"], found["threads"]) == (0.5, 1)
