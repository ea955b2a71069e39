"""Single files of JSON and TOML, damaged: what another parser reads, or one line."""

import copy
import itertools
import json
import math
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from expo_cli.commands.flags import _table
from expo_cli.contracts.provenance import Run, read_run
from expo_cli.contracts.sources import ADAPTER_CONFIG, base_source, model_folder
from expo_cli.contracts.states import DIGESTS, STATE_FILES, check_state, seal_state
from expo_cli.errors import ExpoError
from expo_cli.stages.prep_prompts.token_counts import TokenCounter, load_tokenizer
from tests.hostile.damage import (
    VALUES,
    at,
    bytes_changed,
    changed,
    every,
    fault,
    plain,
    read_or_fault,
    truncations,
    values_changed,
)

RUN = Run(
    command="rollout",
    plan={"num_parts": 2, "drawn_by": "x"},
    inputs={"policy": "0" * 64},
    arguments=["rollout", "a.jsonl"],
    versions={"python": "3"},
    seconds=1.5,
)
ADAPTER = {
    "peft_type": "LORA",
    "base_model_name_or_path": "embedded:emoji-sd",
    "r": 4,
    "lora_alpha": 4,
    "target_modules": ["to_q"],
}


def strict_json(data: bytes) -> object:
    """As Python's json, but for numbers that are none and halves of surrogate pairs."""

    def finite(number: str) -> float:
        if not math.isfinite(float(number)):
            raise ValueError(number)
        return float(number)

    value = json.loads(data.decode(), parse_constant=finite, parse_float=finite)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def test_run_json(tmp_path):
    path = tmp_path / "run.json"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        found = read_or_fault(lambda: read_run(tmp_path), at(path))
        if found is not None:
            read, record = strict_json(data), asdict(found)
            for name in record.keys() & read.keys():
                value = float(read[name]) if name == "seconds" and read[name] else read[name]
                assert record[name] == value

    good = json.dumps(asdict(RUN), indent=2).encode()
    every(itertools.chain(changed(good, 600), values_changed(asdict(RUN))), check)
    path.unlink()
    path.mkdir()
    assert read_or_fault(lambda: read_run(tmp_path), at(path)) is None


def test_a_saved_state_that_was_touched_is_never_whole(tmp_path):
    """Each of its files in turn, the digests too."""
    for name in STATE_FILES:
        (tmp_path / name).write_text(json.dumps({"step": 1, "name": name}))
    seal_state(tmp_path)
    check_state(tmp_path)
    for name in (*STATE_FILES, DIGESTS):
        path = tmp_path / name
        good = path.read_bytes()

        def check(data: bytes, path: Path = path, good: bytes = good) -> None:
            path.write_bytes(data)
            same = data == good if path.name != DIGESTS else False
            try:
                check_state(tmp_path)
            except ExpoError as error:
                fault(error, at(tmp_path).removesuffix(r"(:\d+)?: "))
                assert not same
            else:
                assert same or strict_json(data) == strict_json(good)

        every(changed(good, 100), check)
        path.write_bytes(good)
    (tmp_path / DIGESTS).unlink()
    (tmp_path / DIGESTS).mkdir()
    assert read_or_fault(lambda: check_state(tmp_path) or 1, at(tmp_path / DIGESTS)) is None


