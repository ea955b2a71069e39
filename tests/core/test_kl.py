import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from expo_cli.core.gaussian_steps import gaussian_steps
from expo_cli.core.kl import step_kl, step_kl_weights
from expo_cli.models.schedulers import alphas_at, previous_timesteps

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
}


def make_scheduler(name: str):
    if name == "ddpm":
        return DDPMScheduler(**SCHEDULE, timestep_spacing="leading")
    return DDIMScheduler(**SCHEDULE, timestep_spacing="leading", set_alpha_to_one=True)


def weights_of(scheduler, eta: float = 1.0) -> torch.Tensor:
    before = alphas_at(scheduler, scheduler.timesteps)
    after = alphas_at(scheduler, previous_timesteps(scheduler))
    return step_kl_weights(gaussian_steps(before, after, eta))


def step(scheduler, epsilon, timestep, latents, eta, seed):
    extra = {"eta": eta} if isinstance(scheduler, DDIMScheduler) else {}
    generator = torch.Generator().manual_seed(seed)
    return scheduler.step(epsilon, timestep, latents, generator=generator, **extra).prev_sample


@pytest.mark.parametrize(("name", "eta"), [("ddpm", 1.0), ("ddim", 1.0), ("ddim", 0.3)])
def test_weights_are_those_of_diffusers_own_step(name, eta):
    """Same noise, another prediction: the steps differ by c_t * difference. Same prediction,
    other noise: they differ by sigma_t * difference. So w_t = c_t^2 / (2 sigma_t^2) can be seen."""
    scheduler = make_scheduler(name)
    scheduler.set_timesteps(10)
    weights = weights_of(scheduler, eta)
    latents = torch.randn(1, 4, 8, 8, dtype=torch.double)
    one, two = torch.randn(2, 1, 4, 8, 8, dtype=torch.double)
    noise_one, noise_two = (
        torch.randn(latents.shape, generator=torch.Generator().manual_seed(s), dtype=torch.double)
        for s in (0, 1)
    )
    for weight, timestep in list(zip(weights, scheduler.timesteps, strict=True))[:-1]:
        moved = step(scheduler, one, timestep, latents, eta, 0) - step(
            scheduler, two, timestep, latents, eta, 0
        )
        c = (moved.norm() / (one - two).norm()).item()
        spread = step(scheduler, one, timestep, latents, eta, 0) - step(
            scheduler, one, timestep, latents, eta, 1
        )
        sigma = (spread.norm() / (noise_one - noise_two).norm()).item()
        assert weight.item() == pytest.approx(c**2 / (2 * sigma**2), rel=2e-3)
    assert weights[-1] == 0


def test_trajectory_kl_equals_a_monte_carlo_estimate():
    """E[log p(x_{t-1}|x_t) - log q(x_{t-1}|x_t)] over trajectories of p, with log-densities of
    the Gaussians that diffusers' DDPM steps draw from."""
    torch.manual_seed(0)
    scheduler = make_scheduler("ddpm")
    scheduler.set_timesteps(8)
    policy, reference = 0.90, 0.93  # eps(x) = a * x
    x = torch.randn(20000, 1, 2, 2, dtype=torch.double)
    weights = weights_of(scheduler)
    analytic = torch.zeros(len(x), dtype=torch.double)
    log_ratio = torch.zeros(len(x), dtype=torch.double)
    for number, timestep in enumerate(scheduler.timesteps[:-1]):
        following = scheduler.timesteps[number + 1]
        cumulative = scheduler.alphas_cumprod.double()
        alpha, alpha_before = cumulative[timestep], cumulative[following]
        ratio = alpha / alpha_before
        variance = (1 - ratio) * (1 - alpha_before) / (1 - alpha)

        def mean(epsilon, x=x, alpha=alpha, alpha_before=alpha_before, ratio=ratio):
            clean = (x - (1 - alpha).sqrt() * epsilon) / alpha.sqrt()
            return (
                alpha_before.sqrt() * (1 - ratio) * clean + ratio.sqrt() * (1 - alpha_before) * x
            ) / (1 - alpha)

        drawn = mean(policy * x) + variance.sqrt() * torch.randn_like(x)
        analytic += step_kl(weights[number], policy * x, reference * x)
        squares = [(drawn - mean(a * x)).square().flatten(1).sum(1) for a in (policy, reference)]
        log_ratio += (squares[1] - squares[0]) / (2 * variance)
        x = drawn
    standard_error = log_ratio.std().item() / math.sqrt(len(log_ratio))
    assert analytic.mean().item() > 10 * standard_error
    assert analytic.mean().item() == pytest.approx(log_ratio.mean().item(), abs=4 * standard_error)
