"""The built-in GPT as what a study trains: `model.training.TrainingRun` with what a trial asks of it besides."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from model.config.counts import flops_per_token, parameter_count, passes_per_token
from model.config.train_config import TrainConfig
from model.data.corpus import Corpus
from model.data.tokenized_corpus import TokenizedCorpus
from model.hardware.device import Device
from model.measurement.sinks import Curves
from model.measurement.titles import TITLES, generate_titles
from model.training import TrainingRun
from service.study.run_config import RunConfig
from service.text.quantities import shown_operations


class GptRun(TrainingRun):
    """A run of the GPT, as `service.trials.contract.Run` says; the arguments are those of `TrainingRun`."""

    def __init__(self, config: TrainConfig, data: TokenizedCorpus, **how: Any) -> None:
        super().__init__(config, data, **how)
        self._train_tokens = data.split("train").n_tokens
        self._corpus_fingerprint = data.fingerprint

    @property
    def arithmetic(self) -> str:
        """The number format it computes in."""
        return self.precision.name

    def write_checkpoint(self, folder: Path, **record: Any) -> None:
        """Write weights, tokenizer and record."""
        self.checkpoint(**record).write(folder)

    def facts(self) -> dict[str, Any]:
        """Attributes of its trial."""
        return {
            "train_tokens": self._train_tokens,
            "parameters": parameter_count(self.config),
            "passes_per_token": passes_per_token(self.config),
            "flops_per_token": flops_per_token(self.config),
        }

    def origin(self) -> dict[str, Any]:
        """What of its data belongs to the provenance."""
        return {"precision": self.precision.name, "corpus_fingerprint": self._corpus_fingerprint}

    def drawn(self, folder: Path, *, group: str, name: str, warn: Callable[[str], None]) -> Curves:
        """Its curves in TensorBoard and Weights & Biases."""
        return Curves(self, folder, group=group, name=name, warn=warn)

    def noted(self) -> dict[str, str]:
        """Rows of its trial's note."""
        passes = passes_per_token(self.config)
        operations = shown_operations(flops_per_token(self.config) * self.tokens)
        return {"compute": f"{operations} FLOPs; {passes} forward, {passes} backward passes a token"}

    def titles(self) -> Sequence[str]:
        """Titles drawn from the model; a minute for 100 million parameters on a CPU."""
        return generate_titles(self.evaluated_model, self.tokenizer, TITLES)


class GptTraining:
    """The GPT over a study's corpus, as `service.trials.contract.Training` says.

    Args:
        corpus: of the study.
        cache: folder of token arrays.
        device: where to train.
    """

    def __init__(self, corpus: Corpus, cache: Path, device: Device) -> None:
        self._corpus, self._cache, self._device = corpus, cache, device

    def begin(self, config: RunConfig) -> GptRun:
        """The run of a configuration, from its beginning."""
        assert isinstance(config, TrainConfig)
        return GptRun(config, self._data(config), device=self._device)

    def resume(self, path: Path, config: RunConfig) -> GptRun:
        """The run of a configuration, from a saved state on. Raises CheckpointError."""
        assert isinstance(config, TrainConfig)
        return GptRun.resumed(path, config, self._data(config), device=self._device)

    def described(self, config: RunConfig) -> dict[str, str]:
        """Rows of a trial's note that need no run."""
        assert isinstance(config, TrainConfig)
        return {"parameters": f"{parameter_count(config):,}"}

    def _data(self, config: TrainConfig) -> TokenizedCorpus:
        return TokenizedCorpus.prepare(self._corpus, config.tokenizer, cache=self._cache)
