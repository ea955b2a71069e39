"""KL divergence between two policies along a sampled trajectory (Figure 5)."""

import torch
from torch import Tensor


def step_kl_weights(alphas_cumprod: Tensor, timesteps: Tensor, eta: float = 1.0) -> Tensor:
    """w_t of KL_t = w_t * ||eps_theta - eps_ref||^2, one for each of `timesteps`.

    For a sampler whose steps are Gaussians of shared variance, DDIM of the given eta (Song et
    al., arXiv 2010.02502, eq. 12 and 16); eta = 1 is DDPM with its posterior variance (Ho et al.,
    arXiv 2006.11239, eq. 7). The mean moves with eps by -c_t, so w_t = c_t^2 / (2 sigma_t^2).

    Args:
        alphas_cumprod: the training schedule, [num_train_timesteps].
        timesteps: visited timesteps, falling, [steps].
        eta: more than 0.

    Returns:
        [steps]; 0 for the last step, whose sigma is 0 (its KL is left out, not infinite).
    """
    current = alphas_cumprod.double()[timesteps]
    previous = torch.cat([current[1:], torch.ones(1, dtype=torch.double)])
    variance = eta**2 * (1 - previous) / (1 - current) * (1 - current / previous)
    c = (previous / current * (1 - current)).sqrt() - (1 - previous - variance).clamp(min=0).sqrt()
    weights = c.square() / (2 * variance)
    return torch.where(variance > 0, weights, 0.0)


def step_kl(weight: Tensor, epsilon: Tensor, reference_epsilon: Tensor) -> Tensor:
    """KL_t in nats of each sample: [batch, channels, height, width] twice -> [batch]."""
    difference = (epsilon.double() - reference_epsilon.double()).flatten(start_dim=1)
    return weight * difference.square().sum(dim=1)
