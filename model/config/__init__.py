"""The schema of `train_config.yaml`, and what follows from a configuration without torch."""
