"""`expo score`: rollouts and image folders, one or many rewards, interrupted or not."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from expo_cli.config import RunOptions, ScoreConfig
from expo_cli.contracts import jsonl
from expo_cli.contracts.provenance import Run, read_run, write_run
from expo_cli.contracts.records import Checks, Sample, Score
from expo_cli.contracts.rollouts import reward_run_name, score_path, scored_rewards
from expo_cli.contracts.tensors import read_tensors, write_tensors
from expo_cli.errors import ContractError, ExpoError, Interrupted, UsageError
from expo_cli.models.loading import load_decoder
from expo_cli.rewards.pickscore import PickScore
from expo_cli.rewards.protocol import Batch, Judgement, Reward
from expo_cli.stages.score.plan import score_folder
from expo_cli.stages.status import read_status
from tests.conftest import EXPO

NUM_PROMPTS, PART_SIZE, IMAGES = 5, 2, 2
CHECKS = Checks(
    nan=False, black=False, saturation=0, contrast=0, colorfulness=0, clipped=0, edge_energy=0
)


class Brightness(Reward):
    """Mean grey value; a reward outside EXPO, named by its dotted path."""

    def identity(self):
        return {"scale": 2.0}

    def load(self, device, dtype):
        pass

    def judge(self, batch):
        return Judgement([float(np.asarray(image).mean()) for image in batch.images], scale=2.0)


class Undefined(Brightness):
    def judge(self, batch):
        return Judgement([float("nan")] * len(batch.images))


class Short(Brightness):
    def judge(self, batch):
        return Judgement([1.0])


class SignalAfterOneBatch(Brightness):
    """Asks its own process to stop, as a scheduler would, while the second batch is judged."""

    def __init__(self):
        self.batches = 0

    def judge(self, batch):
        self.batches += 1
        if self.batches == 2:
            signal.raise_signal(signal.SIGTERM)
        return super().judge(batch)


def own(name):
    return f"{__name__}.{name}"


@pytest.fixture
def rollout(tmp_path, tiny_sd) -> Path:
    """What `expo rollout` leaves of 5 prompts x 2 images in parts of 2 prompts."""
    folder = tmp_path / "rollout"
    num_parts = -(-NUM_PROMPTS // PART_SIZE)
    plan = {
        "drawn_by": str(tiny_sd),
        "part_size": PART_SIZE,
        "num_images_per_prompt": IMAGES,
        "num_prompts": NUM_PROMPTS,
        "num_samples": NUM_PROMPTS * IMAGES,
        "num_parts": num_parts,
    }
    write_run(folder, Run(command="rollout", plan=plan))
    generator = torch.Generator().manual_seed(0)
    for part in range(num_parts):
        samples = [
            Sample(
                sample_id=f"p{n}-main-1-{index}",
                prompt_id=f"p{n}",
                prompt=f"prompt {n}",
                agent="main",
                iteration=1,
                index=index,
                seed=index,
                negative_prompt="",
                policy="",
                scheduler="ddpm",
                num_inference_steps=1,
                guidance_scale=1,
                eta=0,
                width=64,
                height=64,
                checks=CHECKS,
            )
            for n in range(NUM_PROMPTS)[part * PART_SIZE : (part + 1) * PART_SIZE]
            for index in range(IMAGES)
        ]
        latents = {s.sample_id: torch.randn(4, 8, 8, generator=generator).half() for s in samples}
        write_tensors(folder / f"part-{part:05d}.safetensors", latents)
        jsonl.write(folder / f"part-{part:05d}.jsonl", samples)
    return folder


def score(folder, *rewards, out=None, shard="0/1", options=None, **settings):
    config = ScoreConfig(reward=rewards, **{"batch_size": 3} | settings)
    options = options or RunOptions(quiet=True)
    return score_folder(folder, out or folder / "scores", config, options, shard)


def scores(folder, label, num_parts=3) -> list[Score]:
    return [
        s
        for part in range(num_parts)
        for s in jsonl.read(score_path(folder / "scores", part, label), Score)
    ]


def contents(folder):
    """Every result file's bytes; run.json files hold times."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if not path.name.endswith("run.json")
    }


