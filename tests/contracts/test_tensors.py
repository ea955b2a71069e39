import json
import pickle
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from expo_cli.contracts.tensors import (
    DTYPES,
    TensorFiles,
    open_tensors,
    read_tensors,
    write_tensors,
)
from expo_cli.errors import ContractError, ExpoError


def test_round_trip(tmp_path):
    path = tmp_path / "part-00000.safetensors"
    transposed = torch.arange(6, dtype=torch.float16).reshape(2, 3).T
    trained = torch.ones(2, requires_grad=True)
    write_tensors(path, {"a-main-1-0": transposed, "b": trained}, {"format": "pt"})
    read = read_tensors(path)
    assert read.keys() == {"a-main-1-0", "b"}
    assert torch.equal(read["a-main-1-0"], transposed)
    assert read["a-main-1-0"].dtype == torch.float16
    assert not read["b"].requires_grad
    with open_tensors(path) as file:
        assert file.metadata().keys() == {"format", "expo.sha256"}


def test_the_same_tensors_are_the_same_bytes(tmp_path):
    tensors = {name: torch.full((2,), float(len(name))) for name in ("b", "a", "ccc")}
    write_tensors(tmp_path / "1", tensors)
    write_tensors(tmp_path / "2", dict(reversed(tensors.items())))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def header_and_contents(data: bytes) -> tuple[dict, bytes]:
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return header, data[start:]


@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 3), max_size=3)),
    )
)
def test_but_for_the_metadata_a_file_is_what_safetensors_itself_writes(kinds):
    tensors = {
        name: (100 * torch.rand(shape)).to(getattr(torch, dtype))
        for name, (dtype, shape) in kinds.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.safetensors")
        write_tensors(path, tensors)
        assert header_and_contents(path.read_bytes()) == header_and_contents(save(tensors))
        assert all(
            torch.equal(tensor, tensors[name]) for name, tensor in read_tensors(path).items()
        )


class Trap:
    def __reduce__(self):
        return print, ("unpickled",)


@pytest.mark.parametrize("protocol", [None, 0, 1, 2, 3, 4, 5])
def test_a_pickle_is_refused_and_not_run(protocol, tmp_path, capsys):
    path = tmp_path / "part-00000.safetensors"
    if protocol is None:
        torch.save({"a": torch.zeros(1), "trap": Trap()}, path)
    else:
        path.write_bytes(pickle.dumps({"a": [1.0] * 20, "trap": Trap()}, protocol))
    with pytest.raises(ContractError, match="is a pickle|not a complete safetensors file"):
        read_tensors(path)
    assert capsys.readouterr().out == ""


def test_a_torch_file_is_called_a_pickle(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ContractError, match="is a pickle; only safetensors are read"):
        open_tensors(path)


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580])
def test_a_header_whose_length_begins_like_a_pickle_is_none(length, tmp_path):
    """A safetensors file begins with its header's length, little-endian: 640 is 80 02, as a pickle."""
    path = tmp_path / "t.safetensors"
    sizes = range(length - 200, length)
    files = (save({"a": torch.ones(2)}, {"note": "x" * size}) for size in sizes)
    path.write_bytes(next(file for file in files if file[:2] == length.to_bytes(2, "little")))
    assert read_tensors(path)["a"].tolist() == [1, 1]


@pytest.mark.parametrize("kept", [0, 4, 20, -1])
def test_a_truncated_file(kept, tmp_path):
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"a": torch.zeros(100)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ContractError, match="not a complete safetensors file"):
        read_tensors(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(ExpoError, match="none: cannot be read: No such file"):
        read_tensors(tmp_path / "none")


def test_single_tensors_of_many_files(tmp_path):
    paths = [tmp_path / f"part-{number:05d}.safetensors" for number in range(5)]
    for number, path in enumerate(paths):
        write_tensors(path, {"x": torch.full((2,), float(number))})
    files = TensorFiles(max_open=2)
    for number in (0, 1, 2, 0, 4, 3, 3, 1):
        assert files.get(paths[number], "x").tolist() == [number, number]
    with pytest.raises(ContractError, match="part-00001.safetensors: .*y"):
        files.get(paths[1], "y")
