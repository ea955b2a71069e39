"""What `train`, `rollout` and `score` cost on a machine that is busy with other things, by how OpenMP
threads wait for each other.

    python -m tests.benchmarks.busy                                   minutes; needs two idle cores
    python -m tests.benchmarks.busy --settings torch expo --rounds 9  only these, more exactly

Two threads on two cores: alone, beside one and two single-threaded busy loops, and beside a second
worker that trains with the same setting. A process for each setting has loaded the embedded models
before; all settings and neighbours take turns in one run.

With two loops and a fair scheduler, two threads get half the machine: 2 times the time alone is
ideal, 1.5 beside one. EXPO's bounds are in BOUNDS.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from statistics import median

# Before expo_cli, so that libgomp has read the environment when expo_cli puts its own defaults there.
import torch

from expo_cli import threads

PROJECT = Path(__file__).parents[2]
CORES = sorted(os.sched_getaffinity(0))[:2]
SETTINGS: dict[str, dict[str, str]] = {
    "torch": {},
    "expo": threads.WAITING,
    "spin-1000": {"GOMP_SPINCOUNT": "1000"},
    "spin-10000": {"GOMP_SPINCOUNT": "10000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
MEASURED = ("torch", "expo", "spin-1000", "spin-10000")
LOOPS = {"alone": 0, "1-loop": 1, "2-loops": 2}
WORKER = "a-worker"
BOUNDS = {"alone": 1.05, "1-loop": 1.95, "2-loops": 2.6}
"""Alone: times the baseline alone. Beside loops: times the same setting alone."""

LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
MORE_THAN_ENOUGH = 5000
Cell = tuple[str, str, str]
"""Work, setting, and what runs beside it."""
Took = tuple[float, float]
"""Seconds, and seconds of CPU time of all threads."""


def training(folder: Path) -> Callable[[], object]:
    """A step of 8 pairs."""
    from tests.benchmarks.train import OURS, Ours, make_work, open_work, take_steps

    options = Namespace(
        sd15=None, precision="fp32", pairs=16, batch=8, steps=1, rounds=1000, use_lora=False
    )
    make_work(folder, options)
    return partial(take_steps, Ours(open_work(folder, options), OURS), 1)


def drawing(folder: Path) -> Callable[[], object]:
    """4 images in 5 steps."""
    from tests.benchmarks.rollout import EMBEDDED, draw_ours, embedded_prompts, planned_drawing
    from tests.benchmarks.rollout import load_model as load

    options = Namespace(images_per_prompt=2, steps=5, dtype="fp32", batch_size=4)
    plan = planned_drawing(EMBEDDED, embedded_prompts(2), options)
    model = load(EMBEDDED, torch.device("cpu"), torch.float32)
    return lambda: draw_ours(plan, model, Path(tempfile.mkdtemp(dir=folder)))


def scoring(folder: Path) -> Callable[[], object]:
    """64 images by one reward."""
    from tests.benchmarks.score import LoadedHPSv2, read_index, score_ours, write_images

    index = write_images(folder / "images", 64, 64)
    images = read_index(index.parent, index, 64)
    reward = LoadedHPSv2(model="embedded:emoji-hps")
    return lambda: score_ours(images, reward, folder / "scores", 16)


# And how many steps or images a call is.
WORK: dict[str, tuple[Callable[[Path], Callable[[], object]], int]] = {
    "train": (training, 1),
    "rollout": (drawing, 4),
    "score": (scoring, 64),
}


def cpu_seconds(work: Callable[[], object]) -> Took:
    started, on_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - on_cpu


def work_for_parent(names: Sequence[str]) -> None:
    """Do the work that each line of standard input names, and say what it took."""
    with tempfile.TemporaryDirectory() as folder:
        works = {}
        for name in names:
            (Path(folder) / name).mkdir()
            works[name] = WORK[name][0](Path(folder) / name)
            works[name]()
        print("ready", flush=True)
        for line in sys.stdin:
            print(*cpu_seconds(works[line.strip()]), flush=True)


class Worker:
    """A process that has loaded what some works need."""

    def __init__(self, setting: Mapping[str, str], works: Sequence[str]) -> None:
        kept = {
            name: text for name, text in os.environ.items() if name not in threads.WAITING_NAMES
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.busy", "--worker", "--work", *works],
            env=kept | {"OMP_NUM_THREADS": "2"} | setting,
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def answer(self) -> str:
        if line := self.process.stdout.readline():
            return line
        raise RuntimeError("a worker has ended")

    def ask(self, work: str, times: int = 1) -> None:
        self.process.stdin.write(f"{work}\n" * times)
        self.process.stdin.flush()

    def do(self, work: str) -> Took:
        self.ask(work)
        seconds, on_cpu = map(float, self.answer().split())
        return seconds, on_cpu


@contextmanager
def working(neighbours: Sequence[subprocess.Popen]) -> Iterator[None]:
    """They stand still before and after it."""
    for process in neighbours:
        process.send_signal(SIGCONT)
    try:
        time.sleep(0.1)
        yield
    finally:
        for process in neighbours:
            process.send_signal(SIGSTOP)


def measure(options: Namespace) -> dict[Cell, list[Took]]:
    """What each round took; the first one does not count."""
    children: list[subprocess.Popen] = []

    def workers(works: Sequence[str]) -> dict[str, Worker]:
        started = {name: Worker(SETTINGS[name], works) for name in options.settings}
        children.extend(worker.process for worker in started.values())
        for worker in started.values():
            worker.answer()
        return started

    try:
        own = workers(options.work)
        others = workers(["train"]) if WORKER in options.beside else {}
        for other in others.values():
            other.ask("train", MORE_THAN_ENOUGH)
        loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(2)]
        children.extend(loops)
        for process in (*loops, *(other.process for other in others.values())):
            process.send_signal(SIGSTOP)
        took: dict[Cell, list[Took]] = {}
        cells = [
            (work, setting, beside)
            for work in options.work
            for beside in options.beside
            for setting in options.settings
        ]
        for number in range(options.rounds + 1):
            print(f"round {number} of {options.rounds}", file=sys.stderr)
            for work, setting, beside in cells if number % 2 else reversed(cells):
                neighbours = (
                    loops[: LOOPS[beside]] if beside in LOOPS else [others[setting].process]
                )
                with working(neighbours):
                    cell = own[setting].do(work)
                if number:
                    took.setdefault((work, setting, beside), []).append(cell)
        return took
    finally:
        for process in children:
            process.kill()
            process.wait()


def ratio(took: Sequence[Took], other: Sequence[Took]) -> float:
    """Median over the rounds of how many times the other's seconds it took."""
    return median(mine[0] / theirs[0] for mine, theirs in zip(took, other, strict=True))


