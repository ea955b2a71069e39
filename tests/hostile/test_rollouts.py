"""Folders of rollouts and scores, their files damaged: every command that reads them says so."""

import copy
import itertools
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from expo_cli.config import (
    EvaluateConfig,
    MakePairsConfig,
    PairImagesConfig,
    RunOptions,
    StatusConfig,
)
from expo_cli.contracts.provenance import Run, read_run, write_run
from expo_cli.contracts.rollouts import open_rollout
from expo_cli.contracts.shards import MOST_PARTS, num_parts
from expo_cli.errors import UsageError
from expo_cli.stages.evaluate import run as evaluate
from expo_cli.stages.make_pairs.run import make_pairs
from expo_cli.stages.score.image_sources import RolloutImages
from expo_cli.stages.status import read_status
from tests.hostile.damage import bytes_changed, every, lines_changed, read_or_fault, truncations
from tests.scored import write_scored
from tests.two_agents import main_and_explore

QUIET = RunOptions(quiet=True)
VALUES = (
    None,
    True,
    0,
    -1,
    1.5,
    10**15,
    10**30,
    "",
    "x",
    "../..",
    [],
    [1],
    {},
    {"a": 1},
    "\x1b[2J",
)


def documents_changed(document: dict) -> Iterator[tuple[str, bytes]]:
    """A document with each value in it replaced by each other one, or left out."""

    def places(value: object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if path:
            yield path
        for key, item in value.items() if isinstance(value, dict) else ():
            yield from places(item, (*path, key))

    for path in places(document, ()):
        tree = copy.deepcopy(document)
        inner = tree
        for key in path[:-1]:
            inner = inner[key]
        for value in VALUES:
            inner[path[-1]] = value
            yield f"{'.'.join(path)} = {value!r}", json.dumps(tree).encode()
        del inner[path[-1]]
        yield f"no {'.'.join(path)}", json.dumps(tree).encode()


def damaged(path: Path, cases, read: Callable[[], object], place: object) -> None:
    """Each case in the file's place; none may take more than some seconds."""
    good = path.read_bytes()

    def late(*_: object) -> None:
        raise TimeoutError

    def check(data: bytes) -> None:
        path.write_bytes(data)
        signal.alarm(10)
        try:
            read_or_fault(read, str(place))
        finally:
            signal.alarm(0)
            path.write_bytes(good)

    before = signal.signal(signal.SIGALRM, late)
    try:
        every(cases, check)
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def rollouts(tmp_path) -> list[Path]:
    folders = main_and_explore(tmp_path)
    for folder in folders:
        run = read_run(folder)
        sizes = {"num_samples": 6, "num_images_per_prompt": 2, "drawn_by": "embedded:emoji-sd"}
        write_run(folder, Run(command="rollout", plan=run.plan | sizes, inputs=run.inputs))
        write_run(folder / "scores", Run(command="score", plan={"num_parts": 2}))
    return folders


@pytest.fixture
def pair(rollouts, tmp_path):
    def run() -> object:
        for path in tmp_path.glob("pairs.jsonl*"):
            path.unlink()
        out = tmp_path / "pairs.jsonl"
        return make_pairs(rollouts, out, MakePairsConfig(), PairImagesConfig(), QUIET, "0/1")

    run()
    return run


def of_run(path: Path) -> Iterator[tuple[str, bytes]]:
    document = json.loads(path.read_bytes())
    return documents_changed(document | {"versions": {}, "arguments": ["rollout", "a"]})


def test_make_pairs(rollouts, pair, tmp_path):
    for name in ("run.json", "scores/pick.run.json"):
        path = rollouts[0] / name
        damaged(path, of_run(path), pair, tmp_path)
    for name in ("part-00000.jsonl", "scores/part-00000.pick.jsonl"):
        path = rollouts[0] / name
        good = path.read_bytes()
        cases = (lines_changed(good), bytes_changed(good, 150), truncations(good, 60))
        damaged(path, itertools.chain(*cases), pair, tmp_path)


def test_no_line_of_a_part_or_its_scores_is_lost_unseen(rollouts, pair, tmp_path):
    """A file cut between two lines is a valid file of fewer lines."""
    for name in ("part-00000.jsonl", "scores/part-00000.pick.jsonl"):
        path = rollouts[0] / name
        good = path.read_bytes()
        lines = good.splitlines(keepends=True)
        for kept in (lines[:-1], lines[1:], [*lines, lines[-1]]):
            path.write_bytes(b"".join(kept))
            assert read_or_fault(pair, f"{tmp_path}.*part-00000") is None
        path.write_bytes(good)


def test_score(rollouts):
    def read() -> object:
        images = RolloutImages(open_rollout(rollouts[0]), vae="")
        assert images.num_samples
        return [images.samples(part) for part in range(images.rollout.num_parts)]

    read()
    path = rollouts[0] / "run.json"
    damaged(path, of_run(path), read, rollouts[0])
    path = rollouts[0] / "part-00001.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for kept in (lines[:-1], lines[1:], [*lines, lines[-1]], [lines[0]] * len(lines)):
        path.write_bytes(b"".join(kept))
        assert read_or_fault(read, str(path)) is None


def test_a_folder_that_could_not_be_read_is_not_begun():
    assert num_parts(MOST_PARTS, 1) == MOST_PARTS
    with pytest.raises(UsageError, match="raise --part-size"):
        num_parts(MOST_PARTS + 1, 1)


def test_status(rollouts, tmp_path):
    def read() -> object:
        status = read_status(rollouts)
        texts = [status.text(StatusConfig(json=json)) for json in (False, True)]
        status.text(StatusConfig(missing_shards=3))
        assert all(text.replace("\n", "").isprintable() for text in texts)
        return texts

    assert "complete (2 parts)" in read()[0]
    for name in ("run.json", "scores/run.json", "scores/pick.run.json"):
        path = rollouts[0] / name
        damaged(path, of_run(path), read, tmp_path)


@pytest.mark.parametrize(
    ("command", "plan", "counts"),
    [
        ("train", {"max_train_steps": 3, "objective": "dpo", "init_from": "x"}, {}),
        ("evaluate", {"policies": {"a": "b"}}, {}),
        ("make-pairs", {"num_parts": 2, "num_images": 3}, {}),
        ("make-pairs", {"num_parts": 2, "num_pairs": 3, "export": "imagefolder"}, {}),
    ],
)
def test_status_of_others(command, plan, counts, tmp_path):
    write_run(tmp_path, Run(command=command, plan=plan, counts=counts, arguments=[command]))
    path = tmp_path / "run.json"
    read = lambda: read_status([tmp_path]).text(StatusConfig())  # noqa: E731
    read()
    damaged(path, of_run(path), read, tmp_path)


def test_scores_under_a_name_that_is_no_label(rollouts, tmp_path):
    scores = rollouts[0] / "scores"
    for name in ("\x1b]0;x", "[bold]", "a b"):
        for ending in ("run.json", "jsonl"):
            path = scores / (
                f"{name}.{ending}" if ending == "run.json" else f"part-00000.{name}.jsonl"
            )
            path.write_bytes((scores / "pick.run.json").read_bytes())
            read = (
                read_status
                if ending == "run.json"
                else lambda _: evaluate.open_scored("a", rollouts[0])
            )
            assert read_or_fault(lambda read=read: read([rollouts[0]]), str(scores)) is None
            path.unlink()


@pytest.fixture
def evaluation(tmp_path, monkeypatch):
    """Two scored rollouts, and their evaluation without the plots, which depend on no file."""
    monkeypatch.setattr(evaluate, "draw_plots", lambda results: {"reward-by-policy": {"svg": b""}})
    monkeypatch.setattr(evaluate, "contact_sheet", lambda grid, labels: b"")
    settings = {"num_prompts": 3, "images": True, "embeddings": True, "kl": 1.0}
    for label in "ab":
        write_scored(tmp_path / label, rewards={"r": lambda folder, n, i: n + i}, **settings)

    def run() -> object:
        policies = [f"{label}={tmp_path / label}" for label in "ab"]
        config = EvaluateConfig(num_bootstrap=20, num_grid_prompts=2)
        return evaluate.evaluate_policies(policies, tmp_path / "out", config, QUIET)

    run()
    return run


def test_evaluate_json(evaluation, tmp_path):
    for name in ("run.json", "scores/r.run.json"):
        path = tmp_path / "a" / name
        damaged(path, of_run(path), evaluation, "")


def test_evaluate_lines(evaluation, tmp_path):
    for name in ("part-00000.jsonl", "scores/part-00000.r.jsonl"):
        path = tmp_path / "a" / name
        good = path.read_bytes()
        first, second, *rest = good.splitlines(keepends=True)
        values = (
            (case, b"".join([first, line, b"\n", *rest]))
            for case, line in documents_changed(json.loads(second))
        )
        damaged(path, itertools.chain(lines_changed(good), values), evaluation, "")


def test_evaluate_tensors_and_images(evaluation, tmp_path):
    image = next((tmp_path / "a/images").iterdir()).relative_to(tmp_path / "a")
    for name in ("part-00000.safetensors", "scores/part-00000.r.safetensors", str(image)):
        path = tmp_path / "a" / name
        good = path.read_bytes()
        head = ((case, data + good[300:]) for case, data in bytes_changed(good[:300], 60))
        damaged(path, itertools.chain(truncations(good, 20), head), evaluation, tmp_path)


def test_a_sample_lost_from_an_evaluation_of_one_policy(tmp_path, evaluation):
    """No other policy is there to miss it; its score is."""
    path = tmp_path / "a/part-00000.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    run = lambda: evaluate.evaluate_policies(  # noqa: E731
        [f"a={tmp_path / 'a'}"], tmp_path / "one", EvaluateConfig(num_bootstrap=20), QUIET
    )
    assert read_or_fault(run, f"{tmp_path}.*part-00000.r.jsonl:6: ") is None
