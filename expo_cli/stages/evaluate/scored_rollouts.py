"""Reads scored rollouts of several policies into columns, and checks that they are comparable."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from expo_cli.contracts.kinds import SCORES, ScoreParts
from expo_cli.contracts.provenance import Run, read_run
from expo_cli.contracts.records import Sample
from expo_cli.contracts.results import DRIFT_FIGURES, SAMPLER_SETTINGS, SamplerSettings
from expo_cli.contracts.rollouts import (
    Rollout,
    embeddings_path,
    open_rollout,
    reward_run_name,
    score_path,
    scored_rewards,
    scores_by_sample,
)
from expo_cli.contracts.shards import part_path
from expo_cli.contracts.tensors import open_tensors, read_tensors
from expo_cli.core.evaluation import PolicySamples
from expo_cli.core.statistics import Floats, diversity
from expo_cli.errors import ContractError, ExpoError
from expo_cli.stages.common.progress import Bar


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What was drawn, apart from the policy; it must be equal in all compared policies."""

    sample_id: str
    prompt_id: str
    prompt: str
    category: str | None
    index: int
    seed: int


DRAW_FIELDS = tuple(field.name for field in fields(Draw))
Settings: TypeAlias = tuple[Any, ...]  # the values of SAMPLER_SETTINGS


@dataclass(frozen=True)
class ScoredRollout:
    """A rollout whose parts all have scores by `rewards`, in the folder `scores`."""

    label: str
    rollout: Rollout
    scores: Path
    reward_runs: dict[str, Run]

    @property
    def rewards(self) -> list[str]:
        return list(self.reward_runs)

    @property
    def folder(self) -> Path:
        return self.rollout.folder

    def input_files(self) -> list[Path]:
        """All files that the figures are computed from, in a fixed order."""
        parts = [part_path(self.folder, part) for part in range(self.rollout.num_parts)]
        return parts + [
            score_path(self.scores, part, reward)
            for reward in self.rewards
            for part in range(len(parts))
        ]


def open_scored(label: str, folder: Path) -> ScoredRollout:
    """Raises ExpoError when the rollout or one of its rewards is missing or unfinished."""
    rollout = open_rollout(folder)
    rollout.require()
    scores = folder / SCORES
    rewards = scored_rewards(scores)
    if not rewards:
        raise ExpoError(f"{scores}: no scores; run `expo score {folder} --reward ...` first")
    for reward in rewards:
        ScoreParts(scores, reward, rollout.num_parts).require()
    runs = {reward: read_run(scores, reward_run_name(reward)) for reward in rewards}
    return ScoredRollout(label, rollout, scores, runs)


def check_same_rewards(first: ScoredRollout, other: ScoredRollout) -> None:
    """Raises ExpoError that names the first reward that only one of them has, or that differs."""
    for reward in sorted(set(first.rewards) ^ set(other.rewards)):
        has, lacks = (first, other) if reward in first.rewards else (other, first)
        raise ExpoError(
            f"{lacks.scores}: no scores by {reward!r}, which {has.label} has; "
            f"run `expo score {lacks.folder}` with that reward"
        )
    for reward in first.rewards:
        here, there = (each.reward_runs[reward] for each in (first, other))
        settings, others = here.plan | here.inputs, there.plan | there.inputs
        for key in sorted(settings.keys() | others.keys()):
            if settings.get(key) != others.get(key):
                raise ExpoError(
                    f"{other.scores}: {reward} was made with {key}={others.get(key)!r}, for "
                    f"{first.label} with {settings.get(key)!r}; scores need equal settings to compare"
                )


