"""Micro-batches of pairs: latents, noise, timesteps and prompts of every role, as flat rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from expo_cli.contracts.files import inside
from expo_cli.contracts.records import Pair, SampleRef
from expo_cli.contracts.tensors import TensorFiles
from expo_cli.core.noise import training_noise
from expo_cli.core.visits import Visit, drops_caption
from expo_cli.errors import ContractError
from expo_cli.models.protocol import Conditioning, DiffusionModel
from expo_cli.stages.training_pairs import TrainingPair

# Roles that share noise and timestep: method, Eq. 7.
NOISE_GROUP = {"winner": "", "loser": "", "explore": "/explore", "main": "/explore"}


@dataclass(frozen=True)
class Batch:
    """A micro-batch. Row r belongs to pair `pair_of_row[r]` (0..num_pairs-1) in `role_of_row[r]`.

    `latents` and `noise` are fp32 [rows, channels, height, width], `timesteps` int64 [rows].
    """

    pairs: Sequence[Pair]
    pair_of_row: list[int]
    role_of_row: list[str]
    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    prompts: list[str]


def sample_ref(pair: Pair, role: str) -> SampleRef | None:
    return getattr(pair, role)


class PairBatches:
    """Makes micro-batches out of pairs. The first latents set the shape of all."""

    def __init__(
        self,
        pairs: Sequence[TrainingPair],
        roles: Sequence[str],
        model: DiffusionModel,
        seed: int,
        caption_dropout: float,
    ) -> None:
        self.pairs, self.roles, self.seed = pairs, roles, seed
        self.caption_dropout = caption_dropout
        self.num_train_timesteps = model.num_train_timesteps
        self.files = TensorFiles()
        channels = model.latent_shape(model.image_size(), model.image_size())[0]
        self.shape = tuple(self._load(pairs[0], pairs[0].pair.winner).shape)
        if len(self.shape) != 3 or self.shape[0] != channels:
            winner = pairs[0].pair.winner
            raise ContractError(
                f"{pairs[0].folder / winner.part}: latents {winner.sample_id} have shape "
                f"{list(self.shape)}, but the policy draws {channels} channels"
            )

    def _load(self, pair: TrainingPair, ref: SampleRef) -> Tensor:
        return self.files.get(inside(pair.folder, ref.part), ref.sample_id).float()

    def latents(self, pair: TrainingPair, ref: SampleRef) -> Tensor:
        """Final latents [channels, height, width].

        Raises ContractError when their shape is another one, or they are not finite.
        """
        latents = self._load(pair, ref)
        place = f"{pair.folder / ref.part}: latents {ref.sample_id}"
        if tuple(latents.shape) != self.shape:
            raise ContractError(
                f"{place} have shape {list(latents.shape)}, the others {list(self.shape)}"
            )
        if not latents.isfinite().all():
            raise ContractError(f"{place} are not finite")
        return latents

    def batch(self, visits: Sequence[Visit]) -> Batch:
        """The micro-batch of some visits; a pair has no row for a role it has no sample of."""
        rows, latents, noise, timesteps, prompts = [], [], [], [], []
        for role in self.roles:
            for position, visit in enumerate(visits):
                pair = self.pairs[visit.pair]
                ref = sample_ref(pair.pair, role)
                if ref is None:
                    continue
                pair_id = pair.pair.pair_id
                row_noise, timestep = training_noise(
                    self.seed,
                    pair_id + NOISE_GROUP[role],
                    visit.draw,
                    self.shape,
                    self.num_train_timesteps,
                )
                dropped = drops_caption(self.seed, pair_id, visit.draw, self.caption_dropout)
                rows.append((position, role))
                latents.append(self.latents(pair, ref))
                noise.append(row_noise)
                timesteps.append(timestep)
                prompts.append("" if dropped else pair.pair.prompt)
        return Batch(
            pairs=[self.pairs[visit.pair].pair for visit in visits],
            pair_of_row=[position for position, _ in rows],
            role_of_row=[role for _, role in rows],
            latents=torch.stack(latents),
            noise=torch.stack(noise),
            timesteps=torch.tensor(timesteps),
            prompts=prompts,
        )


class PromptEmbeddings:
    """Conditioning of prompts, each encoded once while it is among the `capacity` latest."""

    def __init__(self, model: DiffusionModel, capacity: int = 2048) -> None:
        self.model, self.capacity = model, capacity
        self.cache: dict[str, Conditioning] = {}

    def rows(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of each prompt, in order."""
        for prompt in prompts:
            # Each alone: a batch's size changes the last bits, and a resumed run would see others.
            if prompt not in self.cache:
                self.cache[prompt] = self.model.encode([prompt])
        conditioning = Conditioning.concatenate([self.cache[prompt] for prompt in prompts])
        while len(self.cache) > self.capacity:
            del self.cache[next(iter(self.cache))]
        return conditioning
