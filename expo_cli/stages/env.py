"""`expo env`: describes the machine and how expo uses it, for bug reports."""

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch
from huggingface_hub import constants

from expo_cli.cgroups import cpu_quota, memory_limit
from expo_cli.config import EnvConfig
from expo_cli.contracts.provenance import package_versions
from expo_cli.stages.common.device import DTYPES, default_device, precisions, resolve_dtype
from expo_cli.threads import NUM_THREADS, WAITING_NAMES, affinity

NOT_SET = "not set"


@dataclass(frozen=True)
class Device:
    """`memory` is in bytes; for the CPU it is that of the machine."""

    type: str
    name: str
    memory: int

    def __str__(self) -> str:
        return f"{self.type}, {self.name}, {in_gib(self.memory)}"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Memory is in bytes. The cgroup's quota and limit are None if not set."""

    versions: dict[str, str]
    system: str
    cuda: str | None
    """The CUDA version that torch was built for."""
    devices: list[Device]
    precisions: list[str]
    """Precisions that the first device supports."""
    default_precision: str
    threads: int
    interop_threads: int
    variables: dict[str, str | None]
    """The environment variables that control threads."""
    cores: int
    cpu_quota: float | None
    memory: int
    memory_available: int
    memory_limit: int | None
    hub_offline: bool
    hub_cache: str

    def text(self, config: EnvConfig) -> str:
        if config.json:
            return json.dumps(asdict(self))
        return "\n".join(f"- {name}: {value}" for name, value in self.rows())

    def rows(self) -> list[tuple[str, object]]:
        quota = "no quota" if self.cpu_quota is None else f"quota {self.cpu_quota:g}"
        limit = "no limit" if self.memory_limit is None else f"limit {in_gib(self.memory_limit)}"
        hub = "offline" if self.hub_offline else "online"
        return [
            *self.versions.items(),
            ("system", self.system),
            ("CUDA of torch", self.cuda or "none"),
            *((f"device {number}", device) for number, device in enumerate(self.devices)),
            ("precisions", f"{', '.join(self.precisions)}; auto is {self.default_precision}"),
            ("threads", f"{self.threads}, between operations {self.interop_threads}"),
            *((name, value or NOT_SET) for name, value in self.variables.items()),
            ("cores", f"{self.cores}, {quota}"),
            (
                "memory",
                f"{in_gib(self.memory)}, available {in_gib(self.memory_available)}, {limit}",
            ),
            ("hub", f"{hub}, cache {self.hub_cache}"),
        ]


def read_environment() -> Environment:
    device = default_device()
    memory, limit = psutil.virtual_memory(), memory_limit()
    return Environment(
        versions=package_versions(),
        system=platform.platform(),
        cuda=torch.version.cuda,
        devices=list(devices_of(device.type, memory.total)),
        precisions=precisions(device),
        default_precision=precision_of(resolve_dtype("auto", device)),
        threads=torch.get_num_threads(),
        interop_threads=torch.get_num_interop_threads(),
        variables={name: os.environ.get(name) for name in (NUM_THREADS, *WAITING_NAMES)},
        cores=len(affinity()),
        cpu_quota=cpu_quota(),
        memory=memory.total,
        memory_available=memory.available,
        memory_limit=limit if limit is not None and limit < memory.total else None,
        hub_offline=constants.HF_HUB_OFFLINE,
        hub_cache=constants.HF_HUB_CACHE,
    )


def precision_of(dtype: torch.dtype) -> str:
    return next(name for name, each in DTYPES.items() if each == dtype)


def devices_of(kind: str, memory: int) -> Iterator[Device]:
    """All devices of the type that commands use; `memory` is the machine's."""
    if kind == "cuda":
        for number in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(number)
            yield Device(kind, device.name, device.total_memory)
    else:
        yield Device(kind, processor(), memory)


def processor() -> str:
    """The CPU's name, as far as the system states it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def in_gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
