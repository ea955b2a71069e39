import functools
import json
import signal
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expo_cli.config import PrepPromptsConfig, RunOptions
from expo_cli.contracts import jsonl
from expo_cli.contracts.ids import prompt_id
from expo_cli.contracts.records import Prompt
from expo_cli.core.prompts import identity, normalise, without_controls
from expo_cli.errors import ContractError, ExpoError, Interrupted
from expo_cli.stages.prep_prompts.run import prepare_prompts, sort_rows
from expo_cli.stages.prep_prompts.sieve import Pool, Sieve
from expo_cli.stages.prep_prompts.sources import PromptFile, Row
from expo_cli.stages.prep_prompts.token_counts import clip_tokenizer

QUIET = RunOptions(quiet=True)
TOKENIZER = functools.cache(clip_tokenizer)
MANY = [f"a photo of cat number {number}" for number in range(500)]


def prepare(inputs, out: Path, options: RunOptions = QUIET, **settings):
    return prepare_prompts([*map(str, inputs)], out, PrepPromptsConfig(**settings), options)


def texts(path: Path) -> list[str]:
    return [prompt.prompt for prompt in jsonl.read(path, Prompt)]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(folder: Path, prompts: list[str], name: str = "in.txt") -> Path:
    return written(folder, name, "".join(f"{prompt}\n" for prompt in prompts))


def test_prompts_of_some_categories(tmp_path):
    rows = [("a cat", "noto"), ("a dog", "flat"), ("an owl", "3d"), ("a fox", None)]
    text = "".join(json.dumps({"prompt": p, "category": c}) + "\n" for p, c in rows)
    source = written(tmp_path, "in.jsonl", text)
    result = prepare([source], tmp_path / "out.jsonl", category=("noto", "3d"))
    kept = jsonl.read(tmp_path / "out.jsonl", Prompt)
    assert [(prompt.prompt, prompt.category) for prompt in kept] == rows[::2]
    assert (result.counts["num_rows"], result.counts["num_other_categories"]) == (4, 2)
    with pytest.raises(ExpoError, match="no prompts are left: 4 rows: 4 of other categories"):
        prepare([source], tmp_path / "none.jsonl", category=("Noto",))


def test_what_is_dropped_is_counted_and_located(tmp_path):
    long = "cat " * 76  # 78 tokens with both end marks
    source = lines(tmp_path, ["A cat", "", "a  cat ", long, "cafe\u0301", "caf\u00e9", " \t", long])
    result = prepare([source], tmp_path / "out.jsonl")
    assert list(jsonl.read(tmp_path / "out.jsonl", Prompt)) == [
        Prompt(prompt_id=prompt_id("A cat"), prompt="A cat", num_tokens=4, source="in.txt:1"),
        Prompt(
            prompt_id=prompt_id("caf\u00e9"), prompt="caf\u00e9", num_tokens=3, source="in.txt:5"
        ),
    ]
    assert result.counts == {
        "num_rows": 8,
        "num_cleaned": 0,
        "num_empty": 2,
        "num_duplicates": 3,
        "num_too_long": 1,
        "num_not_sampled": 0,
        "num_train": 2,
        "num_heldout": 0,
        "first_dropped": {
            "empty": ["in.txt:2", "in.txt:7"],
            "duplicates": ["in.txt:3", "in.txt:6", "in.txt:8"],
            "too_long": ["in.txt:4 (78 tokens)"],
        },
    }
    run = json.loads((tmp_path / "out.jsonl.run.json").read_text())
    assert run["counts"] == result.counts
    assert len(run["inputs"]["input 1"]) == 64


PARQUET = pyarrow.table(
    {
        "caption": ["a cat", None, "a dog"],
        "jpg_0": [b"\xff", b"\xff", b"\xff"],
        "label_0": [1.0] * 3,
    }
)
HPDV2 = [{"prompt": "a cat", "file_path": ["1.jpg"]}, {"prompt": ""}, {"prompt": "a dog"}]


