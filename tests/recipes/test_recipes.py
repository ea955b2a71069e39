"""The recipes, run whole at toy size: on the embedded world, and in the layout of Stable Diffusion."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

# A system, and what its recipe's results say: the online ones need two iterations to draw in.
SYSTEMS = {
    "sft": 1,
    "dpo": 1,
    "kto": 1,
    "raft": 2,
    "spo": 2,
    "expo_i": 2,
    "expo_ii": 2,
    "expo_ii_m": 2,
}
TOY = {
    "OFFLINE_PROMPTS": 6,
    "OFFLINE_PAIRS": 4,
    "NUM_PROMPTS": 3,
    "HELDOUT_PROMPTS": 2,
    "JUDGE_PROMPTS": 2,
    "IMAGES": 1,
    "STEPS": 2,
    "BATCH": 2,
    "GRADIENT_ACCUMULATION": 1,
}


def run(recipe: str, *arguments: object, **settings: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", PROJECT / "recipes" / f"{recipe}.sh", *arguments],
        env=os.environ | {"VIRTUAL_ENV": sys.prefix} | {k: str(v) for k, v in settings.items()},
        capture_output=True,
        text=True,
    )


def script(name: str, *arguments: object) -> None:
    path = PROJECT / "recipes" / "table1" / f"{name}.py"
    subprocess.run([sys.executable, path, *map(str, arguments)], check=True, cwd=PROJECT)


def results(evaluation: Path) -> dict:
    return json.loads((evaluation / "results.json").read_text())


@pytest.fixture(scope="module")
def embedded(tmp_path_factory) -> tuple[Path, dict[str, subprocess.CompletedProcess]]:
    """Where all systems ran on the embedded world, and how each of them ended."""
    runs = tmp_path_factory.mktemp("embedded")
    settings = TOY | {"RUNS": runs, "CORES": 1, "CURVE": "none"}
    base = run("base", **settings)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ends = pool.map(lambda s: run(s, **settings | {"ITERATIONS": SYSTEMS[s]}), SYSTEMS)
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
        f"iteration-{SYSTEMS[system]}",
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


def test_all_systems_share_one_set_of_offline_pairs(embedded):
    runs, _ = embedded
    assert len((runs / "shared/offline/pickscore-4.jsonl").read_text().splitlines()) == 4
    assert len((runs / "shared/offline/hpsv2-4.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("layout", ["tiny_sd", "tiny_sd_v"])
def test_expo_ii_runs_on_the_layout_of_stable_diffusion(
    layout, tiny_clip, tiny_open_clip, tmp_path, request
):
    (tmp_path / "prompts.txt").write_text("".join(f"prompt number {n}\n" for n in range(60)))
    settings = TOY | {
        "WORLD": "sd15",
        "RUNS": tmp_path / "runs",
        "OUT": tmp_path / "out",
        "BASE": request.getfixturevalue(layout),
        "PROMPTS": tmp_path / "prompts.txt",
        "PICKSCORE": f"pickscore:model={tiny_clip}",
        "HPSV2": f"hpsv2:model={tiny_open_clip}",
        "ITERATIONS": 2,
        "INFERENCE_STEPS": 2,
    }
    done = run("expo_ii", **settings)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "out" / "evaluation-heldout")
    assert [policy["label"] for policy in found["policies"]] == [
        "base",
        "iteration-1",
        "iteration-2",
    ]
    assert found["policies"][2]["kl"]["nats"]["value"] > 0


def test_the_quickstart_ends_with_the_same_numbers_after_an_interruption(tmp_path):
    settings = {"ITERATIONS": 1, "PROMPTS": 4, "HELDOUT_PROMPTS": 4, "STEPS": 2}
    out = tmp_path / "out"
    first = run("quickstart", OUT=out, **settings)
    assert first.returncode == 0, first.stderr
    figures = results(out / "evaluation")
    # As after a kill: an unfinished part, a checkpoint without its index, no evaluation.
    (out / "iteration-1" / "heldout" / "part-00000.jsonl").unlink()
    (out / "iteration-1" / "checkpoint" / "model_index.json").unlink()
    for path in (out / "iteration-1" / "heldout" / "scores").glob("part-*"):
        path.unlink()
    again = run("quickstart", OUT=out, **settings)
    assert again.returncode == 0, again.stderr
    assert results(out / "evaluation") == figures


def test_the_hps_benchmark_at_toy_size(tmp_path):
    """Ten prompts a style, two policies: the protocol's figures for each style."""
    styles = ("anime", "concept-art", "paintings", "photo")
    for style in styles:
        # Half of them stand in every style, one is longer than CLIP reads.
        prompts = [f"noto style: {style if n < 5 else 'cat'} number {n}" for n in range(9)]
        prompts.append(f"{style} " + "cat " * 90)
        (tmp_path / f"{style}.json").write_text(json.dumps(prompts))
    policies = "embedded:emoji-sd", PROJECT / "expo_cli/embedded/emoji-sd"
    settings = {
        "OUT": tmp_path / "out",
        "REWARD": "hpsv2:model=embedded:emoji-hps",
        "SAMPLER": "--scheduler ddim --num-inference-steps 2 --guidance-scale 3",
    }
    few = run("hps_benchmark", tmp_path, *policies, **settings)
    assert few.returncode == 1
    assert "40 prompts, the benchmark has 3200" in few.stderr
    assert not (tmp_path / "out" / "emoji-sd").exists()
    done = run("hps_benchmark", tmp_path, *policies, **settings, NUM_PROMPTS=40)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "out" / "evaluation")
    assert [policy["label"] for policy in found["policies"]] == ["embedded-emoji-sd", "emoji-sd"]
    for policy in found["policies"]:
        assert sorted(policy["categories"]) == sorted(styles)
        assert all(figures["hpsv2"]["group_std"] > 0 for figures in policy["categories"].values())
