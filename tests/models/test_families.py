"""Every family against diffusers' own pipeline, on random weights in the layout of the real ones."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler

from expo_cli.config import (
    MakePairsConfig,
    PairImagesConfig,
    RolloutConfig,
    RunOptions,
    ScoreConfig,
    TrainConfig,
)
from expo_cli.contracts.rollouts import open_rollout
from expo_cli.contracts.tensors import read_tensors
from expo_cli.core.exploration import SamplingPlan
from expo_cli.core.noise import generators, normal
from expo_cli.errors import UsageError
from expo_cli.models.families import (
    FLOW_MATCHING,
    check_negative_prompts,
    pipeline_class,
    scheduler_of,
)
from expo_cli.models.flux import pack, unpack
from expo_cli.models.kohya import KOHYA_WEIGHTS
from expo_cli.models.loading import load_decoder, load_encoder, load_model
from expo_cli.models.lora import ADAPTER_WEIGHTS
from expo_cli.models.protocol import DiffusionModel
from expo_cli.models.sampling import draw
from expo_cli.stages.make_pairs.run import make_pairs
from expo_cli.stages.rollout.plan import roll_out
from expo_cli.stages.score.plan import score_folder
from expo_cli.stages.train.plan import train_policy
from tests.checkpoints.flux import flux
from tests.checkpoints.sd3 import stable_diffusion_3
from tests.checkpoints.sdxl import stable_diffusion_xl

CPU = torch.device("cpu")
OPTIONS = RunOptions(quiet=True)
PROMPTS, SEEDS = ["a red cat", "two blue dogs, photograph"], [11, 12]
HEIGHT, WIDTH = 64, 96
ODD_WIDTH = 104  # 13 latents: a UNet halves them with a remainder


@dataclass(frozen=True)
class Family:
    make: Callable[[Path], Path]
    scheduler: str = "flow-match-euler"
    negative: bool = True
    """Whether it takes negative prompts."""
    width: int = WIDTH


FAMILIES = {
    "sdxl": Family(stable_diffusion_xl, "euler", width=ODD_WIDTH),
    "sd3": Family(stable_diffusion_3),
    "sd3-without-t5": Family(lambda folder: stable_diffusion_3(folder, with_t5=False)),
    "flux-dev": Family(flux, negative=False),
    "flux-schnell": Family(lambda folder: flux(folder, dev=False), negative=False),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory) -> Path:
    return family.make(tmp_path_factory.mktemp("tiny") / "model")


def load(source: Path) -> DiffusionModel:
    return load_model(str(source), CPU, torch.float32)


@pytest.fixture(scope="module")
def model(folder) -> DiffusionModel:
    return load(folder)


@pytest.fixture(scope="module")
def pipeline(folder) -> DiffusionPipeline:
    return load_diffusers(folder)


def load_diffusers(folder: Path) -> DiffusionPipeline:
    """diffusers wants to be told when there is no T5."""
    absent = {} if any(folder.glob("*_3")) else {"text_encoder_3": None, "tokenizer_3": None}
    sd3 = pipeline_class(folder) == "StableDiffusion3Pipeline"
    return DiffusionPipeline.from_pretrained(folder, **(absent if sd3 else {}))


def drawn_by_diffusers(
    pipeline: DiffusionPipeline,
    latents: torch.Tensor,
    negative: list[str] | None,
    guidance_scale: float = 5.0,
) -> torch.Tensor:
    """Final latents [batch, channels, height, width] of three steps."""
    pipeline.set_progress_bar_config(disable=True)
    packed = pipeline.__class__.__name__ == "FluxPipeline"
    height, width = (size * pipeline.vae_scale_factor for size in latents.shape[-2:])
    found = pipeline(
        PROMPTS,
        **({} if packed else {"negative_prompt": negative}),
        height=height,
        width=width,
        num_inference_steps=3,
        guidance_scale=guidance_scale,
        latents=pack(latents) if packed else latents,
        output_type="latent",
    ).images
    return unpack(found, *latents.shape[-2:]) if packed else found


def noise(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.stack([normal(generator, shape) for generator in generators(SEEDS)])


def drawn_by_us(
    model: DiffusionModel,
    family: Family,
    negative: list[str] | None,
    scheduler: str | None = None,
    guidance_scale: float = 5.0,
) -> torch.Tensor:
    scheduler = scheduler or family.scheduler
    plan = SamplingPlan(scheduler=scheduler, num_inference_steps=3, guidance_scale=guidance_scale)
    conditioning, other = model.encode(PROMPTS), model.encode(negative or ["", ""])
    shape = model.latent_shape(HEIGHT, family.width)
    return draw(model, conditioning, other, SEEDS, shape, plan).latents


@pytest.mark.parametrize("negative", [None, ["blurry", "dark"]])
def test_latents_and_images_are_those_of_diffusers_pipeline(
    family, folder, model, pipeline, negative
):
    """Without a negative prompt SDXL's negative half is zeros, not an encoded empty text."""
    if negative and not family.negative:
        pytest.skip("takes no negative prompts")
    ours = drawn_by_us(model, family, negative)
    expected = drawn_by_diffusers(pipeline, noise(ours.shape[1:]), negative)
    torch.testing.assert_close(ours, expected, atol=5e-4, rtol=1e-3)
    config = pipeline.vae.config
    with torch.no_grad():
        decoded = pipeline.vae.decode(
            ours / config.scaling_factor + (config.shift_factor or 0)
        ).sample
    images = pipeline.image_processor.postprocess(decoded, output_type="pt")
    decoder = load_decoder(str(folder), CPU, torch.float32)
    torch.testing.assert_close(decoder.decode(ours), images, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("guidance_scale", [0.0, 0.5, 1.0, 1.5])
def test_little_guidance_is_what_diffusers_makes_of_it(family, model, pipeline, guidance_scale):
    """At 1 and below its pipelines draw the prompt alone; FLUX is told the scale as it is."""
    negative = ["blurry", "dark"] if family.negative else None
    ours = drawn_by_us(model, family, negative, guidance_scale=guidance_scale)
    expected = drawn_by_diffusers(pipeline, noise(ours.shape[1:]), negative, guidance_scale)
    torch.testing.assert_close(ours, expected, atol=5e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "cls"), [("ddim", DDIMScheduler), ("dpm-solver++", DPMSolverMultistepScheduler)]
)
def test_sdxl_draws_the_same_with_diffusers_other_samplers(name, cls, tmp_path):
    folder = stable_diffusion_xl(tmp_path / "m")
    ours = drawn_by_us(load(folder), FAMILIES["sdxl"], ["blurry", "dark"], name)
    pipeline = load_diffusers(folder)
    pipeline.scheduler = cls.from_config(pipeline.scheduler.config, clip_sample=False)
    expected = drawn_by_diffusers(pipeline, noise(ours.shape[1:]), ["blurry", "dark"])
    torch.testing.assert_close(ours, expected, atol=5e-4, rtol=1e-3)


