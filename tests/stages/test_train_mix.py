"""`expo train` on several pair files: their shares, their metrics, and the second term's mean."""

import json
from collections import Counter
from pathlib import Path

import pytest

from expo_cli.config import RunOptions, TrainConfig
from expo_cli.contracts import jsonl
from expo_cli.contracts.records import Pair
from expo_cli.errors import UsageError
from expo_cli.stages.train.plan import train_policy
from expo_cli.stages.train.records import read_pairs, visit_order
from tests.latent_pairs import write_latent_pairs

OPTIONS = RunOptions(quiet=True)
SMALL = {
    "max_train_steps": 4,
    "train_batch_size": 2,
    "mixed_precision": "fp32",
    "logging_steps": 4,
    "learning_rate": 1e-4,
    "warmup_ratio": 0.0,
}


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Four old pairs without samples of the agents, and two new ones with."""
    pairs = list(jsonl.read(write_latent_pairs(tmp_path), Pair))
    old = [jsonl_without_agents(pair) for pair in (*pairs[:3], pairs[5])]
    paths = [tmp_path / "old.jsonl", tmp_path / "new.jsonl"]
    for path, some in zip(paths, (old, pairs[3:5]), strict=True):
        jsonl.write(path, some)
    return paths


def jsonl_without_agents(pair: Pair) -> Pair:
    fields = {name: getattr(pair, name) for name in Pair.__slots__}
    return Pair(**fields | {"explore": None, "main": None})


def train(files, out, policy, options=OPTIONS, **settings) -> dict:
    """Train and return the last line of metrics.jsonl."""
    config = TrainConfig(init_from=str(policy), **SMALL | settings)
    train_policy(files, out, config, options)
    return json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize(
    ("objective", "mix", "shares"),
    [
        ("dpo", None, (4 / 6, 2 / 6)),
        ("dpo", "newest=0.5", (1 / 2, 1 / 2)),
        ("kto:desirable_fraction=0.5", "1,3", (1 / 4, 3 / 4)),
    ],
)
def test_metrics_by_file(objective, mix, shares, files, tiny_sd, tmp_path):
    """12 or 16 visits; accuracies by file are parts of the whole one."""
    steps = 6 if mix is None else 8
    settings = {"max_train_steps": steps, "logging_steps": steps}
    line = train(files, tmp_path / "out", tiny_sd, objective=objective, mix=mix, **settings)
    assert (line["share/1"], line["share/2"]) == pytest.approx(shares)
    by_file = [line[f"implicit_accuracy/{file}"] * line[f"share/{file}"] for file in (1, 2)]
    assert sum(by_file) == pytest.approx(line["implicit_accuracy"])
    assert {"implicit_margin/1", "implicit_margin/2"} < set(line)


def test_one_file_has_no_metrics_by_file(files, tiny_sd, tmp_path):
    line = train(files[:1], tmp_path / "out", tiny_sd, max_train_steps=1, logging_steps=1)
    assert not [name for name in line if "/" in name]


@pytest.mark.parametrize("form", ["pair", "main", "reference"])
def test_the_second_term_is_the_same_whatever_the_micro_batch(form, files, tiny_sd, tmp_path):
    """Two of the eight visits have one; the loss of eight at once is that of four times two, of which
    at least two have none."""
    objective = f"expo:beta=500,alpha=1,term={form}"
    settings = {"max_train_steps": 2, "logging_steps": 2, "mix": "3,1"}
    settings |= {"objective": objective, "learning_rate": 1e-5}
    whole = train(files, tmp_path / "whole", tiny_sd, train_batch_size=8, **settings)
    parts = train(files, tmp_path / "parts", tiny_sd, gradient_accumulation_steps=4, **settings)
    assert whole["exploration_loss"] == pytest.approx(parts["exploration_loss"], rel=1e-4, abs=1e-5)
    if form != "reference":  # which is 0 at a policy that equals the reference
        # Its mean over the pairs that have it: sigmoid(0) at the first of the two steps.
        assert whole["exploration_loss"] == pytest.approx(0.5, abs=0.05)


def test_a_stopped_run_under_weights_ends_with_the_same_bytes(files, tiny_sd, tmp_path):
    settings = {"mix": "1,2", "objective": "expo:beta=500", "logging_steps": 1}
    train(files, tmp_path / "whole", tiny_sd, max_train_steps=4, **settings)
    train(files, tmp_path / "parts", tiny_sd, max_train_steps=2, keep_state=True, **settings)
    train(files, tmp_path / "parts", tiny_sd, max_train_steps=4, **settings)
    whole, parts = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.safetensors")}
        | {"metrics": (tmp_path / name / "metrics.jsonl").read_bytes()}
        for name in ("whole", "parts")
    )
    assert whole == parts


def test_the_reference_cache_has_all_that_a_weighted_training_asks_for(files, tiny_sd, tmp_path):
    cache = tmp_path / "cache"
    settings = {"mix": "newest=0.75", "noise_draws": 2, "reference_cache": str(cache)}
    config = TrainConfig(init_from=str(tiny_sd), **SMALL | settings | {"max_train_steps": 20})
    for shard in ("0/2", "1/2"):
        train_policy(files, tmp_path / "out", config, OPTIONS, shard_text=shard)
    before = sorted(cache.iterdir())
    train_policy(files, tmp_path / "out", config, OPTIONS)
    assert sorted(cache.iterdir()) == before


def test_visits_by_file_and_draw(files):
    """Each of the two new pairs gets a quarter of the visits, each time with other noise."""
    order = visit_order(read_pairs(files, None), TrainConfig(init_from="x", mix="newest=0.5"))
    visits = order.visits(0, 80)
    counts = Counter(visit.item for visit in visits)
    assert (counts[4], counts[5]) == (20, 20)
    assert [v.draw for v in visits if v.item == 4] == list(range(20))


@pytest.mark.parametrize(
    ("mix", "limit", "problem"),
    [
        ("1,2,3", None, "--mix 1,2,3: 3 weights for 2 pair files"),
        ("newest=0.5", 3, "--mix newest=0.5: .*new.jsonl has no records"),
    ],
)
def test_a_mix_that_does_not_fit_the_files_is_refused(
    mix, limit, problem, files, tiny_sd, tmp_path
):
    with pytest.raises(UsageError, match=problem):
        train(files, tmp_path / "out", tiny_sd, mix=mix, limit=limit)
    assert not (tmp_path / "out").exists()


def test_what_train_says_of_the_second_term(files, tiny_sd, tmp_path, capsys):
    """alpha / 2 of the first term's gradient: sigmoid' is 1/4 at 0, where -log sigmoid has 1/2."""
    options = RunOptions(dry_run=True)
    settings = {"objective": "expo:alpha=0.1", "mix": "newest=0.5"}
    config = TrainConfig(init_from=str(tiny_sd), **SMALL | settings)
    train_policy(files, tmp_path / "out", config, options)
    said = capsys.readouterr().err
    assert "50.0% of the visits are to pairs with samples of both agents" in said
    assert "alpha 0.1 makes its gradient there 5.00% of the first term's" in said
