"""The score folder of a command line, with the scores by each of its rewards."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from expo_cli.config import ScoreConfig
from expo_cli.contracts.kinds import ScoreFolder, ScoreParts
from expo_cli.contracts.outputs import Input
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.shards import Shard
from expo_cli.rewards.protocol import Reward, whole_identity


@dataclass(frozen=True)
class NamedReward:
    """A reward, its spec on the command line, and its label in files and tables."""

    label: str
    spec: str
    reward: Reward


class Scores:
    """The parts of each reward in the folder `path`; its run.json identifies the scored images."""

    def __init__(
        self,
        path: Path,
        count: int,
        of_images: Run,
        read: Sequence[Input],
        rewards: Sequence[NamedReward],
        config: ScoreConfig,
        overwrite: bool,
    ) -> None:
        self.path, self.of_images, self.read, self.overwrite = path, of_images, read, overwrite
        self.folder = ScoreFolder(path)
        self.parts = {r.label: ScoreParts(path, r.label, count) for r in rewards}
        self.runs = {
            r.label: Run(
                command="score",
                plan={"dtype": config.dtype} | whole_identity(r.reward, r.spec),
                free={"spec": r.spec},
            )
            for r in rewards
        }
        # Scores of other images may only be replaced all together.
        self.anew = overwrite and set(self.folder.labels()) <= set(self.parts)

    def check(self) -> None:
        """Errors as `Output.check`, for the folder and each reward; writes nothing."""
        self.folder.check(self.of_images, self.read, self.anew)
        for label, parts in self.parts.items():
            parts.check(self.runs[label], self.read, self.overwrite)

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Begin or continue the folder and all rewards; see `Output.begun`."""
        with ExitStack() as stack:
            stack.enter_context(self.folder.begun(self.of_images, self.read, self.anew))
            for label, parts in self.parts.items():
                run = self.runs[label]
                stack.enter_context(parts.begun(run, self.read, self.overwrite))
            yield

    def claim(self, label: str) -> None:
        """See `Output.claim`."""
        self.folder.claim(self.of_images)
        self.parts[label].claim(self.runs[label])

    def missing(self) -> dict[str, list[int]]:
        """label -> parts without scores."""
        return {label: parts.missing() for label, parts in self.parts.items()}

    def to_make(self, shard: Shard) -> dict[int, list[str]]:
        """part of the shard -> labels that it lacks."""
        missing = self.missing()
        todo: dict[int, list[str]] = {}
        for label, parts in self.parts.items():
            for part in range(parts.count) if self.overwrite else missing[label]:
                if shard.takes(part):
                    todo.setdefault(part, []).append(label)
        return dict(sorted(todo.items()))

    def finish(self, num_scored: Mapping[str, int], num_samples: int, seconds: float) -> None:
        """Write counts and seconds of the rewards that are complete now."""
        for label, parts in self.parts.items():
            # A worker that was killed after the last part wrote no counts.
            counted = parts.run().counts
            if not parts.missing() and (num_scored[label] or not counted):
                counts = {"samples": num_samples, "parts": parts.count}
                parts.finish(replace(self.runs[label], counts=counts, seconds=seconds))
