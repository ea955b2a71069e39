"""The scripts of recipes/embedded one after the other, each at toy size, on drawings made here."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from expo_cli.contracts.provenance import read_run
from tests.recipes.toy import PROJECT

RECIPE = PROJECT / "recipes" / "embedded"
# Batches of 64 to 128, half of them clean, are drawn without repetition.
TRAINING, HELDOUT = 66, 20
MINUTES = ("--minutes", 0.001)
# One program runs all steps of a list: most of a toy step would be its imports.
STEPS = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
for line in sys.stdin.read().splitlines():
    sys.argv = line.split("\\t")
    print(line, file=sys.stderr)
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*steps: tuple) -> None:
    lines = ["\t".join(map(str, (RECIPE / f"{name}.py", *rest))) for name, *rest in steps]
    done = subprocess.run(
        [sys.executable, "-c", STEPS, RECIPE],
        input="\n".join(lines),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def words(name: str) -> list[str]:
    lines = (RECIPE / f"{name}.txt").read_text().splitlines()
    text = ",".join(line for line in lines if not line.startswith("#"))
    return [word.strip() for word in text.split(",") if word.strip()]


def emojibase() -> list[dict]:
    """The names that the recipe looks up, under code points of no meaning."""
    concepts = [{"label": word, "hexcode": f"{n:04X}"} for n, word in enumerate(words("concepts"))]
    people = [
        {
            "label": f"{gender} {profession}",
            "hexcode": "F000",
            "skins": [{"tone": tone, "hexcode": f"F000-{tone}"} for tone in (1, 3, 5)],
        }
        for profession in words("professions")
        for gender in ("woman", "man")
    ]
    return concepts + people


def write_names(npm: Path) -> None:
    path = npm / "emojibase-data" / "en" / "data.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(emojibase()))


def drawing(number: int) -> np.ndarray:
    """A square of some colour and size on white."""
    image = Image.new("RGB", (64, 64), "white")
    side, color = 20 + number % 30, (number * 37 % 256, number * 91 % 256, number * 53 % 256)
    ImageDraw.Draw(image).rectangle((8, 8, 8 + side, 8 + side), fill=color)
    return np.asarray(image)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, Path]:
    """The folders of the work and of what it ships, after all of build.sh but the rendering."""
    folder = tmp_path_factory.mktemp("embedded")
    npm, work, shipped = (folder / name for name in ("node_modules", "work", "shipped"))
    write_names(npm)
    work.mkdir()
    count = TRAINING + HELDOUT
    np.save(work / "images.npy", np.stack([drawing(number) for number in range(count)]))
    records = [
        {"style": "noto", "noun": f"thing {n // 4}", "tone": f"{n % 4}", "hexcode": f"{n}"}
        for n in range(count)
    ]
    lines = [json.dumps(r | {"heldout": n >= TRAINING}) for n, r in enumerate(records)]
    (work / "drawings.jsonl").write_text("\n".join(lines) + "\n")
    for split in ("train", "heldout"):
        (work / "prompts").mkdir(exist_ok=True)
        (work / "prompts" / f"{split}.jsonl").write_text('{"prompt": "noto style: thing 1"}\n')
    run(
        ("tokenizer", npm, work),
        ("vae", work, *MINUTES),
        ("clip", work, *MINUTES),
        ("unet", work, *MINUTES),
        ("own_samples", work, "a", "--count", 2),
        ("own_samples", work, "b", "--count", 2),
        ("reward_a", work, *MINUTES, "--own-samples"),
        ("reward_b", work, *MINUTES, "--own-samples"),
        ("export", work, shipped),
    )
    return work, shipped


def test_what_is_shipped_draws_and_judges(world, expo, tmp_path):
    _, shipped = world
    prompts = tmp_path / "prompts.jsonl"
    done = expo("prep-prompts", shipped / "prompts" / "train.jsonl", "--out", prompts)
    assert done.returncode == 0, done.stderr
    options = ("--num-images-per-prompt", 1, "--num-inference-steps", 2)
    folder = tmp_path / "rollout"
    done = expo("rollout", prompts, "--policy", shipped / "emoji-sd", "--out", folder, *options)
    assert done.returncode == 0, done.stderr
    rewards = (
        *("--reward", f"pickscore:model={shipped / 'emoji-pickscore'}"),
        *("--reward", f"hpsv2:model={shipped / 'emoji-hps'}"),
    )
    done = expo("score", folder, *rewards)
    assert done.returncode == 0, done.stderr


def test_own_samples_are_pairs_of_images_of_their_captions(world):
    import torch

    work, _ = world
    for reward in ("a", "b"):
        pool = torch.load(work / f"own_samples_{reward}.pt", weights_only=True)
        assert len(pool["captions"]) == len(pool["drawing"]) == 2
        for side in ("better", "worse"):
            assert pool[side].shape == (2, 3, 64, 64)
            assert pool[side].dtype is torch.uint8


def test_measure_draws_and_judges_what_is_shipped(world):
    """Of all figures of the model cards but negatives and samplers, which draw as agreement does."""
    work, _ = world
    others = ("vae", "agreement", "flaws")
    run(
        ("measure", work, "fidelity", "--limit", 20, "--guidances", 2),
        ("measure", work, *others, "--limit", 4, "--guidances", 2),
    )
    figures = json.loads((work / "figures.json").read_text())
    assert set(figures) == {"fidelity", *others}
    # The shipped weights; by chance the right caption is first one time in 20.
    right = figures["fidelity"]["train guidance=2.0"]
    assert right["a"] > 0.5
    assert right["b"] > 0.3
    assert figures["flaws"]["b"]["low resolution"] > 0.5
    assert figures["agreement"]["2.0"]["spearman"] > 0
    plan = read_run(work / "measured" / "agreement-2.0").plan
    assert (plan["num_images_per_prompt"], plan["guidance_scale"]) == (8, 2.0)


def test_grid_is_one_picture(tmp_path):
    run(("grid", "embedded:emoji-sd", tmp_path / "grid.png"))
    assert Image.open(tmp_path / "grid.png").size == (16 * 64, 6 * 64)


def test_every_drawing_is_rendered_and_listed_once(tmp_path):
    pytest.importorskip("resvg_py")
    npm, work = tmp_path / "node_modules", tmp_path / "work"
    write_names(npm)
    codes = {entry["hexcode"].lower() for entry in emojibase()}
    codes |= {skin["hexcode"].lower() for entry in emojibase() for skin in entry.get("skins", [])}
    square = {"icons": {"square": {"body": '<rect width="8" height="8" fill="red"/>'}}}
    for package in ("noto", "fluent-emoji-flat", "twemoji"):
        folder = npm / "@iconify-json" / package
        folder.mkdir(parents=True)
        (folder / "icons.json").write_text(json.dumps(square | {"width": 16, "height": 16}))
        (folder / "chars.json").write_text(json.dumps(dict.fromkeys(codes, "square")))
    assets = npm / "@lobehub" / "fluent-emoji-3d" / "assets"
    assets.mkdir(parents=True)
    for code in codes:
        Image.new("RGBA", (8, 8), "blue").save(assets / f"{code}.webp", lossless=True)
    run(("data", npm, work))
    drawings = [json.loads(line) for line in (work / "drawings.jsonl").read_text().splitlines()]
    images = np.load(work / "images.npy")
    assert images.shape == (len(drawings), 64, 64, 3)
    corner = {"3d": [0, 0, 255]}
    for record, image in zip(drawings, images, strict=True):
        assert image[0, 0].tolist() == corner.get(record["style"], [255, 0, 0])
    for split, heldout in (("train", False), ("heldout", True)):
        lines = (work / "prompts" / f"{split}.jsonl").read_text().splitlines()
        assert len(set(lines)) == sum(record["heldout"] is heldout for record in drawings)
