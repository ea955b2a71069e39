"""Gaussian denoising steps, x_prev ~ N(mean, sigma^2): DDIM with eta > 0.

Song et al., arXiv 2010.02502, eq. 12 and 16. eta = 1 is DDPM with its posterior variance (Ho et al.,
arXiv 2006.11239, eq. 7).
"""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class GaussianSteps:
    """Steps with mean `scale * x_t - drift * epsilon` and standard deviation `sigma`, each [steps].

    Methods take a batch whose rows [channels, height, width] are each at their own step, or all at
    the same one if there is a single step, as returned by `at`.
    """

    scale: Tensor
    drift: Tensor
    sigma: Tensor

    def at(self, number: int) -> "GaussianSteps":
        return GaussianSteps(*(each[number : number + 1] for each in vars(self).values()))

    def mean(self, latents: Tensor, epsilon: Tensor) -> Tensor:
        """The mean of x_prev, given x_t and the predicted noise."""
        return _by_row(self.scale, latents) * latents - _by_row(self.drift, latents) * epsilon

    def draw(self, mean: Tensor, noise: Tensor) -> Tensor:
        """x_prev with the given standard normal noise."""
        return mean + _by_row(self.sigma, mean) * noise

    def log_density(self, previous: Tensor, mean: Tensor) -> Tensor:
        """log N(x_prev; mean, sigma^2) of each row, [batch], averaged over the elements as in SPO.

        sigma must not be 0.
        """
        sigma = _by_row(self.sigma, mean)
        standardised = (previous - mean) / sigma
        density = -0.5 * standardised.square() - sigma.log() - 0.5 * math.log(2 * math.pi)
        return density.flatten(start_dim=1).mean(dim=1)


def gaussian_steps(
    alphas: Tensor, previous_alphas: Tensor, eta: float | Tensor = 1.0
) -> GaussianSteps:
    """The steps between noise levels, given abar before and after each step, [steps] each."""
    before, after = alphas.double(), previous_alphas.double()
    variance = eta**2 * (1 - after) / (1 - before) * (1 - before / after)
    direction = (1 - after - variance).clamp(min=0).sqrt()
    return GaussianSteps(
        scale=(after / before).sqrt(),
        drift=(after / before * (1 - before)).sqrt() - direction,
        sigma=variance.sqrt(),
    )


def clean_latents(latents: Tensor, epsilon: Tensor, alpha: Tensor) -> Tensor:
    """The predicted final latents of x_t with noise `epsilon`; `alpha` is abar, [batch]."""
    alpha = _by_row(alpha, latents)
    return (latents - (1 - alpha).sqrt() * epsilon) / alpha.sqrt()


def _by_row(values: Tensor, latents: Tensor) -> Tensor:
    """Reshapes values [batch], or [1] for all rows, to broadcast over latents."""
    return values.to(latents.device, latents.dtype).view(-1, *[1] * (latents.dim() - 1))
