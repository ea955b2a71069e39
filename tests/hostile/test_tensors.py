"""Safetensors that are damaged or have wrong headers: they are read correctly, or refused in one line."""

import itertools
import json
import struct

import numpy as np
import torch

from expo_cli.contracts.tensors import TensorFiles, read_tensors, write_tensors
from tests.hostile.damage import (
    WHOLE_FILES,
    at,
    bytes_changed,
    every,
    read_or_fault,
    truncations,
)

TENSORS = {"a": torch.arange(6, dtype=torch.float16).reshape(2, 3), "b": torch.ones(4)}
HEADER = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
DTYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "I64": np.int64}


def file(header: object, data: bytes = bytes(8), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(**changes: object) -> dict:
    return {"a": HEADER["a"] | changes}


LIES = {
    "a header of 10^15 bytes": file(b"{}", length=10**15),
    "a header of 2^64-1 bytes": file(b"{}", length=2**64 - 1),
    "a header of 100 MB": file(b"{}", length=100_000_000),
    "no header": file(b"", b""),
    "a header of blanks": file(b"{" + b" " * 20_000_000 + b"}", b""),
    "a negative shape": file(entry(shape=[-2])),
    "a shape of 2^64": file(entry(shape=[2**62, 4])),
    "a shape of 2^66": file(entry(shape=[2**33, 2**33])),
    "another shape": file(entry(shape=[3])),
    "an end of 10^15": file(entry(data_offsets=[0, 10**15])),
    "an end before the beginning": file(entry(data_offsets=[8, 0])),
    "an unknown type": file(entry(dtype="X")),
    "numbers of 4 bits": file(entry(dtype="F4", shape=[16])),
    "bfloat16": file(entry(dtype="BF16", shape=[4])),
    "truths that are 2": file(entry(dtype="BOOL", shape=[8]), b"\2" * 8),
    "a scalar": file(entry(dtype="F64", shape=[])),
    "nothing": file(entry(shape=[0], data_offsets=[0, 0]), b""),
    "no tensors": file({}, b""),
    "numbers as metadata": file({"__metadata__": {"a": 1}}, b""),
    "two tensors of one place": file({"a": HEADER["a"], "b": HEADER["a"]}),
    "a gap": file(entry(data_offsets=[8, 16]), bytes(16)),
    "a byte too many": file(HEADER, bytes(9)),
    "depth": file(b'{"a":' + b"[" * 100_000),
    "half a surrogate pair": file(b'{"\\ud800":' + json.dumps(HEADER["a"]).encode() + b"}"),
    "a path as a name": file({"../a": HEADER["a"]}),
    "101 dimensions": file(entry(shape=[1] * 100 + [2])),
}


def other_reading(data: bytes) -> dict[str, list]:
    """The tensors by a reading of the format's description."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(body[slice(*each["data_offsets"])], DTYPES[each["dtype"]]).tolist()
        for name, each in header.items()
        if each["dtype"] in DTYPES
    }


def test_damaged_files_and_lying_headers(tmp_path):
    path = tmp_path / "part-00000.safetensors"
    write_tensors(path, TENSORS, {"format": "pt"})
    good = path.read_bytes()
    no_text = ("UTF-16", "UTF-16 without BOM")

    def check(data: bytes) -> None:
        path.write_bytes(data)
        for framework in ("pt", "numpy"):
            found = read_or_fault(lambda f=framework: read_tensors(path, f), at(path))
            if found is not None:
                for name, values in other_reading(data).items():
                    np.testing.assert_equal(found[name].flatten().tolist(), values)
        files = TensorFiles()
        read_or_fault(lambda: (files.get(path, "a"), files.get(path, "b")), at(path))

    every(
        itertools.chain(
            LIES.items(),
            truncations(good),
            bytes_changed(good, 2000),
            ((name, change(good)) for name, change in WHOLE_FILES.items() if name not in no_text),
        ),
        check,
    )


def test_what_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        assert read_or_fault(lambda path=path: read_tensors(path), at(path)) is None
