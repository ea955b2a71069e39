"""The image grid of a report as one PNG, for places that cannot show a page."""

import io
import textwrap
import warnings
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from expo_cli.report.gallery import GridRow
from expo_cli.report.plots import STYLE, encode

INCHES_AN_IMAGE = 1.0
CHARACTERS_PER_LINE = 17


def contact_sheet(grid: Sequence[GridRow], labels: Sequence[str]) -> bytes:
    """A PNG with one column per prompt (one seed each) and one row per policy; white if an image is missing."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # Letters that the font lacks are shown as boxes; the warning would not help anyone.
        warnings.filterwarnings("ignore", "Glyph ")
        size = (INCHES_AN_IMAGE * (len(grid) + 0.9), INCHES_AN_IMAGE * (len(labels) + 0.6))
        figure = Figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
        axes = figure.subplots(len(labels), len(grid), squeeze=False)
        for row, label in zip(axes, labels, strict=True):
            row[0].set_ylabel(label, rotation=0, horizontalalignment="right", fontsize=8)
        for column, prompt in enumerate(grid):
            # parse_math: dollar signs in a prompt are not a formula.
            title = "\n".join(textwrap.wrap(prompt.prompt, CHARACTERS_PER_LINE)[:4])
            axes[0, column].set_title(
                title, fontsize=6, fontweight="normal", loc="center", pad=4, parse_math=False
            )
            for row, picture in enumerate(prompt.pictures):
                axis = axes[row, column]
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
                axis.grid(visible=False)
                if picture.webp:
                    axis.imshow(np.asarray(Image.open(io.BytesIO(picture.webp))))
        return encode(figure, "png")
