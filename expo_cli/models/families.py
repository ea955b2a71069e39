"""What a pipeline's class name implies about a model, known before torch is imported."""

from pathlib import Path
from typing import Any

from expo_cli.contracts.files import read_json
from expo_cli.contracts.identity import NETWORK, TEXT, VAE, pipeline_sha256s
from expo_cli.contracts.sources import MODEL_INDEX, base_source, model_folder
from expo_cli.errors import ContractError, UsageError
from expo_cli.models.schedulers import SAMPLERS
from expo_cli.registry import MODELS, nearest

# Families whose networks predict a velocity; the others predict noise or v.
FLOW_MATCHING = frozenset({"StableDiffusion3Pipeline", "FluxPipeline"})
# Families whose guidance is an input of the network, so that negative prompts have no effect.
DISTILLED_GUIDANCE = frozenset({"FluxPipeline"})
# The attention projections that diffusers' LoRA scripts adapt. Transformers also have separate ones
# for text.
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
LORA_TARGETS_OF_TEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
# Scheduler settings that define the noise and the prediction, with diffusers' defaults.
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
# Settings of a network on which the shape of its latents and its conditioning depend.
NETWORK_SETTINGS = ("in_channels", "guidance_embeds")
FLOW_MATCH_EULER = "flow-match-euler"


def pipeline_folder(source: str) -> Path:
    """The pipeline folder of a source; for a LoRA checkpoint, that of its base."""
    return model_folder(base_source(source))


def read_index(folder: Path) -> dict[str, Any]:
    """The model_index.json of a pipeline folder."""
    return read_json(folder / MODEL_INDEX, dict[str, Any])


def pipeline_class(folder: Path) -> str:
    """`_class_name` of a pipeline folder's model_index.json, which identifies its family.

    Raises ContractError when there is no such file or the family is not supported.
    """
    index = folder / MODEL_INDEX
    if not index.exists():
        raise ContractError(f"{index}: missing; {folder} is not a diffusers pipeline")
    name = read_index(folder).get("_class_name")
    if not isinstance(name, str):
        raise ContractError(f"{index}: has no _class_name")
    if name not in MODELS:
        # No hint of the nearest name: that would be a different model.
        raise ContractError(f"{index}: {name} is not supported; known: {', '.join(sorted(MODELS))}")
    return name


def lora_targets(pipeline: str) -> tuple[str, ...]:
    """Name suffixes of the layers that LoRA adapts by default."""
    return LORA_TARGETS + (LORA_TARGETS_OF_TEXT if pipeline in FLOW_MATCHING else ())


def has_t5(folder: Path) -> bool:
    """Whether a pipeline has a T5 text encoder, which is large enough to cache its embeddings."""
    return any(
        isinstance(part, list) and "T5EncoderModel" in part and (folder / name).is_dir()
        for name, part in read_index(folder).items()
    )


def check_text_cache(cache: str | None, source: str) -> None:
    """Raises UsageError for a --text-cache of a model without T5: CLIP is faster than a cache."""
    if cache is not None and not has_t5(pipeline_folder(source)):
        raise UsageError(f"--text-cache: {source} has no T5, and CLIP needs no cache")


def scheduler_of(pipeline: str, wanted: str | None) -> str:
    """The sampler's name: the wanted one, or the family's default.

    Raises UsageError for one that is unknown or does not work with that family.
    """
    known = [FLOW_MATCH_EULER] if pipeline in FLOW_MATCHING else list(SAMPLERS)
    if wanted is None:
        return known[0]
    if wanted in known:
        return wanted
    if wanted not in (FLOW_MATCH_EULER, *SAMPLERS):
        raise UsageError(f"no scheduler is called {wanted!r}; {nearest(wanted, known)}")
    raise UsageError(
        f"--scheduler {wanted} does not work with a {pipeline}: use {', '.join(known)}"
    )


def check_negative_prompts(pipeline: str, used: bool) -> None:
    """Raises UsageError when negative prompts are used and the family ignores them."""
    if used and pipeline in DISTILLED_GUIDANCE:
        raise UsageError(
            f"a {pipeline} takes no negative prompts: its guidance is distilled; use "
            "--neg-schedule none, and prompts without a negative_prompt"
        )


def check_gaussian_steps(pipeline: str, flag: str) -> None:
    """Raises UsageError when `flag` needs Gaussian steps and the family draws along an ODE."""
    if pipeline in FLOW_MATCHING:
        raise UsageError(
            f"{flag} needs Gaussian steps, but a {pipeline} draws along an ODE (flow matching)"
        )


def check_same_noise(source: str, other: str, flag: str, predicted: bool = True) -> None:
    """Raises UsageError when the noise schedules of two models or, if `predicted`, their prediction
    types differ: then their errors cannot be compared."""
    settings, others = (noise_settings(pipeline_folder(each)) for each in (source, other))
    for name in NOISE_SETTINGS:
        matters = predicted or name != "prediction_type"
        if matters and settings[name] != others[name]:
            raise UsageError(
                f"{flag} {other}: its scheduler has {name} {others[name]!r}, that of {source} "
                f"{settings[name]!r}; both must be trained on the same noise"
            )


def check_same_prediction(source: str, other: str, flag: str) -> None:
    """Raises UsageError when the predictions of two models for the same latents and conditioning
    cannot be combined: another family, noise, text encoder, VAE or shape of the latents."""
    folders = pipeline_folder(source), pipeline_folder(other)
    if folders[0] == folders[1]:
        return
    ours, others = map(prediction_settings, folders)
    for name in sorted(ours.keys() | others.keys()):
        if ours.get(name) != others.get(name):
            raise UsageError(
                f"{flag} {other}: its {name} is not that of {source}, so their predictions cannot be "
                "combined; give the model that the policy was trained from"
            )
    check_same_noise(source, other, flag)


def prediction_settings(folder: Path) -> dict[str, Any]:
    """What a pipeline's prediction depends on besides its weights and its noise."""
    settings = {"pipeline": pipeline_class(folder)} | pipeline_sha256s(folder, (*TEXT, *VAE))
    for name in NETWORK:
        if (path := folder / name / "config.json").exists():
            config = read_json(path, dict[str, Any])
            settings |= {key: config.get(key) for key in NETWORK_SETTINGS}
    return settings


def noise_settings(folder: Path) -> dict[str, Any]:
    """The NOISE_SETTINGS of a pipeline's scheduler; missing ones have diffusers' defaults."""
    path = folder / "scheduler" / "scheduler_config.json"
    config = read_json(path, dict[str, Any]) if path.exists() else {}
    return {name: config.get(name, default) for name, default in NOISE_SETTINGS.items()}
