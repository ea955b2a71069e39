"""The HPS benchmark's protocol as a recipe."""

import json

from tests.recipes.toy import PROJECT, results, run


def test_the_hps_benchmark_at_toy_size(tmp_path):
    """Ten prompts per style, two policies: the protocol's figures for each style."""
    styles = ("anime", "concept-art", "paintings", "photo")
    for style in styles:
        # Half of them are in every style, one is longer than CLIP reads.
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
