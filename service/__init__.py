"""Studies over the model: search spaces, strategies, storage, trials, workers, artifacts and reports."""
