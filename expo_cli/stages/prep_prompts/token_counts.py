"""Counts a prompt's tokens, offline and without torch."""

import gzip
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from expo_cli.contracts.files import sha256
from expo_cli.contracts.identity import parts_sha256
from expo_cli.contracts.sources import model_folder
from expo_cli.errors import ContractError

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
NUM_MERGES = 48_894
# Bounds the memory for counting to about 10 MB.
NUM_WORDS_KEPT = 100_000


def clip_vocabulary() -> Path:
    """The merges that OpenAI published with CLIP, as shipped by open_clip."""
    # find_spec does not import open_clip, which would import torch.
    [package] = find_spec("open_clip").submodule_search_locations
    return Path(package) / "bpe_simple_vocab_16e6.txt.gz"


def clip_tokenizer() -> Tokenizer:
    """CLIP's byte-pair encoding, with the same ids as Stable Diffusion's CLIPTokenizer."""
    lines = gzip.decompress(clip_vocabulary().read_bytes()).decode().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 1 + NUM_MERGES]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *map("".join, merges), START, END]
    return byte_pairs({token: index for index, token in enumerate(tokens)}, merges)


def byte_pairs(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """CLIP's tokenizer: splits text into words and these into `vocabulary`, with start and end token."""
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.RobertaProcessing(
        (END, vocabulary[END]), (START, vocabulary[START]), add_prefix_space=False
    )
    return tokenizer


def load_tokenizer(source: str | None) -> tuple[Tokenizer, Path]:
    """The tokenizer of a model folder, tokenizer folder or hub id, and the file it was read from.

    None is CLIP's own tokenizer. Raises ExpoError when there is no such folder, ContractError when it holds
    neither `tokenizer.json` nor the `vocab.json` and `merges.txt` of a CLIPTokenizer.
    """
    if source is None:
        return clip_tokenizer(), clip_vocabulary()
    folder = model_folder(source)
    if (folder / "tokenizer").is_dir():
        folder = folder / "tokenizer"
    whole, vocabulary, merges = (
        folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt")
    )
    try:
        if whole.exists():
            tokenizer = Tokenizer.from_file(str(whole))
            tokenizer.no_truncation()
            tokenizer.no_padding()
            return tokenizer, whole
        lines = merges.read_text(encoding="utf-8").splitlines()
        pairs = [tuple(line.split()) for line in lines if not line.startswith("#version")]
        return byte_pairs(json.loads(vocabulary.read_text(encoding="utf-8")), pairs), vocabulary
    except FileNotFoundError as error:
        raise ContractError(
            f"{folder}: holds neither tokenizer.json nor vocab.json and merges.txt"
        ) from error
    except Exception as error:  # tokenizers raises bare Exception for a file it cannot read
        raise ContractError(f"{folder}: not a tokenizer: {error}") from error


def vocabulary_sha256(vocabulary: Path) -> str:
    """The sha256 of a tokenizer's file, including the merges next to it."""
    merges = vocabulary.with_name("merges.txt")
    files = {vocabulary, merges} if merges.exists() else {vocabulary}
    return parts_sha256((path.name, sha256(path)) for path in files)


class TokenCounter:
    """Counts the tokens of texts, including start and end token.

    CLIP first splits a text into words, and prompts have few distinct words, so each word is
    tokenised once. Other tokenizers get whole texts.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.by_word = cuts_at_blanks(tokenizer)
        self.num_end_marks = tokenizer.num_special_tokens_to_add(is_pair=False)
        self._known: dict[str, int] = {}

    def count(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text."""
        if not self.by_word:
            return [len(encoding) for encoding in self.tokenizer.encode_batch_fast(texts)]
        if len(self._known) > NUM_WORDS_KEPT:
            self._known.clear()
        words = [text.split(" ") for text in texts]
        new = list({word for text in words for word in text} - self._known.keys())
        encodings = self.tokenizer.encode_batch_fast(new, add_special_tokens=False)
        self._known.update(zip(new, map(len, encodings), strict=True))
        return [self.num_end_marks + sum(map(self._known.__getitem__, text)) for text in words]


def cuts_at_blanks(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer first splits text into CLIP's words, which contain no blanks."""
    if tokenizer.pre_tokenizer is None:
        return False
    steps = json.loads(tokenizer.pre_tokenizer.__getstate__())
    match steps.get("pretokenizers", [steps])[0]:
        case {"type": "Split", "behavior": "Removed", "invert": True, "pattern": {"Regex": regex}}:
            # transformers saves it with the start and end token first.
            return regex.endswith(WORDS)
    return False
