"""Rollouts by the explorers `extrapolate` and `mixture`, on random weights in SD 1.5's layout."""

import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from expo_cli.config import RolloutConfig, RunOptions
from expo_cli.contracts.provenance import read_run
from expo_cli.contracts.records import Sample
from expo_cli.contracts.rollouts import open_rollout
from expo_cli.contracts.tensors import read_tensors
from expo_cli.core.noise import generators, normal
from expo_cli.errors import ContractError, UsageError
from expo_cli.models.loading import load_model
from expo_cli.models.lora import new_adapter, save_adapter
from expo_cli.stages.rollout import run as drawing
from expo_cli.stages.rollout.plan import roll_out

CPU = torch.device("cpu")
OPTIONS = RunOptions(quiet=True)
FAST = {
    "num_inference_steps": 2,
    "num_images_per_prompt": 4,
    "guidance_scale": 3.0,
    "part_size": 2,
    "dtype": "fp32",
}


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [
        {"prompt_id": f"p{n}", "prompt": f"prompt {n}", "negative_prompt": "blurry"}
        for n in range(3)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def adapter(tiny_sd, tmp_path_factory):
    """A LoRA of `tiny_sd` that changes what is drawn."""
    return lora_of(tiny_sd, tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module")
def merged(tiny_sd, adapter, tmp_path_factory):
    """The same policy as a whole pipeline."""
    folder = tmp_path_factory.mktemp("merged") / "sd"
    shutil.copytree(tiny_sd, folder)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd)
    pipeline.load_lora_weights(adapter)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    pipeline.unet.save_pretrained(folder / "unet")
    return folder


def lora_of(base, folder):
    model = load_model(str(base), CPU, torch.float32)
    config = new_adapter(model.network, rank=2, alpha=4, target_modules=["to_q", "to_v"], seed=0)
    generator = torch.Generator().manual_seed(5)
    weights = {
        name: torch.randn(parameter.shape, generator=generator) / 3
        for name, parameter in model.network.named_parameters()
        if "lora_" in name
    }
    save_adapter(model, weights, folder, config, str(base), {})
    return folder


def explore(prompts, out, policy, explorer="same", shard="0/1", options=OPTIONS, **settings):
    settings = {name: str(v) if name in ("ref", "kl_to") else v for name, v in settings.items()}
    config = RolloutConfig(
        policy=str(policy), agent="explore", explorer=explorer, **FAST | settings
    )
    roll_out(prompts, out, config, options, shard)
    return out


def samples(folder) -> list[Sample]:
    rollout = open_rollout(folder)
    return [sample for part in range(rollout.num_parts) for sample in rollout.samples(part)]


def latents(folder) -> dict[str, torch.Tensor]:
    rollout = open_rollout(folder)
    return {
        name: tensor
        for part in range(rollout.num_parts)
        for name, tensor in read_tensors(rollout.latents_path(part)).items()
    }


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("run.json")
    }


def assert_close(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-3, rtol=2e-3)


def assert_not_close(one, other):
    assert any((one[name] - other[name]).abs().max() > 0.05 for name in one)


