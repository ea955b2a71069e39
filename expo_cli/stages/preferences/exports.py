"""The layouts of pairs that `expo make-pairs --export` writes, each a `preferences.protocol.Export`.

A new one needs a line in `registry.EXPORTS` and, for files of its own, in `contracts.kinds.EXPORTED`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet

from expo_cli.contracts.files import atomic
from expo_cli.contracts.ids import digest
from expo_cli.stages.common.image_files import ImageFormat
from expo_cli.stages.preferences.pair_images import EncodedFile
from expo_cli.stages.preferences.protocol import ExportedPair

ROWS_PER_GROUP = 100


# The types of Pick-a-Pic's columns in `datasets`.
PICK_A_PIC = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("created_at", pa.timestamp("ns")),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_0_url", pa.string()),
        ("image_1_uid", pa.string()),
        ("image_1_url", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()),
    ]
)


@dataclass(frozen=True)
class PickAPicExport:
    """`data/train-00000-of-00004.parquet` with Pick-a-Pic's columns, which diffusers' and
    Salesforce's Diffusion-DPO scripts read as `--dataset_name FOLDER`.

    A hash decides on which side the winner is, so that sides carry no information. jpg_0 and jpg_1
    hold images of any format; columns unknown to EXPO (times, URLs, users) are empty.
    """

    images: ImageFormat = "png"

    def write(self, path: Path, pairs: Sequence[ExportedPair]) -> None:
        table = pa.Table.from_pylist([self.row(pair) for pair in pairs], schema=PICK_A_PIC)
        with atomic(path) as file:
            pyarrow.parquet.write_table(table, file, row_group_size=ROWS_PER_GROUP)

    def row(self, exported: ExportedPair) -> dict[str, object]:
        pair = exported.pair
        sides = [(pair.winner.sample_id, exported.winner), (pair.loser.sample_id, exported.loser)]
        first = digest("side", pair.pair_id) % 2
        row = {
            "are_different": True,
            "best_image_uid": pair.winner.sample_id,
            "caption": pair.prompt,
            "has_label": True,
            "ranking_id": exported.number,
            "num_example_per_prompt": exported.num_of_prompt,
        }
        for side, (uid, image) in enumerate(sides if first == 0 else sides[::-1]):
            row |= {
                f"image_{side}_uid": uid,
                f"jpg_{side}": image.data,
                f"label_{side}": float(uid == pair.winner.sample_id),
            }
        return row

    def finish(self, folder: Path, parts: Sequence[Path]) -> None:
        pass


@dataclass(frozen=True)
class ImageFolderExport:
    """Image files and a `metadata.jsonl` with `winner_file_name`, `loser_file_name` and `prompt`,
    which `datasets` loads as an imagefolder with the columns winner, loser and prompt."""

    images: ImageFormat = "png"

    def write(self, path: Path, pairs: Sequence[ExportedPair]) -> None:
        lines = []
        for exported in pairs:
            pair, names = exported.pair, {}
            for role in ("winner", "loser"):
                image: EncodedFile = getattr(exported, role)
                name = f"{getattr(pair, role).sample_id}.{image.ending}"
                with atomic(path.with_suffix("") / name) as file:
                    file.write(image.data)
                names[f"{role}_file_name"] = f"images/{path.stem}/{name}"
            scores = {"winner_score": pair.winner_score, "loser_score": pair.loser_score}
            lines.append(msgspec.json.encode(names | {"prompt": pair.prompt} | scores) + b"\n")
        with atomic(path) as file:
            file.writelines(lines)

    def finish(self, folder: Path, parts: Sequence[Path]) -> None:
        with atomic(folder / "metadata.jsonl") as file:
            file.writelines(part.read_bytes() for part in parts)
