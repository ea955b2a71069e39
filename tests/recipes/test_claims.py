"""`recipes/claims.sh`: the choice of stage 1, and the figures of stage 2."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.recipes.toy import PROJECT

sys.path.insert(0, str(PROJECT / "recipes" / "claims"))

import choose
import tables


def kept(folder: Path, name: str, rewards: dict, judged_on: str = "train", **settings: str) -> None:
    """A run's file; `rewards` are the scores of the base and of the last policy, by reward."""
    policies = [
        {
            "label": label,
            "scores": {r: each[place] for r, each in rewards.items()},
            "kl": [5.0, 5.0],
        }
        for place, label in enumerate(("base", "iteration-5"))
    ]
    figures = {"name": name, "judged_on": judged_on, "training_reward": "pickscore"}
    figures |= {"settings": settings, "policies": policies, "categories": ["noto", "3d"]}
    figures |= {"pairs": 1, "images_drawn": 2, "steps": 3}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(figures))


def trial(folder: Path, name: str, score: float, **settings: str) -> None:
    kept(folder, name, {"pickscore": ([1, 1], [score, score])}, **settings)


def test_the_best_trial_of_a_system_gives_its_settings(tmp_path, capsys):
    given = {"recipe": "dpo", "SEED": "10", "OFFLINE_KIND": "other", "JUDGE": "train"}
    trial(tmp_path, "people-dpo-1", 2.0, **given, DPO_BETA="500")
    trial(tmp_path, "people-dpo-2", 3.0, **given, DPO_BETA="2000", LABEL_SMOOTHING="")
    trial(tmp_path, "people-expo_i-1", 4.0, **given)
    choose.main(tmp_path, "people-dpo-")
    assert capsys.readouterr().out == "DPO_BETA=2000 LABEL_SMOOTHING=\n"


def test_nothing_is_chosen_on_held_out_prompts(tmp_path):
    kept(tmp_path, "people-dpo-1", {"pickscore": ([1], [2])}, judged_on="heldout")
    with pytest.raises(SystemExit, match="judged on heldout, not training prompts"):
        choose.main(tmp_path, "people-dpo-")


def test_holm_by_hand():
    """Of three: 0.01 x 3, 0.03 x 2, then 0.04, which is below the one before it."""
    found = tables.holm({"a": 0.04, "b": 0.01, "c": 0.03})
    assert found == pytest.approx({"b": 0.03, "c": 0.06, "a": 0.06})


def test_a_contrast_is_paired_over_prompts_and_seeds(tmp_path):
    for seed, more in ((0, 1.0), (1, 3.0)):
        name, base = str(seed), [10.0, 20.0]
        for system, gain in (("dpo", 0.0), ("expo_ii", more)):
            scores = (base, [each + gain for each in base])
            rewards = {"pickscore": scores, "hpsv2": scores}
            answers = tmp_path / "answers"
            kept(answers, f"people-{system}-{name}", rewards, "heldout", SEED=name)
    systems = tables.read(tmp_path)
    assert np.array_equal(tables.contrast(systems, "a", "hpsv2"), [[1, 1], [3, 3]])
    assert tables.contrast(systems, "b", "hpsv2") is None
    text = tables.page(tmp_path)
    assert "| a | EXPO-II against Diffusion-DPO, `people` | 2 | +2.00 [+1.00, +3.00] |" in text
    assert "A/A: needs six seeds" in text


def test_a_difference_within_its_interval_is_none():
    rng = np.random.default_rng(0)
    assert tables.p_value(rng.normal(size=(3, 50))) > 0.05
    assert tables.p_value(rng.normal(size=(3, 50)) + 3) == 1 / tables.RESAMPLES
