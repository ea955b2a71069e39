import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from expo_cli.config import MakePairsConfig, RunOptions
from expo_cli.contracts import jsonl
from expo_cli.contracts.files import inside
from expo_cli.contracts.provenance import Run, read_run, write_run
from expo_cli.contracts.records import Pair, Sample
from expo_cli.contracts.shards import part_path
from expo_cli.errors import ContractError, UsageError
from expo_cli.stages.make_pairs.run import MakePairsResult, pair_rollouts
from tests.two_agents import (
    CHECKS,
    EXPLORE,
    MAIN,
    main_and_explore,
    rescore,
    write_rollout,
    write_scores,
)


@pytest.fixture
def rollouts(tmp_path) -> list[Path]:
    return main_and_explore(tmp_path)


def make(folders, out, *, overwrite=False, dry_run=False, **config) -> MakePairsResult:
    options = RunOptions(quiet=True, overwrite=overwrite, dry_run=dry_run)
    return pair_rollouts(folders, out, MakePairsConfig(**config), options)


def read_pairs(path: Path) -> list[Pair]:
    return list(jsonl.read(path, Pair))


def ends(pair: Pair) -> tuple[str, str]:
    return pair.winner.sample_id, pair.loser.sample_id


def test_best_against_worst_of_both_agents(rollouts, tmp_path):
    out = tmp_path / "pairs.jsonl"
    result = make(rollouts, out)
    cat, dog = read_pairs(out)
    assert ends(cat) == ("cat-explore-1-1", "cat-main-1-0")
    assert ends(dog) == ("dog-main-1-1", "dog-main-1-0")
    assert (cat.prompt, cat.reward, cat.source, cat.iteration) == ("a cat", "pick", "online", 1)
    assert (cat.winner_score, cat.loser_score, cat.margin) == (4, 1, 3)
    assert (cat.explore.score, cat.main.score) in [(e, m) for e in (3, 4) for m in (1, 2)]
    assert result.counts["dropped"] == {"ties": 1}
    assert result.counts["mean_margin"] == (3 + 7) / 2
    assert result.counts["explore_share_of_winners"] == 0.5
    assert read_run(tmp_path, "pairs.jsonl.run.json").counts == result.counts


def test_references_lead_to_the_latents_from_the_folder_of_the_pairs(rollouts, tmp_path):
    for out in (tmp_path / "it1/pairs.jsonl", tmp_path / "pairs.jsonl"):
        make(rollouts, out)
        for pair in read_pairs(out):
            for reference in (pair.winner, pair.loser, pair.explore, pair.main):
                latents = inside(out.parent, reference.part)
                assert latents.is_file()
                ids = [s.sample_id for s in jsonl.read(latents.with_suffix(".jsonl"), Sample)]
                assert reference.sample_id in ids


def test_the_same_pairs_whatever_the_parts_and_the_order_of_the_prompts(rollouts, tmp_path):
    make(rollouts, tmp_path / "pairs.jsonl")
    shuffled = {prompt: EXPLORE[prompt] for prompt in ("owl", "dog", "cat")}
    other = write_rollout(tmp_path / "other/explore", "explore", shuffled, part_size=1)
    make([rollouts[0], other], tmp_path / "other.jsonl")

    def without_paths(name: str) -> str:
        text = (tmp_path / name).read_text()
        for place in ("it1", "other", "part-00000", "part-00001", "part-00002"):
            text = text.replace(place, "")
        return text

    assert without_paths("pairs.jsonl") == without_paths("other.jsonl")


def test_running_again_does_nothing_and_anew_gives_the_same_bytes(rollouts, tmp_path):
    out = tmp_path / "pairs.jsonl"
    first = make(rollouts, out)
    content, written = out.read_bytes(), out.stat().st_mtime_ns
    assert make(rollouts, out) == first
    assert out.stat().st_mtime_ns == written
    make(rollouts, out, overwrite=True)
    assert out.read_bytes() == content
    # Killed between the pairs and their finished provenance: made again.
    beside = read_run(tmp_path, "pairs.jsonl.run.json")
    write_run(tmp_path, replace(beside, sha256=None, lines=None), "pairs.jsonl.run.json")
    assert make(rollouts, out) == first
    assert read_run(tmp_path, "pairs.jsonl.run.json").lines == 2


