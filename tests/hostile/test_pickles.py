"""Pickles under every name that is read: refused, and not one line of their code is run."""

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from expo_cli.contracts.sources import model_folder
from expo_cli.contracts.tensors import read_tensors
from expo_cli.errors import ContractError, ExpoError
from expo_cli.models.loading import load_encoder, load_model
from expo_cli.registry import REWARDS, build
from tests.hostile.damage import fault

CPU = torch.device("cpu")


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    """The file that a trap makes; checked to work, and to be absent in the end."""
    path = tmp_path / "was-run"
    pickle.loads(pickle.dumps(Trap(path)))
    assert path.exists()
    path.unlink()
    yield path
    assert not path.exists()


def traps(mark: Path, folder: Path) -> dict[str, bytes]:
    """Ways to write a pickle, by name."""
    tensors = {"a": torch.zeros(2), "trap": Trap(mark)}
    made = {f"protocol {n}": pickle.dumps(tensors, n) for n in range(6)}
    for name, zipped in (("torch", True), ("old torch", False)):
        path = folder / "made.pt"
        torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
        made[name] = path.read_bytes()
        path.unlink()
    # Before Python 3.8's protocol 4 one could hide behind a frame; here behind a zip's comment.
    with zipfile.ZipFile(folder / "made.zip", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Trap(mark)))
    made["zip"] = (folder / "made.zip").read_bytes()
    (folder / "made.zip").unlink()
    return made


NAMES = [*(f"protocol {n}" for n in range(6)), "torch", "old torch", "zip"]


@pytest.fixture
def linked(tmp_path):
    """A copy of an embedded model whose files are links, to be replaced."""

    def copy(name: str) -> Path:
        source, target = model_folder(f"embedded:{name}"), tmp_path / name
        for path in source.rglob("*"):
            if path.is_file():
                link = target / path.relative_to(source)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path)
        return target

    return copy


def replaced(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data)


@pytest.mark.parametrize("kind", NAMES)
def test_named_safetensors(kind, mark, tmp_path):
    path = tmp_path / "part-00000.safetensors"
    path.write_bytes(traps(mark, tmp_path)[kind])
    for framework in ("pt", "numpy"):
        with pytest.raises(ContractError) as raised:
            read_tensors(path, framework)
        fault(raised.value, str(path))


@pytest.mark.parametrize(
    "name", ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"]
)
def test_weights_of_a_model(name, mark, linked, tmp_path):
    model = linked("emoji-sd")
    data = traps(mark, tmp_path)["torch"]
    for part, load in (("vae", load_encoder), ("unet", load_model)):
        (model / part / "diffusion_pytorch_model.safetensors").unlink()
        replaced(model / part / name, data)
        with pytest.raises(ContractError) as raised:
            load(str(model), CPU, torch.float32)
        fault(raised.value, str(model))


def test_pickles_beside_weights_are_left_alone(mark, linked, tmp_path):
    model = linked("emoji-sd")
    data = traps(mark, tmp_path)["torch"]
    for name in ("diffusion_pytorch_model.bin", "model.ckpt", "pytorch_model.pt", "data.pkl"):
        replaced(model / "unet" / name, data)
    load_model(str(model), CPU, torch.float32)


@pytest.mark.parametrize(
    ("reward", "name", "spec"),
    [
        ("emoji-pickscore", "model.safetensors", "pickscore:model={}"),
        ("emoji-pickscore", "pytorch_model.bin", "pickscore:model={}"),
        ("emoji-hps", "open_clip_model.safetensors", "hpsv2:model={}"),
        ("emoji-step-pickscore", "time_conditioning.safetensors", "step-pickscore:model={}"),
    ],
)
def test_weights_of_rewards(reward, name, spec, mark, linked, tmp_path):
    folder = linked(reward)
    if name.endswith(".bin"):
        (folder / "model.safetensors").unlink()
    for data in traps(mark, tmp_path).values():
        replaced(folder / name, data)
        with pytest.raises(ExpoError) as raised:
            build(REWARDS, spec.format(folder)).load(CPU, torch.float32)
        fault(raised.value, str(folder))


@pytest.mark.parametrize("kind", NAMES)
def test_a_checkpoint_that_exists_only_as_a_pickle(kind, mark, tmp_path):
    """It is read as far as it holds tensors; what would call a function is refused."""
    config = json.loads((model_folder("embedded:emoji-hps") / "open_clip_config.json").read_text())
    (tmp_path / "tiny.json").write_text(json.dumps(config["model_cfg"]))
    path = tmp_path / "HPS.pt"
    path.write_bytes(traps(mark, tmp_path)[kind])
    with pytest.raises(ExpoError) as raised:
        build(REWARDS, f"hpsv2:checkpoint={path},config={tmp_path / 'tiny.json'}").load(
            CPU, torch.float32
        )
    fault(raised.value, str(path))


def test_code_in_a_model_folder_is_not_run(mark, linked):
    """`auto_map` and a pipeline of one's own are how diffusers and transformers would be told to."""
    model = linked("emoji-sd")
    trap = f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
    for part in (".", "unet", "text_encoder", "tokenizer", "scheduler"):
        for name in ("pipeline.py", "modeling.py", "__init__.py", "conftest.py"):
            (model / part / name).write_text(trap)
    config = json.loads((model / "text_encoder/config.json").read_text())
    classes = {"AutoConfig": "modeling.Trap", "AutoModel": "modeling.Trap"}
    replaced(
        model / "text_encoder/config.json", json.dumps(config | {"auto_map": classes}).encode()
    )
    index = json.loads((model / "model_index.json").read_text())
    index |= {"unet": ["modeling", "Trap"], "custom_pipeline": "pipeline"}
    replaced(model / "model_index.json", json.dumps(index).encode())
    load_model(str(model), CPU, torch.float32).encode(["a cat"])
