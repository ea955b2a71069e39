"""The plots of a report, by Matplotlib without a window system; the same bytes every time."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from expo_cli.contracts.results import DRIFT_FIGURES, Estimate, PolicyResult, Results
from expo_cli.core.alarms import MAX_SHIFT
from expo_cli.report.wording import reward_name

INK, MUTED, GRID = "#1c2127", "#737b86", "#e4e7eb"
HELDOUT, TRAINING = "#c2571a", "#2f5fb3"
OTHERS = ("#2b7a62", "#7a4fa3", "#9a7b1f", "#3d8aa6", "#a3445e")
DASHED = (0, (4, 3))
# Longer rows of tick labels would overlap.
MAX_TICK_CHARACTERS = 72

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 2,
    "svg.hashsalt": "expo",
    "figure.dpi": 100,
    "savefig.dpi": 160,
}


def colors(results: Results) -> dict[str, str]:
    """One colour per reward, the same in every plot."""
    palette = iter(OTHERS * len(results.rewards))
    fixed = {results.training_reward: TRAINING, results.heldout_reward: HELDOUT}
    return {reward: fixed.get(reward) or next(palette) for reward in results.rewards}


def draw_plots(results: Results) -> dict[str, dict[str, bytes]]:
    """The plots for which the results have figures: name -> format (`svg`, `png`) -> bytes."""
    with mpl.rc_context(STYLE):
        figures = {"reward-by-policy": reward_by_policy(results)}
        if sum(policy.kl is not None for policy in results.policies) > 1:
            figures["reward-by-kl"] = reward_by_kl(results)
        if len(results.policies) > 1 and drift_shifts(results):
            figures["drift"] = drift_by_policy(results)
        return {
            name: {"svg": encode(figure, "svg"), "png": encode(figure, "png")}
            for name, figure in figures.items()
        }


def encode(figure: Figure, file_format: str) -> bytes:
    """The figure as a file, without its date."""
    content = io.BytesIO()
    metadata = {"Date": None} if file_format == "svg" else {}
    figure.savefig(content, format=file_format, metadata=metadata)
    return content.getvalue()


@contextmanager
def panels(
    count: int, width: float = 5.3, height: float = 3.2, columns: int = 2
) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """A figure of `count` panels of that size in inches, at most `columns` per row."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    figure.get_layout_engine().set(hspace=0.1)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for unused in axes[count:]:
        unused.remove()
    yield figure, axes[:count]


def shifted(base: Estimate, difference: Estimate | None) -> tuple[float, float, float]:
    """Value, low and high of the baseline's mean plus the difference; for the baseline all are its mean."""
    if difference is None:
        return base.value, base.value, base.value
    low = difference.value if difference.low is None else difference.low
    high = difference.value if difference.high is None else difference.high
    return base.value + difference.value, base.value + low, base.value + high


def paired(results: Results, reward: str, policies: Sequence[PolicyResult]) -> list:
    base = results.policy(results.baseline).rewards[reward].mean
    points = [shifted(base, policy.rewards[reward].difference) for policy in policies]
    return list(zip(*points, strict=True))


def name_policies(axis: Axes, labels: Sequence[str]) -> None:
    """Label the x axis with the policies, slanted if their names are long."""
    axis.set_xticks(range(len(labels)), labels)
    if sum(map(len, labels)) > MAX_TICK_CHARACTERS:
        axis.tick_params(axis="x", rotation=30)
        for label in axis.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")
    axis.grid(visible=False, axis="x")


def reward_by_policy(results: Results) -> Figure:
    """One panel per reward; the band is the interval of the paired difference to the baseline."""
    labels = [policy.label for policy in results.policies]
    with panels(len(results.rewards)) as (figure, axes):
        for axis, reward in zip(axes, results.rewards, strict=True):
            values, low, high = paired(results, reward, results.policies)
            color = colors(results)[reward]
            axis.axhline(
                results.policy(results.baseline).rewards[reward].mean.value,
                color=MUTED,
                linewidth=1,
                linestyle=DASHED,
            )
            axis.fill_between(range(len(labels)), low, high, color=color, alpha=0.16, linewidth=0)
            axis.plot(range(len(labels)), values, color=color, marker="o", markersize=5)
            axis.set_title(reward_name(results, reward))
            name_policies(axis, labels)
            axis.margins(x=0.06)
    return figure


def reward_by_kl(results: Results) -> Figure:
    """Figure 5 of the paper: reward against KL, one point per policy, connected in order."""
    policies = [policy for policy in results.policies if policy.kl is not None]
    kl = [policy.kl.nats.value for policy in policies]
    with panels(len(results.rewards)) as (figure, axes):
        for axis, reward in zip(axes, results.rewards, strict=True):
            base = results.policy(results.baseline).rewards[reward].mean
            values, low, high = paired(results, reward, policies)
            color = colors(results)[reward]
            axis.plot(kl, values, color=color, linewidth=1.2, alpha=0.5)
            axis.errorbar(
                kl,
                values,
                yerr=[
                    [value - end for value, end in zip(values, low, strict=True)],
                    [end - value for value, end in zip(values, high, strict=True)],
                ],
                fmt="o",
                clip_on=False,
                color=color,
                markersize=5,
                elinewidth=1,
            )
            axis.axhline(base.value, color=MUTED, linewidth=1, linestyle=DASHED)
            following = [*values[1:], -math.inf]
            for x, y, after, policy in zip(kl, values, following, policies, strict=True):
                # Below the point if the line rises from it, so that they do not cross.
                axis.annotate(
                    policy.label,
                    (x, y),
                    xytext=(7, -12 if after > y else 6),
                    textcoords="offset points",
                    fontsize=8,
                    color=MUTED,
                )
            axis.set_title(reward_name(results, reward))
            axis.set_xlabel("KL to the reference, nats per sample")
            axis.margins(x=0.14, y=0.15)
            axis.set_xlim(left=0)
    return figure


def drift_shifts(results: Results) -> dict[str, list[float]]:
    """The shifts of each drift figure by policy, if it varies over the baseline's prompts."""
    shifts = {
        name: [policy.drift[name].shift for policy in results.policies] for name in DRIFT_FIGURES
    }
    return {name: values for name, values in shifts.items() if None not in values}


def drift_by_policy(results: Results) -> Figure:
    """The shift of each drift figure in standard deviations of the baseline, with its range shaded."""
    labels = [policy.label for policy in results.policies]
    palette = dict(zip(DRIFT_FIGURES, (TRAINING, HELDOUT, *OTHERS), strict=False))
    with panels(1, width=10.6, height=3.2) as (figure, (axis,)):
        axis.axhspan(-MAX_SHIFT, MAX_SHIFT, color="#f1f3f5", linewidth=0)
        axis.axhline(0, color=MUTED, linewidth=1, linestyle=DASHED)
        for name, shifts in drift_shifts(results).items():
            label = name.replace("_", " ")
            axis.plot(shifts, color=palette[name], marker="o", markersize=4, label=label)
        axis.set_title("Shift from the baseline, in standard deviations over its prompts")
        name_policies(axis, labels)
        figure.legend(loc="outside right center", frameon=False)
    return figure
