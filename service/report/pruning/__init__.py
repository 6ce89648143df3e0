"""How good pruning is, and what another pruner would have done."""
