"""Puts the figures of an evaluation into words: the headline and the alarms."""

from collections.abc import Iterator

from expo_cli.contracts.results import (
    SAMPLER_SETTINGS,
    Alarm,
    DriftResult,
    Estimate,
    PolicyResult,
    Results,
)

# The range of a drift figure, in standard deviations over the baseline's prompts around its mean.
# Half of one is a medium effect by J. Cohen (Statistical Power Analysis, 1988): visible, and far
# beyond the noise of a mean.
MAX_SHIFT = 0.5

# With a larger share of unusable images, the figures describe another set of images.
MAX_FLAGGED = 0.01

UNCLEAR = "shows no clear change of"


def signed(estimate: Estimate) -> str:
    interval = "" if estimate.low is None else f" [{estimate.low:+.3g}, {estimate.high:+.3g}]"
    return f"{estimate.value:+.3g}{interval}"


def largest_shift(policy: PolicyResult) -> tuple[str, DriftResult] | None:
    """The drift figure that moved furthest from the baseline, None if none can be measured."""
    measured = [item for item in policy.drift.items() if item[1].shift is not None]
    return max(measured, key=lambda item: abs(item[1].shift), default=None)


def out_of_range(policy: PolicyResult) -> list[tuple[str, DriftResult]]:
    """The drift figures that leave the baseline's range, and whose difference is certain."""
    return [
        (name, drift)
        for name, drift in policy.drift.items()
        if drift.shift is not None
        and abs(drift.shift) > MAX_SHIFT
        and (drift.difference.rises or drift.difference.falls)
    ]


def verdict(results: Results) -> str:
    """One sentence on the last policy against the baseline."""
    policy, baseline = results.policies[-1], results.baseline
    if policy.label == baseline:
        return f"{baseline}: {results.num_prompts} prompts, not compared with another policy."
    clauses: dict[str, list[str]] = {"raises": [], "lowers": [], UNCLEAR: []}
    for label in results.rewards:
        difference = policy.rewards[label].difference
        name = f"{label} (held out)" if label == results.heldout_reward else label
        if difference.rises or difference.falls:
            verb = "raises" if difference.rises else "lowers"
            clauses[verb].append(f"{name} by {abs(difference.value):.3g}")
        else:
            clauses[UNCLEAR].append(name)
    said = [
        f"{verb} {(' or ' if verb == UNCLEAR else ' and ').join(names)}"
        for verb, names in clauses.items()
        if names
    ]
    return f"Against {baseline}, {policy.label} {', '.join(said)}."


def alarms(results: Results) -> Iterator[Alarm]:
    """Signs that the training reward is being gamed, or that the images are breaking."""
    baseline = results.policy(results.baseline)
    previous = None
    for policy in results.policies:
        if policy is not baseline:
            yield from _drawn_otherwise(policy, baseline)
            yield from _overoptimised(results, policy, previous)
            yield from _drifted(results, policy)
        yield from _broken(policy, baseline, results.num_samples)
        previous = policy


def _drawn_otherwise(policy: PolicyResult, baseline: PolicyResult) -> Iterator[Alarm]:
    """Sampler settings that differ from the baseline's, and so affect every difference."""
    if policy.sampling == baseline.sampling:
        return
    if len(policy.sampling) == len(baseline.sampling) == 1:
        [here], [there] = policy.sampling, baseline.sampling
        differ = [
            f"{name.replace('_', ' ')} {getattr(here, name)} instead of {getattr(there, name)}"
            for name in SAMPLER_SETTINGS
            if getattr(here, name) != getattr(there, name)
        ]
        if here.negative_prompts != there.negative_prompts:
            differ.append("other negative prompts")
    else:
        differ = ["other settings for some samples"]
    yield Alarm(
        level="warning",
        policy=policy.label,
        text=f"drawn with {', '.join(differ)}: differences to {baseline.label} are not due to "
        "the weights alone",
    )


def _overoptimised(
    results: Results, policy: PolicyResult, previous: PolicyResult | None
) -> Iterator[Alarm]:
    """The training reward rises significantly while the held-out reward falls."""
    training, heldout = results.training_reward, results.heldout_reward
    if training is None or heldout is None:
        return
    steps = [
        (results.baseline, policy.rewards[training].difference, policy.rewards[heldout].difference)
    ]
    # There is no change if the two share no good image.
    if previous is not None and previous.label != results.baseline and training in policy.change:
        steps.append((previous.label, policy.change[training], policy.change[heldout]))
    for other, gain, loss in steps:
        if gain.rises and loss.value < 0:
            yield Alarm(
                level="alarm" if loss.falls else "warning",
                policy=policy.label,
                text=f"against {other} the training reward {training} rises by {signed(gain)} "
                f"while the held-out reward {heldout} falls by {signed(loss)}",
            )


def _drifted(results: Results, policy: PolicyResult) -> Iterator[Alarm]:
    """A drift figure leaves the baseline's range significantly."""
    outside = []
    for name, drift in out_of_range(policy):
        low, high = drift.base_range
        figure = f"{name.replace('_', ' ')} {drift.mean.value:.3g}"
        outside.append(f"{figure} (range {low:.3g} to {high:.3g})")
    if outside:
        yield Alarm(
            level="alarm",
            policy=policy.label,
            text=f"out of {results.baseline}'s range: mean {', '.join(outside)}",
        )


def _broken(policy: PolicyResult, baseline: PolicyResult, num_samples: int) -> Iterator[Alarm]:
    if policy.num_flagged > MAX_FLAGGED * num_samples:
        yield Alarm(
            level="warning",
            policy=policy.label,
            text=f"{policy.num_flagged} of {num_samples} images "
            f"({policy.num_flagged / num_samples:.1%}) are NaN or black: left out of all means, "
            "and counted as losses in win rates",
        )
    if policy.num_nan:
        yield Alarm(
            level="alarm",
            policy=policy.label,
            text=f"images with values that are not finite: {policy.num_nan}",
        )
    if policy.num_black > baseline.num_black or (policy is baseline and policy.num_black):
        yield Alarm(
            level="alarm",
            policy=policy.label,
            text=f"black images: {policy.num_black}",
        )
