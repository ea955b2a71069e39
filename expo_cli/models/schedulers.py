"""Samplers by name, with a checkpoint's own noise schedule."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

from expo_cli.errors import UsageError
from expo_cli.registry import nearest

if TYPE_CHECKING:  # names are checked without importing torch and diffusers
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from torch import Tensor


@dataclass(frozen=True)
class Sampler:
    module: str
    class_name: str
    settings: dict[str, str | bool] = field(default_factory=dict)


SAMPLERS = {
    "ddpm": Sampler(
        "scheduling_ddpm", "DDPMScheduler", {"variance_type": "fixed_small", "clip_sample": False}
    ),
    "ddim": Sampler("scheduling_ddim", "DDIMScheduler", {"clip_sample": False}),
    "dpm-solver++": Sampler(
        "scheduling_dpmsolver_multistep",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++"},
    ),
    "sde-dpm-solver++": Sampler(
        "scheduling_dpmsolver_multistep",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++"},
    ),
    "euler": Sampler("scheduling_euler_discrete", "EulerDiscreteScheduler"),
    "euler-ancestral": Sampler(
        "scheduling_euler_ancestral_discrete", "EulerAncestralDiscreteScheduler"
    ),
}


def sampler(name: str) -> Sampler:
    """Raises UsageError, with the nearest name, for an unknown one."""
    if name not in SAMPLERS:
        raise UsageError(f"no scheduler is called {name!r}; {nearest(name, SAMPLERS)}")
    return SAMPLERS[name]


def make_scheduler(name: str, config: dict) -> SchedulerMixin:
    """A diffusers scheduler over the noise schedule in `config`.

    Raises UsageError as `sampler`, and for a schedule that needs a library which is not installed.
    """
    chosen = sampler(name)
    module = import_module(f"diffusers.schedulers.{chosen.module}")
    try:
        return getattr(module, chosen.class_name).from_config(config, **chosen.settings)
    except ImportError as error:  # beta sigmas need scipy
        raise UsageError(f"--scheduler {name}: {error}") from error


def previous_timesteps(scheduler: DDPMScheduler | DDIMScheduler) -> Tensor:
    """The timestep to which each step leads, [steps]; below 0: a finished image.

    DDIM has a fixed stride, which leads to the next visited timestep only if spacing is even.
    """
    # Imported here, as in make_scheduler: the caller's scheduler has imported it already.
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    timesteps = scheduler.timesteps.long()
    if isinstance(scheduler, DDIMScheduler):
        return timesteps - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    return timesteps.roll(-1).index_fill(0, timesteps.new_tensor([len(timesteps) - 1]), -1)


def alphas_at(scheduler: DDPMScheduler | DDIMScheduler, timesteps: Tensor) -> Tensor:
    """abar at timesteps [steps]; below 0 that of a finished image, which may differ slightly from 1."""
    finished = getattr(scheduler, "final_alpha_cumprod", scheduler.alphas_cumprod.new_tensor(1.0))
    return scheduler.alphas_cumprod[timesteps.clamp(min=0)].where(timesteps >= 0, finished)
