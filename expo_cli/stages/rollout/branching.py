"""Steps with several candidates: draws them, judges them, and continues the sample from one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from expo_cli.contracts.ids import candidate_seed, continued_candidate
from expo_cli.contracts.records import Sample, StepCandidates
from expo_cli.contracts.rollouts import step_tensor
from expo_cli.core.noise import generators, normal
from expo_cli.core.pairing import BestWorst
from expo_cli.models.protocol import Decoder
from expo_cli.models.sampling import Fork
from expo_cli.rewards.protocol import Batch, Judgement, Reward, StepReward
from expo_cli.stages.common.decoding import to_images
from expo_cli.stages.common.stopping import StopRequest
from expo_cli.stages.score.run import judge


@dataclass(frozen=True)
class BranchedStep:
    """A step of one sample: its record and its tensors by name, fp32 [channels, height, width].

    They are not rounded, so that anyone with the policy can draw the same candidates again.
    """

    record: StepCandidates
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class StepJudge:
    """A loaded reward, its label in records, and the decoder of its images."""

    label: str
    reward: Reward
    decoder: Decoder

    def scores(
        self, samples: Sequence[Sample], clean: Tensor, timestep: int, stop: StopRequest
    ) -> list[float]:
        """Scores of the final latents that the policy predicts at a timestep, one per sample.

        Raises ExpoError when one is not a number.
        """
        # The sample's checks report a policy that draws NaN.
        images = to_images(self.decoder.decode(clean).nan_to_num())
        judgement = judge(
            self.label, partial(self.judge_at, timestep=timestep), samples, images, stop
        )
        return [float(raw) * judgement.scale for raw in judgement.raw]

    def judge_at(self, batch: Batch, timestep: int) -> Judgement:
        if isinstance(self.reward, StepReward):
            return self.reward.judge_at(batch, [timestep] * len(batch.images))
        return self.reward.judge(batch)


class CandidateSteps:
    """SPO's sampling of one batch (Liang et al., arXiv 2406.04314, section 3.3).

    Each step draws several candidates for x_{t-1} from the same x_t with different noise. A
    candidate is judged by the final image that the policy predicts from it at the next timestep.
    The sample continues from a random candidate, whatever its score.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        judge: StepJudge,
        num_candidates: int,
        skip_steps: int,
        stop: StopRequest,
    ) -> None:
        self.samples, self.judge, self.stop = samples, judge, stop
        self.num_candidates, self.skip_steps = num_candidates, skip_steps
        self.steps: list[list[BranchedStep]] = [[] for _ in samples]

    def choose(self, fork: Fork) -> tuple[Tensor, Tensor | None]:
        """See `models.sampling.Branching`. One forward pass of the whole batch per candidate."""
        drawn, views, scores = [], [], []
        for candidate in range(self.num_candidates):
            self.stop.check()
            drawn.append(fork.step.draw(fork.mean, self.noise(fork, candidate)))
            views.append(fork.look(drawn[-1]))
            clean = views[-1].clean
            scores.append(self.judge.scores(self.samples, clean, fork.next_timestep, self.stop))
        continued = [
            continued_candidate(sample.seed, fork.number, self.num_candidates)
            for sample in self.samples
        ]
        for row, sample in enumerate(self.samples):
            of_sample = [candidate_scores[row] for candidate_scores in scores]
            record = step_record(sample, fork, self.judge.label, of_sample, continued[row])
            latents = {
                "x_t": fork.latents[row],
                "winner": drawn[record.winner][row],
                "loser": drawn[record.loser][row],
            }
            tensors = {step_tensor(record.step_id, n): t.cpu() for n, t in latents.items()}
            self.steps[row].append(BranchedStep(record, tensors))
        known = pick([v.prediction for v in views], continued) if fork.next_timestep else None
        return pick(drawn, continued), known

    def noise(self, fork: Fork, candidate: int) -> Tensor:
        """Standard normal noise for one candidate of each sample, in the shape of the batch's latents."""
        seeds = [candidate_seed(sample.seed, fork.number, candidate) for sample in self.samples]
        shape = tuple(fork.latents.shape[1:])
        noise = [normal(generator, shape) for generator in generators(seeds)]
        return torch.stack(noise).to(fork.latents.device)


def step_record(
    sample: Sample, fork: Fork, reward: str, scores: Sequence[float], continued: int
) -> StepCandidates:
    [(winner, loser)] = BestWorst()(scores)
    return StepCandidates(
        step_id=f"{sample.sample_id}-{fork.number}",
        sample_id=sample.sample_id,
        prompt_id=sample.prompt_id,
        prompt=sample.prompt,
        negative_prompt=sample.negative_prompt,
        iteration=sample.iteration,
        number=fork.number,
        timestep=fork.timestep,
        previous_timestep=fork.previous_timestep,
        guidance_scale=sample.guidance_scale,
        eta=sample.eta,
        reward=reward,
        scores=tuple(scores),
        winner=winner,
        loser=loser,
        continued=continued,
    )


def pick(alternatives: Sequence[Tensor], chosen: Sequence[int]) -> Tensor:
    """Row i of alternative `chosen[i]`, for each i; all are [batch, ...]."""
    return torch.stack([alternatives[choice][row] for row, choice in enumerate(chosen)])
