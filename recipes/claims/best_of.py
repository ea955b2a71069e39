"""Both rewards of the best of 4 and of 8 images of a prompt, chosen by the training reward.

    python recipes/claims/best_of.py OUT.json ROLLOUT [ROLLOUT ...]

The rollouts hold scored images of the same prompts by one policy, in the order of their indices.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

from expo_cli.contracts.files import atomic
from expo_cli.contracts.rollouts import open_rollout, scored_samples

REWARDS = ("pickscore", "hpsv2")
SIZES = (1, 4, 8)


def images_of(folders: list[Path]) -> dict[str, dict[int, tuple[float, ...]]]:
    """prompt_id -> index -> scores by REWARDS."""
    found = defaultdict(dict)
    for folder in folders:
        by_reward = (scored_samples(open_rollout(folder), reward) for reward in REWARDS)
        for scored in zip(*by_reward, strict=True):
            sample = scored[0][0]
            if not sample.checks.flagged:
                found[sample.prompt_id][sample.index] = tuple(score for _, score in scored)
    return found


def main(out: Path, folders: list[Path]) -> None:
    images = images_of(folders)
    prompts = sorted(images)
    figures = {"prompts": prompts, "best_of": {}}
    for size in SIZES:
        chosen = [max(v for i, v in images[prompt].items() if i < size) for prompt in prompts]
        figures["best_of"][size] = {
            reward: [each[place] for each in chosen] for place, reward in enumerate(REWARDS)
        }
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out) as file:
        file.write(json.dumps(figures).encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(each) for each in sys.argv[2:]])
