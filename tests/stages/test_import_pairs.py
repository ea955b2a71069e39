"""`expo make-pairs --layout`: which pairs, which latents, resumed, shared, and refused."""

import io
import json

import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from expo_cli.config import MakePairsConfig, PairImagesConfig, RunOptions
from expo_cli.contracts import jsonl
from expo_cli.contracts.files import inside
from expo_cli.contracts.ids import prompt_id
from expo_cli.contracts.provenance import read_run
from expo_cli.contracts.records import EncodedImage, Pair
from expo_cli.contracts.tensors import read_tensors
from expo_cli.errors import ContractError, ExpoError, UsageError
from expo_cli.stages.make_pairs.run import make_pairs
from expo_cli.stages.preferences.encoding import ImageFile, prepare, to_pixels
from tests.preferences import (
    pick_a_pic_rows,
    picture,
    png,
    write_image_folder,
    write_parquet,
    write_pick_a_pic,
)


@pytest.fixture
def parquet(tmp_path):
    return write_pick_a_pic(tmp_path / "in/train.parquet")


@pytest.fixture
def importing(tiny_sd, tmp_path):
    """Import into `tmp_path/NAME/pairs.jsonl` by the tiny model's VAE; settings of both configs."""

    def run(*inputs, layout="pick-a-pic", name="out", shard="0/1", vae=tiny_sd, **given):
        of_images = {f for f in PairImagesConfig.__dataclass_fields__ if f in given}
        of_running = {f for f in ("overwrite", "dry_run") if f in given}
        images = PairImagesConfig(
            layout=layout, vae=str(vae), **{f: given.pop(f) for f in of_images}
        )
        options = RunOptions(quiet=True, **{f: given.pop(f) for f in of_running})
        out = tmp_path / name / "pairs.jsonl"
        return make_pairs(list(inputs), out, MakePairsConfig(**given), images, options, shard)

    return run


def pairs_of(result) -> list[Pair]:
    return list(jsonl.read(result.path, Pair))


def latents_of(result) -> dict[str, torch.Tensor]:
    """All latents that the pairs refer to, by sample_id."""
    return {
        ref.sample_id: read_tensors(inside(result.path.parent, ref.part))[ref.sample_id]
        for pair in pairs_of(result)
        for ref in (pair.winner, pair.loser)
    }


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("run.json")
    }


def test_the_choices_become_pairs_and_the_rest_is_counted(importing, parquet):
    result = importing(parquet)
    first, second, third = pairs_of(result)
    ends = [(p.winner.sample_id, p.loser.sample_id) for p in (first, second, third)]
    assert ends == [("uid-red", "uid-blue"), ("uid-green", "uid-red"), ("uid-green", "uid-blue")]
    assert (first.prompt, first.prompt_id) == ("a cat", prompt_id("a cat"))
    assert (first.winner_score, first.loser_score, first.margin) == (1, 0, 1)
    assert (first.reward, first.source, first.iteration) == ("human", "offline", 0)
    assert first.explore is first.main is None
    assert result.counts == {
        "num_rows": 5,
        "num_pairs": 3,
        "num_images": 3,
        "dropped": {"ties": 1, "rows_without_label": 1},
    }
    assert read_run(result.path.parent, "pairs.jsonl.run.json").counts == result.counts


def test_an_image_of_several_rows_is_encoded_once(importing, parquet):
    result = importing(parquet, part_size=2)
    folder = result.path.parent / "pairs.latents"
    lines = [list(jsonl.read(folder / f"part-0000{n}.jsonl", EncodedImage)) for n in range(2)]
    assert [[image.sample_id for image in part] for part in lines] == [
        ["uid-red", "uid-blue"],
        ["uid-green"],
    ]
    assert lines[1][0].source == "train.parquet:2: jpg_1"
    assert (lines[1][0].width, lines[1][0].height) == (96, 72)


def test_latents_are_those_of_diffusers_dpo_script(importing, parquet, tiny_sd):
    """Its transforms and its line `vae.encode(...).latent_dist * scaling_factor`, written out."""
    vae = AutoencoderKL.from_pretrained(tiny_sd, subfolder="vae")
    script = transforms.Compose(
        [
            transforms.Resize(64, interpolation=transforms.InterpolationMode.BILINEAR),
            transforms.CenterCrop(64),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )
    red = Image.open(io.BytesIO(pick_a_pic_rows()[0]["jpg_0"])).convert("RGB")
    with torch.no_grad():
        posterior = vae.encode(script(red)[None]).latent_dist
    expected = posterior.mean[0] * vae.config.scaling_factor
    found = latents_of(importing(parquet, posterior="mean"))["uid-red"]
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, atol=2e-3, rtol=2e-3)
    # A draw is off the mean by the posterior's standard deviation, times a normal number.
    drawn = latents_of(importing(parquet, name="drawn"))["uid-red"].float()
    z = (drawn - expected) / (posterior.std[0] * vae.config.scaling_factor)
    assert abs(z.mean()) < 0.3
    assert 0.8 < z.std() < 1.2
    other = latents_of(importing(parquet, name="other", seed=1))["uid-red"].float()
    assert not torch.equal(drawn, other)


