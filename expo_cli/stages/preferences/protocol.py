"""Preferences over images that exist: what a layout of such data is to `expo make-pairs`, the rows
of all inputs, and the pairs that they make."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from expo_cli.contracts.ids import digest, prompt_id
from expo_cli.contracts.records import ID, Pair
from expo_cli.core.pair_rule import PairRule, Tally, pair_group
from expo_cli.core.pairing import Candidate, Group
from expo_cli.stages.common.image_files import ImageFormat
from expo_cli.stages.preferences.pair_images import EncodedFile

FLIPPED = "-flip"


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """Where an image is: in row `row` of an input, under `name` (a column, or a file's path).

    `identity` tells it from all other images, wherever it stands again; "" where only its place
    does.
    """

    row: int
    name: str
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Ranking:
    """A row: two or more images of one prompt, and a score of each; higher is better."""

    row: int
    prompt: str
    images: Sequence[ImagePlace]
    scores: Sequence[float]


@dataclass(frozen=True, slots=True)
class NoRanking:
    """A row that says nothing, by the name under which it is counted."""

    reason: str


class Layout(Protocol):
    """How preferences over images lie on disk. Its dataclass fields are the options of --layout."""

    def rankings(self, path: Path) -> Iterator[Ranking | NoRanking]:
        """Every row of an input, without reading its images.

        Raises ContractError, with the input and its row, at the first one that is not of this
        layout.
        """

    def read(self, path: Path, places: Sequence[ImagePlace]) -> Iterator[bytes | Path | None]:
        """The encoded image, or its file, at each place; None where there is nothing.

        The places are in the order of their rows. Raises ContractError for a file that is not
        below its folder.
        """


@dataclass(frozen=True, slots=True)
class NeededImage:
    """An image to encode: the number of its input, and where it is there."""

    input: int
    place: ImagePlace


@dataclass(frozen=True)
class Preferences:
    """The rows of all inputs, read anew each time."""

    inputs: Sequence[Path]
    layout: Layout
    rule: PairRule
    limit: int | None
    flip: bool

    def pairs(self, tally: Tally) -> Iterator[tuple[Pair, dict[str, NeededImage]]]:
        """Every pair, and its row's images by sample_id; the pair's parts are yet unknown.

        Two pairs of the same images are two judgements: the second one's id ends in -1. `tally`
        counts rows as prompts. Raises ContractError, with input and row, at the first wrong one.
        """
        earlier: Counter[str] = Counter()
        for number, row in itertools.islice(self.rows(), self.limit):
            if isinstance(row, NoRanking):
                tally.num_prompts += 1
                tally.dropped[row.reason] += 1
                continue
            images = {self.sample_id(number, at): NeededImage(number, at) for at in row.images}
            group = group_of(row, images)
            tally.add_group(group)
            for pair in pair_group(group, self.rule, tally):
                again = earlier[pair.pair_id]
                earlier[pair.pair_id] += 1
                yield replace(pair, pair_id=f"{pair.pair_id}-{again}") if again else pair, images

    def rows(self) -> Iterator[tuple[int, Ranking | NoRanking]]:
        for number, path in enumerate(self.inputs):
            for row in self.layout.rankings(path):
                yield number, row

    def sample_id(self, number: int, at: ImagePlace) -> str:
        """An image's own identity where that can be one, else a hash of it or of its place.

        A mirrored image that comes from outside is none of those that --flip makes.
        """
        own = ID.fullmatch(at.identity) and at.name != at.identity
        if own and not (self.flip and at.identity.endswith(FLIPPED)):
            return at.identity
        place = (at.identity,) if at.identity else (at.row, at.name)
        return f"{digest('image', number, input_name(self.inputs[number]), *place):016x}"

    def place(self, image: NeededImage) -> str:
        """Where an image is, for errors: its input, row, and column or file."""
        return f"{self.inputs[image.input]}:{image.place.row}: {image.place.name}"

    def source(self, image: NeededImage) -> str:
        """The same without folders, for records: it is equal wherever the input lies."""
        name = input_name(self.inputs[image.input])
        return f"{name}:{image.place.row}: {image.place.name}"


def input_name(path: Path) -> str:
    """The name of a file, or of a folder whatever it is called from where we are."""
    return path.name or path.resolve().name


def group_of(row: Ranking, images: Mapping[str, NeededImage]) -> Group:
    candidates = {
        sample_id: Candidate(sample_id=sample_id, agent="main", part="", scores=(score,))
        for sample_id, score in zip(images, row.scores, strict=True)
    }
    return Group(prompt_id(row.prompt), row.prompt, iteration=0, candidates=candidates)


def flipped(identity: str) -> str:
    """The id of a mirrored image, or of a pair of these."""
    return f"{identity}{FLIPPED}"


@dataclass(frozen=True)
class ExportedPair:
    """A pair with its images. `number` counts the pairs; `num_of_prompt` those of its prompt."""

    number: int
    num_of_prompt: int
    pair: Pair
    winner: EncodedFile
    loser: EncodedFile


class Export(Protocol):
    """How pairs lie on disk for others. Its dataclass fields are the options of --export."""

    images: ImageFormat
    """What images become that are not kept as files already."""

    def write(self, path: Path, pairs: Sequence[ExportedPair]) -> None:
        """Write a part, the file `path` last."""

    def finish(self, folder: Path, parts: Sequence[Path]) -> None:
        """Write what belongs to all parts, once they are done."""