@pytest.mark.parametrize(
    ("name", "content", "config", "categories"),
    [
        ("p.txt", "\ufeffa cat\r\n\r\na dog", {}, [None, None]),
        ("p.csv", 'prompt,category\na cat,x\n\n"a\ndog",\n', {}, ["x", None]),
        ("p.jsonl", '{"prompt":"a cat","category":"x"}\n\n{"prompt":"a dog"}', {}, ["x", None]),
        (
            "p.tsv",
            "Prompt\tCategory\na cat\tx\n\t\na dog\ty\n",
            {"prompt_column": "Prompt", "category_column": "Category"},
            ["x", "y"],
        ),
        (
            "PartiPrompts.tsv",
            "Prompt\tCategory\tChallenge\tNote\na cat\tAnimals\tBasic\t\n\t\t\t\na dog\tArts\tBasic\tx\n",
            {"layout": "parti-prompts"},
            ["Animals", "Arts"],
        ),
        # As I2P's, whose first column is pandas' and has no name.
        (
            "i2p.csv",
            ',prompt,categories,hard,sd_seed\n0,a cat,"hate, shocking",0,1\n1,,x,0,2\n2,a dog,,1,3\n',
            {"category_column": "categories"},
            ["hate, shocking", None],
        ),
        ("p.parquet", PARQUET, {"layout": "pick-a-pic"}, [None, None]),
        ("p.parquet", PARQUET, {"prompt_column": "caption"}, [None, None]),
        ("train.json", json.dumps(HPDV2), {"layout": "hpdv2"}, [None, None]),
        (
            "anime.json",
            json.dumps(["a cat", "", "a dog"], indent=1),
            {"layout": "hps-benchmark"},
            ["anime", "anime"],
        ),
    ],
)
def test_every_layout(name, content, config, categories, tmp_path):
    source = tmp_path / name
    if isinstance(content, pyarrow.Table):
        pyarrow.parquet.write_table(content, source)
    else:
        source.write_bytes(content.encode())
    result = prepare([source], tmp_path / "out.jsonl", **config)
    prompts = list(jsonl.read(tmp_path / "out.jsonl", Prompt))
    assert [prompt.prompt for prompt in prompts] == ["a cat", "a dog"]
    assert [prompt.category for prompt in prompts] == categories
    assert (result.counts["num_rows"], result.counts["num_empty"]) == (3, 1)


PAGE_MARK, BYTE_ORDER_MARK = "\u2028", "\ufeff"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", BYTE_ORDER_MARK])
@pytest.mark.parametrize(
    ("name", "rows", "config"),
    [
        ("p.txt", [f"a{PAGE_MARK}cat", "a dog"], {}),
        ("p.csv", ["prompt,note", f'"a{PAGE_MARK}cat",1', "a dog,2"], {}),
        ("p.tsv", ["note\tprompt", f"1\ta{PAGE_MARK}cat", "2\ta dog"], {}),
        ("p.jsonl", [f'{{"prompt":"a{PAGE_MARK}cat"}}', '{"prompt":"a dog"}'], {}),
        ("p.json", ["[", f'"a{PAGE_MARK}cat",', '"a dog"]'], {"layout": "hps-benchmark"}),
    ],
)
def test_marks_and_line_ends_are_read_alike_in_all_layouts(name, rows, config, mark, end, tmp_path):
    source = written(tmp_path, name, mark + end.join(rows) + end)
    prepare([source], tmp_path / "out.jsonl", **config)
    prompts = list(jsonl.read(tmp_path / "out.jsonl", Prompt))
    assert [prompt.prompt for prompt in prompts] == ["a cat", "a dog"]
    if not config:
        assert prompts[1].source == f"{name}:{len(rows)}"


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("utf-32-be", "UTF-32"),
    ],
)
@pytest.mark.parametrize("layout", ["txt", "csv", "tsv", "jsonl", "hpdv2", "hps-benchmark"])
def test_another_encoding_is_named(encoding, name, layout, tmp_path):
    source = written(tmp_path, "prompts", "prompt\na cat\n".encode(encoding))
    with pytest.raises(ContractError, match=f"prompts:1: is {name}; convert it to UTF-8"):
        prepare([source], tmp_path / "out.jsonl", layout=layout)


