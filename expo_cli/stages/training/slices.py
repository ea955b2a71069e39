"""Tensors of which each of several processes holds one slice."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


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
