"""An fp32 copy of the trained weights behind a network that computes in lower precision.

Updates of a preference step are far below the resolution of bf16 and fp16 weights, and a network
whose weights are in low precision runs faster than one under autocast.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from expo_cli.stages.training.slices import Slices


class MasterWeights:
    """`masters` (fp32) is what the optimiser sees; `working` what the network computes with.

    Gradients of several forward passes, and of several processes, are added in fp32. Where there
    are several `slices`, each process holds, and updates, one slice of every master and of its
    gradient (ZeRO stage 2, Rajbhandari et al., arXiv 1910.02054); then `collect_gradients`,
    `publish`, `whole`, `state` and `total` are called by all processes at once.
    """

    def __init__(
        self, parameters: Iterable[tuple[str, nn.Parameter]], slices: Slices | None = None
    ) -> None:
        trained = {name: p for name, p in parameters if p.requires_grad}
        self.slices = slices or Slices()
        self.names = list(trained)
        self.working = list(trained.values())
        self.masters = [self.slices.own(p.detach().float()).clone() for p in self.working]
        for master in self.masters:
            master.grad = torch.zeros_like(master)

    def collect_gradients(self) -> None:
        """Add the network's gradients to the masters' and clear them."""
        for master, working in zip(self.masters, self.working, strict=True):
            if working.grad is None and self.slices.count == 1:
                continue
            gradient = torch.zeros_like(working) if working.grad is None else working.grad
            master.grad.add_(self.slices.mean(gradient.float()))
            working.grad = None

    def clear_gradients(self) -> None:
        for master in self.masters:
            master.grad.zero_()

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the network."""
        for master, working in zip(self.masters, self.working, strict=True):
            working.copy_(self.slices.whole(master.to(working.dtype), working.shape))

    def whole(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Tensors that belong to the masters, and are sliced as these are, whole and by name.

        Gathered ones are on the CPU.
        """
        if self.slices.count == 1:
            return dict(zip(self.names, tensors, strict=True))
        return {
            name: self.slices.whole(tensor, working.shape).cpu()
            for name, tensor, working in zip(self.names, tensors, self.working, strict=True)
        }

    def state(self) -> dict[str, Tensor]:
        return self.whole(self.masters)

    def total(self, sum_of_own: Tensor) -> Tensor:
        """A sum over elements of the masters, of those of this process made that of all."""
        return self.slices.total(sum_of_own)

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        for name, master in zip(self.names, self.masters, strict=True):
            master.copy_(self.slices.own(tensors[name]))
        self.publish()


class GradientSum:
    """The exploration term's own gradient, for its norm; the rest of the gradient is the other's."""

    def __init__(self, masters: MasterWeights) -> None:
        self.masters = masters

    @cached_property
    def sums(self) -> list[Tensor]:
        """As large as the weights, so objectives without such a term do without."""
        return [torch.zeros_like(p, dtype=torch.float32) for p in self.masters.working]

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
        """Norms of both terms' gradients before clipping: in this process, or, where the masters
        are sliced, of the mean over processes."""
        masters = self.masters
        pairs = [
            (master.grad, masters.slices.mean(own))
            for master, own in zip(masters.masters, self.sums, strict=True)
        ]
        own_square = masters.total(sum(own.square().sum() for _, own in pairs))
        rest = masters.total(sum((whole - own).square().sum() for whole, own in pairs))
        return {
            "exploration_grad_norm": own_square.sqrt().item() / loss_scale,
            "preference_grad_norm": rest.sqrt().item() / loss_scale,
        }
