"""The counted tokens are the tokens that CLIP sees."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from expo_cli.core.prompts import normalise
from expo_cli.errors import ContractError, ExpoError
from expo_cli.stages.prep_prompts.token_counts import TokenCounter, clip_tokenizer, load_tokenizer
from tests.checkpoints.clip import clip_tokenizer as write_clip_files

CURIOUS = [
    "",
    " ",
    "a photo of a cat",
    "A PHOTO of a Cat!!!",
    "don't can't I'll they've we're it's 'tis o'clock y'all'd've",
    "rock'n'roll 's 't 're 've 'm 'll 'd ''s '''",
    "1234567890 3.14159 2nd 4k 8K 1920x1080",
    "(masterpiece:1.3), ((best quality)), [[blurry]], {{{sharp}}} <lora:x:0.8>",
    "cat,dog;bird:fish|frog/newt\\toad",
    "trailing punctuation ... !!! ??? --- ***",
    "tabs\tand\nnewlines\r\nand   many    blanks",
    "\u00a0\u2003\u3000unicode\u2028blanks\u200bzero\ufeffwidth",
    "na\u00efve caf\u00e9 cafe\u0301 \u00c5ngstr\u00f6m A\u030angstr\u00f6m",
    "\u0130stanbul I\u0307 \u1e9e stra\u00dfe \ufb01ne \u017f",
    "\u039f\u0394\u039f\u03a3 \u03a3\u03a3",
    "\u732b\u306e\u5199\u771f \uace0\uc591\uc774 \u043a\u043e\u0442 \u0642\u0637\u0629 \u05d7\u05ea\u05d5\u05dc",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
    "\U0001f431 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2764\ufe0f \U0001f44d\U0001f3fd",
    "\u00bd \u00b2 \u2163 \u0663 \U0001d7d8 \u4e94",
    "control \x07 bell \x1b[31mred\x00null",
    "\U0001d504\U0001d51f\U0001d520 \uff21\uff22\uff23",
    "https://example.com/a?b=c&d=e#f user@example.com #hashtag @name",
    "under_score __dunder__ kebab-case em\u2014dash en\u2013dash",
    "<|startoftext|> in the text <|endoftext|>",
    "a" * 300,
    "supercalifragilisticexpialidocious " * 10,
    "! " * 100,
]
WORDS = st.sampled_from([*CURIOUS, "cat", "Dog", "'s", "n't", "7", "!", "--", "\u00e9", "\u732b"])
TEXTS = st.one_of(st.text(), st.lists(WORDS, max_size=6).map(" ".join))


@pytest.fixture(scope="module")
def ours():
    return clip_tokenizer()


@pytest.fixture(scope="module")
def stable_diffusions(tmp_path_factory):
    return write_clip_files(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("text", CURIOUS)
def test_ids_are_those_of_stable_diffusions_tokenizer(text, ours, stable_diffusions):
    assert ours.encode(text).ids == stable_diffusions(text).input_ids


@given(TEXTS)
@settings(max_examples=100)
def test_ids_are_those_of_stable_diffusions_tokenizer_for_any_text(ours, stable_diffusions, text):
    assert ours.encode(text).ids == stable_diffusions(text).input_ids


# Only Stable Diffusion's tokenizer knows its end marks in a text; only Python's lower(), which
# open_clip uses, writes a sigma at the end of a word another way.
@pytest.mark.parametrize("text", [text for text in CURIOUS if not {"|", "\u03a3"} & {*text}])
def test_ids_are_those_of_open_clip(text, ours):
    """open_clip repairs text before it cuts it; on repaired text both agree."""
    from open_clip.tokenizer import SimpleTokenizer, basic_clean

    repaired = normalise(basic_clean(text))
    theirs = SimpleTokenizer()
    expected = [theirs.sot_token_id, *theirs.encode(repaired), theirs.eot_token_id]
    assert ours.encode(repaired).ids == expected


def test_both_end_marks_count(ours):
    counter = TokenCounter(ours)
    assert counter.by_word
    assert counter.count(["", "cat", "cat dog", "cat " * 75, "cat " * 76]) == [2, 3, 4, 77, 78]


@given(st.lists(TEXTS))
@settings(max_examples=100)
def test_a_texts_tokens_are_counted_by_its_words(ours, texts):
    assert TokenCounter(ours).count(texts) == [len(ours.encode(text).ids) for text in texts]


def test_words_are_counted_anew_when_too_many_are_kept(ours, monkeypatch):
    monkeypatch.setattr("expo_cli.stages.prep_prompts.token_counts.NUM_WORDS_KEPT", 2)
    counter = TokenCounter(ours)
    for _ in range(2):
        assert counter.count(["one two three", "one"]) == [5, 3]
        assert counter.count(["two"]) == [3]
        assert counter._known.keys() == {"two"}


def test_a_tokenizer_whose_tokens_hold_blanks_gets_whole_texts():
    tokenizer = Tokenizer(models.WordLevel({"cat dog": 0, "cat": 1, "?": 2}, unk_token="?"))
    counter = TokenCounter(tokenizer)
    assert not counter.by_word
    assert counter.count(["cat dog", "cat"]) == [1, 1]


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("tokenizer.json",)])
@pytest.mark.parametrize("below", ["", "tokenizer"])
def test_a_model_folders_own_tokenizer(names, below, tmp_path, stable_diffusions):
    write_clip_files(tmp_path / "all")
    stable_diffusions.save_pretrained(tmp_path / "all")
    folder = tmp_path / "model" / below
    folder.mkdir(parents=True)
    for name in names:
        (tmp_path / "all" / name).rename(folder / name)
    tokenizer, read = load_tokenizer(str(tmp_path / "model"))
    assert read == folder / names[0]
    counter = TokenCounter(tokenizer)
    assert counter.by_word
    assert counter.count(CURIOUS) == [len(ids) for ids in stable_diffusions(CURIOUS).input_ids]


def test_no_tokenizer(tmp_path):
    with pytest.raises(ExpoError, match="no such model folder"):
        load_tokenizer(str(tmp_path / "nothing"))
    with pytest.raises(ContractError, match="neither tokenizer.json nor"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ContractError, match="not a tokenizer"):
        load_tokenizer(str(tmp_path))


def test_counting_needs_no_torch():
    code = (
        "import sys\n"
        "from expo_cli.stages.prep_prompts.run import prepare_prompts\n"
        "from expo_cli.stages.prep_prompts.token_counts import clip_tokenizer\n"
        "clip_tokenizer()\n"
        "print([m for m in ('torch', 'transformers', 'open_clip') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
