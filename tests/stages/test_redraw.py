"""`expo rollout --redraw`: many cheap drafts, of which the best and the worst are drawn in full."""

from pathlib import Path

import pytest

from expo_cli.contracts import jsonl
from expo_cli.contracts.records import Sample
from expo_cli.contracts.rollouts import open_rollout, scores_by_sample
from expo_cli.contracts.tensors import read_tensors

REWARD = ("--reward", "pickscore:model=embedded:emoji-pickscore")
FULL = ("--num-inference-steps", 4, "--batch-size", 1)


def run(expo, *arguments: object):
    done = expo(*arguments, "--quiet")
    assert done.returncode == 0, done.stderr
    return done


def rollout(expo, prompts: Path, out: Path, *options: object):
    arguments = ("--policy", "embedded:emoji-sd", "--out", out, "--dtype", "fp32", *options)
    return expo("rollout", prompts, *arguments, "--quiet")


@pytest.fixture(scope="module")
def drafts(tmp_path_factory, expo) -> Path:
    """Six drafts of each of three prompts, scored; the prompts lie beside the folder."""
    folder = tmp_path_factory.mktemp("redraw")
    run(
        *(expo, "prep-prompts", "embedded:prompts/train.jsonl", "--sample", 3),
        *("--out", folder / "prompts.jsonl"),
    )
    options = ("--num-images-per-prompt", 6, "--num-inference-steps", 1, "--part-size", 2)
    done = rollout(expo, folder / "prompts.jsonl", folder / "drafts", *options)
    assert done.returncode == 0, done.stderr
    run(expo, "score", folder / "drafts", *REWARD)
    return folder / "drafts"


def redraw(expo, drafts: Path, out: Path, *options: object):
    settings = ("--redraw", drafts, "--redraw-reward", "pickscore", "--part-size", 2)
    return rollout(expo, drafts.with_name("prompts.jsonl"), out, *settings, *options)


def read(folder: Path) -> tuple[dict[str, Sample], dict]:
    """Samples by id, and their latents."""
    samples, latents = {}, {}
    for path in sorted(folder.glob("part-?????.jsonl")):
        samples |= {sample.sample_id: sample for sample in jsonl.read(path, Sample)}
        latents |= read_tensors(path.with_suffix(".safetensors"))
    return samples, latents


def scores_of(drafts: Path) -> dict[str, dict[int, float]]:
    """prompt_id -> index -> score."""
    opened, found = open_rollout(drafts), {}
    for part in range(opened.num_parts):
        samples = opened.samples(part)
        scores = scores_by_sample(drafts / "scores", part, "pickscore", samples)
        for sample in samples:
            found.setdefault(sample.prompt_id, {})[sample.index] = scores[sample.sample_id]
    return found


def test_the_best_and_the_worst_are_drawn_as_in_a_full_rollout(drafts, tmp_path, expo):
    done = redraw(expo, drafts, tmp_path / "redrawn", "--num-images-per-prompt", 2, *FULL)
    assert done.returncode == 0, done.stderr
    whole = ("--num-images-per-prompt", 6, "--part-size", 2, *FULL)
    prompts = drafts.with_name("prompts.jsonl")
    assert rollout(expo, prompts, tmp_path / "whole", *whole).returncode == 0
    samples, latents = read(tmp_path / "redrawn")
    all_samples, all_latents = read(tmp_path / "whole")
    assert samples == {name: all_samples[name] for name in samples}
    assert all(latents[name].equal(all_latents[name]) for name in samples)
    for prompt_id, scores in scores_of(drafts).items():
        chosen = {s.index for s in samples.values() if s.prompt_id == prompt_id}
        assert chosen == {max(scores, key=scores.get), min(scores, key=scores.get)}
    # What follows takes it as any rollout.
    run(expo, "score", tmp_path / "redrawn", *REWARD)
    run(expo, "make-pairs", tmp_path / "redrawn", "--out", tmp_path / "pairs.jsonl")
    assert len((tmp_path / "pairs.jsonl").read_text().splitlines()) == 3
    assert expo("status", tmp_path / "redrawn").returncode == 0


def test_shards_and_a_rerun_draw_the_same(drafts, tmp_path, expo):
    options = ("--num-images-per-prompt", 4, *FULL)
    assert redraw(expo, drafts, tmp_path / "whole", *options).returncode == 0
    for shard in ("1/2", "0/2", "0/2"):
        done = redraw(expo, drafts, tmp_path / "parts", *options, "--shard", shard)
        assert done.returncode == 0, done.stderr
    assert read(tmp_path / "whole")[0] == read(tmp_path / "parts")[0]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--num-images-per-prompt", 3), "--redraw needs an even --num-images-per-prompt"),
        (("--num-images-per-prompt", 8), "has 6 drafts with a score by pickscore, fewer than"),
        (("--num-images-per-prompt", 2, "--seed", 1), "has other noise; give the drafts' --seed"),
        (("--num-images-per-prompt", 2, "--height", 32), "the drafts are 64x64, not 64x32"),
        (
            ("--num-images-per-prompt", 2, "--redraw-reward", "hps"),
            "has no scores by 'hps'; known: pickscore",
        ),
    ],
)
def test_what_cannot_be_drawn_again_is_refused(options, problem, drafts, tmp_path, expo):
    done = redraw(expo, drafts, tmp_path / "out", *options, *FULL)
    assert done.returncode in (1, 2)
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