def test_an_output_of_other_settings_or_other_scores_is_not_replaced(rollouts, tmp_path):
    out = tmp_path / "pairs.jsonl"
    make(rollouts, out)
    with pytest.raises(ContractError, match=r"was begun with min_margin=0.0, not 1.0"):
        make(rollouts, out, min_margin=1.0)
    rescore(rollouts[0], "pick", {prompt: [0.0, 1.0] for prompt in MAIN})
    with pytest.raises(ContractError, match="--overwrite"):
        make(rollouts, out)


def test_without_label_noise_no_line_has_a_field_of_it(rollouts, tmp_path):
    make(rollouts, tmp_path / "pairs.jsonl")
    make(rollouts, tmp_path / "sure.jsonl", label_agreement=1.0)
    assert (tmp_path / "sure.jsonl").read_bytes() == (tmp_path / "pairs.jsonl").read_bytes()
    assert b"flipped" not in (tmp_path / "pairs.jsonl").read_bytes()
    assert make(rollouts, tmp_path / "pairs.jsonl").plan["label_agreement"] is None


def test_label_noise_is_in_the_record_of_the_run(rollouts, tmp_path, capsys):
    # The margins are 3 and 7; at tau = 1 / ln 2 their labels agree with probability 8/9 and 128/129.
    agreement = (8 / 9 + 128 / 129) / 2
    options = RunOptions()
    config = MakePairsConfig(label_agreement=agreement)
    pair_rollouts(rollouts, tmp_path / "pairs.jsonl", config, options)
    run = read_run(tmp_path, "pairs.jsonl.run.json")
    assert run.plan["label_agreement"] == agreement
    assert run.counts["tau"] == pytest.approx(1 / math.log(2))
    assert run.counts["flipped_share"] == 0
    assert "label agreement 0.940568 by tau 1.443, 0.0% flipped" in capsys.readouterr().err


def test_all_labels_flipped(rollouts, tmp_path):
    result = make(rollouts, tmp_path / "pairs.jsonl", label_agreement=0)
    cat, dog = read_pairs(tmp_path / "pairs.jsonl")
    assert ends(cat) == ("cat-main-1-0", "cat-explore-1-1")
    assert (cat.winner_score, cat.loser_score, cat.margin, cat.flipped) == (1, 4, -3, True)
    assert result.counts["mean_margin"] == -(3 + 7) / 2
    assert result.counts["explore_share_of_losers"] == 0.5
    assert (result.counts["tau"], result.counts["flipped_share"]) == (None, 1)


def test_limit_takes_the_first_prompts(rollouts, tmp_path):
    make(rollouts, tmp_path / "pairs.jsonl", limit=1)
    assert [pair.prompt_id for pair in read_pairs(tmp_path / "pairs.jsonl")] == ["cat"]


def test_dry_run_writes_nothing(rollouts, tmp_path):
    result = make(rollouts, tmp_path / "pairs.jsonl", dry_run=True)
    assert result.plan["weights"] == {"pick": 1.0}
    assert [path.name for path in tmp_path.iterdir()] == ["it1"]


def test_broken_images_are_never_used(rollouts, tmp_path):
    path = part_path(rollouts[1], 0)
    samples = list(jsonl.read(path, Sample))
    # The best cat is NaN and has no score, the next best is black.
    samples[1] = replace(samples[1], checks=replace(CHECKS, nan=True))
    samples[0] = replace(samples[0], checks=replace(CHECKS, black=True))
    jsonl.write(path, samples)
    scored = [samples[0], *samples[2:]]
    write_scores(rollouts[1] / "scores", 0, "pick", scored, EXPLORE)
    result = make(rollouts, tmp_path / "pairs.jsonl")
    cat = read_pairs(tmp_path / "pairs.jsonl")[0]
    assert ends(cat) == ("cat-main-1-1", "cat-main-1-0")
    assert cat.explore is None
    assert result.counts["dropped"]["samples_nan_or_black"] == 2


def test_one_rollout_alone_has_no_references(rollouts, tmp_path):
    make(rollouts[:1], tmp_path / "pairs.jsonl")
    assert all(pair.explore is pair.main is None for pair in read_pairs(tmp_path / "pairs.jsonl"))


