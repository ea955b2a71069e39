"""What the reference said is asked once: the same training without it, and never a stale answer."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from expo_cli.config import RunOptions, TrainConfig
from expo_cli.contracts.tensors import read_tensors, write_tensors
from expo_cli.core.objectives import DiffusionDPO, DiffusionKTO
from expo_cli.errors import ContractError, UsageError
from expo_cli.models.loading import load_model
from expo_cli.stages.status import read_status
from expo_cli.stages.train import fill_reference, trainer
from expo_cli.stages.train.image_evidence import ImageEvidence
from expo_cli.stages.train.pair_evidence import PairEvidence
from expo_cli.stages.train.plan import train_policy
from expo_cli.stages.train.records import read_images, read_pairs
from expo_cli.stages.train.reference import Reference
from tests.conftest import EXPO
from tests.latent_pairs import write_latent_pairs

OPTIONS = RunOptions(quiet=True)
SMALL = {
    "max_train_steps": 4,
    "train_batch_size": 2,
    "mixed_precision": "fp32",
    "logging_steps": 1,
    "checkpointing_steps": 2,
    "warmup_ratio": 0.0,
    "learning_rate": 1e-4,
}
PART = "rollout/part-00000.safetensors"


@pytest.fixture
def pairs(tmp_path) -> Path:
    return write_latent_pairs(tmp_path)


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def train(pairs, out, policy, shard=None, **settings):
    config = TrainConfig(init_from=str(policy), **SMALL | settings)
    return train_policy([pairs], out, config, OPTIONS, shard_text=shard)


def fill(pairs, policy, cache, shard="0/1", **settings):
    """What an inference-only job does; returns how many values it computed."""
    out = pairs.parent / "never"
    result = train(pairs, out, policy, shard=shard, reference_cache=str(cache), **settings)
    assert (result.path, out.exists()) == (cache, False)
    return result.values_computed


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


CASES = [
    {"objective": "dpo", "caption_dropout": 0.3},
    {"objective": "dpo", "use_lora": True, "lora_rank": 4},
    {"objective": "expo:alpha=0.1"},
    {"objective": "kto:reference_point=mismatched,desirable_fraction=0.5"},
]


@pytest.mark.parametrize("settings", CASES, ids=lambda settings: settings["objective"])
def test_with_a_cache_training_is_the_same_and_needs_no_reference(
    settings, pairs, tiny_sd, tmp_path, cache, no_reference
):
    train(pairs, tmp_path / "plain", tiny_sd, **settings)
    train(pairs, tmp_path / "first", tiny_sd, reference_cache=str(cache), **settings)
    no_reference()
    train(pairs, tmp_path / "second", tiny_sd, reference_cache=str(cache), **settings)
    assert contents(tmp_path / "plain") == contents(tmp_path / "first")
    assert contents(tmp_path / "plain") == contents(tmp_path / "second")


@pytest.mark.parametrize("settings", CASES, ids=lambda settings: settings["objective"])
def test_what_shards_compute_is_what_training_asks(
    settings, pairs, tiny_sd, tmp_path, cache, no_reference, monkeypatch
):
    monkeypatch.setattr(fill_reference, "PART_VISITS", 2)
    train(pairs, tmp_path / "plain", tiny_sd, **settings)
    assert all(fill(pairs, tiny_sd, cache, shard, **settings) > 0 for shard in ("0/2", "1/2"))
    assert fill(pairs, tiny_sd, cache, **settings) == 0
    no_reference()
    train(pairs, tmp_path / "out", tiny_sd, reference_cache=str(cache), **settings)
    assert contents(tmp_path / "plain") == contents(tmp_path / "out")


def test_with_few_draws_the_reference_is_asked_once_in_all_epochs(
    pairs, tiny_sd, tmp_path, cache, no_reference
):
    """Six pairs of one draw, visited twice: 12 errors for 24. Where a batch mixes pairs anew, errors
    from the cache are those of another batch's forward pass, equal up to rounding."""
    settings = {"noise_draws": 1, "max_train_steps": 6}
    train(pairs, tmp_path / "plain", tiny_sd, **settings)
    assert fill(pairs, tiny_sd, cache, **settings) == 12
    no_reference()
    train(pairs, tmp_path / "out", tiny_sd, reference_cache=str(cache), **settings)
    plain, cached = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("plain", "out")
    )
    assert len(plain) == 6
    for line, other in zip(plain, cached, strict=True):
        assert other == pytest.approx(line, rel=1e-3, abs=1e-5)


