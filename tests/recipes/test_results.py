"""The saved results: every figure shown is made of the kept figures of single runs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_quickstarts_page_is_made_of_the_kept_results(tmp_path):
    saved = RESULTS / "quickstart"
    shutil.copytree(saved, tmp_path / "quickstart")
    script = PROJECT / "recipes" / "quickstart" / "tables.py"
    subprocess.run([sys.executable, script, tmp_path / "quickstart"], check=True, cwd=PROJECT)
    page = (tmp_path / "quickstart" / "README.md").read_text()
    assert page == (saved / "README.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("| iteration-5 |")]


def test_the_readme_shows_the_quickstart_as_it_is_saved():
    claim = re.compile(r"\| \d+ \| \d+ \|")  # a seed, its number of prompts
    page, readme = (
        [line for line in (folder / "README.md").read_text().splitlines() if claim.match(line)]
        for folder in (RESULTS / "quickstart", PROJECT)
    )
    assert readme
    assert readme == page
