"""Evidence for objectives that learn from step pairs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from expo_cli.config import TrainConfig
from expo_cli.contracts.ids import digest
from expo_cli.contracts.records import SampleRef, StepPair
from expo_cli.contracts.rollouts import step_tensor
from expo_cli.contracts.tensors import latents_digest
from expo_cli.core.gaussian_steps import GaussianSteps, gaussian_steps
from expo_cli.core.spo import SPO, LogDensities, StepDensities
from expo_cli.errors import ContractError, UsageError
from expo_cli.models.protocol import Conditioning, DiffusionModel
from expo_cli.models.sampling import guided
from expo_cli.models.schedulers import alphas_at
from expo_cli.stages.train.evidence import EvidenceStream, Latents, PromptEmbeddings, tensor_sha256
from expo_cli.stages.train.records import TrainingStepPair, visit_order
from expo_cli.stages.train.reference import Reference


@dataclass(frozen=True)
class Steps:
    """Step pairs and their tensors, each fp32 [steps, channels, height, width]."""

    pairs: Sequence[StepPair]
    x_t: Tensor
    winner: Tensor
    loser: Tensor

    def rows(self, indices: list[int]) -> "Steps":
        return Steps(
            [self.pairs[index] for index in indices],
            self.x_t[indices],
            self.winner[indices],
            self.loser[indices],
        )

    def keys(self) -> list[int]:
        """A hash per step of everything that a frozen model's densities depend on."""
        rows = zip(self.pairs, self.x_t, self.winner, self.loser, strict=True)
        return [
            digest(
                "densities",
                *(pair.prompt, pair.negative_prompt, max(pair.guidance_scale, 1.0)),
                *(pair.timestep, pair.previous_timestep, pair.eta),
                *map(tensor_sha256, tensors),
            )
            for pair, *tensors in rows
        ]


