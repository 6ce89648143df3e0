"""What a study is: its file, its search space or design, sampler and pruner, and the proof that all is valid."""
