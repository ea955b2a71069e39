"""The saved results: every figure shown is made of the kept figures of single runs."""

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


@pytest.mark.parametrize("name", ["table1.json", "table1.md"])
def test_table_1_is_made_of_the_kept_runs(name, made_anew):
    saved, made = (folder / "table1" / name for folder in (RESULTS, made_anew))
    assert saved.read_text() == made.read_text()


def test_the_readme_shows_table_1_as_it_is_saved():
    table, _, _ = (RESULTS / "table1" / "table1.md").read_text().partition("## By style")
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    readme = (PROJECT / "README.md").read_text().splitlines()
    assert [row for row in rows if row not in readme] == []
