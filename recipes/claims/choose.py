"""Print the settings of stage 1's best run among those whose names begin with PREFIX.

    python recipes/claims/choose.py recipes/results/claims/search people-dpo-

Best: the highest mean training reward of the last policy on training prompts; ties go to the name that
comes first. Settings that say which run it was (seed, situation, judging) are left out.
"""

import json
import re
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

OF_THE_RUN = re.compile(
    r"recipe|SEED|JUDGE|CURVE|OFFLINE_.*|HELDOUT_PROMPTS|JUDGED_IMAGES|.*_STEPS"
)


def training_reward(run: dict[str, Any]) -> float:
    if run["judged_on"] != "train":
        raise SystemExit(f"{run['name']}: was judged on {run['judged_on']}, not training prompts")
    scores = run["policies"][-1]["scores"][run["training_reward"]]
    return fmean(score for score in scores if score is not None)


def best(folder: Path, prefix: str) -> dict[str, Any]:
    runs = [json.loads(path.read_bytes()) for path in sorted(folder.glob(f"{prefix}*.json"))]
    if not runs:
        raise SystemExit(f"{folder}: no run's name begins with {prefix}; stage 1 comes first")
    return max(runs, key=training_reward)


def main(folder: Path, prefix: str) -> None:
    settings = best(folder, prefix)["settings"]
    chosen = (f"{k}={v}" for k, v in settings.items() if not OF_THE_RUN.fullmatch(k))
    sys.stdout.write(" ".join(chosen) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