def test_samples_are_decoded_and_scored_in_their_order(rollout, tiny_sd, tiny_clip):
    result = score(rollout, f"a=pickscore:model={tiny_clip}", f"bright={own('Brightness')}")
    assert result.num_scored == {"a": 10, "bright": 10}
    assert result.parts_missing == {"a": 0, "bright": 0}
    decoder = load_decoder(str(tiny_sd), torch.device("cpu"), torch.float32)
    reward = PickScore(model=str(tiny_clip))
    reward.load(torch.device("cpu"), torch.float32)
    expected = []
    for part in range(3):
        latents = read_tensors(rollout / f"part-{part:05d}.safetensors")
        for sample in jsonl.read(rollout / f"part-{part:05d}.jsonl", Sample):
            pixels = decoder.decode(latents[sample.sample_id][None])[0]
            image = Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy())
            raw = reward.judge(Batch([sample.sample_id], [sample.prompt], [image])).raw[0]
            expected.append((sample.sample_id, sample.prompt_id, raw, np.asarray(image).mean()))
    # Decoded in another batch, a pixel may round to the neighbouring of the 256 values.
    for found, bright, (sample_id, prompt, raw, mean) in zip(
        scores(rollout, "a"), scores(rollout, "bright"), expected, strict=True
    ):
        assert (found.sample_id, found.prompt_id, found.reward) == (sample_id, prompt, "a")
        assert found.raw == pytest.approx(raw, abs=2e-4)
        assert found.score == found.raw * found.scale
        assert found.scale == pytest.approx(np.exp(2.0))
        assert bright.raw == pytest.approx(mean, abs=0.01)
        assert bright.score == 2 * bright.raw


def test_half_precision_says_nearly_the_same(rollout, tiny_clip, tiny_open_clip):
    rewards = (f"a=pickscore:model={tiny_clip}", f"b=hpsv2:model={tiny_open_clip}")
    score(rollout, *rewards)
    single = {label: [s.raw for s in scores(rollout, label)] for label in "ab"}
    score(rollout, *rewards, dtype="bf16", options=RunOptions(overwrite=True))
    for label in "ab":
        assert [s.raw for s in scores(rollout, label)] == pytest.approx(single[label], abs=0.03)


def test_image_embeddings_are_kept_where_the_reward_has_them(rollout, tiny_clip):
    score(rollout, f"a=pickscore:model={tiny_clip}", f"bright={own('Brightness')}")
    embeddings = read_tensors(rollout / "scores" / "part-00002.a.safetensors")
    assert set(embeddings) == {"p4-main-1-0", "p4-main-1-1"}
    for embedding in embeddings.values():
        assert (embedding.dtype, embedding.shape) == (torch.float16, (16,))
        assert embedding.float().norm().item() == pytest.approx(1, abs=1e-3)
    assert not (rollout / "scores" / "part-00002.bright.safetensors").exists()


def test_a_reward_added_later_leaves_the_others_files_alone(rollout, tiny_clip, tiny_open_clip):
    score(rollout, f"a=pickscore:model={tiny_clip}")
    before = {
        p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (rollout / "scores").iterdir()
    }
    both = (f"a=pickscore:model={tiny_clip}", f"b=hpsv2:model={tiny_open_clip}")
    assert score(rollout, *both).num_scored == {"a": 0, "b": 10}
    after = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (rollout / "scores").iterdir()}
    assert {name: after[name] for name in before} == before
    assert scored_rewards(rollout / "scores") == ["a", "b"]
    together = score(rollout, *both, out=rollout / "together")
    assert contents(together.path) == contents(rollout / "scores")


def test_shards_in_any_number_make_the_same_files(rollout, tiny_clip):
    one = score(rollout, f"pickscore:model={tiny_clip}", out=rollout / "one")
    for shard in ("1/2", "2/3", "0/2"):
        two = score(rollout, f"pickscore:model={tiny_clip}", out=rollout / "two", shard=shard)
    assert two.num_scored == {"pickscore": 4}  # part 0; part 2 was there
    assert contents(one.path) == contents(two.path)


def test_a_signal_stops_between_batches_and_the_rest_is_made_later(rollout):
    reward = own("SignalAfterOneBatch")
    whole = score(rollout, f"r={own('Brightness')}", out=rollout / "whole", batch_size=4)
    with pytest.raises(Interrupted):
        score(rollout, f"r={reward}", batch_size=4)
    assert [p.name for p in sorted((rollout / "scores").glob("part*"))] == [
        "part-00000.r.jsonl",
        "part-00001.r.jsonl",
    ]
    with pytest.raises(ContractError, match="was begun with reward="):
        score(rollout, f"r={own('Brightness')}")
    assert score(rollout, f"r={reward}", batch_size=4).num_scored == {"r": 2}
    assert contents(whole.path) == contents(rollout / "scores")


