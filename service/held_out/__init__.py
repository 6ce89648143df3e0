"""The best checkpoints on the held-out titles: what `evaluate` does."""
