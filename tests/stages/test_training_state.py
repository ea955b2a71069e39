"""Saved states: their contents, which are kept, and from which one a run resumes."""

import json

import pytest
import torch
from safetensors import safe_open

from expo_cli.config import RunOptions
from expo_cli.contracts.states import check_state, saved_steps, state_folder
from expo_cli.errors import ExpoError
from expo_cli.stages.common.progress import Notes
from expo_cli.stages.train.state import (
    State,
    load_state,
    moments,
    newest_whole_state,
    save_state,
)
from expo_cli.stages.train.weights import MasterWeights

NOTES = Notes(RunOptions())
SCALER = torch.amp.GradScaler("cpu", enabled=False)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


def trained(network, steps: int) -> tuple[MasterWeights, torch.optim.AdamW]:
    masters = MasterWeights(network.named_parameters())
    optimizer = torch.optim.AdamW(masters.masters)
    for _ in range(steps):
        for master in masters.masters:
            master.grad.add_(1)
        optimizer.step()
    return masters, optimizer


def save(out, network, step: int, keep: int = 2) -> None:
    state = State(step, {}, [{"step": step}], [{"loss": 1.5}])
    masters, optimizer = trained(network, 1)
    save_state(out, state, masters.state(), moments(masters, optimizer), keep)


def test_a_state_comes_back_as_it_was(network, tmp_path):
    """Also the optimiser's own count of steps: fp16's loss scale makes it skip some."""
    masters, optimizer = trained(network, steps=3)
    state = State(5, {}, [{"step": 4, "loss": 0.5}], [{"loss": 1.5}])
    save_state(tmp_path, state, masters.state(), moments(masters, optimizer), keep=2)
    others, other_optimizer = trained(network, steps=0)
    folder = state_folder(tmp_path, 5)
    assert load_state(folder, others, other_optimizer, SCALER) == state
    for master, other in zip(masters.masters, others.masters, strict=True):
        assert master.equal(other)
        ours, theirs = optimizer.state[master], other_optimizer.state[other]
        assert ours.keys() == theirs.keys()
        assert all(ours[name].equal(theirs[name]) for name in ours)
    assert other_optimizer.state[others.masters[0]]["step"] == 3


def test_a_state_is_safetensors_and_json(network, tmp_path):
    save(tmp_path, network, 5)
    paths = sorted(state_folder(tmp_path, 5).iterdir())
    assert [path.name for path in paths] == [
        "optimizer.safetensors",
        "sha256.json",
        "state.json",
        "weights.safetensors",
    ]
    for path in paths:
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            with safe_open(path, framework="pt") as file:
                assert file.keys()


def test_the_newest_states_are_kept_and_broken_later_ones_are_not_counted(network, tmp_path):
    for step in (1, 2, 3, 9):
        save(tmp_path, network, step, keep=3)
    (state_folder(tmp_path, 9) / "state.json").unlink()
    assert newest_whole_state(tmp_path, NOTES) == 3
    assert saved_steps(tmp_path) == [2, 3, 9]
    save(tmp_path, network, 4, keep=1)
    assert saved_steps(tmp_path) == [4]
    assert not check_state(state_folder(tmp_path, 4))


def test_falling_back_is_told_in_one_line(network, tmp_path, capfd):
    for step in (1, 2, 3):
        save(tmp_path, network, step, keep=3)
    assert newest_whole_state(tmp_path, NOTES) == 3
    assert capfd.readouterr().err == ""
    (state_folder(tmp_path, 3) / "state.json").write_text("{")
    (state_folder(tmp_path, 2) / "sha256.json").write_text("{")
    assert newest_whole_state(tmp_path, NOTES) == 1
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    assert "step-00000003/state.json: truncated or damaged" in line
    assert "step-00000002/sha256.json: Input data was truncated; continuing after step 1\n" in line


def test_no_state_is_no_fault_but_no_whole_one_is(network, tmp_path):
    assert newest_whole_state(tmp_path, NOTES) == 0
    save(tmp_path, network, 1)
    (state_folder(tmp_path, 1) / "weights.safetensors").unlink()
    with pytest.raises(ExpoError, match="weights.safetensors: cannot be read.* restore one from"):
        newest_whole_state(tmp_path, NOTES)
