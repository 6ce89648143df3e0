"""The corpus of a study: in the artifact store for every worker, in the cache of each machine."""

import contextlib
from pathlib import Path

import optuna
from optuna.artifacts.exceptions import ArtifactNotFound

from model.data import corpus as corpora
from model.data.files import open_atomically
from model.errors import CorpusError
from service.settings import Settings
from service.storage.artifact_stores import copy, open_store
from service.storage.studies import corpus_facts


def load_corpus(study: optuna.Study, settings: Settings) -> corpora.Corpus:
    """The study's corpus, from the cache or else from the artifact store.

    What comes from the store is checked before it is moved into the cache; a damaged file there is replaced.

    Raises:
        CorpusError: it is in neither, or is not the one that the study was made with.
    """
    facts = corpus_facts(study)
    settings.made_cache()
    path = settings.cache / f"corpus-{facts['fingerprint']}.json.gz"
    if path.exists():
        with contextlib.suppress(CorpusError):
            return _read(path, facts["fingerprint"])
    store = open_store(settings.artifacts)
    try:
        with open_atomically(path) as file:
            copy(store, facts["artifact"], file)
            file.flush()
            return _read(Path(file.name), facts["fingerprint"])
    except CorpusError as error:
        reason = str(error).removeprefix(f"{file.name}: ")
        raise CorpusError(
            f"study {study.study_name!r}: {facts['artifact']} in {store} is damaged: {reason}"
        ) from None
    except (ArtifactNotFound, OSError) as error:
        raise CorpusError(f"study {study.study_name!r}: the corpus is not there: {error}") from None


def _read(path: Path, fingerprint: str) -> corpora.Corpus:
    """The corpus in a file, if it is this one. Raises CorpusError."""
    found = corpora.read(path)
    if found.fingerprint != fingerprint:
        raise CorpusError(f"{path}: another corpus than the study's")
    return found