def report(took: Mapping[Cell, list[Took]], options: Namespace) -> None:
    print("| | waiting | beside | ms | CPU ms | times alone | times the first | bound |")
    print("|---|---|---|---|---|---|---|---|")
    for (work, setting, beside), rounds in took.items():
        items = WORK[work][1]
        seconds, on_cpu = (1000 * median(column) / items for column in zip(*rounds, strict=True))
        alone = ratio(rounds, took[work, setting, options.beside[0]])
        first = ratio(rounds, took[work, options.settings[0], beside])
        bound = BOUNDS.get(beside, 0)
        held = (first if beside == "alone" else alone) <= bound
        verdict = f"{bound} {'holds' if held else 'EXCEEDED'}" if bound else ""
        print(
            f"| {work} | {setting} | {beside} | {seconds:.1f} | {on_cpu:.1f} | {alone:.2f} "
            f"| {first:.2f} | {verdict} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=MEASURED)
    beside = (*LOOPS, WORKER)
    parser.add_argument("--beside", nargs="+", choices=beside, default=beside)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work_for_parent(options.work)
        return
    if len(CORES) < 2:
        parser.error("needs two cores")
    os.sched_setaffinity(0, CORES)
    print(f"load average {os.getloadavg()[0]:.1f} before it, {options.rounds} rounds", flush=True)
    report(measure(options), options)


if __name__ == "__main__":
    main()
