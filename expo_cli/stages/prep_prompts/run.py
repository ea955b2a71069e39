"""`expo prep-prompts`: reads prompts, drops duplicates and long ones, splits and samples them.

Prompts are kept in a temporary file until the last input is read, so that a bad row leaves no
output. Memory holds a hash of each distinct prompt, not the prompts.
"""

import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from expo_cli.config import PrepPromptsConfig, RunOptions
from expo_cli.contracts import jsonl
from expo_cli.contracts.files import sha256
from expo_cli.contracts.kinds import Prompts
from expo_cli.contracts.outputs import Input
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.sources import shipped
from expo_cli.core.prompts import is_heldout
from expo_cli.errors import ExpoError, UsageError
from expo_cli.stages.common.progress import Notes, seconds_since
from expo_cli.stages.common.stopping import stop_on_signal
from expo_cli.stages.prep_prompts.sieve import Pool, Sieve
from expo_cli.stages.prep_prompts.sources import PromptFile, Row, read_rows, resolve_layout
from expo_cli.stages.prep_prompts.token_counts import load_tokenizer, vocabulary_sha256

ROWS_PER_BATCH = 4096


@dataclass(frozen=True)
class PrepPromptsResult:
    """`counts` add up: num_rows = num_empty + num_duplicates + num_too_long + num_not_sampled +
    num_train + num_heldout, with --category + num_other_categories; `first_dropped` has the places of the first ones of each kind.
    `num_cleaned` rows contained control characters, which were removed.
    """

    path: Path
    heldout_path: Path | None
    plan: dict[str, Any]
    counts: dict[str, Any]


def prepare_prompts(
    inputs: Sequence[str],
    out: Path,
    config: PrepPromptsConfig,
    options: RunOptions,
    heldout_out: Path | None = None,
) -> PrepPromptsResult:
    """Write the prompts of `inputs` to `out` and the held-out ones to another file.

    `-` is standard input or output. Raises ContractError with file and line for a bad row,
    ExpoError when no prompt is left, UsageError for flags that contradict each other.
    """
    started = time.monotonic()
    notes = Notes(options)
    to_stdout = out == jsonl.STANDARD_STREAM
    if to_stdout and options.json and not options.dry_run:
        raise UsageError("--json contradicts --out -: both would write to standard output")
    heldout_path = choose_heldout_path(out, heldout_out, config)
    layouts = [resolve_layout(name, config.layout) for name in inputs]
    # Records name the file that they come from, so its name affects the output.
    plan = {name: value for name, value in asdict(config).items() if name != "tokenizer"} | {
        "inputs": [Path(name).name for name in inputs],
        "category": config.category or None,
    }
    free = {"inputs": list(inputs), "tokenizer": config.tokenizer}
    read = [Input("an input", Path(name)) for name in map(shipped, inputs) if str(name) != "-"]
    paths = [path for path in (out, heldout_path) if path not in (None, jsonl.STANDARD_STREAM)]
    outputs = [Prompts(path) for path in paths]
    for output in outputs:
        output.check_place(read)
    if options.dry_run:
        return PrepPromptsResult(out, heldout_path, plan | free | {"layouts": layouts}, counts={})

    with ExitStack() as stack:
        files = [
            PromptFile(name, stack.enter_context(local_file(name)), layout)
            for name, layout in zip(inputs, layouts, strict=True)
        ]
        tokenizer, vocabulary = load_tokenizer(config.tokenizer)
        digests = {f"input {n}": sha256(file.path) for n, file in enumerate(files, start=1)}
        digests["tokenizer"] = vocabulary_sha256(vocabulary)
        run = Run(command="prep-prompts", plan=plan, free=free, inputs=digests)
        finished = [output.finished(run, read, options.overwrite) for output in outputs]
        if not to_stdout and all(finished):
            notes.say(f"prep-prompts: nothing to do, {out} is made")
            return PrepPromptsResult(out, heldout_path, plan | free, finished[0].counts)

        with temporary_space():
            train = stack.enter_context(Pool(config.sample, config.seed))
            heldout = stack.enter_context(Pool(config.heldout_sample, config.seed))
        sieve = Sieve(tokenizer, config.max_tokens, config.keep_all, config.category)
        sort_rows(files, config, sieve, train, heldout)
        counts = count(sieve, train, heldout)
        if not counts["num_train"]:
            raise ExpoError(f"no prompts are left: {summary(counts, config.max_tokens)}")
        with temporary_space(), ExitStack() as making:
            for output in outputs:
                making.enter_context(output.making(run, options.overwrite))
            if heldout_path:
                jsonl.write(heldout_path, heldout.chosen())
            jsonl.write(out, train.chosen())
    seconds = seconds_since(started)
    for output in outputs:
        output.finish(replace(run, counts=counts, seconds=seconds))
    notes.say(f"prep-prompts: {summary(counts, config.max_tokens)}")
    if counts["num_cleaned"]:
        notes.say(
            f"prep-prompts: {counts['num_cleaned']} rows contained control characters, which were removed"
        )
    if config.sample and counts["num_train"] < config.sample:
        notes.say(f"prep-prompts: fewer prompts than --sample {config.sample} asks for")
    return PrepPromptsResult(out, heldout_path, plan | free, counts)


