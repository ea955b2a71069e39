"""The page of `recipes/claims.sh`: what came of the plan so far, one contrast per question.

    python recipes/claims/tables.py recipes/results/claims

Every difference is paired over prompts and seeds; its interval is the pigeonhole bootstrap's, and the
p values of the questions are corrected by Holm (Scandinavian Journal of Statistics 6, 1979).
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expo_cli.core.statistics import Floats

sys.path.insert(0, str(Path(__file__).parents[1] / "table1"))

from systems import System, crossed_means, estimate, paired

TRAINING, HELDOUT = "pickscore", "hpsv2"
RESAMPLES = 5000
# Question: what it asks, and the two systems of its contrast.
QUESTIONS = {
    "a": ("EXPO-II against Diffusion-DPO, `people`", "people-expo_ii", "people-dpo"),
    "a, beside": ("EXPO-I against Diffusion-DPO, `people`", "people-expo_i", "people-dpo"),
    "b": ("EXPO-II against Diffusion-DPO, `clean`", "clean-expo_ii", "clean-dpo"),
    "c": ("half of the visits for the newest round, or by size", "people-half", "people-by-size"),
    "d": ("the best explorer against `same`", "people-expo_ii", "people-same"),
    "e": ("the second term against alpha 0", "people-alpha", "people-alpha-0"),
    "f, 24": ("EXPO-II against DPO, 24 pairs", "people-expo_ii-24-pairs", "people-dpo-24-pairs"),
    "f, 96": ("EXPO-II against DPO, 96 pairs", "people-expo_ii-96-pairs", "people-dpo-96-pairs"),
    "g": ("EXPO-II against DPO, two styles", "people-expo_ii-styles", "people-dpo-styles"),
    "h": ("EXPO-II with 15 % of the data, DPO with all", "people-expo_ii-efficient", "people-dpo"),
    "coin": ("EXPO-II against DPO, labels at 50 %", "people-expo_ii-coin", "people-dpo-coin"),
}
BESIDE = ("a, beside", "coin")
SEEN_STYLES = ("noto", "flat")


def read(folder: Path) -> dict[str, System]:
    """The systems of stage 2 by name without the seed."""
    found: dict[str, System] = {}
    for path in sorted((folder / "answers").glob("*-[0-9].json")):
        name = path.stem.rpartition("-")[0]
        system = found.setdefault(name, System(name, TRAINING, None, []))
        system.runs.append(json.loads(path.read_bytes()))
    return found


def contrast(systems: dict[str, System], question: str, reward: str) -> Floats | None:
    """The differences of a question, [seeds, prompts]; None while runs are missing."""
    _, one, other = QUESTIONS[question]
    if one not in systems or other not in systems:
        return None
    if not set(systems[one].seeds) & set(systems[other].seeds):
        return None
    values = paired(systems[one], systems[other], reward)
    if question == "g":
        unseen = [category not in SEEN_STYLES for category in systems[one].categories]
        values = values[:, unseen]
    return values


def p_value(values: Floats) -> float:
    """Two-sided, by the resampled means on the other side of 0; at least 1 / RESAMPLES."""
    means = crossed_means(values, RESAMPLES, 0)
    return max(min(1.0, 2 * min((means <= 0).mean(), (means >= 0).mean())), 1 / RESAMPLES)


def holm(values: dict[str, float]) -> dict[str, float]:
    """The corrected p values."""
    corrected, largest = {}, 0.0
    for place, name in enumerate(sorted(values, key=values.get)):
        largest = max(largest, min(1.0, (len(values) - place) * values[name]))
        corrected[name] = largest
    return corrected


def written(values: Floats) -> str:
    found = estimate(values)
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]".replace("-", "−")


def answers(systems: dict[str, System]) -> list[str]:
    known = {q: contrast(systems, q, HELDOUT) for q in QUESTIONS}
    known = {question: values for question, values in known.items() if values is not None}
    corrected = holm({q: p_value(values) for q, values in known.items() if q not in BESIDE})
    lines = [
        "| question | contrast | seeds | held-out reward | training reward | p, Holm | answer |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for question, values in known.items():
        p = corrected.get(question)
        sure = p is not None and p < 0.05
        answer = "–" if p is None else ("higher" if values.mean() > 0 else "lower")
        lines.append(
            f"| {question} | {QUESTIONS[question][0]} | {len(values)} | {written(values)} | "
            f"{written(contrast(systems, question, TRAINING))} | {'–' if p is None else f'{p:.3f}'} | "
            f"{answer if sure or p is None else 'no difference'} |"
        )
    return lines if known else ["No question has all of its runs yet."]


def runs(systems: dict[str, System]) -> list[str]:
    lines = [
        "| system | seeds | held-out reward | training reward | KL, nats | pairs | images | steps |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, system in systems.items():
        costs = " | ".join(
            f"{system.mean_cost(each):.0f}" for each in ("pairs", "images_drawn", "steps")
        )
        lines.append(
            f"| {name} | {len(system.runs)} | {written(system.difference(HELDOUT))} | "
            f"{written(system.difference(TRAINING))} | {np.nanmean(system.figures(-1, 'kl')):.0f} | "
            f"{costs} |"
        )
    return lines if systems else ["None yet."]


def same_against_same(systems: dict[str, System]) -> str:
    """Diffusion-DPO of three seeds against three others."""
    dpo = systems.get("people-dpo")
    if dpo is None or len(dpo.runs) < 6:
        return "A/A: needs six seeds of Diffusion-DPO."
    scores = dpo.difference(HELDOUT)
    return (
        f"A/A, Diffusion-DPO of seeds 0 to 2 against 3 to 5: {written(scores[:3] - scores[3:6])}."
    )


def search(folder: Path) -> list[str]:
    """Stage 1: the gain of each trial in the training reward on training prompts."""
    rows: list[tuple[str, str]] = []
    for path in sorted((folder / "search").glob("*.json")):
        run: dict[str, Any] = json.loads(path.read_bytes())
        first, last = (
            np.array([run["policies"][place]["scores"][TRAINING]], float) for place in (0, -1)
        )
        rows.append((path.stem, written(last - first)))
    lines = ["| trial | training reward, training prompts |", "|---|---|"]
    return [*lines, *(f"| {name} | {gain} |" for name, gain in rows)] if rows else ["None yet."]


def page(folder: Path) -> str:
    systems = read(folder)
    parts: Sequence[tuple[str, list[str]]] = (
        ("Answers", [*answers(systems), "", same_against_same(systems)]),
        ("Systems, against the base", runs(systems)),
        ("Stage 1", search(folder)),
    )
    head = (
        "# When does exploration pay?\n\nMade by `bash recipes/claims.sh` from the files beside this page; "
        "the [plan](../../claims/plan.md) was written before the first run.\n"
    )
    return head + "".join(f"\n## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in parts)


if __name__ == "__main__":
    (Path(sys.argv[1]) / "README.md").write_text(page(Path(sys.argv[1])))
