"""The records of the JSONL files, one per line.

Fields are only ever added. Every number is finite; a reader gives the file and line of a bad one.
"""

import math
import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from msgspec import UNSET, UnsetType

from expo_cli.contracts.files import leaves

Agent = Literal["main", "explore"]

# Ids become tensor names and file names, so they contain no character that is special in a path.
ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


def check_id(name: str, value: str, longest: int = 200) -> None:
    if not ID.fullmatch(value):
        raise ValueError(f"{name} {value!r} may hold only letters, digits, '_', '.' and '-'")
    if len(value) > longest:
        raise ValueError(f"{name} {value!r} is longer than {longest} characters")


def check_finite(name: str, *values: float | None) -> None:
    for value in values:
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")


def check_below(name: str, path: str | None) -> None:
    if path is not None and leaves(path):
        raise ValueError(
            f"{name} {path!r} leaves the folder it is relative to; paths must stay below it"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A line of `prompts.jsonl`."""

    made_by: ClassVar = "expo prep-prompts"

    prompt_id: str
    prompt: str
    category: str | None = None
    negative_prompt: str | None = None
    num_tokens: int | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        # Sample ids contain it and are file names.
        check_id("prompt_id", self.prompt_id, longest=150)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """Figures of one image that need no reward; `core.image_statistics` has the formulas."""

    nan: bool
    black: bool
    saturation: float
    contrast: float
    colorfulness: float
    clipped: float
    edge_energy: float

    def __post_init__(self) -> None:
        check_finite("saturation", self.saturation)
        check_finite("contrast", self.contrast)
        check_finite("colorfulness", self.colorfulness)
        check_finite("clipped", self.clipped)
        check_finite("edge_energy", self.edge_energy)

    @property
    def flagged(self) -> bool:
        """Whether the image is unusable: it gets no scores, forms no pairs and is left out of means."""
        return self.nan or self.black


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A line of `rollout/part-00012.jsonl`: one drawn image, and how to draw it again.

    Its final latents are the tensor `sample_id` of `part-00012.safetensors`, `digest` the first 16
    hexadecimal digits of their sha256 as stored. `policy` is the sha256 of the model that drew it, or,
    if it was extrapolated, of the sha256s of policy and reference, and w.
    `image_digest` is the digest of the file `image`. `kl` is in nats over the whole trajectory.
    """

    made_by: ClassVar = "expo rollout"

    sample_id: str
    prompt_id: str
    prompt: str
    category: str | None = None
    agent: Agent
    iteration: int
    index: int
    seed: int
    negative_prompt: str
    policy: str
    scheduler: str
    num_inference_steps: int
    guidance_scale: float
    eta: float
    width: int
    height: int
    image: str | None = None
    kl: float | None = None
    kl_steps: tuple[float, ...] | None = None
    checks: Checks
    digest: str | None = None
    image_digest: str | None = None

    def __post_init__(self) -> None:
        check_id("sample_id", self.sample_id)
        check_id("prompt_id", self.prompt_id)
        check_finite("guidance_scale and eta", self.guidance_scale, self.eta)
        check_finite("kl", self.kl, *(self.kl_steps or ()))
        check_below("image", self.image)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEntry:
    """A line of the JSONL index of an image folder (`score --index`).

    `image` is relative to the image folder. Missing ids are derived from prompt and image.
    """

    image: str
    prompt: str
    prompt_id: str | None = None
    sample_id: str | None = None
    category: str | None = None

    def __post_init__(self) -> None:
        for name in ("prompt_id", "sample_id"):
            if getattr(self, name) is not None:
                check_id(name, getattr(self, name))
        check_below("image", self.image)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A line of `scores/part-00012.<reward>.jsonl`. `score = raw * scale`; higher is better.

    `digest` is that of the sample's latents or, for an image from an index, of its file.
    """

    made_by: ClassVar = "expo score"

    sample_id: str
    prompt_id: str
    reward: str
    score: float
    raw: float
    scale: float = 1.0
    digest: str | None = None

    def __post_init__(self) -> None:
        check_id("sample_id", self.sample_id)
        check_id("prompt_id", self.prompt_id)
        check_finite(f"score of {self.sample_id}", self.score, self.raw, self.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRef:
    """A reference to a sample's latents: tensor `sample_id` of the safetensors file `part`.

    `part` is relative to the folder of the file that holds this record, and stays below it.
    `digest` is that of the latents, see `Sample`.
    """

    sample_id: str
    part: str
    score: float | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        check_id("sample_id", self.sample_id)
        check_finite(f"score of {self.sample_id}", self.score)
        check_below("part", self.part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A line of `pairs.jsonl`. `explore` and `main` are the samples of Eq. 7's second term.

    The winner of a `flipped` pair has the lower score, by label noise, and its `margin` is negative.
    Lines of other pairs lack this field.
    """

    made_by: ClassVar = "expo make-pairs"

    pair_id: str
    prompt_id: str
    prompt: str
    winner: SampleRef
    loser: SampleRef
    winner_score: float
    loser_score: float
    margin: float
    reward: str
    source: Literal["online", "offline"]
    iteration: int
    explore: SampleRef | None = None
    main: SampleRef | None = None
    flipped: bool | UnsetType = UNSET

    def __post_init__(self) -> None:
        check_id("pair_id", self.pair_id)
        check_id("prompt_id", self.prompt_id)
        check_finite("winner_score, loser_score and margin", self.winner_score, self.loser_score)
        check_finite("margin", self.margin)
        if (self.explore is None) != (self.main is None):
            raise ValueError("explore and main must be given together")


def check_gaussian_step(timestep: int, previous_timestep: int, eta: float) -> None:
    if not (timestep > previous_timestep and timestep >= 0):
        raise ValueError(f"timestep {timestep} leads to {previous_timestep}")
    if not 0 < eta <= 1:
        raise ValueError(f"eta must be in (0, 1], got {eta}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedImage:
    """A line of `pairs.latents/part-00012.jsonl`: an imported image.

    `source` is its place in the input, `width` and `height` are those of the original. Its latents
    are the tensor `sample_id` of `part-00012.safetensors`, those of the mirrored image
    `sample_id-flip`. An image with a `problem` has no latents and is in no pair. `digest` and
    `flip_digest` are those of the latents, see `Sample`.
    """

    sample_id: str
    source: str
    width: int | None = None
    height: int | None = None
    problem: str | None = None
    digest: str | None = None
    flip_digest: str | None = None

    def __post_init__(self) -> None:
        check_id("sample_id", self.sample_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCandidates:
    """A line of `rollout/part-00012.steps.jsonl`: a denoising step with several candidates.

    `number` counts the sampler's steps, from 0. `scores` are those of all candidates for x_{t-1},
    drawn from the same x_t; the sample continued from the one at `continued`. x_t and the
    candidates at `winner` and `loser` are tensors of `part-00012.steps.safetensors`: `STEP_ID.x_t`,
    `STEP_ID.winner` and `STEP_ID.loser`; `digest` is that of all three, in this order. A
    `previous_timestep` below 0 means a finished image.
    """

    made_by: ClassVar = "expo rollout"

    step_id: str
    sample_id: str
    prompt_id: str
    prompt: str
    negative_prompt: str
    iteration: int
    number: int
    timestep: int
    previous_timestep: int
    guidance_scale: float
    eta: float
    reward: str
    scores: tuple[float, ...]
    winner: int
    loser: int
    continued: int
    digest: str | None = None

    def __post_init__(self) -> None:
        check_id("step_id", self.step_id)
        check_id("sample_id", self.sample_id)
        check_id("prompt_id", self.prompt_id)
        check_finite("guidance_scale and eta", self.guidance_scale, self.eta)
        check_finite(f"score of {self.step_id}", *self.scores)
        for name in ("winner", "loser", "continued"):
            if not 0 <= getattr(self, name) < len(self.scores):
                raise ValueError(f"{name} {getattr(self, name)} is not one of the candidates")
        check_gaussian_step(self.timestep, self.previous_timestep, self.eta)
        best, worst = self.scores[self.winner], self.scores[self.loser]
        if best < max(self.scores) or worst > min(self.scores):
            raise ValueError("winner and loser are not the best and the worst candidate")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPair:
    """A line of `step-pairs.jsonl`: the best and the worst candidate of a denoising step.

    Its tensors are in the safetensors file `part`, see `StepCandidates`; `part` is relative to the
    folder of the file that holds this record, and stays below it. `confidence` is the difference
    of the softmax of the two scores.
    """

    made_by: ClassVar = "expo make-pairs"

    step_id: str
    part: str
    prompt_id: str
    prompt: str
    negative_prompt: str
    iteration: int
    timestep: int
    previous_timestep: int
    guidance_scale: float
    eta: float
    reward: str
    winner_score: float
    loser_score: float
    confidence: float
    digest: str | None = None

    def __post_init__(self) -> None:
        check_id("step_id", self.step_id)
        check_id("prompt_id", self.prompt_id)
        check_finite("winner_score and loser_score", self.winner_score, self.loser_score)
        check_finite("confidence and guidance_scale", self.confidence, self.guidance_scale)
        check_below("part", self.part)
        check_gaussian_step(self.timestep, self.previous_timestep, self.eta)
