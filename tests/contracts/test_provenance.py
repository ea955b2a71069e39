import json
import sys
from dataclasses import replace

import pytest

from expo_cli import __version__
from expo_cli.contracts.provenance import FORMAT, Run, read_run, write_run
from expo_cli.errors import ContractError, ExpoError


def test_round_trip(tmp_path):
    run = Run(
        command="rollout", plan={"seed": 0, "eta": 0.5}, inputs={"p": "0" * 64}, counts={"n": 3}
    )
    write_run(tmp_path, run)
    assert read_run(tmp_path) == replace(run, format=FORMAT)
    assert run.arguments == sys.argv[1:]
    assert run.versions["expo-cli"] == __version__
    assert {"python", "torch", "diffusers"} <= run.versions.keys()


def test_versions_need_no_import(tmp_path):
    """`run.json` is written by commands that never load torch."""
    import subprocess

    code = (
        "import sys\n"
        "from expo_cli.contracts.provenance import package_versions\n"
        "assert package_versions()['torch']\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_no_folder_and_no_run(tmp_path):
    with pytest.raises(ExpoError, match="none: no such folder"):
        read_run(tmp_path / "none")
    with pytest.raises(ExpoError, match="run.json: missing; .* was not made by expo"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"plan":{}}', b'{"a":"\xff"}', b"[" * 10**5]
)
def test_a_broken_run(content, tmp_path):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ContractError, match="run.json: "):
        read_run(tmp_path)


def test_fields_of_the_future_are_no_fault(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"command": "x", "plan": {}, "new": [1]}))
    assert read_run(tmp_path).command == "x"


def test_a_run_without_a_format_is_of_an_older_version(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"command": "x", "plan": {}}))
    assert read_run(tmp_path).is_older
    write_run(tmp_path, Run(command="x", plan={}))
    assert not read_run(tmp_path).is_older


def test_a_newer_format_is_refused(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"command": "x", "plan": {}, "format": 99}))
    with pytest.raises(ContractError, match="has format 99, this expo reads up to 2"):
        read_run(tmp_path)
