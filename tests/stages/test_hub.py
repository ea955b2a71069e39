"""`expo train --push-to-hub`, against a server in a process of its own that speaks like the hub.

That the hub itself takes it was never tried: no test may need the network.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.latent_pairs import write_latent_pairs

SERVER = Path(__file__).parent.parent / "hub_server.py"
SETTINGS = ["--max-train-steps=1", "--train-batch-size=1", "--mixed-precision=fp32"]
PUBLISHED = {
    "README.md",
    "adapter_config.json",
    "kohya_lora.safetensors",
    "metrics.jsonl",
    "pytorch_lora_weights.safetensors",
}


@pytest.fixture
def hub(tmp_path):
    """The folder behind the server, and the environment in which it is the hub."""
    folder = tmp_path / "hub"
    folder.mkdir()
    server = subprocess.Popen([sys.executable, SERVER, folder], stdout=subprocess.PIPE, text=True)
    environment = os.environ | {
        "HF_ENDPOINT": server.stdout.readline().strip(),
        "HF_TOKEN": "hf_right",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"),
    }
    yield folder, environment
    server.kill()
    server.wait()
    server.stdout.close()


@pytest.fixture
def train(expo, tiny_sd, tmp_path):
    pairs = write_latent_pairs(tmp_path)

    def run(*flags: str, env: dict[str, str]):
        out = tmp_path / "lora"
        command = ["train", pairs, "--init-from", tiny_sd, "--out", out, "--use-lora", *SETTINGS]
        return expo(*command, *flags, env=env), out

    return run


def test_a_checkpoint_is_uploaded_and_after_a_failure_only_that(hub, train):
    folder, environment = hub
    (folder / "refuse").touch()
    done, out = train("--push-to-hub", "--hub-private-repo", "--quiet", env=environment)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "me/lora: the upload failed" in done.stderr
    assert f"the checkpoint is complete in {out}: run the same command again" in done.stderr
    trained = {path.name: path.read_bytes() for path in out.iterdir()}
    assert trained.keys() == PUBLISHED | {"run.json"}
    assert "hf_right" not in trained["run.json"].decode()

    (folder / "refuse").unlink()
    done, _ = train("--push-to-hub", "--hub-private-repo", "--json", env=environment)
    assert done.returncode == 0, done.stderr
    assert "nothing to train" in done.stderr
    assert json.loads(done.stdout)["url"].endswith("/me/lora/commit/" + "0" * 40)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == trained
    repository = folder / "me" / "lora"
    uploaded = {path.name: path.read_bytes() for path in repository.iterdir()}
    assert uploaded.keys() == PUBLISHED
    # All as it is on disk but the base model, of which no path of this machine is told.
    base = json.loads(uploaded.pop("adapter_config.json"))["base_model_name_or_path"]
    assert base == "sd"
    assert uploaded == {name: trained[name] for name in uploaded}
    wish = json.loads((folder / "wishes.jsonl").read_text().splitlines()[0])
    assert (wish["name"], wish["visibility"]) == ("lora", "private")


@pytest.mark.parametrize(
    ("flags", "changes", "message"),
    [
        ([], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ([], {"HF_TOKEN": ""}, "not logged in; run hf auth login or set HF_TOKEN"),
        ([], {"HF_TOKEN": "hf_wrong"}, "lora: "),
        (["--hub-model-id=others/lora"], {}, "others/lora: "),
        ([], {"HF_ENDPOINT": "http://127.0.0.1:9"}, "lora: "),
    ],
)
def test_what_cannot_be_uploaded_is_not_trained(flags, changes, message, hub, train):
    _, environment = hub
    done, out = train("--push-to-hub", "--quiet", *flags, env=environment | changes)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert done.stderr.startswith(f"expo: --push-to-hub: {message}")
    assert not out.exists()


def test_a_name_without_an_upload_is_a_contradiction(train):
    done, _ = train("--hub-model-id=me/lora", env=dict(os.environ))
    assert done.returncode == 2
    assert "--hub-model-id needs --push-to-hub" in done.stderr
