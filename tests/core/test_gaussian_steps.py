"""DDIM's steps as Gaussians, against diffusers' scheduler and torch's own normal distribution."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from expo_cli.core.gaussian_steps import GaussianSteps, clean_latents, gaussian_steps
from expo_cli.models.schedulers import alphas_at, previous_timesteps


def ddim(set_alpha_to_one: bool = False) -> DDIMScheduler:
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=set_alpha_to_one,
        steps_offset=1,
    )
    scheduler.set_timesteps(10)
    return scheduler


def steps_of(scheduler: DDIMScheduler, eta: float) -> GaussianSteps:
    return gaussian_steps(
        alphas_at(scheduler, scheduler.timesteps),
        alphas_at(scheduler, previous_timesteps(scheduler)),
        eta,
    )


def normal(seed: int) -> torch.Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("eta", [1.0, 0.3])
@pytest.mark.parametrize("set_alpha_to_one", [False, True])
def test_mean_and_deviation_are_those_of_diffusers_ddim(eta, set_alpha_to_one):
    scheduler = ddim(set_alpha_to_one)
    steps = steps_of(scheduler, eta)
    latents, epsilon, noise = normal(0), normal(1), normal(2)
    for number, timestep in enumerate(scheduler.timesteps):
        step = steps.at(number)

        def stepped(variance_noise, timestep=timestep):
            return scheduler.step(
                epsilon, timestep, latents, eta=eta, variance_noise=variance_noise
            ).prev_sample

        mean = step.mean(latents, epsilon)
        torch.testing.assert_close(mean, stepped(torch.zeros_like(noise)), atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(step.draw(mean, noise), stepped(noise), atol=2e-5, rtol=1e-4)
    assert (steps.sigma[:-1] > 0).all()
    assert (steps.sigma[-1] > 0) != set_alpha_to_one


def test_with_eta_0_there_is_no_noise():
    assert steps_of(ddim(), 0.0).sigma.tolist() == [0.0] * 10


def test_each_row_may_be_at_a_step_and_of_an_eta_of_its_own():
    scheduler = ddim()
    chosen = torch.tensor([7, 2])
    together = gaussian_steps(
        alphas_at(scheduler, scheduler.timesteps[chosen]),
        alphas_at(scheduler, previous_timesteps(scheduler)[chosen]),
        torch.tensor([1.0, 0.3], dtype=torch.float64),
    )
    latents, epsilon, noise = normal(0), normal(1), normal(2)
    mean = together.mean(latents, epsilon)
    drawn = together.draw(mean, noise)
    density = together.log_density(drawn, mean)
    for row, (number, eta) in enumerate([(7, 1.0), (2, 0.3)]):
        alone = steps_of(scheduler, eta).at(number)
        rows = slice(row, row + 1)
        alone_mean = alone.mean(latents[rows], epsilon[rows])
        torch.testing.assert_close(mean[rows], alone_mean)
        torch.testing.assert_close(drawn[rows], alone.draw(alone_mean, noise[rows]))
        torch.testing.assert_close(density[rows], alone.log_density(drawn[rows], alone_mean))


def test_log_density_by_hand():
    # Both elements are one deviation off: -1/2 - log(0.5) - log(2 pi) / 2, as their mean.
    half = torch.tensor([0.5])
    steps = GaussianSteps(scale=half, drift=half, sigma=half)
    density = steps.log_density(torch.tensor([[1.5, -0.5]]), torch.tensor([[1.0, 0.0]]))
    assert density.tolist() == pytest.approx([-0.5 + math.log(2) - 0.5 * math.log(2 * math.pi)])


@pytest.mark.parametrize("eta", [1.0, 0.3])
def test_log_density_is_the_mean_of_torchs_normal_distribution(eta):
    steps = steps_of(ddim(), eta).at(4)
    mean, previous = normal(3).double(), normal(4).double()
    expected = torch.distributions.Normal(mean, steps.sigma.item()).log_prob(previous)
    torch.testing.assert_close(
        steps.log_density(previous, mean), expected.flatten(start_dim=1).mean(dim=1)
    )


def test_clean_latents_are_what_diffusers_predicts_of_the_original():
    scheduler = ddim()
    latents, epsilon = normal(0), normal(1)
    for timestep in scheduler.timesteps:
        expected = scheduler.step(epsilon, timestep, latents).pred_original_sample
        alpha = scheduler.alphas_cumprod[timestep].view(1)
        torch.testing.assert_close(clean_latents(latents, epsilon, alpha), expected)