def choose_heldout_path(
    out: Path, heldout_out: Path | None, config: PrepPromptsConfig
) -> Path | None:
    """The file for held-out prompts: `heldout_out`, or `heldout.jsonl` next to `out`.

    Raises UsageError when the flags contradict each other.
    """
    if heldout_out and not config.heldout_fraction:
        raise UsageError("--heldout-out needs --heldout-fraction")
    if config.heldout_fraction and not heldout_out and out == jsonl.STANDARD_STREAM:
        raise UsageError("--heldout-fraction with --out - needs --heldout-out FILE")
    if not config.heldout_fraction:
        return None
    path = heldout_out or Path(out.parent, "heldout.jsonl")
    if path.resolve() == out.resolve():
        raise UsageError(f"--out and --heldout-out are both {out}")
    return path


@contextmanager
def local_file(name: str) -> Iterator[Path]:
    """A path that can be read twice: standard input and pipes are copied to a temporary file."""
    if name != str(jsonl.STANDARD_STREAM):
        path = shipped(name)
        if not path.is_fifo():
            yield path
            return
    elif sys.stdin is None:
        raise ExpoError("-: standard input is closed")
    with ExitStack() as stack:
        with temporary_space():
            copy = stack.enter_context(tempfile.NamedTemporaryFile())
            with path.open("rb") if name != "-" else nullcontext(sys.stdin.buffer) as source:
                shutil.copyfileobj(source, copy)
            copy.flush()
        yield Path(copy.name)


@contextmanager
def temporary_space() -> Iterator[None]:
    """Turn an OSError of the temporary folder into ExpoError that names it."""
    try:
        yield
    except BrokenPipeError:  # the error is one of standard output
        raise
    except OSError as error:
        folder = os.environ.get("TMPDIR") or "the temporary folder"
        raise ExpoError(
            f"{folder}: {error.strerror or error}; set TMPDIR to another folder"
        ) from error


def sort_rows(
    files: Sequence[PromptFile],
    config: PrepPromptsConfig,
    sieve: Sieve,
    train: Pool,
    heldout: Pool,
) -> None:
    """Put every prompt that passes the sieve into its pool.

    Raises Interrupted when a signal asks to stop, ExpoError when the temporary folder is full.
    """
    rows = itertools.islice(located_rows(files, config), config.limit)
    with stop_on_signal() as stop:
        while batch := list(itertools.islice(rows, ROWS_PER_BATCH)):
            prompts = list(sieve.passed(batch))
            with temporary_space():
                for prompt in prompts:
                    pool = heldout if is_heldout(prompt.prompt, config.heldout_fraction) else train
                    pool.add(prompt)
            stop.check()


def located_rows(
    files: Sequence[PromptFile], config: PrepPromptsConfig
) -> Iterator[tuple[str, Row]]:
    """Each row with its place, as NAME:NUMBER without folders."""
    for file in files:
        name = Path(file.name).name
        for row in read_rows(file, config.prompt_column, config.category_column):
            yield f"{name}:{row.number}", row


def count(sieve: Sieve, train: Pool, heldout: Pool) -> dict[str, Any]:
    others = {"num_other_categories": sieve.num_other_categories} if sieve.categories else {}
    return others | {
        "num_rows": sieve.num_rows,
        "num_cleaned": sieve.num_cleaned,
        "num_empty": sieve.empty.count,
        "num_duplicates": sieve.duplicates.count,
        "num_too_long": sieve.too_long.count,
        "num_not_sampled": train.num_left_out + heldout.num_left_out,
        "num_train": train.num_chosen,
        "num_heldout": heldout.num_chosen,
        "first_dropped": {
            "empty": sieve.empty.examples,
            "duplicates": sieve.duplicates.examples,
            "too_long": sieve.too_long.examples,
        },
    }


def summary(counts: dict[str, Any], max_tokens: int) -> str:
    others = counts.get("num_other_categories")
    return (
        f"{counts['num_rows']} rows: {'' if others is None else f'{others} of other categories, '}"
        f"{counts['num_empty']} empty, "
        f"{counts['num_duplicates']} duplicates, {counts['num_too_long']} over {max_tokens} tokens, "
        f"{counts['num_not_sampled']} not sampled; "
        f"{counts['num_train']} prompts to train on, {counts['num_heldout']} held out"
    )
