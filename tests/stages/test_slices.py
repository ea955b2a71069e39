"""fp32 weights, gradients and moments spread over two processes that talk by gloo."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from expo_cli.stages.train.state import moments
from expo_cli.stages.train.weights import MasterWeights, Slices

# 15 and 5 elements: neither is even.
INPUTS = torch.arange(12, dtype=torch.float32).view(4, 3) / 10


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 5).bfloat16()


def train(masters: MasterWeights, model: torch.nn.Module, inputs: torch.Tensor) -> dict:
    """Two steps of AdamW on a mean over the inputs; all that a state holds of them."""
    optimizer = torch.optim.AdamW(masters.masters, lr=0.1)
    for _ in range(2):
        masters.clear_gradients()
        for row in inputs:
            (model(row.bfloat16()).float().square().sum() / len(inputs)).backward()
            masters.collect_gradients()
        optimizer.step()
        masters.publish()
    saved = masters.state() | moments(masters, optimizer)
    return {name: tensor.clone() for name, tensor in saved.items()}


def in_a_process(index: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=index, world_size=2
    )
    model = network()
    masters = MasterWeights(model.named_parameters(), Slices(index, 2))
    half = INPUTS[2 * index : 2 * index + 2]
    saved = train(masters, model, half)
    found = {
        "lengths": [len(master) for master in masters.masters],
        "saved": saved,
        "published": copy.deepcopy(model.state_dict()),
        "total": masters.total(torch.tensor(index + 1.0)),
    }
    masters.load_state({"weight": torch.ones(5, 3), "bias": torch.zeros(5)})
    found["loaded"] = masters.state()
    torch.save(found, f"{folder}/{index}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """What each process saw."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(in_a_process, (str(folder),), nprocs=2)
    return [torch.load(folder / str(index)) for index in range(2)]


def test_a_process_holds_half_of_each_tensor(found):
    assert [each["lengths"] for each in found] == [[8, 3], [8, 3]]


def test_the_slices_together_train_like_the_whole(found):
    model = network()
    whole = train(MasterWeights(model.named_parameters()), model, INPUTS)
    for each in found:
        assert each["saved"].keys() == whole.keys()
        for name, tensor in whole.items():
            assert each["saved"][name].shape == tensor.shape
            # Sums of bf16 gradients, in another order.
            torch.testing.assert_close(each["saved"][name], tensor, rtol=1e-5, atol=1e-7)
        for name, tensor in model.state_dict().items():
            assert each["published"][name].equal(tensor)


def test_sums_over_elements_are_those_of_all(found):
    assert [each["total"] for each in found] == [3.0, 3.0]


def test_a_whole_state_is_loaded(found):
    for each in found:
        assert each["loaded"]["weight"].equal(torch.ones(5, 3))
        assert each["loaded"]["bias"].equal(torch.zeros(5))
