"""A tokenizer that was trained elsewhere, in the form our own have: byte-level BPE that loses no text.

Fetching and reshaping alone; whether what comes out can be used is `model.tokenizer`'s to say.
"""

import json
import os
from pathlib import Path

import tokenizers

from model.errors import CorpusError

BYTE_ALPHABET = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
"""The characters that stand for the 256 bytes in a byte-level vocabulary (Radford et al. 2019)."""

_KEY = "tokenizer.pretrained"
_MOST_ENTRIES = 65_535
_FILE = "tokenizer.json"


def fetch(name: str, *, timeout_seconds: float = 5.0) -> str:
    """The tokenizer `name` in the library's own JSON, reshaped so that it encodes every text.

    Its special tokens stay entries and lose their meaning: the characters `<|endoftext|>` in a document are
    characters. Each byte it has no entry for gets one behind the others (SmolLM's cannot encode every text:
    huggingface/smollm issue 81). What would add tokens or cut a text off is taken out.

    Args:
        name: Path of a .json file, or else a repository of the hub. The latter is fetched once and kept in
            the hub library's own cache, which is also what is used where the hub does not answer.
        timeout_seconds: How long the hub may take to say whether it has that repository.

    Raises:
        CorpusError: it cannot be fetched or read, is no BPE, or has more entries than two bytes can count.
    """
    path = Path(name) if name.endswith(".json") else _download(name, timeout_seconds)
    try:
        text = path.read_text(encoding="utf-8")
        model = tokenizers.Tokenizer.from_str(text).model
    except OSError as error:
        raise CorpusError(f"{_KEY}: {name}: cannot be read: {error.strerror}") from None
    except Exception:  # the library raises nothing narrower
        raise CorpusError(f"{_KEY}: {name}: not a tokenizer file, or a truncated one") from None
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
    return json.dumps(state, ensure_ascii=False, separators=(",", ":"))


def _download(repository: str, timeout_seconds: float) -> Path:
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, errors, try_to_load_from_cache

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        # The download alone would try for minutes where there is no network.
        api.model_info(repository, timeout=timeout_seconds)
        return Path(api.hf_hub_download(repository, _FILE))
    except errors.HFValidationError:
        raise CorpusError(
            f"{_KEY}: must be a repository of the hub or the path of a .json file, given {repository!r}"
        ) from None
    except errors.GatedRepoError:
        raise CorpusError(
            f"{_KEY}: {repository} asks for its terms to be accepted on the hub first"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CorpusError(f"{_KEY}: the hub has no public repository {repository!r}") from None
    except errors.RemoteEntryNotFoundError:
        raise CorpusError(f"{_KEY}: {repository} has no {_FILE}") from None
    except (HTTPError, OSError) as error:
        cached = try_to_load_from_cache(repository, _FILE)
        if isinstance(cached, str):
            return Path(cached)
        reason = " ".join(str(error).split())[:200]
        raise CorpusError(
            f"{_KEY}: {repository} cannot be fetched, the hub cannot be reached ({reason}): "
            f"allowed without it: the path of a {_FILE}, or null, which trains our own"
        ) from None
