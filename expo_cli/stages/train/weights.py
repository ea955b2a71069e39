"""An fp32 copy of the trained weights behind a network that computes in lower precision.

Updates of a preference step are far below the resolution of bf16 and fp16 weights, and a network
whose weights are in low precision runs faster than one under autocast.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Slices:
    """Slice `index` of `count`, of the elements in a row, padded with zeros to equal lengths.

    With one slice a tensor is itself. `mean`, `whole` and `total` are called by all processes at
    once, in the same order.
    """

    def __init__(self, index: int = 0, count: int = 1) -> None:
        self.index, self.count = index, count

    def own(self, tensor: Tensor) -> Tensor:
        """This process's slice of a tensor that all hold: [any shape] -> [length]."""
        return tensor if self.count == 1 else self._all(tensor)[self.index]

    def mean(self, tensor: Tensor) -> Tensor:
        """This process's slice of the mean of what each holds: [any shape] -> [length]."""
        if self.count == 1:
            return tensor
        slices = self._all(tensor)
        total = torch.empty_like(slices[self.index])
        dist.reduce_scatter(total, list(slices))
        return total / self.count

    def whole(self, own: Tensor, shape: Sequence[int]) -> Tensor:
        """The tensor of a shape that all slices make: [length] -> [shape]."""
        if self.count == 1:
            return own
        slices = own.new_empty(self.count, len(own))
        dist.all_gather(list(slices), own.contiguous())
        return slices.flatten()[: torch.Size(shape).numel()].view(shape)

    def total(self, own: Tensor) -> Tensor:
        """The sum over all slices of a number that belongs to each."""
        if self.count > 1:
            own = own.clone()
            dist.all_reduce(own)
        return own

    def _all(self, tensor: Tensor) -> Tensor:
        """[any shape] -> [count, length]."""
        length = -(-tensor.numel() // self.count)
        padding = length * self.count - tensor.numel()
        return torch.nn.functional.pad(tensor.flatten(), (0, padding)).view(self.count, length)


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


class TermGradients:
    """The gradient of each term of a loss, for its norm.

    Every term but the first needs a sum as large as the weights; the first one's is what remains of
    the whole gradient. An objective of one term needs none: its norm is that of the gradient.
    """

    def __init__(self, masters: MasterWeights) -> None:
        self.masters = masters
        self.first = ""
        self.sums: dict[str, list[Tensor]] = {}

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Add the gradients of a micro-batch's terms, each a scalar, before its backward pass."""
        self.first, *others = terms
        for name in others:
            if name not in self.sums:
                self.sums[name] = [
                    torch.zeros_like(p, dtype=torch.float32) for p in self.masters.working
                ]
            if not terms[name].requires_grad:  # as where no pair has an explore sample
                continue
            gradients = torch.autograd.grad(
                terms[name], self.masters.working, retain_graph=True, allow_unused=True
            )
            for total, gradient in zip(self.sums[name], gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient.float())

    def norms(self, loss_scale: float) -> dict[str, float]:
        """`{term}_grad_norm` before clipping: in this process, or, where the masters are sliced, of
        the mean over processes."""
        masters = self.masters
        gradients = {
            name: [masters.slices.mean(own) for own in sums] for name, sums in self.sums.items()
        }
        if gradients:
            whole = [master.grad for master in masters.masters]
            owns = zip(*gradients.values(), strict=True)
            gradients[self.first] = [g - sum(own) for g, own in zip(whole, owns, strict=True)]
        squares = {
            name: masters.total(sum(g.square().sum() for g in own))
            for name, own in gradients.items()
        }
        return {
            f"{name}_grad_norm": square.sqrt().item() / loss_scale
            for name, square in squares.items()
        }
