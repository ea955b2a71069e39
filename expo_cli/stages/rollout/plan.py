"""`expo rollout`: plans the parts, and finds the missing ones and the policy that draws them.

Nothing here imports torch, so finished parts cost nothing.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from expo_cli.config import RolloutConfig, RunOptions
from expo_cli.contracts import jsonl
from expo_cli.contracts.identity import (
    NETWORK,
    SCHEDULER,
    TEXT,
    VAE,
    json_sha256,
    model_sha256s,
    one_sha256,
    records_sha256,
)
from expo_cli.contracts.kinds import RolloutParts
from expo_cli.contracts.outputs import Input, check_not_cut
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.records import Prompt
from expo_cli.contracts.shards import Shard, num_parts, parse_shard, shards_with
from expo_cli.contracts.sources import shipped, written_down
from expo_cli.contracts.texts import text_lines
from expo_cli.core.exploration import Explorer, Policies, SamplingPlan
from expo_cli.core.negative_prompts import negative_probability
from expo_cli.errors import ContractError, UsageError
from expo_cli.models.families import (
    check_gaussian_steps,
    check_negative_prompts,
    check_same_noise,
    check_same_prediction,
    check_text_cache,
    pipeline_class,
    pipeline_folder,
    scheduler_of,
)
from expo_cli.registry import EXPLORERS, REWARDS, build, split_label
from expo_cli.rewards.protocol import Reward, whole_identity
from expo_cli.stages.common.inputs import check_overwrite, model_inputs, spec_inputs
from expo_cli.stages.common.progress import Notes
from expo_cli.stages.rollout.redraw import read_redraw

# Paths of inputs, whose identity is among the run's inputs, and settings that do not affect the
# result; the explorer's sampler settings are in the plan.
FREE_SETTINGS = (
    "prompts",
    "drawn_by",
    "policy",
    "previous",
    "ref",
    "kl_to",
    "explorer",
    "negative_prompts",
    "redraw",
    "step_reward",
    "text_cache",
)


@dataclass(frozen=True)
class RolloutResult:
    """`num_flagged` of the samples that this run drew are NaN or black.

    `missing_parts` are the numbers of the parts still to be drawn (in a dry run: by this shard),
    `missing_shards` the shards, out of those of --shard, that have any missing part.
    """

    path: Path
    num_prompts: int
    num_samples: int
    num_parts: int
    num_flagged: int
    parts_drawn: int
    parts_missing: int
    missing_parts: list[int]
    missing_shards: list[int]
    plan: dict[str, Any]


def read_prompts(path: Path, limit: int | None) -> list[Prompt]:
    """The prompts of a file. Raises ContractError for a duplicate id."""
    source = shipped(str(path))
    check_not_cut(source)
    prompts, lines = [], {}
    for number, prompt in jsonl.numbered(source, Prompt):
        if prompt.prompt_id in lines:
            first = lines[prompt.prompt_id]
            raise ContractError(
                f"{source}:{number}: prompt_id {prompt.prompt_id} is already on line {first}; "
                "`expo prep-prompts` drops duplicates"
            )
        lines[prompt.prompt_id] = number
        prompts.append(prompt)
        if len(prompts) == limit:
            break
    if not prompts:
        raise ContractError(f"{source}: no prompts")
    return prompts


def read_negative_prompts(path: str) -> list[str]:
    """The non-empty lines of a text file. Errors as `texts.text_lines`; ContractError if there are none."""
    source = shipped(path)
    negative_prompts = []
    for number, line in text_lines(source):
        if line is None:
            raise ContractError(f"{source}:{number}: is too long for a negative prompt")
        if line.strip():
            negative_prompts.append(line.strip())
    if not negative_prompts:
        raise ContractError(f"{source}: no negative prompts")
    return negative_prompts


def roll_out(
    prompts_path: Path, out: Path, config: RolloutConfig, options: RunOptions, shard_text: str
) -> RolloutResult:
    """Draw every missing part of this shard into the folder `out`."""
    notes = Notes(options)
    shard = parse_shard(shard_text)
    prompts = read_prompts(prompts_path, config.limit)
    negative_prompts = (
        read_negative_prompts(config.negative_prompts) if config.negative_prompts else []
    )
    explorer: Explorer = build(EXPLORERS, config.explorer or "same")
    config = replace(config, scheduler=scheduler_of(pipeline_of(config.policy), config.scheduler))
    policies = Policies(current=config.policy, previous=config.previous, reference=config.ref)
    policy, extrapolation = explorer.policy(policies), explorer.extrapolation(policies)
    samplings = explorer.plans(
        SamplingPlan(
            scheduler=config.scheduler,
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            eta=config.eta,
        )
    )
    pipeline = pipeline_of(policy)
    check_text_cache(config.text_cache, policy)
    if extrapolation:
        check_same_prediction(policy, extrapolation[0], "--ref")
    if config.kl_to:
        check_gaussian_steps(pipeline, "--kl-to")
        check_same_noise(policy, config.kl_to, "--kl-to", predicted=False)
    if config.num_step_candidates:
        check_gaussian_steps(pipeline, "--num-step-candidates")
    own = any(prompt.negative_prompt for prompt in prompts)
    check_negative_prompts(pipeline, own or config.neg_schedule != "none")
    for sampling in samplings:
        check_sampling(config, pipeline, sampling)
    step_reward = build_step_reward(config)
    redraw = read_redraw(config, prompts) if config.redraw else None
    probability = negative_probability(config.neg_schedule, config.iteration, config.iterations)
    count = num_parts(len(prompts), config.part_size)
    settings = asdict(config) | {"drawn_by": policy, "prompts": str(prompts_path)}
    plan = {name: value for name, value in settings.items() if name not in FREE_SETTINGS} | {
        "sampling": asdict(sampling) if len(samplings) == 1 else [*map(asdict, samplings)],
        "negative_probability": probability,
        "num_prompts": len(prompts),
        "num_samples": len(prompts) * config.num_images_per_prompt,
        "num_parts": count,
    }
    inputs = model_sha256s("drawn_by", policy, (*NETWORK, *TEXT, *SCHEDULER, *VAE))
    drawn_by, policy_sha256 = policy, one_sha256(inputs, "drawn_by")
    if extrapolation:
        ref, w = extrapolation
        plan["w"] = w
        inputs |= model_sha256s("ref", ref, (*NETWORK, *SCHEDULER))
        drawn_by = f"{policy} extrapolated from {ref}, w {w:g}"
        policy_sha256 = json_sha256([policy_sha256, one_sha256(inputs, "ref"), w])
    notes.say(
        f"rollout: {len(prompts)} prompts x {config.num_images_per_prompt} images by {drawn_by}, "
        f"{' or '.join(map(told, samplings))}, negative prompts {probability:.0%}, {count} parts"
        + (f", {config.num_step_candidates} candidates per step" if step_reward else "")
    )
    if config.kl_to:
        inputs |= model_sha256s("kl_to", config.kl_to, (*NETWORK, *SCHEDULER))
    inputs["prompts"] = records_sha256(prompts)
    if negative_prompts:
        inputs["negative_prompts"] = json_sha256(negative_prompts)
    if redraw:
        inputs["redraw"] = json_sha256(list(redraw.indices.items()))
    if step_reward:
        (label, reward), (_, spec) = step_reward, split_label(config.step_reward)
        inputs["step_reward"] = json_sha256([label, whole_identity(reward, spec)])
    run = Run(
        command="rollout",
        plan=plan,
        free={name: settings[name] for name in FREE_SETTINGS}
        | written_down("drawn_by", policy, out),
        inputs=inputs,
    )
    output = RolloutParts(out, run)
    read = [Input("PROMPTS", shipped(str(prompts_path))), *models_read(config, policy)]
    if config.redraw:
        read.append(Input("--redraw", Path(config.redraw)))
    if config.negative_prompts:
        read.append(Input("--negative-prompts", shipped(config.negative_prompts)))
    read += spec_inputs("--step-reward", config.step_reward)
    if config.text_cache:
        read.append(Input("--text-cache", Path(config.text_cache)))
    check_overwrite(options, shard)
    output.check(run, read, options.overwrite)
    settled = plan | run.free
    if options.dry_run:
        missing = list(range(count)) if options.overwrite else output.missing()
        result = _result(out, settled, shard, drawn=0, missing=missing)
        todo = [n for n in missing if shard.takes(n)]
        return replace(result, parts_missing=len(todo), missing_parts=todo)
    with output.begun(run, read, options.overwrite):
        todo, num_flagged = [n for n in output.missing() if shard.takes(n)], 0
        if todo:
            # Imported here: if nothing is left to draw, torch and diffusers are not needed.
            from expo_cli.stages.rollout.run import Drawing, draw_parts

            drawing = Drawing(
                prompts=prompts,
                negative_prompts=negative_prompts,
                negative_probability=probability,
                samplings=samplings,
                policy=policy,
                policy_sha256=policy_sha256,
                extrapolation=extrapolation,
                config=config,
                step_reward=step_reward,
                redraw=redraw,
            )
            num_flagged = draw_parts(drawing, output, run, todo, notes)
        else:
            notes.say(f"rollout: nothing to do, {out} has all parts of this shard")
    result = _result(out, settled, shard, drawn=len(todo), missing=output.missing())
    return replace(result, num_flagged=num_flagged)


def models_read(config: RolloutConfig, policy: str) -> list[Input]:
    """The folders of all models that the flags name."""
    sources = {
        "--policy": config.policy,
        "--previous": config.previous,
        "--ref": config.ref,
        "--kl-to": config.kl_to,
        "the explorer's weights": policy,
    }
    return [each for flag, source in sources.items() for each in model_inputs(flag, source)]


def pipeline_of(source: str) -> str:
    return pipeline_class(pipeline_folder(source))


def told(sampling: SamplingPlan) -> str:
    return (
        f"{sampling.scheduler} {sampling.num_inference_steps} steps, guidance "
        f"{sampling.guidance_scale:g}"
    )


def check_sampling(config: RolloutConfig, pipeline: str, sampling: SamplingPlan) -> None:
    """Raises UsageError for sampler settings that contradict each other, the family or other flags."""
    scheduler_of(pipeline, sampling.scheduler)
    if sampling.eta and sampling.scheduler != "ddim":
        raise UsageError(
            f"--explorer {config.explorer}: eta belongs to ddim, not {sampling.scheduler}"
        )
    if not sampling.is_guided and config.neg_schedule != "none":
        raise UsageError(
            f"--explorer {config.explorer}: negative prompts have no effect without guidance, at "
            f"guidance_scale {sampling.guidance_scale:g}"
        )
    if config.kl_to:
        sampling.gaussian_eta()
    if config.num_step_candidates is not None:
        check_step_candidates(config, sampling)


def check_step_candidates(config: RolloutConfig, sampling: SamplingPlan) -> None:
    """Raises UsageError for a sampler without Gaussian steps, or none that is not skipped."""
    if sampling.scheduler != "ddim" or not sampling.eta:
        raise UsageError(
            "--num-step-candidates needs steps with noise, --scheduler ddim with --eta above 0, "
            f"not {sampling.scheduler} with eta {sampling.eta:g}"
        )
    if (config.skip_steps or 0) >= sampling.num_inference_steps:
        raise UsageError(
            f"--skip-steps {config.skip_steps} leaves none of {sampling.num_inference_steps} steps"
        )


def build_step_reward(config: RolloutConfig) -> tuple[str, Reward] | None:
    """The label and the reward of step candidates, None without candidates.

    Raises UsageError for an unknown reward.
    """
    if config.num_step_candidates is None:
        return None
    label, spec = split_label(config.step_reward)
    return label, build(REWARDS, spec)


def _result(
    out: Path, plan: dict[str, Any], shard: Shard, drawn: int, missing: list[int]
) -> RolloutResult:
    return RolloutResult(
        path=out,
        num_prompts=plan["num_prompts"],
        num_samples=plan["num_samples"],
        num_parts=plan["num_parts"],
        num_flagged=0,
        parts_drawn=drawn,
        parts_missing=len(missing),
        missing_parts=missing,
        missing_shards=shards_with(missing, shard.count),
        plan=plan,
    )
