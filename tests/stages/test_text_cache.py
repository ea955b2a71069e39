"""T5 is asked once for each prompt, before the network is there, and nothing else changes."""

import gc
import json
from pathlib import Path

import pytest
import torch
from transformers import T5EncoderModel

from expo_cli.config import RolloutConfig, RunOptions, TrainConfig
from expo_cli.contracts.tensors import write_tensors
from expo_cli.errors import ContractError, ExpoError, UsageError
from expo_cli.models.families import has_t5
from expo_cli.models.loading import load_model
from expo_cli.stages.common import text_cache
from expo_cli.stages.common.progress import Notes
from expo_cli.stages.common.text_cache import TextCache, ask_ahead
from expo_cli.stages.rollout import run as drawing
from expo_cli.stages.rollout.plan import roll_out
from expo_cli.stages.train import fill_reference, trainer
from expo_cli.stages.train.plan import build_objective, train_policy
from expo_cli.stages.train.records import EVIDENCE
from tests.checkpoints.flux import flux
from tests.checkpoints.sd3 import stable_diffusion_3
from tests.latent_pairs import write_latent_pairs

CPU = torch.device("cpu")
OPTIONS = RunOptions(quiet=True)
NOTES = Notes(OPTIONS)


@pytest.fixture(scope="module")
def flux_model(tmp_path_factory) -> Path:
    return flux(tmp_path_factory.mktemp("tiny") / "flux")


@pytest.fixture(scope="module")
def sd3_model(tmp_path_factory) -> Path:
    return stable_diffusion_3(tmp_path_factory.mktemp("tiny") / "sd3")


@pytest.fixture(params=["flux", "sd3"])
def model(request) -> Path:
    return request.getfixturevalue(f"{request.param}_model")


@pytest.fixture
def pairs(tmp_path) -> Path:
    return write_latent_pairs(tmp_path, channels=16)


@pytest.fixture
def prompts(tmp_path) -> Path:
    path = tmp_path / "prompts.jsonl"
    texts = ["a red cat", "two dogs", "a house by the sea"]
    path.write_text(
        "".join(f'{{"prompt_id": "p{n}", "prompt": "{text}"}}\n' for n, text in enumerate(texts))
    )
    return path


def train(pairs, out, model, shard=None, **settings):
    small = {
        "max_train_steps": 4,
        "train_batch_size": 2,
        "mixed_precision": "fp32",
        "learning_rate": 1e-4,
        "warmup_ratio": 0.0,
        "max_error_ratio": 100.0,
    }
    config = TrainConfig(init_from=str(model), **small | settings)
    return train_policy([pairs], out, config, OPTIONS, shard_text=shard)


def draw(prompts, out, model, **settings):
    small = {
        "num_inference_steps": 2,
        "num_images_per_prompt": 2,
        "height": 64,
        "width": 64,
        "part_size": 2,
        "dtype": "fp32",
    }
    roll_out(prompts, out, RolloutConfig(policy=str(model), **small | settings), OPTIONS, "0/1")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("run.json")
    }


def forbid(monkeypatch, module, name: str) -> None:
    def refuse(*arguments):
        raise AssertionError(f"{name} was called")

    monkeypatch.setattr(module, name, refuse)


def t5_is_in_memory() -> bool:
    gc.collect()
    return any(type(thing) is T5EncoderModel for thing in gc.get_objects())


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "dpo", "caption_dropout": 0.5},
        {"objective": "expo:alpha=0.1", "use_lora": True, "lora_rank": 2},
        {"objective": "kto:reference_point=mismatched,desirable_fraction=0.5"},
    ],
    ids=lambda settings: settings["objective"],
)
def test_training_is_the_same_with_a_folder_of_its_own_and_later_needs_no_t5(
    settings, model, pairs, tmp_path, monkeypatch
):
    cache = str(tmp_path / "cache")
    train(pairs, tmp_path / "plain", model, **settings)
    assert not (tmp_path / "plain" / "state").exists()
    train(pairs, tmp_path / "first", model, text_cache=cache, **settings)
    forbid(monkeypatch, text_cache, "load_text_encoder")
    train(pairs, tmp_path / "second", model, text_cache=cache, **settings)
    assert contents(tmp_path / "plain") == contents(tmp_path / "first")
    assert contents(tmp_path / "plain") == contents(tmp_path / "second")


def test_a_rollout_is_the_same_and_later_needs_no_t5(model, prompts, tmp_path, monkeypatch):
    cache = str(tmp_path / "cache")
    draw(prompts, tmp_path / "plain", model)
    draw(prompts, tmp_path / "first", model, text_cache=cache)
    forbid(monkeypatch, text_cache, "load_text_encoder")
    draw(prompts, tmp_path / "second", model, text_cache=cache, guidance_scale=4.0)
    draw(prompts, tmp_path / "third", model, text_cache=cache)
    assert contents(tmp_path / "plain") == contents(tmp_path / "first")
    assert contents(tmp_path / "plain") == contents(tmp_path / "third")
    assert contents(tmp_path / "plain") != contents(tmp_path / "second")


