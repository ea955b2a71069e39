"""Table 1 and answers to questions about it, as JSON and Markdown.

    python recipes/table1/tables.py RESULTS

Reads the kept runs in RESULTS/table1/runs, RESULTS/search and RESULTS/explorers, and writes
RESULTS/table1/table1.json and README.md, which takes its words from findings.md.
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from systems import REWARDS, System, estimate, paired, read_systems

from expo_cli.contracts.files import atomic
from expo_cli.contracts.results import Estimate
from expo_cli.report.wording import fixed, interval

FINDINGS = Path(__file__).with_name("findings.md")
# In the order of the rows.
TITLES = {
    "base": "base model",
    "sft": "SFT",
    "raft": "RAFT",
    "dpo": "Diffusion-DPO",
    "kto": "Diffusion-KTO",
    "spo": "SPO",
    "expo_i": "EXPO-I",
    "expo_ii": "EXPO-II",
    "expo_ii_m": "EXPO-II-M",
}
LETTERS = {"pickscore": "P", "hpsv2": "H"}
VARIANTS = {
    "efficient": "15 % of the pairs, 25 % of the steps",
    "none": "no negative prompts",
    "constant": "constant negative prompts",
}
# Question -> the two systems whose difference answers it.
QUESTIONS = (
    ("Does online beat offline?", "expo_i-pickscore", "dpo-pickscore"),
    ("Does EXPO beat offline?", "expo_ii-pickscore", "dpo-pickscore"),
    ("Do the other agent and the term help?", "expo_ii-pickscore", "expo_i-pickscore"),
    (
        "EXPO at 15 % of the data, 25 % of the steps?",
        "expo_ii-pickscore-efficient",
        "dpo-pickscore",
    ),
    ("Do negative prompts help?", "expo_ii-pickscore", "expo_ii-pickscore-none"),
    ("Linear better than constant ones?", "expo_ii-pickscore", "expo_ii-pickscore-constant"),
    ("Does the second reward help?", "expo_ii_m-pickscore", "expo_ii-pickscore"),
    ("SFT against Diffusion-DPO", "sft-pickscore", "dpo-pickscore"),
    ("RAFT against Diffusion-DPO", "raft-pickscore", "dpo-pickscore"),
    ("Diffusion-KTO against Diffusion-DPO", "kto-pickscore", "dpo-pickscore"),
    ("SPO against Diffusion-DPO", "spo-pickscore", "dpo-pickscore"),
    ("EXPO against offline, trained on hpsv2", "expo_ii-hpsv2", "dpo-hpsv2"),
)


def main(results: Path) -> None:
    systems = read_systems(results / "table1" / "runs")
    ordered = sorted(systems.values(), key=place)
    table = {
        "prompts": len(ordered[0].categories),
        "rows": [row(system) for system in ordered],
        "answers": [
            answer(question, systems[one], systems[other])
            for question, one, other in QUESTIONS
            if one in systems and other in systems
        ],
        "search": choices(results / "search", best_of(results / "search")),
        "explorers": choices(results / "explorers", without),
    }
    pages = {"table1.json": json.dumps(table, indent=1), "README.md": markdown(table)}
    for name, text in pages.items():
        with atomic(results / "table1" / name) as file:
            file.write(text.encode() + b"\n")


def place(system: System) -> tuple[int, bool, str]:
    return list(TITLES).index(system.name), system.reward == "hpsv2", system.variant or ""


def title(system: System) -> str:
    name = TITLES[system.name]
    if system.reward:
        name += ("" if system.name == "expo_ii_m" else "-") + LETTERS[system.reward]
    return f"{name}, {VARIANTS[system.variant]}" if system.variant else name


def row(system: System) -> dict[str, Any]:
    """All figures of one system's last policy on the held-out prompts."""
    figures: dict[str, Any] = {
        "system": title(system),
        "trained_on": system.trained_on,
        "seeds": len(system.runs),
        "rewards": {reward: reward_figures(system, reward) for reward in REWARDS},
        "pairs": system.mean_cost("pairs"),
        "steps": system.mean_cost("steps"),
        "images_drawn": system.mean_cost("images_drawn"),
        "minutes": system.minutes(),
    }
    if system.name == "base":
        return figures
    return figures | {
        "kl": asdict(estimate(system.figures(-1, "kl"))),
        "drift": system.shifts(),
        "categories": {
            category: {
                reward: asdict(estimate(system.difference(reward)[:, rows])) for reward in REWARDS
            }
            for category, rows in by_category(system.categories).items()
        },
    }


def reward_figures(system: System, reward: str) -> dict[str, Any]:
    figures: dict[str, Any] = {"mean": float(np.nanmean(system.figures(-1, reward)))}
    if system.name != "base":
        figures["difference"] = asdict(estimate(system.difference(reward)))
        figures["by_seed"] = np.nanmean(system.difference(reward), axis=1).tolist()
        figures["win_rate"] = asdict(estimate(system.wins(reward)))
    return figures


def by_category(categories: Sequence[str]) -> dict[str, np.ndarray]:
    names = np.array(categories)
    return {name: names == name for name in sorted(set(categories))}


def answer(question: str, one: System, other: System) -> dict[str, Any]:
    """The paired difference of two systems by each reward; `none` if its interval contains 0."""
    found: dict[str, Any] = {"question": question, "one": title(one), "other": title(other)}
    for reward in REWARDS:
        values = paired(one, other, reward)
        difference = estimate(values)
        verdict = "up" if difference.rises else "down" if difference.falls else "none"
        found[reward] = asdict(difference) | {"verdict": verdict, "seeds": len(values)}
    return found


