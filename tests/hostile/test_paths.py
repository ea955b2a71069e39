"""Names and paths inside files: none reads or writes anything outside its folder."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from expo_cli.config import EvaluateConfig, PairImagesConfig, RunOptions
from expo_cli.contracts import jsonl
from expo_cli.contracts.files import inside
from expo_cli.contracts.records import ImageEntry, Pair, Sample, SampleRef, Score, StepPair
from expo_cli.contracts.tensors import write_tensors
from expo_cli.errors import ContractError
from expo_cli.stages.evaluate.run import evaluate_policies
from expo_cli.stages.preferences.layouts import HPDv2, ImageFolder
from expo_cli.stages.preferences.pair_images import PairImages
from expo_cli.stages.score.image_index import read_index
from expo_cli.stages.train.evidence import Latents
from expo_cli.stages.train.records import read_pairs, read_step_pairs
from tests.hostile.damage import at, fault, read_or_fault
from tests.hostile.test_records import EXAMPLES
from tests.preferences import picture
from tests.scored import write_scored

OUT = ["../secret", "/etc/passwd", "a/../../secret", "a/..", "..", "a\0b", "//etc/passwd", "./../x"]
LINKS = ["link", "folder/secret", "folder/../folder/secret"]
PATHS = [*OUT, *LINKS]
IDS = [
    "../x",
    "a/b",
    "/x",
    "..",
    ".",
    "",
    ".hidden",
    "a\0b",
    "a\\b",
    "a b",
    "x" * 201,
    "\u202ex",
    "-rf",
]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A run folder with links out of it: to a file, and to the folder that holds the secret."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "a").mkdir()
    picture(0).save(tmp_path / "secret.png")
    write_tensors(tmp_path / "secret", {"s1": torch.zeros(4, 8, 8)})
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder").symlink_to(tmp_path)
    return folder


def example(kind: type):
    return next(record for record in EXAMPLES if type(record) is kind)


def line(record: object) -> dict:
    return json.loads(jsonl.msgspec.json.encode(record))


@pytest.mark.parametrize("path", PATHS)
def test_paths_below_a_folder(folder, path):
    with pytest.raises(ContractError, match="leaves the folder"):
        inside(folder, path)


@pytest.mark.parametrize(
    "path", ["a", "a/b", "./a", "a//b", "..a", "a/...", "\u202e", "~/x", "$HOME"]
)
def test_what_only_looks_like_a_way_out(folder, path):
    assert inside(folder, path).resolve().is_relative_to(folder)


@pytest.mark.parametrize("path", OUT)
@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        (Sample, ("image",)),
        (ImageEntry, ("image",)),
        (Pair, ("winner", "part")),
        (Pair, ("explore", "part")),
        (StepPair, ("part",)),
    ],
)
def test_a_record_whose_path_leaves_is_a_bad_line(kind, keys, path, tmp_path):
    record = line(example(kind))
    inner = record
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = path
    file = tmp_path / "records.jsonl"
    file.write_text(json.dumps(line(example(kind))) + "\n" + json.dumps(record) + "\n")
    assert read_or_fault(lambda: list(jsonl.read(file, kind)), at(file, 2)) is None


@pytest.mark.parametrize("identity", IDS)
@pytest.mark.parametrize("kind", [Sample, ImageEntry, Score, Pair, StepPair])
def test_an_id_that_means_something_in_a_path_is_a_bad_line(kind, identity, tmp_path):
    file = tmp_path / "records.jsonl"
    good = line(example(kind))
    for name in good:
        if name.endswith("_id"):
            file.write_text(json.dumps(good | {name: identity}) + "\n")
            assert read_or_fault(lambda: list(jsonl.read(file, kind)), at(file, 1)) is None


@pytest.mark.parametrize("path", PATHS)
def test_images_of_an_index(folder, path):
    index = folder / "index.jsonl"
    index.write_text(json.dumps({"image": path, "prompt": "x"}) + "\n")

    def read() -> object:
        entries = read_index(folder, index, 1)
        return list(entries.images(entries.samples(0), ahead=1))

    assert read_or_fault(read, at(index, 1)) is None


@pytest.mark.parametrize("path", PATHS)
def test_images_of_preference_data(folder, path):
    metadata = folder / "metadata.jsonl"
    names = {"winner_file_name": path, "loser_file_name": "a.png"}
    metadata.write_text(json.dumps(names | {"prompt": "x"}) + "\n")
    train = folder / "train.json"
    item = {"prompt": "x", "file_path": [path, "a.png"], "human_preference": [1, 0]}
    train.write_text(json.dumps([item]))
    for layout, file in ((ImageFolder(), metadata), (HPDv2(str(folder)), train)):
        [row] = layout.rankings(file)
        with pytest.raises(ContractError) as raised:
            list(layout.read(file, row.images))
        fault(raised.value, at(file, 1))


class Policy:
    """As much of a model as latents are checked against."""

    def image_size(self) -> int:
        return 64

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return 4, height // 8, width // 8


@pytest.mark.parametrize("path", ["link", "folder/secret"])
def test_latents_of_pairs(folder, path):
    """`secret` has such latents; they are not read through a link."""
    ref = SampleRef(sample_id="s1", part=path)
    pair = replace(example(Pair), winner=ref, loser=ref, explore=None, main=None)
    jsonl.write(folder / "pairs.jsonl", [pair])
    [item] = read_pairs([folder / "pairs.jsonl"], None)
    with pytest.raises(ContractError, match="leaves the folder") as raised:
        Latents(item.folder, item.pair.winner, Policy())
    fault(raised.value, "")
    with pytest.raises(ContractError, match="leaves the folder"):
        PairImages(PairImagesConfig(), "png").files([(item.folder, item.pair.winner)])


def test_a_part_that_leaves_is_named_by_line(folder):
    file = folder / "pairs.jsonl"
    for kind, read in ((Pair, read_pairs), (StepPair, read_step_pairs)):
        text = json.dumps(line(example(kind))).replace('"part": "', '"part": "../')
        file.write_text(text + "\n")
        assert read_or_fault(lambda read=read: read([file], None), at(file, 1)) is None


@pytest.mark.parametrize("link", ["file", "folder"])
def test_images_of_a_report(tmp_path, link):
    """A rollout whose images are links to others' files shows none of them."""
    rollout = write_scored(
        tmp_path / "a", rewards={"r": lambda f, n, i: n}, num_prompts=2, images=True
    )
    secret = tmp_path / "secrets"
    (rollout / "images").rename(secret)
    if link == "folder":
        (rollout / "images").symlink_to(secret)
    else:
        (rollout / "images").mkdir()
        for image in secret.iterdir():
            (rollout / "images" / image.name).symlink_to(image)
    with pytest.raises(ContractError, match="leaves the folder"):
        evaluate_policies(
            [f"a={rollout}"],
            tmp_path / "out",
            EvaluateConfig(num_bootstrap=9),
            RunOptions(quiet=True),
        )
    assert not (tmp_path / "out/report.html").exists()


def test_the_working_folder_does_not_matter(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "b").write_text("")
    assert inside(Path(), "b") == Path("b")
    for path in PATHS:
        with pytest.raises(ContractError):
            inside(Path(), path)
    assert os.listdir(folder.parent)