def test_later_runs_add_what_they_lack(pairs, tiny_sd, tmp_path, cache):
    assert fill(pairs, tiny_sd, cache, max_train_steps=1) == 4
    assert fill(pairs, tiny_sd, cache, max_train_steps=3) == 8
    # Explore and main samples are under noise of their own; the last pair has none.
    assert fill(pairs, tiny_sd, cache, max_train_steps=3, objective="expo:alpha=0.1") == 10
    # The second epoch's draw is another one, unless there is but one.
    assert fill(pairs, tiny_sd, cache, max_train_steps=6, noise_draws=1) == 0
    assert fill(pairs, tiny_sd, cache, max_train_steps=6, noise_draws=2) == 12
    assert fill(pairs, tiny_sd, cache, max_train_steps=6) == 0


@pytest.mark.parametrize("num_draws", [1, 2])
def test_noise_and_dropped_captions_come_again(num_draws, pairs, tiny_sd):
    model = load_model(str(tiny_sd), torch.device("cpu"), torch.float32)
    config = TrainConfig(init_from="", noise_draws=num_draws, caption_dropout=0.5)
    data = PairEvidence(read_pairs([pairs], None), DiffusionDPO(), model, None, config)
    found = {}
    for start in range(0, 18, 6):
        chosen = data.order.visits(start, 6)
        _, rows = data.rows(chosen)
        found[start] = {
            visit.item: (row.noise.tolist(), row.timestep, row.prompt)
            for visit, row in zip(chosen, rows[: len(chosen)], strict=True)
        }
    assert (found[0] == found[6]) == (num_draws == 1)
    assert found[6 * num_draws] == found[0]


@pytest.mark.parametrize("fraction", [0.8, 0.3])
def test_distinct_visits_of_images_are_enough(fraction, pairs, tiny_sd):
    model = load_model(str(tiny_sd), torch.device("cpu"), torch.float32)
    config = TrainConfig(init_from="", noise_draws=2)
    objective = DiffusionKTO(desirable_fraction=fraction)
    images = read_images([pairs], None)
    data = ImageEvidence(images, objective, model, None, config)
    _, first = data.rows(0, ImageEvidence.distinct_visits(images, objective, config))
    _, many = data.rows(0, 200)
    assert {row.key() for row in first} == {row.key() for row in many}
    assert len({row.key() for row in many}) == 24


def test_two_processes_fill_one_cache(pairs, tiny_sd, tmp_path, cache):
    command = [EXPO, "train", pairs, "--init-from", tiny_sd, "--out", tmp_path / "out"]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    command += ["--train-batch-size=256", "--max-train-steps=2", "--reference-cache", cache]
    shards = [
        subprocess.Popen([*map(str, command), "--shard", shard], stdout=subprocess.PIPE, text=True)
        for shard in ("0/2", "1/2")
    ]
    assert [shard.communicate()[0] for shard in shards] == [f"{cache}\n"] * 2
    assert [shard.returncode for shard in shards] == [0, 0]
    assert len(list(cache.glob("values-*.safetensors"))) == 2
    [output] = read_status([cache]).outputs
    assert (output.made_by, output.complete, output.done) == ("reference-cache", True, 2)
    assert fill(pairs, tiny_sd, cache, train_batch_size=256, max_train_steps=2) == 0


