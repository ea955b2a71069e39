"""The kept figures of many runs, grouped by system over seeds."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from expo_cli.contracts.results import Estimate
from expo_cli.core.statistics import Floats, bootstrap_means, wins

# SYSTEM[-REWARD]-SEED[-VARIANT]: the base has no reward.
NAME = re.compile(
    r"(?P<system>\w+?)(-(?P<reward>pickscore|hpsv2))?-(?P<seed>\d+)(-(?P<variant>.+))?"
)
REWARDS = ("pickscore", "hpsv2")


@dataclass(frozen=True)
class System:
    """A row of Table 1: the runs of all its seeds, as `keep.py` left them, on the same prompts."""

    name: str
    reward: str | None
    variant: str | None
    runs: list[dict[str, Any]]

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The rewards that its training used."""
        return REWARDS if self.name == "expo_ii_m" else (self.reward,) if self.reward else ()

    @property
    def seeds(self) -> list[str]:
        return [run["settings"].get("SEED", "0") for run in self.runs]

    @property
    def iterations(self) -> list[int]:
        """The iteration of each policy of the first run; 0 is the base."""
        labels = [policy["label"] for policy in self.runs[0]["policies"]]
        return [int(label.removeprefix("iteration-")) if label != "base" else 0 for label in labels]

    def curve(self) -> "System | None":
        """The system with only the seed whose earlier iterations were also judged, None if there is none."""
        longest = max(self.runs, key=lambda run: len(run["policies"]))
        return replace(self, runs=[longest]) if len(longest["policies"]) > 2 else None

    def figures(self, policy: int, kind: str) -> Floats:
        """`kl`, or the scores by a reward, of one policy (-1 is the last): [seeds, prompts]."""
        found = [run["policies"][policy] for run in self.runs]
        return np.array([f["kl"] if kind == "kl" else f["scores"][kind] for f in found], float)

    def difference(self, reward: str, policy: int = -1) -> Floats:
        """The paired difference to the base with the same noise: [seeds, prompts]."""
        return self.figures(policy, reward) - self.figures(0, reward)

    def wins(self, reward: str) -> Floats:
        return wins(self.figures(-1, reward), self.figures(0, reward))

    def shifts(self, policy: int = -1) -> dict[str, float]:
        """Drift figures in standard deviations over the base's prompts, averaged over seeds."""
        found = [run["policies"][policy]["drift"] for run in self.runs]
        return {name: float(np.mean([f[name]["shift"] for f in found])) for name in found[0]}

    def mean_cost(self, name: str) -> float:
        return float(np.mean([run[name] for run in self.runs]))

    def minutes(self) -> float:
        return float(np.mean([sum(run["seconds"].values()) / 60 for run in self.runs]))

    @property
    def categories(self) -> list[str]:
        return self.runs[0]["categories"]


def read_systems(folder: Path) -> dict[str, System]:
    """Systems by name without the seed: `dpo-pickscore`, `expo_ii-pickscore-efficient`, `base`."""
    systems: dict[str, System] = {}
    for path in sorted(folder.glob("*.json")):
        name = NAME.fullmatch(path.stem)
        if name is None:
            raise SystemExit(f"{path}: its name is not SYSTEM-REWARD-SEED[-VARIANT].json")
        parts = (name["system"], name["reward"], name["variant"])
        key = "-".join(filter(None, parts))
        systems.setdefault(key, System(*parts, runs=[])).runs.append(json.loads(path.read_bytes()))
    return systems


def estimate(values: Floats) -> Estimate:
    """95 % over prompts and seeds: of [seeds, prompts], or of one seed's [prompts]."""
    return crossed_estimate(np.atleast_2d(values), num_resamples=5000, confidence=0.95, seed=0)


def crossed_estimate(
    values: Floats, *, num_resamples: int, confidence: float, seed: int
) -> Estimate:
    """The mean of [seeds, prompts] with an interval over both, each resampled on its own.

    The pigeonhole bootstrap (A. B. Owen, Annals of Applied Statistics 1(2), 2007): all seeds share the
    prompts, so neither the values nor the seeds' means are independent. With one seed it is the
    interval over prompts. NaN, an image that is not good, is left out.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(crossed_means(values, num_resamples, seed), [tail, 1 - tail])
    return Estimate(value=float(np.nanmean(values)), low=float(low), high=float(high))


def crossed_means(values: Floats, num_resamples: int, seed: int) -> Floats:
    """The means of resamples of both seeds and prompts, [resamples]; see `crossed_estimate`."""
    num_seeds = len(values)
    by_seed = bootstrap_means(values.T, num_resamples, seed)
    generator = np.random.default_rng([seed, num_seeds])
    counts = generator.multinomial(num_seeds, [1 / num_seeds] * num_seeds, size=num_resamples)
    return (by_seed * counts).sum(axis=1) / num_seeds


def paired(one: System, other: System, reward: str) -> Floats:
    """`one` minus `other` on the seeds that both have, [seeds, prompts]."""
    shared = sorted(set(one.seeds) & set(other.seeds))
    scores = [
        system.figures(-1, reward)[[system.seeds.index(seed) for seed in shared]]
        for system in (one, other)
    ]
    return scores[0] - scores[1]
