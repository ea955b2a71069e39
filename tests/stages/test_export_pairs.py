"""`expo make-pairs --export`: columns, images, and the way back through `--layout`."""

import io
import json
from dataclasses import dataclass, replace

import pyarrow.parquet
import pytest
import torch
from PIL import Image

from expo_cli.config import MakePairsConfig, PairImagesConfig, RunOptions
from expo_cli.contracts import jsonl
from expo_cli.contracts.provenance import Run, write_run
from expo_cli.contracts.records import Pair, SampleRef
from expo_cli.contracts.tensors import write_tensors
from expo_cli.errors import ContractError, ExpoError, UsageError
from expo_cli.stages.common.decoding import LatentDecoder
from expo_cli.stages.make_pairs.run import make_pairs
from expo_cli.stages.status import read_status
from tests.preferences import picture
from tests.two_agents import samples_of

NUM_PAIRS = 5


def pair(number: int, part: str) -> Pair:
    prompt = f"prompt {number // 2}"
    winner, loser = (
        SampleRef(sample_id=f"s{number}-{role}", part=part, score=score)
        for role, score in (("winner", 3.0), ("loser", 1.0))
    )
    return Pair(
        pair_id=f"pair{number}",
        prompt_id=f"p{number // 2}",
        prompt=prompt,
        winner=winner,
        loser=loser,
        winner_score=3.0,
        loser_score=1.0,
        margin=2.0,
        reward="r",
        source="online",
        iteration=0,
    )


@pytest.fixture
def pairs(tmp_path, tiny_sd):
    """Five pairs of three prompts, whose latents a rollout by the tiny model holds."""
    generator = torch.Generator().manual_seed(0)
    latents = {
        f"s{n}-{role}": torch.randn(4, 8, 8, generator=generator).half()
        for n in range(NUM_PAIRS)
        for role in ("winner", "loser")
    }
    write_tensors(tmp_path / "rollout/part-00000.safetensors", latents)
    plan = {"num_parts": 1, "drawn_by": str(tiny_sd)}
    write_run(tmp_path / "rollout", Run(command="rollout", plan=plan))
    jsonl.write(tmp_path / "rollout/part-00000.jsonl", [])
    path = tmp_path / "pairs.jsonl"
    jsonl.write(path, [pair(n, "rollout/part-00000.safetensors") for n in range(NUM_PAIRS)])
    return path


def make(inputs, out, *, shard="0/1", overwrite=False, limit=None, **images):
    options = RunOptions(quiet=True, overwrite=overwrite)
    config = MakePairsConfig(limit=limit)
    return make_pairs(inputs, out, config, PairImagesConfig(**images), options, shard)


def parquet_rows(folder):
    return [
        row
        for path in sorted((folder / "data").iterdir())
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]


def test_columns_and_images_as_diffusers_dpo_script_reads_them(pairs, tmp_path, tiny_sd):
    make([pairs], tmp_path / "export", export="pick-a-pic", part_size=3)
    names = [path.name for path in sorted((tmp_path / "export/data").iterdir())]
    assert names == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    rows = parquet_rows(tmp_path / "export")
    decoder = LatentDecoder(str(tiny_sd), torch.device("cpu"), torch.float32)
    for number, row in enumerate(rows):
        # As in the script: jpg_0 before jpg_1, turned round where label_0 is 0.
        images = [Image.open(io.BytesIO(row[name])).convert("RGB") for name in ("jpg_0", "jpg_1")]
        if row["label_0"] == 0:
            images = images[::-1]
        ids = [f"s{number}-winner", f"s{number}-loser"]
        decoded = decoder.images(tmp_path / "rollout/part-00000.safetensors", dict.fromkeys(ids))
        for found, expected in zip(images, decoded, strict=True):
            differences = torch.tensor(list(found.tobytes())) - torch.tensor(
                list(expected.tobytes())
            )
            assert differences.abs().max() <= 1  # a batch's size changes the last bits
        assert row["label_0"] + row["label_1"] == 1
        assert row["best_image_uid"] == ids[0]
        assert (row["caption"], row["has_label"]) == (f"prompt {number // 2}", True)
    assert {row["label_0"] for row in rows} == {0.0, 1.0}  # the winner is on either side
    assert [row["num_example_per_prompt"] for row in rows] == [2, 2, 2, 2, 1]
    assert [row["ranking_id"] for row in rows] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("export", ["pick-a-pic", "imagefolder", "imagefolder:images=webp"])
def test_there_and_back(pairs, tmp_path, tiny_sd, export):
    """The same pairs; their latents are those of the exported images."""
    out = tmp_path / "export"
    make([pairs], out, export=export, part_size=2)
    layout = export.partition(":")[0]
    inputs = sorted((out / "data").iterdir()) if layout == "pick-a-pic" else [out]
    back = make(inputs, tmp_path / "back/pairs.jsonl", layout=layout, vae=str(tiny_sd))
    ours, theirs = list(jsonl.read(pairs, Pair)), list(jsonl.read(back.path, Pair))
    assert [p.prompt for p in theirs] == [p.prompt for p in ours]
    if layout == "pick-a-pic":
        assert [(p.winner.sample_id, p.loser.sample_id) for p in theirs] == [
            (p.winner.sample_id, p.loser.sample_id) for p in ours
        ]
    else:
        lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
        assert [line["winner_file_name"].split("/")[-1].split(".")[0] for line in lines] == [
            p.winner.sample_id for p in ours
        ]
        assert (lines[0]["winner_score"], lines[0]["loser_score"]) == (3, 1)
    # And again: what was imported is exported with the same prompts and as many images.
    again = make([back.path], tmp_path / "again", export=layout)
    assert again.num_pairs == NUM_PAIRS


