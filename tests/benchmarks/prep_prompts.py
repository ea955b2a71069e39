"""`expo prep-prompts` against a pandas and a `datasets` script.

    python -m tests.benchmarks.prep_prompts [--rows 100000] [--layout parquet]

All drop empty rows and duplicates after Unicode and white-space normalisation, count CLIP tokens with
the same fast tokenizer, drop what is too long, hold out by the same hash, and sample by the same
hash; the prompts are compared. Each way runs in a process of its own. Needs pandas and datasets.
"""

import argparse
import csv
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.alternating import alternate, report
from tests.benchmarks.children import Child, show_work

HELDOUT_FRACTION = 0.05
MAX_TOKENS = 77
# What `map` of `datasets` takes at a time by default.
ROWS_PER_BATCH = 1000


def write_rows(path: Path, count: int) -> None:
    """Prompts of 1 to 90 words; some empty, a fifth of them said before in another way."""
    rng = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "é")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(5000)]
    texts: list[str] = []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.01:
            texts.append(" ")
        elif kind < 0.2 and texts:
            texts.append(rng.choice(texts).title().replace(" ", "  "))
        else:
            length = rng.randint(60, 90) if kind > 0.98 else rng.randint(1, 30)
            texts.append(" ".join(rng.choices(words, k=length)))
    rows = [(text, f"category {number % 7}") for number, text in enumerate(texts)]
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("prompt", "category"), *rows])
    elif path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"prompt": p, "category": c}) + "\n" for p, c in rows)
    else:
        import pyarrow
        import pyarrow.parquet

        prompts, categories = zip(*rows, strict=True)
        table = pyarrow.table({"prompt": list(prompts), "category": list(categories)})
        pyarrow.parquet.write_table(table, path)


def expo(source: Path, out: Path, sample: int, tokenizer: Path) -> Callable[[], object]:
    from expo_cli.config import PrepPromptsConfig, RunOptions
    from expo_cli.stages.prep_prompts.run import prepare_prompts

    config = PrepPromptsConfig(
        heldout_fraction=HELDOUT_FRACTION, sample=sample, tokenizer=str(tokenizer.parent)
    )
    return lambda: prepare_prompts([str(source)], out, config, RunOptions(quiet=True))


def fast_tokenizer(tokenizer: Path) -> Callable[[list[str]], list[int]]:
    """The number of tokens of each text."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer))
    return lambda texts: [len(ids) for ids in fast(texts)["input_ids"]]


def pandas(source: Path, out: Path, sample: int, tokenizer: Path) -> Callable[[], object]:
    import pandas as pd

    from expo_cli.core.prompts import is_heldout, sample_rank

    count_tokens = fast_tokenizer(tokenizer)
    read = {
        ".csv": pd.read_csv,
        ".jsonl": lambda path: pd.read_json(path, lines=True),
        ".parquet": pd.read_parquet,
    }[source.suffix]

    def script() -> None:
        frame = read(source)
        frame["prompt"] = frame["prompt"].str.normalize("NFC").str.split().str.join(" ")
        frame = frame[frame["prompt"] != ""]
        frame = frame[~frame["prompt"].str.lower().duplicated()]
        texts = frame["prompt"].tolist()
        frame["num_tokens"] = [
            length
            for start in range(0, len(texts), ROWS_PER_BATCH)
            for length in count_tokens(texts[start : start + ROWS_PER_BATCH])
        ]
        frame = frame[frame["num_tokens"] <= MAX_TOKENS]
        heldout = frame["prompt"].map(lambda text: is_heldout(text, HELDOUT_FRACTION))
        frame[heldout].to_json(out.with_name("heldout.jsonl"), orient="records", lines=True)
        train = frame[~heldout]
        ranks = train["prompt"].map(lambda text: sample_rank(0, text))
        train = train.loc[ranks.nsmallest(sample).index].sort_index()
        train.to_json(out, orient="records", lines=True)

    return script


def datasets(source: Path, out: Path, sample: int, tokenizer: Path) -> Callable[[], object]:
    import datasets as hf

    from expo_cli.core.prompts import is_heldout, normalise, sample_rank

    hf.disable_progress_bars()
    count_tokens = fast_tokenizer(tokenizer)
    kind = {".csv": "csv", ".jsonl": "json", ".parquet": "parquet"}[source.suffix]

    def script() -> None:
        # A cache of its own for each run, or a second run would find the first one's rows.
        with tempfile.TemporaryDirectory() as cache:
            rows = hf.load_dataset(kind, data_files=str(source), split="train", cache_dir=cache)
            rows = rows.map(lambda row: {"prompt": normalise(row["prompt"])})
            seen: set[str] = set()

            def is_new(prompt: str) -> bool:
                known = prompt.lower() in seen
                seen.add(prompt.lower())
                return bool(prompt) and not known

            rows = rows.filter(is_new, input_columns="prompt", new_fingerprint="new")
            rows = rows.map(
                lambda batch: {"num_tokens": count_tokens(batch["prompt"])}, batched=True
            )
            rows = rows.filter(lambda length: length <= MAX_TOKENS, input_columns="num_tokens")
            heldout = [is_heldout(prompt, HELDOUT_FRACTION) for prompt in rows["prompt"]]
            rows.select([i for i, held in enumerate(heldout) if held]).to_json(
                out.with_name("heldout.jsonl")
            )
            train = rows.select([i for i, held in enumerate(heldout) if not held])
            ranks = [sample_rank(0, prompt) for prompt in train["prompt"]]
            first = sorted(range(len(train)), key=ranks.__getitem__)[:sample]
            train.select(sorted(first)).to_json(out)

    return script


WAYS = {"expo": expo, "pandas": pandas, "datasets": datasets}


def prompts_of(folder: Path) -> list[list[tuple[str, int]]]:
    """Prompt and number of tokens of each line, of both files."""
    return [
        [
            (row["prompt"], row["num_tokens"])
            for row in map(json.loads, (folder / name).read_text(encoding="utf-8").splitlines())
        ]
        for name in ("prompts.jsonl", "heldout.jsonl")
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--layout", choices=["csv", "jsonl", "parquet"], default="csv")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.child:
        way, source, out, tokenizer = chosen.child
        show_work(WAYS[way](Path(source), Path(out), chosen.rows // 4, Path(tokenizer)))
        return
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), chosen)


def measure(work: Path, arguments: argparse.Namespace) -> None:
    from expo_cli.stages.prep_prompts.token_counts import clip_tokenizer

    tokenizer = work / "tokenizer" / "tokenizer.json"
    tokenizer.parent.mkdir()
    clip_tokenizer().save(str(tokenizer))
    source = work / f"rows.{arguments.layout}"
    write_rows(source, arguments.rows)
    children = {}
    for name in arguments.ways:
        out = work / name / "prompts.jsonl"
        out.parent.mkdir()
        paths = (source, out, tokenizer)
        children[name] = Child(
            "tests.benchmarks.prep_prompts", "--rows", arguments.rows, "--child", name, *paths
        )

    def once(name: str) -> Callable[[], float]:
        def way() -> float:
            for old in (work / name).iterdir():
                old.unlink()
            return children[name]()

        return way

    seconds = alternate({name: once(name) for name in children}, arguments.rounds)
    expected = prompts_of(work / arguments.ways[0])
    for name in arguments.ways[1:]:
        assert prompts_of(work / name) == expected, f"{name}: other prompts"
    report(f"prep-prompts, {arguments.layout}", arguments.rows, "rows", seconds)
    for name, child in children.items():
        print(f"  {name:<40} {child.peak_mib:10.0f} MiB at most")


if __name__ == "__main__":
    main()