class StepEvidence(EvidenceStream):
    """The densities of a step's winner and loser, with the guidance they were drawn with.

    Both need only one forward pass, as they come from the same x_t.
    """

    favoured, other = "winner", "loser"

    def __init__(
        self,
        steps: Sequence[TrainingStepPair],
        objective: SPO,
        policy: DiffusionModel,
        reference: Reference | None,
        config: TrainConfig,
    ) -> None:
        if config.caption_dropout:
            raise UsageError(
                "--caption-dropout contradicts step pairs: guidance is part of their steps"
            )
        self.steps, self.objective, self.config = steps, objective, config
        self.order, self.num_files = visit_order(steps, config), steps[-1].file + 1
        self.policy, self.reference = policy, reference
        self.latents = Latents(steps[0].folder, tensor_ref(steps[0].pair, "x_t"), policy)
        self.prompts = PromptEmbeddings(policy)
        self.scheduler = policy.make_scheduler("ddim")

    @staticmethod
    def prompts(
        records: Sequence[TrainingStepPair],
        objective: SPO,
        config: TrainConfig,
        start: int,
        count: int,
    ) -> Iterator[str]:
        for visit in visit_order(records, config).visits(start, count):
            pair = records[visit.item].pair
            yield from (pair.prompt, pair.negative_prompt)

    @staticmethod
    def distinct_visits(
        records: Sequence[TrainingStepPair], objective: SPO, config: TrainConfig
    ) -> int:
        """A step has only its own noise, so visits repeat after one epoch of each pool."""
        return replace(visit_order(records, config), num_draws=1).num_distinct

    def batch(self, start: int, count: int) -> StepDensities:
        steps = self.steps_of(start, count)
        policy = self.log_densities(self.policy, steps)
        reference = self.reference_log_densities(steps).to(policy.device)
        winner, loser = zip(policy.unbind(1), reference.unbind(1), strict=True)
        return StepDensities(LogDensities(*winner), LogDensities(*loser))

    def refer(self, start: int, count: int) -> None:
        self.reference_log_densities(self.steps_of(start, count))

    def steps_of(self, start: int, count: int) -> Steps:
        chosen = [self.steps[visit.item] for visit in self.order.visits(start, count)]
        tensors = [self.tensors(step) for step in chosen]
        return Steps([step.pair for step in chosen], *map(torch.stack, zip(*tensors, strict=True)))

    def files(self, start: int, count: int) -> list[int]:
        return [self.steps[visit.item].file for visit in self.order.visits(start, count)]

    def tensors(self, step: TrainingStepPair) -> list[Tensor]:
        """x_t, winner and loser, each fp32 [channels, height, width].

        Raises ContractError when they are not the judged ones.
        """
        names = ("x_t", "winner", "loser")
        found = [self.latents.get(step.folder, tensor_ref(step.pair, name)) for name in names]
        wanted = step.pair.digest
        if wanted is not None and (digest := latents_digest(*found)) != wanted:
            raise ContractError(
                f"{step.folder / step.pair.part}: the latents of step {step.pair.step_id} are "
                f"{digest}, but were {wanted} when they were judged: they were drawn again or replaced"
            )
        return found

    def reference_log_densities(self, steps: Steps) -> Tensor:
        def ask(model: DiffusionModel, asked: list[int] | None) -> Tensor:
            return self.log_densities(model, steps if asked is None else steps.rows(asked))

        return self.reference.values(steps.keys, ask)

    def log_densities(self, model: DiffusionModel, steps: Steps) -> Tensor:
        """log p(winner | x_t) and log p(loser | x_t) by a model, [steps, 2]."""
        device = self.policy.device
        x_t = steps.x_t.to(device)
        gaussian = self.gaussian_steps(steps.pairs)
        mean = self.mean(model, x_t, steps.pairs, gaussian)
        drawn = (steps.winner.to(device), steps.loser.to(device))
        return torch.stack([gaussian.log_density(one, mean) for one in drawn], dim=1)

    def gaussian_steps(self, pairs: Sequence[StepPair]) -> GaussianSteps:
        """Raises ContractError for a step that is not in the policy's schedule, or has no noise there."""
        before = torch.tensor([pair.timestep for pair in pairs])
        after = torch.tensor([pair.previous_timestep for pair in pairs])
        if before.max() >= self.policy.num_train_timesteps:
            raise ContractError(
                f"a step pair at timestep {before.max()}: the policy has "
                f"{self.policy.num_train_timesteps}"
            )
        steps = gaussian_steps(
            alphas_at(self.scheduler, before),
            alphas_at(self.scheduler, after),
            torch.tensor([pair.eta for pair in pairs]),
        )
        if not (steps.sigma > 0).all():
            at = pairs[int(steps.sigma.argmin())]
            raise ContractError(f"step {at.step_id}: has no noise under the policy's schedule")
        return steps

    def mean(
        self,
        model: DiffusionModel,
        x_t: Tensor,
        pairs: Sequence[StepPair],
        steps: GaussianSteps,
    ) -> Tensor:
        """The mean of x_{t-1} by a model, each row with its own guidance."""
        timesteps = torch.tensor([pair.timestep for pair in pairs])
        scales = torch.tensor([pair.guidance_scale for pair in pairs], device=model.device)
        conditioning = self.prompts.rows([pair.prompt for pair in pairs])
        if (scales > 1).any():
            negative = self.prompts.rows([pair.negative_prompt for pair in pairs])
            conditioning = Conditioning.concatenate([negative, conditioning])
        prediction = guided(model, x_t, timesteps, conditioning, scales.view(-1, 1, 1, 1))
        return steps.mean(x_t, model.epsilon(prediction, x_t, timesteps))

    def measure(self, steps: StepDensities) -> dict[str, Tensor]:
        """Means over a micro-batch.

        ratio_winner and ratio_loser: densities relative to the reference's, before clipping;
        clipped: share of clipped ratios; implicit_accuracy: share of pairs whose winner has the
        higher ratio.
        """
        winner, loser = steps.winner, steps.loser
        clipped = [self.objective.clipped(densities) for densities in (winner, loser)]
        return {
            "ratio_winner": winner.ratio.mean(),
            "ratio_loser": loser.ratio.mean(),
            "clipped": torch.cat(clipped).mean(),
            "implicit_accuracy": (winner.ratio > loser.ratio).float().mean(),
        }

    def preferences(self, steps: StepDensities) -> dict[str, Tensor]:
        """The margin is the logarithm of the winner's ratio over the loser's."""
        margin = (steps.winner.log_ratio - steps.loser.log_ratio).detach()
        return {"implicit_accuracy": margin > 0, "implicit_margin": margin}


def tensor_ref(pair: StepPair, name: str) -> SampleRef:
    return SampleRef(sample_id=step_tensor(pair.step_id, name), part=pair.part)