def test_control_characters_are_left_out_and_counted(tmp_path):
    family = "\U0001f468\u200d\U0001f469"  # joined by a character that is not seen
    rows = ["a re\0d cat", "\x1b[31ma dog", "\u202eright to left", f"a {family}", "a\tbird"]
    result = prepare([lines(tmp_path, rows)], tmp_path / "out.jsonl")
    assert texts(tmp_path / "out.jsonl") == [
        *("a red cat", "[31ma dog", "right to left", f"a {family}", "a bird"),
    ]
    assert result.counts["num_cleaned"] == 3


@pytest.mark.parametrize("keep_all", [False, True])
def test_a_huge_row_is_dropped_and_counted_in_every_layout(keep_all, tmp_path):
    long = "very long prompt " * (1 << 16)
    rows = {
        "p.txt": f"{long}\na dog\n",
        "p.csv": f"prompt,note\n{long},1\na dog,2\n",
        "p.jsonl": f'{{"prompt":"{long}"}}\n{{"prompt":"a dog"}}\n',
        "p.json": f'["{long}", "a dog"]',
    }
    for name, content in rows.items():
        source = written(tmp_path, name, content)
        settings = {"layout": "hps-benchmark"} if name == "p.json" else {}
        out = tmp_path / f"{name}.out"
        result = prepare([source], out, keep_all=keep_all, **settings)
        assert texts(out) == ["a dog"]
        assert (result.counts["num_rows"], result.counts["num_too_long"]) == (2, 1)


@pytest.mark.parametrize(
    ("name", "header", "message"),
    [
        ("p.csv", "prompt,note,prompt", "has two columns 'prompt'"),
        ("p.csv", "prompt,note,note", "has two columns 'note'"),
        ("p.tsv", "prompt\tprompt", "has two columns 'prompt'"),
        ("p.csv", "prompt;note", "its columns seem to be separated by ';', not ','"),
        ("p.csv", "id\tprompt", "its columns seem to be separated by '\\t', not ','"),
        ("p.tsv", "prompt,note", "its columns seem to be separated by ',', not '\\t'"),
    ],
)
def test_a_header_that_is_not_clear_is_refused(name, header, message, tmp_path):
    source = written(tmp_path, name, f"{header}\n")
    with pytest.raises(ContractError) as raised:
        prepare([source], tmp_path / "out.jsonl")
    assert str(raised.value) == f"{source}:1: {message}"


def test_columns_without_a_name_may_be_several(tmp_path):
    source = written(tmp_path, "p.csv", ",prompt,,\n0,a cat,,\n")
    prepare([source], tmp_path / "out.jsonl")
    assert texts(tmp_path / "out.jsonl") == ["a cat"]


def test_tab_separated_values_are_not_quoted(tmp_path):
    source = written(tmp_path, "p.tsv", 'prompt\tnote\n"G I G G L E" painted\t"\nplain\t\n')
    prepare([source], tmp_path / "out.jsonl")
    assert texts(tmp_path / "out.jsonl") == ['"G I G G L E" painted', "plain"]


def test_a_negative_prompt_is_kept(tmp_path):
    source = written(tmp_path, "p.jsonl", '{"prompt":"a cat","negative_prompt":"blurry"}\n')
    prepare([source], tmp_path / "out.jsonl")
    [prompt] = jsonl.read(tmp_path / "out.jsonl", Prompt)
    assert prompt.negative_prompt == "blurry"


def test_output_can_be_prepared_again(tmp_path):
    prepare([lines(tmp_path, MANY)], tmp_path / "once.jsonl")
    prepare([tmp_path / "once.jsonl"], tmp_path / "twice.jsonl")
    assert texts(tmp_path / "twice.jsonl") == MANY


