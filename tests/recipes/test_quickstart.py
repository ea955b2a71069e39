"""The quickstart, with accidents on the way, and its live line."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from expo_cli.report.wording import fixed
from tests.recipes.toy import PROJECT, results, run

SETTINGS = {
    "ITERATIONS": 1,
    "PROMPTS": 4,
    "HELDOUT_PROMPTS": 4,
    "CURVE_PROMPTS": 2,
    "STEPS": 2,
    "IMAGES": 1,
}


def figures(out) -> list[dict]:
    return [results(out / name) for name in ("by-iteration", "evaluation")]


def stop_while_it_trains(out) -> subprocess.CompletedProcess:
    """Run it, and end it by SIGTERM as soon as it says that it trains."""
    recipe = subprocess.Popen(
        ["bash", PROJECT / "recipes" / "quickstart.sh"],
        env=os.environ
        | {"VIRTUAL_ENV": sys.prefix, "OUT": str(out)}
        | {name: str(value) for name, value in SETTINGS.items()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = ""
    for line in recipe.stderr:
        said += line
        if "training" in line:
            recipe.send_signal(signal.SIGTERM)
            break
    said += recipe.stderr.read()
    recipe.wait()
    return subprocess.CompletedProcess(recipe.args, recipe.returncode, stderr=said)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    out = tmp_path_factory.mktemp("quickstart") / "out"
    done = run("quickstart", OUT=out, **SETTINGS)
    assert done.returncode == 0, done.stderr
    return out, done


def test_it_ends_with_the_same_numbers_after_interruptions(finished):
    out, first = finished
    made = figures(out)
    # As after a kill: an unfinished part, a checkpoint without its index, no evaluation.
    (out / "iteration-1" / "heldout" / "part-00000.jsonl").unlink()
    (out / "iteration-1" / "checkpoint" / "model_index.json").unlink()
    for path in (out / "iteration-1" / "heldout" / "scores").glob("part-*"):
        path.unlink()
    stopped = stop_while_it_trains(out)
    assert stopped.returncode == 128 + signal.SIGTERM
    assert "stopped; the same command goes on from here" in stopped.stderr
    again = run("quickstart", OUT=out, **SETTINGS)
    assert again.returncode == 0, again.stderr
    assert figures(out) == made
    assert again.stdout == first.stdout


def test_every_policy_is_a_row_of_both_rewards_and_the_last_one_is_judged_in_full(finished):
    out, done = finished
    by_iteration, whole = figures(out)
    assert by_iteration["num_prompts"] == 2
    assert whole["num_prompts"] == 4
    assert whole["policies"][-1]["kl"]
    assert (out / "by-iteration" / "plots" / "images.png").exists()
    policies = [*by_iteration["policies"], whole["policies"][-1]]
    assert [policy["label"] for policy in policies] == ["base", "iteration-1", "iteration-1"]
    rows = [line for line in done.stdout.splitlines() if line.startswith(("base", "iteration-"))]
    for policy, row in zip(policies, rows, strict=True):
        shown = []
        for reward in ("pickscore", "hpsv2"):
            by = policy["rewards"][reward]
            shown.append(fixed(by["mean"]["value"], 2))
            if by["difference"]:
                shown.append(fixed(by["difference"]["value"], 2, sign=True))
        assert re.sub(r"\[.*?\]", "", row).split()[1:] == shown
    header = next(line for line in done.stdout.splitlines() if line.startswith("policy"))
    assert header.split() == ["policy", "pickscore", "(training)", "hpsv2", "(held", "out)"]


@pytest.mark.parametrize(
    ("stages", "line"),
    [
        # Nothing is finished: nothing is known of what is to come.
        ([], "here · 0 s so far"),
        # A quarter of the work took 190 s, the rest takes three times as long.
        ([("base", 100, 190)], "here · 3 min 10 s so far, about 10 min left"),
        ([("base", 390, 50)], "here · 50 s so far, about 10 s left"),
        # A stage that was stopped after 20 s and then done in 30; and one that was done already.
        ([("base", 0, 20), ("base", 200, 30)], "here · 50 s so far, about 60 s left"),
        ([("base", 200, 50), ("base", 200, 0)], "here · 50 s so far, about 60 s left"),
    ],
)
def test_the_live_line_tells_time_by_the_work_that_is_done(tmp_path, stages, line):
    (tmp_path / "stages.tsv").write_text("".join(f"{n}\t{w}\t{s}\n" for n, w, s in stages))
    script = "source recipes/quickstart/live.sh; stage=here stage_began=$SECONDS; live_line"
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=PROJECT,
        env=os.environ | {"OUT": str(tmp_path), "TOTAL_WORK": "400"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{line}\n", done.stderr
