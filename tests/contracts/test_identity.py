"""What tells inputs apart, and what does not."""

import json
import os
import shutil
import time

import pytest
import torch

from expo_cli.contracts import identity
from expo_cli.contracts.identity import (
    NETWORK,
    SCHEDULER,
    TEXT,
    VAE,
    adapter_sha256,
    file_sha256,
    model_sha256s,
    pipeline_sha256s,
)
from expo_cli.contracts.sources import shipped
from expo_cli.contracts.tensors import latents_digest, write_tensors
from expo_cli.errors import ExpoError

EMBEDDED = "embedded:emoji-sd"
ALL = (*NETWORK, *TEXT, *SCHEDULER, *VAE)


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    folder = tmp_path / "memory"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "expo/sha256"


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(shipped(EMBEDDED), tmp_path / "sd")


def changed(model, change):
    """The parts that are others after a change."""
    before = model_sha256s("m", str(model), ALL)
    change()
    after = model_sha256s("m", str(model), ALL)
    return {key.removeprefix("m/") for key in before | after if before.get(key) != after.get(key)}


def edit(path, **settings):
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | settings))


def test_the_same_model_wherever_it_lies_and_however_it_is_spelled(model, tmp_path, monkeypatch):
    wanted = model_sha256s("m", EMBEDDED, ALL)
    assert wanted.keys() == {
        *("m/pipeline", "m/scheduler", "m/text_encoder", "m/tokenizer", "m/unet", "m/vae")
    }
    (tmp_path / "link").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    for spelling in (str(model), "sd", "./sd/", "link", f"{model}/../sd"):
        assert model_sha256s("m", spelling, ALL) == wanted


@pytest.mark.parametrize(
    ("file", "settings", "part"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}, "scheduler"),
        ("unet/config.json", {"act_fn": "gelu"}, "unet"),
        ("vae/config.json", {"scaling_factor": 0.01}, "vae"),
        ("text_encoder/config.json", {"hidden_act": "gelu"}, "text_encoder"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 8}, "tokenizer"),
        ("model_index.json", {"force_zeros_for_empty_prompt": False}, "pipeline"),
    ],
)
def test_a_setting_is_part_of_a_model(file, settings, part, model):
    assert changed(model, lambda: edit(model / file, **settings)) == {part}


def test_layout_of_json_and_who_wrote_it_are_not(model):
    def rewrite():
        for path in [*model.glob("*/*config*.json"), model / "model_index.json"]:
            config = json.loads(path.read_text()) | {
                "_diffusers_version": "9",
                "_name_or_path": "x",
            }
            path.write_text(json.dumps(dict(reversed(config.items())), indent=7))

    assert changed(model, rewrite) == set()


def test_other_files_below_a_model_are_no_part_of_it(model):
    def write():
        (model / "rollout").mkdir()
        (model / "rollout/part-00000.safetensors").write_bytes(b"x")
        (model / "README.md").write_text("words")
        (model / "unet/notes.md").write_text("words")
        shutil.copy(
            model / "unet/diffusion_pytorch_model.safetensors",
            model / "unet/diffusion_pytorch_model.fp16.safetensors",
        )

    assert changed(model, write) == set()


def test_a_token_that_begins_with_an_underscore_counts(model):
    assert changed(model, lambda: edit(model / "tokenizer/vocab.json", _new=7)) == {"tokenizer"}


def test_only_the_parts_that_are_asked_for(model):
    assert pipeline_sha256s(model, VAE).keys() == {"vae"}
    assert model_sha256s("m", str(model), VAE).keys() == {"m/vae"}


def test_a_lora_is_its_files_and_its_base(model, tmp_path):
    lora = tmp_path / "lora"
    lora.mkdir()
    settings = {"r": 4, "lora_alpha": 4, "target_modules": ["to_q"]}
    config = settings | {"base_model_name_or_path": str(model)}
    (lora / "adapter_config.json").write_text(json.dumps(config))
    weights = {"unet.lora_A.weight": torch.zeros(2)}
    write_tensors(lora / "pytorch_lora_weights.safetensors", weights)
    own = adapter_sha256(lora)
    found = model_sha256s("m", str(lora), ALL)
    assert found == model_sha256s("m", str(model), ALL) | {"m/lora": own}
    assert model_sha256s("m", str(lora), VAE).keys() == {"m/vae"}
    # Where its base lies is no part of it, what its base is is.
    edit(lora / "adapter_config.json", base_path="../elsewhere/sd")
    assert model_sha256s("m", str(lora), ALL) == found
    edit(lora / "adapter_config.json", base_model_name_or_path=EMBEDDED)
    assert model_sha256s("m", str(lora), ALL) == found
    edit(lora / "adapter_config.json", lora_alpha=8)
    assert adapter_sha256(lora) != own


def test_our_safetensors_state_their_sha256_and_no_byte_of_data_is_read(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.arange(8)})
    first = file_sha256(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # is seen when the tensors are read
    path.write_bytes(content)
    assert file_sha256(path) == first
    write_tensors(path, {"x": torch.arange(1, 9)})
    assert file_sha256(path) != first


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0[1,2,3] ", b"\xff" * 40, b"x" * 9])
def test_what_is_no_safetensors_file_is_hashed(content, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert file_sha256(path) == identity.sha256(path)


@pytest.fixture
def large(tmp_path):
    """A foreign file of 2 MB that nobody has touched for a minute."""
    path = tmp_path / "model.bin"
    path.write_bytes(b"a" * (2 << 20))
    return path


def wait(monkeypatch):
    """A minute goes by."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)


def test_a_large_file_is_hashed_once(large, memory, monkeypatch):
    wait(monkeypatch)
    first = file_sha256(large)
    assert len(list(memory.iterdir())) == 1
    monkeypatch.setattr(identity, "sha256", lambda path: pytest.fail("hashed again"))
    assert file_sha256(large) == first


def test_what_changed_within_two_seconds_is_not_remembered(large, memory):
    file_sha256(large)
    assert not memory.exists()


def test_neither_size_nor_time_stamp_hide_a_change(large, monkeypatch):
    """As `cp -p`, `rsync -t` and `touch -r` leave them."""
    wait(monkeypatch)
    first, status = file_sha256(large), large.stat()
    time.sleep(0.01)
    large.write_bytes(b"b" * (2 << 20))
    os.utime(large, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (large.stat().st_size, large.stat().st_mtime_ns) == (
        status.st_size,
        status.st_mtime_ns,
    )
    assert file_sha256(large) != first


def test_without_a_cache_folder_it_is_hashed_again_and_nothing_said(large, tmp_path, monkeypatch):
    wait(monkeypatch)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert file_sha256(large) == file_sha256(large)


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ExpoError, match="pipe: is not a regular file"):
        file_sha256(tmp_path / "pipe")


def test_a_digest_is_sixteen_digits_of_the_sha256_of_the_bytes():
    latents = torch.tensor([1.0, 2.0], dtype=torch.float16)
    # printf '\x00\x3c\x00\x40' | sha256sum
    import hashlib

    assert latents_digest(latents) == hashlib.sha256(b"\x00\x3c\x00\x40").hexdigest()[:16]
    assert latents_digest(latents) != latents_digest(latents.float())
