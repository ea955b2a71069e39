"""Offline pairs of every kind on the embedded world: whose images, which two, labelled how."""

from pathlib import Path

import pytest

from expo_cli.contracts import jsonl
from expo_cli.contracts.provenance import read_run
from expo_cli.contracts.records import Pair, Sample
from tests.recipes.toy import TOY, run

SETTINGS = TOY | {"JUDGE": "train", "OTHER_STEPS": 1, "WEAKER_STEPS": 1}
# A people's set: another model's images, two at random, judged by another taste, with mistakes.
PEOPLES = {
    "OFFLINE_KIND": "other",
    "OFFLINE_PAIRING": "random",
    "OFFLINE_LABELS": "other",
    "OFFLINE_AGREEMENT": 0.7,
    "OFFLINE_STYLES": "noto+flat",
}
# The first portion is weak enough. The other policy has drawn this seed's own images before.
WEAKER = {"OFFLINE_KIND": "weaker", "WEAKER_BY": -1000, "OFFLINE_SEED": 50}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("offline")
    done = run("base", **SETTINGS | PEOPLES | {"RUNS": folder})
    assert done.returncode == 0, done.stderr
    return folder


def ids(folder: Path) -> set[str]:
    return {
        sample.sample_id
        for path in folder.glob("rollout-?/part-?????.jsonl")
        for sample in jsonl.read(path, Sample)
    }


def test_the_pairs_of_people(runs):
    folder = runs / "shared/offline-other-by-hpsv2-noto+flat"
    pairs = folder / "hpsv2-random-agreement-0.7-4.jsonl"
    plan = read_run(folder, f"{pairs.name}.run.json").plan
    assert (plan["pairing"], plan["label_agreement"], plan["reward"]) == ("random", 0.7, ["hpsv2"])
    for pair in jsonl.read(pairs, Pair):
        assert pair.prompt.startswith(("noto style:", "flat style:"))
        assert (pair.margin < 0) == bool(pair.flipped)
    # Trained on images of another seed, that the other reward has judged.
    trained = read_run(folder / "policy")
    own = runs / "shared/offline-seed-50"
    assert trained.free["pairs"] == [str(own / "hpsv2-6.jsonl")]
    assert trained.plan["max_train_steps"] == 1
    assert len(ids(folder)) == len(ids(own)) == 4 * 6
    assert ids(folder).isdisjoint(ids(own))


@pytest.mark.nightly
def test_a_weaker_model_learns_from_losers_until_it_is_weak_enough(runs):
    too_strong = WEAKER | {"WEAKER_BY": 1000, "WEAKER_PORTIONS": 1}
    done = run("base", **SETTINGS | too_strong | {"RUNS": runs})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "weaker: is not 1000 below the base; raise WEAKER_PORTIONS or SFT_LEARNING_RATE"
    )
    done = run("base", **SETTINGS | WEAKER | {"RUNS": runs})
    assert done.returncode == 0, done.stderr
    folder = runs / "shared/offline-weaker-by-pickscore-seed-50"
    assert [path.name for path in folder.glob("portion-*")] == ["portion-1"]
    losers = runs / "shared/offline-seed-50/pickscore-losers.jsonl"
    assert read_run(folder / "portion-1/checkpoint").free["pairs"] == [str(losers)]
    assert all(pair.flipped and pair.margin < 0 for pair in jsonl.read(losers, Pair))
    assert read_run(folder / "rollout-0").plan["seed"] == 50
    assert ids(folder).isdisjoint(ids(losers.parent))
    assert (folder / "pickscore-4.jsonl").exists()


@pytest.mark.parametrize(
    ("setting", "value", "known"),
    [
        ("OFFLINE_KIND", "others", "own other weaker"),
        ("OFFLINE_PAIRING", "all", "best-worst random"),
        ("OFFLINE_LABELS", "hpsv2", "training other"),
    ],
)
def test_a_setting_that_is_none_is_refused_in_one_line(setting, value, known, tmp_path):
    done = run("base", **SETTINGS | {setting: value, "RUNS": tmp_path / "runs"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == f"{setting}={value}: must be one of: {known}"
    assert not (tmp_path / "runs").exists()
