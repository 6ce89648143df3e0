"""Whether the validation split is large enough for every trial: the seeds' metric takes windows of a trial's own size.

One has block × batch + 1 tokens.
"""

import json
from pathlib import Path
from typing import Any

from model.config.data import TokenizerConfig
from model.config.train_config import TrainConfig
from model.data.corpus import Corpus
from model.data.tokenized_corpus import TokenizedCorpus
from model.errors import CorpusError
from service.study.definition import StudyDefinition
from service.study.search_space import Values


def refuse_large_windows(definition: StudyDefinition, corpus: Corpus, cache: Path) -> None:
    """See that each trial has one window of the validation split.

    Args:
        definition: of the study.
        corpus: its own.
        cache: folder of token arrays.

    Raises:
        CorpusError: the split is too small for a configuration that a trial may have.
    """
    validation_tokens: dict[TokenizerConfig, int] = {}
    for block, batch, wanted in _largest_windows(definition):
        if wanted not in validation_tokens:
            tokenized = TokenizedCorpus.prepare(corpus, wanted, cache=cache)
            validation_tokens[wanted] = len(tokenized.split("validation").tokens)
        if block * batch + 1 > validation_tokens[wanted]:
            raise CorpusError(
                f"study {definition.name!r}: the validation split has {validation_tokens[wanted]:,} tokens, one "
                f"window of model.block_size {block} × training.batch_size {batch} + 1 needs {block * batch + 1:,}; "
                "take a larger corpus or smaller values"
            )


def _largest_windows(definition: StudyDefinition) -> set[tuple[int, int, TokenizerConfig]]:
    """Block, batch and tokenizer of each configuration, or the largest of each that a search may try.

    The larger a vocabulary, the fewer tokens does a split have.
    """
    base = definition.gpt_config("a corpus")
    if definition.cells:
        # one for all cells that agree in what a window depends on
        cells = {json.dumps(_of_windows(cell), sort_keys=True): cell for cell in definition.cells}
        configs = [c for c in map(definition.config_for, cells.values()) if isinstance(c, TrainConfig)]
        return {(c.model.block_size, c.training.batch_size, c.tokenizer) for c in configs}

    def tried(key: str, of_base: Any) -> tuple[Any, ...]:
        return definition.space.tried(key, of_base, baseline=definition.baseline)

    block = max(tried("model.block_size", base.model.block_size))
    batch = max(tried("training.batch_size", base.training.batch_size))
    vocab_size = max(tried("tokenizer.vocab_size", base.tokenizer.vocab_size))
    models = tried("tokenizer.model", base.tokenizer.model)
    return {
        (block, batch, base.tokenizer.model_copy(update={"model": model, "vocab_size": vocab_size}))
        for model in models
    }


def _of_windows(cell: Values) -> Values:
    """The values of a cell that change block, batch or tokenizer."""
    keys = ("model.block_size", "training.batch_size", "tokenizer.")
    return {key: value for key, value in cell.items() if key.startswith(keys)}
