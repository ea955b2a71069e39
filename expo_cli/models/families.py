"""What the class of its pipeline says of a model, before torch is imported."""

from pathlib import Path
from typing import Any

from expo_cli.contracts.files import read_json
from expo_cli.contracts.sources import MODEL_INDEX, base_source, model_folder
from expo_cli.errors import ContractError, UsageError
from expo_cli.models.schedulers import SAMPLERS
from expo_cli.registry import MODELS, nearest

# Their networks predict a velocity; all others noise, or v, of a diffusion.
FLOW_MATCHING = frozenset({"StableDiffusion3Pipeline", "FluxPipeline"})
# Their guidance is an input of the network, which leaves no place for a negative prompt.
DISTILLED_GUIDANCE = frozenset({"FluxPipeline"})
# The projections of attention, which is what the LoRA scripts of diffusers adapt. In the
# transformers text has projections of its own.
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
LORA_TARGETS_OF_TEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
# What noise a model sees and what it predicts of it, and diffusers' defaults.
NOISE_SETTINGS = {
    "prediction_type": "epsilon",
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "shift": 1.0,
}
FLOW_MATCH_EULER = "flow-match-euler"


def pipeline_folder(source: str) -> Path:
    """The pipeline folder of a source; of a LoRA checkpoint, the one it adapts."""
    return model_folder(base_source(source))


def read_index(folder: Path) -> dict[str, Any]:
    """What a pipeline folder's model_index.json says of its parts."""
    return read_json(folder / MODEL_INDEX, dict[str, Any])


def pipeline_class(folder: Path) -> str:
    """`_class_name` of a pipeline folder's model_index.json, which tells its family.

    Raises ContractError when there is no such file or the family is not supported.
    """
    index = folder / MODEL_INDEX
    if not index.exists():
        raise ContractError(f"{index}: missing; {folder} is not a diffusers pipeline")
    name = read_index(folder).get("_class_name")
    if not isinstance(name, str):
        raise ContractError(f"{index}: has no _class_name")
    if name not in MODELS:
        # No nearest name: another family, or an inpainting pipeline, is another model.
        raise ContractError(f"{index}: {name} is not supported; known: {', '.join(sorted(MODELS))}")
    return name


def lora_targets(pipeline: str) -> tuple[str, ...]:
    """The ends of the names of the layers that LoRA adapts by default."""
    return LORA_TARGETS + (LORA_TARGETS_OF_TEXT if pipeline in FLOW_MATCHING else ())


def has_t5(folder: Path) -> bool:
    """Whether T5 is among its text encoders: so large that what it says is worth keeping."""
    return any(
        isinstance(part, list) and "T5EncoderModel" in part and (folder / name).is_dir()
        for name, part in read_index(folder).items()
    )


def check_text_cache(cache: str | None, source: str) -> None:
    """Raises UsageError for a cache of text encoders that are asked in less time than it takes to
    read."""
    if cache is not None and not has_t5(pipeline_folder(source)):
        raise UsageError(f"--text-cache: {source} has no T5, and CLIP needs no cache")


def scheduler_of(pipeline: str, wanted: str | None) -> str:
    """The sampler's name: the wanted one, or the family's own.

    Raises UsageError for one that is unknown, or cannot draw with that family.
    """
    known = [FLOW_MATCH_EULER] if pipeline in FLOW_MATCHING else list(SAMPLERS)
    if wanted is None:
        return known[0]
    if wanted in known:
        return wanted
    if wanted not in (FLOW_MATCH_EULER, *SAMPLERS):
        raise UsageError(f"no scheduler is called {wanted!r}; {nearest(wanted, known)}")
    raise UsageError(f"--scheduler {wanted} cannot draw with a {pipeline}: use {', '.join(known)}")


def check_negative_prompts(pipeline: str, used: bool) -> None:
    """Raises UsageError where there are some and the family has no use for them."""
    if used and pipeline in DISTILLED_GUIDANCE:
        raise UsageError(
            f"a {pipeline} takes no negative prompts: its guidance is distilled; use "
            "--neg-schedule none, and prompts without a negative_prompt"
        )


def check_gaussian_steps(pipeline: str, flag: str) -> None:
    """Raises UsageError for a flag that needs them, where the family draws without noise."""
    if pipeline in FLOW_MATCHING:
        raise UsageError(
            f"{flag} needs Gaussian steps, which a {pipeline} has not: flow matching draws along an ODE"
        )


def check_same_noise(source: str, other: str, flag: str, predicted: bool = True) -> None:
    """Raises UsageError when two models do not see the same noise, or, where it matters what is
    `predicted`, do not predict the same of it: one's errors say nothing of the other's."""
    settings, others = (noise_settings(pipeline_folder(each)) for each in (source, other))
    for name in NOISE_SETTINGS:
        matters = predicted or name != "prediction_type"
        if matters and settings[name] != others[name]:
            raise UsageError(
                f"{flag} {other}: its scheduler has {name} {others[name]!r}, that of {source} "
                f"{settings[name]!r}; both must be trained on the same noise"
            )


def noise_settings(folder: Path) -> dict[str, Any]:
    """Of a pipeline's scheduler, as diffusers' DDPM has them where its config says nothing."""
    path = folder / "scheduler" / "scheduler_config.json"
    config = read_json(path, dict[str, Any]) if path.exists() else {}
    return {name: config.get(name, default) for name, default in NOISE_SETTINGS.items()}
