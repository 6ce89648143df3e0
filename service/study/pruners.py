"""The percentile pruner, asked after warm-up only."""

import optuna


class WarmUpFirstPruner(optuna.pruners.PercentilePruner):
    """Optuna's percentile pruner, which by itself reads all trials before it looks whether warm-up is over."""

    def __init__(self, percentile: float, *, n_startup_trials: int, n_warmup_steps: int) -> None:
        super().__init__(percentile, n_startup_trials=n_startup_trials, n_warmup_steps=n_warmup_steps)
        self._until = n_warmup_steps

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether `trial` is to stop at its last report."""
        if trial.last_step is None or trial.last_step < self._until:
            return False
        return super().prune(study, trial)
