"""The corpus of a study: in the artifact store for every worker, in the cache of each machine."""

import os
from pathlib import Path

import optuna
from optuna.artifacts.exceptions import ArtifactNotFound

from model import corpus as corpora
from model.errors import CorpusError
from service.settings import Settings
from service.storage import corpus_facts
from service.stores import fetch, open_store


def load_corpus(study: optuna.Study, settings: Settings) -> corpora.Corpus:
    """The study's corpus, from the cache or else from the artifact store.

    Raises:
        CorpusError: it is in neither, or is not the one that the study was made with.
    """
    facts = corpus_facts(study)
    fingerprint: str = facts["fingerprint"]
    path = settings.cache / f"corpus-{fingerprint}.json.gz"
    if not path.exists():
        settings.made_cache()
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            fetch(open_store(settings.artifacts), facts["artifact"], partial)
        except (ArtifactNotFound, OSError) as error:
            raise CorpusError(f"study {study.study_name!r}: the corpus is not there: {error}") from None
        Path(partial).replace(path)
    found = corpora.read(path)
    if found.fingerprint != fingerprint:
        raise CorpusError(f"{path}: another corpus than the study's; remove the file")
    return found
