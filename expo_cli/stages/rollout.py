"""`expo rollout`: which parts there are, which are missing, and who draws them.

Everything here is known before torch is imported, so a finished part costs nothing.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from expo_cli.config import RolloutConfig, RunOptions
from expo_cli.contracts import jsonl
from expo_cli.contracts.files import sha256
from expo_cli.contracts.parts import (
    WITH_LATENTS,
    Shard,
    missing_parts,
    num_parts,
    parse_shard,
    shards_with,
)
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.records import Prompt
from expo_cli.contracts.sources import shipped, source_sha256
from expo_cli.contracts.texts import text_lines
from expo_cli.core.exploration import Explorer, Policies, SamplingPlan
from expo_cli.core.negative_prompts import negative_probability
from expo_cli.errors import ContractError, UsageError
from expo_cli.models.families import (
    check_gaussian_steps,
    check_negative_prompts,
    check_text_cache,
    pipeline_class,
    pipeline_folder,
    scheduler_of,
)
from expo_cli.registry import EXPLORERS, REWARDS, build, split_label
from expo_cli.rewards.protocol import Reward
from expo_cli.stages.common.folders import begin_or_continue, clear_if_asked
from expo_cli.stages.common.progress import Notes


@dataclass(frozen=True)
class RolloutResult:
    """`num_flagged` of the samples that this run drew are NaN or black.

    `missing_parts` are the numbers of the parts that are still to be drawn (of a dry run: by this
    shard), `missing_shards` the shards, of as many as --shard says, that have any of all to draw.
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
    """The prompts of a file. Raises ContractError when an id stands there twice."""
    source = shipped(str(path))
    prompts, lines = [], {}
    for number, prompt in jsonl.numbered(source, Prompt):
        if prompt.prompt_id in lines:
            first = lines[prompt.prompt_id]
            raise ContractError(
                f"{source}:{number}: prompt_id {prompt.prompt_id} stands on line {first} already; "
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
    """The non-empty lines of a text file. Errors as `texts.text_lines`; ContractError without any."""
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
    policy = explorer.policy(policies)
    sampling = explorer.plan(
        SamplingPlan(
            scheduler=config.scheduler,
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            eta=config.eta,
        )
    )
    pipeline = pipeline_of(policy)
    check_text_cache(config.text_cache, policy)
    scheduler_of(pipeline, sampling.scheduler)
    if config.kl_to:
        check_gaussian_steps(pipeline, "--kl-to")
    if config.num_step_candidates:
        check_gaussian_steps(pipeline, "--num-step-candidates")
    own = any(prompt.negative_prompt for prompt in prompts)
    check_negative_prompts(pipeline, own or config.neg_schedule != "none")
    if sampling.eta and sampling.scheduler != "ddim":
        raise UsageError(
            f"--explorer {config.explorer}: eta belongs to ddim, not {sampling.scheduler}"
        )
    if not sampling.is_guided and config.neg_schedule != "none":
        raise UsageError(f"--explorer {config.explorer}: without guidance no negative prompt works")
    if config.kl_to:
        sampling.gaussian_eta()
    step_reward = build_step_reward(config, sampling)
    probability = negative_probability(config.neg_schedule, config.iteration, config.iterations)
    count = num_parts(len(prompts), config.part_size)
    free = {"text_cache": config.text_cache}
    plan = {name: value for name, value in asdict(config).items() if name not in free} | {
        "drawn_by": policy,
        "sampling": asdict(sampling),
        "negative_probability": probability,
        "num_prompts": len(prompts),
        "num_samples": len(prompts) * config.num_images_per_prompt,
        "num_parts": count,
    }
    notes.say(
        f"rollout: {len(prompts)} prompts x {config.num_images_per_prompt} images by {policy}, "
        f"{sampling.scheduler} {sampling.num_inference_steps} steps, guidance "
        f"{sampling.guidance_scale:g}, negative prompts {probability:.0%}, {count} parts"
        + (f", {config.num_step_candidates} candidates a step" if step_reward else "")
    )
    wanted = [n for n in range(count) if shard.takes(n)]
    if options.dry_run:
        missing = missing_parts(out, count, WITH_LATENTS)
        result = _result(out, plan, shard, drawn=0, missing=missing)
        todo = [n for n in missing if shard.takes(n)]
        return replace(result, parts_missing=len(todo), missing_parts=todo)
    inputs = {"policy": source_sha256(policy)}
    if config.kl_to:
        inputs["kl_to"] = source_sha256(config.kl_to)
    if prompts_path != jsonl.STANDARD_STREAM:
        inputs["prompts"] = sha256(shipped(str(prompts_path)))
    if config.negative_prompts:
        inputs["negative_prompts"] = sha256(shipped(config.negative_prompts))
    if step_reward:
        inputs["step_reward"] = identity_sha256(step_reward[1])
    clear_if_asked(out, options, shard)
    begin_or_continue(out, Run(command="rollout", plan=plan, free=free, inputs=inputs))
    missing = set(missing_parts(out, count, WITH_LATENTS))
    todo = [n for n in wanted if n in missing]
    num_flagged = 0
    if todo:
        # Imported here: when nothing is left to draw, torch and diffusers need not load.
        from expo_cli.stages.drawing.run import Drawing, draw_parts

        drawing = Drawing(
            prompts=prompts,
            negative_prompts=negative_prompts,
            negative_probability=probability,
            sampling=sampling,
            policy=policy,
            policy_sha256=inputs["policy"],
            config=config,
            step_reward=step_reward,
        )
        num_flagged = draw_parts(drawing, out, todo, notes)
    else:
        notes.say(f"rollout: nothing to do, {out} has all parts of this shard")
    result = _result(
        out, plan, shard, drawn=len(todo), missing=missing_parts(out, count, WITH_LATENTS)
    )
    return replace(result, num_flagged=num_flagged)


def pipeline_of(source: str) -> str:
    return pipeline_class(pipeline_folder(source))


def build_step_reward(config: RolloutConfig, sampling: SamplingPlan) -> tuple[str, Reward] | None:
    """The label and the reward that judges step candidates, if there are any.

    Raises UsageError for steps that cannot be branched, or an unknown reward.
    """
    if config.num_step_candidates is None:
        return None
    if sampling.scheduler != "ddim" or not sampling.eta:
        raise UsageError(
            "--num-step-candidates needs steps with noise, --scheduler ddim with --eta above 0, "
            f"not {sampling.scheduler} with eta {sampling.eta:g}"
        )
    if (config.skip_steps or 0) >= sampling.num_inference_steps:
        raise UsageError(
            f"--skip-steps {config.skip_steps} leaves none of {sampling.num_inference_steps} steps"
        )
    label, spec = split_label(config.step_reward)
    return label, build(REWARDS, spec)


def identity_sha256(reward: Reward) -> str:
    """One sha256 of all that determines the reward's scores."""
    return hashlib.sha256(json.dumps(reward.identity(), sort_keys=True).encode()).hexdigest()


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
