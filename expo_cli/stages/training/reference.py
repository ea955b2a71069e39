"""The frozen reference that a policy is held to."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property

import torch
from torch import Tensor

from expo_cli.models.protocol import DiffusionModel
from expo_cli.stages.training.attention import use_fast_attention
from expo_cli.stages.training.reference_cache import ReferenceCache


class Reference:
    """Loaded when it is first asked something, and not asked again what a cache remembers."""

    def __init__(
        self,
        load: Callable[[], DiffusionModel],
        policy: DiffusionModel | None = None,
        cache: ReferenceCache | None = None,
    ) -> None:
        """`load` may return the `policy`, which then switches its adapter off to answer."""
        self.load, self.policy, self.cache = load, policy, cache
        self.num_computed = 0

    @cached_property
    def model(self) -> DiffusionModel:
        model = self.load()
        use_fast_attention(model)
        return model

    def values(
        self,
        keys_of: Callable[[], list[int]],
        ask: Callable[[DiffusionModel, list[int] | None], Tensor],
    ) -> Tensor:
        """fp32 [rows, width]: what `ask(model, None)` returns of all rows, `ask(model, rows)` of some.

        Each row's key stands for all that its value depends on, beside the model; without a cache
        nobody needs them.
        """
        if self.cache is None:
            return self.compute(ask, None)
        keys = keys_of()
        known = self.cache.find(keys)
        missing = [row for row, value in enumerate(known) if value is None]
        if missing:
            computed = self.compute(ask, missing).cpu()
            self.cache.add([keys[row] for row in missing], computed)
            for row, value in zip(missing, computed, strict=True):
                known[row] = value
        return torch.stack(known)

    def compute(
        self,
        ask: Callable[[DiffusionModel, list[int] | None], Tensor],
        rows: list[int] | None,
    ) -> Tensor:
        shared = self.model is self.policy
        with torch.no_grad(), self.model.reference() if shared else nullcontext():
            values = ask(self.model, rows)
        self.num_computed += len(values)
        return values

    def save(self) -> None:
        """Keep what is new for later runs, where there is a cache."""
        if self.cache is not None:
            self.cache.save()