def test_finished_scores_need_no_torch(rollout, tiny_clip):
    score(rollout, f"pickscore:model={tiny_clip}")
    code = (
        "import sys; from expo_cli.main import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    arguments = ["score", rollout, "--reward", f"pickscore:model={tiny_clip}"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"{rollout / 'scores'}\n")
    assert done.stderr.splitlines()[-1] == "[]"


def test_what_a_label_stands_for_is_recorded_and_kept(rollout, tiny_clip, tiny_open_clip):
    score(rollout, f"a=hpsv2:model={tiny_open_clip},antialias=false")
    run = read_run(rollout / "scores", reward_run_name("a"))
    assert run.free["spec"] == f"hpsv2:model={tiny_open_clip},antialias=false"
    assert run.plan["reward"] == "expo_cli.rewards.hpsv2.HPSv2"
    assert (run.plan["antialias"], run.plan["scale"], run.plan["dtype"]) == (False, 100, "fp32")
    assert len(run.plan["weights"]) == 64
    assert run.counts == {"samples": 10, "parts": 3}
    before = contents(rollout / "scores")
    with pytest.raises(ContractError, match="antialias=False, not True; choose another label"):
        score(rollout, f"a=hpsv2:model={tiny_open_clip}")
    with pytest.raises(ContractError, match="choose another label"):
        score(rollout, f"a=pickscore:model={tiny_clip}")
    assert contents(rollout / "scores") == before


def test_overwrite_scores_only_its_labels_anew(rollout):
    score(rollout, f"a={own('Brightness')}", f"b={own('Brightness')}")
    before = contents(rollout / "scores")
    result = score(
        rollout, f"a={own('SignalAfterOneBatch')}", options=RunOptions(overwrite=True, dry_run=True)
    )
    assert (result.parts_missing, result.missing_parts) == ({"a": 0}, [])
    with pytest.raises(Interrupted):
        score(rollout, f"a={own('SignalAfterOneBatch')}", options=RunOptions(overwrite=True))
    left = contents(rollout / "scores")
    assert left == {name: data for name, data in before.items() if name in left}
    assert [name for name in before if name not in left] != []
    assert all(".a." in name for name in before if name not in left)
    with pytest.raises(UsageError, match="--shard"):
        score(rollout, f"a={own('Short')}", options=RunOptions(overwrite=True), shard="0/2")


def test_overwrite_begins_a_new_label_beside_others(rollout):
    score(rollout, f"a={own('Brightness')}")
    before = contents(rollout / "scores")
    anew = RunOptions(overwrite=True)
    assert score(rollout, f"b={own('Brightness')}", options=anew).num_scored == {"b": 10}
    after = contents(rollout / "scores")
    assert {name: after[name] for name in before} == before


def test_scores_of_another_rollout_are_not_continued(rollout):
    score(rollout, own("Brightness"))
    run = read_run(rollout)
    write_run(rollout, Run(command="rollout", plan=run.plan | {"seed": 1}))
    with pytest.raises(
        ContractError, match="was begun with rollout of .* not rollout of .* --overwrite all scores"
    ):
        score(rollout, own("Brightness"))


def test_a_limit_cuts_after_so_many_samples(rollout):
    result = score(rollout, own("Brightness"), limit=5)
    assert (result.num_samples, result.num_parts) == (5, 2)
    assert [s.sample_id for s in scores(rollout, "Brightness", 2)][-1] == "p2-main-1-0"
    with pytest.raises(ContractError, match="num_parts=2, not 3"):
        score(rollout, own("Brightness"))


def test_a_dry_run_touches_nothing(rollout, tiny_clip):
    result = score(rollout, f"pickscore:model={tiny_clip}", options=RunOptions(dry_run=True))
    assert (result.num_samples, result.parts_missing) == (10, {"pickscore": 3})
    assert result.missing_parts == [0, 1, 2]
    assert not (rollout / "scores").exists()


def test_the_shards_that_have_scores_to_make_are_named(rollout):
    assert score(rollout, own("Brightness"), shard="0/2").missing_shards == [1]
    assert score(rollout, own("Brightness"), shard="1/2").missing_shards == []


# What can be wrong with a rollout


def test_missing_parts_are_named(rollout):
    (rollout / "part-00001.jsonl").unlink()
    with pytest.raises(ExpoError, match=r"1 of 3 parts are missing \(1\).*expo rollout"):
        score(rollout, own("Brightness"))
    assert score(rollout, own("Brightness"), shard="0/2").num_scored == {"Brightness": 6}
    outputs = read_status([rollout]).outputs
    assert [(output.made_by, output.missing_parts) for output in outputs] == [
        ("rollout", [1]),
        ("score", [1]),
    ]
    assert outputs[1].reward == "Brightness"


def change_latents(rollout, change):
    path = rollout / "part-00001.safetensors"
    latents = read_tensors(path)
    write_tensors(path, change(latents))


def test_latents_that_are_not_finite_are_named(rollout):
    change_latents(rollout, lambda ls: ls | {"p2-main-1-1": torch.full((4, 8, 8), torch.nan)})
    with pytest.raises(
        ContractError, match=r"part-00001.safetensors: .*p2-main-1-1 are not finite"
    ):
        score(rollout, own("Brightness"))
    assert (rollout / "scores" / "part-00000.Brightness.jsonl").exists()


def test_latents_that_are_missing_are_named(rollout):
    change_latents(rollout, lambda ls: {k: v for k, v in ls.items() if k != "p3-main-1-0"})
    with pytest.raises(ContractError, match="p3-main-1-0"):
        score(rollout, own("Brightness"))


def test_latents_of_another_shape_are_one_line(rollout):
    change_latents(rollout, lambda ls: {k: v[:3] for k, v in ls.items()})
    with pytest.raises(ContractError, match=r"\[3, 8, 8\] do not fit the VAE"):
        score(rollout, own("Brightness"))
    change_latents(rollout, lambda ls: ls | {"p2-main-1-1": torch.zeros(4, 16, 8)})
    with pytest.raises(ContractError, match=r"p2-main-1-1 are \[4, 16, 8\]"):
        score(rollout, own("Brightness"))


@pytest.mark.parametrize(
    ("reward", "message"),
    [("Undefined", "score of p0-main-1-0 is nan"), ("Short", "gave 1 scores for 3 images")],
)
def test_a_reward_that_does_not_score_is_one_line(rollout, reward, message):
    with pytest.raises(ExpoError, match=message):
        score(rollout, own(reward))
    assert list((rollout / "scores").glob("part-*")) == []
    # A label that has no scores yet is not taken.
    label = f"{reward}={own('Brightness')}"
    assert score(rollout, label).num_scored == {reward: 10}


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (["pickscor"], "did you mean 'pickscore'"),
        (["pickscore:modle=x"], "did you mean 'model'"),
        (["a.b=pickscore"], "may hold only"),
        (["../a=pickscore"], "may hold only"),
        (["=pickscore"], "may hold only"),
        (["exec:./a.py", "exec:./b.py"], "'exec' is given twice; distinguish them with LABEL=exec"),
        (["pickscore:x,y"], "not KEY=VALUE"),
        (["no_such_package.Reward"], "cannot be imported"),
    ],
)
def test_wrong_rewards_are_usage_errors(rollout, rewards, message):
    with pytest.raises(UsageError, match=message):
        score(rollout, *rewards)


