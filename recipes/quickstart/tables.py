"""The quickstart's figures as Markdown.

    python recipes/quickstart/tables.py RESULTS/quickstart

Reads there what keep.sh and a benchmark have put there, and writes README.md beside it:
results.json            six policies of seed 0, on the first held-out prompts
seed-N.json             the base and the last policy of seed N, on all of them
cpu.json                where the CPU seconds went, where `python -m tests.benchmarks.quickstart` wrote it
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from expo_cli.contracts.files import atomic
from expo_cli.contracts.results import PolicyResult, Results, RewardResult
from expo_cli.core.alarms import largest_shift
from expo_cli.report.wording import fixed, interval

REWARDS = ("pickscore", "hpsv2")
# Of a command that is forked from a warm process.
WARM_START = 0.3
DASH = "–"

TEXT = """# What the quickstart shows

Made by `python recipes/quickstart/tables.py recipes/results/quickstart` from the JSON files here, which
`bash recipes/quickstart.sh` made and `bash recipes/quickstart/keep.sh` copied. The training reward is
`pickscore`, the held-out one `hpsv2`: nothing is selected on it. Brackets are 95 % intervals of the paired
difference, by bootstrap over prompts.

## The claim

Fixed before any run: on held-out prompts the last policy is above the base by both rewards, the lower
end of the interval above 0, for seeds 0, 1 and 2.

{claim}

## By iteration

Seed 0, the first {num_prompts} held-out prompts. Drift is in standard deviations of the base; the KL, in
nats per sample, is computed for the last policy only.

{iterations}

![The same prompts and noise by the base and after each iteration](images.png)

![Reward by iteration](reward-by-policy.png)

## Where its work goes

Passes of the network over one image, counted from the settings (an image in training counts 4: forward and
backward by the policy, forward by the reference), before this recipe was cut to minutes and now:

{passes}
"""

CPU = """
CPU seconds by `python -m tests.benchmarks.quickstart FILE.json` on {processor}, {note}, where each command
starts cold; {wall} s from begin to end:

{cpu}
"""

# Before: 160 prompts of 3 images and 100 steps of 16 pairs per iteration, 112 held-out prompts with KL
# for each of 6 policies.
PASSES = {
    "drawing of held-out prompts": (6 * 112 * 16 * 2, (72 + 4 * 24 + 72) * 16 * 2),
    "KL to the base": (6 * 112 * 16 * 2, 72 * 16 * 2),
    "drawing by the agents": (5 * 2 * 160 * 3 * 10 * 2, 5 * 2 * 32 * 2 * 8 * 2),
    "training": (5 * 100 * 32 * 4, 5 * 24 * 16 * 4),
}


def main(folder: Path) -> None:
    by_iteration = read_results(folder / "results.json")
    seeds = {
        path.stem.removeprefix("seed-"): read_results(path)
        for path in sorted(folder.glob("seed-*.json"))
    }
    text = TEXT.format(
        claim=claim_table(seeds),
        num_prompts=by_iteration.num_prompts,
        iterations=iterations_table(by_iteration.policies),
        passes=passes_table(),
    )
    if (folder / "cpu.json").exists():
        text += cpu_section(json.loads((folder / "cpu.json").read_bytes()))
    with atomic(folder / "README.md") as file:
        file.write(text.encode())


def read_results(path: Path) -> Results:
    return TypeAdapter(Results).validate_json(path.read_bytes())


def claim_table(seeds: Mapping[str, Results]) -> str:
    header = ["seed", "prompts", *reward_header(), "KL, nats", "claim"]
    return table(header, (claim_row(seed, results) for seed, results in seeds.items()))


def claim_row(seed: str, results: Results) -> list[str]:
    last = results.policies[-1]
    holds = all(last.rewards[reward].difference.rises for reward in REWARDS)
    return [
        seed,
        str(results.num_prompts),
        *reward_cells(last),
        kl(last),
        "holds" if holds else "fails",
    ]


def iterations_table(policies: Sequence[PolicyResult]) -> str:
    header = ["policy", *reward_header(), "win rate, held-out", "KL, nats", "largest drift"]
    return table(header, map(iteration_row, policies))


def iteration_row(policy: PolicyResult) -> list[str]:
    wins = policy.rewards["hpsv2"].win_rate
    name, drift = largest_shift(policy)
    return [
        policy.label,
        *reward_cells(policy),
        fixed(wins.value, 2) if wins else DASH,
        kl(policy),
        f"{name.replace('_', ' ')} {fixed(drift.shift, 2, sign=True)}" if drift.shift else DASH,
    ]


def reward_header() -> list[str]:
    return ["training reward", "difference to base", "held-out reward", "difference to base"]


def reward_cells(policy: PolicyResult) -> list[str]:
    return [cell for reward in REWARDS for cell in mean_and_difference(policy.rewards[reward])]


def mean_and_difference(figures: RewardResult) -> list[str]:
    by = figures.difference
    difference = f"{fixed(by.value, 2, sign=True)} {interval(by, 2, sign=True)}" if by else DASH
    return [fixed(figures.mean.value, 2), difference]


def kl(policy: PolicyResult) -> str:
    return fixed(policy.kl.nats.value, 1) if policy.kl else DASH


def passes_table() -> str:
    rows = [[stage, *map("{:,}".format, counts)] for stage, counts in PASSES.items()]
    rows.append(["all", *(f"{sum(counts):,}" for counts in zip(*PASSES.values(), strict=True))])
    return table(["passes", "before", "now"], rows)


def cpu_section(run: Mapping) -> str:
    """A row per stage, then the sum, and what it is when starts are warm."""
    seconds = run["cpu_seconds"]
    total = sum(seconds.values())
    warm = total - seconds["starts of programs"] + WARM_START * run["num_starts"]
    rows = [[stage, f"{value:.0f}"] for stage, value in seconds.items()]
    rows += [
        ["all", f"{total:.0f}"],
        [f"all, with {run['num_starts']} warm starts of {WARM_START} s each", f"{warm:.0f}"],
    ]
    return CPU.format(
        processor=run["processor"],
        note=run["note"],
        wall=run["wall_seconds"],
        cpu=table(["CPU seconds", ""], rows),
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
