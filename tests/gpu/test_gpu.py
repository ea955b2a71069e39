"""The GPU check itself, at toy size on the CPU."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gpu import training
from tests.gpu.cases import CHECKS, NAMES
from tests.gpu.checks import Throughput, run_check, run_throughput
from tests.gpu.setting import Setting
from tests.pretended_gpu import pretended_gpu

PROJECT = Path(__file__).parents[2]


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tests.gpu", "--size", "toy", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)


def by_name(name: str):
    return next(check for check in CHECKS if check.name == name)


def test_all_of_it_on_a_cpu(tmp_path):
    done = run("--json", tmp_path / "report.json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    statuses = {check["name"]: check["status"] for check in report["checks"]}
    assert list(statuses) == NAMES
    assert statuses.pop("scaler") == "skip"
    assert set(statuses.values()) == {"ok"}
    assert all("ratio" in check["facts"] for check in report["checks"][-4:])
    lines = done.stdout.splitlines()
    assert len(lines) == len(NAMES)
    assert any(line.startswith("skip") and "needs a GPU" in line for line in lines)


def test_a_bound_that_is_passed_fails_and_no_rate_begins_after_the_time():
    names = ("bf16-rollout", "images")
    done = run("--only", *names, "--bound", "bf16-rollout", "0", "--minutes", "0")
    assert done.returncode == 1
    first, second, report = done.stdout.splitlines()
    assert first.startswith("FAIL latents drawn in bf16 against fp32, within 0: 0.0")
    assert second.startswith("skip images per second, images: no time left")
    assert [check["name"] for check in json.loads(report)["checks"]] == list(names)


def test_an_unknown_name_is_refused():
    done = run("--only", "nonsense")
    assert done.returncode == 1
    assert done.stderr.startswith("no check nonsense; there are noise, ")


def test_a_check_that_raises_fails_and_others_go_on(tmp_path, capfd):
    setting = Setting(tmp_path, "toy")
    setting.__dict__["model"] = tmp_path / "no-model"
    outcome = run_check(by_name("noise"), setting, 0.0)
    assert outcome.status == "FAIL"
    assert "no-model" in outcome.text
    assert "Traceback" in capfd.readouterr().err
    broken = Throughput("rate", "things", lambda _: 1 / 0)
    assert run_throughput(broken, setting, has_time=True).status == "FAIL"


@pytest.mark.parametrize(
    ("measured", "status"), [(0.5, "ok"), (0.6, "FAIL"), (float("nan"), "FAIL")]
)
def test_a_measurement_is_held_against_its_bound(measured, status, tmp_path):
    check = replace(by_name("noise"), measure=lambda _: measured)
    assert run_check(check, Setting(tmp_path, "toy"), 0.5).status == status


def test_the_scaler_on_a_pretended_gpu(tmp_path):
    setting = Setting(tmp_path, "toy")
    assert setting.pairs.exists()  # made on the CPU
    with pretended_gpu():
        assert training.scaled_training(setting) < by_name("scaler").bound
