"""Where the quickstart's CPU seconds go: every command's own, those of its start apart.

    python -m tests.benchmarks.quickstart OUT.json             runs recipes/quickstart.sh
    ITERATIONS=1 python -m tests.benchmarks.quickstart OUT.json   settings as of the recipe

A command's start is what its smallest job takes. A rollout with --kl-to spends half of its work on the
KL: the other model sees the same latents. CPU seconds hardly depend on what else the machine does, as
waiting threads sleep.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from expo_cli.contracts.files import atomic
from tests.benchmarks.measure import measured_apart
from tests.benchmarks.start_up import EXPO, jobs

PROJECT = Path(__file__).parents[2]
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


def commands_of_a_run(folder: Path) -> list[dict]:
    """Run the recipe; its commands, in the order of their ends: their words and CPU seconds."""
    log = folder / "commands.jsonl"
    settings = {"OMP_WAIT_POLICY": "passive", "OUT": str(folder / "run")}
    ours = {"BASH_FUNC_expo%%": SHIM, "COMMANDS": str(log), "VIRTUAL_ENV": sys.prefix}
    recipe = ["bash", PROJECT / "recipes" / "quickstart.sh"]
    subprocess.run(recipe, env=settings | os.environ | ours, check=True)
    return [json.loads(line) for line in log.read_text().splitlines()]


def note(words: Sequence[str]) -> int:
    """Run `expo` with these words and add a line to the file $COMMANDS; its exit code."""
    process = subprocess.Popen([*EXPO, *words])
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="JSON file of the figures.")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        commands = commands_of_a_run(Path(folder))
    figures = {
        "cpu_seconds": breakdown(commands, cpu_seconds_of_starts()),
        "num_starts": len(commands),
    }
    for stage, seconds in figures["cpu_seconds"].items():
        print(f"{seconds:7.1f}  {stage}")
    print(f"{sum(figures['cpu_seconds'].values()):7.1f}  in all, {len(commands)} commands")
    with atomic(out) as file:
        file.write(json.dumps(figures, indent=1).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(note(sys.argv[1:]) if "COMMANDS" in os.environ else main())
