"""Engines that people have: workers placed by Ray (`place`); Slurm and Kubernetes need files alone (`cluster/`)."""