@pytest.mark.parametrize("size", [(64, 64), (97, 64), (64, 130), (33, 40), (500, 70), (65, 1000)])
def test_pixels_are_those_of_diffusers_dpo_script(size):
    script = transforms.Compose(
        [
            transforms.Resize(64, interpolation=transforms.InterpolationMode.BILINEAR),
            transforms.CenterCrop(64),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )
    assert torch.equal(to_pixels(picture(0, *size), 64), script(picture(0, *size)))


def test_mirrored_pairs_follow_theirs(importing, parquet):
    result = importing(parquet, flip=True, posterior="mean", limit=1)
    pair, mirror = pairs_of(result)
    assert mirror.pair_id == f"{pair.pair_id}-flip"
    assert mirror.winner.sample_id == "uid-red-flip"
    latents = latents_of(result)
    assert latents["uid-red-flip"].shape == latents["uid-red"].shape
    assert not torch.equal(latents["uid-red-flip"], latents["uid-red"])
    plain = latents_of(importing(parquet, name="plain", posterior="mean", limit=1))
    assert torch.equal(plain["uid-red"], latents["uid-red"])


def test_a_mirrored_image_from_outside_is_not_taken_for_ours(importing, tmp_path):
    rows = pick_a_pic_rows()[:1]
    rows[0]["image_1_uid"] = "uid-red-flip"
    path = write_parquet(tmp_path / "in/train.parquet", rows)
    [pair] = pairs_of(importing(path, name="plain"))
    assert pair.loser.sample_id == "uid-red-flip"
    pair, mirror = pairs_of(importing(path, name="flipped", flip=True))
    samples = {ref.sample_id for p in (pair, mirror) for ref in (p.winner, p.loser)}
    assert len(samples) == 4


def test_shards_interruptions_and_anew_give_the_same_bytes(importing, parquet, tmp_path):
    whole = importing(parquet, name="whole", part_size=1)
    assert (whole.parts_encoded, whole.parts_missing) == (3, 0)
    first = importing(parquet, name="shared", part_size=1, shard="1/2")
    assert first.path == tmp_path / "shared/pairs.latents"
    assert (first.parts_encoded, first.parts_missing) == (1, 2)
    assert not (tmp_path / "shared/pairs.jsonl").exists()
    last = importing(parquet, name="shared", part_size=1, shard="0/2")
    assert (last.parts_encoded, last.parts_missing) == (2, 0)
    assert contents(tmp_path / "shared") == contents(tmp_path / "whole")
    # A part that was lost is encoded again; the rest is not.
    (tmp_path / "whole/pairs.latents/part-00001.jsonl").unlink()
    assert importing(parquet, name="whole", part_size=1).parts_encoded == 1
    assert importing(parquet, name="whole", part_size=1).parts_encoded == 0
    assert importing(parquet, name="whole", part_size=1, overwrite=True).parts_encoded == 3
    assert contents(tmp_path / "shared") == contents(tmp_path / "whole")
    with pytest.raises(ContractError, match="was begun with posterior='sample', not 'mean'"):
        importing(parquet, name="whole", part_size=1, posterior="mean")


def test_dry_run_writes_nothing(importing, parquet, tmp_path):
    plan = importing(parquet, dry_run=True).plan
    assert (plan["num_pairs"], plan["num_images"], plan["num_parts"]) == (3, 3, 1)
    assert not (tmp_path / "out").exists()


def test_rankings_of_many_images(importing, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(4):
        picture(number).save(images / f"{number}.png")
    item = {"prompt": "x", "image_path": [f"{n}.png" for n in range(4)], "rank": [2, 1, 4, 3]}
    (tmp_path / "test.json").write_text(json.dumps([item, item]))
    layout = f"hpdv2:images={images}"
    best, again = pairs_of(importing(tmp_path / "test.json", layout=layout))
    assert (best.winner_score, best.loser_score, best.margin) == (-1, -4, 3)
    # The same judgement twice is two pairs, which training tells apart.
    assert again.pair_id == f"{best.pair_id}-1"
    every = importing(tmp_path / "test.json", layout=layout, name="all", pairing="all", limit=1)
    assert len(pairs_of(every)) == 6
    assert every.counts["num_images"] == 4
    clear = importing(
        tmp_path / "test.json", layout=layout, name="clear", pairing="all", limit=1, min_margin=3
    )
    assert clear.counts["dropped"] == {"pairs_below_min_margin": 5}


def test_folders_and_structs(importing, tmp_path):
    folder = write_image_folder(tmp_path / "in/folder")
    by_folder = importing(folder, layout="imagefolder", name="folder", posterior="mean")
    rows = [
        {
            "prompt": f"prompt {n}",
            "chosen": {"bytes": (folder / f"{n}-winner.png").read_bytes(), "path": "x"},
            "rejected": {"bytes": (folder / f"{n}-loser.png").read_bytes(), "path": "x"},
        }
        for n in range(2)
    ]
    structs = write_parquet(tmp_path / "in/structs.parquet", rows)
    by_struct = importing(structs, layout="image-preferences", name="s", posterior="mean")
    for one, other in zip(pairs_of(by_folder), pairs_of(by_struct), strict=True):
        assert one.prompt == other.prompt
        ours, theirs = latents_of(by_folder), latents_of(by_struct)
        assert torch.equal(ours[one.winner.sample_id], theirs[other.winner.sample_id])
        assert torch.equal(ours[one.loser.sample_id], theirs[other.loser.sample_id])


def test_ids_tell_images_of_several_inputs_apart(importing, tmp_path):
    folders = [write_image_folder(tmp_path / name / "images") for name in "ab"]
    pairs = pairs_of(importing(*folders, layout="imagefolder"))
    assert len({pair.winner.sample_id for pair in pairs}) == 4
    assert len({pair.pair_id for pair in pairs}) == 4


def animated() -> bytes:
    frames = [picture(seed) for seed in range(2)]
    return png(frames[0], "GIF", save_all=True, append_images=frames[1:])


UNUSABLE = {
    "truncated": (lambda: png(picture(0))[:-40], "cannot be read as an image"),
    "empty": (lambda: b"", "cannot be read as an image"),
    "missing": (lambda: None, "holds no image"),
    "cmyk": (lambda: png(picture(0, mode="CMYK"), "JPEG"), "is CMYK; convert it"),
    "deep": (lambda: png(Image.new("I;16", (9, 9))), "is I;16; convert it"),
    "animated": (animated, "has 2 frames; only still images are used"),
    "huge": (lambda: png(Image.new("1", (20000, 10000))), "has too many pixels"),
    "long": (lambda: png(Image.new("L", (2000, 3))), "is 2000x3, too long for a crop"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_unusable_image_is_one_line_or_counted(importing, tmp_path, kind):
    data, message = UNUSABLE[kind]
    rows = pick_a_pic_rows()
    rows[1] |= {"jpg_1": data(), "image_1_uid": "uid-bad"}
    path = write_parquet(tmp_path / "in/train.parquet", rows)
    with pytest.raises(ContractError) as error:
        importing(path)
    assert str(error.value).startswith(f"{path}:2: jpg_1: ")
    assert message in str(error.value)
    assert "--unreadable drop" in str(error.value)
    result = importing(path, unreadable="drop")
    assert [pair.winner.sample_id for pair in pairs_of(result)] == ["uid-red", "uid-green"]
    assert result.counts["dropped"]["pairs_of_unreadable_images"] == 1
    lines = jsonl.read(tmp_path / "out/pairs.latents/part-00000.jsonl", EncodedImage)
    [problem] = [(line.source, line.problem) for line in lines if line.problem]
    assert problem[0] == "train.parquet:2: jpg_1"
    assert message in problem[1]


def test_transparency_is_laid_over_white():
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    found = prepare(ImageFile("s", "here", png(clear)), 64)
    assert torch.equal(found.pixels, torch.ones(3, 64, 64))


@given(st.data(), st.sampled_from(["PNG", "JPEG", "WEBP"]))
@settings(max_examples=50)
def test_damaged_bytes_are_pixels_or_a_problem(data, image_format):
    whole = png(picture(0, 24, 24), image_format)
    position = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(st.binary(max_size=4))
    found = prepare(ImageFile("s", "here", whole[:position] + damage + whole[position + 1 :]), 8)
    assert (found.pixels is None) == bool(found.record.problem)
    assert found.pixels is None or found.pixels.shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layout": "pick-a-pick"}, "did you mean 'pick-a-pic'"),
        ({"layout": "hpdv2"}, "images"),
        ({"reward": ("pickscore",)}, "--reward contradicts --layout"),
        ({"label_agreement": 0.7}, "--label-agreement contradicts --layout"),
        ({"pairing": "step-best-worst"}, "images have no steps"),
        ({"resolution": 60}, "--resolution must be a multiple of 8, got 60"),
    ],
)
def test_flags_that_do_not_fit(importing, parquet, given, message):
    with pytest.raises(UsageError, match=message):
        importing(parquet, **given)


def test_flags_that_need_each_other():
    with pytest.raises(ValueError, match="--layout needs --vae"):
        PairImagesConfig(layout="pick-a-pic")
    with pytest.raises(ValueError, match="--flip needs --layout"):
        PairImagesConfig(flip=True)


def test_no_pairs_at_all(importing, tmp_path):
    path = write_parquet(tmp_path / "in/ties.parquet", pick_a_pic_rows()[2:4])
    with pytest.raises(
        ExpoError, match="no pairs left from 2 rows: dropped 1 ties, 1 rows without"
    ):
        importing(path)