def choices(folder: Path, compared_to: Callable[[str], str | None]) -> list[dict[str, Any]]:
    """Each setting's gain in the training reward on training prompts over the base, and its paired
    difference to the setting that it is compared to."""
    gains: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_bytes())
        base, last = (run["policies"][i]["scores"][run["training_reward"]] for i in (0, -1))
        gains[run["name"]] = np.subtract(last, base)
    found = []
    for name, gain in gains.items():
        other = compared_to(name)
        entry = {"setting": name, "gain": asdict(estimate(gain))}
        if other and other != name:
            entry |= {"to": other, "difference": asdict(estimate(gain - gains[other]))}
        found.append(entry)
    return found


def best_of(folder: Path) -> Callable[[str], str | None]:
    """The setting to compare with in a search: the best one of the same system."""
    means = {c["setting"]: c["gain"]["value"] for c in choices(folder, lambda name: None)}

    def best(name: str) -> str:
        system = name.partition("-")[0]
        return max((n for n in means if n.partition("-")[0] == system), key=means.__getitem__)

    return best


def without(name: str) -> str:
    """The setting to compare with: EXPO-I's explorer, or a weight of 0 for the term."""
    return "explorer-same-0" if name.startswith("explorer-") else "explorer-reference-0"


def figure(estimated: dict[str, Any], places: int) -> str:
    known = Estimate(value=estimated["value"], low=estimated["low"], high=estimated["high"])
    return f"{fixed(known.value, places, sign=True)} {interval(known, places, sign=True)}"


def lines(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    table = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in table)


def markdown(table: dict[str, Any]) -> str:
    prompts = table["prompts"]
    return "\n\n".join(
        [
            "# Table 1 on the embedded world",
            "Made by `bash recipes/table1.sh`; the words are in `recipes/table1/findings.md`, and how it "
            "was run is in [recipes](../../README.md#table-1).",
            f"{prompts} held-out prompts, one image per seed; differences to the base model with the "
            "same noise, with 95 % intervals over prompts and, where there are several, seeds. A star "
            "marks a reward that the system was trained on. KL in nats per sample; drift in standard "
            "deviations over the base's prompts; minutes on one core, without the start-up of programs "
            "(other work shared the cores: up to a half too many).",
            systems_table(table["rows"]),
            FINDINGS.read_text().strip(),
            "## By style",
            "Differences to the base model in the four styles of the prompts.",
            styles_table(table["rows"]),
            "## What was asked",
            "Paired differences of two systems on the seeds that both have; `none` where the "
            "interval holds 0.",
            answers_table(table["answers"]),
            "## What was chosen on training prompts",
            "The training reward's gain over the base model on 128 training prompts: the searches "
            "(`bash recipes/search.sh`; learning rate, beta), then explorers and weights of the "
            "exploration term (`bash recipes/explorers.sh`; three iterations, one seed, so that the "
            "intervals are over prompts alone; the agents with alpha 0, the term with the "
            "explorer `reference`).",
            choices_table(table["search"]),
            choices_table(table["explorers"]),
        ]
    )


def systems_table(rows: Sequence[dict[str, Any]]) -> str:
    header = ["system", "seeds", "pickscore", "to base", "wins", "hpsv2", "to base", "wins"]
    header += ["KL", "largest drift", "pairs", "steps", "images", "minutes"]
    return lines(header, map(system_cells, rows))


def system_cells(figures: dict[str, Any]) -> list[str]:
    cells = [figures["system"], str(figures["seeds"])]
    for reward, places in zip(REWARDS, (2, 1), strict=True):
        of = figures["rewards"][reward]
        star = "\\*" if reward in figures["trained_on"] else ""
        cells.append(fixed(of["mean"], places) + star)
        if "difference" in of:
            cells += [figure(of["difference"], places), fixed(of["win_rate"]["value"], 2)]
        else:
            cells += ["", ""]
    if "kl" not in figures:
        return [*cells, *[""] * 6]
    name, shift = max(figures["drift"].items(), key=lambda item: abs(item[1]))
    cells += [
        fixed(figures["kl"]["value"], 0),
        f"{name.replace('_', ' ')} {fixed(shift, 2, sign=True)}",
    ]
    cells += [f"{figures[cost]:.0f}" for cost in ("pairs", "steps", "images_drawn")]
    return [*cells, fixed(figures["minutes"], 1)]


def styles_table(rows: Sequence[dict[str, Any]]) -> str:
    styled = [figures for figures in rows if "categories" in figures]
    names = list(styled[0]["categories"])
    header = ["system", *(f"{name}, {reward}" for reward in REWARDS for name in names)]
    return lines(
        header,
        (
            [
                figures["system"],
                *(
                    figure(figures["categories"][name][reward], places)
                    for reward, places in zip(REWARDS, (1, 0), strict=True)
                    for name in names
                ),
            ]
            for figures in styled
        ),
    )


def answers_table(answers: Sequence[dict[str, Any]]) -> str:
    header = ["question", "difference", "seeds", "pickscore", "", "hpsv2", ""]
    rows = []
    for found in answers:
        cells = [found["question"], f"{found['one']} − {found['other']}"]
        cells.append(str(found[REWARDS[0]]["seeds"]))
        for reward, places in zip(REWARDS, (2, 1), strict=True):
            cells += [figure(found[reward], places), found[reward]["verdict"]]
        rows.append(cells)
    return lines(header, rows)


def choices_table(found: Sequence[dict[str, Any]]) -> str:
    rows = []
    for choice in found:
        cells = [choice["setting"], figure(choice["gain"], 2)]
        compared = "difference" in choice
        cells += [choice["to"], figure(choice["difference"], 2)] if compared else ["", ""]
        rows.append(cells)
    return lines(["setting", "gain", "compared to", "difference"], rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
