"""Groups: all usable samples of each prompt with their scores, from one or more rollouts.

Rollouts of the same prompts in parts of the same size are read together, part by part, so that
memory holds one part per rollout. Otherwise all samples are held, as `Candidate`s.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from expo_cli.contracts.kinds import ScoreParts
from expo_cli.contracts.outputs import Input
from expo_cli.contracts.provenance import read_run
from expo_cli.contracts.records import Sample
from expo_cli.contracts.rollouts import (
    Rollout,
    open_rollout,
    reward_run_name,
    score_path,
    scores_by_sample,
)
from expo_cli.contracts.shards import part_name, part_path
from expo_cli.core.pairing import Candidate, Group
from expo_cli.errors import ContractError, UsageError


@dataclass(frozen=True)
class PairSource:
    """A rollout to make pairs from, its scores, and its path relative to the folder of the pairs."""

    rollout: Rollout
    scores: Path
    relative: str

    def read(self) -> list[Input]:
        """The folders that are read."""
        return [Input("a rollout", self.rollout.folder), Input("its scores", self.scores)]

    def reference(self, part: int) -> str:
        """The `SampleRef.part` of samples in this part."""
        return Path(self.relative, f"{part_name(part)}.safetensors").as_posix()

    def require_complete(self, labels: Sequence[str]) -> None:
        """Raises ExpoError that names missing records, latents or scores, and the command that makes them."""
        self.rollout.require()
        for label in labels:
            command = f"score {self.rollout.folder} --reward {label}"
            ScoreParts(self.scores, label, self.rollout.num_parts).require(command=command)


def open_sources(
    folders: Sequence[Path], scores: Sequence[str], pairs_folder: Path
) -> list[PairSource]:
    """Open rollouts and their score folders (FOLDER/scores by default) for pairs in a folder.

    Raises UsageError when there is not one score folder per rollout, a rollout is given twice, or
    one is not below `pairs_folder`; other errors as `open_rollout`.
    """
    if scores and len(scores) != len(folders):
        raise UsageError(
            f"--scores is given {len(scores)} times for {len(folders)} rollouts; "
            "give one per rollout, in the same order, or none"
        )
    resolved = [folder.resolve() for folder in folders]
    for number, folder in enumerate(folders):
        if resolved[number] in resolved[:number]:
            raise UsageError(f"{folder} is given twice")
        if not resolved[number].is_relative_to(pairs_folder.resolve()):
            raise UsageError(
                f"{folder} is not below {pairs_folder.resolve()}: paths in pairs.jsonl may "
                "not leave its folder, so it must be written to a folder above all rollouts"
            )
    return [
        PairSource(
            rollout=open_rollout(folder),
            scores=Path(scores[number]) if scores else folder / "scores",
            relative=resolved[number].relative_to(pairs_folder.resolve()).as_posix(),
        )
        for number, folder in enumerate(folders)
    ]


def check_same_judges(sources: Sequence[PairSource], labels: Sequence[str]) -> None:
    """Raises ContractError when a label is used for different rewards in two rollouts' scores."""
    first, *others = sources
    for label in labels:
        expected = read_run(first.scores, reward_run_name(label))
        for source in others:
            found = read_run(source.scores, reward_run_name(label))
            if (found.plan, found.inputs) != (expected.plan, expected.inputs):
                raise ContractError(
                    f"{source.scores / reward_run_name(label)}: {label} is not the same "
                    f"reward as in {first.scores}; score both rollouts alike"
                )


def read_groups(
    sources: Sequence[PairSource], labels: Sequence[str], part_done: Callable[[], None]
) -> Iterator[Group]:
    """Yields every prompt's group, in the rollouts' prompt order. Calls `part_done` for each part.

    Raises ContractError, with file and line, for inconsistent records.
    """
    earlier: set[str] = set()
    for parts in parts_read_together(sources):
        groups: dict[str, Group] = {}
        for source, part in parts:
            add_part(groups, source, part, labels)
            part_done()
        if again := earlier & groups.keys():
            raise ContractError(
                f"{sources[0].rollout.folder}: prompt_id {min(again)} is in several parts"
            )
        earlier |= groups.keys()
        yield from groups.values()


def parts_read_together(
    sources: Sequence[PairSource],
) -> list[list[tuple[PairSource, int]]]:
    """Sets of parts that share no prompts."""
    first, *others = [layout(source.rollout) for source in sources]
    if not others or (None not in first and all(other == first for other in others)):
        num_parts = sources[0].rollout.num_parts
        return [[(source, part) for source in sources] for part in range(num_parts)]
    return [[(source, part) for source in sources for part in range(source.rollout.num_parts)]]


def layout(rollout: Rollout) -> tuple[object, ...]:
    """A key that is equal for rollouts with the same prompts in the same parts.

    The prompts' sha256 is None if they came from standard input.
    """
    plan = rollout.run.plan
    return (
        rollout.run.inputs.get("prompts"),
        plan.get("part_size"),
        plan.get("num_prompts"),
        rollout.num_parts,
    )


def add_part(
    groups: dict[str, Group], source: PairSource, part: int, labels: Sequence[str]
) -> None:
    """Add the samples of one part to the groups of their prompts."""
    path = part_path(source.rollout.folder, part)
    reference = source.reference(part)
    lines = source.rollout.numbered_samples(part)
    samples = [sample for _, sample in lines]
    columns = [(label, scores_by_sample(source.scores, part, label, samples)) for label in labels]
    for number, sample in lines:
        group = groups.setdefault(
            sample.prompt_id, Group(sample.prompt_id, sample.prompt, sample.iteration)
        )
        problem = contradiction(sample, group)
        if problem:
            raise ContractError(f"{path}:{number}: {problem}")
        if sample.checks.flagged:
            group.num_flagged += 1
            continue
        for label, scores in columns:
            if sample.sample_id not in scores:
                raise ContractError(
                    f"{score_path(source.scores, part, label)}: no score of {sample.sample_id} "
                    f"({path}:{number}); these are scores of another rollout"
                )
        group.candidates[sample.sample_id] = Candidate(
            sample_id=sample.sample_id,
            agent=sample.agent,
            part=reference,
            scores=tuple(scores[sample.sample_id] for _, scores in columns),
            digest=sample.digest,
        )


def contradiction(sample: Sample, group: Group) -> str | None:
    """The problem with adding the sample to its prompt's group, None if there is none."""
    if sample.prompt != group.prompt:
        return f"prompt_id {sample.prompt_id} had another prompt before: {group.prompt!r}"
    if sample.iteration != group.iteration:
        return (
            f"iteration {sample.iteration}, but {group.iteration} in a sample of the same prompt "
            "before; make the pairs of each iteration separately"
        )
    if sample.sample_id in group.candidates:
        other = group.candidates[sample.sample_id].part
        return f"sample_id {sample.sample_id} is in {other} already; give each rollout once"
    return None
