"""The work of `expo rollout`: draws batches across prompts, and writes latents and checks in parts."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from expo_cli.config import RolloutConfig
from expo_cli.contracts import jsonl
from expo_cli.contracts.files import atomic
from expo_cli.contracts.ids import bytes_digest, sample_id, sample_seed
from expo_cli.contracts.kinds import IMAGES, RolloutParts, write_part_run
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.records import Checks, Prompt, Sample
from expo_cli.contracts.rollouts import step_tensors_path, steps_path
from expo_cli.contracts.shards import part_path
from expo_cli.contracts.tensors import latents_digest, write_tensors
from expo_cli.core.exploration import SamplingPlan
from expo_cli.core.image_statistics import image_checks
from expo_cli.core.negative_prompts import draw_negative_prompt
from expo_cli.models.loading import load_model, load_reference
from expo_cli.models.protocol import Conditioning, DiffusionModel
from expo_cli.models.sampling import Extrapolation, draw, guided
from expo_cli.rewards.protocol import Reward, StepReward
from expo_cli.stages.common.device import default_device, resolve_dtype
from expo_cli.stages.common.image_files import image_bytes
from expo_cli.stages.common.inputs import note_cut
from expo_cli.stages.common.progress import Bar, Notes, seconds_since
from expo_cli.stages.common.stopping import StopRequest, stop_on_signal
from expo_cli.stages.common.text_cache import ask_ahead
from expo_cli.stages.rollout.branching import (
    BranchedStep,
    CandidateSteps,
    StepJudge,
)
from expo_cli.stages.rollout.redraw import Redraw


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """The settings that all parts of a rollout share."""

    prompts: Sequence[Prompt]
    negative_prompts: Sequence[str]
    negative_probability: float
    samplings: Sequence[SamplingPlan]
    policy: str
    policy_sha256: str
    config: RolloutConfig
    extrapolation: tuple[str, float] | None = None
    """See `core.exploration.Explorer`."""
    step_reward: tuple[str, Reward] | None = None
    """The label and the reward of --step-reward."""
    redraw: Redraw | None = None

    def indices(self, prompt: Prompt) -> Sequence[int]:
        """The indices of the prompt's images."""
        if self.redraw is not None:
            return self.redraw.indices[prompt.prompt_id]
        first = self.config.first_index
        return range(first, first + self.config.num_images_per_prompt)

    def sampling(self, index: int) -> SamplingPlan:
        """The sampler settings of a prompt's image."""
        return self.samplings[index % len(self.samplings)]

    def negative_prompt(self, prompt: Prompt) -> str:
        """The schedule's negative prompt for this prompt, else the prompt's own, else None."""
        drawn = draw_negative_prompt(
            self.negative_prompts,
            self.negative_probability,
            self.config.seed,
            prompt.prompt_id,
            self.config.iteration,
        )
        return drawn or prompt.negative_prompt or ""

    def texts(self, prompt: Prompt) -> tuple[str, str]:
        """The text of a prompt that is encoded."""
        return prompt.prompt, self.negative_prompt(prompt)


@dataclass(frozen=True)
class Models:
    """The loaded networks: the policy, that of --kl-to, and that of an extrapolation."""

    policy: DiffusionModel
    kl_to: DiffusionModel | None
    extrapolation: Extrapolation | None

    @staticmethod
    def load(drawing: Drawing, device: torch.device, dtype: torch.dtype) -> "Models":
        policy, source = load_model(drawing.policy, device, dtype), drawing.config.kl_to
        kl_to = load_model(source, device, dtype) if source else None
        extrapolation = None
        if drawing.extrapolation is not None:
            ref, w = drawing.extrapolation
            extrapolation = Extrapolation(load_reference(ref, policy, drawing.policy, dtype), w)
        return Models(policy, kl_to, extrapolation)


@dataclass(frozen=True)
class Drawn:
    """Final latents of a sample [channels, height, width], each step's KL [steps] in nats, and the
    steps with candidates."""

    latents: Tensor
    kl_steps: Tensor | None
    steps: Sequence[BranchedStep]