def read_samples(
    scored: ScoredRollout, limit: int | None, bar: Bar
) -> tuple[list[Draw], list[str], PolicySamples]:
    """The samples of a policy's first `limit` prompts (default: all), ordered by sample_id, and their
    prompt_ids in the order of the rollout.

    A flagged sample needs no score, and its score is ignored. Raises ContractError for a duplicate
    sample, and for a good one without a score.
    """
    draws: list[Draw] = []
    images: list[str | None] = []
    kl: list[float | None] = []
    checks: list[tuple[float, ...]] = []
    scores: dict[str, list[float]] = {reward: [] for reward in scored.rewards}
    diversities: dict[str, dict[str, float]] = {reward: {} for reward in scored.rewards}
    step_sums: list[Floats | None] = []
    prompt_ids: dict[str, None] = {}  # in the order of their first sample
    negative_prompts: dict[Settings, dict[str, str]] = defaultdict(dict)
    flagged: list[bool] = []
    num_nan = num_black = 0
    for part in range(scored.rollout.num_parts):
        samples = scored.rollout.samples(part)
        by_reward = {reward: _scores(scored, part, reward, samples) for reward in scored.rewards}
        prompt_ids |= dict.fromkeys(sample.prompt_id for sample in samples)
        if limit is not None:
            prompt_ids = dict.fromkeys(list(prompt_ids)[:limit])
            samples = [sample for sample in samples if sample.prompt_id in prompt_ids]
        for sample in samples:
            draws.append(Draw(**{name: getattr(sample, name) for name in DRAW_FIELDS}))
            negative_prompts[_settings(sample)][sample.sample_id] = sample.negative_prompt
            images.append(sample.image)
            kl.append(sample.kl)
            checks.append(tuple(getattr(sample.checks, name) for name in DRIFT_FIGURES))
            flagged.append(sample.checks.flagged)
            num_nan += sample.checks.nan
            num_black += sample.checks.black
        good = [sample for sample in samples if not sample.checks.flagged]
        if good:
            step_sums.append(_sum_of_kl_steps(good))
        for reward in scored.rewards:
            scores[reward].extend(by_reward[reward].get(s.sample_id, math.nan) for s in samples)
            diversities[reward] |= _diversities(scored, part, reward, good)
        bar.advance()
    order = sorted(range(len(draws)), key=lambda i: draws[i].sample_id)
    draws = [draws[i] for i in order]
    for previous, draw in zip(draws, draws[1:], strict=False):
        if previous.sample_id == draw.sample_id:
            raise ContractError(f"{scored.folder}: sample {draw.sample_id} is duplicated")
    is_flagged = np.array(flagged, dtype=bool)[order]

    def column(values: Sequence[float | None]) -> Floats:
        return np.where(is_flagged, math.nan, np.array(values, dtype=np.float64)[order])

    has_kl = all(value is not None for value, bad in zip(kl, flagged, strict=True) if not bad)
    return (
        draws,
        list(prompt_ids),
        PolicySamples(
            label=scored.label,
            flagged=is_flagged,
            scores={reward: column(values) for reward, values in scores.items()},
            kl=column(kl) if has_kl else None,
            kl_per_step=_mean_kl_steps(step_sums, flagged.count(False)),
            num_dimensions=_num_dimensions(scored.rollout),
            checks={
                name: column(values)
                for name, values in zip(DRIFT_FIGURES, zip(*checks, strict=True), strict=True)
            },
            num_nan=num_nan,
            num_black=num_black,
            diversity=_of_all_prompts(diversities, prompt_ids, _thinned(draws, is_flagged)),
            images=[images[i] for i in order],
            seed=_seed(scored.rollout),
            sampling=[
                _sampling(settings, negative_prompts[settings])
                for settings in sorted(negative_prompts)
            ],
        ),
    )


def check_same_draws(
    first: str, draws: Sequence[Draw], other: str, other_draws: Sequence[Draw]
) -> None:
    """Raises ExpoError that names the first sample in which two policies are not comparable."""
    advice = "compare rollouts of the same prompts, seed and images per prompt"
    ids, other_ids = ({draw.sample_id for draw in some} for some in (draws, other_draws))
    if ids != other_ids:
        sample_id = min(ids ^ other_ids)
        has, lacks = (first, other) if sample_id in ids else (other, first)
        raise ExpoError(f"{lacks}: has no sample {sample_id}, which {has} has; {advice}")
    for mine, theirs in zip(draws, other_draws, strict=True):
        for name in DRAW_FIELDS if mine != theirs else ():
            here, there = getattr(mine, name), getattr(theirs, name)
            if here != there:
                raise ExpoError(
                    f"{other}: sample {mine.sample_id} has {name}={there!r}, in {first} it is "
                    f"{here!r}; {advice}"
                )


def _settings(sample: Sample) -> Settings:
    return tuple(getattr(sample, name) for name in SAMPLER_SETTINGS)


