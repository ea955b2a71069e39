"""Time and peak memory of the commands that need no model, by the size of their input.

    python -m tests.benchmarks.load                     the full size: minutes, 3 GB of disk
    python -m tests.benchmarks.load --scale 0.001       a trial

Every command runs as its users run it, at a tenth, a third and the whole of its size; its peak memory
is that of the process, as `/usr/bin/time -v` prints it. The inputs are synthetic.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

from expo_cli.contracts import jsonl
from tests.benchmarks.measure import Measured, measured_apart
from tests.benchmarks.synthetic import prompt_number, prompt_texts, write_scored_rollout

EXPO = Path(sys.executable).parent / "expo"
SHARES = (0.1, 1 / 3, 1)


def expo(*arguments: object, **settings) -> Measured:
    return measured_apart([EXPO, *arguments], **settings)


def prep_prompts_of_text(work: Path, size: int) -> Measured:
    lines = work / "prompts.txt"
    with lines.open("w") as file:
        file.writelines(f"{text}\n" for text in prompt_texts(size))
    options = ("--heldout-fraction", 0.05)
    return expo("prep-prompts", lines, "--out", work / "prompts.jsonl", *options)


def prep_prompts_of_standard_input(work: Path, size: int) -> Measured:
    lines = work / "stdin.jsonl"
    jsonl.write(lines, ({"prompt": text} for text in prompt_texts(size)))
    options = ("--sample", size // 2)
    with lines.open() as stdin:
        return expo("prep-prompts", "-", "--out", work / "prompts.jsonl", *options, stdin=stdin)


def prep_prompts_of_parquet(work: Path, size: int) -> Measured:
    table = pyarrow.table({"caption": list(prompt_texts(size))})
    pyarrow.parquet.write_table(table, work / "prompts.parquet", row_group_size=size // 4 + 1)
    options = ("--prompt-column", "caption")
    return expo("prep-prompts", work / "prompts.parquet", "--out", work / "prompts.jsonl", *options)


def plan_of_a_rollout(work: Path, size: int) -> Measured:
    jsonl.write(work / "prompts.jsonl", map(prompt_number, range(size)))
    options = ("--policy", "embedded:emoji-sd", "--out", work / "rollout", "--dry-run")
    return expo("rollout", work / "prompts.jsonl", *options)


def make_pairs_of_two_agents(work: Path, size: int) -> Measured:
    return make_pairs(work, {"main": 4, "explore": 4}, size // 8)


def make_pairs_of_16_rollouts(work: Path, size: int) -> Measured:
    return make_pairs(work, {f"rollout-{number}": 1 for number in range(16)}, size // 16)


def make_pairs_of_parts_of_other_sizes(work: Path, size: int) -> Measured:
    return make_pairs(work, {"main": 4, "explore": 4}, size // 8, part_sizes=(64, 96))


def make_pairs(
    work: Path, num_images: dict[str, int], num_prompts: int, part_sizes: Sequence[int] = (64,)
) -> Measured:
    """Time make-pairs by one reward on rollouts with that many images per prompt."""
    folders = [
        write_scored_rollout(
            work / name,
            num_prompts=num_prompts,
            num_images=images,
            part_size=part_sizes[number % len(part_sizes)],
            agent="explore" if name == "explore" else "main",
            first_index=number,
            rewards=("pickscore",),
            seed=number,
        )
        for number, (name, images) in enumerate(num_images.items())
    ]
    return expo("make-pairs", *folders, "--out", work / "pairs.jsonl")


def evaluate_two_policies(work: Path, size: int) -> Measured:
    folders = [
        write_scored_rollout(
            work / label,
            num_prompts=size // 8,
            num_images=4,
            part_size=64,
            evaluated=True,
            seed=number,
        )
        for number, label in enumerate(("base", "policy"))
    ]
    policies = [f"{folder.name}={folder}" for folder in folders]
    return expo("evaluate", *policies, "--out", work / "evaluation")


def status_of_parts(work: Path, size: int) -> Measured:
    folder = write_scored_rollout(
        work / "rollout", num_prompts=size, num_images=1, part_size=1, rewards=()
    )
    (folder / "part-00000.jsonl").unlink()
    return expo("status", folder)


@dataclass(frozen=True)
class Case:
    """A command, what its size counts, and its whole size."""

    title: str
    unit: str
    size: int
    run: Callable[[Path, int], Measured]


CASES = {
    "text": Case("prep-prompts, text", "prompts", 1_000_000, prep_prompts_of_text),
    "stdin": Case(
        "prep-prompts, standard input", "prompts", 1_000_000, prep_prompts_of_standard_input
    ),
    "parquet": Case("prep-prompts, parquet", "prompts", 1_000_000, prep_prompts_of_parquet),
    "plan": Case("rollout --dry-run", "prompts", 1_000_000, plan_of_a_rollout),
    "pairs": Case("make-pairs, two agents", "scores", 1_000_000, make_pairs_of_two_agents),
    "pairs-16": Case("make-pairs, 16 rollouts", "scores", 1_000_000, make_pairs_of_16_rollouts),
    "pairs-unlike": Case(
        "make-pairs, parts of other sizes", "scores", 1_000_000, make_pairs_of_parts_of_other_sizes
    ),
    "evaluate": Case("evaluate, two policies", "samples", 100_000, evaluate_two_policies),
    "status": Case("status", "parts", 16_000, status_of_parts),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="All by default.")
    parser.add_argument("--scale", type=float, default=1, help="Of all sizes.")
    arguments = parser.parse_args()
    print("| command | size | seconds | CPU seconds | peak MiB |\n|---|---|---|---|---|")
    for name in arguments.cases or CASES:
        case = CASES[name]
        for share in SHARES:
            size = round(case.size * share * arguments.scale)
            with tempfile.TemporaryDirectory(prefix="expo-load-") as work:
                measured = case.run(Path(work), size)
            print(
                f"| {case.title} | {size:,} {case.unit} | {measured.seconds:.1f} | "
                f"{measured.cpu_seconds:.1f} | {measured.peak_mib:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
