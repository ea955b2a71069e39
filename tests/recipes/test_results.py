"""The saved results: every figure shown is made of the kept figures of single runs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from expo_cli.contracts.results import PolicyResult, Results
from expo_cli.core.alarms import largest_shift
from expo_cli.report.wording import fixed, interval

PROJECT = Path(__file__).parents[2]
RESULTS = PROJECT / "recipes" / "results"


@pytest.fixture(scope="module")
def made_anew(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for name in ("table1/runs", "search", "explorers"):
        shutil.copytree(RESULTS / name, folder / name)
    script = PROJECT / "recipes" / "table1" / "tables.py"
    subprocess.run([sys.executable, script, folder], check=True, cwd=PROJECT)
    return folder


def leaves(value: object, place: str = "") -> dict[str, object]:
    """Every figure and name of a JSON document, by its place there."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for name, each in items for k, v in leaves(each, f"{place}/{name}").items()}
    return {place: value}


def test_table_1_is_made_of_the_kept_runs(made_anew):
    """Sums end in other last bits on other processors."""
    saved, made = (folder / "table1" for folder in (RESULTS, made_anew))
    assert (saved / "README.md").read_text() == (made / "README.md").read_text()
    figures, again = (leaves(json.loads((f / "table1.json").read_text())) for f in (saved, made))
    assert len(figures) > 1000
    assert again == pytest.approx(figures, rel=1e-9)


def quickstart_row(policy: PolicyResult) -> str:
    cells = [policy.label]
    for reward in ("pickscore", "hpsv2"):
        figures = policy.rewards[reward]
        by = figures.difference
        cells.append(fixed(figures.mean.value, 2))
        cells.append(f"{fixed(by.value, 2, sign=True)} {interval(by, 2, sign=True)}" if by else "–")
    wins = policy.rewards["hpsv2"].win_rate
    name, drift = largest_shift(policy)
    cells += [
        fixed(wins.value, 2) if wins else "–",
        fixed(policy.kl.nats.value, 1),
        f"{name} {fixed(drift.shift, 2, sign=True)}" if drift.shift else "–",
    ]
    return f"| {' | '.join(cells)} |"


def test_the_readme_shows_the_quickstart_as_it_is_saved():
    saved = (RESULTS / "quickstart" / "results.json").read_bytes()
    readme = (PROJECT / "README.md").read_text().splitlines()
    rows = [quickstart_row(policy) for policy in TypeAdapter(Results).validate_json(saved).policies]
    assert len(rows) == 6
    assert [row for row in readme if row.startswith(("| base |", "| iter"))] == [rows[0], rows[-1]]
