"""Write what was trained as it is shipped: half precision, in the layouts of the real models."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPModel, CLIPTextModel, CLIPTokenizer
from unet import build, build_scheduler

FROM_TORCH = {"format": "pt"}


def load_unet(work: Path) -> UNet2DConditionModel:
    """The averaged weights of the last checkpoint."""
    unet = build()
    unet.load_state_dict(torch.load(work / "unet.pt", weights_only=True)["average"])
    return unet.eval()


def build_pipeline(work: Path) -> StableDiffusionPipeline:
    clip = CLIPModel.from_pretrained(work / "clip")
    text_encoder = CLIPTextModel(clip.config.text_config)
    text_encoder.load_state_dict(clip.text_model.state_dict())
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(work / "vae"),
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        unet=load_unet(work),
        scheduler=DDIMScheduler.from_config(build_scheduler().config, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export_pipeline(work: Path, folder: Path) -> None:
    build_pipeline(work).to(torch.float16).save_pretrained(folder)
    use_plain_vocabulary(work, folder / "tokenizer")
    forget_origin(folder / "vae")
    load_in_full_precision(folder / "text_encoder")
    name_as_stable_diffusion(folder / "text_encoder" / "model.safetensors")


def export_reward_a(work: Path, folder: Path) -> None:
    CLIPModel.from_pretrained(work / "reward_a").to(torch.float16).save_pretrained(folder)
    size = {"shortest_edge": 64}
    crop = {"height": 64, "width": 64}
    CLIPImageProcessor(size=size, crop_size=crop).save_pretrained(folder)
    use_plain_vocabulary(work, folder)
    load_in_full_precision(folder)


def export_reward_b(work: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    shutil.copy(work / "reward_b" / "open_clip_config.json", folder)
    tensors = load_file(work / "reward_b" / "open_clip_model.safetensors")
    halves = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    save_file(halves, folder / "open_clip_model.safetensors", FROM_TORCH)


def use_plain_vocabulary(work: Path, folder: Path) -> None:
    """The three files every version of transformers reads."""
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(work / "tokenizer" / name, folder / name)
    (folder / "tokenizer.json").unlink(missing_ok=True)


def load_in_full_precision(folder: Path) -> None:
    """Half precision saves disk; on a CPU the weights are loaded as float32."""
    change_config(folder, lambda config: config.update(dtype="float32"))


def forget_origin(folder: Path) -> None:
    """Remove the path of the weights on this machine."""
    change_config(folder, lambda config: config.pop("_name_or_path", None))


def change_config(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config, indent=2) + "\n")


def name_as_stable_diffusion(path: Path) -> None:
    """Add the prefix of SD 1.5's file, which transformers 4 and 5 both know."""
    tensors = load_file(path)
    save_file({f"text_model.{name}": tensor for name, tensor in tensors.items()}, path, FROM_TORCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path, help="folder of the models and their prompts")
    arguments = parser.parse_args()
    work, out = arguments.work, arguments.out
    shutil.copytree(work / "prompts", out / "prompts", dirs_exist_ok=True)
    export_pipeline(work, out / "emoji-sd")
    export_reward_a(work, out / "emoji-pickscore")
    export_reward_b(work, out / "emoji-hps")
    for path in out.rglob("*.safetensors"):
        path.chmod(0o644)


if __name__ == "__main__":
    main()