def _sampling(settings: Settings, negative_prompts: Mapping[str, str]) -> SamplerSettings:
    """`negative_prompts` are those of all samples drawn with these settings, by sample_id."""
    listing = "".join(f"{name}\x1f{negative_prompts[name]}\n" for name in sorted(negative_prompts))
    return SamplerSettings(
        **dict(zip(SAMPLER_SETTINGS, settings, strict=True)),
        num_samples=len(negative_prompts),
        negative_prompts=hashlib.sha256(listing.encode()).hexdigest()
        if any(negative_prompts.values())
        else None,
    )


def _seed(rollout: Rollout) -> int | None:
    """None in rollouts that `expo rollout` did not make."""
    seed = rollout.run.plan.get("seed")
    return seed if isinstance(seed, int) else None


def _scores(
    scored: ScoredRollout, part: int, reward: str, samples: Sequence[Sample]
) -> dict[str, float]:
    """The scores of a part; errors as `scores_by_sample`, and for a good sample without a score."""
    scores = scores_by_sample(scored.scores, part, reward, samples)
    for sample in samples:
        if sample.sample_id not in scores and not sample.checks.flagged:
            raise ContractError(
                f"{score_path(scored.scores, part, reward)}: no score of sample "
                f"{sample.sample_id}; remove the file and run `expo score` again"
            )
    return scores


def _sum_of_kl_steps(samples: Sequence[Sample]) -> Floats | None:
    """Nats of each step, summed over samples: [steps]; None if any is missing."""
    steps = [sample.kl_steps for sample in samples]
    if None in steps or len({len(each) for each in steps}) != 1:
        return None
    return np.sum(steps, axis=0)


def _mean_kl_steps(sums: Sequence[Floats | None], num_samples: int) -> list[float] | None:
    if any(each is None for each in sums) or len({len(each) for each in sums}) != 1:
        return None
    return (np.sum(sums, axis=0) / num_samples).tolist()


def _num_dimensions(rollout: Rollout) -> int | None:
    """Number of elements of a sample's latents; None if the latents are gone."""
    path = rollout.latents_path(0)
    if not path.exists():
        return None
    with open_tensors(path, "numpy") as latents:
        first = next(iter(latents.keys()), None)
        if first is None:
            raise ContractError(f"{path}: holds no latents")
        return math.prod(latents.get_slice(first).get_shape())


def _diversities(
    scored: ScoredRollout, part: int, reward: str, samples: Sequence[Sample]
) -> dict[str, float]:
    """The diversity of each prompt of a part, NaN for a single image; empty without embeddings.

    Raises ContractError for a sample without an embedding, or with one of length 0 or not finite.
    """
    path = embeddings_path(scored.scores, part, reward)
    if not path.exists():
        return {}
    embeddings = read_tensors(path, "numpy")
    groups: dict[str, list[Floats]] = defaultdict(list)
    for sample in samples:
        embedding = embeddings.get(sample.sample_id, np.zeros(0)).astype(np.float64)
        group = groups[sample.prompt_id]
        alike = embedding.ndim == 1 and embedding.shape == (group or [embedding])[0].shape
        if not alike or not np.isfinite(embedding).all() or not embedding.any():
            raise ContractError(f"{path}: {sample.sample_id} has no embedding like the others'")
        group.append(embedding)
    return {
        prompt_id: diversity(np.stack(group)) if len(group) > 1 else math.nan
        for prompt_id, group in groups.items()
    }


def _thinned(draws: Sequence[Draw], flagged: NDArray[np.bool_]) -> set[str]:
    """The prompts of several images that have fewer than two good ones."""
    drawn = Counter(draw.prompt_id for draw in draws)
    good = Counter(draw.prompt_id for draw, bad in zip(draws, flagged, strict=True) if not bad)
    return {prompt_id for prompt_id, count in drawn.items() if count > 1 and good[prompt_id] < 2}


def _of_all_prompts(
    diversities: Mapping[str, Mapping[str, float]],
    prompt_ids: Collection[str],
    thinned: Collection[str],
) -> dict[str, Floats]:
    """Reward with embeddings -> diversities in prompt_id order, NaN for prompts in `thinned`.

    A reward is left out if it wrote no embeddings, or if another prompt has a single image.
    """
    excused = np.array([prompt_id in thinned for prompt_id in sorted(prompt_ids)])
    known = {
        reward: np.array([by_prompt.get(prompt_id, math.nan) for prompt_id in sorted(prompt_ids)])
        for reward, by_prompt in diversities.items()
    }
    return {
        reward: values
        for reward, values in known.items()
        if (np.isfinite(values) | excused).all() and not excused.all()
    }