@pytest.mark.parametrize(
    ("name", "content", "config", "where", "what"),
    [
        ("p.txt", b"a cat\n\xff\n", {}, ":2", "not UTF-8"),
        ("p.jsonl", '{"prompt":"a"}\n{"prompt":"b', {}, ":2", "truncated"),
        ("p.jsonl", '{"prompt":7}\n', {}, ":1", "'prompt' must be text, got int"),
        ("p.jsonl", '"a cat"\n', {}, ":1", "Expected `object`"),
        ("p.jsonl", '{"Prompt":"a"}\n', {}, ":1", "no column 'prompt'; did you mean 'Prompt'?"),
        ("p.jsonl", "[" * 100_000, {}, ":1", "Expected `object`"),
        ("p.jsonl", '{"prompt":' + "[" * 100_000, {}, ":1", "recursion"),
        ("p.csv", "prompt,note\na,b\na,b,c\n", {}, ":3", "3 fields"),
        ("p.csv", 'prompt\n"a\n', {}, ":2", "unexpected end of data"),
        ("p.csv", "", {}, ":1", "no column 'prompt'"),
        ("p.csv", "promt\na\n", {}, ":1", "did you mean 'promt'?"),
        (
            "p.csv",
            "prompt,kind\na,b\n",
            {"category_column": "kid"},
            ":1",
            "no column 'kid'; did you mean 'kind'?",
        ),
        ("p.parquet", b"PAR1 broken", {}, "", "not a complete parquet file"),
        ("p.parquet", pyarrow.table({"Prompt": ["a"]}), {}, "", "did you mean 'Prompt'?"),
        ("p.parquet", pyarrow.table({"prompt": [1]}), {}, ":1", "must be text, got int"),
        ("a.json", '["a",\n"b', {"layout": "hps-benchmark"}, ":2", "not a JSON item"),
        ("a.json", '["a",\n7]', {"layout": "hps-benchmark"}, ":2", "item 2: expected a string"),
        ("a.json", '{"a":1}', {"layout": "hps-benchmark"}, ":1", "expected '['"),
        ("a.json", '["a" "b"]', {"layout": "hps-benchmark"}, ":1", "expected ','"),
        ("a.json", '["a"]\n["b"]', {"layout": "hps-benchmark"}, ":1", "something follows"),
        ("a.json", '["\\ud800"]', {"layout": "hps-benchmark"}, ":1", "not a JSON item"),
        ("a.json", b'["\xff"]', {"layout": "hps-benchmark"}, ":1", "not UTF-8"),
        ("a.json", '["a"]', {"layout": "hpdv2"}, ":1", "item 1: expected an object"),
    ],
)
def test_a_bad_row_stops_with_file_and_line(name, content, config, where, what, tmp_path):
    source = tmp_path / name
    if isinstance(content, pyarrow.Table):
        pyarrow.parquet.write_table(content, source)
    else:
        written(tmp_path, name, content)
    with pytest.raises(ContractError) as raised:
        prepare([source], tmp_path / "out.jsonl", **config)
    assert str(raised.value).startswith(f"{source}{where}: ")
    assert what in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["none.txt", "--out", "o"], 1, "none.txt: cannot be read: No such file"),
        (["bad.jsonl", "--out", "o"], 1, "expo: bad.jsonl:2: 'prompt' must be text, got int"),
        (["a.doc", "--out", "o"], 2, "give --layout"),
        (["a.json", "--out", "o"], 2, "--layout hpdv2 or --layout hps-benchmark"),
        (["a.txt", "--out", "a.txt"], 2, "is also an input"),
        (["a.txt", "--out", "./a.txt", "--overwrite"], 2, "is also an input"),
        (["a.txt", "--out", "o", "--heldout-out", "h"], 2, "needs --heldout-fraction"),
        (["a.txt", "--out", "o", "--heldout-sample", "3"], 2, "needs --heldout-fraction"),
        (["a.txt", "--out", "o", "--heldout-fraction", "1"], 2, "must be in [0, 1)"),
        (["a.txt", "--out", "-", "--json"], 2, "--json contradicts --out -"),
        (["a.txt", "--out", "-", "--heldout-fraction", ".5"], 2, "needs --heldout-out"),
        (["a.txt", "--out", "o", "--max-tokens", "2"], 1, "no prompts are left: 2 rows"),
        (["a.txt", "--out", "o", "--tokenizer", "./none"], 1, "no such model folder"),
    ],
)
def test_faults_are_one_line(arguments, code, what, tmp_path, expo):
    lines(tmp_path, ["a cat", "a dog"], "a.txt")
    lines(tmp_path, ['{"prompt":"a cat"}', '{"prompt":1}'], "bad.jsonl")
    done = expo("prep-prompts", *arguments, cwd=tmp_path)
    assert done.returncode == code
    assert what in done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "a.txt").read_text() == "a cat\na dog\n"