# Image folders


@pytest.fixture
def images(tmp_path):
    """Five grey images of different sizes, 10, 20, ... 50, with an index."""
    folder = tmp_path / "images"
    folder.mkdir()
    lines = []
    for n in range(5):
        value = 10 * (n + 1)
        Image.new("RGB", (10 + n, 20), (value, value, value)).save(folder / f"{n}.png")
        lines.append({"image": f"{n}.png", "prompt": f"grey {n % 2}"})
    (folder / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_folder_with_an_index_is_scored(images, tiny_clip, tiny_open_clip):
    index = str(images / "index.jsonl")
    rewards = [own("Brightness"), f"pickscore:{tiny_clip}", f"hpsv2:model={tiny_open_clip}"]
    result = score(images, *rewards, index=index, part_size=2)
    assert (result.num_parts, result.num_samples) == (3, 5)
    assert [s.raw for s in scores(images, "Brightness")] == [10, 20, 30, 40, 50]
    assert len({s.prompt_id for s in scores(images, "hpsv2")}) == 2
    assert score(images, *rewards, index=index, part_size=2).num_scored["hpsv2"] == 0


@pytest.fixture
def length(tmp_path) -> str:
    """An outside program that scores the length of the prompt."""
    program = tmp_path / "judge.py"
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        "for line in sys.stdin:\n"
        "    sample = json.loads(line)\n"
        "    print(json.dumps({'sample_id': sample['sample_id'], 'score': len(sample['prompt'])}))"
    )
    program.chmod(0o755)
    return f"length=exec:{program}"


