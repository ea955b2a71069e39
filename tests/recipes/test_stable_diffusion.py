"""WORLD=sd15, on random weights in the layout of Stable Diffusion that predict noise, or v."""

import pytest

from tests.recipes.toy import TOY, results, run


@pytest.mark.parametrize(("layout", "iterations"), [("tiny_sd", 2), ("tiny_sd_v", 1)])
def test_expo_ii_runs_on_the_layout_of_stable_diffusion(
    layout, iterations, tiny_clip, tiny_open_clip, tmp_path, request
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
        "ITERATIONS": iterations,
        "INFERENCE_STEPS": 2,
    }
    done = run("expo_ii", **settings)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "out" / "evaluation-heldout")
    last = found["policies"][-1]
    assert last["label"] == f"iteration-{iterations}"
    assert last["kl"]["nats"]["value"] > 0
