"""Which iteration is best, and whether to stop: from figures of training prompts, never held-out ones.

A reward that decides here is used in training, and so is not held out any more.
"""

from collections.abc import Iterator

from expo_cli.contracts.results import Choice, PolicyResult, Results
from expo_cli.core.alarms import largest_shift, out_of_range, signed

# A policy whose images of a prompt lie closer together than this share of the baseline's has collapsed.
MIN_DIVERSITY = 0.5


def choose(results: Results) -> Choice:
    """The policy with the highest training reward among those that nothing speaks against.

    Needs `training_reward` and `watched_reward`. A policy is rejected when the watched reward falls,
    against the baseline or while the training reward rises against the preceding policy, when a
    drift figure leaves the baseline's range or when its diversity halves; a fall, a rise or a drift
    counts only with its whole interval.
    """
    training = results.training_reward
    baseline, others = results.policy(results.baseline), []
    rejected = {}
    for policy in results.policies:
        if policy is not baseline:
            reasons = list(objections(results, policy))
            if reasons:
                rejected[policy.label] = "; ".join(reasons)
            else:
                others.append(policy)
    best = max([baseline, *others], key=lambda policy: policy.rewards[training].mean.value)
    last = results.policies[-1]
    return Choice(
        best=best.label,
        reason=describe(results, best),
        stop=last is not baseline and games(results, last),
        rejected=rejected,
        rewards_used=[training, results.watched_reward],
    )


def games(results: Results, policy: PolicyResult) -> bool:
    """Whether the training reward rises against the preceding policy while the watched one falls."""
    changes = [
        policy.change.get(name) for name in (results.training_reward, results.watched_reward)
    ]
    return None not in changes and changes[0].rises and changes[1].falls


def objections(results: Results, policy: PolicyResult) -> Iterator[str]:
    watched, baseline = results.watched_reward, results.policy(results.baseline)
    difference = policy.rewards[watched].difference
    if difference.falls:
        yield f"{watched} {signed(difference)} against {results.baseline}"
    if games(results, policy):
        yield f"{watched} {signed(policy.change[watched])} while {results.training_reward} rises"
    for name, drift in out_of_range(policy):
        yield f"{name.replace('_', ' ')} {drift.shift:+.2f} sd"
    for label, diversity in policy.diversity.items():
        before = baseline.diversity.get(label)
        if before is not None and diversity.mean.value < MIN_DIVERSITY * before.mean.value:
            yield f"diversity {diversity.mean.value:.3g} of {before.mean.value:.3g}"


def describe(results: Results, policy: PolicyResult) -> str:
    """The figures by which a policy was chosen."""
    if policy.label == results.baseline:
        return "no other policy is better by the training reward without an objection"
    figures = [
        f"{label} {signed(policy.rewards[label].difference)}"
        for label in (results.training_reward, results.watched_reward)
    ]
    if policy.kl is not None:
        figures.append(f"KL {policy.kl.nats.value:.3g} nats")
    if moved := largest_shift(policy):
        figures.append(f"{moved[0].replace('_', ' ')} {moved[1].shift:+.2f} sd")
    return f"{', '.join(figures)} against {results.baseline}"
