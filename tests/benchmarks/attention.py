"""A UNet's attention in training on a CPU: torch's fused kernel against the plain computation.

    python -m tests.benchmarks.attention [--precision fp32]

Forward and backward pass of diffusers' Attention, projections included, at the sizes of the embedded
model and of SD 1.5 from 64 to 512 pixels. `expo_cli.stages.train.policies` chooses by this.
"""

import argparse
from functools import partial
from statistics import median

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor

from expo_cli.stages.common.device import DTYPES
from tests.benchmarks.alternating import alternate, timed

TEXT_WIDTH = 768
# (batch, heads, width of a head, queries, keys); 77 keys are a prompt's.
SIZES = [
    (32, 3, 32, 64, 64),
    (32, 3, 32, 64, 77),
    (32, 5, 32, 16, 16),
    (4, 8, 40, 64, 64),
    (4, 8, 40, 64, 77),
    (4, 8, 40, 256, 256),
    (4, 8, 80, 256, 77),
    (2, 8, 40, 576, 576),
    (2, 8, 40, 1024, 1024),
    (2, 8, 40, 1024, 77),
    (1, 8, 40, 4096, 4096),
]


def forward_and_backward(
    attention: Attention, processor: object, states: Tensor, texts: Tensor | None
) -> None:
    attention.set_processor(processor)
    attention(states, encoder_hidden_states=texts).sum().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="Only the first so many.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dtype = DTYPES[options.precision]
    print(f"{options.precision}: milliseconds of a forward and backward pass")
    print("batch  heads x width  queries   keys     plain     fused  fused / plain")
    for batch, heads, width, queries, keys in SIZES[: options.sizes]:
        states = torch.randn(batch, queries, heads * width, dtype=dtype, requires_grad=True)
        texts = torch.randn(batch, keys, TEXT_WIDTH, dtype=dtype) if keys == 77 else None
        text_width = None if texts is None else TEXT_WIDTH
        attention = Attention(heads * width, text_width, heads, dim_head=width).to(dtype)
        ways = {
            name: timed(partial(forward_and_backward, attention, processor, states, texts))
            for name, processor in (("plain", AttnProcessor()), ("fused", AttnProcessor2_0()))
        }
        seconds = alternate(ways, options.rounds)
        plain, fused = (1000 * median(seconds[name]) for name in ways)
        ratio = median(f / p for f, p in zip(seconds["fused"], seconds["plain"], strict=True))
        print(
            f"{batch:5}  {heads:5} x {width:<5}  {queries:7}  {keys:5}  {plain:8.1f}  {fused:8.1f}"
            f"  {ratio:13.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
