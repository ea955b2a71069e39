"""WORLD=sd15, on random weights in the layout of Stable Diffusion."""

from tests.recipes.toy import TOY, results, run


def test_expo_ii_runs_on_the_layout_of_stable_diffusion(
    tiny_sd, tiny_clip, tiny_open_clip, tmp_path
):
    (tmp_path / "prompts.txt").write_text("".join(f"prompt number {n}\n" for n in range(60)))
    settings = TOY | {
        "WORLD": "sd15",
        "RUNS": tmp_path / "runs",
        "OUT": tmp_path / "out",
        "BASE": tiny_sd,
        "PROMPTS": tmp_path / "prompts.txt",
        "PICKSCORE": f"pickscore:model={tiny_clip}",
        "HPSV2": f"hpsv2:model={tiny_open_clip}",
        "ITERATIONS": 2,
        "INFERENCE_STEPS": 2,
    }
    done = run("expo_ii", **settings)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "out" / "evaluation-heldout")
    last = found["policies"][-1]
    assert last["label"] == "iteration-2"
    assert last["kl"]["nats"]["value"] > 0
