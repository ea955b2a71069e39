"""The frozen reference of a policy, and the cache of its errors."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from expo_cli.config import TrainConfig
from expo_cli.contracts.identity import (
    SCHEDULER,
    TEXT,
    adapter_sha256,
    parts_sha256,
    pipeline_sha256s,
)
from expo_cli.contracts.kinds import Cache
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.sources import model_folder
from expo_cli.contracts.tensors import read_tensors, write_tensors
from expo_cli.errors import ContractError, UsageError
from expo_cli.models.loading import pipeline_folder
from expo_cli.models.protocol import DiffusionModel
from expo_cli.stages.train.policies import use_fast_attention


class ReferenceCache:
    """A folder that caches the reference's errors or densities.

    It has files `values-<sha256>.safetensors`, each written once and named by its contents: `keys`
    int64 [n] and `values` fp32 [n, width]. A key is a hash of everything that a value depends on
    (noise, latents, prompt) except the model, which is in `run.json`. So runs with other pairs,
    seeds, steps and draws can share a folder, and any number of workers can add to it.
    """

    def __init__(self, folder: Path, run: Run) -> None:
        """Raises ContractError when the folder belongs to another reference or precision than `run`,
        or one of its files is damaged."""
        self.folder = folder
        self.output = Cache(folder, run.command, "--reference-cache")
        self.output.use(run)
        read = [read_values(path) for path in self.output.own_files()]
        keys = torch.cat([torch.empty(0, dtype=torch.int64), *(keys for keys, _ in read)])
        # Stable, so that of duplicate values by several workers the same one is always used.
        self.keys, order = keys.sort(stable=True)
        self.values = torch.cat([values for _, values in read])[order] if read else keys
        self.added: dict[int, Tensor] = {}
        self.unsaved: list[int] = []
        self.num_found = 0

    def find(self, keys: Sequence[int]) -> list[Tensor | None]:
        """The values [width] of each key, None if missing."""
        places = torch.searchsorted(self.keys, torch.tensor(keys)).tolist()
        found = []
        for key, place in zip(keys, places, strict=True):
            saved = place < len(self.keys) and self.keys[place].item() == key
            found.append(self.values[place] if saved else self.added.get(key))
        self.num_found += sum(values is not None for values in found)
        return found

    def add(self, keys: Sequence[int], values: Tensor) -> None:
        """Add values [keys, width] on the CPU, except those that are not finite."""
        for key, value in zip(keys, values, strict=True):
            if key not in self.added and value.isfinite().all():
                self.added[key] = value
                self.unsaved.append(key)

    def save(self) -> None:
        """Write the values added since the last call, if any."""
        if not self.unsaved:
            return
        keys = torch.tensor(self.unsaved)
        values = torch.stack([self.added[key] for key in self.unsaved])
        path = self.folder / f"values-{contents_sha256(keys, values)}.safetensors"
        write_tensors(path, {"keys": keys, "values": values})
        self.unsaved = []


def read_values(path: Path) -> tuple[Tensor, Tensor]:
    """Keys and values of a file. Raises ContractError when it is damaged."""
    remedy = "remove it, and its values are computed again"
    try:
        tensors = read_tensors(path)
    except ContractError as error:
        raise ContractError(f"{error}; {remedy}") from error
    keys, values = tensors.get("keys"), tensors.get("values")
    whole = (
        keys is not None
        and values is not None
        and (keys.dtype, keys.dim()) == (torch.int64, 1)
        and (values.dtype, values.dim(), len(values)) == (torch.float32, 2, len(keys))
        and path.stem == f"values-{contents_sha256(keys, values)}"
    )
    if not whole:
        raise ContractError(f"{path}: damaged, its sha256 is not the one in its name; {remedy}")
    return keys, values


def contents_sha256(keys: Tensor, values: Tensor) -> str:
    return hashlib.sha256(keys.numpy().tobytes() + values.numpy().tobytes()).hexdigest()


def cache_run(config: TrainConfig, policy: DiffusionModel, dtype: torch.dtype, kind: str) -> Run:
    """The run of a cache folder; its plan has everything that all values depend on.

    Only the policy's device and the parts that produce noise and conditioning matter. Raises
    UsageError when those of the reference differ.
    """
    folder, adapter = pipeline_folder(config.ref), model_folder(config.ref)
    parts = pipeline_sha256s(folder, (policy.network_name, *INPUT_PARTS))
    inputs = {name: digest for name, digest in parts.items() if name != policy.network_name}
    own = inputs if policy.folder == folder else pipeline_sha256s(policy.folder, INPUT_PARTS)
    if own != inputs:
        raise UsageError(
            f"--reference-cache needs a --ref with the text encoder, tokenizer and noise schedule "
            f"of --init-from; {folder} and {policy.folder} differ"
        )
    sha256s = {
        "network": parts[policy.network_name],
        "inputs": parts_sha256(inputs.items()),
        "adapter": None if adapter == folder else adapter_sha256(adapter),
    }
    return Run(
        command="reference-cache",
        plan={f"the sha256 of the reference's {name}": value for name, value in sha256s.items()}
        | {
            "precision": str(dtype).removeprefix("torch."),
            "device": policy.device.type,
            "learns_from": kind,
        },
    )


class Reference:
    """The reference, loaded on first use; cached values are not computed again."""

    def __init__(
        self,
        load: Callable[[], DiffusionModel],
        policy: DiffusionModel | None = None,
        cache: ReferenceCache | None = None,
    ) -> None:
        """`load` may return the `policy`, whose adapter is then disabled for the reference."""
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
        """fp32 [rows, width]: `ask(model, None)` computes them for all rows, `ask(model, rows)` for some.

        A row's key is a hash of everything that its value depends on, except the model. `keys_of`
        is called only with a cache.
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
        """Write new values to the cache, if there is one."""
        if self.cache is not None:
            self.cache.save()


# The parts of a pipeline that turn prompts into conditioning, and latents into noisy ones.
INPUT_PARTS = (*TEXT, *SCHEDULER)
