"""What may happen to an input between two commands."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.hostile.mixtures.steps import Input
from tests.hostile.mixtures.trees import Tree, remove, write
from tests.hostile.mixtures.world import World
from tests.preferences import pick_a_pic_rows, write_parquet

# What a result has to equal: that of the inputs as they are now; that of an iteration in which what
# lies between the input and the command is made again; or that of the inputs before the change.
NOW, AGAIN, BEFORE = "now", "again", "before"


@dataclass(frozen=True)
class Change:
    """`kind` names the mixture; `apply` is given the folder that commands run in. A command that
    meets it `must` work, be refused, or has the choice."""

    kind: str
    name: str
    apply: Callable[[Path], None]
    truth: str = NOW
    must: str = ""


def changes_of(world: World, given: Input) -> Iterator[Change]:
    """Every change that an input may suffer."""
    path = given.path
    kinds = {
        "words": texts,
        "prompts": prompts,
        "rollout": rollouts,
        "scores": scores,
        "latents": latents,
        "pairs": pairs,
        "model": models,
        "adapter": adapters,
        "reward": reward_models,
        "parquet": parquets,
        "index": texts,
        "pictures": pictures,
    }
    yield from kinds[given.kind](world, path)
    # Paths in a file of pairs may not leave its folder, so a rollout that lies elsewhere may be
    # refused.
    must = "" if given.kind in ("rollout", "latents") else "work"
    yield Change("linked", f"{path} moved away and linked", linked(path), BEFORE, must)
    yield Change("linked", f"{path} hard-linked", hard_linked(path), BEFORE, "work")


def times_kept(change: Change, path: str) -> Change:
    """The same with the times of modification as they were, as `cp -p` and `rsync -t` keep them."""

    def apply(root: Path) -> None:
        before = {file: file.stat().st_mtime_ns for file in files(root / path)}
        change.apply(root)
        for file, moment in before.items():
            if file.exists():
                os.utime(file, ns=(moment, moment))

    return replace(change, name=f"{change.name}, its times kept", apply=apply)


def files(path: Path) -> list[Path]:
    return [file for file in (path, *path.rglob("*")) if file.is_file()]


def linked(path: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        (root / "elsewhere").mkdir()
        target = root / "elsewhere" / Path(path).name
        (root / path).rename(target)
        (root / path).symlink_to(target)

    return apply


def hard_linked(path: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        shutil.copytree(root / path, root / "elsewhere", copy_function=os.link) if (
            root / path
        ).is_dir() else os.link(root / path, root / "elsewhere")

    return apply


def swapped(path: str, tree: Tree, keep: str = "") -> Callable[[Path], None]:
    """Replaced by the contents of the tree; what is at `keep` below it stays."""

    def apply(root: Path) -> None:
        kept = root / path / keep
        if keep and kept.exists():
            kept.rename(root / "kept")
        for name in tree:
            remove(root / name)
        remove(root / path)
        for name in sorted(tree):
            write(root / name, tree[name])
        if (root / "kept").exists():
            (root / "kept").rename(kept)

    return apply


def edited(path: str, edit: Callable[[bytes], bytes], also: str = "") -> Callable[[Path], None]:
    """A file written again; the one next to it whose name ends in `also` is removed."""

    def apply(root: Path) -> None:
        file = root / path
        data = edit(file.read_bytes())
        file.unlink()
        file.write_bytes(data)
        if also:
            file.with_name(file.name + also).unlink(missing_ok=True)

    return apply


def gone(*paths: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        for path in paths:
            (root / path).unlink(missing_ok=True)

    return apply


def copied(source: str, target: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        data = (root / source).read_bytes()
        (root / target).unlink()
        (root / target).write_bytes(data)

    return apply


def in_json(path: str, **values: Any) -> Callable[[Path], None]:
    return edited(path, lambda data: json.dumps(json.loads(data) | values, indent=2).encode())


def without_last_line(data: bytes) -> bytes:
    return b"".join(data.splitlines(keepends=True)[:-1])


def reversed_lines(data: bytes) -> bytes:
    return b"".join(data.splitlines(keepends=True)[::-1])


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def cuts(path: str, truth: str = BEFORE) -> Iterator[Change]:
    for name, cut in (("its last line", without_last_line), ("its second half", half)):
        yield Change("cut", f"{path} without {name}", edited(path, cut), truth)


def texts(world: World, path: str) -> Iterator[Change]:
    """A text file of the user's own: what it holds is what counts."""
    other = edited(path, lambda data: data.replace(b"cat", b"cot").replace(b"prompt", b"motif"))
    change = Change("replaced", f"{path} with other words", other)
    yield change
    yield times_kept(change, path)
    if path.endswith(".txt"):
        yield Change("replaced", f"{path} reversed", edited(path, reversed_lines))
    yield from cuts(path, NOW)


def prompts(world: World, path: str) -> Iterator[Change]:
    other = swapped(path, world.others["prompts"])
    yield Change("replaced", f"{path} of another sample", other)
    words = edited(path, lambda data: data.replace(b" of a ", b" of b ", 1))
    change = Change("replaced", f"{path} with another text under one id", words)
    yield change
    yield times_kept(change, path)
    yield from cuts(path)
    short = edited(path, without_last_line, also=".run.json")
    yield Change("cut", f"{path} made anew by `head`", short)


