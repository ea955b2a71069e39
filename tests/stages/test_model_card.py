"""`README.md` of a checkpoint, as the hub and a reader of Markdown see it."""

import json
from dataclasses import replace
from hashlib import sha256

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from expo_cli.config import RunOptions, TrainConfig
from expo_cli.contracts.provenance import Run
from expo_cli.core.objectives import DiffusionDPO
from expo_cli.report.model_card import model_card
from expo_cli.stages.train.origin import Origin, origin_of, told, train_command
from expo_cli.stages.train.plan import train_policy
from expo_cli.stages.train.settings import plan_and_free, resolve
from tests.latent_pairs import write_latent_pairs

HOSTILE = 'a`b``c\n---\n# <script>alert("1")</script> | [x](javascript:y) {{ 7 * 7 }} \x1b[31m: é'


def leaves(card: str) -> list:
    return [
        leaf
        for token in MarkdownIt("commonmark").parse(card.split("---\n", 2)[2])
        for leaf in (token.children or [token])
    ]


def origin(paths: list[str], **settings) -> Origin:
    """The origin of a made-up run, whose digests are letters."""
    config = resolve(TrainConfig(init_from="embedded:emoji-sd", **settings))
    plan, free = plan_and_free(config, DiffusionDPO())
    inputs = {"init_from/unet": "a" * 64, "ref/unet": "a" * 64}
    inputs |= {f"pairs {number}": "b" * 64 for number in range(1, len(paths) + 1)}
    free |= {"pairs": paths}
    run = Run(command="train", plan=plan | {"num_pairs": 6}, free=free, inputs=inputs)
    return origin_of(config, DiffusionDPO(), run)


@pytest.mark.parametrize("use_lora", [True, False])
def test_a_checkpoints_card_tells_its_data_settings_and_results(use_lora, tiny_sd, tmp_path):
    pairs, out = write_latent_pairs(tmp_path), tmp_path / "out"
    config = TrainConfig(
        init_from=str(tiny_sd), use_lora=use_lora, max_train_steps=2, train_batch_size=2
    )
    train_policy([pairs], out, config, RunOptions(quiet=True))
    card = ModelCard.load(out / "README.md")
    header = card.data.to_dict()
    assert (header["library_name"], header["pipeline_tag"]) == ("diffusers", "text-to-image")
    assert ("lora" in header["tags"]) is use_lora
    # A folder of this machine is no base model to the hub.
    assert "base_model" not in header
    assert "license" not in header
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    for fact in (
        f"`pairs.jsonl`: `{sha256(pairs.read_bytes()).hexdigest()}`",
        f"loss: {float(format(last['loss'], '.6g'))}",
        "6 pairs, 2 optimiser steps of 2",
        "`DiffusionDPO(beta=5000.0, loss='sigmoid', label_smoothing=0.0)`",
        "kohya_lora.safetensors" if use_lora else "DiffusersLoader",
        "expo rollout prompts.jsonl --policy CHECKPOINT",
        'torch: "',
    ):
        assert fact in card.content
    assert str(tmp_path) not in card.content


def test_a_base_model_of_the_hub_is_in_the_header():
    based = replace(origin(["pairs.jsonl"]), hub_base="stable-diffusion-v1-5/stable-diffusion-v1-5")
    header = ModelCard(model_card(based, True, {})).data
    assert header.base_model == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert header.to_dict()["base_model_relation"] == "adapter"


def test_the_hubs_id_is_that_of_the_base_else_of_the_reference(monkeypatch):
    monkeypatch.setattr("expo_cli.stages.train.origin.base_source", lambda source: source)
    assert origin(["p"]).hub_base is None
    assert origin(["p"], ref="owner/name").hub_base == "owner/name"


def test_nothing_in_a_card_is_markup_of_a_strangers():
    strange = replace(
        origin([HOSTILE]), title=HOSTILE, base=HOSTILE, objective=HOSTILE, hub_base=HOSTILE
    )
    strange = replace(strange, settings=strange.settings | {"ref": HOSTILE, "seed": "```\n# no"})
    card = model_card(strange, True, {"loss": 0.5})
    plain = model_card(origin(["p"]), True, {"loss": 0.5})
    assert ModelCard(card).data.base_model == HOSTILE
    assert [leaf.type for leaf in leaves(card)] == [leaf.type for leaf in leaves(plain)]
    texts = [leaf.content for leaf in leaves(card) if leaf.type == "text"]
    assert texts == [leaf.content for leaf in leaves(plain) if leaf.type == "text"]
    visible = HOSTILE.replace("\n", "\\n").replace("\x1b", "\\x1b")
    assert [leaf.content for leaf in leaves(card)].count(visible) == 4
    assert "\x1b" not in card.split("---\n", 2)[2]


def test_absolute_paths_are_told_by_their_last_part():
    assert told("/home/ann/models/sd15") == "sd15"
    assert told("../models/sd15") == "../models/sd15"
    assert told("owner/name") == "owner/name"


def test_the_command_has_what_differs_from_the_defaults():
    config = resolve(
        TrainConfig(
            init_from="embedded:emoji-sd",
            use_lora=True,
            lora_alpha=8,
            learning_rate=3e-5,
            lora_target_modules=("to_q", "ff.net.2"),
            report_to="tensorboard",
        )
    )
    assert train_command(config, ["/data/my pairs.jsonl", "run/pairs.jsonl"]) == (
        "expo train 'my pairs.jsonl' run/pairs.jsonl --init-from embedded:emoji-sd "
        "--ref embedded:emoji-sd --learning-rate 3e-05 --use-lora --lora-alpha 8 "
        "--lora-target-modules to_q --lora-target-modules ff.net.2 --out checkpoint"
    )