def test_an_interrupted_job_goes_on(pairs, tiny_sd, tmp_path, cache, monkeypatch):
    monkeypatch.setattr(fill_reference, "PART_VISITS", 2)
    compute, calls = Reference.compute, []

    def stop_in_the_third(reference, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compute(reference, *arguments)

    monkeypatch.setattr(Reference, "compute", stop_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        fill(pairs, tiny_sd, cache)
    assert len(list(cache.glob("values-*"))) == 2
    assert fill(pairs, tiny_sd, cache) == 8


def test_training_that_is_stopped_keeps_what_it_asked(pairs, tiny_sd, tmp_path, cache, monkeypatch):
    settings = {"reference_cache": str(cache), "noise_draws": 1, "max_train_steps": 6}
    train(pairs, tmp_path / "whole", tiny_sd, **settings | {"reference_cache": str(cache) + "2"})
    step = trainer.Trainer.step

    def stop_in_the_fourth(trainer, number):
        if number == 3:
            raise KeyboardInterrupt
        step(trainer, number)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "step", stop_in_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            train(pairs, tmp_path / "out", tiny_sd, **settings)
    assert len(list(cache.glob("values-*"))) == 1
    train(pairs, tmp_path / "out", tiny_sd, **settings)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def other_latents(pairs: Path) -> dict:
    """The same ids, as another run with the same seed and prompts would give its samples."""
    latents = read_tensors(pairs.parent / PART)
    write_tensors(pairs.parent / PART, {name: -tensor for name, tensor in latents.items()})
    return {}


def other_prompts(pairs: Path) -> dict:
    pairs.write_text(pairs.read_text().replace('"prompt":"prompt', '"prompt":"a picture of'))
    return {}


@pytest.mark.parametrize(
    ("change", "num_computed"),
    [
        (other_latents, 16),
        (other_prompts, 16),
        (lambda pairs: {"seed": 1}, 16),
        (lambda pairs: {"caption_dropout": 1.0}, 16),
        (lambda pairs: {"init_from": pairs.parent / "policy"}, 0),
    ],
)
def test_an_answer_is_used_for_its_own_question_only(
    change, num_computed, pairs, tiny_sd, tmp_path, cache
):
    fill(pairs, tiny_sd, cache)
    shutil.copytree(tiny_sd, tmp_path / "policy")
    settings = {"init_from": tiny_sd} | change(pairs)
    policy = settings.pop("init_from")
    train(pairs, tmp_path / "plain", policy, ref=str(tiny_sd), **settings)
    settings |= {"ref": str(tiny_sd)}
    assert fill(pairs, policy, cache, **settings) == num_computed
    train(pairs, tmp_path / "out", policy, reference_cache=str(cache), **settings)
    assert contents(tmp_path / "plain") == contents(tmp_path / "out")


def test_a_cache_of_another_reference_or_precision_is_refused(
    pairs, tiny_sd, tiny_sd_other, tiny_sd_v, tmp_path, cache
):
    fill(pairs, tiny_sd, cache, max_train_steps=1)
    before = contents(cache)
    for settings, message in [
        ({"ref": str(tiny_sd_other)}, "begun with the sha256 of the reference's inputs='.*', not"),
        ({"mixed_precision": "bf16"}, "begun with precision='float32', not 'bfloat16'; choose an"),
        ({"objective": "kto"}, "begun with learns_from='pairs', not 'images'"),
    ]:
        policy = settings.get("ref", tiny_sd)
        with pytest.raises(ContractError, match=message):
            train(pairs, tmp_path / "out", policy, reference_cache=str(cache), **settings)
    with pytest.raises(UsageError, match="needs a --ref with the text encoder"):
        train(
            *(pairs, tmp_path / "out", tiny_sd),
            ref=str(tiny_sd_other),
            reference_cache=str(tmp_path / "new"),
        )
    assert contents(cache) == before
    (cache / "run.json").unlink()
    with pytest.raises(ContractError, match="has no run.json that describes it"):
        fill(pairs, tiny_sd, cache)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def rename(path: Path) -> None:
    path.rename(path.with_name(f"values-{64 * '0'}.safetensors"))


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        rename,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: write_tensors(path, {"keys": torch.zeros(3)}),
    ],
)
def test_a_damaged_file_ends_in_what_to_do(damage, pairs, tiny_sd, cache):
    settings = {"max_train_steps": 1}
    fill(pairs, tiny_sd, cache, **settings)
    [path] = cache.glob("values-*")
    damage(path)
    [path] = cache.glob("values-*")
    with pytest.raises(ContractError, match="remove it, and its values are computed again") as e:
        fill(pairs, tiny_sd, cache, **settings)
    assert str(path) in str(e.value)
    assert "\n" not in str(e.value)
    path.unlink()
    assert fill(pairs, tiny_sd, cache, **settings) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shard", "0/2"], "--shard needs a --reference-cache, which it fills"),
        (["--reference-cache", "c", "--objective", "sft"], "sft has no reference"),
        (["--reference-cache", "c", "--shard", "0/1", "--overwrite"], "contradicts --shard"),
        (["--noise-draws", "0"], "--noise-draws must be positive"),
    ],
)
def test_contradictions_are_refused(flags, message, expo, pairs, tiny_sd, tmp_path):
    done = expo("train", pairs, "--init-from", tiny_sd, "--out", tmp_path / "out", *flags)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr
    assert not (tmp_path / "out").exists()