def test_images_are_encoded_as_the_vae_was_trained(folder):
    """The mean, less the shift, times the scale: what decoding undoes."""
    encoder = load_encoder(str(folder), CPU, torch.float32)
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    mean, deviation = encoder.encode(images)
    config = encoder.vae.config
    posterior = encoder.vae.encode(images).latent_dist
    shift = config.shift_factor or 0.0
    torch.testing.assert_close(mean / config.scaling_factor + shift, posterior.mean)
    torch.testing.assert_close(deviation / config.scaling_factor, posterior.std)


def test_the_target_is_what_leads_from_noise_to_latents(family, folder, model):
    """Flow matching: x_t - sigma * velocity is x_0, and `epsilon` returns the noise."""
    if pipeline_class(folder) not in FLOW_MATCHING:
        pytest.skip("diffusion: tests/models/test_sampling.py")
    shape = model.latent_shape(HEIGHT, family.width)
    latents, own_noise = torch.randn(2, *shape), torch.randn(2, *shape)
    timesteps = torch.tensor([model.training_timestep(g) for g in generators([1, 2])])
    assert ((timesteps > 0) & (timesteps <= 1000)).all()
    noisy = model.add_noise(latents, own_noise, timesteps)
    velocity = model.target(latents, own_noise, timesteps)
    sigma = (timesteps / 1000).view(-1, 1, 1, 1)
    torch.testing.assert_close(noisy - sigma * velocity, latents, atol=1e-5, rtol=1e-5)
    epsilon = model.epsilon(velocity, noisy, timesteps)
    torch.testing.assert_close(epsilon, own_noise, atol=1e-5, rtol=1e-5)


