"""`expo evaluate`: turns scored rollouts of several policies into figures and a report."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from expo_cli.config import EvaluateConfig, RunOptions
from expo_cli.contracts import jsonl
from expo_cli.contracts.files import alone, atomic, sha256
from expo_cli.contracts.kinds import Evaluation
from expo_cli.contracts.outputs import Input
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.records import check_id
from expo_cli.contracts.results import EvaluatedSample, PolicyResult, Results, RoundResult
from expo_cli.core.alarms import alarms, verdict
from expo_cli.core.choice import choose
from expo_cli.core.evaluation import PolicySamples, compare
from expo_cli.core.hps_benchmark import with_group_std
from expo_cli.core.statistics import estimates
from expo_cli.errors import UsageError
from expo_cli.registry import nearest
from expo_cli.report.contact_sheet import contact_sheet
from expo_cli.report.gallery import Gallery, Prompts, choose_pictures
from expo_cli.report.page import render_page
from expo_cli.report.plots import draw_plots
from expo_cli.report.terminal import (
    choice_lines,
    ledger_table,
    settings_lines,
    style_table,
    summary_table,
)
from expo_cli.stages.common.inputs import note_unchecked
from expo_cli.stages.common.progress import Notes, seconds_since
from expo_cli.stages.evaluate.remarks import provenance, remarks
from expo_cli.stages.evaluate.scored_rollouts import (
    Draw,
    ScoredRollout,
    check_same_draws,
    check_same_rewards,
    open_scored,
    read_samples,
)


@dataclass(frozen=True)
class EvaluateResult:
    """`path` is the report; `results` the contents of results.json, or the plan of a dry run."""

    path: Path
    results: dict[str, Any]


def parse_policies(
    texts: Sequence[str], wanted: str = "FOLDER, for example base=eval/0"
) -> dict[str, Path]:
    """Parse `LABEL=FOLDER` texts. Raises UsageError for any other form and for equal labels."""
    policies: dict[str, Path] = {}
    for text in texts:
        label, equals, folder = text.partition("=")
        if not (equals and folder):
            raise UsageError(f"{text!r} is not LABEL={wanted}")
        try:
            check_id("label", label)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if label in policies:
            raise UsageError(f"the label {label!r} is given twice")
        policies[label] = Path(folder)
    return policies


def evaluate_policies(
    texts: Sequence[str], out: Path, config: EvaluateConfig, options: RunOptions
) -> EvaluateResult:
    """Compare scored rollouts of the same prompts and seeds; write figures and report to `out`."""
    started = time.monotonic()
    notes = Notes(options)
    folders = parse_policies(texts)
    baseline = config.baseline or next(iter(folders))
    if baseline not in folders:
        raise UsageError(f"--baseline: no policy {baseline!r}; {nearest(baseline, folders)}")
    output = Evaluation(out)
    run = Run(
        command="evaluate",
        plan=asdict(config),
        free={"policies": {label: str(folder) for label, folder in folders.items()}},
    )
    rounds = parse_policies(config.pairs, "FILE, for example iteration-2=it1/pairs.jsonl")
    for label in rounds:
        if label not in folders:
            raise UsageError(f"--pairs: no policy {label!r}; {nearest(label, folders)}")
    read = [Input("a policy's rollout", folder) for folder in folders.values()]
    read += [Input("the pairs of a policy", path) for path in rounds.values()]
    output.check(run, read, options.overwrite)
    scored = [open_scored(label, folder) for label, folder in folders.items()]
    note_unchecked(notes, "evaluate", {each.folder: each.rollout.run for each in scored})
    for other in scored[1:]:
        check_same_rewards(scored[0], other)
    rewards = ordered_rewards(scored[0].rewards, config)
    notes.say(f"evaluate: {len(scored)} policies by {', '.join(rewards)}, against {baseline}")
    if options.dry_run:
        plan = {
            "baseline": baseline,
            "rewards": rewards,
            "policies": {e.label: e.rollout.run.free | e.rollout.run.plan for e in scored},
        }
        return EvaluateResult(out / "report.html", plan)
    draws, drawn, policies = read_comparable(scored, config.limit, notes)
    base = next(policy for policy in policies if policy.label == baseline)
    prompts, categories = prompts_of(draws)
    estimate = partial(
        estimates,
        num_resamples=config.num_bootstrap,
        confidence=config.confidence,
        seed=config.seed,
    )
    found = compare(policies, base, prompts.prompt_of, categories, estimate)
    if config.protocol == "hps-benchmark":
        place = {prompt_id: number for number, prompt_id in enumerate(drawn)}
        found = with_group_std(
            found,
            policies,
            [draw.category for draw in draws],
            [place[draw.prompt_id] for draw in draws],
        )
    left_out = [name for name in categories if name not in found[0].categories]
    measured = Results(
        title=config.title,
        baseline=baseline,
        rewards=rewards,
        training_reward=config.training_reward,
        heldout_reward=config.heldout_reward,
        watched_reward=config.watched_reward,
        num_prompts=len(prompts.ids),
        num_samples=len(draws),
        num_images_per_prompt=len(draws) / len(prompts.ids),
        confidence=config.confidence,
        num_bootstrap=config.num_bootstrap,
        policies=found,
        notes=list(remarks(policies, len(prompts.ids), len(draws), left_out, config)),
        ledger=read_ledger(rounds, found, config.training_reward),
        provenance=provenance(scored, policies, config),
    )
    results = replace(
        measured,
        verdict=verdict(measured),
        alarms=list(alarms(measured)),
        choice=choose(measured) if config.watched_reward is not None else None,
    )
    gallery = choose_pictures(
        prompts,
        policies,
        [each.folder for each in scored],
        base,
        config.heldout_reward or rewards[0],
        config.num_grid_prompts,
    )
    with alone(out), output.begun(run, read, options.overwrite):
        files = write_evaluation(out, results, gallery, evaluated_samples(draws, policies))
        output.finish(
            replace(
                run,
                inputs={
                    name: each["sha256"] for name, each in results.provenance["policies"].items()
                }
                | {f"pairs of {label}": sha256(path) for label, path in rounds.items()},
                counts={"prompts": results.num_prompts, "samples": len(draws) * len(policies)},
                seconds=seconds_since(started),
                files=files,
            )
        )
    notes.show(summary_table(results))
    if config.protocol == "hps-benchmark":
        notes.show(style_table(results))
    if results.ledger:
        notes.show(ledger_table(results))
    for line in settings_lines(results):
        notes.say(line)
    for alarm in results.alarms:
        notes.say(f"{alarm.level}: {alarm.policy}: {alarm.text}")
    notes.say(results.verdict)
    if results.choice is not None:
        for line in choice_lines(results.choice):
            notes.say(line)
    return EvaluateResult(out / "report.html", asdict(results))


def read_ledger(
    rounds: Mapping[str, Path], policies: Sequence[PolicyResult], training_reward: str | None
) -> list[RoundResult]:
    """A row for each policy whose pairs were given, in the order of the policies."""
    if not rounds:
        return []
    from expo_cli.stages.evaluate.rounds import read_round  # which imports torch

    return [
        read_round(rounds[policy.label], policy, training_reward)
        for policy in policies
        if policy.label in rounds
    ]


def ordered_rewards(rewards: Sequence[str], config: EvaluateConfig) -> list[str]:
    """The training reward first, then the held-out one, then the others by label.

    Raises UsageError when a named reward has no scores.
    """
    named = {
        "--training-reward": config.training_reward,
        "--heldout-reward": config.heldout_reward,
        "--watched-reward": config.watched_reward,
    }
    for flag, reward in named.items():
        if reward is not None and reward not in rewards:
            raise UsageError(f"{flag}: no scores by {reward!r}; {nearest(reward, list(rewards))}")
    first = list(dict.fromkeys(reward for reward in named.values() if reward is not None))
    return first + [reward for reward in rewards if reward not in first]


def read_comparable(
    scored: Sequence[ScoredRollout], limit: int | None, notes: Notes
) -> tuple[list[Draw], list[str], list[PolicySamples]]:
    """The draws that all policies share, their prompt_ids in the order of the first policy's
    rollout, and the samples of each policy.

    Raises ExpoError when they are not the same draws.
    """
    first, *others = scored
    with notes.bar(sum(each.rollout.num_parts for each in scored), "parts") as bar:
        draws, drawn, samples = read_samples(first, limit, bar)
        policies = [samples]
        for other in others:
            # The other policy's draws are dropped as soon as they are found equal.
            other_draws, _, samples = read_samples(other, limit, bar)
            check_same_draws(first.label, draws, other.label, other_draws)
            policies.append(samples)
    return draws, drawn, policies


def prompts_of(draws: Sequence[Draw]) -> tuple[Prompts, dict[str, NDArray[np.bool_]]]:
    """The prompts in prompt_id order, and a mask [prompts] for each category."""
    by_id = {draw.prompt_id: draw for draw in draws}
    ids = sorted(by_id)
    number = {prompt_id: i for i, prompt_id in enumerate(ids)}
    categories = [by_id[prompt_id].category for prompt_id in ids]
    prompts = Prompts(
        ids=ids,
        texts=[by_id[prompt_id].prompt for prompt_id in ids],
        categories=categories,
        prompt_of=np.array([number[draw.prompt_id] for draw in draws]),
    )
    names = sorted({name for name in categories if name is not None})
    return prompts, {name: np.array([each == name for each in categories]) for name in names}


def evaluated_samples(
    draws: Sequence[Draw], policies: Sequence[PolicySamples]
) -> Iterator[EvaluatedSample]:
    for policy in policies:
        for i, draw in enumerate(draws):
            yield EvaluatedSample(
                label=policy.label,
                sample_id=draw.sample_id,
                prompt_id=draw.prompt_id,
                prompt=draw.prompt,
                category=draw.category,
                index=draw.index,
                seed=draw.seed,
                scores={}
                if policy.flagged[i]
                else {reward: float(scores[i]) for reward, scores in policy.scores.items()},
                kl=None if policy.kl is None or policy.flagged[i] else float(policy.kl[i]),
                image=policy.images[i],
                flagged=bool(policy.flagged[i]),
            )


def write_evaluation(
    out: Path, results: Results, gallery: Gallery, samples: Iterator[EvaluatedSample]
) -> list[str]:
    """Atomically replace the files of an earlier evaluation; returns their names."""
    plots = draw_plots(results)
    contents = {
        f"plots/{name}.{file_format}": content
        for name, files in plots.items()
        for file_format, content in files.items()
    }
    if gallery.has_images:
        labels = [policy.label for policy in results.policies]
        contents["plots/images.png"] = contact_sheet(gallery.grid, labels)
    contents["report.html"] = render_page(results, gallery, plots).encode()
    contents["results.json"] = msgspec.json.format(msgspec.json.encode(results)) + b"\n"
    jsonl.write(out / "samples.jsonl", samples)
    for name, content in contents.items():
        with atomic(out / name) as file:
            file.write(content)
    return ["samples.jsonl", *contents]