def test_kept_images_are_taken_as_they_are(pairs, tmp_path):
    folder = tmp_path / "rollout"
    (folder / "images").mkdir()
    [sample] = samples_of("cat", 1, "main")
    names = {f"s{n}-{role}": n for n in range(NUM_PAIRS) for role in ("winner", "loser")}
    samples = []
    for name, number in names.items():
        picture(number).save(folder / f"images/{name}.webp")
        samples.append(replace(sample, sample_id=name, image=f"images/{name}.webp"))
    jsonl.write(folder / "part-00000.jsonl", samples)
    make([pairs], tmp_path / "export", export="pick-a-pic", vae="embedded:emoji-sd")
    row = parquet_rows(tmp_path / "export")[0]
    assert row["jpg_0"] == (folder / f"images/{row['image_0_uid']}.webp").read_bytes()
    (folder / "images/s1-loser.webp").unlink()
    with pytest.raises(ExpoError, match=r"s1-loser.webp: cannot be read"):
        make([pairs], tmp_path / "other", export="pick-a-pic")


def test_shards_and_interruptions_end_in_the_same_files(pairs, tmp_path):
    whole = make([pairs], tmp_path / "whole", export="imagefolder", part_size=2)
    assert (whole.parts_written, whole.parts_missing) == (3, 0)
    first = make([pairs], tmp_path / "shared", export="imagefolder", part_size=2, shard="1/2")
    assert (first.parts_written, first.parts_missing) == (1, 2)
    assert not (tmp_path / "shared/metadata.jsonl").exists()
    make([pairs], tmp_path / "shared", export="imagefolder", part_size=2, shard="0/2")
    for path in (tmp_path / "whole").rglob("*"):
        if path.is_file() and path.name != "run.json":
            relative = path.relative_to(tmp_path / "whole")
            assert (tmp_path / "shared" / relative).read_bytes() == path.read_bytes()
    again = make([pairs], tmp_path / "shared", export="imagefolder", part_size=2)
    assert again.parts_written == 0
    with pytest.raises(ContractError, match="was begun with num_parts=3, not 2"):
        make([pairs], tmp_path / "shared", export="imagefolder", part_size=3)


def test_two_samples_of_one_id_are_refused(pairs, tmp_path):
    other = pair(0, "elsewhere/part-00000.safetensors")
    jsonl.write(tmp_path / "other.jsonl", [replace(other, pair_id="another")])
    with pytest.raises(ContractError, match="s0-winner is another sample in"):
        make([pairs, tmp_path / "other.jsonl"], tmp_path / "export", export="pick-a-pic")


def test_latents_of_an_unknown_model_need_a_vae(pairs, tmp_path, tiny_sd):
    (tmp_path / "rollout/run.json").unlink()
    with pytest.raises(ContractError, match="does not state the model of its latents; give --vae"):
        make([pairs], tmp_path / "export", export="pick-a-pic")
    make([pairs], tmp_path / "other", export="pick-a-pic", vae=str(tiny_sd), limit=1)
    assert len(parquet_rows(tmp_path / "other")) == 1


def test_flags_that_do_not_fit(pairs, tmp_path):
    with pytest.raises(UsageError, match="did you mean 'imagefolder'"):
        make([pairs], tmp_path / "export", export="imagefolders")
    with pytest.raises(UsageError, match="contains an input"):
        make([pairs], tmp_path, export="imagefolder")
    with pytest.raises(ValueError, match="--layout contradicts --export"):
        PairImagesConfig(layout="pick-a-pic", export="pick-a-pic")
    with pytest.raises(ValueError, match="--flip needs --layout"):
        PairImagesConfig(export="pick-a-pic", flip=True)
    with pytest.raises(ValueError, match="--vae needs --layout or --export"):
        PairImagesConfig(vae="x")


@dataclass(frozen=True)
class Captions:
    """A user's own export: the captions of its pairs, one per line."""

    images: str = "png"

    def write(self, path, pairs):
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{each.pair.prompt}\n" for each in pairs))

    def finish(self, folder, parts):
        pass


def test_an_export_of_the_users_own(pairs, tmp_path, tiny_sd):
    out = tmp_path / "export"
    make([pairs], out, export=f"{__name__}.Captions", part_size=3)
    texts = [(out / "parts" / f"part-0000{n}").read_text().split("\n") for n in (0, 1)]
    assert texts == [["prompt 0", "prompt 0", "prompt 1", ""], ["prompt 1", "prompt 2", ""]]
    assert read_status([out]).outputs[0].missing_parts == []
    (out / "parts" / "part-00001").unlink()
    assert read_status([out]).outputs[0].missing_parts == [1]
