"""Rollouts against diffusers' own pipeline, on random weights in SD 1.5's layout."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.schedulers import scheduling_euler_discrete

from expo_cli.core.exploration import SamplingPlan
from expo_cli.core.noise import generators, normal
from expo_cli.errors import UsageError
from expo_cli.models.loading import load_model
from expo_cli.models.protocol import Conditioning
from expo_cli.models.sampling import draw, guided
from expo_cli.models.schedulers import SAMPLERS, make_scheduler

CPU = torch.device("cpu")
SEEDS = [11, 12]
PROMPTS = ["a red cat", "two blue dogs, photograph"]
NEGATIVE = ["", "blurry"]


def draw_latents(folder, plan, rows=(0, 1)):
    model = load_model(str(folder), CPU, torch.float32)
    return draw(
        model,
        model.encode([PROMPTS[r] for r in rows]),
        model.encode([NEGATIVE[r] for r in rows]),
        [SEEDS[r] for r in rows],
        model.latent_shape(64, 64),
        plan,
    ).latents


@pytest.mark.parametrize("layout", ["tiny_sd", "tiny_sd_v"])
@pytest.mark.parametrize("scheduler", SAMPLERS)
def test_latents_are_those_of_diffusers_pipeline(layout, scheduler, request):
    eta = 0.6 if scheduler == "ddim" else 0.0
    assert_as_diffusers(request.getfixturevalue(layout), scheduler, eta, guidance_scale=5.0)


@pytest.mark.parametrize("guidance_scale", [0.0, 0.5, 1.0, 1.5])
def test_guidance_of_1_and_less_is_none_as_in_diffusers_pipeline(tiny_sd, guidance_scale):
    assert_as_diffusers(tiny_sd, "ddim", 0.0, guidance_scale)


def assert_as_diffusers(folder, scheduler, eta, guidance_scale):
    plan = SamplingPlan(
        scheduler=scheduler, num_inference_steps=4, guidance_scale=guidance_scale, eta=eta
    )
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = load_model(str(folder), CPU, torch.float32).make_scheduler(scheduler)
    own = generators(SEEDS)
    noise = torch.stack([normal(generator, (4, 8, 8)) for generator in own])
    expected = pipeline(
        PROMPTS,
        negative_prompt=NEGATIVE,
        num_inference_steps=4,
        guidance_scale=guidance_scale,
        eta=eta,
        latents=noise,
        generator=own,
        output_type="latent",
    ).images
    torch.testing.assert_close(draw_latents(folder, plan), expected, atol=2e-4, rtol=1e-3)


def test_a_sample_does_not_depend_on_its_batch(tiny_sd):
    plan = SamplingPlan(scheduler="ddpm", num_inference_steps=3)
    together = draw_latents(tiny_sd, plan)
    alone = draw_latents(tiny_sd, plan, rows=(1,))
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("guidance_scale", [1, 0.3])
def test_guidance_1_ignores_the_negative_prompt(tiny_sd, guidance_scale):
    plan = SamplingPlan(scheduler="ddim", num_inference_steps=2, guidance_scale=guidance_scale)
    model = load_model(str(tiny_sd), CPU, torch.float32)
    prompts, shape = model.encode(PROMPTS[:1]), (4, 8, 8)
    one = draw(model, prompts, model.encode(["blurry"]), [1], shape, plan)
    two = draw(model, prompts, model.encode(["sharp"]), [1], shape, plan)
    assert one.latents.equal(two.latents)


def test_each_row_of_a_batch_is_guided_by_its_own_scale(tiny_sd):
    """Step pairs: a row with a scale of 1 or less is predicted from its prompt alone."""
    model = load_model(str(tiny_sd), CPU, torch.float32)
    latents, at = (
        torch.stack([normal(g, (4, 8, 8)) for g in generators([1, 2, 3])]),
        torch.tensor(7),
    )
    prompts, negative = model.encode(["a cat"] * 3), model.encode(["blurry"] * 3)
    both = Conditioning.concatenate([negative, prompts])
    scales = torch.tensor([0.0, 0.5, 3.0]).view(-1, 1, 1, 1)
    mixed = guided(model, latents, at, both, scales)
    alone = guided(model, latents, at, prompts, 1.0)
    torch.testing.assert_close(mixed[:2], alone[:2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mixed[2:], guided(model, latents, at, both, 3.0)[2:])


@pytest.mark.parametrize("layout", ["tiny_sd", "tiny_sd_v"])
def test_kl_to_itself_is_0_and_to_others_is_not(layout, tiny_sd_other, request):
    model = load_model(str(request.getfixturevalue(layout)), CPU, torch.float32)
    other = load_model(str(tiny_sd_other), CPU, torch.float32)
    arguments = (model, model.encode(PROMPTS), model.encode(NEGATIVE), SEEDS, (4, 8, 8))
    plan = SamplingPlan(scheduler="ddpm", num_inference_steps=4)
    assert draw(*arguments, plan, reference=model).kl_steps.abs().max() == 0
    kl_steps = draw(*arguments, plan, reference=other).kl_steps
    assert kl_steps.shape == (2, 4)
    assert (kl_steps[:, :-1] > 0).all()
    assert (kl_steps[:, -1] == 0).all()


def test_ddims_last_step_has_noise_where_the_schedule_does_not_end_at_1(tiny_sd, tiny_sd_other):
    """Stable Diffusion's `set_alpha_to_one: false`: the last step leads to the first training
    timestep, and with eta above 0 diffusers adds noise there."""
    model = load_model(str(tiny_sd), CPU, torch.float32)
    other = load_model(str(tiny_sd_other), CPU, torch.float32)
    scheduler = model.make_scheduler("ddim")
    assert scheduler.final_alpha_cumprod < 1
    plan = SamplingPlan(scheduler="ddim", eta=1.0, num_inference_steps=4)
    encoded, negative = model.encode(PROMPTS), model.encode(NEGATIVE)
    kl_steps = draw(model, encoded, negative, SEEDS, (4, 8, 8), plan, reference=other).kl_steps
    assert (kl_steps > 0).all()


def test_kl_is_refused_where_steps_are_not_gaussian(tiny_sd):
    model = load_model(str(tiny_sd), CPU, torch.float32)
    encoded = model.encode(PROMPTS)
    for plan in (SamplingPlan(scheduler="euler"), SamplingPlan(scheduler="ddim", eta=0)):
        with pytest.raises(UsageError, match="Gaussian"):
            draw(model, encoded, encoded, SEEDS, (4, 8, 8), plan, reference=model)


def test_decoding_equals_the_pipelines(tiny_sd):
    model = load_model(str(tiny_sd), CPU, torch.float32)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd)
    latents = torch.randn(2, 4, 8, 8)
    images = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    expected = pipeline.image_processor.postprocess(images.detach(), output_type="pt")
    torch.testing.assert_close(model.decode(latents), expected, atol=1e-5, rtol=1e-4)


def test_v_prediction_implies_the_right_noise(tiny_sd_v):
    model = load_model(str(tiny_sd_v), CPU, torch.float32)
    clean, noise, timesteps = (
        torch.randn(2, 4, 8, 8),
        torch.randn(2, 4, 8, 8),
        torch.tensor([5, 700]),
    )
    noisy = model.add_noise(clean, noise, timesteps)
    velocity = model.target(clean, noise, timesteps)
    torch.testing.assert_close(
        model.epsilon(velocity, noisy, timesteps), noise, atol=1e-4, rtol=1e-3
    )


def test_extrapolating_a_v_prediction_is_extrapolating_the_noise(tiny_sd_v):
    """As with a velocity in tests/models/test_families.py: eps_ref + w (eps_policy - eps_ref)."""
    model = load_model(str(tiny_sd_v), CPU, torch.float32)
    latents, policy, reference = (torch.randn(2, 4, 8, 8) for _ in range(3))
    timesteps = torch.tensor([5, 700])
    extrapolated = model.epsilon(torch.lerp(reference, policy, 1.5), latents, timesteps)
    of_policy = model.epsilon(policy, latents, timesteps)
    of_reference = model.epsilon(reference, latents, timesteps)
    expected = of_reference + 1.5 * (of_policy - of_reference)
    torch.testing.assert_close(extrapolated, expected, atol=1e-4, rtol=1e-4)


def test_a_schedule_that_needs_scipy_says_so(monkeypatch):
    """diffusers takes beta sigmas from scipy, which need not be installed."""
    monkeypatch.setattr(scheduling_euler_discrete, "is_scipy_available", lambda: False)
    with pytest.raises(UsageError, match="--scheduler euler: .*scipy"):
        make_scheduler("euler", {"use_beta_sigmas": True})
