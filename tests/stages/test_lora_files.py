"""The files of a LoRA checkpoint: each gives others the images of the policy that was trained."""

import json
import re
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from expo_cli.config import RunOptions, TrainConfig
from expo_cli.contracts.states import check_state
from expo_cli.contracts.tensors import open_tensors, read_tensors, write_tensors
from expo_cli.models.kohya import KOHYA_WEIGHTS
from expo_cli.models.loading import load_model
from expo_cli.models.lora import ADAPTER_WEIGHTS
from expo_cli.stages.train.plan import train_policy
from expo_cli.stages.train.trainer import Trainer
from tests.latent_pairs import write_latent_pairs

RANK, ALPHA = 4, 10


@pytest.fixture(scope="module")
def config(tiny_sd) -> TrainConfig:
    return TrainConfig(
        init_from=str(tiny_sd),
        max_train_steps=3,
        train_batch_size=2,
        learning_rate=1e-2,
        mixed_precision="fp32",
        checkpointing_steps=2,
        use_lora=True,
        lora_rank=RANK,
        lora_alpha=ALPHA,
    )


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_latent_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def checkpoint(config, pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("lora") / "checkpoint"
    train_policy([pairs], out, config, RunOptions(quiet=True))
    return out


def draw(pipeline: StableDiffusionPipeline) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    settings = {"num_inference_steps": 3, "output_type": "np", "generator": generator}
    return pipeline("a cat", **settings).images


def pipeline_with(base, *lora, **settings) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(base)
    if lora:
        pipeline.load_lora_weights(*lora, **settings)
    return pipeline


def trained_images(tiny_sd, folder) -> np.ndarray:
    """By the policy as `expo` itself loads it."""
    pipeline = pipeline_with(tiny_sd)
    pipeline.unet = load_model(str(folder), torch.device("cpu"), torch.float32).network
    return draw(pipeline)


def test_both_files_draw_what_the_policy_draws(checkpoint, tiny_sd, tmp_path):
    """Where alpha is not the rank: a file without the real alpha is seen to draw something else."""
    trained = trained_images(tiny_sd, checkpoint)
    assert np.abs(trained - draw(pipeline_with(tiny_sd))).max() > 0.01
    for load in ({}, {"weight_name": KOHYA_WEIGHTS}):
        images = draw(pipeline_with(tiny_sd, checkpoint, **load))
        np.testing.assert_allclose(images, trained, atol=1e-5)
    rank_for_alpha = {
        name: torch.tensor(float(RANK)) if name.endswith(".alpha") else tensor
        for name, tensor in read_tensors(checkpoint / KOHYA_WEIGHTS).items()
    }
    write_tensors(tmp_path / "wrong.safetensors", rank_for_alpha)
    images = draw(pipeline_with(tiny_sd, tmp_path, weight_name="wrong.safetensors"))
    assert np.abs(trained - images).max() > 0.003


def test_a_kohya_file_is_what_comfyui_adds_to_its_weights(checkpoint, tiny_sd):
    """ComfyUI looks for `lora_unet_` and the diffusers name of each weight with `_` for its dots
    (model_lora_keys_unet), and adds alpha / rank * up @ down."""
    fused = pipeline_with(tiny_sd, checkpoint)
    fused.fuse_lora()
    base = pipeline_with(tiny_sd).unet.state_dict()
    kohya = read_tensors(checkpoint / KOHYA_WEIGHTS)
    # What ComfyUI's own layout calls the same weight is in the comment.
    layers = {
        # input_blocks.1.1.transformer_blocks.0.attn1.to_q
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
        ),
        # middle_block.1.transformer_blocks.0.attn2.to_k
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k": (
            "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
        ),
        # output_blocks.7.1.transformer_blocks.0.attn1.to_out.0, with two blocks a level
        "lora_unet_up_blocks_3_attentions_1_transformer_blocks_0_attn1_to_out_0": (
            "up_blocks.3.attentions.1.transformer_blocks.0.attn1.to_out.0"
        ),
    }
    for name, layer in layers.items():
        up, down = kohya[f"{name}.lora_up.weight"], kohya[f"{name}.lora_down.weight"]
        alpha, rank = kohya[f"{name}.alpha"].item(), down.shape[0]
        assert (alpha, rank) == (ALPHA, RANK)
        module = fused.unet.get_submodule(layer)
        expected = getattr(module, "base_layer", module).weight
        ours = base[f"{layer}.weight"] + alpha / rank * up @ down
        torch.testing.assert_close(ours, expected)
        assert not torch.allclose(ours, base[f"{layer}.weight"])