def rollouts(world: World, path: str) -> Iterator[Change]:
    step = path.rpartition("/")[2]
    tree = world.others[step]
    redrawn = Change(
        "replaced", f"{path} redrawn, old scores kept", swapped(path, tree, "scores"), AGAIN
    )
    yield redrawn
    yield times_kept(redrawn, path)
    first = {name: entry for name, entry in tree.items() if "/part-00000" in name}

    def of_first(*endings: str) -> Callable[[Path], None]:
        part = {name: entry for name, entry in first.items() if name.endswith(endings)}

        def apply(root: Path) -> None:
            for name, entry in part.items():
                remove(root / name)
                write(root / name, entry)

        return apply

    whole = of_first(".jsonl", ".safetensors", ".json")
    yield Change("replaced", f"{path} with one part redrawn, old scores kept", whole, AGAIN)
    yield Change("replaced", f"{path} with latents of another", of_first(".safetensors"), BEFORE)
    last = max(name for name in tree if name.endswith(".safetensors") and "/part-" in name)
    records = f"{last.removesuffix('.safetensors')}.jsonl"
    yield from cuts(records)
    yield Change("cut", f"{records} is gone", gone(records), BEFORE)
    yield Change("cut", f"{last} without its second half", edited(last, half), BEFORE)


def scores(world: World, path: str) -> Iterator[Change]:
    step = "scores" if path.endswith("/sc") else "main-scores"
    tree = world.others[step]
    yield Change("replaced", f"{path} of another rollout", swapped(path, tree), BEFORE)
    first, last = (f"{path}/part-{number:05d}.a.jsonl" for number in (0, 2))

    def raised(data: bytes) -> bytes:
        line, _, rest = data.partition(b"\n")
        record = json.loads(line)
        return json.dumps(record | {"score": record["score"] + 9}).encode() + b"\n" + rest

    yield Change("replaced", f"{first} with another number", edited(first, raised))
    yield from cuts(last)
    yield Change("cut", f"{last} is gone", gone(last), BEFORE)


def latents(world: World, path: str) -> Iterator[Change]:
    name = f"{path}/part-00000.safetensors"
    other = world.others["imported"][name].content
    yield Change("replaced", f"{name} of another VAE", edited(name, lambda data: other), BEFORE)
    yield Change("cut", f"{name} without its second half", edited(name, half), BEFORE)


def pairs(world: World, path: str) -> Iterator[Change]:
    tree = world.others["pairs"]
    yield Change("replaced", f"{path} by another reward", swapped(path, tree))
    change = Change("replaced", f"{path} with its lines reversed", edited(path, reversed_lines))
    yield change
    yield times_kept(change, path)
    yield from cuts(path)
    short = edited(path, without_last_line, also=".run.json")
    yield Change("cut", f"{path} made anew by `head`", short)


def models(world: World, path: str) -> Iterator[Change]:
    other = "models/other" if path == "models/sd" else "models/sd"
    weights = {
        "unet": "unet/diffusion_pytorch_model.safetensors",
        "text encoder": "text_encoder/model.safetensors",
        "VAE": "vae/diffusion_pytorch_model.safetensors",
    }
    for part, name in weights.items():
        change = Change(
            "replaced", f"{path} with another {part}", copied(f"{other}/{name}", f"{path}/{name}")
        )
        yield change
        yield times_kept(change, path)
    scheduler = f"{path}/scheduler/scheduler_config.json"
    for values in ({"beta_end": 0.02}, {"prediction_type": "v_prediction"}):
        (setting,) = values
        yield Change(
            "replaced", f"{scheduler} with another {setting}", in_json(scheduler, **values)
        )
    vae = f"{path}/vae/config.json"
    yield Change("replaced", f"{vae} with another scaling", in_json(vae, scaling_factor=0.5))
    text = f"{path}/text_encoder/config.json"
    yield Change("replaced", f"{text} with another activation", in_json(text, hidden_act="gelu"))

    def formatted(data: bytes) -> bytes:
        config = json.loads(data) | {"_diffusers_version": "0.0.1"}
        return json.dumps(dict(reversed(config.items())), separators=(",", ":")).encode()

    same = edited(f"{path}/unet/config.json", formatted)
    yield Change("linked", f"{path}/unet/config.json formatted otherwise", same, BEFORE, "work")


def adapters(world: World, path: str) -> Iterator[Change]:
    tree = world.others["adapter"]
    change = Change("replaced", f"{path} trained anew", swapped(path, tree))
    yield change
    yield times_kept(change, path)
    config = f"{path}/adapter_config.json"
    yield Change("replaced", f"{config} with another alpha", in_json(config, lora_alpha=16))
    weights = f"{path}/pytorch_lora_weights.safetensors"
    yield Change("cut", f"{weights} without its second half", edited(weights, half), BEFORE)


def reward_models(world: World, path: str) -> Iterator[Change]:
    other = "models/other-clip" if path == "models/clip" else "models/clip"
    weights = copied(f"{other}/model.safetensors", f"{path}/model.safetensors")
    change = Change("replaced", f"{path} with other weights", weights)
    yield change
    yield times_kept(change, path)
    config = f"{path}/preprocessor_config.json"
    mean = in_json(config, image_mean=[0.1, 0.2, 0.3])
    yield Change("replaced", f"{config} with another mean", mean)


def parquets(world: World, path: str) -> Iterator[Change]:
    def other(root: Path) -> None:
        (root / path).unlink()
        write_parquet(root / path, pick_a_pic_rows()[::-1], row_group_size=2)

    change = Change("replaced", f"{path} with its rows reversed", other)
    yield change
    yield times_kept(change, path)
    yield Change("cut", f"{path} without its second half", edited(path, half), BEFORE)


def pictures(world: World, path: str) -> Iterator[Change]:
    change = Change(
        "replaced", f"{path}/0.png with another picture", copied(f"{path}/1.png", f"{path}/0.png")
    )
    yield change
    yield times_kept(change, path)
    yield Change("cut", f"{path}/0.png without its second half", edited(f"{path}/0.png", half), NOW)
