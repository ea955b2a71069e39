"""fp32 master weights of a network that computes in lower precision.

Updates of preference training are far below the resolution of bf16 and fp16 weights, and a network
with weights in low precision runs faster than under autocast.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Slices:
    """Slice `index` of `count` of a flattened tensor, padded with zeros to equal lengths.

    With one slice it is the tensor itself. `mean`, `whole` and `total` are collective: all
    processes call them in the same order.
    """

    def __init__(self, index: int = 0, count: int = 1) -> None:
        self.index, self.count = index, count

    def own(self, tensor: Tensor) -> Tensor:
        """This process's slice of a replicated tensor: [any shape] -> [length]."""
        return tensor if self.count == 1 else self._all(tensor)[self.index]

    def mean(self, tensor: Tensor) -> Tensor:
        """Reduce-scatter: this process's slice of the mean over processes: [any shape] -> [length]."""
        if self.count == 1:
            return tensor
        slices = self._all(tensor)
        total = torch.empty_like(slices[self.index])
        dist.reduce_scatter(total, list(slices))
        return total / self.count

    def whole(self, own: Tensor, shape: Sequence[int]) -> Tensor:
        """All-gather: the tensor of all slices: [length] -> [shape]."""
        if self.count == 1:
            return own
        slices = own.new_empty(self.count, len(own))
        dist.all_gather(list(slices), own.contiguous())
        return slices.flatten()[: torch.Size(shape).numel()].view(shape)

    def total(self, own: Tensor) -> Tensor:
        """All-reduce: the sum over all slices of one number per slice."""
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
    """`masters` (fp32) are the optimiser's weights, `working` those of the network.

    Gradients of several forward passes and processes are added in fp32. With several `slices`, each
    process holds and updates one slice of every master and its gradient (ZeRO stage 2, Rajbhandari
    et al., arXiv 1910.02054); then `collect_gradients`, `publish`, `whole`, `state` and `total` are
    collective.
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
        """Copy the masters to the network, rounded to its dtype."""
        for master, working in zip(self.masters, self.working, strict=True):
            working.copy_(self.slices.whole(master.to(working.dtype), working.shape))

    def whole(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Tensors that are sliced like the masters, unsliced and by name.

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
        """All-reduce: the sum of one number per process, if the masters are sliced."""
        return self.slices.total(sum_of_own)

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        for name, master in zip(self.names, self.masters, strict=True):
            master.copy_(self.slices.own(tensors[name]))
        self.publish()


class TermGradients:
    """The gradient norm of each term of a loss.

    Each term but the first needs an accumulator as large as the weights; the gradient of the first
    is the remainder of the whole gradient. A single term needs none.
    """

    def __init__(self, masters: MasterWeights) -> None:
        self.masters = masters
        self.first = ""
        self.sums: dict[str, list[Tensor]] = {}

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Add the gradients of a micro-batch's scalar terms, before its backward pass."""
        self.first, *others = terms
        for name in others:
            if name not in self.sums:
                self.sums[name] = [
                    torch.zeros_like(p, dtype=torch.float32) for p in self.masters.working
                ]
            if not terms[name].requires_grad:  # for example, if no pair has an explore sample
                continue
            gradients = torch.autograd.grad(
                terms[name], self.masters.working, retain_graph=True, allow_unused=True
            )
            for total, gradient in zip(self.sums[name], gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient.float())

    def norms(self, loss_scale: float) -> dict[str, float]:
        """`{term}_grad_norm` before clipping: of this process's gradient or, with sliced masters, of
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
