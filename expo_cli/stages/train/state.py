"""Saves and loads the states that a stopped training resumes from: fp32 weights and optimiser."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from expo_cli.contracts.files import atomic, atomic_folder
from expo_cli.contracts.kinds import Checkpoint
from expo_cli.contracts.states import check_state, saved_steps, seal_state, state_folder
from expo_cli.contracts.tensors import read_tensors, write_tensors
from expo_cli.errors import ExpoError
from expo_cli.stages.common.progress import Notes
from expo_cli.stages.train.weights import MasterWeights

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class State:
    """The scalars: finished steps, fp16's loss scale, the lines of `metrics.jsonl`, the measurements
    since the last of them, and the last step's line if it is off the grid of logged steps."""

    step: int
    scaler: dict[str, float | int]
    lines: list[dict[str, Any]]
    measured: list[dict[str, float]]
    between: dict[str, Any] | None = None


def moments(masters: MasterWeights, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """The optimiser's tensors of each master, unsharded, by name; empty before its first step.

    Called by all processes that train, as `MasterWeights.state` is.
    """
    states = [optimizer.state[master] for master in masters.masters if master in optimizer.state]
    if not states:
        return {}
    tensors = {f"step.{name}": s["step"] for name, s in zip(masters.names, states, strict=True)}
    for moment in MOMENTS:
        whole = masters.whole([state[moment] for state in states])
        tensors |= {f"{moment}.{name}": tensor for name, tensor in whole.items()}
    return tensors


def save_state(
    out: Path,
    state: State,
    weights: dict[str, Tensor],
    optimizer_state: dict[str, Tensor],
    keep: int,
    write_adapter: Callable[[Path], None] | None = None,
) -> None:
    """Save a state atomically, then delete all but the `keep` newest.

    `write_adapter` adds the files of a LoRA checkpoint, so that the state can be used as one.
    States of later steps are deleted too: the run has resumed before them because they are broken.
    """
    with atomic_folder(state_folder(out, state.step)) as folder:
        write_tensors(folder / "weights.safetensors", weights)
        write_tensors(folder / "optimizer.safetensors", optimizer_state)
        with atomic(folder / "state.json") as file:
            file.write(msgspec.json.encode(state))
        seal_state(folder)
        if write_adapter is not None:
            write_adapter(folder)
    kept = [step for step in saved_steps(out) if step <= state.step][-keep:]
    Checkpoint(out).keep_states(kept)


def newest_whole_state(out: Path, notes: Notes) -> int:
    """The step of the newest complete state, 0 if there are none; warns about broken ones.

    Raises ExpoError when all states are broken.
    """
    faults: list[str] = []
    for step in reversed(saved_steps(out)):
        try:
            check_state(state_folder(out, step))
        except ExpoError as error:
            faults.append(str(error))
            continue
        if faults:
            notes.say(f"train: WARNING: {'; '.join(faults)}; continuing after step {step}")
        return step
    if faults:
        raise ExpoError(
            f"{'; '.join(faults)}; no complete state is left to continue from: restore one from a copy, "
            "or --overwrite to start again"
        )
    return 0


def load_state(
    folder: Path,
    masters: MasterWeights,
    optimizer: torch.optim.AdamW,
    scaler: torch.amp.GradScaler,
) -> State:
    """Load the complete state in `folder`."""
    state = msgspec.json.decode((folder / "state.json").read_bytes(), type=State)
    masters.load_state(read_tensors(folder / "weights.safetensors"))
    saved = read_tensors(folder / "optimizer.safetensors")
    for name, master in zip(masters.names, masters.masters, strict=True) if saved else ():
        # Not `state.step`: with fp16's loss scale the optimiser may skip steps.
        optimizer.state[master] = {"step": saved[f"step.{name}"]} | {
            moment: masters.slices.own(saved[f"{moment}.{name}"]).to(master.device, copy=True)
            for moment in MOMENTS
        }
    if state.scaler:
        scaler.load_state_dict(state.scaler)
    return state
