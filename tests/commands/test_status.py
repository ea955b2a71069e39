"""`expo status` on outputs of which some parts, steps or files are missing."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from expo_cli.contracts.provenance import Run, read_run, write_run
from expo_cli.contracts.rollouts import reward_run_name, score_path
from expo_cli.contracts.shards import part_path
from expo_cli.contracts.states import state_folder
from tests.test_main import HEAVY
from tests.two_agents import main_and_explore


def run_of(command: str, plan: dict, line: str = "", **others) -> Run:
    return Run(command=command, plan=plan, arguments=[command, *line.split()], **others)


def make_part(folder, number: int) -> None:
    for suffix in (".jsonl", ".safetensors"):
        part_path(folder, number, suffix).touch()


@pytest.fixture
def rollout(tmp_path):
    """Ten parts, of which 3, 7, 8 and 9 are missing."""
    folder = tmp_path / "main"
    plan = {"num_prompts": 20, "num_parts": 10, "drawn_by": "embedded:emoji-sd"}
    line = "prompts.jsonl --shard 2/4 --policy embedded:emoji-sd --overwrite --out main"
    write_run(folder, run_of("rollout", plan, line))
    for number in (0, 1, 2, 4, 5, 6):
        make_part(folder, number)
    return folder


@pytest.fixture
def scores(rollout):
    """By `pick`, only parts 0 and 1; by `hps`, none; both by one command."""
    folder = rollout / "scores"
    line = "main --reward pick=pickscore --reward hps=hpsv2 --shard=0/4"
    write_run(folder, run_of("score", {"num_parts": 10}, line))
    for label, spec in (("pick", "pickscore"), ("hps", "hpsv2")):
        write_run(folder, run_of("score", {"spec": spec}, line), reward_run_name(label))
    for number in (0, 1):
        score_path(folder, number, "pick").touch()
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    plan = {"objective": "dpo", "init_from": "embedded:emoji-sd", "max_train_steps": 40}
    line = "pairs.jsonl --init-from embedded:emoji-sd --out checkpoint"
    write_run(folder, run_of("train", plan, line, free={"num_processes": 2}))
    for step in (10, 20):
        state_folder(folder, step).mkdir(parents=True)
    return folder


def test_a_rollout_and_the_scores_in_it(scores, expo, tmp_path):
    done = expo("status", "main", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (75, "")
    assert done.stdout.splitlines() == [
        "main: rollout of 20 prompts by embedded:emoji-sd, 6 of 10 parts, missing: 3, 7-9",
        "main/scores: scores hps by hpsv2, 0 of 10 parts, missing: 0-9",
        "main/scores: scores pick by pickscore, 2 of 10 parts, missing: 2-9",
        "to complete:",
        "  expo rollout prompts.jsonl --policy embedded:emoji-sd --out main",
        "  expo score main --reward pick=pickscore --reward hps=hpsv2",
    ]


def test_complete_is_exit_code_0(rollout, expo, tmp_path):
    for number in (3, 7, 8, 9):
        make_part(rollout, number)
    done = expo("status", "main", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "main: rollout of 20 prompts by embedded:emoji-sd, complete (10 parts)\n"
    )


def test_a_checkpoint_counts_saved_steps_until_it_is_finished(checkpoint, expo, tmp_path):
    done = expo("status", "checkpoint", cwd=tmp_path)
    assert done.returncode == 75
    assert done.stdout.splitlines() == [
        "checkpoint: checkpoint of dpo from embedded:emoji-sd, 20 of 40 steps",
        "to complete:",
        "  accelerate launch --multi_gpu --num_processes 2 -m expo_cli train pairs.jsonl "
        "--init-from embedded:emoji-sd --out checkpoint",
    ]
    files = ["adapter_config.json", "pytorch_lora_weights.safetensors"]
    run = read_run(checkpoint)
    write_run(checkpoint, replace(run, files=files))
    (checkpoint / files[0]).touch()
    done = expo("status", "checkpoint", cwd=tmp_path)
    assert done.returncode == 75
    assert "20 of 40 steps, missing: pytorch_lora_weights.safetensors" in done.stdout
    (checkpoint / files[1]).touch()
    done = expo("status", "checkpoint", cwd=tmp_path)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert done.stdout.endswith(", complete (40 steps)\n")


def test_all_steps_saved_is_not_finished(checkpoint, expo):
    state_folder(checkpoint, 40).mkdir()
    done = expo("status", checkpoint)
    assert done.returncode == 75
    assert "40 of 40 steps" in done.stdout


def test_files_and_an_evaluation(expo, tmp_path):
    main_and_explore(tmp_path)
    (tmp_path / "in.txt").write_text("a cat\na dog\n")
    expo("prep-prompts", "in.txt", "--out", "prompts.jsonl", cwd=tmp_path)
    expo("make-pairs", "it1/main", "it1/explore", "--out", "pairs.jsonl", cwd=tmp_path)
    evaluation = tmp_path / "eval"
    line = "base=a new=b --out eval --title=A\xa0title"
    write_run(evaluation, run_of("evaluate", {"policies": {"base": "a", "new": "b"}}, line))
    for name in ("results.json", "samples.jsonl", "report.html"):
        (evaluation / name).touch()
    outputs = ("prompts.jsonl", "pairs.jsonl", "eval")
    done = expo("status", *outputs, cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()) == (
        0,
        [
            "prompts.jsonl: 2 prompts, complete (1 file)",
            "pairs.jsonl: 2 pairs, complete (1 file)",
            "eval: evaluation of base, new, complete (3 files)",
        ],
    )
    (tmp_path / "pairs.jsonl").unlink()
    (evaluation / "report.html").unlink()
    done = expo("status", *outputs, cwd=tmp_path)
    assert done.returncode == 75
    assert "pairs.jsonl: 2 pairs, 0 of 1 file, missing: pairs.jsonl" in done.stdout
    assert "eval: evaluation of base, new, 2 of 3 files, missing: report.html" in done.stdout
    assert "  expo make-pairs it1/main it1/explore --out pairs.jsonl\n" in done.stdout


def test_json_for_scripts(scores, checkpoint, expo, tmp_path):
    done = expo("status", "main", "checkpoint", "--json", cwd=tmp_path)
    status = json.loads(done.stdout)
    assert (done.returncode, status["complete"]) == (75, False)
    by_reward = {(each["made_by"], each["reward"]): each for each in status["outputs"]}
    assert by_reward["rollout", None]["missing_parts"] == [3, 7, 8, 9]
    assert by_reward["score", "pick"]["missing_parts"] == list(range(2, 10))
    trained = by_reward["train", None]
    assert (trained["done"], trained["total"], trained["unit"]) == (20, 40, "steps")
    assert by_reward["rollout", None]["command"].startswith("expo rollout prompts.jsonl --policy")


@pytest.mark.parametrize(("count", "shards"), [(4, "0,1,3"), (16, "3,7,8,9"), (1, "0")])
def test_shards_to_submit_again(count, shards, rollout, expo):
    """Parts 3, 7, 8 and 9 modulo the count."""
    done = expo("status", rollout, "--missing-shards", count)
    assert (done.returncode, done.stdout, done.stderr) == (75, f"{shards}\n", "")


def test_no_shard_to_submit_again(rollout, expo):
    for number in (3, 7, 8, 9):
        make_part(rollout, number)
    done = expo("status", rollout, "--missing-shards", 4)
    assert (done.returncode, done.stdout) == (0, "\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["stray"], 1, "stray: not made by expo: there is no stray.run.json"),
        (["empty"], 1, "empty/run.json: missing; empty was not made by expo, or not begun"),
        (["main", "empty"], 1, "empty/run.json: missing"),
        (["broken"], 1, "broken/run.json: JSON is malformed"),
        (["foreign"], 1, "foreign: its run.json names an unknown command 'paint'"),
        (["hollow"], 1, "hollow: its run.json has no 'max_train_steps'"),
        (
            ["checkpoint", "--missing-shards", "4"],
            2,
            "checkpoint of dpo from embedded:emoji-sd, has",
        ),
        (["main", "--missing-shards", "0"], 2, "--missing-shards must be positive, got 0"),
        (["main", "--missing-shards", "2", "--json"], 2, "--json contradicts --missing-shards"),
    ],
)
def test_one_line_for_what_is_nothing_of_ours(
    arguments, code, message, rollout, checkpoint, expo, tmp_path
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/run.json").write_text("{x")
    (tmp_path / "stray").touch()
    write_run(tmp_path / "foreign", run_of("paint", {}))
    write_run(tmp_path / "hollow", run_of("train", {}))
    done = expo("status", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert message in done.stderr


def test_it_loads_nothing_heavy(scores, checkpoint):
    code = (
        "import sys\n"
        "from expo_cli.main import main\n"
        f"sys.argv = ['expo', 'status', {str(scores.parent)!r}, {str(checkpoint)!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        f"    print([m for m in {HEAVY} if m in sys.modules], end.code, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "[] 75\n"


def test_what_is_not_begun_yet(expo, tmp_path):
    write_run(tmp_path / "begun", run_of("score", {"num_parts": 10}, "main --reward pick"))
    done = expo("status", "nothing", "begun", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (75, "")
    assert done.stdout.splitlines() == [
        "nothing: not begun",
        "begun: not begun",
        "to complete:",
        "  the command that makes nothing",
        "  expo score main --reward pick",
    ]
    done = expo("status", "--missing-shards", "3", "nothing", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (75, "0,1,2\n")