def test_held_out_prompts_stay_held_out(tmp_path):
    """Whatever else is in the input, in whichever order, whichever seed."""
    first, second = lines(tmp_path, MANY), lines(tmp_path, [*MANY[::-1][:300], "new"], "b.txt")
    prepare([first], tmp_path / "a" / "train.jsonl", heldout_fraction=0.2)
    prepare([second], tmp_path / "b" / "train.jsonl", heldout_fraction=0.2, seed=7, sample=100)
    heldout = set(texts(tmp_path / "a" / "heldout.jsonl"))
    assert 60 < len(heldout) < 140
    assert heldout & {*MANY[-300:]} == {*texts(tmp_path / "b" / "heldout.jsonl")} - {"new"}
    assert not heldout & {*texts(tmp_path / "b" / "train.jsonl")}
    assert [*texts(tmp_path / "a" / "train.jsonl")] == [p for p in MANY if p not in heldout]


def test_a_sample_depends_on_no_order_and_lies_in_a_larger_one(tmp_path):
    forward, backward = lines(tmp_path, MANY), lines(tmp_path, MANY[::-1], "backward.txt")
    small = texts(prepare([forward], tmp_path / "small.jsonl", sample=50).path)
    large = texts(prepare([forward], tmp_path / "large.jsonl", sample=80).path)
    turned = texts(prepare([backward], tmp_path / "turned.jsonl", sample=50).path)
    other = texts(prepare([forward], tmp_path / "other.jsonl", sample=50, seed=1).path)
    assert small == [prompt for prompt in MANY if prompt in small]
    assert (len(small), len(large)) == (50, 80)
    assert turned == small[::-1]
    assert {*small} < {*large}
    assert {*small} != {*other}


def test_both_sides_can_be_sampled(tmp_path):
    result = prepare(
        [lines(tmp_path, MANY)],
        tmp_path / "train.jsonl",
        heldout_fraction=0.5,
        sample=30,
        heldout_sample=20,
    )
    assert len(texts(result.path)) == result.counts["num_train"] == 30
    assert len(texts(result.heldout_path)) == result.counts["num_heldout"] == 20
    assert result.counts["num_not_sampled"] == 450


def test_a_benchmark_is_kept_whole_and_in_order(tmp_path):
    long = "cat " * 100
    anime = written(tmp_path, "anime.json", json.dumps(["b", "a", long, "A", "b"]))
    photo = written(tmp_path, "photo.json", json.dumps(["z", "b", "a"]))
    out = tmp_path / "out.jsonl"
    result = prepare([anime, photo], out, layout="hps-benchmark", keep_all=True)
    prompts = list(jsonl.read(out, Prompt))
    assert [prompt.prompt for prompt in prompts] == ["b", "a", long[:-1], "A", "b", "z", "b", "a"]
    assert [prompt.category for prompt in prompts] == ["anime"] * 5 + ["photo"] * 3
    assert result.counts["num_rows"] == result.counts["num_train"] == 8
    # The same prompt again is another line, drawn with other noise.
    b, a = prompt_id("b"), prompt_id("a")
    ids = [b, a, prompt_id(long[:-1]), prompt_id("A"), f"{b}-2", prompt_id("z"), f"{b}-3", f"{a}-2"]
    assert [prompt.prompt_id for prompt in prompts] == ids


