"""Where the quickstart's CPU seconds go: every command's own, those of its start apart.

    python -m tests.benchmarks.quickstart OUT.json                 runs recipes/quickstart.sh
    ITERATIONS=1 python -m tests.benchmarks.quickstart OUT.json    with one of its settings

A command's start is what its smallest job takes. A rollout with --kl-to spends half of its work on the
KL: the other model sees the same latents. CPU seconds hardly depend on what else the machine does, as
waiting threads sleep.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from expo_cli.contracts.files import atomic
from tests.benchmarks.measure import measured_apart
from tests.benchmarks.start_up import EXPO, jobs

PROJECT = Path(__file__).parents[2]
RECIPE = PROJECT / "recipes" / "quickstart.sh"
# Shell functions go before programs: the recipe's `expo` is this module, which notes what it took.
SHIM = f'() {{ "{sys.executable}" -m tests.benchmarks.quickstart "$@"; }}'
STAGES = {
    "rollout of agents": "drawing by the agents",
    "rollout of held-out": "drawing of held-out prompts",
    "score": "scoring",
    "train": "training",
}


def cpu_seconds_of_starts() -> dict[str, float]:
    """What the smallest job of each command takes."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "prompts.txt").write_text("noto style: a red heart\n")
        return {name: measured_apart([*EXPO, *job]).cpu_seconds for name, job in jobs(work).items()}


def commands_of_a_run(recipe: Path, folder: Path) -> list[dict]:
    """Run the recipe; its commands, in the order of their ends: their words and CPU seconds."""
    log = folder / "commands.jsonl"
    settings = {"OMP_WAIT_POLICY": "passive", "OUT": str(folder / "run")}
    ours = {"BASH_FUNC_expo%%": SHIM, "COMMANDS": str(log), "VIRTUAL_ENV": sys.prefix}
    subprocess.run(["bash", recipe], cwd=PROJECT, env=os.environ | settings | ours, check=True)
    return [json.loads(line) for line in log.read_text().splitlines()]


def note(words: Sequence[str]) -> int:
    """Run `expo` with these words and add a line to the file $COMMANDS; its exit code.

    It starts cold: what a warm process forks is none of its children.
    """
    cold = {name: value for name, value in os.environ.items() if name != "EXPO_WARM"}
    process = subprocess.Popen([*EXPO, *words], env=cold)
    _, status, usage = os.wait4(process.pid, 0)
    line = {"words": list(words), "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2)}
    with open(os.environ["COMMANDS"], "a") as log:
        log.write(json.dumps(line) + "\n")
    return os.waitstatus_to_exitcode(status)


def breakdown(commands: Sequence[dict], starts: dict[str, float]) -> dict[str, float]:
    """CPU seconds by stage of those commands."""
    seconds: Counter[str] = Counter({"starts of programs": 0.0})
    for command in commands:
        name, *flags = command["words"]
        start = min(starts[name], command["cpu_seconds"])
        work = command["cpu_seconds"] - start
        seconds["starts of programs"] += start
        if "--kl-to" in flags:
            work /= 2
            seconds["KL to the base"] += work
        if name == "rollout":
            name += " of agents" if "--agent" in flags else " of held-out"
        seconds[STAGES.get(name, "rest")] += work
    return {stage: round(value, 1) for stage, value in seconds.items()}


def in_iteration(command: dict) -> bool:
    """Not the base's images, the held-out prompts or the report."""
    words = command["words"]
    return words[0] != "evaluate" and any("/iteration-" in word for word in words)


def processor() -> str:
    """Its name, where Linux tells, and the number of cores that this process may use."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return f"{len(os.sched_getaffinity(0))} cores of {(names or [platform.machine()])[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="JSON file of the figures.")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="Another version of it.")
    parser.add_argument("--times", type=int, default=1, help="How often an iteration counts.")
    parser.add_argument("--note", default="", help="Goes into the file.")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        commands = commands_of_a_run(arguments.recipe.resolve(), Path(folder))
    commands += [each for each in commands if in_iteration(each)] * (arguments.times - 1)
    wall_seconds = round(time.monotonic() - started)
    figures = {
        "cpu_seconds": breakdown(commands, cpu_seconds_of_starts()),
        "wall_seconds": wall_seconds,
        "num_starts": len(commands),
        "processor": processor(),
        "note": arguments.note,
    }
    for stage, seconds in figures["cpu_seconds"].items():
        print(f"{seconds:7.1f}  {stage}")
    total = sum(figures["cpu_seconds"].values())
    print(f"{total:7.1f}  in all, {len(commands)} commands, {wall_seconds} s from begin to end")
    with atomic(arguments.out) as file:
        file.write(json.dumps(figures, indent=1).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(note(sys.argv[1:]) if "COMMANDS" in os.environ else main())
