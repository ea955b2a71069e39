"""Preferences over existing images: the interfaces of layouts and exports, the rows of all inputs, and
the pairs that they form."""

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
    """The place of an image: row `row` of an input, under `name` (a column, or a file's path).

    `identity` identifies the image wherever it occurs; "" if only its place identifies it.
    """

    row: int
    name: str
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Ranking:
    """A row: two or more images of one prompt, each with a score; higher is better."""

    row: int
    prompt: str
    images: Sequence[ImagePlace]
    scores: Sequence[float]


@dataclass(frozen=True, slots=True)
class NoRanking:
    """A row without a ranking; `reason` is the name of its count."""

    reason: str


class Layout(Protocol):
    """A layout of preferences over images. Its dataclass fields are the options of --layout."""

    def rankings(self, path: Path) -> Iterator[Ranking | NoRanking]:
        """Yields every row of an input, without reading its images.

        Raises ContractError, with the input and row, at the first row that does not fit the
        layout.
        """

    def read(self, path: Path, places: Sequence[ImagePlace]) -> Iterator[bytes | Path | None]:
        """Yields the encoded image, or its file, at each place; None for a missing one.

        Places are in row order. Raises ContractError for a file outside its folder.
        """


@dataclass(frozen=True, slots=True)
class NeededImage:
    """An image to encode: the number of its input, and its place in it."""

    input: int
    place: ImagePlace


@dataclass(frozen=True)
class Preferences:
    """The rows of all inputs, read again at each use."""

    inputs: Sequence[Path]
    layout: Layout
    rule: PairRule
    limit: int | None
    flip: bool

    def pairs(self, tally: Tally) -> Iterator[tuple[Pair, dict[str, NeededImage]]]:
        """Yields every pair, with its row's images by sample_id; the parts are not known yet.

        Two pairs of the same images are two judgements: the second one's id ends in -1. `tally`
        counts rows as prompts. Raises ContractError, with input and row, at the first bad row.
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
        """The image's own identity if it is a valid id, else a hash of it or of its place.

        An imported id that looks like one made by --flip is hashed too.
        """
        own = ID.fullmatch(at.identity) and at.name != at.identity
        if own and not (self.flip and at.identity.endswith(FLIPPED)):
            return at.identity
        place = (at.identity,) if at.identity else (at.row, at.name)
        return f"{digest('image', number, input_name(self.inputs[number]), *place):016x}"

    def place(self, image: NeededImage) -> str:
        """The place of an image for error messages: its input, row, and column or file."""
        return f"{self.inputs[image.input]}:{image.place.row}: {image.place.name}"

    def source(self, image: NeededImage) -> str:
        """The place of an image for records, without folders: independent of the input's location."""
        name = input_name(self.inputs[image.input])
        return f"{name}:{image.place.row}: {image.place.name}"


def input_name(path: Path) -> str:
    """The name of a file or folder, also for relative paths such as `.`."""
    return path.name or path.resolve().name


def group_of(row: Ranking, images: Mapping[str, NeededImage]) -> Group:
    candidates = {
        sample_id: Candidate(sample_id=sample_id, agent="main", part="", scores=(score,))
        for sample_id, score in zip(images, row.scores, strict=True)
    }
    return Group(prompt_id(row.prompt), row.prompt, iteration=0, candidates=candidates)


def flipped(identity: str) -> str:
    """The id of a mirrored image or pair."""
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
    """A layout of pairs for other programs. Its dataclass fields are the options of --export.

    Parts of an export of your own are files `parts/part-00012`.
    """

    images: ImageFormat
    """Format for images that exist only as latents."""

    def write(self, path: Path, pairs: Sequence[ExportedPair]) -> None:
        """Write a part, the file `path` last."""

    def finish(self, folder: Path, parts: Sequence[Path]) -> None:
        """Write the files shared by all parts, once these are done."""
