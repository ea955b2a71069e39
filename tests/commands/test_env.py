import json
import os
import platform
from importlib.metadata import version

import pytest
import torch

from expo_cli.stages.common.device import precisions, resolve_dtype
from expo_cli.stages.env import devices_of, read_environment

ENV = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": "/hub", "OMP_NUM_THREADS": "1"}


def test_what_a_bug_report_is_asked_for(expo):
    done = expo("env", env=ENV)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert all(line.startswith("- ") for line in lines)  # a list, where it is pasted
    rows = dict(line[2:].split(": ", 1) for line in lines)
    for package in ("torch", "diffusers", "transformers", "accelerate", "safetensors"):
        assert rows[package] == version(package)
    assert rows["python"] == platform.python_version()
    assert rows["threads"].startswith("1, ")
    assert rows["OMP_NUM_THREADS"] == "1"
    assert rows["hub"] == "offline, cache /hub/hub"
    assert "fp32" in rows["precisions"]


def test_json_has_all_of_it_as_numbers(expo):
    found = json.loads(expo("env", "--json", env=ENV).stdout)
    assert found["versions"]["torch"] == version("torch")
    assert 0 < found["memory_available"] < found["memory"]
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert (found["threads"], found["hub_offline"]) == (1, True)
    assert found["devices"]


def test_default_precision_is_the_one_that_commands_use():
    found = read_environment()
    device = torch.device(found.devices[0].type)
    assert resolve_dtype(found.default_precision, device) == resolve_dtype("auto", device)


def test_a_gpu_older_than_bf16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    assert precisions(torch.device("cuda")) == ["fp32", "fp16"]
    assert precisions(torch.device("cpu")) == ["fp32", "bf16"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_gpu_has_a_name_and_its_memory():
    devices = list(devices_of("cuda", 0))
    assert len(devices) == torch.cuda.device_count()
    assert all(device.name and device.memory > 2**30 for device in devices)


def test_cores_alone_is_a_number(expo):
    done = expo("env", "--cores", env=ENV | {"OMP_NUM_THREADS": "5"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")
    done = expo("env", "--cores", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--json contradicts --cores" in done.stderr
