"""Uploads finished checkpoints to the Hugging Face Hub."""

import json
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.utils import disable_progress_bars

from expo_cli.config import HubConfig
from expo_cli.contracts.files import json_bytes
from expo_cli.contracts.kinds import Checkpoint
from expo_cli.contracts.sources import ADAPTER_CONFIG
from expo_cli.errors import ExpoError
from expo_cli.stages.train.origin import told


def open_repository(config: HubConfig, out: Path) -> str:
    """The id of the repository to upload to, created if it does not exist.

    Called before training, so that ExpoError is raised at once if an upload would fail.
    """
    if HF_HUB_OFFLINE:
        raise ExpoError("--push-to-hub: HF_HUB_OFFLINE is set; unset it, or omit the flag")
    if get_token() is None:
        raise ExpoError("--push-to-hub: not logged in; run hf auth login or set HF_TOKEN")
    name = config.hub_model_id or out.resolve().name
    # None keeps the owner's default on the Hub.
    private = config.hub_private_repo or None
    try:
        return HfApi().create_repo(name, private=private, exist_ok=True).repo_id
    except Exception as error:
        raise ExpoError(f"--push-to-hub: {name}: {first_line(error)}") from error


def upload(out: Path, repository: str, quiet: bool) -> str:
    """Upload a finished checkpoint in one commit; returns its URL.

    Raises ExpoError when it fails; the checkpoint stays on disk.
    """
    if quiet:
        disable_progress_bars()
    checkpoint = Checkpoint(out)
    operations = [
        CommitOperationAdd(path.relative_to(out).as_posix(), public(path))
        for path in sorted(out.rglob("*"))
        if path.is_file() and checkpoint.is_published(path)
    ]
    try:
        message = "Upload a checkpoint of expo train"
        return HfApi().create_commit(repository, operations, commit_message=message).commit_url
    except Exception as error:
        raise ExpoError(
            f"{repository}: the upload failed: {first_line(error)}; the checkpoint is complete in "
            f"{out}: run the same command again to upload it"
        ) from error


def public(path: Path) -> str | bytes:
    """The contents of a file as uploaded: without paths of this machine."""
    if path.name != ADAPTER_CONFIG:
        return str(path)
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings.pop("base_path", None)
    settings["base_model_name_or_path"] = told(settings["base_model_name_or_path"])
    return json_bytes(settings)


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