def test_an_index_from_standard_input_is_the_same(expo, images, length):
    index = images / "index.jsonl"
    arguments = ["score", images, "--reward", length, "--part-size", 2]
    one = expo(*arguments, "--index", index, "--json", cwd=images.parent)
    assert json.loads(one.stdout)["num_scored"] == {"length": 5}, one.stderr
    lines = "".join(
        json.dumps(json.loads(line) | {"category": None}) + "\n" for line in index.open()
    )
    two = expo(*arguments, "--index", "-", "--out", images.parent / "two", input=lines)
    assert two.returncode == 0, two.stderr
    assert contents(images / "scores") == contents(images.parent / "two")
    assert [s.score for s in scores(images, "length")] == [6] * 5


def test_an_unusable_image_is_named_with_its_line(expo, images):
    (images / "3.png").write_bytes((images / "3.png").read_bytes()[:50])
    index = images / "index.jsonl"
    done = expo("score", images, "--reward", "exec:true", "--index", index, "--quiet")
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"expo: {index}:4: {images / '3.png'}: cannot be read as an image"
    )
    assert len(done.stderr.splitlines()) == 1


# Through the installed command


def test_a_folder_that_is_neither_is_refused(expo, tmp_path):
    done = expo("score", tmp_path, "--reward", "pickscore")
    assert (done.returncode, done.stdout) == (1, "")
    assert "run.json: missing" in done.stderr


def test_killed_and_run_again_gives_the_same_bytes(images, length, expo):
    index = str(images / "index.jsonl")
    whole = score(images, length, out=images / "whole", index=index, part_size=1)
    arguments = ["score", images, "--reward", length, "--index", index, "--part-size", 1]
    first = images / "scores" / "part-00000.length.jsonl"
    command = [EXPO, *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        while not first.exists() and running.poll() is None:
            time.sleep(0.001)
        running.kill()
    done = expo(*arguments)
    assert done.returncode == 0, done.stderr
    left = contents(images / "scores")
    assert {n: d for n, d in left.items() if not n.endswith(".partial")} == contents(whole.path)


def test_flagged_samples_are_passed_over_and_counted(rollout):
    """Their latents may be NaN; part 2 has no other samples."""
    bad = {"p0-main-1-1", "p4-main-1-0", "p4-main-1-1"}
    for part in (0, 2):
        path = rollout / f"part-{part:05d}.jsonl"
        samples = list(jsonl.read(path, Sample))
        flagged = [replace(s, checks=replace(CHECKS, nan=s.sample_id in bad)) for s in samples]
        jsonl.write(path, flagged)
        latents = read_tensors(path.with_suffix(".safetensors"))
        nan = torch.full((4, 8, 8), torch.nan).half()
        write_tensors(
            path.with_suffix(".safetensors"),
            {name: nan if name in bad else one for name, one in latents.items()},
        )
    result = score(rollout, own("Brightness"))
    assert result.num_scored == {"Brightness": 7}
    assert result.dropped == {"samples_nan_or_black": 3}
    found = {s.sample_id for s in scores(rollout, "Brightness")}
    assert len(found) == 7
    assert not found & bad
    assert result.parts_missing == {"Brightness": 0}


def test_an_unreadable_image_stops_or_is_dropped_and_counted(tmp_path):
    for number in range(4):
        Image.new("RGB", (8, 8), (50 * number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_text("<html>404</html>")
    index = tmp_path / "index.jsonl"
    lines = [{"image": f"{n}.png", "prompt": "x", "sample_id": f"s{n}"} for n in range(4)]
    index.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"index": str(index), "part_size": 2, "out": tmp_path / "out"}
    with pytest.raises(
        ContractError, match=r"index.jsonl:3: .*2.png: .*--unreadable drop leaves it out"
    ):
        score(tmp_path, own("Brightness"), **settings)
    result = score(tmp_path, own("Brightness"), **settings, unreadable="drop")
    assert result.dropped == {"unreadable_images": 1}
    path = score_path(tmp_path / "out", 1, "Brightness")
    assert [s.sample_id for s in jsonl.read(path, Score)] == ["s3"]
    with pytest.raises(ValueError, match="--unreadable needs --index"):
        ScoreConfig(reward=("x",), unreadable="drop")
