"""`expo evaluate --pairs`: what each round of pairs consists of, by hand."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.numpy import load_file, save_file

from expo_cli.contracts.records import Sample
from expo_cli.contracts.results import Results
from expo_cli.core.ledger import relative_distance
from tests.scored import write_scored

# Prompts with an even number: the exploring agent has the best and the worst image.
MAIN = {0: 1.0, 1: 2.0}
EXPLORE = {0: {0: 5.0, 1: 0.0}, 1: {0: 1.2, 1: 1.5}}


def by_the_explorer(number: int, sample: Sample) -> Sample:
    name = sample.sample_id.replace("main", "explore")
    return replace(sample, sample_id=name, agent="explore", guidance_scale=3.0)


def fill(folder: Path, value) -> None:
    """Give all latents of a sample the value that `value(index)` says."""
    path = folder / "part-00000.safetensors"
    latents = load_file(path)
    for name, each in latents.items():
        each.fill(value(int(name.rpartition("-")[2])))
    save_file(latents, path)


@pytest.fixture
def root(tmp_path, expo) -> Path:
    """Two policies, of which `second` is the first to learn from the pairs of four prompts."""
    for label, score in (("first", 1.0), ("second", 1.5)):
        write_scored(tmp_path / label, rewards={"pick": lambda folder, n, i, s=score: s})
    size = {"num_prompts": 4}
    write_scored(tmp_path / "main", rewards={"pick": lambda folder, n, i: MAIN[i]}, **size)
    scores = {"pick": lambda folder, n, i: EXPLORE[n % 2][i]}
    write_scored(tmp_path / "explore", rewards=scores, change=by_the_explorer, **size)
    # Two images of the main agent lie 1 apart, and a winner of the explorer 2 from the nearer one.
    fill(tmp_path / "main", lambda index: index)
    fill(tmp_path / "explore", lambda index: 3)
    done = expo(
        "make-pairs", tmp_path / "main", tmp_path / "explore", "--out", tmp_path / "p.jsonl"
    )
    assert done.returncode == 0, done.stderr
    return tmp_path


def evaluate(expo, root: Path, *more: object):
    policies = [f"{label}={root / label}" for label in ("first", "second")]
    options = ("--out", root / "out", "--training-reward", "pick")
    return expo("evaluate", *policies, *options, *more)


def test_a_round_by_hand(root, expo):
    done = evaluate(expo, root, "--pairs", f"second={root / 'p.jsonl'}")
    assert done.returncode == 0, done.stderr
    results = msgspec.json.decode((root / "out/results.json").read_bytes(), type=Results)
    (found,) = results.ledger
    assert (found.label, found.num_pairs, found.num_images) == ("second", 4, 16)
    shares = {s.agent: (s.guidance_scale, s.images, s.winners, s.losers) for s in found.sources}
    assert shares == {"main": (4.0, 0.5, 0.5, 0.5), "explore": (3.0, 0.5, 0.5, 0.5)}
    # Margins 5, 1, 5, 1; without the exploring agent every best is 1 above the worst.
    assert (found.margin, found.spread, found.spread_without_explore) == (3, 3, 1)
    assert found.winner_distance == pytest.approx(2)
    assert found.gain.value == pytest.approx(0.5)
    assert found.gain_per_1000_images == pytest.approx(1000 * 0.5 / 16)
    assert "explore: ddpm 20 steps, guidance 3" in (root / "out/report.html").read_text()
    assert "What each policy was the first to learn from" in done.stderr


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("p.jsonl", "is not LABEL=FILE"),
        ("third={root}/p.jsonl", "--pairs: no policy 'third'"),
        ("second={root}/missing.jsonl", "missing.jsonl"),
    ],
)
def test_pairs_of_no_policy_are_refused(given, problem, root, expo):
    done = evaluate(expo, root, "--pairs", given.format(root=root))
    assert done.returncode in (1, 2)
    assert problem in done.stderr
    assert done.stderr.count("expo: ") == 1
    assert not (root / "out").exists()


def test_latents_that_are_equal_have_no_distance():
    same = torch.ones(4, 2, 2)
    assert relative_distance(same, [same, same]) is None
    assert relative_distance(same, [same]) is None
