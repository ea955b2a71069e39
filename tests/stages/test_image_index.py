"""An image folder with a JSONL index: ids, refusals, and how each kind of image becomes RGB."""

import io
import json
import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from expo_cli.contracts.ids import prompt_id
from expo_cli.contracts.images import open_rgb
from expo_cli.errors import ContractError
from expo_cli.stages.score.image_index import read_index


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    Image.new("RGB", (4, 4), "blue").save(tmp_path / "blue.png")
    return tmp_path


def index_of(folder, *records, **settings):
    path = folder / "index.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return read_index(folder, path, 2, **settings)


def read_all(index):
    return list(index.images(index.samples(0), ahead=1))


def test_ids_that_are_missing_follow_from_prompt_and_image(folder):
    index = index_of(
        folder,
        {"image": "red.png", "prompt": "a cat"},
        {"image": "blue.png", "prompt": "a cat"},
        {"image": "red.png", "prompt": "a dog", "prompt_id": "p", "sample_id": "s"},
    )
    red, blue, named = index.entries
    assert red.prompt_id == blue.prompt_id == prompt_id("a cat")
    assert red.sample_id != blue.sample_id
    assert (named.prompt_id, named.sample_id) == ("p", "s")
    again = index_of(folder, {"image": "blue.png", "prompt": "a cat"})
    assert again.entries[0].sample_id == blue.sample_id


def test_parts_are_consecutive_lines(folder):
    records = [{"image": "red.png", "prompt": "x", "sample_id": f"s{n}"} for n in range(5)]
    index = index_of(folder, *records)
    assert [[e.sample_id for e in index.samples(part)] for part in range(3)] == [
        ["s0", "s1"],
        ["s2", "s3"],
        ["s4"],
    ]
    assert [e.sample_id for e in index_of(folder, *records, limit=3).entries] == ["s0", "s1", "s2"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"image": "red.png"}, ":2: .*prompt"),
        ({"image": 7, "prompt": "x"}, ":2: .*Expected `str`"),
        ({"image": "red.png", "prompt": "x", "sample_id": "../x"}, ":2: .*sample_id"),
        ({"image": "red.png", "prompt": "a cat"}, ":2: sample .* is already on line 1"),
    ],
)
def test_a_wrong_line_is_named(folder, record, message):
    with pytest.raises(ContractError, match=message):
        index_of(folder, {"image": "red.png", "prompt": "a cat"}, record)


def test_an_empty_index_is_refused(folder):
    with pytest.raises(ContractError, match="no images"):
        index_of(folder)


@pytest.mark.parametrize("image", ["../red.png", "/etc/passwd", "link.png"])
def test_images_outside_the_folder_are_not_opened(folder, tmp_path_factory, image):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    Image.new("RGB", (4, 4)).save(outside)
    (folder / "link.png").symlink_to(outside)
    records = [{"image": "red.png", "prompt": "x"}, {"image": image, "prompt": "x"}]
    with pytest.raises(ContractError, match=r"index.jsonl:2: .*leaves the folder"):
        read_all(index_of(folder, *records))


# From file to RGB


def saved(folder, image, name="image.png", **settings):
    image.save(folder / name, **settings)
    return folder / name


def test_transparency_is_laid_over_white(folder):
    # Half-transparent black over white: 255 * (1 - 128/255) = 127.
    half = saved(folder, Image.new("RGBA", (2, 2), (0, 0, 0, 128)))
    assert open_rgb(half).getpixel((0, 0)) == (127, 127, 127)
    clear = saved(folder, Image.new("RGBA", (2, 2), (255, 0, 0, 0)))
    assert open_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    grey = saved(folder, Image.new("LA", (2, 2), (0, 128)))
    assert open_rgb(grey).getpixel((0, 0)) == (127, 127, 127)
    palette = saved(folder, Image.new("P", (2, 2), 0), transparency=0)
    assert open_rgb(palette).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_opaque_images_keep_their_colours(folder, mode):
    image = Image.new("RGB", (2, 2), "white").convert(mode)
    assert open_rgb(saved(folder, image)).getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("name", ["i.png", "i.jpg", "i.webp", "i.bmp", "i.gif", "i.tiff"])
def test_the_usual_formats_are_read(folder, name):
    opened = open_rgb(saved(folder, Image.new("RGB", (8, 8), "white"), name))
    assert (opened.mode, opened.getpixel((0, 0))) == ("RGB", (255, 255, 255))


def test_what_has_no_one_right_reading_is_refused(folder):
    with pytest.raises(ContractError, match="is CMYK"):
        open_rgb(saved(folder, Image.new("CMYK", (2, 2)), "i.jpg"))
    with pytest.raises(ContractError, match="is I;16"):
        open_rgb(saved(folder, Image.new("I;16", (2, 2))))
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    with pytest.raises(ContractError, match="has 2 frames"):
        open_rgb(saved(folder, frames[0], "i.gif", save_all=True, append_images=frames[1:]))


def test_what_is_no_whole_image_is_refused(folder):
    whole = (folder / "red.png").read_bytes()
    for name, data in (
        ("a.png", whole[:-30]),
        ("b.png", b""),
        ("c.png", b"hello"),
        ("d.png", None),
    ):
        if data is not None:
            (folder / name).write_bytes(data)
        with pytest.raises(ContractError, match=name):
            open_rgb(folder / name)
    with pytest.raises(ContractError, match="red"):
        open_rgb(folder / "red.png" / "x")
    with pytest.raises(ContractError):
        open_rgb(folder)


def test_a_decompression_bomb_is_not_opened(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12)  # the images are of 16, the error from 24 on
    with pytest.raises(ContractError, match="too many pixels"):
        open_rgb(folder / "red.png")
    with pytest.raises(ContractError, match="too many pixels"):
        open_rgb(saved(folder, Image.new("RGB", (8, 8)), "large.png"))


def encoded(image_format):
    buffer = io.BytesIO()
    noise = random.Random(0).randbytes(16 * 16 * 3)
    Image.frombytes("RGB", (16, 16), noise).save(buffer, format=image_format)
    return buffer.getvalue()


@settings(max_examples=60)
@given(data=st.data(), image_format=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"]))
def test_a_damaged_file_is_an_image_or_one_error(tmp_path_factory, data, image_format):
    whole = encoded(image_format)
    position = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(st.binary(max_size=4))
    path = tmp_path_factory.mktemp("damaged") / "image"
    path.write_bytes(whole[:position] + damage + whole[position + len(damage) + 1 :])
    with suppress(ContractError):
        assert open_rgb(path).mode == "RGB"
