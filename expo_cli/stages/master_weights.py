"""An fp32 copy of the trained weights behind a network that computes in lower precision.

Updates of a preference step are far below the resolution of bf16 and fp16 weights, and a network
whose weights are in low precision runs faster than one under autocast.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class MasterWeights:
    """`masters` (fp32) is what the optimiser sees; `working` what the network computes with.

    Gradients of several forward passes, and of several processes, are added in fp32.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        trained = {name: p for name, p in parameters if p.requires_grad}
        self.names = list(trained)
        self.working = list(trained.values())
        self.masters = [p.detach().float().clone() for p in self.working]
        for master in self.masters:
            master.grad = torch.zeros_like(master)

    def collect_gradients(self, scale: float = 1.0) -> None:
        """Add the network's gradients, times `scale`, to the masters' and clear them."""
        for master, working in zip(self.masters, self.working, strict=True):
            if working.grad is not None:
                master.grad.add_(working.grad.float(), alpha=scale)
                working.grad = None

    def clear_gradients(self) -> None:
        for master in self.masters:
            master.grad.zero_()

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the network."""
        for master, working in zip(self.masters, self.working, strict=True):
            working.copy_(master)

    def state(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.masters, strict=True))

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        for name, master in zip(self.names, self.masters, strict=True):
            master.copy_(tensors[name])
        self.publish()


class GradientSum:
    """The exploration term's own gradient, for its norm; the rest of the gradient is the other's."""

    def __init__(self, masters: MasterWeights) -> None:
        self.masters = masters
        self.sums = [torch.zeros_like(master) for master in masters.masters]

    def add(self, loss: Tensor) -> None:
        if not loss.requires_grad:  # no pair of the micro-batch has an explore sample
            return
        gradients = torch.autograd.grad(
            loss, self.masters.working, retain_graph=True, allow_unused=True
        )
        for total, gradient in zip(self.sums, gradients, strict=True):
            if gradient is not None:
                total.add_(gradient.float())

    def norms(self, loss_scale: float) -> dict[str, float]:
        """Norms of both terms' gradients in this process, before clipping."""
        pairs = list(zip(self.masters.masters, self.sums, strict=True))
        own_square = sum(own.square().sum() for _, own in pairs)
        rest = sum((master.grad - own).square().sum() for master, own in pairs)
        return {
            "exploration_grad_norm": own_square.sqrt().item() / loss_scale,
            "preference_grad_norm": rest.sqrt().item() / loss_scale,
        }