def test_t5_and_the_network_are_never_in_memory_at_once(
    flux_model, prompts, pairs, tmp_path, monkeypatch
):
    seen = []

    def note(module, name):
        load = getattr(module, name)

        def loading(*arguments):
            seen.append(t5_is_in_memory())
            return load(*arguments)

        monkeypatch.setattr(module, name, loading)

    note(drawing, "load_model")
    note(trainer, "load_policy")
    note(fill_reference, "load_model")
    cache = str(tmp_path / "cache")
    draw(prompts, tmp_path / "drawn", flux_model, text_cache=cache)
    settings = {"text_cache": cache, "reference_cache": str(tmp_path / "reference")}
    train(pairs, tmp_path / "never", flux_model, shard="0/1", **settings)
    train(pairs, tmp_path / "out", flux_model)
    assert seen == [False] * 3
    assert not t5_is_in_memory()
    # And the test can fail: without a folder of its own, a rollout keeps both.
    model = load_model(str(flux_model), CPU, torch.float32)
    model.encode(["a cat"])
    assert t5_is_in_memory()


@pytest.mark.parametrize("objective", ["dpo", "kto", "kto:desirable_fraction=0.2"])
@pytest.mark.parametrize("start", [0, 7])
def test_prompts_of_visits_are_those_that_are_asked(objective, start, pairs, flux_model):
    config = TrainConfig(init_from=str(flux_model), caption_dropout=0.5, text_cache="unused")
    objective = build_objective(objective)
    kind = objective.learns_from
    data_class = EVIDENCE[kind].stream
    records = EVIDENCE[kind].read([pairs], None)
    policy = load_model(str(flux_model), CPU, torch.float32)
    data = data_class(records, objective, policy, None, config)
    rows = data.rows(data.order.visits(start, 5)) if kind == "pairs" else data.rows(start, 5)
    asked = {row.prompt for row in rows[1]}
    said = set(data_class.prompts(records, objective, config, start, 5))
    assert said >= asked
    assert said - asked <= {"", *(f"prompt {n}" for n in range(6))}


def test_only_what_will_be_visited_is_asked(flux_model, pairs, tmp_path):
    """One step of two pairs: two prompts of six."""
    cache = tmp_path / "cache"
    train(pairs, tmp_path / "out", flux_model, max_train_steps=1, text_cache=str(cache))
    assert len(list(cache.glob("*/*.safetensors"))) == 2


def test_a_stopped_rollout_may_go_on_without_its_cache(flux_model, prompts, tmp_path):
    """What it keeps of prompts is no setting of what is drawn."""
    out = tmp_path / "rollout"
    draw(prompts, out, flux_model, text_cache=str(tmp_path / "cache"))
    before = contents(out)
    (out / "part-00001.jsonl").unlink()
    draw(prompts, out, flux_model)
    assert contents(out) == before
    run = json.loads((out / "run.json").read_text())
    assert run["free"]["text_cache"] == str(tmp_path / "cache")


def test_a_cache_of_other_encoders_or_another_precision_is_refused(flux_model, sd3_model, tmp_path):
    cache = tmp_path / "cache"
    TextCache(cache, str(flux_model), CPU, torch.float32)
    with pytest.raises(ContractError, match="text encoders and tokenizers=.*another --text-cache"):
        TextCache(cache, str(sd3_model), CPU, torch.float32)
    with pytest.raises(ContractError, match="precision='float32', not 'bfloat16'"):
        TextCache(cache, str(flux_model), CPU, torch.bfloat16)


def test_clip_alone_has_no_cache(tiny_sd, sd3_model, tmp_path, prompts, pairs):
    without = stable_diffusion_3(tmp_path / "sd3", with_t5=False)
    assert [has_t5(folder) for folder in (tiny_sd, without, sd3_model)] == [False, False, True]
    for source in (tiny_sd, without):
        with pytest.raises(UsageError, match="--text-cache: .* has no T5, and CLIP needs no cache"):
            train(pairs, tmp_path / "out", source, text_cache=str(tmp_path / "cache"))
        with pytest.raises(UsageError, match="--text-cache: .* has no T5, and CLIP needs no cache"):
            draw(prompts, tmp_path / "out", source, text_cache=str(tmp_path / "cache"))
    assert not (tmp_path / "out").exists()


def test_damage_is_named(flux_model, tmp_path):
    cache = ask_ahead(tmp_path / "cache", str(flux_model), CPU, torch.float32, ["a cat"], NOTES)
    path = cache.path("a cat")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ContractError, match=f"{path}: damaged"):
        cache.encode(["a cat"])
    write_tensors(path, {"something": torch.zeros(1)})
    with pytest.raises(ContractError, match=f"{path}: is not the conditioning of a prompt"):
        cache.encode(["a cat"])
    path.unlink()
    with pytest.raises(ExpoError, match=f"{path}: cannot be read"):
        cache.encode(["a cat"])