@pytest.mark.parametrize("flags", [{"sample": 3}, {"max_tokens": 50}])
def test_keeping_all_contradicts_choosing(flags):
    with pytest.raises(ValueError, match="--keep-all contradicts"):
        PrepPromptsConfig(keep_all=True, **flags)


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.5]),
)
@settings(max_examples=50)
def test_rows_are_all_accounted_for(rows, sample, heldout_fraction):
    sieve = Sieve(TOKENIZER(), max_tokens=6)
    located = [(f"x:{number}", Row(number, text)) for number, text in enumerate(rows)]
    passed = [*sieve.passed(located[:3]), *sieve.passed(located[3:])]
    dropped = sieve.empty.count + sieve.duplicates.count + sieve.too_long.count
    assert sieve.num_rows == len(rows) == dropped + len(passed)
    keys = [identity(prompt.prompt) for prompt in passed]
    assert len(set(keys)) == len(keys)
    assert {identity(normalise(without_controls(text))) for text in rows} >= {*keys}
    with Pool(sample, seed=0) as pool:
        for prompt in passed:
            pool.add(prompt)
        assert len(list(pool.chosen())) == pool.num_chosen == min(sample, len(passed))


def test_a_second_run_does_nothing_and_another_one_is_refused(tmp_path, expo):
    source, out = lines(tmp_path, MANY), tmp_path / "train.jsonl"
    first = expo("prep-prompts", source, "--out", out, "--heldout-fraction", 0.1)
    assert (first.returncode, first.stdout) == (0, f"{out}\n")
    before = out.stat().st_mtime_ns
    again = expo("prep-prompts", source, "--out", out, "--heldout-fraction", 0.1)
    assert "nothing to do" in again.stderr
    assert out.stat().st_mtime_ns == before
    refused = expo("prep-prompts", source, "--out", out, "--heldout-fraction", 0.2)
    assert refused.returncode == 1
    assert "heldout_fraction=0.1, not 0.2" in refused.stderr
    anew = expo("prep-prompts", source, "--out", out, "--heldout-fraction", 0.2, "--overwrite")
    assert anew.returncode == 0
    (tmp_path / "heldout.jsonl").unlink()
    expo("prep-prompts", source, "--out", out, "--heldout-fraction", 0.2)
    assert len(texts(tmp_path / "heldout.jsonl")) + len(texts(out)) == len(MANY)


def test_standard_streams(expo):
    piped = expo("prep-prompts", "-", "--out", "-", input='{"prompt":"a  cat"}\n')
    [line] = piped.stdout.splitlines()
    assert json.loads(line)["prompt"] == "a cat"
    text = expo("prep-prompts", "-", "--layout", "txt", "--out", "-", "--quiet", input="a dog\n")
    assert json.loads(text.stdout)["prompt"] == "a dog"
    assert text.stderr == ""
    bad = expo("prep-prompts", "-", "--out", "-", input='{"prompt":"a"}\n{"prompt":1}\n')
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr == "expo: -:2: 'prompt' must be text, got int\n"


def test_dry_run_touches_nothing(tmp_path, expo):
    source = lines(tmp_path, MANY)
    done = expo("prep-prompts", source, "--out", tmp_path / "o.jsonl", "--dry-run", "--sample", 3)
    plan = json.loads(done.stdout)["plan"]
    assert (plan["sample"], plan["layouts"]) == (3, ["txt"])
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_limit_takes_the_first_rows(tmp_path):
    result = prepare([lines(tmp_path, MANY)], tmp_path / "out.jsonl", limit=7)
    assert texts(result.path) == MANY[:7]


def test_a_signal_stops_between_batches(tmp_path):
    source = lines(tmp_path, MANY)

    def files():
        signal.raise_signal(signal.SIGTERM)
        yield PromptFile(str(source), source, "txt")

    with Pool(None, 0) as train, Pool(None, 0) as heldout, pytest.raises(Interrupted):
        sort_rows(files(), PrepPromptsConfig(), Sieve(TOKENIZER(), 77), train, heldout)
