"""recipes/slurm on a private SLURM of one node, while its jobs are stopped, requeued and killed.

By arrays of three, at toy size. The environment may say another; that of the embedded world is

    ITERATIONS=3 OFFLINE_PROMPTS=384 OFFLINE_PAIRS=384 NUM_PROMPTS=96 HELDOUT_PROMPTS=144 IMAGES=2 \\
        STEPS=40 BATCH=16 PART_SIZE=24 python -m pytest tests/slurm -m nightly -k disturbed
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]

if not shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin"):
    # .ci/run installs it and sets the variable, so that there nobody skips these tests unnoticed.
    assert "EXPO_TEST_EVERYTHING" not in os.environ, "SLURM is not installed"
    pytest.skip("no SLURM; `bash tests/install.sh` installs it", allow_module_level=True)

TOY = {
    "CURVE": "none",
    "OFFLINE_PROMPTS": 2,
    "OFFLINE_PAIRS": 2,
    "NUM_PROMPTS": 2,
    "HELDOUT_PROMPTS": 2,
    "JUDGE_PROMPTS": 2,
    "IMAGES": 1,
    "STEPS": 3,
    "BATCH": 2,
    "PART_SIZE": 1,  # so that two of an array's three tasks have something to do
    "CORES": 1,
}


@dataclass(frozen=True)
class System:
    """A recipe, and the files that its plain run makes and its jobs do not have to."""

    name: str
    iterations: str
    unused: str

    @property
    def evaluation(self) -> Path:
        return Path(f"{self.name}-pickscore/seed-0/evaluation-heldout/results.json")


# Its jobs are given the offline pairs, which are most of the work.
DPO = System("dpo", "1", "shared/offline/**/*")
# Pairs of the other reward are for other systems: nothing fails when the job that makes them is killed.
EXPO_II = System("expo_ii", "2", "shared/offline/hpsv2-*.jsonl")
SITE = """\
NUM_SHARDS=3
SBATCH_OPTIONS=--time=10
declare -A COMMAND_OPTIONS
MAX_REQUEUES=50
prepare() { echo "restarted ${SLURM_RESTART_COUNT:-0} times"; }
CONTAINER=(env ACCELERATE_USE_CPU=true)
"""
# A task that is told to end takes ten seconds more than it needs.
SLOW_END = SITE.replace(
    "ACCELERATE_USE_CPU=true",
    """ACCELERATE_USE_CPU=true bash -c 'trap "sleep 10" TERM; "$@"; exit' slow""",
)
JOBS = ("squeue", "--array", "--noheader")
# How the tasks are disturbed, in random order: stopped by a signal, which they answer by a requeue
# of themselves; given a time limit that is near, of which SLURM sends the signal; requeued from
# outside, as by pre-emption; killed and cancelled, which fails the chain, so that it must be submitted
# again.
DISTURBANCES = [
    *["scancel --signal=USR1 {}", "scancel --signal=USR2 {}", "scancel --signal=TERM {}"],
    *["scontrol update TimeLimit=1 JobId={}"] * 3,
    *["scontrol requeue {}"] * 2,
    *["scancel --signal=KILL {}", "scancel {}"],
]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """That of a user of a cluster which runs while the tests of this module do."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    subprocess.run(["bash", HERE / "start.sh", folder, "2"], check=True)
    of_the_user = {
        "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
        "SLURM_CONF": str(folder / "slurm.conf"),
    }
    yield {key: str(value) for key, value in TOY.items()} | os.environ | of_the_user
    subprocess.run(["bash", HERE / "stop.sh", folder], check=True)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def system(request) -> System:
    return request.param


@pytest.fixture(scope="module")
def plain(system, environment, tmp_path_factory) -> Iterator[Callable[[], Path]]:
    """Begin the plain recipe; the function waits for its end and returns the folder of its runs."""
    runs = tmp_path_factory.mktemp("plain")
    # Beside SLURM no command is warm.
    settings = {name: environment[name] for name in environment if name != "SLURM_CONF"}
    with (runs / "stderr").open("w") as stderr:
        recipe = subprocess.Popen(
            ["bash", PROJECT / f"recipes/{system.name}.sh"],
            env={"ITERATIONS": system.iterations} | settings | {"RUNS": str(runs)},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )

    def finished() -> Path:
        assert recipe.wait() == 0, (runs / "stderr").read_text()
        return runs

    yield finished
    recipe.terminate()
    recipe.wait()


class Cluster:
    """The cluster as its user sees it, who keeps everything in the folder `runs`."""

    def __init__(self, environment: dict[str, str], runs: Path) -> None:
        self.runs = runs
        self.environment = environment | {"RUNS": str(runs), "SITE": str(runs / "site.sh")}
        self.set_up(SITE)

    def give(self, pairs: Path) -> None:
        self.environment["OFFLINE"] = str(pairs)

    def set_up(self, site: str) -> None:
        (self.runs / "site.sh").write_text(site)

    def call(self, *command: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            list(map(str, command)),
            cwd=PROJECT,
            env=self.environment,
            capture_output=True,
            text=True,
        )

    def run(self, *command: object) -> str:
        done = self.call(*command)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def try_to_submit(self, system: System) -> subprocess.CompletedProcess:
        self.environment.setdefault("ITERATIONS", system.iterations)
        return self.call("bash", "recipes/slurm/submit.sh", system.name)

    def submit(self, system: System) -> str:
        done = self.try_to_submit(system)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def disturb(self, how: str, task: str) -> None:
        # The task may have ended by now.
        subprocess.run(how.format(task).split(), env=self.environment, capture_output=True)

    def tasks(self, *filters: str) -> list[str]:
        return self.run(*JOBS, "--format=%i", *filters).split()

    def logs(self) -> str:
        return "".join(path.read_text() for path in sorted(self.runs.rglob("*.log")))


