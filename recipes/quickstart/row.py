"""The last policy of an evaluation as a row: each reward, and its difference to the base with a 95 %
interval over prompts.

    python recipes/quickstart/row.py EVALUATION
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from expo_cli.contracts.results import PolicyResult, Results
from expo_cli.report.wording import fixed, interval, reward_name

LABEL, CELL = 12, 34


def header(results: Results) -> str:
    cells = (f"{reward_name(results, reward):{CELL}}" for reward in results.rewards)
    return f"{'policy':{LABEL}}" + "".join(cells)


def row(policy: PolicyResult, rewards: Sequence[str]) -> str:
    text = f"{policy.label:{LABEL}}"
    for figures in (policy.rewards[reward] for reward in rewards):
        cell = fixed(figures.mean.value, 2)
        if by := figures.difference:
            cell += f"  {fixed(by.value, 2, sign=True)} {interval(by, 2, sign=True)}"
        text += f"{cell:{CELL}}"
    return text.rstrip()


def main(evaluation: Path) -> None:
    results = TypeAdapter(Results).validate_json((evaluation / "results.json").read_bytes())
    if len(results.policies) == 1:
        sys.stdout.write(header(results).rstrip() + "\n")
    sys.stdout.write(row(results.policies[-1], results.rewards) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
