"""The base class of the kinds of evidence, and what they share."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from expo_cli.config import TrainConfig
from expo_cli.contracts.files import inside
from expo_cli.contracts.ids import digest
from expo_cli.contracts.records import SampleRef
from expo_cli.contracts.tensors import TensorFiles
from expo_cli.core.objectives import Errors, Objective, denoising_error
from expo_cli.errors import ContractError
from expo_cli.models.protocol import Conditioning, DiffusionModel
from expo_cli.stages.train.reference import Reference

# Below this share of its weight at z = 0 an item hardly moves the policy any more: z above 2.94
# where the weight is sigmoid(-z).
SATURATED_SHARE = 0.1


class EvidenceStream(ABC):
    """The records of all files as an endless stream of visits, turned into evidence.

    What is visited when, with which noise, is a function of the seed and the place in the stream,
    so that a resumed run needs no memory.
    """

    favoured: ClassVar[str]
    """Whom the policy should draw; training stops when `{favoured}_error` runs away from
    `reference_{favoured}_error`, where these are measured."""

    @abstractmethod
    def __init__(
        self,
        records: Sequence[Any],
        objective: Objective,
        policy: DiffusionModel,
        reference: Reference | None,
        config: TrainConfig,
    ) -> None:
        """`records` as the kind's reader returns them (see `records.EVIDENCE`); checked to fit the
        policy as far as that needs no pass over all of them.

        The reference is None for an objective that needs none.
        """

    @staticmethod
    @abstractmethod
    def prompts(
        records: Sequence[Any], objective: Objective, config: TrainConfig, start: int, count: int
    ) -> Iterable[str]:
        """All texts that visits `start` to `start + count` of the stream may condition on."""

    @staticmethod
    @abstractmethod
    def distinct_visits(
        records: Sequence[Any], objective: Objective, config: TrainConfig
    ) -> int | None:
        """The number of visits after which the reference hears nothing new, if there is one."""

    @abstractmethod
    def batch(self, start: int, count: int) -> Any:
        """What the objective's `terms` takes, of visits `start` to `start + count` of the stream:
        tensors [count], those of the policy with gradients."""

    @abstractmethod
    def refer(self, start: int, count: int) -> None:
        """Ask the reference what `batch` of the same visits would ask, and nothing of the
        policy's network."""

    @abstractmethod
    def measure(self, evidence: Any) -> Mapping[str, Tensor]:
        """Scalars for `metrics.jsonl`, beside the loss and its terms.

        A name may be missing where a micro-batch has nothing to say on it.
        """


class Latents:
    """Final latents of samples. The first one's shape is the shape of all."""

    def __init__(self, folder: Path, first: SampleRef, policy: DiffusionModel) -> None:
        """Raises ContractError when the policy does not draw such latents."""
        self.files = TensorFiles()
        self.shape = tuple(self._load(folder, first).shape)
        channels = policy.latent_shape(policy.image_size(), policy.image_size())[0]
        if len(self.shape) != 3 or self.shape[0] != channels:
            raise ContractError(
                f"{folder / first.part}: latents {first.sample_id} have shape "
                f"{list(self.shape)}, but the policy draws {channels} channels"
            )

    def _load(self, folder: Path, ref: SampleRef) -> Tensor:
        try:
            return self.files.get(inside(folder, ref.part), ref.sample_id, ref.digest).float()
        except ContractError as error:
            raise ContractError(f"{error} (a record in {folder} refers to it)") from error

    def get(self, folder: Path, ref: SampleRef) -> Tensor:
        """fp32 [channels, height, width].

        Raises ContractError when their shape is another one, or they are not finite.
        """
        latents = self._load(folder, ref)
        place = f"{folder / ref.part}: latents {ref.sample_id}"
        if tuple(latents.shape) != self.shape:
            raise ContractError(
                f"{place} have shape {list(latents.shape)}, the others {list(self.shape)}"
            )
        if not latents.isfinite().all():
            raise ContractError(f"{place} are not finite")
        return latents


