"""The metadata of ModelSpec and kohya's sd-scripts on the base model of a LoRA.

ModelSpec 1.0.1: https://github.com/Stability-AI/ModelSpec
"""

from collections.abc import Mapping
from typing import Any

from expo_cli.contracts.files import read_json
from expo_cli.models.families import pipeline_class
from expo_cli.models.protocol import DiffusionModel

# Width of the text encoder of Stable Diffusion 2.
WIDTH_OF_SD2 = 1024
PREDICTION_TYPES = {"epsilon": "epsilon", "v_prediction": "v"}


def lora_modelspec(model: DiffusionModel) -> dict[str, str]:
    """The metadata keys of a LoRA that depend on the model it is for.

    ModelSpec's `date` is left out: the same run gives the same bytes.
    """
    pipeline = pipeline_class(model.folder)
    scheduler = read_json(model.folder / "scheduler" / "scheduler_config.json", dict[str, Any])
    predicted = PREDICTION_TYPES.get(scheduler.get("prediction_type"))
    architecture, version = architecture_and_version(pipeline, predicted, model.network.config)
    keys = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "diffusers",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.resolution": "{0}x{0}".format(model.image_size()),
        "ss_base_model_version": version,
        "ss_v2": str(version.startswith("sd_v2")),
    }
    return keys | ({"modelspec.prediction_type": predicted} if predicted else {})


def architecture_and_version(
    pipeline: str, predicted: str | None, network: Mapping[str, Any]
) -> tuple[str, str]:
    """ModelSpec's architecture and sd-scripts' `ss_base_model_version`.

    A pipeline class unknown to both keeps its own name.
    """
    match pipeline:
        case "StableDiffusionPipeline":
            end = "_v" if predicted == "v" else ""
            if network["cross_attention_dim"] == WIDTH_OF_SD2:
                return f"stable-diffusion-v2-{'768-v' if end else '512'}", f"sd_v2{end}"
            return "stable-diffusion-v1", f"sd_v1{end}"
        case "StableDiffusionXLPipeline":
            return "stable-diffusion-xl-v1-base", "sdxl_base_v1-0"
        case "StableDiffusion3Pipeline":
            if network.get("qk_norm") is None:
                return "stable-diffusion-v3-medium", "sd3"
            size = "medium" if network.get("dual_attention_layers") else "large"
            return f"stable-diffusion-v3.5-{size}", "sd3"
        case "FluxPipeline":
            return f"flux-1-{'dev' if network['guidance_embeds'] else 'schnell'}", "flux1"
    return pipeline, pipeline
