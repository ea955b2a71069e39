"""Training data of the objectives that learn from step pairs."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from expo_cli.config import TrainConfig
from expo_cli.contracts.records import SampleRef, StepPair
from expo_cli.contracts.rollouts import step_tensor
from expo_cli.core.gaussian_steps import GaussianSteps, gaussian_steps
from expo_cli.core.spo import SPO, LogDensities, StepDensities
from expo_cli.core.visits import visits
from expo_cli.errors import ContractError, UsageError
from expo_cli.models.protocol import Conditioning, DiffusionModel
from expo_cli.models.sampling import guided
from expo_cli.models.schedulers import alphas_at
from expo_cli.stages.training_data import Latents, PromptEmbeddings
from expo_cli.stages.training_steps import TrainingStep


class StepData:
    """The densities of a step's winner and loser, under the guidance with which they were drawn.

    One forward pass serves both: they come from the same x_t.
    """

    favoured = "winner"

    def __init__(
        self,
        steps: Sequence[TrainingStep],
        objective: SPO,
        policy: DiffusionModel,
        reference: DiffusionModel | None,
        config: TrainConfig,
    ) -> None:
        if config.caption_dropout:
            raise UsageError(
                "--caption-dropout contradicts step pairs: guidance is part of their steps"
            )
        self.steps, self.objective, self.config = steps, objective, config
        self.policy, self.reference = policy, reference
        self.latents = Latents(steps[0].folder, tensor_ref(steps[0].pair, "x_t"), policy)
        self.prompts = PromptEmbeddings(policy)
        self.scheduler = policy.make_scheduler("ddim")

    def evidence(self, start: int, count: int) -> StepDensities:
        chosen = [
            self.steps[visit.item]
            for visit in visits(self.config.seed, len(self.steps), start, count)
        ]
        pairs = [step.pair for step in chosen]
        x_t, winner, loser = (
            torch.stack([self.latents.get(s.folder, tensor_ref(s.pair, name)) for s in chosen])
            for name in ("x_t", "winner", "loser")
        )
        device = self.policy.device
        x_t, winner, loser = x_t.to(device), winner.to(device), loser.to(device)
        steps = self.gaussian_steps(pairs)
        mean = self.mean(self.policy, x_t, pairs, steps)
        shared = self.reference is self.policy
        with torch.no_grad(), self.policy.reference() if shared else nullcontext():
            reference_mean = self.mean(self.reference, x_t, pairs, steps)
        return StepDensities(
            *(
                LogDensities(
                    steps.log_density(drawn, mean), steps.log_density(drawn, reference_mean)
                )
                for drawn in (winner, loser)
            )
        )

    def gaussian_steps(self, pairs: Sequence[StepPair]) -> GaussianSteps:
        """Raises ContractError for a step that the policy's schedule does not have, or not as a draw."""
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
        """The mean of x_{t-1} by a model, each row under its own guidance."""
        timesteps = torch.tensor([pair.timestep for pair in pairs])
        scales = torch.tensor([pair.guidance_scale for pair in pairs], device=model.device)
        conditioning = self.prompts.rows([pair.prompt for pair in pairs])
        if (scales != 1).any():
            negative = self.prompts.rows([pair.negative_prompt for pair in pairs])
            conditioning = Conditioning.concatenate([negative, conditioning])
        prediction = guided(model, x_t, timesteps, conditioning, scales.view(-1, 1, 1, 1))
        return steps.mean(x_t, model.epsilon(prediction, x_t, timesteps))

    def measure(self, steps: StepDensities) -> dict[str, Tensor]:
        """Means over a micro-batch.

        ratio_winner and ratio_loser: densities over the reference's, before clipping; clipped: the
        share of these ratios that is clipped; implicit_accuracy: share of pairs whose winner's
        ratio is the higher one.
        """
        winner, loser = steps.winner, steps.loser
        clipped = [self.objective.clipped(densities) for densities in (winner, loser)]
        return {
            "ratio_winner": winner.ratio.mean(),
            "ratio_loser": loser.ratio.mean(),
            "clipped": torch.cat(clipped).mean(),
            "implicit_accuracy": (winner.ratio > loser.ratio).float().mean(),
        }


def tensor_ref(pair: StepPair, name: str) -> SampleRef:
    return SampleRef(sample_id=step_tensor(pair.step_id, name), part=pair.part)