def test_scores_elsewhere(rollouts, tmp_path):
    for rollout in rollouts:
        (rollout / "scores").rename(tmp_path / f"scores-{rollout.name}")
    places = tuple(str(tmp_path / f"scores-{rollout.name}") for rollout in rollouts)
    make(rollouts, tmp_path / "pairs.jsonl", scores=places)
    assert len(read_pairs(tmp_path / "pairs.jsonl")) == 2
    with pytest.raises(ContractError, match="scores of another rollout"):
        make(rollouts, tmp_path / "swapped.jsonl", scores=places[::-1])
    with pytest.raises(UsageError, match="1 times for 2 rollouts"):
        make(rollouts, tmp_path / "pairs.jsonl", scores=places[:1])


def test_a_label_that_stands_for_another_reward(rollouts, tmp_path):
    other = Run(command="score", plan={"spec": "pick:model=other"})
    write_run(rollouts[1] / "scores", other, "pick.run.json")
    with pytest.raises(ContractError, match="pick is not the same reward"):
        make(rollouts, tmp_path / "pairs.jsonl")


class TestSeveralRewards:
    """hps agrees with pick on cats and is turned round on dogs."""

    @pytest.fixture(autouse=True)
    def _second_reward(self, rollouts):
        for rollout, scores in zip(rollouts, (MAIN, EXPLORE), strict=True):
            hps = scores | {"dog": [-score for score in scores["dog"]]}
            rescore(rollout, "hps", hps)

    def test_opposed_rewards_tie_and_are_dropped(self, rollouts, tmp_path):
        result = make(rollouts, tmp_path / "pairs.jsonl", reward=("pick", "hps"))
        [cat] = read_pairs(tmp_path / "pairs.jsonl")
        assert ends(cat) == ("cat-explore-1-1", "cat-main-1-0")
        assert cat.reward == "pick+hps"
        # z-scores of 1, 2, 3, 4 are +-1.5 / sqrt(1.25) at the ends, twice.
        assert cat.margin == pytest.approx(2 * 3 / 1.25**0.5)
        assert result.counts["dropped"] == {"ties": 2}

    def test_weights_decide(self, rollouts, tmp_path):
        make(rollouts, tmp_path / "pairs.jsonl", reward=("pick", "hps=2"))
        dog = read_pairs(tmp_path / "pairs.jsonl")[1]
        assert ends(dog) == ("dog-main-1-0", "dog-main-1-1")

    def test_pareto_drops_what_one_reward_objects_to(self, rollouts, tmp_path):
        result = make(
            rollouts, tmp_path / "pairs.jsonl", reward=("pick", "hps=2"), combine="pareto"
        )
        assert [pair.prompt_id for pair in read_pairs(tmp_path / "pairs.jsonl")] == ["cat"]
        assert result.counts["dropped"] == {"pairs_not_unanimous": 1, "ties": 1}

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ((), "several rewards; choose with --reward: hps, pick"),
            (("pik",), "did you mean 'pick'"),
            (("pick", "pick=2"), "given twice"),
            (("pick=2",), "needs more than one"),
            (("pick", "hps=-1"), "must be a positive number"),
            (("pick", "hps=much"), "must be a positive number"),
        ],
    )
    def test_flags_that_do_not_fit(self, rollouts, tmp_path, flags, message):
        with pytest.raises(UsageError, match=message):
            make(rollouts, tmp_path / "pairs.jsonl", reward=flags)


def test_a_rollout_under_two_names(rollouts, tmp_path):
    copy = shutil.copytree(rollouts[1], tmp_path / "it1/copy")
    with pytest.raises(ContractError, match="cat-explore-1-0 is in it1/explore/part-00000.safe"):
        make([*rollouts, copy], tmp_path / "pairs.jsonl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "a lion"}, r"explore/part-00000.jsonl:1: prompt_id cat had another prompt"),
        ({"iteration": 2}, r"explore/part-00000.jsonl:1: iteration 2, but 1"),
        ({"sample_id": "unknown"}, r"part-00000.pick.jsonl:\d+: .* scores of another rollout"),
    ],
)
def test_records_that_contradict_each_other(rollouts, tmp_path, change, message):
    path = part_path(rollouts[1], 0)
    first, *others = jsonl.read(path, Sample)
    jsonl.write(path, [replace(first, **change), *others])
    with pytest.raises(ContractError, match=message):
        make(rollouts, tmp_path / "pairs.jsonl")
