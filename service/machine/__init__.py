"""Many workers on this machine: what `create`, `run`, `workers`, `status` and `estimate` do."""
