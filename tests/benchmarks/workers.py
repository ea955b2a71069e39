"""Two workers of an array against one, one core and one thread each, on `rollout` and on `score`.

    python -m tests.benchmarks.workers               minutes; needs two idle cores
    python -m tests.benchmarks.workers --rounds 1 --parts 1 2 --part-size 4     a trial

One worker takes `--shard 0/1`, two take `0/2` and `1/2` at the same time, of the same work, in turns.
The work comes in two sizes: the ratio of the larger one's times counts the start of the programs, that
of the differences between the sizes does not.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

EXPO = Path(sys.executable).parent / "expo"
CORES = sorted(os.sched_getaffinity(0))[:2]

Work = Callable[[Path, int], list[object]]


def seconds(command: Sequence[object], workers: int) -> float:
    """From the start of the first worker to the end of the last; each has a core of its own."""
    started = time.monotonic()
    running = [
        subprocess.Popen(
            ["taskset", "--cpu-list", str(CORES[worker]), EXPO, *map(str, command)]
            + ["--shard", f"{worker}/{workers}", "--quiet"],
            env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            stdout=subprocess.DEVNULL,
        )
        for worker in range(workers)
    ]
    if any(process.wait() for process in running):
        raise RuntimeError(f"failed: expo {' '.join(map(str, command))}")
    return time.monotonic() - started


def compare(name: str, work: Work, parts: Sequence[int], rounds: int, folder: Path) -> str:
    """A line of the table; `work` gives the command for a new output folder and a number of parts."""
    times: dict[tuple[int, int], list[float]] = {}
    for number in range(rounds):
        for count in parts:
            for workers in (1, 2):
                out = folder / f"{name}-{number}-{count}-{workers}"
                times.setdefault((workers, count), []).append(seconds(work(out, count), workers))
    median = {key: statistics.median(values) for key, values in times.items()}
    small, large = parts
    one, two = (median[workers, large] - median[workers, small] for workers in (1, 2))
    return (
        f"| {name} | {median[1, large]:.1f} | {median[2, large]:.1f} "
        f"| {median[1, large] / median[2, large]:.2f} | {one / two:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="The median of these is taken.")
    parser.add_argument("--parts", type=int, nargs=2, default=(2, 10), help="Of the two sizes.")
    parser.add_argument("--part-size", type=int, default=24, help="Prompts; 2 images of each.")
    arguments = parser.parse_args()
    if len(CORES) < 2:
        parser.error("needs two cores")

    with tempfile.TemporaryDirectory(prefix="expo-workers-") as work:
        folder = Path(work)
        prompts = folder / "prompts.jsonl"
        prepare = [
            EXPO,
            "prep-prompts",
            "embedded:prompts/train.jsonl",
            "--out",
            prompts,
            "--quiet",
        ]
        subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL)

        def drawing(out: Path, parts: int) -> list[object]:
            return [
                *("rollout", prompts, "--policy", "embedded:emoji-sd"),
                *("--limit", parts * arguments.part_size, "--part-size", arguments.part_size),
                *("--num-images-per-prompt", 2, "--guidance-scale", 1.5, "--out", out),
                *("--scheduler", "dpm-solver++", "--num-inference-steps", 10),
            ]

        def scoring(out: Path, parts: int) -> list[object]:
            drawn = folder / f"rollout-0-{parts}-2"
            return [
                *("score", drawn, "--reward", "pickscore:model=embedded:emoji-pickscore"),
                *("--out", out),
            ]

        print("| command | one, seconds | two, seconds | ratio | without start-up |")
        print("|---|---|---|---|---|")
        for name, work_of in (("rollout", drawing), ("score", scoring)):
            line = compare(name, work_of, arguments.parts, arguments.rounds, folder)
            print(line, flush=True)


if __name__ == "__main__":
    main()