def test_adapter_config(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tmp_path / ADAPTER_CONFIG

    def check(data: bytes) -> None:
        path.write_bytes(data)
        source = read_or_fault(lambda: base_source(str(tmp_path)), at(path))
        if source is not None:
            assert strict_json(data)["base_model_name_or_path"] == source

    good = json.dumps(ADAPTER).encode()
    values = values_changed({name: ADAPTER[name] for name in ADAPTER if name != "peft_type"})
    every(itertools.chain(changed(good, 300), values), check)
    for name in ("x" * 100_000, "\0", "", "..", "/etc/passwd", "a\nb", "\x1b[2J"):
        path.write_text(json.dumps(ADAPTER | {"base_model_name_or_path": name}))
        found = read_or_fault(lambda: model_folder(base_source(str(tmp_path))), "")
        assert found is None or found.is_dir()


TOML = b"""[train]
learning_rate = 1e-5
use-lora = true
objective = "dpo"
[score]
reward = ["a"]
"""


def test_settings(tmp_path):
    path = tmp_path / "expo.toml"
    types = {"learning_rate": float, "use_lora": bool, "objective": str}

    def check(data: bytes) -> None:
        path.write_bytes(data)
        found = read_or_fault(lambda: _table(path, "train", types), at(path))
        if found is not None:
            table = tomllib.loads(plain(data).decode()).get("train", {})
            assert repr(found) == repr({k.replace("-", "_"): v for k, v in table.items()})
            assert all(type(found[name]) in (types[name], int) for name in found)

    deep = b"a" + b".a" * 2000
    every(
        itertools.chain(
            changed(TOML, 800),
            ((f"value {n}", b"[train]\nlearning_rate = " + v) for n, v in enumerate(VALUES)),
            [("a deep key", deep + b" = 1"), ("a deep table", b"[" + deep + b"]")],
        ),
        check,
    )
    for path in (tmp_path, tmp_path / "none.toml"):
        assert read_or_fault(lambda path=path: _table(path, "train", {}), at(path)) is None


@pytest.fixture
def model(tmp_path) -> Path:
    """A copy of the embedded model, whose big files are links."""
    source = model_folder("embedded:emoji-sd")
    for path in source.rglob("*"):
        target = tmp_path / "model" / path.relative_to(source)
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    return tmp_path / "model"


def replaced(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_tokenizer_files(model, name):
    path = model / "tokenizer" / name
    good = path.read_bytes()

    def check(data: bytes) -> None:
        replaced(path, data)
        read_or_fault(
            lambda: TokenCounter(load_tokenizer(str(model))[0]).count(["a cat"]), str(model)
        )

    whole = itertools.islice(changed(good, 0), 21)
    every(itertools.chain(whole, truncations(good, 30), bytes_changed(good, 60)), check)


def other_values(settings: dict, names: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        for value in (None, "x", "", [], {}, {"a": 1}, -1, 1.5, 10**30, [None], "NaN"):
            changed_settings = copy.deepcopy(settings) | {name: value}
            yield f"{name} = {value!r}", json.dumps(changed_settings).encode()


@pytest.mark.parametrize(
    ("part", "name", "settings"),
    [
        ("unet", "config.json", ("sample_size", "block_out_channels")),
        ("unet", "config.json", ("norm_eps", "norm_num_groups", "freq_shift")),
        ("unet", "config.json", ("layers_per_block", "attention_head_dim", "act_fn")),
        ("vae", "config.json", ("scaling_factor", "block_out_channels")),
        ("scheduler", "scheduler_config.json", ("num_train_timesteps", "prediction_type")),
        ("scheduler", "scheduler_config.json", ("beta_start", "steps_offset", "trained_betas")),
        ("text_encoder", "config.json", ("hidden_size", "hidden_act", "max_position_embeddings")),
        ("text_encoder", "config.json", ("eos_token_id", "num_attention_heads")),
        ("tokenizer", "vocab.json", ()),
        ("tokenizer", "merges.txt", ()),
        ("tokenizer", "tokenizer_config.json", ()),
        ("vae", "diffusion_pytorch_model.safetensors", ()),
        ("text_encoder", "model.safetensors", ()),
    ],
)
def test_parts_of_a_model(model, part, name, settings):
    """Damaged configurations, tokenizers and weights never load, nor with weights at random."""
    import torch

    from expo_cli.models.loading import load_encoder, load_model

    cpu = torch.device("cpu")
    path = model / part / name
    good = path.read_bytes()

    def load() -> object:
        if part == "vae":
            return load_encoder(str(model), cpu, torch.float32)
        loaded = load_model(str(model), cpu, torch.float32)
        loaded.latent_shape(loaded.image_size(), loaded.image_size())
        conditioning = loaded.encode(["a cat"])
        shape = loaded.latent_shape(64, 64)
        latents, timesteps = torch.zeros(1, *shape), torch.tensor([5])
        noisy = loaded.add_noise(latents, latents, timesteps)
        loaded.predict(noisy, timesteps, conditioning)
        loaded.set_timesteps(loaded.make_scheduler("ddpm"), 2, shape)
        return loaded

    def check(data: bytes) -> None:
        replaced(path, data)
        read_or_fault(load, str(model))

    cases = truncations(good, 6)
    if settings:
        cases = itertools.chain(cases, other_values(json.loads(good), settings))
    every(cases, check)
    if name.endswith(".safetensors"):
        # Another name for one tensor: the network would be left with random weights.
        start = good.index(b'weight"')
        replaced(path, good[:start] + b"height" + good[start + 6 :])
        with pytest.raises(ExpoError, match="has no weights"):
            load()


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"_class_name": 7}', '{"_class_name": "os.system"}', "\0"]
)
def test_the_family_of_a_model(model, text):
    from expo_cli.models.loading import family

    replaced(model / "model_index.json", text.encode())
    assert read_or_fault(lambda: family(model), at(model / "model_index.json")) is None


def test_an_adapter(tmp_path):
    """Other settings than its weights have, and other weights than the model takes."""
    import torch

    from expo_cli.contracts.tensors import read_tensors, write_tensors
    from expo_cli.models.loading import load_model
    from expo_cli.models.lora import ADAPTER_WEIGHTS, new_adapter, save_adapter

    cpu, base = torch.device("cpu"), "embedded:emoji-sd"
    model = load_model(base, cpu, torch.float32)
    config = new_adapter(model.network, rank=2, alpha=4, target_modules=["to_q"], seed=0)
    parameters = model.network.named_parameters()
    weights = {name: each for name, each in parameters if "lora_" in name}
    folder = tmp_path / "adapter"
    save_adapter(model, weights, folder, config, base, {})
    load_model(str(folder), cpu, torch.float32)
    settings = json.loads((folder / ADAPTER_CONFIG).read_text())
    tensors = read_tensors(folder / ADAPTER_WEIGHTS)
    first = min(tensors)

    def check(case: tuple[dict, dict]) -> None:
        (folder / ADAPTER_CONFIG).write_text(json.dumps(settings | case[0]))
        write_tensors(folder / ADAPTER_WEIGHTS, case[1])
        assert read_or_fault(lambda: load_model(str(folder), cpu, torch.float32), "") is None

    cases = {
        "a rank of a billion": ({"r": 10**9}, tensors),
        "another rank": ({"r": 3}, tensors),
        "a rank of 0": ({"r": 0}, tensors),
        "no layers": ({"target_modules": []}, tensors),
        "layers that are not there": ({"target_modules": ["nothing"]}, tensors),
        "a pattern for names": ({"target_modules": "(a+)+$"}, tensors),
        "a model that is not there": ({"base_model_name_or_path": "/none"}, tensors),
        "no weights": ({}, {}),
        "one too few": ({}, {name: each for name, each in tensors.items() if name != first}),
        "one too many": ({}, tensors | {"unet.more.lora_A.weight": torch.zeros(2, 2)}),
        "a scalar": ({}, tensors | {first: torch.tensor(1.0)}),
        "another width": ({}, tensors | {first: torch.zeros(2, 3)}),
    }
    every(cases.items(), check)
