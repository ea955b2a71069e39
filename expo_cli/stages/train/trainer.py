"""Training in one process: optimiser steps, saved states and metrics."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from expo_cli.config import TrainConfig
from expo_cli.contracts.sources import base_source, lasting
from expo_cli.contracts.states import state_folder, states_folder
from expo_cli.core.learning import Learning
from expo_cli.core.learning_rate import learning_rate_factor, peak_learning_rate
from expo_cli.core.objectives import Objective
from expo_cli.errors import ExpoError, Interrupted, UsageError
from expo_cli.models.lora import save_adapter
from expo_cli.models.protocol import TextEncoder
from expo_cli.stages.common.device import resolve_dtype
from expo_cli.stages.common.inputs import note_cut
from expo_cli.stages.common.progress import Notes
from expo_cli.stages.common.stopping import stop_on_signal
from expo_cli.stages.train.metrics import SHARE, MetricsLog, floats, means
from expo_cli.stages.train.origin import Origin, lora_metadata
from expo_cli.stages.train.policies import (
    load_policy,
    load_reference,
    starting_weights,
    use_fast_attention,
)
from expo_cli.stages.train.processes import gather, together
from expo_cli.stages.train.records import EVIDENCE, TrainingRecord
from expo_cli.stages.train.reference import Reference, ReferenceCache, cache_run
from expo_cli.stages.train.settings import global_batch_size
from expo_cli.stages.train.state import (
    State,
    load_state,
    moments,
    newest_whole_state,
    save_state,
)
from expo_cli.stages.train.weights import MasterWeights, Slices, TermGradients

# The step from which a training can be seen to learn or not.
EARLY = 30


def weight_slices(config: TrainConfig, accelerator: Accelerator, dtype: torch.dtype) -> Slices:
    """How fp32 weights, gradients and optimiser states are sharded over processes.

    Raises UsageError for fp16, whose loss scale would differ between processes.
    """
    if not config.shard_optimizer:
        return Slices()
    if dtype is torch.float16:
        raise UsageError("--shard-optimizer needs --mixed-precision bf16 or fp32, not fp16")
    return Slices(accelerator.process_index, accelerator.num_processes)


class Trainer:
    """The policy, its reference, the data and the optimiser of one process."""

    def __init__(
        self,
        records: Sequence[TrainingRecord],
        objective: Objective,
        out: Path,
        config: TrainConfig,
        accelerator: Accelerator,
        notes: Notes,
        origin: Origin,
        text: TextEncoder | None = None,
    ) -> None:
        """`text` replaces the policy's own text encoders."""
        self.objective, self.out, self.config = objective, out, config
        self.accelerator, self.notes, self.origin = accelerator, notes, origin
        dtype = resolve_dtype(config.mixed_precision, accelerator.device)
        self.base = lasting(base_source(config.init_from))
        self.policy, self.adapter = load_policy(config, accelerator.device, dtype)
        if text is not None:
            self.policy.text = text
        # The masters are copied before the network is cast to its working precision.
        self.masters = MasterWeights(
            self.policy.network.named_parameters(), weight_slices(config, accelerator, dtype)
        )
        self.start = starting_weights(self.policy)
        self.policy.set_dtype(dtype)
        if config.gradient_checkpointing:
            self.policy.network.enable_gradient_checkpointing()
        use_fast_attention(self.policy)
        self.kind = objective.learns_from
        self.reference = self.make_reference() if objective.needs_reference else None
        stream = EVIDENCE[self.kind].stream
        self.data = stream(records, objective, self.policy, self.reference, config)
        self.optimizer = torch.optim.AdamW(
            self.masters.masters,
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.adam_weight_decay,
        )
        # Scales the loss in fp16 only; otherwise it does nothing.
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=dtype is torch.float16)
        self.log = MetricsLog(out, writes=accelerator.is_main_process)

    def make_reference(self) -> Reference:
        """The reference, which is loaded when the cache, if any, lacks a value."""
        config, policy = self.config, self.policy
        load = partial(load_reference, config, policy, self.adapter, policy.dtype)
        cache = None
        if config.reference_cache is not None:
            run = cache_run(config, policy, policy.dtype, self.kind)
            cache = ReferenceCache(Path(config.reference_cache), run)
        return Reference(load, policy, cache)

    @property
    def learning_rate(self) -> float:
        config = self.config
        return peak_learning_rate(config.learning_rate, global_batch_size(config), config.scale_lr)

    def run(self) -> None:
        """Take all remaining steps.

        Raises ExpoError when all saved states are broken, the loss is not finite or the policy's
        error diverges, Interrupted when a signal asks to stop; the last good state is kept.
        """
        config = self.config
        first = self.resume()
        self.notes.say(
            f"train: effective learning rate {self.learning_rate:.3g}, batch of "
            f"{global_batch_size(config)} {self.kind} ({self.accelerator.num_processes} processes), "
            f"{self.policy.dtype} on {self.accelerator.device}"
            + (f"; continuing after step {first}" if first else "")
        )
        steps = config.max_train_steps
        with stop_on_signal() as stop, self.notes.bar(steps, "steps", first) as bar:
            for step in range(first, steps):
                self.step(step)
                bar.advance()
                finished = step + 1
                stopping = self.any_process(stop.signal_name is not None)
                if finished % config.checkpointing_steps == 0 or stopping:
                    self.save(finished)
                if stopping:
                    stop.check()
                    raise Interrupted(
                        "another process was stopped; run the same command to continue"
                    )
        if config.keep_state:
            self.save(steps)
        together(self.accelerator, self.write)
        self.warn()

    def write(self) -> None:
        """Write everything of this process other than states and weights."""
        self.log.write()
        self.save_reference()

    def resume(self) -> int:
        """Resume from the newest complete state, the same in all processes; returns its step.

        Raises ExpoError as `newest_whole_state`.
        """
        is_main = self.accelerator.is_main_process
        newest = together(
            self.accelerator, lambda: newest_whole_state(self.out, self.notes) if is_main else 0
        )
        step = gather(self.accelerator, newest)[0]
        if step:
            folder = state_folder(self.out, step)
            state = load_state(folder, self.masters, self.optimizer, self.scaler)
            between = state.between if step == self.config.max_train_steps else None
            self.log.resume(state.lines, state.measured, between)
        elif self.log.path.exists():
            self.notes.say(f"train: {self.out} has no state yet; starting at the first step")
        return step

    def save(self, finished: int) -> None:
        """Save a state. Raises ExpoError, in all processes, when it cannot be written."""
        weights, optimizer_state = self.masters.state(), moments(self.masters, self.optimizer)
        log = self.log

        def write() -> None:
            self.write()
            if self.accelerator.is_main_process:
                save_state(
                    self.out,
                    State(
                        finished, self.scaler.state_dict(), log.lines, log.collected, log.between
                    ),
                    weights,
                    optimizer_state,
                    self.config.checkpoints_total_limit,
                    partial(self.write_adapter, finished, weights) if self.adapter else None,
                )

        together(self.accelerator, write)

    def write_adapter(self, finished: int, weights: dict[str, Tensor], folder: Path) -> None:
        """Write a state's LoRA, which can be used while training continues."""
        metadata = lora_metadata(self.origin, finished)
        save_adapter(self.policy, weights, folder, self.adapter, self.base, metadata)

    def save_reference(self) -> None:
        if self.reference is not None:
            self.reference.save()

    def any_process(self, value: bool) -> bool:
        """Whether `value` is true in any process: they must stop at the same step."""
        if self.accelerator.num_processes == 1:
            return value
        count = torch.tensor(float(value), device=self.accelerator.device)
        return self.accelerator.reduce(count, "sum").item() > 0

    def step(self, step: int) -> None:
        """One optimiser step over the global batch.

        Raises ExpoError in all processes, after saving the previous state, when one of them cannot
        compute its share or training has diverged.
        """
        config = self.config
        on_grid = (step + 1) % config.logging_steps == 0
        logs = on_grid or step + 1 == config.max_train_steps
        try:
            values, norms = self.compute_gradients(step, logs)
        except ExpoError:
            if step:  # before the first step there is nothing to save
                self.save(step)
            raise
        rate = self.learning_rate * learning_rate_factor(
            config.lr_scheduler, step, config.max_train_steps, config.warmup_ratio
        )
        self.update(rate)
        self.log.collect(values)
        if logs:
            self.log.add(
                step + 1,
                norms
                | {
                    "learning_rate": rate,
                    "batch_size": global_batch_size(config),
                    "weight_change": self.weight_change(),
                },
                on_grid,
            )
            together(self.accelerator, self.log.write)
            self.accelerator.log(self.log.last(), step=step + 1)
            if step + 1 < config.max_train_steps and self.log.reaches(EARLY):
                self.say_whether_it_learns()

    def compute_gradients(self, step: int, logs: bool) -> tuple[dict[str, float], dict[str, float]]:
        """Compute the clipped gradients of a step; returns measurements and gradient norms.

        Errors as `step`. A failed process takes part without gradients until all know of it.
        """
        self.masters.clear_gradients()
        term_gradients = TermGradients(self.masters) if logs else None
        measured, fault = [], None
        for start in self.micro_batches(step):
            evidence = None
            try:
                if fault is None:
                    evidence = self.data.batch(start, self.config.train_batch_size)
            except ExpoError as error:
                fault = error
            evidence = self.data.complete(evidence, self.mean_of_processes)
            if evidence is not None:
                measured.append(self.backward(evidence, start, term_gradients))
            self.masters.collect_gradients()
        each = gather(self.accelerator, measured, fault)
        values = means([one for process in each for one in process])
        norms = term_gradients.norms(self.scaler.get_scale()) if term_gradients else {}
        norms["grad_norm"] = self.gather_gradients()
        self.check(step, values, norms["grad_norm"])
        return values, norms

    def mean_of_processes(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes, which call this together."""
        return self.accelerator.reduce(value, "mean")

    def backward(
        self, evidence: Any, start: int, term_gradients: TermGradients | None
    ) -> dict[str, float]:
        """Add the gradients of the micro-batch at `start` to the network's; returns the measurements."""
        config = self.config
        terms = {name: term.mean() for name, term in self.objective.terms(evidence).items()}
        loss = sum(terms.values())
        losses = {"loss": loss} | {f"{name}_loss": term for name, term in terms.items()}
        places = self.data.places_by_file(start, config.train_batch_size)
        by_file = self.data.measure_by_file(evidence, places)
        measured = floats(losses | self.data.measure(evidence) | by_file)
        measured |= {
            f"{SHARE}{file}": len(some) / config.train_batch_size for file, some in places.items()
        }
        share = 1 / config.gradient_accumulation_steps
        if term_gradients:
            term_gradients.add({n: self.scaler.scale(term * share) for n, term in terms.items()})
        self.scaler.scale(loss * share).backward()
        return measured

    def micro_batches(self, step: int) -> Iterator[int]:
        """The starts of this process's micro-batches of a step in the stream of visits."""
        for accumulated in range(self.config.gradient_accumulation_steps):
            number = step * self.config.gradient_accumulation_steps + accumulated
            number = number * self.accelerator.num_processes + self.accelerator.process_index
            yield number * self.config.train_batch_size

    def gather_gradients(self) -> float:
        """Average gradients over processes and clip them; returns the norm before clipping."""
        masters = self.masters.masters
        # Slices are averaged already.
        if self.accelerator.num_processes > 1 and self.masters.slices.count == 1:
            flat = torch.cat([master.grad.flatten() for master in masters])
            flat = self.accelerator.reduce(flat, "mean")
            for master, part in zip(masters, flat.split([m.numel() for m in masters]), strict=True):
                master.grad.copy_(part.view_as(master))
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm([master.grad for master in masters])
        norm = self.masters.total(norm.square()).sqrt() if self.masters.slices.count > 1 else norm
        limit = self.config.max_grad_norm or math.inf
        torch.nn.utils.clip_grads_with_norm_(masters, limit, norm)
        return norm.item()

    def update(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.masters.publish()

    def check(self, step: int, values: dict[str, float], norm: float) -> None:
        """Raise ExpoError when training has diverged."""
        advice = f"the previous state is kept in {states_folder(self.out)}; lower the learning rate"
        finite = math.isfinite(values["loss"]) and (math.isfinite(norm) or self.scaler.is_enabled())
        if not finite:
            raise ExpoError(f"step {step + 1}: loss {values['loss']}, gradient {norm}; {advice}")
        favoured, limit = self.data.favoured, self.config.max_error_ratio
        reference = values.get(f"reference_{favoured}_error", math.inf)
        error = values.get(f"{favoured}_error", 0.0)
        if error > limit * reference:
            raise ExpoError(
                f"step {step + 1}: the policy's {favoured} error, {error:.4g}, is more than "
                f"{limit:g} times the reference's, {reference:.4g}; {advice}"
            )

    def weight_change(self) -> float:
        """||weights - start|| / ||start||."""
        moved = size = torch.zeros((), device=self.accelerator.device)
        for name, master in zip(self.masters.names, self.masters.masters, strict=True):
            start = self.masters.slices.own(self.start[name].to(master.device).float())
            moved = moved + (master.detach() - start).square().sum()
            size = size + start.square().sum()
        return (self.masters.total(moved) / self.masters.total(size)).sqrt().item()

    def warn(self) -> None:
        note_cut(self.notes, "train", self.policy.text)
        if self.reference is not None and self.reference.cache is not None:
            self.notes.say(
                f"train: the reference computed {self.reference.num_computed} values; "
                f"{self.reference.cache.num_found} were in {self.config.reference_cache}"
            )
        if self.log.last():
            self.say_whether_it_learns()

    def say_whether_it_learns(self) -> None:
        line = self.log.last()
        learning = Learning(
            line, self.data.favoured, self.data.other, line["batch_size"] * self.log.last_steps()
        )
        self.notes.say(f"train: step {line['step']}: {learning}")