def draw_parts(
    drawing: Drawing, output: RolloutParts, run: Run, parts: Sequence[int], notes: Notes
) -> int:
    """Draw the given parts of the output that `run` began, one by one; each is written atomically.
    Returns the number of flagged samples.

    Raises Interrupted, between two batches, when a signal asks to stop; ContractError when another
    command has replaced the output.
    """
    config, folder = drawing.config, output.path
    device = default_device()
    dtype = resolve_dtype(config.dtype, device)
    part_prompts = {
        n: drawing.prompts[n * config.part_size : (n + 1) * config.part_size] for n in parts
    }
    texts = (t for prompts in part_prompts.values() for p in prompts for t in drawing.texts(p))
    text = ask_ahead(config.text_cache, drawing.policy, device, dtype, texts, notes)
    models = Models.load(drawing, device, dtype)
    model = models.policy
    if text is not None:
        model.text = text
    judge = load_step_judge(drawing, model, notes)
    width, height = config.width or model.image_size(), config.height or model.image_size()
    if drawing.redraw is not None:
        drawing.redraw.check_size(width, height)
    total = sum(map(len, part_prompts.values())) * config.num_images_per_prompt
    notes.say(f"rollout: {total} images of {width}x{height} on {device}, {dtype}")
    num_flagged = 0
    with stop_on_signal() as stop, notes.bar(total, "images") as bar:
        for part, prompts in part_prompts.items():
            started = time.monotonic()
            planned = plan_samples(drawing, prompts, width, height)
            drawn = draw_samples(drawing, planned, models, judge, bar, stop)
            steps = [step for sample in drawn for step in sample.steps]
            output.claim(run)
            if judge is not None:
                write_steps(folder, part, steps)
            samples = finish_samples(drawing, folder, part, planned, drawn, model)
            seconds = seconds_since(started)
            flagged = sum(sample.checks.flagged for sample in samples)
            num_flagged += flagged
            counts = {"samples": len(planned)} | ({"steps": len(steps)} if steps else {})
            counts |= {"flagged": flagged} if flagged else {}
            part_run = Run(command="rollout", plan={"part": part}, counts=counts, seconds=seconds)
            write_part_run(folder, part, part_run)
            jsonl.write(
                part_path(folder, part), samples
            )  # written last: this file marks the part as done
            stop.check()
    note_cut(notes, "rollout", model.text)
    if num_flagged:
        hint = "" if dtype == torch.float32 else "; try --dtype fp32"
        notes.say(
            f"rollout: {num_flagged} of {total} images are NaN or black; score, make-pairs and "
            f"evaluate skip them{hint}"
        )
    return num_flagged


def load_step_judge(drawing: Drawing, model: DiffusionModel, notes: Notes) -> StepJudge | None:
    """The judge of step candidates, None without candidates.

    It judges in fp32, because candidates of one step differ little.
    """
    if drawing.step_reward is None:
        return None
    label, reward = drawing.step_reward
    reward.load(model.device, torch.float32)
    if not isinstance(reward, StepReward):
        notes.say(
            f"rollout: note: {label} is not step-aware; the predicted final image of a candidate is "
            "judged as if it were finished"
        )
    return StepJudge(label, reward, model)


def plan_samples(
    drawing: Drawing, prompts: Sequence[Prompt], width: int, height: int
) -> list[Sample]:
    """The records of a part's samples, without the fields that are known only after drawing."""
    config = drawing.config
    unknown = Checks(
        nan=False, black=False, saturation=0, contrast=0, colorfulness=0, clipped=0, edge_energy=0
    )
    return [
        Sample(
            sample_id=sample_id(prompt.prompt_id, config.agent, config.iteration, index),
            prompt_id=prompt.prompt_id,
            prompt=prompt.prompt,
            category=prompt.category,
            agent=config.agent,
            iteration=config.iteration,
            index=index,
            seed=sample_seed(config.seed, prompt.prompt_id, config.agent, config.iteration, index),
            negative_prompt=drawing.negative_prompt(prompt),
            policy=drawing.policy_sha256,
            **asdict(drawing.sampling(index)),
            width=width,
            height=height,
            checks=unknown,
        )
        for prompt in prompts
        for index in drawing.indices(prompt)
    ]


def batches(
    drawing: Drawing, samples: Sequence[Sample]
) -> Iterator[tuple[SamplingPlan, Sequence[int]]]:
    """The rows of each batch of samples, and the sampler settings that they share."""
    rows = defaultdict(list)
    for row, sample in enumerate(samples):
        rows[drawing.sampling(sample.index)].append(row)
    size = drawing.config.batch_size
    for sampling, own in rows.items():
        for start in range(0, len(own), size):
            yield sampling, own[start : start + size]


