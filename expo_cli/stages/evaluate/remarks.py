"""What an evaluation says about itself: where its figures come from and how to read them."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from expo_cli.config import EvaluateConfig
from expo_cli.contracts.files import sha256
from expo_cli.contracts.identity import one_sha256
from expo_cli.contracts.provenance import Run, package_versions
from expo_cli.core.evaluation import PolicySamples
from expo_cli.report.wording import sampling
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
    """What a reader must know to read the figures, and why some are missing."""
    yield (
        "The prompt is the unit: images of a prompt are averaged, prompts are resampled. "
        "Differences and win rates compare images of the same prompt, seed and index."
    )
    flagged = {policy.label: int(policy.flagged.sum()) for policy in policies}
    if any(flagged.values()):
        counts = ", ".join(f"{count} of {label}" for label, count in flagged.items() if count)
        yield (
            f"Images that are NaN or black, of {num_samples} a policy: {counts}. They are left out of "
            "all means, for both sides of a difference, and lose in win rates (two tie)."
        )
    for category in left_out:
        yield f"No figures of category {category!r}: a policy has only NaN or black images there."
    if num_prompts < FEW_PROMPTS:
        yield (
            f"With {num_prompts} prompts the intervals are too narrow; use {FEW_PROMPTS} or more."
        )
    if config.protocol == "hps-benchmark" and num_prompts != HPS_PROMPTS:
        yield f"The HPS benchmark has {HPS_PROMPTS} prompts, these figures are of {num_prompts}."
    if config.training_reward is None or config.heldout_reward is None:
        yield ("Over-optimisation was not looked for: name --training-reward and --heldout-reward.")
    measured = [policy.label for policy in policies if policy.kl is not None]
    if measured:
        yield (
            f"KL of {', '.join(measured)}: trajectory KL to the weights of the rollout's --kl-to, "
            "in nats a sample; the last denoising step, whose sigma is 0, is left out."
        )
    else:
        yield "No KL: the rollouts were drawn without --kl-to."
    if not any(policy.diversity for policy in policies):
        reason = "one image a prompt" if num_samples == num_prompts else "no image embeddings"
        yield f"No diversity: {reason}."


def provenance(
    scored: Sequence[ScoredRollout], policies: Sequence[PolicySamples], config: EvaluateConfig
) -> dict[str, Any]:
    """Where the figures come from; the same for the same inputs and settings."""
    return {
        "seed": config.seed,
        "limit": config.limit,
        "sampling": sorted({sampling(way) for policy in policies for way in policy.sampling}),
        "policies": {
            each.label: {
                "folder": str(each.folder),
                "weights": policy_sha256(each.rollout.run),
                "sha256": files_sha256(each),
                "rollout": each.rollout.run.free | each.rollout.run.plan,
            }
            for each in scored
        },
        "rewards": {reward: run.free | run.plan for reward, run in scored[0].reward_runs.items()},
        "versions": package_versions(),
    }


def policy_sha256(run: Run) -> str | None:
    """Of the model that drew a rollout, as far as it is known."""
    if any(name.startswith("drawn_by/") for name in run.inputs):
        return one_sha256(run.inputs, "drawn_by")
    return run.inputs.get("policy")


def files_sha256(scored: ScoredRollout) -> str:
    """One sha256 over the names and contents of a policy's input files."""
    listing = "".join(
        f"{sha256(path)}  {path.relative_to(scored.folder).as_posix()}\n"
        for path in scored.input_files()
    )
    return hashlib.sha256(listing.encode()).hexdigest()
