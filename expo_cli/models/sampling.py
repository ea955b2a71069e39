"""Drawing latents: classifier-free guidance around any sampler, with noise that each sample owns."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from expo_cli.core.exploration import SamplingPlan
from expo_cli.core.kl import step_kl, step_kl_weights
from expo_cli.core.noise import generators, normal
from expo_cli.errors import UsageError
from expo_cli.models.protocol import Conditioning, DiffusionModel


@dataclass(frozen=True)
class Trajectory:
    """Final latents [batch, channels, height, width], and each step's KL [batch, steps] in nats."""

    latents: Tensor
    kl_steps: Tensor | None = None


def guided(
    model: DiffusionModel,
    latents: Tensor,
    timestep: Tensor,
    conditioning: Conditioning,
    guidance_scale: float,
) -> Tensor:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598), fp32.

    With guidance, `conditioning` holds the negative half first, then the prompts' half.
    """
    if guidance_scale == 1:
        return model.predict(latents, timestep.expand(len(latents)), conditioning).float()
    doubled = torch.cat([latents, latents])
    prediction = model.predict(doubled, timestep.expand(len(doubled)), conditioning).float()
    negative, positive = prediction.chunk(2)
    return negative + guidance_scale * (positive - negative)


@torch.inference_mode()
def draw(
    model: DiffusionModel,
    conditioning: Conditioning,
    negative: Conditioning,
    seeds: Sequence[int],
    shape: tuple[int, int, int],
    plan: SamplingPlan,
    reference: DiffusionModel | None = None,
) -> Trajectory:
    """Draw one sample a row of `conditioning`.

    All of a sample's noise, the first and each step's, comes from its own seed, so it does not
    depend on the batch it is drawn in. With `reference`, each step's KL to it is kept (the last
    step, which has no noise, counts 0).
    """
    scheduler = model.make_scheduler(plan.scheduler)
    try:
        scheduler.set_timesteps(plan.num_inference_steps)
    except ValueError as error:  # more steps than the model was trained on
        raise UsageError(f"--num-inference-steps {plan.num_inference_steps}: {error}") from error
    guidance = plan.guidance_scale
    both = conditioning if guidance == 1 else Conditioning.concatenate([negative, conditioning])
    own = generators(seeds)
    latents = torch.stack([normal(generator, shape) for generator in own]).to(model.device)
    latents = latents * scheduler.init_noise_sigma
    extra = {"eta": plan.eta} if plan.scheduler == "ddim" else {}
    if reference is not None:
        weights = step_kl_weights(
            model.alphas_cumprod(), scheduler.timesteps.long(), plan.gaussian_eta()
        )
    kl_steps = []
    for step, timestep in enumerate(scheduler.timesteps):
        inputs = scheduler.scale_model_input(latents, timestep)
        prediction = guided(model, inputs, timestep, both, guidance)
        if reference is not None:
            other = guided(reference, inputs, timestep, both, guidance)
            at = timestep.long().expand(len(latents))
            epsilon = model.epsilon(prediction, latents, at)
            reference_epsilon = reference.epsilon(other, latents, at)
            kl_steps.append(step_kl(weights[step].to(model.device), epsilon, reference_epsilon))
        latents = scheduler.step(prediction, timestep, latents, generator=own, **extra).prev_sample
    return Trajectory(latents.cpu(), torch.stack(kl_steps, dim=1).cpu() if kl_steps else None)