class PromptEmbeddings:
    """Conditioning of prompts, each encoded once while it is among the latest, `capacity` bytes."""

    def __init__(self, model: DiffusionModel, capacity: int = 1 << 28) -> None:
        self.model, self.capacity = model, capacity
        self.cache: dict[str, Conditioning] = {}

    def rows(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of each prompt, in order."""
        for prompt in prompts:
            # Each alone: a batch's size changes the last bits, and a resumed run would see others.
            if prompt not in self.cache:
                self.cache[prompt] = self.model.encode([prompt])
        conditioning = Conditioning.concatenate([self.cache[prompt] for prompt in prompts])
        while self.cache and len(self.cache) * conditioning.nbytes // len(prompts) > self.capacity:
            del self.cache[next(iter(self.cache))]
        return conditioning


@dataclass(frozen=True)
class Rows:
    """Latents to denoise: `latents` and `noise` are fp32 [rows, channels, height, width],
    `timesteps` [rows]. `seeds` are those of noise and timestep."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    prompts: Sequence[str]
    seeds: Sequence[int]

    def keys(self) -> list[int]:
        """Of each row a hash of all that a frozen model's error depends on.

        The noise by its seed, which is the same on every machine; its last bits need not be.
        """
        rows = zip(self.seeds, self.timesteps.tolist(), self.prompts, self.latents, strict=True)
        return [
            digest("error", seed, timestep, prompt, tensor_sha256(latents))
            for seed, timestep, prompt, latents in rows
        ]


@dataclass(frozen=True)
class NoisyRows:
    """What a model is given of some rows, on its device, and what it should say."""

    noisy: Tensor
    timesteps: Tensor
    conditioning: Conditioning
    target: Tensor

    def errors(self, model: DiffusionModel) -> Tensor:
        """A model's errors, [rows]."""
        prediction = model.predict(self.noisy, self.timesteps, self.conditioning)
        return denoising_error(prediction, self.target)

    def rows(self, indices: list[int]) -> "NoisyRows":
        return NoisyRows(
            self.noisy[indices],
            self.timesteps[indices],
            self.conditioning.rows(indices),
            self.target[indices],
        )


class Denoiser:
    """The policy and its reference, at work on the same noisy latents."""

    def __init__(self, policy: DiffusionModel, reference: Reference | None) -> None:
        self.policy, self.reference = policy, reference
        self.prompts = PromptEmbeddings(policy)

    def errors(self, rows: Rows) -> Errors:
        """Errors [rows], the policy's with gradients; without a reference its errors are 0."""
        noisy = self.noisy(rows)
        error = noisy.errors(self.policy)
        if self.reference is None:
            return Errors(error, torch.zeros_like(error))
        return Errors(error, self.reference_errors(rows, noisy).to(error.device))

    def refer(self, rows: Rows) -> None:
        """Ask the reference for its errors alone."""
        self.reference_errors(rows, self.noisy(rows))

    def noisy(self, rows: Rows) -> NoisyRows:
        policy = self.policy
        latents, noise = rows.latents.to(policy.device), rows.noise.to(policy.device)
        timesteps = rows.timesteps.to(policy.device)
        return NoisyRows(
            policy.add_noise(latents, noise, timesteps),
            timesteps,
            self.prompts.rows(rows.prompts),
            policy.target(latents, noise, timesteps),
        )

    def reference_errors(self, rows: Rows, noisy: NoisyRows) -> Tensor:
        def ask(model: DiffusionModel, asked: list[int] | None) -> Tensor:
            return (noisy if asked is None else noisy.rows(asked)).errors(model)[:, None]

        return self.reference.values(rows.keys, ask)[:, 0]


def tensor_sha256(tensor: Tensor) -> str:
    """Of the shape and the contents of a tensor on the CPU."""
    return sha256(f"{list(tensor.shape)}".encode() + tensor.numpy().tobytes()).hexdigest()


def saturation(objective: Objective, evidence: Any) -> dict[str, Tensor]:
    """`saturation`: the share of items whose gradient weight is below a tenth of that at z = 0.

    Empty for an objective without weights.
    """
    weight = objective.weight(evidence)
    if weight is None:
        return {}
    return {"saturation": (weight < SATURATED_SHARE * objective.weight_at_zero).float().mean()}