def test_extrapolating_a_velocity_is_extrapolating_the_noise(family, folder, model):
    """As with v-prediction in tests/models/test_sampling.py."""
    shape = model.latent_shape(HEIGHT, family.width)
    latents, policy, reference = (torch.randn(2, *shape) for _ in range(3))
    timesteps = torch.tensor([20, 900])
    extrapolated = model.epsilon(torch.lerp(reference, policy, 1.5), latents, timesteps)
    of_policy = model.epsilon(policy, latents, timesteps)
    of_reference = model.epsilon(reference, latents, timesteps)
    expected = of_reference + 1.5 * (of_policy - of_reference)
    torch.testing.assert_close(extrapolated, expected, atol=1e-4, rtol=1e-4)


def test_the_training_timesteps_of_sd3_are_logit_normal_and_shifted(tmp_path):
    """The median of a logit-normal is 1/2; a shift of 3 makes sigma 3 * 0.5 / (1 + 2 * 0.5)."""
    model = load(stable_diffusion_3(tmp_path / "m"))
    drawn = torch.tensor([model.training_timestep(g) for g in generators(range(2000))])
    assert drawn.median().item() == pytest.approx(750, abs=15)


@pytest.mark.parametrize("use_lora", [False, True])
def test_a_trained_checkpoint_draws_the_same_in_plain_diffusers(
    family, folder, model, use_lora, tmp_path, tiny_clip
):
    """rollout, score, make-pairs, train, rollout again: and the images are the pipeline's."""
    (tmp_path / "prompts.jsonl").write_text(
        "".join(f'{{"prompt_id": "p{n}", "prompt": "{p}"}}\n' for n, p in enumerate(PROMPTS))
    )
    drawing = {
        "scheduler": family.scheduler,
        "num_inference_steps": 2,
        "guidance_scale": 5.0,
        "height": HEIGHT,
        "width": WIDTH,
        "dtype": "fp32",
    }
    config = RolloutConfig(policy=str(folder), num_images_per_prompt=2, **drawing)
    roll_out(tmp_path / "prompts.jsonl", tmp_path / "main", config, OPTIONS, "0/1")
    judging = ScoreConfig(reward=(f"pickscore:model={tiny_clip}",))
    score_folder(tmp_path / "main", tmp_path / "main" / "scores", judging, OPTIONS, "0/1")
    pairs = tmp_path / "pairs.jsonl"
    make_pairs([tmp_path / "main"], pairs, MakePairsConfig(), PairImagesConfig(), OPTIONS, "0/1")
    checkpoint = tmp_path / "checkpoint"
    training = TrainConfig(
        init_from=str(folder),
        objective="dpo:beta=100",
        max_train_steps=2,
        train_batch_size=2,
        learning_rate=1e-2 if use_lora else 1e-4,
        warmup_ratio=0,
        use_lora=use_lora,
        lora_rank=2,
        lora_alpha=4,
        mixed_precision="fp32",
        max_error_ratio=100,
    )
    train_policy([pairs], checkpoint, training, OPTIONS)
    again = RolloutConfig(policy=str(checkpoint), num_images_per_prompt=1, **drawing)
    roll_out(tmp_path / "prompts.jsonl", tmp_path / "again", again, OPTIONS, "0/1")
    rollout = open_rollout(tmp_path / "again")
    latents = read_tensors(rollout.latents_path(0))
    assert all(tensor.isfinite().all() for tensor in latents.values())

    ours = drawn_by_us(load(checkpoint), family, None)
    pipelines = [load_diffusers(folder if use_lora else checkpoint)]
    if use_lora:
        pipelines[0].load_lora_weights(checkpoint, weight_name=ADAPTER_WEIGHTS)
        adapted = read_tensors(checkpoint / ADAPTER_WEIGHTS)
        text = any(".attn.add_q_proj." in name for name in adapted)
        assert text == (pipeline_class(folder) in FLOW_MATCHING)
        if pipeline_class(folder) != "StableDiffusion3Pipeline":  # which diffusers does not read
            pipelines.append(load_diffusers(folder))
            pipelines[1].load_lora_weights(checkpoint, weight_name=KOHYA_WEIGHTS)
    for pipeline in pipelines:
        expected = drawn_by_diffusers(pipeline, noise(ours.shape[1:]), None)
        torch.testing.assert_close(ours, expected, atol=1e-3, rtol=1e-2)
    before = drawn_by_us(model, family, None)
    assert (ours - before).abs().max() > 1e-2


