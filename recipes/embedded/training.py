"""What the training scripts share: low-precision weights, a schedule in CPU time, resumable state."""

import copy
import logging
import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from expo_cli.contracts.files import atomic
from expo_cli.stages.common.device import resolve_dtype
from expo_cli.stages.train.weights import MasterWeights

CHECKPOINT_SECONDS = 120


class Run:
    """Trains a module with float32 master weights, their moving average and a time budget.

    The module is in bfloat16 where the CPU is fast at it, which is faster than autocast.

    The learning rate follows the share of the CPU time spent, so a run learns as much beside other
    work as alone. A run that was killed continues from its checkpoint.
    """

    def __init__(
        self,
        module: nn.Module,
        checkpoint: Path,
        *,
        minutes: float,
        learning_rate: float,
        weight_decay: float = 0.01,
        ema_decay: float = 0.999,
    ) -> None:
        self.checkpoint, self.seconds, self.learning_rate = checkpoint, minutes * 60, learning_rate
        self.ema_decay = ema_decay
        self.average = copy.deepcopy(module).float().requires_grad_(False).eval()
        self.module = module.to(resolve_dtype("auto", torch.device("cpu"))).train()
        for part in self.module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.float()  # running statistics would lose their small updates
        self.weights = MasterWeights(self.module.named_parameters())
        self.weights.load_state(dict(self.average.named_parameters()))
        self.optimizer = torch.optim.AdamW(
            self.weights.masters,
            lr=0.0,
            betas=(0.9, 0.99),
            weight_decay=weight_decay,
            fused=True,
        )
        self.num_steps, self.seconds_spent, self.loss = 0, 0.0, math.nan
        if checkpoint.exists():
            self._resume()
        self.start()

    def start(self) -> None:
        """Start the clock, again if preparations came between."""
        self.last_step = self.last_save = time.process_time()

    @property
    def progress(self) -> float:
        return min(self.seconds_spent / self.seconds, 1.0)

    @property
    def finished(self) -> bool:
        return self.seconds_spent >= self.seconds

    def scheduled_rate(self) -> float:
        """Linear warm-up over 200 steps, then half a cosine to zero over the CPU time."""
        warmup = min((self.num_steps + 1) / 200, 1.0)
        return self.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * self.progress))

    def step(self, loss: Tensor) -> None:
        loss.backward()
        self.weights.collect_gradients()
        nn.utils.clip_grad_norm_(self.weights.masters, 1.0)
        self.optimizer.param_groups[0]["lr"] = self.scheduled_rate()
        self.optimizer.step()
        self.weights.clear_gradients()
        self.weights.publish()
        self._update_average()
        self._account(loss.item())

    @torch.no_grad()
    def _update_average(self) -> None:
        # An average this young would still hold the first random weights.
        decay = min(self.ema_decay, (1 + self.num_steps) / (10 + self.num_steps))
        torch._foreach_lerp_(list(self.average.parameters()), self.weights.masters, 1 - decay)
        copy_buffers(self.module, self.average)

    def _account(self, loss: float) -> None:
        now = time.process_time()
        self.seconds_spent += now - self.last_step
        self.last_step = now
        self.num_steps += 1
        self.loss = loss if math.isnan(self.loss) else 0.99 * self.loss + 0.01 * loss
        if now - self.last_save > CHECKPOINT_SECONDS or self.finished:
            self.save()
            self.last_save = now

    def save(self) -> None:
        state = {
            "weights": self.weights.state(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "num_steps": self.num_steps,
            "seconds_spent": self.seconds_spent,
            "loss": self.loss,
        }
        with atomic(self.checkpoint) as file:
            torch.save(state, file)
        logging.info(
            "%s: step %d, %.1f min, loss %.4f",
            self.checkpoint.stem,
            self.num_steps,
            self.seconds_spent / 60,
            self.loss,
        )

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.weights.load_state(state["weights"])
        self.average.load_state_dict(state["average"])
        copy_buffers(self.average, self.module)
        self.optimizer.load_state_dict(state["optimizer"])
        self.num_steps, self.loss = state["num_steps"], state["loss"]
        self.seconds_spent = state["seconds_spent"]


def copy_buffers(source: nn.Module, target: nn.Module) -> None:
    for theirs, own in zip(source.buffers(), target.buffers(), strict=True):
        own.copy_(theirs)
