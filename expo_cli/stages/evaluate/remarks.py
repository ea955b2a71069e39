"""The provenance of an evaluation's figures, and notes on how to read them."""

from collections.abc import Iterator, Sequence
from typing import Any

from expo_cli.config import EvaluateConfig
from expo_cli.contracts.files import files_sha256
from expo_cli.contracts.identity import one_sha256
from expo_cli.contracts.provenance import Run, package_versions
from expo_cli.core.evaluation import PolicySamples
from expo_cli.report.wording import sampler_settings
from expo_cli.stages.evaluate.scored_rollouts import ScoredRollout

HPS_PROMPTS = 4 * 800
# Below this many prompts a percentile interval is noticeably too narrow.
FEW_PROMPTS = 20


def remarks(
    policies: Sequence[PolicySamples],
    num_prompts: int,
    num_samples: int,
    left_out: Sequence[str],
    config: EvaluateConfig,
) -> Iterator[str]:
    """Notes that a reader of the figures needs, and reasons for missing ones."""
    yield (
        "The prompt is the unit: images of a prompt are averaged, prompts are resampled. "
        "Differences and win rates compare images of the same prompt, seed and index."
    )
    flagged = {policy.label: int(policy.flagged.sum()) for policy in policies}
    if any(flagged.values()):
        counts = ", ".join(f"{count} of {label}" for label, count in flagged.items() if count)
        yield (
            f"Images that are NaN or black, of {num_samples} per policy: {counts}. They are left out of "
            "all means and of both sides of a difference, and lose in win rates (two tie)."
        )
    for category in left_out:
        yield f"No figures for category {category!r}: a policy has only NaN or black images there."
    if num_prompts < FEW_PROMPTS:
        yield (
            f"With {num_prompts} prompts the intervals are too narrow; use {FEW_PROMPTS} or more."
        )
    if config.protocol == "hps-benchmark" and num_prompts != HPS_PROMPTS:
        yield f"The HPS benchmark has {HPS_PROMPTS} prompts, these figures are from {num_prompts}."
    if config.training_reward is None or config.heldout_reward is None:
        yield (
            "Over-optimisation was not checked; it needs --training-reward and --heldout-reward."
        )
    measured = [policy.label for policy in policies if policy.kl is not None]
    if measured:
        yield (
            f"KL of {', '.join(measured)}: trajectory KL to the weights of the rollout's --kl-to, "
            "in nats per sample; the last denoising step, whose sigma is 0, is left out."
        )
    else:
        yield "No KL: the rollouts were drawn without --kl-to."
    if not any(policy.diversity for policy in policies):
        reason = "one image per prompt" if num_samples == num_prompts else "no image embeddings"
        yield f"No diversity: {reason}."


def provenance(
    scored: Sequence[ScoredRollout], policies: Sequence[PolicySamples], config: EvaluateConfig
) -> dict[str, Any]:
    """The provenance of the figures; equal for equal inputs and settings."""
    return {
        "seed": config.seed,
        "limit": config.limit,
        "sampling": sorted(
            {sampler_settings(way) for policy in policies for way in policy.sampling}
        ),
        "policies": {
            each.label: {
                "folder": str(each.folder),
                "weights": policy_sha256(each.rollout.run),
                "sha256": files_sha256(each.folder, each.input_files()),
                "rollout": each.rollout.run.free | each.rollout.run.plan,
            }
            for each in scored
        },
        "rewards": {reward: run.free | run.plan for reward, run in scored[0].reward_runs.items()},
        "versions": package_versions(),
    }


def policy_sha256(run: Run) -> str | None:
    """The sha256 of the model that drew a rollout, None if unknown."""
    if any(name.startswith("drawn_by/") for name in run.inputs):
        return one_sha256(run.inputs, "drawn_by")
    return run.inputs.get("policy")
