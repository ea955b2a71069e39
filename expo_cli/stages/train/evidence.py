"""The base class of the kinds of evidence, and shared code."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from expo_cli.config import TrainConfig
from expo_cli.contracts.files import inside
from expo_cli.contracts.ids import digest, pair_seed
from expo_cli.contracts.records import SampleRef
from expo_cli.contracts.tensors import TensorFiles
from expo_cli.core.noise import training_noise
from expo_cli.core.objectives import Errors, Objective, denoising_error
from expo_cli.core.visits import drops_caption
from expo_cli.errors import ContractError
from expo_cli.models.protocol import Conditioning, DiffusionModel
from expo_cli.stages.train.reference import Reference

# Below this fraction of its weight at z = 0 an item hardly moves the policy: z above 2.94 for the
# weight sigmoid(-z).
SATURATED_SHARE = 0.1


class EvidenceStream(ABC):
    """The records of all files as an endless stream of visits, turned into evidence.

    Items and noise are functions of the seed and the place in the stream, so that a resumed run
    needs no state.
    """

    favoured: ClassVar[str]
    other: ClassVar[str]
    """Names of the errors of samples that the policy should and should not draw. Training stops when
    `{favoured}_error` greatly exceeds `reference_{favoured}_error`."""

    num_files: int

    @abstractmethod
    def __init__(
        self,
        records: Sequence[Any],
        objective: Objective,
        policy: DiffusionModel,
        reference: Reference | None,
        config: TrainConfig,
    ) -> None:
        """`records` come from the kind's reader (see `records.EVIDENCE`). They are checked against
        the policy, as far as that needs no pass over all of them.

        The reference is None if the objective needs none.
        """

    @staticmethod
    @abstractmethod
    def prompts(
        records: Sequence[Any], objective: Objective, config: TrainConfig, start: int, count: int
    ) -> Iterable[str]:
        """All texts that visits `start` to `start + count` of the stream may be conditioned on."""

    @staticmethod
    @abstractmethod
    def distinct_visits(
        records: Sequence[Any], objective: Objective, config: TrainConfig
    ) -> int | None:
        """The number of visits after which the reference's inputs repeat, None if they never do."""

    @abstractmethod
    def batch(self, start: int, count: int) -> Any:
        """The argument of the objective's `terms` for visits `start` to `start + count` of the stream:
        tensors [count], those of the policy with gradients."""

    def complete(self, evidence: Any | None, mean: Callable[[Tensor], Tensor]) -> Any | None:
        """Adds what depends on the evidence of all processes, given their `mean` of a tensor.

        Called in all processes, in one that has failed with None.
        """
        return evidence

    @abstractmethod
    def refer(self, start: int, count: int) -> None:
        """Query the reference as `batch` does for these visits, without the policy's network."""

    @abstractmethod
    def measure(self, evidence: Any) -> Mapping[str, Tensor]:
        """Scalars for `metrics.jsonl`, in addition to the loss and its terms.

        A micro-batch may lack some of them.
        """

    @abstractmethod
    def preferences(self, evidence: Any) -> Mapping[str, Tensor]:
        """`implicit_accuracy` and `implicit_margin` of each item, [batch]; empty without a reference."""

    @abstractmethod
    def files(self, start: int, count: int) -> list[int]:
        """The number of the file of each of these visits' records, from 0."""

    def places_by_file(self, start: int, count: int) -> dict[int, list[int]]:
        """File, from 1 -> the places of its items among these visits; empty if all records are of one
        file."""
        if self.num_files == 1:
            return {}
        files = self.files(start, count)
        return {
            file + 1: [place for place, each in enumerate(files) if each == file]
            for file in range(self.num_files)
        }

    def measure_by_file(
        self, evidence: Any, places: Mapping[int, Sequence[int]]
    ) -> dict[str, Tensor]:
        """`NAME/FILE`: the mean of each of `preferences` over a file's items, if it has any here."""
        if not places:
            return {}
        return {
            f"{name}/{file}": value[some].float().mean()
            for name, value in self.preferences(evidence).items()
            for file, some in places.items()
            if some
        }


