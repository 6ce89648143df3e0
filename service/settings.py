"""Where things are, from the environment.

`HPTUNE_STORAGE_URL`  SQL database behind Optuna (default: a SQLite file under `runs/`)
`HPTUNE_ARTIFACTS`    folder of the artifact store (default: `runs/artifacts`)
`HPTUNE_CACHE`        folder of corpora and token arrays that can be made again (default: `runs/cache`)
`HPTUNE_DEVICE`       `auto`, `cpu`, `cuda`, `cuda:0`, ... (default: `auto`)
`HPTUNE_LEASE_SECONDS` how long a silent worker keeps its trial (default: 60)
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy

from model.errors import ConfigError

ROOT = Path(__file__).parent.parent
"""The project's folder."""


@dataclass(frozen=True)
class Settings:
    """The places a process works with."""

    storage_url: str
    artifacts: Path
    cache: Path
    device: str = "auto"
    lease_seconds: float = 60.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """The settings that the environment asks for. Raises ConfigError for a value that cannot be used."""
        runs = ROOT / "runs"
        lease = environment.get("HPTUNE_LEASE_SECONDS") or "60"
        try:
            lease_seconds = float(lease)
        except ValueError:
            lease_seconds = 0.0
        if not 1 <= lease_seconds < math.inf:
            raise ConfigError(f"HPTUNE_LEASE_SECONDS: must be a number of seconds from 1, given {lease!r}")
        return cls(
            storage_url=environment.get("HPTUNE_STORAGE_URL") or f"sqlite:///{runs / 'hptune.db'}",
            artifacts=Path(environment.get("HPTUNE_ARTIFACTS") or runs / "artifacts"),
            cache=Path(environment.get("HPTUNE_CACHE") or runs / "cache"),
            device=environment.get("HPTUNE_DEVICE") or "auto",
            lease_seconds=lease_seconds,
        )

    @property
    def url(self) -> sqlalchemy.URL:
        """The storage URL, parsed. Raises ConfigError, without repeating it (it may hold a password)."""
        try:
            return sqlalchemy.make_url(self.storage_url)
        except sqlalchemy.exc.ArgumentError:
            raise ConfigError(
                "HPTUNE_STORAGE_URL: not a database URL, allowed: sqlite:///file.db, "
                "postgresql+psycopg://user:password@host/database"
            ) from None

    @property
    def storage_shown(self) -> str:
        """The storage URL with its password masked, for messages."""
        return self.url.render_as_string(hide_password=True)