def encode_once(
    model: DiffusionModel, texts: Sequence[str], batch_size: int
) -> tuple[Conditioning, dict[str, int]]:
    """The conditioning of the distinct texts, and the row of each text in it."""
    distinct = list(dict.fromkeys(texts))
    encoded = [
        model.encode(distinct[start : start + batch_size])
        for start in range(0, len(distinct), batch_size)
    ]
    return Conditioning.concatenate(encoded), {text: row for row, text in enumerate(distinct)}


def draw_samples(
    drawing: Drawing,
    samples: Sequence[Sample],
    models: Models,
    judge: StepJudge | None,
    bar: Bar,
    stop: StopRequest,
) -> list[Drawn]:
    """Draw a part's samples and, with a judge, their step candidates, in batches across its prompts."""
    config, model = drawing.config, models.policy
    texts = [s.prompt for s in samples] + [s.negative_prompt for s in samples]
    encoded, place = encode_once(model, texts, config.batch_size)
    shape = model.latent_shape(samples[0].height, samples[0].width)
    drawn: dict[int, Drawn] = {}
    for sampling, rows in batches(drawing, samples):
        stop.check()
        batch = [samples[row] for row in rows]
        branching = None
        if judge is not None:
            branching = CandidateSteps(
                batch, judge, config.num_step_candidates, config.skip_steps or 0, stop
            )
        trajectory = draw(
            model,
            encoded.rows([place[s.prompt] for s in batch]),
            encoded.rows([place[s.negative_prompt] for s in batch]),
            [s.seed for s in batch],
            shape,
            sampling,
            models.kl_to,
            branching,
            models.extrapolation or guided,
        )
        kl_steps = trajectory.kl_steps
        for number, row in enumerate(rows):
            drawn[row] = Drawn(
                trajectory.latents[number],
                None if kl_steps is None else kl_steps[number],
                [] if branching is None else branching.steps[number],
            )
        bar.advance(len(batch))
    return [drawn[row] for row in range(len(samples))]


def write_steps(folder: Path, part: int, steps: Sequence[BranchedStep]) -> None:
    tensors = {name: tensor for step in steps for name, tensor in step.tensors.items()}
    write_tensors(step_tensors_path(folder, part), tensors)
    records = (
        replace(step.record, digest=latents_digest(*step.tensors.values())) for step in steps
    )
    jsonl.write(steps_path(folder, part), records)


def finish_samples(
    drawing: Drawing,
    folder: Path,
    part: int,
    planned: Sequence[Sample],
    drawn: Sequence[Drawn],
    model: DiffusionModel,
) -> list[Sample]:
    """Write a part's latents and images; returns its records."""
    latents = torch.stack([sample.latents for sample in drawn]).half()
    tensors = {sample.sample_id: row for sample, row in zip(planned, latents, strict=True)}
    write_tensors(part_path(folder, part, ".safetensors"), tensors)
    finished = []
    for start in range(0, len(planned), drawing.config.batch_size):
        rows = slice(start, start + drawing.config.batch_size)
        images = model.decode(latents[rows])
        for offset, (sample, checks) in enumerate(
            zip(planned[rows], image_checks(images), strict=True)
        ):
            # A policy that draws NaN has no KL; `checks` reports it.
            kl = drawn[start + offset].kl_steps
            known = kl is not None and kl.isfinite().all()
            steps = tuple(kl.tolist()) if known else None
            sample = replace(
                sample, checks=checks, kl=sum(steps) if steps else None, kl_steps=steps
            )
            sample = replace(sample, digest=latents_digest(tensors[sample.sample_id]))
            if drawing.config.images != "none":
                name = f"{IMAGES}/{sample.sample_id}.{drawing.config.images}"
                digest = write_image(folder / name, images[offset])
                sample = replace(sample, image=name, image_digest=digest)
            finished.append(sample)
    return finished


def write_image(path: Path, image: Tensor) -> str:
    """Write an image [3, height, width] in [0, 1] in the format of the file extension; returns the
    file's digest."""
    pixels = (image.nan_to_num() * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    content = image_bytes(Image.fromarray(pixels), path.suffix.removeprefix("."))
    with atomic(path) as file:
        file.write(content)
    return bytes_digest(content)