class Latents:
    """Reads final latents of samples, which must all have the shape of the first one."""

    def __init__(self, folder: Path, first: SampleRef, policy: DiffusionModel) -> None:
        """Raises ContractError when the policy draws another number of channels."""
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
        """A sample's latents, fp32 [channels, height, width].

        Raises ContractError when they have another shape or are not finite.
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
    """Conditioning of prompts, in a least-recently-used cache of `capacity` bytes."""

    def __init__(self, model: DiffusionModel, capacity: int = 1 << 28) -> None:
        self.model, self.capacity = model, capacity
        self.cache: dict[str, Conditioning] = {}

    def rows(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of each prompt, in order."""
        for prompt in prompts:
            # One by one: the batch size changes the last bits, so a resumed run would differ.
            if prompt not in self.cache:
                self.cache[prompt] = self.model.encode([prompt])
        conditioning = Conditioning.concatenate([self.cache[prompt] for prompt in prompts])
        while self.cache and len(self.cache) * conditioning.nbytes // len(prompts) > self.capacity:
            del self.cache[next(iter(self.cache))]
        return conditioning


@dataclass(frozen=True)
class Row:
    """Latents to denoise: `latents` and `noise` are fp32 [channels, height, width]. `seed`
    determines noise and timestep."""

    latents: Tensor
    noise: Tensor
    timestep: int | float
    prompt: str
    seed: int

    def key(self) -> int:
        """A hash of everything that a frozen model's error depends on.

        Noise is represented by its seed, as its last bits may differ between machines.
        """
        return digest("error", self.seed, self.timestep, self.prompt, tensor_sha256(self.latents))


class RowMaker:
    """Makes rows: an image with the noise, timestep and caption dropout of a visit."""

    def __init__(self, config: TrainConfig, policy: DiffusionModel, latents: Latents) -> None:
        self.config, self.latents = config, latents
        self.draw_timestep = policy.training_timestep

    def row(
        self, folder: Path, ref: SampleRef, prompt: str, item_id: str, noise_id: str, draw: int
    ) -> Row:
        """`item_id` and draw decide on caption dropout, `noise_id` and draw on noise and timestep.

        Errors as `Latents.get`.
        """
        seed = pair_seed(self.config.seed, noise_id, draw)
        noise, timestep = training_noise(seed, self.latents.shape, self.draw_timestep)
        dropped = drops_caption(self.config.seed, item_id, draw, self.config.caption_dropout)
        latents = self.latents.get(folder, ref)
        return Row(latents, noise, timestep, "" if dropped else prompt, seed)


@dataclass(frozen=True)
class NoisyRows:
    """A model's input for some rows, on its device, with the prediction target."""

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
    """The errors of the policy and its reference on the same noisy latents."""

    def __init__(self, policy: DiffusionModel, reference: Reference | None) -> None:
        self.policy, self.reference = policy, reference
        self.prompts = PromptEmbeddings(policy)

    def errors(self, rows: Sequence[Row]) -> Errors:
        """Errors [rows], the policy's with gradients; without a reference, the reference's are 0."""
        noisy = self.noisy(rows)
        error = noisy.errors(self.policy)
        if self.reference is None:
            return Errors(error, torch.zeros_like(error))
        return Errors(error, self.reference_errors(rows, noisy).to(error.device))

    def refer(self, rows: Sequence[Row]) -> None:
        """Compute only the reference's errors."""
        self.reference_errors(rows, self.noisy(rows))

    def noisy(self, rows: Sequence[Row]) -> NoisyRows:
        policy = self.policy
        latents = torch.stack([row.latents for row in rows]).to(policy.device)
        noise = torch.stack([row.noise for row in rows]).to(policy.device)
        timesteps = torch.tensor([row.timestep for row in rows]).to(policy.device)
        return NoisyRows(
            policy.add_noise(latents, noise, timesteps),
            timesteps,
            self.prompts.rows([row.prompt for row in rows]),
            policy.target(latents, noise, timesteps),
        )

    def reference_errors(self, rows: Sequence[Row], noisy: NoisyRows) -> Tensor:
        def ask(model: DiffusionModel, asked: list[int] | None) -> Tensor:
            return (noisy if asked is None else noisy.rows(asked)).errors(model)[:, None]

        return self.reference.values(lambda: [row.key() for row in rows], ask)[:, 0]


def tensor_sha256(tensor: Tensor) -> str:
    """The sha256 of the shape and contents of a tensor on the CPU."""
    return sha256(f"{list(tensor.shape)}".encode() + tensor.numpy().tobytes()).hexdigest()


def saturation(objective: Objective, evidence: Any) -> dict[str, Tensor]:
    """`saturation`: the share of items whose gradient weight is below a tenth of that at z = 0.

    Empty if the objective has no weights.
    """
    weight = objective.weight(evidence)
    if weight is None:
        return {}
    return {"saturation": (weight < SATURATED_SHARE * objective.weight_at_zero).float().mean()}