def test_what_the_size_says_matters_to_sdxl(tmp_path):
    """The same prompt at another size is another condition, beyond the latents' shape."""
    model = load(stable_diffusion_xl(tmp_path / "m"))
    seen = []
    model.network.add_embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for size in (64, 96):
        latents = torch.zeros(1, *model.latent_shape(size, 64))
        model.predict(latents, torch.tensor([5]), model.encode(["a cat"]))
    assert not seen[0].equal(seen[1])


def test_the_vae_decodes_in_fp32_where_fp16_overflows(tmp_path, tiny_sd):
    sdxl = stable_diffusion_xl(tmp_path / "m")
    assert load_decoder(str(sdxl), CPU, torch.float16).vae.dtype is torch.float32
    assert load_decoder(str(sdxl), CPU, torch.bfloat16).vae.dtype is torch.bfloat16


def test_a_size_that_does_not_fit_is_refused(family, model):
    multiple = 8 if family.scheduler == "euler" else 16
    with pytest.raises(UsageError, match=f"--width must be a multiple of {multiple}, got 100"):
        model.latent_shape(64, 100)


def test_a_scheduler_belongs_to_a_family():
    assert scheduler_of("StableDiffusionXLPipeline", None) == "ddpm"
    assert scheduler_of("FluxPipeline", None) == "flow-match-euler"
    with pytest.raises(UsageError, match="ddim does not work with a FluxPipeline"):
        scheduler_of("FluxPipeline", "ddim")
    with pytest.raises(
        UsageError, match="flow-match-euler does not work with a StableDiffusionPip"
    ):
        scheduler_of("StableDiffusionPipeline", "flow-match-euler")


def test_flux_takes_no_negative_prompts():
    check_negative_prompts("StableDiffusion3Pipeline", used=True)
    with pytest.raises(UsageError, match="takes no negative prompts: its guidance is distilled"):
        check_negative_prompts("FluxPipeline", used=True)


def test_flow_matching_has_no_kl_and_no_step_candidates(tmp_path):
    policy = str(flux(tmp_path / "m"))
    (tmp_path / "prompts.jsonl").write_text('{"prompt_id": "p", "prompt": "a cat"}\n')
    for flag, settings in (
        ("--kl-to", {"kl_to": "embedded:emoji-sd"}),
        ("--num-step-candidates", {"num_step_candidates": 2, "step_reward": "pickscore"}),
    ):
        config = RolloutConfig(policy=policy, **settings)
        with pytest.raises(UsageError, match=f"{flag} needs Gaussian steps, but a FluxPipeline"):
            roll_out(tmp_path / "prompts.jsonl", tmp_path / "out", config, OPTIONS, "0/1")
    assert not (tmp_path / "out").exists()
