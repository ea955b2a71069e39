"""Which samples `expo rollout --redraw` draws again at full quality: those that drafts chose."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from expo_cli.config import RolloutConfig
from expo_cli.contracts.ids import sample_seed
from expo_cli.contracts.kinds import SCORES, ScoreParts
from expo_cli.contracts.records import Prompt, Sample
from expo_cli.contracts.rollouts import open_rollout, scored_rewards, scored_samples
from expo_cli.errors import ContractError, UsageError
from expo_cli.registry import nearest


@dataclass(frozen=True)
class Redraw:
    """The indices of each prompt's chosen samples, and the size of the drafts in pixels."""

    indices: Mapping[str, Sequence[int]]
    width: int
    height: int

    def check_size(self, width: int, height: int) -> None:
        """Raises UsageError for another size, in which the noise would be other noise."""
        if (width, height) != (self.width, self.height):
            raise UsageError(
                f"--redraw: the drafts are {self.width}x{self.height}, not {width}x{height}, and so "
                "have other noise; give --width and --height"
            )


def read_redraw(config: RolloutConfig, prompts: Sequence[Prompt]) -> Redraw:
    """Of each prompt's scored drafts, half of `num_images_per_prompt` with the highest scores and half
    with the lowest, equal scores in the order of the index.

    Raises UsageError for drafts of other noise (seed, agent, iteration), ContractError when a prompt
    has too few scored drafts; other errors as `open_rollout` and `scored_samples`.
    """
    folder = Path(config.redraw)
    rollout = open_rollout(folder)
    rollout.require()
    rewards = scored_rewards(folder / SCORES)
    if config.redraw_reward not in rewards:
        raise UsageError(
            f"--redraw-reward: {folder} has no scores by {config.redraw_reward!r}; "
            f"{nearest(config.redraw_reward, rewards)}"
        )
    ScoreParts(folder / SCORES, config.redraw_reward, rollout.num_parts).require()
    scored: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for sample, score in scored_samples(rollout, config.redraw_reward):
        check_same_noise(folder, sample, config)
        if score is not None:
            scored[sample.prompt_id].append((score, sample.index))
    half = config.num_images_per_prompt // 2
    indices = {}
    for prompt in prompts:
        ranked = [index for _, index in sorted(scored[prompt.prompt_id])]
        if len(ranked) < 2 * half:
            raise ContractError(
                f"{folder}: prompt {prompt.prompt_id} has {len(ranked)} drafts with a score by "
                f"{config.redraw_reward}, fewer than --num-images-per-prompt {2 * half}"
            )
        indices[prompt.prompt_id] = sorted(ranked[:half] + ranked[-half:])
    return Redraw(indices, sample.width, sample.height)


def check_same_noise(folder: Path, sample: Sample, config: RolloutConfig) -> None:
    place = (sample.prompt_id, config.agent, config.iteration, sample.index)
    if sample.seed != sample_seed(config.seed, *place):
        raise UsageError(
            f"--redraw {folder}: {sample.sample_id} has other noise; give the drafts' --seed, --agent "
            "and --iteration"
        )
