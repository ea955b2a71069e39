"""Figures and names as text, with as many decimals as the uncertainty justifies."""

import math
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from expo_cli.contracts.results import (
    Estimate,
    PolicyResult,
    Results,
    SamplerSettings,
    SourceShare,
)


def reward_name(results: Results, reward: str) -> str:
    """The reward's label with its role, unless the label already states it."""
    if reward == results.training_reward:
        return reward if reward == "training" else f"{reward} (training)"
    if reward == results.heldout_reward:
        return "held out" if reward == "heldout" else f"{reward} (held out)"
    return f"{reward} (watched)" if reward == results.watched_reward else reward


def decimals(estimates: Iterable[Estimate]) -> int:
    """Decimals that show two digits of the narrowest interval among `estimates`."""
    widths = [
        e.high - e.low
        for e in estimates
        # A narrower interval is rounding error: the figure is the same for every prompt.
        if e.low is not None and e.high - e.low > 1e-9 * abs(e.value)
    ]
    if not widths:
        return 3
    return min(max(1 - math.floor(math.log10(min(widths))), 0), 6)


def reward_decimals(results: Results, reward: str) -> int:
    """The number of decimals for all figures of a reward, so that their points align."""
    figures = [policy.rewards[reward] for policy in results.policies]
    return decimals(figure.difference or figure.mean for figure in figures)


def kl_decimals(results: Results) -> int:
    return decimals(policy.kl.nats for policy in results.policies if policy.kl)


def fixed(value: float, places: int, sign: bool = False) -> str:
    """The value with a true minus sign, as wide as the plus, and none before zero."""
    return f"{round(value, places) + 0.0:{'+' if sign else ''}.{places}f}".replace(
        "-", "\N{MINUS SIGN}"
    )


def interval(estimate: Estimate, places: int, sign: bool = False) -> str:
    if estimate.low is None:
        return ""
    return f"[{fixed(estimate.low, places, sign)}, {fixed(estimate.high, places, sign)}]"


def direction(difference: Estimate | None) -> str:
    """`up` or `down` when the interval excludes 0, `level` otherwise."""
    if difference is None:
        return "level"
    return "up" if difference.rises else "down" if difference.falls else "level"


def sampler_settings(way: SamplerSettings) -> str:
    """The settings of a sampler in one line."""
    eta = f", eta {way.eta:g}" if way.eta else ""
    negative = ", negative prompts" if way.negative_prompts else ""
    return (
        f"{way.scheduler}, {way.num_inference_steps} steps, guidance {way.guidance_scale:g}"
        f"{eta}{negative}, {way.width}x{way.height}"
    )


def images_per_prompt(number: float) -> str:
    return "1 image per prompt" if number == 1 else f"{number:g} images per prompt"


def policy_settings(policy: PolicyResult) -> str:
    """How a policy's images were drawn, in one line."""
    seed = [] if policy.seed is None else [f"seed {policy.seed}"]
    return ", ".join([" and ".join(map(sampler_settings, policy.sampling)), *seed])


def reward_settings(plan: Mapping[str, Any]) -> str:
    """The reward behind a label, from the plan of its scores, in one line: its spec and the sha256 of
    its weights.
    """
    said = [str(plan.get("spec", "unknown"))]
    said += [f"{key} {plan[key]}" for key in ("version", "antialias", "dtype") if key in plan]
    said += [f"{key} {str(plan[key])[:12]}" for key in ("weights", "predictor") if key in plan]
    return ", ".join(said)


def visible(text: str) -> str:
    """A prompt with its control characters escaped, which a terminal would obey."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) == "Cc" else c for c in text
    )


def source_name(source: SourceShare) -> str:
    """Who drew an image and how, in a few words."""
    eta = f" eta {source.eta:g}" if source.eta else ""
    return (
        f"{source.agent}: {source.scheduler}{eta} {source.num_inference_steps} steps, guidance "
        f"{source.guidance_scale:g}"
    )


def optional(value: float | None, places: int) -> str:
    return "–" if value is None else fixed(value, places)
