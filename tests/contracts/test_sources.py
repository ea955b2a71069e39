import json

import pytest

from expo_cli.contracts.sources import base_source, model_folder, shipped
from expo_cli.errors import ContractError, ExpoError


def test_a_folder_is_itself(tmp_path):
    assert model_folder(str(tmp_path)) == tmp_path


def test_embedded_is_inside_the_package():
    assert shipped("embedded:prompts/train.jsonl").is_file()
    assert model_folder("embedded:prompts").is_dir()


@pytest.mark.parametrize(
    "source", ["embedded:none", "/none/at/all", "./none/here", "none", "a/b/c"]
)
def test_no_such_folder(source):
    with pytest.raises(ExpoError, match="no such model folder"):
        model_folder(source)


def test_a_hub_id_that_is_not_there_is_one_line(expo, tmp_path):
    """Nothing is asked of the network while HF_HUB_OFFLINE is set."""
    import os

    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    (tmp_path / "in.txt").write_text("a cat\n")
    done = expo(
        *("prep-prompts", tmp_path / "in.txt", "--out", tmp_path / "out.jsonl"),
        *("--tokenizer", "nobody/nothing"),
        env=environment,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("expo: nobody/nothing: no such folder, and not on the hub: ")
    assert done.stderr.count("\n") == 1


def test_what_a_lora_adapts(tmp_path):
    assert base_source(str(tmp_path)) == str(tmp_path)
    config = tmp_path / "adapter_config.json"
    adapter = {"r": 4, "lora_alpha": 4, "target_modules": ["to_q"]}
    adapter |= {"base_model_name_or_path": "embedded:emoji-sd"}
    config.write_text(json.dumps(adapter))
    assert base_source(str(tmp_path)) == "embedded:emoji-sd"
    for broken in ("{", "{}", "[]"):
        config.write_text(broken)
        with pytest.raises(ContractError, match="adapter_config.json: "):
            base_source(str(tmp_path))
