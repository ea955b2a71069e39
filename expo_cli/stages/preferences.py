"""Preferences over images that exist: what a layout of such data is to `expo make-pairs`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


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