def by_hand(sample, policy, ref, w):
    """DDIM with diffusers' modules, one image, guidance 3, every step in plain sight."""
    policy = StableDiffusionPipeline.from_pretrained(policy)
    reference = StableDiffusionPipeline.from_pretrained(ref).unet
    scheduler = DDIMScheduler.from_config(policy.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(2)
    texts = [sample.negative_prompt, sample.prompt]
    ids = policy.tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    embeds = policy.text_encoder(ids)[0]
    x = normal(generators([sample.seed])[0], (4, 8, 8))[None]
    for t in scheduler.timesteps:
        negative, positive = policy.unet(torch.cat([x, x]), t, embeds).sample.chunk(2)
        of_policy = negative + 3 * (positive - negative)
        negative, positive = reference(torch.cat([x, x]), t, embeds).sample.chunk(2)
        of_reference = negative + 3 * (positive - negative)
        x = scheduler.step(of_reference + w * (of_policy - of_reference), t, x).prev_sample
    return x[0].half()


@torch.no_grad()
def test_extrapolation_is_what_diffusers_modules_give_by_hand(
    prompts, tiny_sd, tiny_sd_other, tmp_path
):
    same_text = with_network_of(tiny_sd, tiny_sd_other, tmp_path / "policy")
    settings = {"scheduler": "ddim", "limit": 1, "num_images_per_prompt": 2}
    out = tmp_path / "out"
    explore(prompts, out, same_text, "extrapolate:w=1.5", ref=tiny_sd, **settings)
    drawn = samples(out)
    assert_close(latents(out), {s.sample_id: by_hand(s, same_text, tiny_sd, 1.5) for s in drawn})
    plain = explore(prompts, tmp_path / "plain", same_text, **settings)
    assert_not_close(latents(out), latents(plain))


def with_network_of(base, other, folder):
    shutil.copytree(base, folder)
    shutil.rmtree(folder / "unet")
    shutil.copytree(other / "unet", folder / "unet")
    return folder


def test_a_lora_and_the_same_weights_merged_extrapolate_alike(
    prompts, tiny_sd, adapter, merged, tmp_path, monkeypatch
):
    """The LoRA holds one network, whose adapter is switched off for the reference."""
    two = explore(prompts, tmp_path / "two", merged, "extrapolate", ref=tiny_sd, limit=1)
    loaded, load = [], drawing.load_reference
    monkeypatch.setattr(
        drawing, "load_reference", lambda *a: loaded.append((a[1], load(*a))) or loaded[0][1]
    )
    one = explore(prompts, tmp_path / "one", adapter, "extrapolate", ref=tiny_sd, limit=1)
    [(policy, reference)] = loaded
    assert policy is reference
    assert_close(latents(one), latents(two))
    assert_not_close(latents(one), latents(explore(prompts, tmp_path / "plain", adapter, limit=1)))


def test_w_of_1_is_the_policy_to_the_byte_and_the_record_tells_them_apart(
    prompts, tiny_sd, adapter, tmp_path
):
    plain = explore(prompts, tmp_path / "plain", adapter, limit=1)
    one = explore(prompts, tmp_path / "one", adapter, "extrapolate:w=1", ref=tiny_sd, limit=1)
    for name, tensor in latents(plain).items():
        assert tensor.equal(latents(one)[name])
    assert {s.policy for s in samples(plain)} != {s.policy for s in samples(one)}
    run = read_run(one)
    assert run.plan["w"] == 1
    assert "ref/unet" in run.inputs


def test_another_reference_or_w_does_not_continue_an_extrapolation(
    prompts, tiny_sd, adapter, tmp_path
):
    out, explorer = tmp_path / "out", "extrapolate:w=1.5"
    explore(prompts, out, adapter, explorer, ref=tiny_sd)
    before = contents(out)
    with pytest.raises(ContractError, match="w=1.5, not 2"):
        explore(prompts, out, adapter, "extrapolate:w=2", ref=tiny_sd)
    with pytest.raises(ContractError, match="ref/"):
        explore(prompts, out, adapter, explorer, ref=adapter)
    assert contents(out) == before


def test_the_kl_of_an_extrapolation_is_w_squared_times_the_policys(
    prompts, tiny_sd, adapter, tmp_path
):
    """At the first step, where both see the same noise: the means differ by w times as much."""
    settings = {"ref": tiny_sd, "kl_to": tiny_sd, "limit": 1}
    one = samples(explore(prompts, tmp_path / "1", adapter, "extrapolate:w=1", **settings))
    two = samples(explore(prompts, tmp_path / "2", adapter, "extrapolate:w=2", **settings))
    for here, there in zip(one, two, strict=True):
        assert here.kl_steps[0] > 0
        assert there.kl_steps[0] == pytest.approx(4 * here.kl_steps[0], rel=1e-3)


MIXTURE = "mixture:scheduler=dpm-solver++/ddim/ddpm,num_inference_steps=3/2/2,guidance_scale=1/3/5"
ROWS = [
    {"scheduler": "dpm-solver++", "num_inference_steps": 3, "guidance_scale": 1.0},
    {"scheduler": "ddim", "num_inference_steps": 2, "guidance_scale": 3.0},
    {"scheduler": "ddpm", "num_inference_steps": 2, "guidance_scale": 5.0},
]


def test_images_of_a_mixture_are_those_of_plain_rollouts_with_their_settings(
    prompts, tiny_sd, tmp_path
):
    one_by_one = {"batch_size": 1, "limit": 1, "first_index": 1, "images": "png"}
    mixed = explore(prompts, tmp_path / "mixed", tiny_sd, MIXTURE, **one_by_one)
    drawn = samples(mixed)
    assert [s.index for s in drawn] == [1, 2, 3, 4]
    plain = {}
    for number, row in enumerate(ROWS):
        out = explore(prompts, tmp_path / str(number), tiny_sd, **one_by_one | row)
        plain |= {s.sample_id: s for s in samples(out) if s.index % 3 == number}
    assert {s.sample_id: s for s in drawn} == plain
    for sample in drawn:
        same = tmp_path / str(sample.index % 3) / sample.image
        assert (mixed / sample.image).read_bytes() == same.read_bytes()


def test_a_mixture_is_the_same_in_shards_and_after_a_stop(prompts, tiny_sd, tmp_path):
    whole = explore(prompts, tmp_path / "whole", tiny_sd, MIXTURE)
    out = tmp_path / "out"
    explore(prompts, out, tiny_sd, MIXTURE, shard="1/2")
    explore(prompts, out, tiny_sd, MIXTURE)
    assert contents(whole) == contents(out)
    with pytest.raises(ContractError, match="was begun with sampling="):
        explore(prompts, out, tiny_sd, MIXTURE.replace("1/3/5", "1/3/7"))


def test_a_mixture_has_the_same_noise_in_batches(prompts, tiny_sd, tmp_path):
    alone = explore(prompts, tmp_path / "alone", tiny_sd, MIXTURE, batch_size=1, limit=2)
    together = explore(prompts, tmp_path / "together", tiny_sd, MIXTURE, batch_size=5, limit=2)
    assert_close(latents(alone), latents(together))


def test_a_mixture_of_gaussian_samplers_has_a_kl_for_each_steps(
    prompts, tiny_sd, tiny_sd_other, tmp_path
):
    steps = "mixture:num_inference_steps=2/4"
    out = explore(prompts, tmp_path / "out", tiny_sd, steps, kl_to=tiny_sd_other, limit=1)
    assert [len(sample.kl_steps) for sample in samples(out)] == [2, 4, 2, 4]


@pytest.mark.parametrize(
    ("explorer", "settings", "message"),
    [
        (MIXTURE, {"kl_to": "POLICY"}, "not dpm-solver\\+\\+ with eta 0"),
        ("mixture:eta=0/1", {}, "eta belongs to ddim, not ddpm"),
        ("mixture:scheduler=ddim/dim", {}, "no scheduler is called 'dim'"),
        (
            "mixture:guidance_scale=1/3",
            {"neg_schedule": "constant", "negative_prompts": "PROMPTS"},
            "negative prompts have no effect without guidance",
        ),
        ("extrapolate", {"ref": "V"}, "its scheduler has prediction_type 'v_prediction'"),
        ("extrapolate", {"ref": "OTHER"}, "its text_encoder is not that of"),
        ("extrapolate", {}, "--explorer extrapolate needs --ref"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is(
    explorer, settings, message, prompts, tiny_sd, tiny_sd_v, tiny_sd_other, tmp_path
):
    places = {"POLICY": tiny_sd, "PROMPTS": prompts, "V": tiny_sd_v, "OTHER": tiny_sd_other}
    settings = {name: str(places.get(value, value)) for name, value in settings.items()}
    with pytest.raises(UsageError, match=message) as raised:
        explore(prompts, tmp_path / "out", tiny_sd, explorer, **settings)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_reference_with_other_latents_is_refused(prompts, tiny_sd, tmp_path):
    reference = tmp_path / "reference"
    shutil.copytree(tiny_sd, reference)
    config = reference / "unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 9}))
    with pytest.raises(UsageError, match="its in_channels is not that of"):
        explore(prompts, tmp_path / "out", tiny_sd, "extrapolate", ref=reference)
