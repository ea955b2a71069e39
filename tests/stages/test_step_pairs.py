"""`expo make-pairs --pairing step-best-worst` on a rollout with step candidates."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from expo_cli.config import MakePairsConfig, PairImagesConfig, RunOptions
from expo_cli.contracts import jsonl
from expo_cli.contracts.files import inside
from expo_cli.contracts.provenance import read_run
from expo_cli.contracts.records import Sample, StepCandidates, StepPair
from expo_cli.contracts.rollouts import open_rollout, step_tensor, step_tensors_path, steps_path
from expo_cli.contracts.shards import part_path
from expo_cli.contracts.tensors import TensorFiles
from expo_cli.errors import ContractError, ExpoError, UsageError
from expo_cli.stages.make_pairs.run import MakePairsResult, make_pairs
from tests.two_agents import MAIN, write_rollout

ALL = "step-best-worst:min_confidence=0"


@pytest.fixture
def rollout(branched, tmp_path) -> Path:
    return Path(shutil.copytree(branched, tmp_path / "it1" / "rollout"))


def make(folder: Path, out: Path, pairing: str = ALL, **settings) -> MakePairsResult:
    config = MakePairsConfig(pairing=pairing, **settings)
    return make_pairs([folder], out, config, PairImagesConfig(), RunOptions(quiet=True), "0/1")


def step_pairs(path: Path) -> list[StepPair]:
    return list(jsonl.read(path, StepPair))


def steps(folder: Path) -> list[StepCandidates]:
    rollout = open_rollout(folder)
    return [step for part in range(rollout.num_parts) for step in rollout.steps(part)]


def rewrite_steps(folder: Path, **changes) -> None:
    """Change the second step of part 0."""
    first, second, *others = jsonl.read(steps_path(folder, 0), StepCandidates)
    jsonl.write(steps_path(folder, 0), [first, replace(second, **changes), *others])


def test_each_step_becomes_a_pair_with_its_tensors(rollout, tmp_path):
    for out in (tmp_path / "it1/step-pairs.jsonl", tmp_path / "step-pairs.jsonl"):
        result = make(rollout, out)
        files = TensorFiles()
        pairs = step_pairs(out)
        for pair, step in zip(pairs, steps(rollout), strict=True):
            for name in (
                *("step_id", "prompt_id", "prompt", "negative_prompt", "iteration"),
                *("timestep", "previous_timestep", "guidance_scale", "eta", "reward"),
            ):
                assert getattr(pair, name) == getattr(step, name)
            assert (pair.winner_score, pair.loser_score) == (max(step.scores), min(step.scores))
            # The difference of the softmax over the two.
            likelier = 1 / (1 + math.exp(pair.loser_score - pair.winner_score))
            assert pair.confidence == pytest.approx(2 * likelier - 1)
            for name in ("x_t", "winner", "loser"):
                place = inside(out.parent, pair.part)
                assert files.get(place, step_tensor(pair.step_id, name)).shape == (4, 8, 8)
        assert result.counts["num_steps"] == result.counts["num_pairs"] == 18
        mean = sum(pair.confidence for pair in pairs) / 18
        assert result.counts["mean_confidence"] == pytest.approx(mean)
        assert read_run(out.parent, "step-pairs.jsonl.run.json").counts == result.counts


def test_pairs_that_the_reward_is_not_sure_of_are_dropped(rollout, tmp_path):
    make(rollout, tmp_path / "all.jsonl")
    everything = step_pairs(tmp_path / "all.jsonl")
    median = sorted(pair.confidence for pair in everything)[9]
    result = make(rollout, tmp_path / "sure.jsonl", f"step-best-worst:min_confidence={median}")
    sure = step_pairs(tmp_path / "sure.jsonl")
    assert sure == [pair for pair in everything if pair.confidence > median]
    assert result.counts["dropped"] == {"steps_below_min_confidence": 18 - len(sure)}


def test_when_no_pair_is_left_the_error_says_what_to_do(rollout, tmp_path):
    rewrite_steps(rollout, scores=(1.0, 1.0, 1.0))
    with pytest.raises(
        ExpoError,
        match="no pairs left from 2 steps: dropped 2 steps below min confidence; draw more",
    ):
        make(rollout, tmp_path / "out.jsonl", "step-best-worst:min_confidence=0.999999", limit=2)
    assert not (tmp_path / "out.jsonl").exists()


def test_equal_scores_make_no_pair(rollout, tmp_path):
    rewrite_steps(rollout, scores=(1.0, 1.0, 1.0))
    result = make(rollout, tmp_path / "out.jsonl")
    assert result.counts["dropped"] == {"steps_below_min_confidence": 1}


def test_limit_takes_the_first_steps(rollout, tmp_path):
    make(rollout, tmp_path / "out.jsonl", limit=5)
    assert [p.step_id for p in step_pairs(tmp_path / "out.jsonl")] == [
        step.step_id for step in steps(rollout)[:5]
    ]


def test_steps_to_broken_images_are_never_used(rollout, tmp_path):
    nan, black, *others = jsonl.read(part_path(rollout, 0), Sample)
    flagged = [
        replace(nan, checks=replace(nan.checks, nan=True)),
        replace(black, checks=replace(black.checks, black=True)),
    ]
    jsonl.write(part_path(rollout, 0), [*flagged, *others])
    result = make(rollout, tmp_path / "out.jsonl")
    assert result.counts["dropped"] == {"steps_to_nan_or_black_images": 6}
    made = {pair.step_id.rpartition("-")[0] for pair in step_pairs(tmp_path / "out.jsonl")}
    assert not made & {nan.sample_id, black.sample_id}


def test_two_rollouts_are_paired_one_after_the_other(rollout, tmp_path):
    other = Path(shutil.copytree(rollout, tmp_path / "it2" / "rollout"))
    config = MakePairsConfig(pairing=ALL)
    options = RunOptions(quiet=True)
    result = make_pairs(
        [rollout, other], tmp_path / "out.jsonl", config, PairImagesConfig(), options, "0/1"
    )
    assert result.counts["num_pairs"] == 36
    parts = [pair.part for pair in step_pairs(tmp_path / "out.jsonl")]
    assert parts[:1] == ["it1/rollout/part-00000.steps.safetensors"]
    assert parts[-1:] == ["it2/rollout/part-00001.steps.safetensors"]


def test_running_again_does_nothing_until_the_steps_are_others(rollout, tmp_path):
    out = tmp_path / "out.jsonl"
    first = make(rollout, out)
    written = out.stat().st_mtime_ns
    assert make(rollout, out) == first
    assert out.stat().st_mtime_ns == written
    rewrite_steps(rollout, scores=(1.0, 2.0, 3.0), winner=2, loser=0)
    with pytest.raises(ContractError, match="--overwrite"):
        make(rollout, out)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"reward": ("pick",)}, "--reward"),
        ({"scores": ("scores",)}, "--scores"),
        ({"combine": "rank"}, "--combine"),
        ({"source": "offline"}, "--source"),
        ({"min_margin": 0.1}, "--min-margin"),
        ({"label_agreement": 0.7}, "--label-agreement"),
    ],
)
def test_settings_of_sample_pairs_are_refused(settings, flag, rollout, tmp_path):
    with pytest.raises(UsageError, match=f"{flag} contradicts --pairing step-best-worst"):
        make(rollout, tmp_path / "out.jsonl", **settings)


def break_a_line(folder: Path) -> None:
    lines = steps_path(folder, 0).read_text().splitlines()
    lines[2] = lines[2][:40]
    steps_path(folder, 0).write_text("\n".join(lines))


def change_a_line(**changes):
    def change(folder: Path) -> None:
        lines = steps_path(folder, 0).read_text().splitlines()
        lines[1] = json.dumps(json.loads(lines[1]) | changes)
        steps_path(folder, 0).write_text("\n".join(lines))

    return change


def forget_a_sample(folder: Path) -> None:
    first, *others = jsonl.read(part_path(folder, 0), Sample)
    jsonl.write(part_path(folder, 0), others)


def without_candidates(folder: Path) -> None:
    shutil.rmtree(folder)
    write_rollout(folder, "main", MAIN)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (break_a_line, "rollout/part-00000.steps.jsonl:3: "),
        (change_a_line(scores=[1.0, math.nan, 0.0]), "part-00000.steps.jsonl:2: "),
        (change_a_line(scores=[1.0, None, 0.0]), "part-00000.steps.jsonl:2: Expected `float`"),
        (change_a_line(winner=3), "steps.jsonl:2: winner 3 is not one of the candidates"),
        (change_a_line(winner=0, loser=0), "steps.jsonl:2: "),
        (change_a_line(previous_timestep=999), "steps.jsonl:2: timestep 251 leads to 999"),
        (change_a_line(eta=0), "steps.jsonl:2: eta must be in (0, 1], got 0"),
        (change_a_line(step_id="../p0"), "steps.jsonl:2: step_id '../p0' may hold only"),
        (
            forget_a_sample,
            "part-00000.jsonl: 3 samples, 3 of them distinct, not the 4 of this part",
        ),
        (
            lambda folder: steps_path(folder, 1).unlink(),
            "1 of 2 parts are missing (1); run the same `expo rollout` again",
        ),
        (
            lambda folder: step_tensors_path(folder, 0).unlink(),
            "1 of 2 parts are missing (0); run the same `expo rollout` again",
        ),
        (
            lambda folder: part_path(folder, 1).unlink(),
            "1 of 2 parts are missing (1); run the same `expo rollout` again",
        ),
        (without_candidates, "has no step candidates; draw it with `expo rollout --num-step-cand"),
    ],
)
def test_one_line_for_every_error(spoil, message, rollout, tmp_path, expo):
    spoil(rollout)
    done = expo(
        *("make-pairs", "it1/rollout", "--out", "out.jsonl", "--pairing", ALL, "--quiet"),
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert message in done.stderr
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pairing", ALL, "--min-margin", "0.1"), "--min-margin contradicts --pairing step-best"),
        (("--pairing", "step-best-worst:min_confidence=1"), "min_confidence must be in [0, 1)"),
        (("--pairing", "step-best-wurst"), "did you mean 'step-best-worst'?"),
    ],
)
def test_bad_flags_are_one_line(arguments, message, rollout, tmp_path, expo):
    done = expo("make-pairs", "it1/rollout", "--out", "out.jsonl", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr


def test_the_command_says_what_was_dropped(rollout, tmp_path, expo):
    rewrite_steps(rollout, scores=(1.0, 1.0, 1.0))
    done = expo("make-pairs", "it1/rollout", "--out", "out.jsonl", "--pairing", ALL, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "out.jsonl\n")
    assert "17 pairs from 18 steps, dropped 1 steps below min confidence" in done.stderr
