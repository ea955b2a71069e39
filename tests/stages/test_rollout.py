"""`expo rollout`, the installed command, on random weights in SD 1.5's layout."""

import json
import shutil
import signal
import subprocess
import time

import pytest
from PIL import Image

from expo_cli.config import RolloutConfig, RunOptions
from expo_cli.contracts.records import Sample
from expo_cli.contracts.rollouts import open_rollout
from expo_cli.contracts.tensors import read_tensors
from expo_cli.errors import ContractError, UsageError
from expo_cli.stages.rollout.plan import roll_out
from expo_cli.stages.status import read_status
from tests.conftest import EXPO

FAST = {"num_inference_steps": 2, "num_images_per_prompt": 2, "part_size": 2}
OPTIONS = RunOptions(quiet=True)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [{"prompt_id": f"p{n}", "prompt": f"prompt {n}", "category": "c"} for n in range(5)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def contents(folder):
    """Every result file's bytes; run.json files hold times."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("run.json")
    }


def samples(folder) -> list[Sample]:
    rollout = open_rollout(folder)
    return [sample for part in range(rollout.num_parts) for sample in rollout.samples(part)]


def draw(prompts, out, policy, shard="0/1", options=OPTIONS, **settings):
    config = RolloutConfig(policy=str(policy), **FAST | settings)
    return roll_out(prompts, out, config, options, shard)


def test_a_rollout_has_latents_images_and_records(prompts, tiny_sd, tmp_path):
    out = tmp_path / "out"
    assert draw(prompts, out, tiny_sd, images="png").parts_missing == 0
    drawn = samples(out)
    assert [(s.prompt_id, s.index) for s in drawn] == [
        (f"p{n}", i) for n in range(5) for i in (0, 1)
    ]
    tensors = read_tensors(open_rollout(out).latents_path(0))
    assert set(tensors) == {s.sample_id for s in drawn[:4]}
    assert tensors[drawn[0].sample_id].shape == (4, 8, 8)
    for sample in drawn:
        assert Image.open(out / sample.image).size == (64, 64)
        assert not sample.checks.nan


def test_shards_in_any_number_make_the_same_folder(prompts, tiny_sd, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    draw(prompts, one, tiny_sd)
    for shard in ("1/2", "0/3", "1/3", "2/3", "0/2"):
        draw(prompts, two, tiny_sd, shard=shard)
        if shard == "1/2":
            assert [output.missing_parts for output in read_status([two]).outputs] == [[0, 2]]
    assert contents(one) == contents(two)
    assert read_status([two]).complete


def test_a_stopped_rollout_goes_on_with_the_same_bytes(prompts, tiny_sd, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    command = [EXPO, "rollout", prompts, "--policy", tiny_sd, "--out", stopped]
    command += ["--num-inference-steps", 40, "--part-size", 1, "--num-images-per-prompt", 2]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    while not (stopped / "part-00000.jsonl").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate()[1]
    assert process.returncode == 75
    assert stderr.strip().splitlines()[-1].startswith("expo: stopped by SIGTERM")
    assert not (stopped / "part-00004.jsonl").exists()
    slow = {"num_inference_steps": 40, "part_size": 1}
    draw(prompts, whole, tiny_sd, **slow)
    draw(prompts, stopped, tiny_sd, **slow)
    assert contents(whole) == contents(stopped)


def test_both_agents_share_negative_prompts_but_not_noise(prompts, tiny_sd, tmp_path):
    negative = tmp_path / "negative.txt"
    negative.write_text("blurry\n\nugly\n")
    schedule = {
        "neg_schedule": "linear",
        "negative_prompts": str(negative),
        "iteration": 1,
        "iterations": 3,
    }
    for agent, explorer in (("main", None), ("explore", "same")):
        draw(prompts, tmp_path / agent, tiny_sd, agent=agent, explorer=explorer, **schedule)
    main, explore = samples(tmp_path / "main"), samples(tmp_path / "explore")
    assert [s.negative_prompt for s in main] == [s.negative_prompt for s in explore]
    assert {s.negative_prompt for s in main} == {"blurry", "ugly"}
    assert not {s.seed for s in main} & {s.seed for s in explore}


def test_explorers_draw_with_their_own_weights(prompts, tiny_sd, tiny_sd_other, tmp_path):
    other = str(tiny_sd_other)
    out = tmp_path / "out"
    draw(prompts, out, tiny_sd, agent="explore", explorer="reference", ref=other, kl_to=other)
    # The reference against itself: no divergence at any step.
    assert {sample.kl for sample in samples(out)} == {0.0}
    assert {len(sample.kl_steps) for sample in samples(out)} == {2}


def test_a_finished_rollout_needs_no_torch(expo, prompts, tiny_sd, tmp_path):
    out = tmp_path / "out"
    draw(prompts, out, tiny_sd)
    before = contents(out)
    again = expo(
        *("rollout", prompts, "--policy", tiny_sd, "--out", out),
        *("--num-inference-steps", 2, "--num-images-per-prompt", 2, "--part-size", 2),
        env={"PYTHONPROFILEIMPORTTIME": "1"},
    )
    assert (again.returncode, again.stdout) == (0, f"{out}\n"), again.stderr[-500:]
    assert "nothing to do" in again.stderr
    assert "torch._C" not in again.stderr
    assert contents(out) == before


def test_dry_run_says_what_would_be_done_and_does_nothing(expo, prompts, tiny_sd, tmp_path):
    out = tmp_path / "out"
    done = expo("rollout", prompts, "--policy", tiny_sd, "--out", out, "--dry-run")
    plan = json.loads(done.stdout)
    assert (plan["num_samples"], plan["num_parts"], plan["missing_parts"]) == (20, 1, [0])
    assert not out.exists()


def test_a_dry_run_names_the_shards_that_have_parts_to_draw(expo, prompts, tiny_sd, tmp_path):
    out = tmp_path / "out"
    settings = ("--part-size", 2, "--num-inference-steps", 1, "--num-images-per-prompt", 1)
    command = ("rollout", prompts, "--policy", tiny_sd, "--out", out, *settings, "--quiet")
    assert expo(*command, "--shard", "1/4").returncode == 0
    plan = json.loads(expo(*command, "--shard", "2/4", "--dry-run").stdout)
    # 5 prompts are parts 0, 1 and 2; of four shards the last has none.
    assert plan["num_parts"] == 3
    assert (plan["missing_parts"], plan["missing_shards"]) == ([2], [0, 2])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--scheduler", "dpm-solver"], 2, "did you mean 'dpm-solver++'?"),
        (["--scheduler", "euler", "--kl-to", "POLICY"], 2, "--kl-to needs Gaussian steps"),
        (["--agent", "explore"], 2, "--agent explore needs --explorer"),
        (["--agent", "explore", "--explorer", "samplng"], 2, "did you mean 'sampling'?"),
        (["--agent", "explore", "--explorer", "previous"], 2, "needs --previous"),
        (
            ["--agent", "explore", "--explorer", "sampling:num_inference_steps=0"],
            2,
            "must be positive",
        ),
        (["--num-inference-steps", "1001"], 2, "--num-inference-steps 1001"),
        (["--explorer", "same"], 2, "contradicts --agent main"),
        (["--agent", "explore", "--explorer", "sampling:eta=1"], 2, "eta belongs to ddim"),
        (["--neg-schedule", "linear"], 2, "needs --negative-prompts"),
        (["--shard", "3/3"], 2, "must be i/n"),
        (["--eta", "0.5"], 2, "--eta belongs to --scheduler ddim"),
        (["--policy", "no/such/folder"], 1, "no such model folder"),
    ],
)
def test_bad_input_is_one_line(arguments, code, message, expo, prompts, tiny_sd, tmp_path):
    arguments = [str(tiny_sd) if a == "POLICY" else a for a in arguments]
    done = expo(
        "rollout", prompts, "--policy", tiny_sd, "--out", tmp_path / "out", "--quiet", *arguments
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("expo: ")
    assert message in done.stderr
    assert not list(tmp_path.glob("out/part-*"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt_id": "a", "prompt": "x"}\n{"prompt_id": "b"', "prompts.jsonl:2: "),
        ('{"prompt_id": "a", "prompt": 5}\n', "prompts.jsonl:1: Expected `str`, got `int`"),
        ('{"prompt_id": "../a", "prompt": "x"}\n', "prompts.jsonl:1: prompt_id '../a' may hold"),
        (
            '{"prompt_id": "a", "prompt": "x"}\n' * 2,
            "prompts.jsonl:2: prompt_id a is already on line 1",
        ),
        ("\n", "prompts.jsonl:1: empty line"),
        ("", "no prompts"),
    ],
)
def test_a_bad_prompt_file_is_one_line(text, message, expo, prompts, tiny_sd, tmp_path):
    prompts.write_text(text)
    done = expo("rollout", prompts, "--policy", tiny_sd, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]


def test_sizes_and_precisions_the_model_cannot_do_are_refused(prompts, tiny_sd, tmp_path):
    with pytest.raises(UsageError, match="--height must be a multiple of 8, got 100"):
        draw(prompts, tmp_path / "out", tiny_sd, height=100)
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        draw(prompts, tmp_path / "other", tiny_sd, dtype="fp16")


def test_a_folder_is_continued_only_by_the_run_that_began_it(prompts, tiny_sd, tmp_path):
    out = tmp_path / "out"
    draw(prompts, out, tiny_sd)
    with pytest.raises(ContractError, match="was begun with guidance_scale=7.5, not 3.0"):
        draw(prompts, out, tiny_sd, guidance_scale=3.0)
    anew = RunOptions(quiet=True, overwrite=True)
    draw(prompts, out, tiny_sd, options=anew, guidance_scale=3.0)
    assert {sample.guidance_scale for sample in samples(out)} == {3.0}


def test_weights_that_exist_only_as_a_pickle_are_refused(prompts, tiny_sd, tmp_path):
    policy = tmp_path / "policy"
    shutil.copytree(tiny_sd, policy)
    weights = policy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ContractError, match="only the pickle diffusion_pytorch_model.bin"):
        draw(prompts, tmp_path / "out", policy)


def test_prompts_that_are_cut_are_said_once_with_their_number(expo, tiny_sd, tmp_path):
    """The tiny tokenizer reads 77 tokens, as CLIP's does."""
    long = [f"a cat {number} " + "very " * 90 + "old" for number in range(2)]
    lines = [{"prompt_id": f"p{n}", "prompt": text} for n, text in enumerate(["a cat", *long])]
    prompts = tmp_path / "long.jsonl"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = ("--num-inference-steps", 1, "--num-images-per-prompt", 2, "--part-size", 1)
    done = expo("rollout", prompts, "--policy", tiny_sd, "--out", tmp_path / "out", *settings)
    assert done.returncode == 0, done.stderr
    [note] = [line for line in done.stderr.splitlines() if "longer than the text encoder" in line]
    assert note.startswith("rollout: note: 2 prompts are longer")
