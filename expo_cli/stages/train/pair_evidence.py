"""Evidence for objectives that learn from pairs, and the noise that their roles share."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from expo_cli.config import TrainConfig
from expo_cli.contracts.records import Pair
from expo_cli.core.objectives import Errors, Objective, PairErrors
from expo_cli.core.visits import Visit
from expo_cli.models.protocol import DiffusionModel
from expo_cli.stages.train.evidence import (
    Denoiser,
    EvidenceStream,
    Latents,
    Row,
    RowMaker,
    saturation,
)
from expo_cli.stages.train.records import TrainingPair, explored_share, visit_order
from expo_cli.stages.train.reference import Reference

# Roles that share noise and timestep (Eq. 7).
NOISE_GROUP = {"winner": "", "loser": "", "explore": "/explore", "main": "/explore"}


class PairEvidence(EvidenceStream):
    """The errors of the samples of pairs: one forward pass for all roles of a micro-batch."""

    favoured, other = "winner", "loser"

    def __init__(
        self,
        pairs: Sequence[TrainingPair],
        objective: Objective,
        policy: DiffusionModel,
        reference: Reference | None,
        config: TrainConfig,
    ) -> None:
        self.pairs, self.objective, self.config = pairs, objective, config
        self.order, self.num_files = visit_order(pairs, config), pairs[-1].file + 1
        self.explored_share = explored_share(pairs, self.order)
        latents = Latents(pairs[0].folder, pairs[0].pair.winner, policy)
        self.maker = RowMaker(config, policy, latents)
        self.denoiser = Denoiser(policy, reference)

    @staticmethod
    def prompts(
        records: Sequence[TrainingPair],
        objective: Objective,
        config: TrainConfig,
        start: int,
        count: int,
    ) -> Iterator[str]:
        if config.caption_dropout:
            yield ""
        for visit in visit_order(records, config).visits(start, count):
            yield records[visit.item].pair.prompt

    @staticmethod
    def distinct_visits(
        records: Sequence[TrainingPair], objective: Objective, config: TrainConfig
    ) -> int | None:
        return visit_order(records, config).num_distinct

    def batch(self, start: int, count: int) -> PairErrors:
        chosen = self.order.visits(start, count)
        pairs = [self.pairs[visit.item] for visit in chosen]
        places, rows = self.rows(chosen)
        errors = by_role(pairs, places, self.denoiser.errors(rows), self.objective.roles)
        return replace(errors, explored_share=self.explored_share)

    def refer(self, start: int, count: int) -> None:
        self.denoiser.refer(self.rows(self.order.visits(start, count))[1])

    def files(self, start: int, count: int) -> list[int]:
        return [self.pairs[visit.item].file for visit in self.order.visits(start, count)]

    def rows(self, chosen: Sequence[Visit]) -> tuple[list[tuple[str, int]], list[Row]]:
        """The micro-batch of some visits, and (role, position of the pair) of each row.

        A pair has no rows for roles without a sample.
        """
        places, rows = [], []
        for role in self.objective.roles:
            for position, visit in enumerate(chosen):
                record = self.pairs[visit.item]
                pair, ref = record.pair, getattr(record.pair, role)
                if ref is None:
                    continue
                noise_id = pair.pair_id + NOISE_GROUP[role]
                places.append((role, position))
                rows.append(
                    self.maker.row(
                        record.folder, ref, pair.prompt, pair.pair_id, noise_id, visit.draw
                    )
                )
        return places, rows

    def measure(self, errors: PairErrors) -> dict[str, Tensor]:
        """Means over a micro-batch.

        winner_error, loser_error and the reference's; their changes against the reference (s of
        Eq. 6); implicit_accuracy: share of pairs whose winner the policy prefers more than the
        reference does; saturation, if the objective has weights.
        """
        objective, winner, loser = self.objective, errors.winner, errors.loser
        values = {"winner_error": winner.policy.mean()}
        if objective.needs_reference:
            values["reference_winner_error"] = winner.reference.mean()
            values["winner_error_change"] = winner.change.mean()
        if loser is not None and objective.needs_reference:
            values["loser_error"] = loser.policy.mean()
            values["reference_loser_error"] = loser.reference.mean()
            values["loser_error_change"] = loser.change.mean()
            values["implicit_accuracy"] = (loser.change > winner.change).float().mean()
        return values | saturation(objective, errors)

    def preferences(self, errors: PairErrors) -> dict[str, Tensor]:
        """The margin is how much more the loser's error changed than the winner's."""
        if errors.loser is None or not self.objective.needs_reference:
            return {}
        margin = (errors.loser.change - errors.winner.change).detach()
        return {"implicit_accuracy": margin > 0, "implicit_margin": margin}


def by_role(
    pairs: Sequence[TrainingPair],
    places: Sequence[tuple[str, int]],
    errors: Errors,
    all_roles: Sequence[str],
) -> PairErrors:
    """Errors [rows] split by role, each [pairs]; 0 where a pair has no such sample."""
    device = errors.policy.device
    nothing = torch.zeros(len(pairs), device=device)
    roles = {}
    for role in all_roles:
        rows = [r for r, (name, _) in enumerate(places) if name == role]
        positions = torch.tensor([places[r][1] for r in rows], dtype=torch.long, device=device)
        roles[role] = Errors(
            nothing.index_copy(0, positions, errors.policy[rows]),
            nothing.index_copy(0, positions, errors.reference[rows]),
        )
    gains = [explore_gain(item.pair) for item in pairs]
    return PairErrors(
        **roles,
        explored=torch.tensor([float(item.has_agents) for item in pairs]).to(device),
        explore_gain=torch.tensor(gains).to(device),
    )


def explore_gain(pair: Pair) -> float:
    """How much higher the explore sample scores than the main one; 0 if unknown."""
    if pair.explore is None or pair.explore.score is None or pair.main.score is None:
        return 0.0
    return pair.explore.score - pair.main.score
