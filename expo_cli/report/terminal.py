"""The summary table on a terminal."""

from collections.abc import Iterator

from rich import box
from rich.table import Table
from rich.text import Text

from expo_cli.contracts.results import Choice, PolicyResult, Results
from expo_cli.core.alarms import largest_shift
from expo_cli.report.wording import (
    direction,
    fixed,
    images_per_prompt,
    kl_decimals,
    optional,
    policy_settings,
    reward_decimals,
    reward_name,
    reward_settings,
    source_name,
)

STYLES = {"up": "green", "down": "red", "level": ""}


def summary_table(results: Results) -> Table:
    """One row per policy: each reward with its difference to the baseline and win rate, KL, drift."""
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=f"± half the {results.confidence:.0%} interval of the difference to "
        f"{results.baseline}; drift in standard deviations of {results.baseline}",
        caption_justify="left",
    )
    table.add_column("policy", no_wrap=True)
    for reward in results.rewards:
        table.add_column(reward_name(results, reward), justify="right")
        table.add_column("difference", justify="right", no_wrap=True)
        table.add_column("win rate", justify="right")
    table.add_column("KL, nats", justify="right")
    table.add_column("largest drift", justify="right")
    places = {reward: reward_decimals(results, reward) for reward in results.rewards}
    kl_places = kl_decimals(results)
    for policy in results.policies:
        cells = [Text(policy.label)]
        for reward in results.rewards:
            cells += _reward_cells(policy, reward, places[reward])
        cells.append(Text(fixed(policy.kl.nats.value, kl_places) if policy.kl else "-"))
        moved = largest_shift(policy) if policy.label != results.baseline else None
        cells.append(
            Text(
                f"{moved[0].replace('_', ' ')} {fixed(moved[1].shift, 2, sign=True)}"
                if moved
                else "-"
            )
        )
        table.add_row(*cells)
    return table


def style_table(results: Results) -> Table:
    """One row per policy and reward, by the HPS benchmark's protocol: mean and spread per style."""
    table = Table(
        box=box.SIMPLE_HEAD,
        caption="± the standard deviation over ten groups of a style's images",
        caption_justify="left",
    )
    table.add_column("policy", no_wrap=True)
    table.add_column("reward")
    styles = list(results.policies[0].categories)
    for style in styles:
        table.add_column(Text(style), justify="right", no_wrap=True)
    table.add_column("all", justify="right")
    for policy in results.policies:
        for reward in results.rewards:
            figures = [policy.categories[style][reward] for style in styles]
            cells = [f"{f.mean.value:.2f} ± {f.group_std:.4f}" for f in figures]
            table.add_row(
                Text(policy.label),
                Text(reward),
                *cells,
                f"{policy.rewards[reward].mean.value:.2f}",
            )
    return table


def ledger_table(results: Results) -> Table:
    """One row per round and source: shares of images, winners and losers; margins; gain."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title="What each policy was the first to learn from",
        title_justify="left",
        caption="spread: best minus worst of a prompt's images, and without the exploring agent's; "
        "gain: of the training reward",
        caption_justify="left",
    )
    table.add_column("policy", no_wrap=True)
    table.add_column("images of")
    for name in ("images", "winners", "losers", "margin", "spread", "without", "gain/1000"):
        table.add_column(name, justify="right")
    for each in results.ledger:
        for number, source in enumerate(each.sources):
            parts = (source.images, source.winners, source.losers)
            cells = [Text(source_name(source)), *(f"{part:.0%}" for part in parts)]
            if number:
                table.add_row("", *cells)
                continue
            figures = (each.margin, each.spread, each.spread_without_explore)
            table.add_row(
                Text(each.label),
                *cells,
                *(optional(figure, 2) for figure in figures),
                optional(each.gain_per_1000_images, 2),
            )
    return table


def choice_lines(choice: Choice) -> Iterator[str]:
    yield f"best: {choice.best}: {choice.reason}"
    for label, reason in choice.rejected.items():
        yield f"not {label}: {reason}"
    if choice.stop:
        yield f"stop: the training reward rises while the watched one falls; go back to {choice.best}"
    yield f"used in training from now on: {', '.join(choice.rewards_used)}"


def settings_lines(results: Results) -> Iterator[str]:
    """The settings of the figures: sampler and seed of each policy, version of each reward."""
    ways = {policy.label: policy_settings(policy) for policy in results.policies}
    images = images_per_prompt(results.num_images_per_prompt)
    if len(set(ways.values())) == 1:
        yield f"all policies: {next(iter(ways.values()))}, {images}"
    else:
        for label, way in ways.items():
            yield f"{label}: {way}, {images}"
    for reward in results.rewards:
        yield f"{reward}: {reward_settings(results.provenance['rewards'][reward])}"


def _reward_cells(policy: PolicyResult, reward: str, places: int) -> list[Text]:
    result = policy.rewards[reward]
    mean = Text(fixed(result.mean.value, places))
    if result.difference is None:
        return [mean, Text("-"), Text("-")]
    difference = Text(
        fixed(result.difference.value, places, sign=True),
        style=STYLES[direction(result.difference)],
    )
    if result.difference.low is not None:
        half_width = (result.difference.high - result.difference.low) / 2
        difference.append(f" ±{fixed(half_width, places)}", style="dim")
    return [mean, difference, Text(f"{result.win_rate.value:.2f}")]
