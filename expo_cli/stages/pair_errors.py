"""Denoising errors of a micro-batch by role: one forward pass of the policy, one of the reference."""

from contextlib import nullcontext

import torch
from torch import Tensor

from expo_cli.contracts.records import Pair
from expo_cli.core.objectives import Errors, PairErrors, denoising_error
from expo_cli.models.protocol import DiffusionModel
from expo_cli.stages.pair_batches import Batch, PromptEmbeddings


def pair_errors(
    batch: Batch,
    policy: DiffusionModel,
    reference: DiffusionModel | None,
    prompts: PromptEmbeddings,
) -> PairErrors:
    """The errors of all roles, with gradients for the policy's.

    The reference may be the policy itself, which then switches its adapter off; without one its
    errors are 0.
    """
    latents, noise = batch.latents.to(policy.device), batch.noise.to(policy.device)
    timesteps = batch.timesteps.to(policy.device)
    noisy = policy.add_noise(latents, noise, timesteps)
    target = policy.target(latents, noise, timesteps)
    conditioning = prompts.rows(batch.prompts)
    error = denoising_error(policy.predict(noisy, timesteps, conditioning), target)
    reference_error = torch.zeros_like(error)
    if reference is not None:
        with torch.no_grad(), policy.reference() if reference is policy else nullcontext():
            prediction = reference.predict(noisy, timesteps, conditioning)
        reference_error = denoising_error(prediction, target)
    return by_role(batch, error, reference_error)


def by_role(batch: Batch, error: Tensor, reference_error: Tensor) -> PairErrors:
    """Rows [rows] of each role as [batch], 0 where a pair has no such sample."""
    device = error.device
    roles = {}
    for role in dict.fromkeys(batch.role_of_row):
        rows = [r for r, name in enumerate(batch.role_of_row) if name == role]
        places = torch.tensor([batch.pair_of_row[r] for r in rows], device=device)
        zeros = torch.zeros(len(batch.pairs), device=device)
        roles[role] = Errors(
            zeros.index_copy(0, places, error[rows]),
            zeros.index_copy(0, places, reference_error[rows]),
        )
    nothing = torch.zeros(len(batch.pairs), device=device)
    if "explore" not in roles:
        roles |= {"explore": Errors(nothing, nothing), "main": Errors(nothing, nothing)}
    gains = [explore_gain(pair) for pair in batch.pairs]
    return PairErrors(
        **roles,
        explored=torch.tensor([float(pair.explore is not None) for pair in batch.pairs]).to(device),
        explore_gain=torch.tensor(gains).to(device),
    )


def explore_gain(pair: Pair) -> float:
    """How much higher the explore sample scores than the main one; 0 where that is not known."""
    if pair.explore is None or pair.explore.score is None or pair.main.score is None:
        return 0.0
    return pair.explore.score - pair.main.score
