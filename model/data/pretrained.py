"""A tokenizer that was trained elsewhere, in the form our own have: byte-level BPE that loses no text.

Fetching and reshaping alone; whether what comes out can be used is `model.data.tokenizer`'s to say.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import tokenizers

from model.data.hub import Repository
from model.data.progress import Say, silent
from model.errors import CheckpointError, CorpusError

BYTE_ALPHABET = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
"""The characters that stand for the 256 bytes in a byte-level vocabulary (Radford et al. 2019)."""

_KEY = "tokenizer.pretrained"
_MOST_ENTRIES = 65_535
_FILE = "tokenizer.json"


def fetch(name: str, *, cache: Path, say: Say = silent, **limits: float) -> tuple[str, str]:
    """The tokenizer `name` in the library's own JSON, reshaped so that it encodes every text; and which one it is.

    Its special tokens stay entries and lose their meaning: the characters `<|endoftext|>` in a document are
    characters. Each byte it has no entry for gets one behind the others (SmolLM's cannot encode every text:
    huggingface/smollm issue 81). What would add tokens or cut a text off is taken out.

    Args:
        name: Path of a .json file, or else a repository of the hub, with `@` and a commit, tag or branch behind it
            where that is not the newest. The latter is fetched once and kept in the hub library's own cache,
            which is also what is used without a connection.
        cache: Folder for lists of files.
        say: Takes a line for the user.
        limits: `patience_seconds` and `read_seconds` of `model.data.hub.Repository`.

    Returns:
        The JSON, and a phrase that names the file, or the repository and the commit that was read.

    Raises:
        CorpusError: it cannot be fetched or read, is no BPE, or has more entries than two bytes can count.
    """
    path, source = (
        (Path(name), Path(name).name) if name.endswith(".json") else _download(name, cache, say, limits)
    )
    try:
        text = path.read_text(encoding="utf-8")
        model = parse(text).model
    except OSError as error:
        raise CorpusError(f"{_KEY}: {name}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CorpusError(f"{_KEY}: {name}: not a tokenizer file, which is text in UTF-8") from None
    except CheckpointError as error:
        raise CorpusError(f"{_KEY}: {name}: {error}") from None
    if not isinstance(model, tokenizers.models.BPE):
        raise CorpusError(f"{_KEY}: {name}: must be a BPE, is a {type(model).__name__}")
    state = json.loads(text)
    vocabulary: dict[str, int] = state["model"]["vocab"]
    for token in state.get("added_tokens", []):
        vocabulary.setdefault(token["content"], token["id"])
    for byte in BYTE_ALPHABET:
        vocabulary.setdefault(byte, len(vocabulary))
    if len(vocabulary) > _MOST_ENTRIES:
        raise CorpusError(
            f"{_KEY}: {name}: must have at most {_MOST_ENTRIES} entries, so that a token with "
            f"<eos> fits two bytes, has {len(vocabulary)}"
        )
    state["model"]["dropout"] = None
    state |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    return json.dumps(state, ensure_ascii=False, separators=(",", ":")), source


def parse(text: str) -> tokenizers.Tokenizer:
    """The tokenizer in a file's text. Raises CheckpointError: it is none, or one whose marks at words lose text."""
    not_one = CheckpointError("not a tokenizer file, or a truncated one")
    try:
        state = json.loads(text)
        for part in ("continuing_subword_prefix", "end_of_word_suffix"):
            if state["model"].get(part):
                raise CheckpointError(
                    f"might lose text, its {part} must be null, given {state['model'][part]!r}"
                )
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise error if isinstance(error, CheckpointError) else not_one from None
    try:
        return tokenizers.Tokenizer.from_str(text)
    except BaseException as error:
        # the library raises nothing narrower, and a panic of its Rust code is no Exception
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise not_one from None
        raise


def _download(name: str, cache: Path, say: Say, limits: Mapping[str, float]) -> tuple[Path, str]:
    repository, _, revision = name.partition("@")
    hub = Repository(
        repository,
        "model",
        key=_KEY,
        way_out=f"the path of a {_FILE}, or null, which trains our own",
        cache=cache,
        say=say,
        **limits,
    )
    snapshot = hub.snapshot(revision or None)
    if _FILE not in snapshot.files:
        raise CorpusError(f"{_KEY}: {name} has no {_FILE}")
    (path,) = hub.fetch(snapshot, [_FILE])
    return path, f"{repository} at {snapshot.commit}"
