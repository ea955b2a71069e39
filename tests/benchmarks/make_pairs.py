"""`expo make-pairs` against a pandas script.

    python -m tests.benchmarks.make_pairs [--prompts 25000]

Both read the records and the scores of a rollout of four images per prompt, leave out broken images,
and write the best and the worst image of each prompt to JSONL; the pairs are compared. Each way runs
in a process of its own. Needs pandas.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.alternating import alternate, report
from tests.benchmarks.children import Child, show_work

IMAGES_PER_PROMPT = 4


def expo(rollout: Path, out: Path) -> Callable[[], object]:
    from expo_cli.config import MakePairsConfig, PairImagesConfig, RunOptions
    from expo_cli.stages.make_pairs.run import make_pairs

    options = RunOptions(quiet=True, overwrite=True)
    return lambda: make_pairs([rollout], out, MakePairsConfig(), PairImagesConfig(), options, "0/1")


def pandas(rollout: Path, out: Path) -> Callable[[], object]:
    import pandas as pd

    def read(paths: list[Path]) -> pd.DataFrame:
        # Ids of digits alone are text too.
        types = {"sample_id": str, "prompt_id": str, "prompt": str}
        return pd.concat([pd.read_json(path, lines=True, dtype=types) for path in paths])

    def script() -> None:
        records = sorted(rollout.glob("part-?????.jsonl"))
        samples = read(records)
        samples["part"] = [
            f"rollout/{path.stem}.safetensors"
            for path in records
            for _ in path.read_text(encoding="utf-8").splitlines()
        ]
        checks = pd.json_normalize(samples["checks"].tolist())
        samples = samples[~(checks["nan"] | checks["black"]).to_numpy()]
        scores = read(sorted(rollout.glob("scores/part-*.judge.jsonl")))
        scored = samples.merge(scores[["sample_id", "score"]], on="sample_id", validate="1:1")
        groups = scored.groupby("prompt_id", sort=False)["score"]
        winners = scored.loc[groups.idxmax()].set_index("prompt_id")
        losers = scored.loc[groups.idxmin()].set_index("prompt_id")
        pairs = pd.DataFrame(
            {
                "prompt": winners["prompt"],
                "winner": winners[["sample_id", "part", "score"]].to_dict("records"),
                "loser": losers[["sample_id", "part", "score"]].to_dict("records"),
                "margin": winners["score"] - losers["score"],
            }
        )
        pairs = pairs[pairs["margin"] > 0].reset_index()
        pairs.to_json(out, orient="records", lines=True, double_precision=15)

    return script


WAYS = {"expo": expo, "pandas": pandas}


def pairs_of(path: Path) -> set[tuple[object, ...]]:
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {
        (
            pair["prompt_id"],
            pair["prompt"],
            *((pair[side]["sample_id"], pair[side]["part"]) for side in ("winner", "loser")),
            round(pair["margin"], 9),
        )
        for pair in lines
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=25_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.child:
        way, rollout, out = chosen.child
        show_work(WAYS[way](Path(rollout), Path(out)))
        return
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), chosen)


def measure(work: Path, arguments: argparse.Namespace) -> None:
    # Imported here: the children need none of it.
    from tests.scored import noise, write_scored

    write_scored(
        work / "rollout",
        rewards={"judge": lambda policy, number, index: noise(policy, number, index)},
        num_prompts=arguments.prompts,
        num_images=IMAGES_PER_PROMPT,
    )
    children = {
        name: Child(
            "tests.benchmarks.make_pairs", "--child", name, work / "rollout", work / f"{name}.jsonl"
        )
        for name in WAYS
    }
    seconds = alternate(children, arguments.rounds)
    expected = pairs_of(work / "expo.jsonl")
    assert pairs_of(work / "pandas.jsonl") == expected, "pandas: other pairs"
    report("make-pairs", arguments.prompts * IMAGES_PER_PROMPT, "scores", seconds)
    for name, child in children.items():
        print(f"  {name:<40} {child.peak_mib:10.0f} MiB at most")


if __name__ == "__main__":
    main()
