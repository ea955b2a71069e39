"""Fixtures that several test files share, and the order of the files."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.warm import warm

EXPO = Path(sys.executable).parent / "expo"
# Begun first, so that no worker is left with one at the end.
LONGEST = (
    "tests/slurm/test_submit.py",
    "tests/recipes/test_systems.py",
    "tests/stages/test_train_processes.py",
    "tests/stages/test_train.py",
    "tests/faults/test_environment.py",
    "tests/faults/test_kills.py",
    "tests/test_warm.py",
    "tests/models/test_families.py",
    "tests/recipes/test_quickstart.py",
    "tests/test_readme.py",
)
# Under nohup, or in the background, these are ignored, and so they would be by what tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# A machine that is busy with other things is slow at any time.
settings.register_profile(
    "any machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.location[0], len(places)))


@pytest.fixture(scope="session", autouse=True)
def warm_start():
    """Commands that tests start need not import everything anew, nor do those of recipes, which put
    their environment's programs first."""
    programs = str(EXPO.parent)
    os.environ["VIRTUAL_ENV"] = sys.prefix
    if not os.environ["PATH"].startswith(f"{programs}:"):
        os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
    with warm():
        yield


@pytest.fixture(scope="session")
def expo():
    """Run the installed command; returns the finished process with text output."""

    def run(*arguments: object, **settings) -> subprocess.CompletedProcess:
        return subprocess.run(
            [EXPO, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=600,
            **settings,
        )

    return run


@pytest.fixture
def program(tmp_path):
    """Write an executable program of the given body, Python's by default; returns its path."""

    def write(body: str, interpreter: str = sys.executable) -> Path:
        path = tmp_path / "program"
        path.write_text(f"#!{interpreter}\n{body}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory) -> Path:
    """Random weights in SD 1.5's layout; tests must not write into the folder."""
    from tests.checkpoints.sd import stable_diffusion

    return stable_diffusion(tmp_path_factory.mktemp("tiny") / "sd")


@pytest.fixture(scope="session")
def tiny_sd_other(tmp_path_factory) -> Path:
    """The same layout, other weights."""
    from tests.checkpoints.sd import stable_diffusion

    return stable_diffusion(tmp_path_factory.mktemp("tiny") / "sd-other", seed=1)


@pytest.fixture(scope="session")
def tiny_sd_v(tmp_path_factory) -> Path:
    """The same layout with v-prediction."""
    from tests.checkpoints.sd import stable_diffusion

    return stable_diffusion(tmp_path_factory.mktemp("tiny") / "sd-v", "v_prediction")


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory, tiny_sd) -> Path:
    """Random weights in PickScore's layout."""
    from tests.tiny_rewards import clip_model

    return clip_model(tmp_path_factory.mktemp("tiny") / "clip", tiny_sd / "tokenizer")


@pytest.fixture(scope="session")
def tiny_open_clip(tmp_path_factory) -> Path:
    """Random weights in the layout of an open_clip folder."""
    from tests.tiny_rewards import open_clip_model

    return open_clip_model(tmp_path_factory.mktemp("tiny") / "open-clip")


@pytest.fixture(scope="session")
def branched(tmp_path_factory, tiny_sd) -> Path:
    """A rollout with step candidates, see `tests.branched`; tests must not write into the folder."""
    from tests.branched import roll_out_branched

    return roll_out_branched(tmp_path_factory.mktemp("branched") / "rollout", tiny_sd)


@pytest.fixture
def no_reference(monkeypatch):
    """From the call on, training that needs a reference model fails."""
    from expo_cli.stages.train import trainer

    def forbid() -> None:
        def load_reference(*arguments):
            raise AssertionError("the reference was loaded")

        monkeypatch.setattr(trainer, "load_reference", load_reference)

    return forbid