@pytest.fixture
def cluster(environment, tmp_path) -> Iterator[Cluster]:
    cluster = Cluster(environment, tmp_path)
    yield cluster
    cluster.run("scancel", "--me")
    while cluster.tasks():
        time.sleep(0.2)


def results(runs: Path, system: System) -> dict:
    """The figures of the evaluation, without the paths and times of its provenance."""
    figures = json.loads((runs / system.evaluation).read_text())
    return {key: value for key, value in figures.items() if key != "provenance"}


def products(runs: Path, system: System) -> dict[str, bytes]:
    """Prompts, latents, images, scores, pairs, weights and metrics, by path."""
    unused = {*runs.glob(system.unused)}
    return {
        str(path.relative_to(runs)): path.read_bytes()
        for path in runs.rglob("*")
        if path.suffix in (".jsonl", ".safetensors", ".webp")
        and not path.is_relative_to((runs / system.evaluation).parent)
        and path not in unused
    }


@pytest.mark.nightly
@pytest.mark.parametrize("system", [EXPO_II], indirect=True)
def test_a_disturbed_chain_of_jobs_makes_what_the_plain_recipe_makes(system, plain, cluster):
    chance = random.Random(0)
    disturbances = chance.sample(DISTURBANCES, len(DISTURBANCES))
    submissions = [cluster.submit(system)]
    while (tasks := cluster.tasks()) or not (cluster.runs / system.evaluation).exists():
        running = cluster.tasks("--states=RUNNING")
        if not tasks:
            submissions.append(cluster.submit(system))
            assert len(submissions) < 8, cluster.logs()
        elif running and len(tasks) <= 7 * len(disturbances):  # from the first to the last few
            cluster.disturb(disturbances.pop(), chance.choice(running))
        time.sleep(chance.uniform(1, 5))

    assert results(cluster.runs, system) == results(plain(), system)
    assert products(cluster.runs, system) == products(plain(), system)
    assert "requeue of " in cluster.logs()
    assert "restarted 1 times" in cluster.logs()
    assert len(submissions) > 1


@pytest.mark.parametrize(
    "system",
    [DPO, pytest.param(EXPO_II, marks=pytest.mark.nightly)],
    ids=lambda system: system.name,
    indirect=True,
)
def test_a_chain_that_is_submitted_within_seconds_of_scancel_finishes(system, plain, cluster):
    if system == DPO:
        cluster.give(offline_pairs(plain()))
    cluster.set_up(SLOW_END)
    cluster.submit(system)
    while not any(
        comment.startswith("rollout ")
        for comment in cluster.run(*JOBS, "--format=%k", "--states=RUNNING").splitlines()
    ):
        assert cluster.tasks(), cluster.logs()
        time.sleep(0.2)
    cluster.run("scancel", "--me")
    ending = cluster.tasks("--states=COMPLETING")
    assert ending, "the test came too late"
    told = cluster.submit(system)

    # Some may be over by the time that the submission looks.
    waited = re.search(r"^(.*): COMPLETING, waiting for the end$", told, re.MULTILINE)
    assert {*waited[1].split()} & {*ending}
    while cluster.tasks():
        time.sleep(1)
    assert results(cluster.runs, system) == results(plain(), system)
    assert products(cluster.runs, system) == products(plain(), system)


def offline_pairs(runs: Path) -> Path:
    [pairs] = (runs / "shared/offline").glob("pickscore-*.jsonl")
    return pairs


def test_a_submission_that_relies_on_a_job_that_fails_meanwhile_says_so(cluster):
    """The first job is cancelled by the last command of the submission."""
    cluster.set_up(
        f"""{SITE}
        prepare() {{ sleep 600; }}
        report() {{ scancel --me --name=prep-prompts-shared-train.jsonl; }}
        """
    )
    done = cluster.try_to_submit(DPO)
    assert done.returncode == 1
    assert re.search(r"^submit: .*submit again: \d+: CANCELLED", done.stderr, re.MULTILINE)


@pytest.mark.parametrize("system", [DPO], ids=lambda system: system.name, indirect=True)
def test_two_tasks_of_a_job_train_together_and_are_requeued_together(system, plain, cluster):
    pairs = offline_pairs(plain())
    log, out = cluster.runs / "train.log", cluster.runs / "checkpoint"
    job = cluster.run(
        *("sbatch", "--parsable", "--ntasks=2", f"--output={log}", "recipes/slurm/train.sbatch"),
        *(pairs, "--init-from", "embedded:emoji-sd", "--out", out, "--max-train-steps", 8),
    ).strip()
    while not (log.exists() and "(2 processes)" in log.read_text()):
        assert cluster.tasks(), log.read_text()
        time.sleep(0.2)
    cluster.disturb("scancel --signal=USR2 {}", job)
    while cluster.tasks():
        time.sleep(1)
    assert f"requeue of {job}\n" in log.read_text()
    assert (out / "model_index.json").exists(), log.read_text()
