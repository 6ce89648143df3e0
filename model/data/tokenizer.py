"""Text to tokens and back: byte-level BPE or Unigram.

The vocabulary holds all 256 bytes, so every text is encoded and nothing is ever unknown. `<eos>` is an id of
our own behind the library's entries: the five characters `<eos>` in a title stay five characters.
"""

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from itertools import groupby
from typing import Any, Literal, Self, TypeVar

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from model.data.pretrained import BYTE_ALPHABET, parse
from model.errors import CheckpointError

TokenizerModel = Literal["bpe", "unigram"]
_Result = TypeVar("_Result")


class Tokenizer:
    """Lossless over bytes, written as characters as in GPT-2 (Radford et al. 2019)."""

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        self._library = library
        self.eos_id: int = library.get_vocab_size()
        """Closes every document; the last id."""
        self.leading_space: bool = bool(getattr(library.pre_tokenizer, "add_prefix_space", False))
        """A space before every document, of which the library's own file knows as `add_prefix_space`."""

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        vocab_size: int,
        model: TokenizerModel = "bpe",
        leading_space: bool = True,
    ) -> Self:
        """The tokenizer for `texts`; the same texts give the same tokenizer.

        Args:
            texts: Documents, each with a space before it for training where there is a `leading_space`.
            vocab_size: Entries with the 256 bytes and `<eos>`, at least 257. There are fewer where the texts
                have no more pairs that occur twice: a token seen once could not be learned.
            model: Byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) or the unigram language model
                (Kudo 2018, arXiv 1804.10959).
            leading_space: Every document is encoded behind a space: its first word is then the entry that the same
                word has elsewhere, in place of pieces of its own.
        """
        assert vocab_size > len(BYTE_ALPHABET), "the schema asks for the bytes and <eos>"
        library = tokenizers.Tokenizer(models.BPE() if model == "bpe" else models.Unigram())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=leading_space)
        library.decoder = decoders.ByteLevel()
        settings: dict[str, Any] = {
            "vocab_size": vocab_size - 1,
            "initial_alphabet": BYTE_ALPHABET,
            "show_progress": False,
        }
        trainer = (
            trainers.BpeTrainer(min_frequency=2, **settings)
            if model == "bpe"
            else trainers.UnigramTrainer(**settings)
        )
        _aside(lambda: library.train_from_iterator(texts, trainer))
        if model == "unigram":
            state = json.loads(library.to_str())
            state["model"]["vocab"] = _settled(state["model"]["vocab"], vocab_size - 1)
            library = tokenizers.Tokenizer.from_str(json.dumps(state))
        return cls(library)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The tokenizer that `to_json` or `model.data.pretrained` wrote.

        Raises:
            CheckpointError: `text` is truncated, or a tokenizer of another kind, which might lose text.
        """
        library = parse(text)
        state = json.loads(text)
        for part in ("normalizer", "post_processor", "truncation", "padding"):
            if state.get(part) is not None:
                raise CheckpointError(f"might lose text, its {part} must be null")
        if state.get("added_tokens"):
            raise CheckpointError("might lose text, its added_tokens must be none")
        if not _maps_bytes(state.get("pre_tokenizer")):
            raise CheckpointError("might lose text, its pre_tokenizer must cut and end in a ByteLevel")
        if not isinstance(library.decoder, decoders.ByteLevel):
            raise CheckpointError("might lose text, its decoder must be a ByteLevel")
        vocab = library.get_vocab()
        known = isinstance(library.model, models.BPE | models.Unigram)
        if not known or sorted(vocab.values()) != list(range(len(vocab))):
            raise CheckpointError("must be a BPE or Unigram whose ids run from 0 without a gap")
        if not vocab.keys() >= set(BYTE_ALPHABET):
            raise CheckpointError("must have an entry for each of the 256 bytes")
        return cls(library)

    @property
    def vocab_size(self) -> int:
        """Entries, `<eos>` included."""
        return self.eos_id + 1

    @property
    def model(self) -> TokenizerModel:
        """What cuts a text into entries."""
        return "bpe" if isinstance(self._library.model, models.BPE) else "unigram"

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without `<eos>`. Raises TypeError for half a surrogate pair: no text."""
        return self._library.encode(self._spaced(text)).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each, on all processors."""
        encodings = _aside(lambda: self._library.encode_batch_fast([*map(self._spaced, texts)]))
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, a document or several, without any `<eos>`.

        Exact for what `encode` gave. Bytes that form no character, as a model may write them, become U+FFFD.
        """
        if not self.leading_space:
            # The library passes over ids it has no entry for, `<eos>` among them.
            return self._library.decode(list(ids))
        documents = groupby(ids, key=lambda token: token == self.eos_id)
        texts = (self._library.decode(list(tokens)) for is_end, tokens in documents if not is_end)
        return "".join(text.removeprefix(" ") for text in texts)

    def to_json(self) -> str:
        """All of it in the library's own format, for `from_json`."""
        return self._library.to_str()

    def _spaced(self, text: str) -> str:
        # not left to the library, which puts none before a text that begins with one: that text would come back
        # without it
        return f" {text}" if self.leading_space else text


def _aside(call: Callable[[], _Result]) -> _Result:
    """What `call` gives in a thread of its own: one that is in the library, for up to a minute, looks at no signal."""
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()  # no process waits for it at its end
    while not wait([future], timeout=0.2).done:  # whichever thread the system has told of a signal
        pass
    return future.result()


def _settled(pieces: list[tuple[str, float]], size: int) -> list[tuple[str, float]]:
    """What the library's Unigram trainer found (pieces and log-probabilities), the same from run to run.

    The trainer adds numbers up in the order of a hash table, so that the last bits, and by them the order of
    equals, differ; to bytes the texts do not have it gives the lowest score and 0.0001 more to each, again in that
    order; and it may return more than it was asked for.
    """
    all_bytes, lowest = set(BYTE_ALPHABET), min(score for _, score in pieces)
    unseen = lowest + 0.0001 * (len(all_bytes) + 0.5)
    scores = {p: lowest if p in all_bytes and score < unseen else score for p, score in pieces}
    settled = [(piece, round(score, 4)) for piece, score in scores.items()]
    return sorted(settled, key=lambda entry: (entry[0] not in all_bytes, -entry[1], entry[0]))[:size]


def _maps_bytes(pre_tokenizer: Any) -> bool:
    """Whether it does nothing but cut a text up and write its bytes as characters, all of them."""
    match pre_tokenizer:
        case {"type": "Sequence", "pretokenizers": [*cuts, {"type": "ByteLevel", "add_prefix_space": False}]}:
            return all(map(_only_cuts, cuts))
        case {
            "type": "ByteLevel",
            "add_prefix_space": bool(),
        }:  # in a sequence the space would go before every cut
            return True
    return False


def _only_cuts(pre_tokenizer: Any) -> bool:
    match pre_tokenizer:
        case {"type": "Digits"}:
            return True
        case {"type": "Split", "behavior": behavior}:
            return bool(behavior != "Removed")
    return False
