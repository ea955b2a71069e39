"""Settings for uploading to the Hugging Face Hub; none of these changes a command's output."""

from dataclasses import dataclass
from typing import Annotated

from expo_cli.config.common import Flag


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """There is no flag for a token: command lines are recorded and visible to other users."""

    push_to_hub: Annotated[
        bool,
        Flag(
            "Upload the finished checkpoint to the Hugging Face Hub; log in with hf auth "
            "login or HF_TOKEN.",
            "Output",
        ),
    ] = False
    hub_model_id: Annotated[
        str | None, Flag("OWNER/NAME or NAME (default: the name of --out).", "Output")
    ] = None
    hub_private_repo: Annotated[
        bool, Flag("Make the repository private if it is created.", "Output")
    ] = False

    def __post_init__(self) -> None:
        for name in ("hub_model_id", "hub_private_repo"):
            if getattr(self, name) and not self.push_to_hub:
                raise ValueError(f"--{name.replace('_', '-')} needs --push-to-hub")
