"""KL divergence between two policies along a sampled trajectory (Figure 5)."""

import torch
from torch import Tensor

from expo_cli.core.gaussian_steps import GaussianSteps


def step_kl_weights(steps: GaussianSteps) -> Tensor:
    """w_t of KL_t = w_t * ||eps_theta - eps_ref||^2 in fp64, [steps].

    The mean moves with eps by -c_t, the drift, so w_t = c_t^2 / (2 sigma_t^2). It is 0 for a step
    with sigma 0, such as the last one of DDPM (its KL is left out, not infinite).
    """
    return torch.where(steps.sigma > 0, steps.drift.square() / (2 * steps.sigma.square()), 0.0)


def step_kl(weight: Tensor, epsilon: Tensor, reference_epsilon: Tensor) -> Tensor:
    """KL_t in nats of each sample: [batch, channels, height, width] twice -> [batch]."""
    difference = (epsilon.double() - reference_epsilon.double()).flatten(start_dim=1)
    return weight * difference.square().sum(dim=1)
