"""What the training scripts share: low-precision weights, a schedule in CPU time, resumable state."""

import copy
import logging
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

CHECKPOINT_SECONDS = 120


def as_tensor(images: np.ndarray) -> Tensor:
    """uint8 images [count, height, width, 3] to uint8 [count, 3, height, width]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


class Run:
    """Trains one bfloat16 module with a float32 master copy, an average of it, and a time budget.

    bfloat16 weights with a float32 master are faster on CPU than autocast, which casts every
    weight in every step. The learning rate follows the share of the CPU time spent, so a run learns
    as much beside other work as alone; killed and started again it goes on.
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
        self.master = copy.deepcopy(module).float()
        self.average = copy.deepcopy(self.master).requires_grad_(False).eval()
        self.module = module.to(torch.bfloat16).train()
        for part in self.module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.float()  # running statistics would lose their small updates
        self.pairs = list(zip(self.module.parameters(), self.master.parameters(), strict=True))
        self.optimizer = torch.optim.AdamW(
            self.master.parameters(),
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
        for low, full in self.pairs:
            full.grad = None if low.grad is None else low.grad.float()
            low.grad = None
        nn.utils.clip_grad_norm_(self.master.parameters(), 1.0)
        self.optimizer.param_groups[0]["lr"] = self.scheduled_rate()
        self.optimizer.step()
        with torch.no_grad():
            for low, full in self.pairs:
                low.copy_(full)
            self._update_average()
        self._account(loss.item())

    def _update_average(self) -> None:
        # An average this young would still hold the first random weights.
        decay = min(self.ema_decay, (1 + self.num_steps) / (10 + self.num_steps))
        averages = list(self.average.parameters())
        torch._foreach_lerp_(averages, list(self.master.parameters()), 1 - decay)
        for kept, current in zip(self.average.buffers(), self.module.buffers(), strict=True):
            kept.copy_(current)

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
        partial = self.checkpoint.with_name(self.checkpoint.name + ".partial")
        state = {
            "master": self.master.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "num_steps": self.num_steps,
            "seconds_spent": self.seconds_spent,
            "loss": self.loss,
        }
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)
        logging.info(
            "%s: step %d, %.1f min, loss %.4f",
            self.checkpoint.stem,
            self.num_steps,
            self.seconds_spent / 60,
            self.loss,
        )

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.master.load_state_dict(state["master"])
        self.average.load_state_dict(state["average"])
        self.module.load_state_dict(state["master"])
        for current, kept in zip(self.module.buffers(), self.average.buffers(), strict=True):
            current.copy_(kept)
        self.optimizer.load_state_dict(state["optimizer"])
        self.num_steps, self.loss = state["num_steps"], state["loss"]
        self.seconds_spent = state["seconds_spent"]