def test_every_attention_projection_is_in_the_kohya_file_and_nothing_else(checkpoint, tiny_sd):
    names = [name for name, _ in pipeline_with(tiny_sd).unet.named_modules()]
    layers = [n for n in names if re.search(r"\.attn[12]\.to_(q|k|v|out\.0)$", n)]
    assert set(read_tensors(checkpoint / KOHYA_WEIGHTS)) == {
        f"lora_unet_{layer.replace('.', '_')}.{end}"
        for layer in layers
        for end in ("lora_down.weight", "lora_up.weight", "alpha")
    }


def test_the_kohya_file_says_what_it_is_and_where_it_comes_from(checkpoint, pairs, tiny_sd):
    with open_tensors(checkpoint / KOHYA_WEIGHTS) as file:
        metadata = file.metadata()
    run = json.loads((checkpoint / "run.json").read_text())
    assert (
        metadata
        | {
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": "stable-diffusion-v1/lora",
            "modelspec.implementation": "diffusers",
            "modelspec.title": "sd, aligned by dpo",
            "modelspec.resolution": "64x64",
            "modelspec.prediction_type": "epsilon",
            "ss_network_module": "networks.lora",
            "ss_network_dim": "4",
            "ss_network_alpha": "10.0",
            "ss_base_model_version": "sd_v1",
            "ss_v2": "False",
            "ss_sd_model_name": "sd",
            "ss_steps": "3",
            "ss_total_batch_size": "2",
        }
        == metadata
    )
    assert json.loads(metadata["expo.data_sha256"]) == [["pairs.jsonl", run["inputs"]["pairs 1"]]]
    assert metadata["expo.command"].startswith("expo train pairs.jsonl --init-from sd ")
    # No path of this machine, neither here nor in any other file that is made to be passed on.
    for name in (KOHYA_WEIGHTS, ADAPTER_WEIGHTS, "README.md", "metrics.jsonl"):
        assert str(tiny_sd.parent).encode() not in (checkpoint / name).read_bytes()
        assert str(pairs.parent).encode() not in (checkpoint / name).read_bytes()


def test_the_hash_is_that_of_the_tensors_bytes(checkpoint):
    """As sd-scripts computes it: everything after the header."""
    data = (checkpoint / KOHYA_WEIGHTS).read_bytes()
    digest = sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    with open_tensors(checkpoint / KOHYA_WEIGHTS) as file:
        metadata = file.metadata()
    assert metadata["sshs_model_hash"] == digest
    assert metadata["modelspec.hash_sha256"] == f"0x{digest}"


def test_the_state_of_a_step_can_be_used_as_a_lora(
    config, checkpoint, pairs, tiny_sd, tmp_path, monkeypatch
):
    step = Trainer.step

    def stop_in_the_last(trainer: Trainer, number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt
        step(trainer, number)

    monkeypatch.setattr(Trainer, "step", stop_in_the_last)
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train_policy([pairs], out, config, RunOptions(quiet=True))
    state = out / "state" / "step-00000002"
    check_state(state)
    images = trained_images(tiny_sd, state)
    for load in ({}, {"weight_name": KOHYA_WEIGHTS}):
        np.testing.assert_allclose(draw(pipeline_with(tiny_sd, state, **load)), images, atol=1e-5)
    assert np.abs(images - trained_images(tiny_sd, checkpoint)).max() > 0.003
    with open_tensors(state / KOHYA_WEIGHTS) as file:
        assert file.metadata()["ss_steps"] == "2"
    # The run continues from a state with these files, to the same checkpoint.
    monkeypatch.setattr(Trainer, "step", step)
    train_policy([pairs], out, config, RunOptions(quiet=True))
    for name in (KOHYA_WEIGHTS, ADAPTER_WEIGHTS, "README.md"):
        assert (out / name).read_bytes() == (checkpoint / name).read_bytes()


def test_a_v_prediction_model_says_so(config, pairs, tiny_sd_v, tmp_path):
    settings = replace(config, init_from=str(tiny_sd_v), max_train_steps=1)
    train_policy([pairs], tmp_path / "out", settings, RunOptions(quiet=True))
    with open_tensors(tmp_path / "out" / KOHYA_WEIGHTS) as file:
        metadata = file.metadata()
    assert metadata["modelspec.prediction_type"] == "v"
    assert metadata["ss_base_model_version"] == "sd_v1_v"
