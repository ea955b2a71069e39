"""What a stopped training run goes on from: fp32 weights and optimiser moments, in safetensors."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from expo_cli.contracts.files import atomic, atomic_folder
from expo_cli.contracts.tensors import read_tensors, write_tensors
from expo_cli.stages.master_weights import MasterWeights

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class State:
    """The scalars: finished steps, fp16's loss scale, and what was measured since the last line."""

    step: int
    scaler: dict[str, float | int]
    measured: list[dict[str, float]]


def states_folder(out: Path) -> Path:
    return out / "state"


def saved_steps(out: Path) -> list[int]:
    """Steps of the states in a checkpoint folder, rising."""
    names = (path.name for path in states_folder(out).glob("step-*"))
    return sorted(int(m[1]) for name in names if (m := re.fullmatch(r"step-(\d+)", name)))


def save_state(
    out: Path,
    state: State,
    masters: MasterWeights,
    optimizer: torch.optim.AdamW,
    keep: int,
) -> None:
    """Save a state whole, then delete all but the `keep` newest."""
    # Before the first step the optimiser holds nothing.
    moments = {
        f"{moment}.{name}": optimizer.state[master][moment]
        for name, master in masters.state().items()
        if master in optimizer.state
        for moment in MOMENTS
    }
    with atomic_folder(states_folder(out) / f"step-{state.step:08d}") as folder:
        write_tensors(folder / "weights.safetensors", masters.state())
        write_tensors(folder / "optimizer.safetensors", moments)
        with atomic(folder / "state.json") as file:
            file.write(msgspec.json.encode(state))
    for old in saved_steps(out)[:-keep]:
        shutil.rmtree(states_folder(out) / f"step-{old:08d}")


def load_state(
    out: Path, masters: MasterWeights, optimizer: torch.optim.AdamW, scaler: torch.amp.GradScaler
) -> State:
    """Load the newest state, if there is one."""
    steps = saved_steps(out)
    if not steps:
        return State(0, {}, [])
    folder = states_folder(out) / f"step-{steps[-1]:08d}"
    state = msgspec.json.decode((folder / "state.json").read_bytes(), type=State)
    masters.load_state(read_tensors(folder / "weights.safetensors"))
    moments = read_tensors(folder / "optimizer.safetensors")
    for name, master in masters.state().items() if moments else ():
        optimizer.state[master] = {"step": torch.tensor(float(state.step))} | {
            moment: _as(moments[f"{moment}.{name}"], master) for moment in MOMENTS
        }
    if state.scaler:
        scaler.load_state_dict(state.scaler)
    return state


def _as(tensor: Tensor, like: Tensor) -> Tensor:
    return tensor.to(like.device, like.dtype)
