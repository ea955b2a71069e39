"""Every system of Table 1 on the embedded world, and the tables and figures made of their runs."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.recipes.toy import PROJECT, TOY, results, run

ONCE, TWICE = {"ITERATIONS": 1}, {"ITERATIONS": 2}
# The online ones need a second iteration to draw in. One of them takes two workers.
SYSTEMS = {
    "sft": ONCE | {"CORES": 2},
    "dpo": ONCE,
    "kto": ONCE,
    "raft": TWICE,
    "spo": TWICE,
    "expo_i": TWICE,
    "expo_ii": TWICE,
    "expo_ii_m": TWICE,
}


def script(name: str, *arguments: object) -> None:
    path = PROJECT / "recipes" / "table1" / f"{name}.py"
    subprocess.run([sys.executable, path, *map(str, arguments)], check=True, cwd=PROJECT)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory) -> tuple[Path, dict[str, subprocess.CompletedProcess]]:
    """Where all systems ran on the embedded world, and how each of them ended."""
    runs = tmp_path_factory.mktemp("embedded")
    settings = TOY | {"RUNS": runs}
    base = run("base", **settings)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ends = pool.map(lambda s: run(s, **settings | SYSTEMS[s]), SYSTEMS)
        return runs, {"base": base} | dict(zip(SYSTEMS, ends, strict=True))


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_runs_on_the_embedded_world(system, embedded):
    runs, ends = embedded
    assert ends["base"].returncode == 0, ends["base"].stderr
    assert ends[system].returncode == 0, ends[system].stderr
    found = results(runs / f"{system}-pickscore" / "seed-0" / "evaluation-heldout")
    assert (found["training_reward"], found["heldout_reward"]) == ("pickscore", "hpsv2")
    assert [policy["label"] for policy in found["policies"]] == [
        "base",
        f"iteration-{SYSTEMS[system]['ITERATIONS']}",
    ]
    assert found["policies"][1]["kl"]["nats"]["value"] > 0


def test_tables_and_figures_are_made_of_the_kept_figures(embedded, tmp_path):
    runs, _ = embedded
    for system in SYSTEMS:
        run_folder = runs / f"{system}-pickscore" / "seed-0"
        kept = tmp_path / "table1" / "runs" / f"{system}-pickscore-0.json"
        script("keep", run_folder, kept, f"recipe={system}")
    script("tables", tmp_path)
    script("figures", tmp_path / "table1")
    table = json.loads((tmp_path / "table1" / "table1.json").read_text())
    rows = {row["system"]: row for row in table["rows"]}
    assert len(rows) == len(SYSTEMS)
    of_dpo = results(runs / "dpo-pickscore" / "seed-0" / "evaluation-heldout")["policies"][-1]
    for reward, found in rows["Diffusion-DPO-P"]["rewards"].items():
        expected = of_dpo["rewards"][reward]
        assert found["mean"] == pytest.approx(expected["mean"]["value"], abs=1e-3)
        assert found["difference"]["value"] == pytest.approx(
            expected["difference"]["value"], abs=1e-3
        )
    assert rows["Diffusion-DPO-P"]["pairs"] == 4
    assert rows["RAFT-P"]["pairs"] == 4 + 3  # offline ones, then one of each fresh prompt
    assert rows["EXPO-II-P"]["images_drawn"] == 3 * 2
    assert rows["EXPO-II-P"]["steps"] == 2 * 2
    for name in ("differences", "figure-4", "figure-5"):
        assert (tmp_path / "table1" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert b"</svg>" in (tmp_path / "table1" / f"{name}.svg").read_bytes()


@pytest.mark.parametrize(
    ("system", "budget", "place"),
    [
        ("base", "HELDOUT_PROMPTS", "shared/heldout.jsonl"),
        ("base", "OFFLINE_PROMPTS", "shared/offline/prompts.jsonl"),
        ("base", "JUDGE_PROMPTS", "shared/judge.jsonl"),
        ("base", "PART_SIZE", "shared/base/heldout-0"),
        ("dpo", "STEPS", "dpo-pickscore/seed-0/iteration-1/checkpoint"),
        ("raft", "NUM_PROMPTS", "raft-pickscore/seed-0/iteration-1/prompts.jsonl"),
        ("expo_i", "IMAGES", "expo_i-pickscore/seed-0/iteration-1/main"),
    ],
)
def test_a_budget_that_changed_is_refused(system, budget, place, embedded):
    runs, _ = embedded
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    settings = TOY | {"RUNS": runs} | SYSTEMS.get(system, {})
    done = run(system, **settings | {budget: settings.get(budget, 10) + 1})
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert f"{runs / place}: was begun with " in last
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path in before} == before
    assert {path.name for path in set(runs.rglob("*")) - before.keys()} == set()


def test_all_systems_share_one_set_of_offline_pairs(embedded):
    runs, _ = embedded
    assert len((runs / "shared/offline/pickscore-4.jsonl").read_text().splitlines()) == 4
    assert len((runs / "shared/offline/hpsv2-4.jsonl").read_text().splitlines()) == 4
