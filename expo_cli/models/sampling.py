"""Draws latents: classifier-free guidance with any sampler, and noise from each sample's own seed."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from expo_cli.core.exploration import SamplingPlan
from expo_cli.core.gaussian_steps import GaussianSteps, clean_latents, gaussian_steps
from expo_cli.core.kl import step_kl, step_kl_weights
from expo_cli.core.noise import generators, normal
from expo_cli.errors import UsageError
from expo_cli.models.protocol import Conditioning, DiffusionModel
from expo_cli.models.schedulers import alphas_at, previous_timesteps


@dataclass(frozen=True)
class Trajectory:
    """Final latents [batch, channels, height, width], and each step's KL [batch, steps] in nats."""

    latents: Tensor
    kl_steps: Tensor | None = None


@dataclass(frozen=True)
class View:
    """The network's view of latents: its guided prediction, and the final latents that it implies.

    There is no prediction for latents that are final themselves.
    """

    clean: Tensor
    prediction: Tensor | None = None


@dataclass(frozen=True)
class Fork:
    """A batch at a Gaussian step of DDIM, about to choose among candidates for x_prev.

    The step leads from `latents` x_t at `timestep` to `previous_timestep` (below 0: finished), with
    the given mean of x_prev. `look` returns the sampler's view of a candidate at `next_timestep`,
    which is 0 after the last step.
    """

    number: int
    timestep: int
    previous_timestep: int
    next_timestep: int
    latents: Tensor
    mean: Tensor
    step: GaussianSteps
    look: Callable[[Tensor], View]


class Branching(Protocol):
    """Chooses among candidates at every step with noise, from step `skip_steps` on."""

    skip_steps: int

    def choose(self, fork: Fork) -> tuple[Tensor, Tensor | None]:
        """The latents to continue from, and the prediction of their `View`."""


def guided(
    model: DiffusionModel,
    latents: Tensor,
    timesteps: Tensor,
    conditioning: Conditioning,
    guidance_scale: float | Tensor,
) -> Tensor:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598), fp32.

    `timesteps` is one for all or [batch], the scale one for all or [batch, 1, 1, 1]. With guidance,
    `conditioning` holds the negative half first, then the prompts' half; without, only prompts. As
    in diffusers' pipelines a scale of 1 or less is no guidance: the prompts' half alone.
    """
    timesteps = timesteps.expand(len(latents))
    if len(conditioning) == len(latents):
        return model.predict(latents, timesteps, conditioning).float()
    doubled = model.predict(latents.repeat(2, 1, 1, 1), timesteps.repeat(2), conditioning).float()
    negative, positive = doubled.chunk(2)
    scale = torch.as_tensor(guidance_scale, device=positive.device)
    return torch.where(scale > 1, negative + scale * (positive - negative), positive)


@dataclass(frozen=True)
class Extrapolation:
    """`guided`, extrapolated from a reference: `reference + w (policy - reference)`, in fp32.

    The noise that follows from a v-prediction or a velocity is affine in it at a given x_t, and
    the weights 1 - w and w sum to 1: extrapolating any of the three is extrapolating the noise.
    A `reference` that is the policy itself is the policy without its LoRA adapter.
    """

    reference: DiffusionModel
    w: float

    def __call__(
        self,
        model: DiffusionModel,
        latents: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        guidance_scale: float | Tensor,
    ) -> Tensor:
        policy = guided(model, latents, timesteps, conditioning, guidance_scale)
        shared = self.reference is model
        with model.reference() if shared else nullcontext():
            reference = guided(self.reference, latents, timesteps, conditioning, guidance_scale)
        return torch.lerp(reference, policy, self.w)  # at w = 1 exactly the policy


@torch.inference_mode()
def draw(
    model: DiffusionModel,
    conditioning: Conditioning,
    negative: Conditioning,
    seeds: Sequence[int],
    shape: tuple[int, int, int],
    plan: SamplingPlan,
    reference: DiffusionModel | None = None,
    branching: Branching | None = None,
    predict: Callable[..., Tensor] = guided,
) -> Trajectory:
    """Draw one sample per row of `conditioning`.

    All noise of a sample, initial and per step, comes from its own seed and does not depend on the
    batch. `negative` is unused if guidance is an input of the network. With `reference`, the KL of
    each step to it is returned (0 for a step without noise, such as the last one of DDPM). With
    `branching` (DDIM only), it chooses among candidates from step `skip_steps` on. `predict` is
    `guided` or an `Extrapolation`.
    """
    scheduler = model.make_scheduler(plan.scheduler)
    try:
        model.set_timesteps(scheduler, plan.num_inference_steps, shape)
    except ValueError as error:  # more steps than training timesteps
        raise UsageError(f"--num-inference-steps {plan.num_inference_steps}: {error}") from error
    guidance = plan.guidance_scale
    if conditioning.guidance is not None:
        both = replace(conditioning, guidance=torch.full_like(conditioning.guidance, guidance))
    elif not plan.is_guided:
        both = conditioning
    else:
        both = Conditioning.concatenate([negative, conditioning])
    own = generators(seeds)
    latents = torch.stack([normal(generator, shape) for generator in own]).to(model.device)
    latents = latents * scheduler.init_noise_sigma
    extra = {"eta": plan.eta} if plan.scheduler == "ddim" else {}
    if reference is not None or branching is not None:
        visited = scheduler.timesteps.long()
        previous = previous_timesteps(scheduler)
        alphas = alphas_at(scheduler, visited)
        steps = gaussian_steps(alphas, alphas_at(scheduler, previous), plan.gaussian_eta())
        weights = step_kl_weights(steps)

    def view(latents: Tensor, step: int) -> View:
        if step == len(visited):
            return View(latents)
        at = visited[step].expand(len(latents))
        prediction = predict(model, latents, at, both, guidance)
        epsilon = model.epsilon(prediction, latents, at)
        return View(clean_latents(latents, epsilon, alphas[step]), prediction)

    kl_steps = []
    known: Tensor | None = None
    for step, timestep in enumerate(scheduler.timesteps):
        inputs = scheduler.scale_model_input(latents, timestep)
        prediction = predict(model, inputs, timestep, both, guidance) if known is None else known
        at = timestep.long().expand(len(latents))
        if reference is not None:
            other = guided(reference, inputs, timestep, both, guidance)
            epsilon = model.epsilon(prediction, latents, at)
            reference_epsilon = reference.epsilon(other, latents, at)
            kl_steps.append(step_kl(weights[step].to(model.device), epsilon, reference_epsilon))
        if branching is not None and step >= branching.skip_steps and steps.sigma[step] > 0:
            here = steps.at(step)
            fork = Fork(
                number=step,
                timestep=int(visited[step]),
                previous_timestep=int(previous[step]),
                next_timestep=int(visited[step + 1]) if step + 1 < len(visited) else 0,
                latents=latents,
                mean=here.mean(latents, model.epsilon(prediction, latents, at)),
                step=here,
                look=partial(view, step=step + 1),
            )
            latents, known = branching.choose(fork)
        else:
            stepped = scheduler.step(prediction, timestep, latents, generator=own, **extra)
            latents, known = stepped.prev_sample, None
    return Trajectory(latents.cpu(), torch.stack(kl_steps, dim=1).cpu() if kl_steps else None)
