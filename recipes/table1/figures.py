"""The figures of Table 1's runs, each as PNG and SVG.

    python recipes/table1/figures.py RESULTS/table1

differences  every system's difference to the base by both rewards, with its interval
figure-4     EXPO-II with no, linear and constant negative prompts: rewards and colours by iteration
figure-5     reward against KL by iteration, for every system
"""

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from systems import REWARDS, System, estimate, read_systems
from tables import place, title

from expo_cli.contracts.files import atomic
from expo_cli.report.plots import (
    DASHED,
    HELDOUT,
    INK,
    MUTED,
    OTHERS,
    STYLE,
    TRAINING,
    encode,
    panels,
)

PALETTE = (TRAINING, HELDOUT, *OTHERS, INK)
# Figure 4: schedule of negative prompts -> variant of EXPO-II.
SCHEDULES = {
    "none": "expo_ii-pickscore-none",
    "linear": "expo_ii-pickscore",
    "constant": "expo_ii-pickscore-constant",
}
COLOURS = ("saturation", "colorfulness", "clipped")


def main(folder: Path) -> None:
    systems = read_systems(folder / "runs")
    trained = sorted((s for s in systems.values() if s.name != "base"), key=place)
    drawn: dict[str, Callable[[], Figure]] = {
        "differences": lambda: differences(trained),
        "figure-4": lambda: negative_prompts(systems),
        "figure-5": lambda: reward_by_kl([s for s in trained if s.variant is None]),
    }
    with mpl.rc_context(STYLE):
        for name, draw in drawn.items():
            figure = draw()
            for file_format in ("png", "svg"):
                with atomic(folder / f"{name}.{file_format}") as file:
                    file.write(encode(figure, file_format))


def differences(systems: list[System]) -> Figure:
    """One row per system: the mean difference and its interval; filled if it was trained on that reward."""
    rows = range(len(systems))[::-1]
    with panels(2, width=5.6, height=0.6 + 0.27 * len(systems)) as (figure, axes):
        for axis, reward, color in zip(axes, REWARDS, PALETTE, strict=False):
            for row, system in zip(rows, systems, strict=True):
                gain = estimate(system.difference(reward))
                axis.plot([gain.low, gain.high], [row, row], color=color, linewidth=1.5)
                face = color if reward in system.trained_on else "white"
                axis.plot(gain.value, row, "o", color=color, markerfacecolor=face, markersize=6)
            axis.axvline(0, color=MUTED, linewidth=1, linestyle=DASHED)
            axis.set_title(f"{reward}, difference to the base")
            axis.set_yticks(rows, map(title, systems) if axis is axes[0] else [""] * len(systems))
            axis.set_ylim(-0.6, len(systems) - 0.4)
            axis.grid(visible=False, axis="y")
    return figure


def negative_prompts(systems: dict[str, System]) -> Figure:
    """Figure 4: both rewards, then how far each colour figure has moved, by iteration."""
    compared = {name: systems[key].curve() for name, key in SCHEDULES.items() if key in systems}
    count = len(REWARDS) + len(COLOURS)
    with panels(count, width=2.9, height=2.9, columns=count) as (figure, axes):
        for (name, curve), color in zip(compared.items(), PALETTE, strict=False):
            if curve is None:
                continue
            x, policies = curve.iterations, range(len(curve.iterations))
            line = {"color": color, "marker": "o", "markersize": 4, "label": name}
            for axis, reward in zip(axes, REWARDS, strict=False):
                gains = [estimate(curve.difference(reward, i)) for i in policies]
                low, high = [gain.low for gain in gains], [gain.high for gain in gains]
                axis.fill_between(x, low, high, color=color, alpha=0.1, linewidth=0)
                axis.plot(x, [gain.value for gain in gains], **line)
                axis.set_title(f"{reward}, to base")
            for axis, colour in zip(axes[len(REWARDS) :], COLOURS, strict=True):
                axis.plot(x, [curve.shifts(i)[colour] for i in policies], **line)
                axis.set_title(f"{colour}, std. dev.")
        axes[0].legend(frameon=False, title="negative prompts", alignment="left")
        for axis in axes:
            axis.set_xlabel("iteration")
    return figure


def reward_by_kl(systems: list[System]) -> Figure:
    """Figure 5: the policies of each system in order, starting from the base at KL 0."""
    curves = [curve for curve in (system.curve() for system in systems) if curve]
    with panels(len(REWARDS), width=5.8, height=4.2) as (figure, axes):
        for axis, reward in zip(axes, REWARDS, strict=True):
            for curve, color in zip(curves, PALETTE, strict=False):
                policies = range(len(curve.iterations))
                kl = [np.mean(curve.figures(i, "kl")) for i in policies]
                gains = [curve.difference(reward, i).mean() for i in policies]
                axis.plot(kl, gains, color=color, linewidth=1.3, marker="o", markersize=3.5)
                axis.plot(kl[-1:], gains[-1:], "o", color=color, markersize=7, label=title(curve))
            axis.set_title(f"{reward}, difference to the base")
            axis.set_xlabel("KL to the base, nats a sample")
            axis.set_xlim(left=0)
        axes[0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    main(Path(sys.argv[1]))
