"""Where things are, from the environment.

`HPTUNE_STORAGE_URL`  SQL database behind Optuna (default: a SQLite file under `runs/`)
`HPTUNE_ARTIFACTS`    artifact store: a folder or `s3://bucket/prefix` (default: `runs/artifacts`)
`HPTUNE_CACHE`        folder of corpora and token arrays that can be made again (default: `runs/cache`)
`HPTUNE_CURVES`       folder of `tensorboard/` and `wandb/`, for studies that ask for them (default: `runs`)
`HPTUNE_DEVICE`       what trains: `auto`, `cpu`, `cuda`, or one GPU such as `cuda:0` (default: `auto`)
`HPTUNE_WORKERS_PER_GPU` worker processes that share a GPU (default: 1)
`HPTUNE_CUDA_GRAPHS`  0 launches a GPU's kernels one by one; read in `model/hardware/device.py` (default: 1)
`HPTUNE_LEASE_SECONDS` how long a silent worker keeps its trial (default: 60)
`HPTUNE_PATIENCE_SECONDS` how long a worker waits for a storage that is away (default: 600)
`HPTUNE_STORAGE_PASSWORD_FILE` file with the password of a storage whose URL has none
`HPTUNE_METRICS`      1 adds `/metrics` to the dashboard; read in `service/dashboard/metrics.py` (default: 0)
`HPTUNE_WEBHOOK`      where `notify` sends; read in `service/machine/notices.py`
`HPTUNE_LOG`          what `workers` writes: `text` for people, `json` for machines (default: `text`)
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from model.errors import ConfigError, CorpusError
from model.shipped import INSTALLED, PACKAGES
from service import addresses

ROOT = PACKAGES
"""The folder of the project's code."""


def _home() -> Path:
    try:
        return Path.cwd() if INSTALLED else ROOT
    except FileNotFoundError:  # the folder has been removed
        return Path()


HOME = _home()
"""The folder of `runs/`, and of studies of one's own: the checkout, or where an installed `hptune` is called."""
MOST_TRIALS = 100_000
"""That one call may ask for: each has a row in the storage from the start."""


@dataclass(frozen=True)
class Settings:
    """The places a process works with."""

    storage_url: str
    artifacts: str
    cache: Path
    device: str = "auto"
    lease_seconds: float = 60.0
    patience_seconds: float = 600.0
    workers_per_gpu: int = 1
    curves: Path = HOME / "runs"
    json_log: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """The settings that the environment asks for. Raises ConfigError for a value that cannot be used."""
        runs = HOME / "runs"
        return cls(
            storage_url=_with_password(
                environment.get("HPTUNE_STORAGE_URL") or _sqlite(runs / "hptune.db"), environment
            ),
            artifacts=environment.get("HPTUNE_ARTIFACTS") or str(runs / "artifacts"),
            cache=Path(environment.get("HPTUNE_CACHE") or runs / "cache"),
            curves=Path(environment.get("HPTUNE_CURVES") or runs),
            device=environment.get("HPTUNE_DEVICE") or "auto",
            lease_seconds=_seconds(environment, "HPTUNE_LEASE_SECONDS", default=60.0),
            patience_seconds=_seconds(environment, "HPTUNE_PATIENCE_SECONDS", default=600.0),
            workers_per_gpu=_workers(environment.get("HPTUNE_WORKERS_PER_GPU") or "1"),
            json_log=_is_json(environment.get("HPTUNE_LOG") or "text"),
        )

    @property
    def url(self) -> sa.URL:
        """The storage URL, parsed. Raises ConfigError, without repeating it (it may hold a password)."""
        return addresses.parse(self.storage_url)

    @property
    def storage_shown(self) -> str:
        """The storage URL without its secrets, for messages."""
        return addresses.shown(self.url)

    def made_cache(self) -> Path:
        """The cache's folder, made where it is missing. Raises CorpusError: it cannot be."""
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable_cache(self.cache, error) from None
        return self.cache


def unwritable_cache(path: Path, error: OSError) -> CorpusError:
    """What to say of a cache in which `path` cannot be written."""
    return CorpusError(
        f"{path}: cannot be written: {error.strerror}; HPTUNE_CACHE names another folder for what can be made again"
    )


def _sqlite(path: Path) -> str:
    try:
        return sa.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    except UnicodeEncodeError:
        raise ConfigError(
            f"{path}: no URL can name a path that is not UTF-8; HPTUNE_STORAGE_URL names another one"
        ) from None


def read_secret(name: str, file: str) -> str:
    """The line in `file`, which the variable `name` names. Raises ConfigError: there is none."""
    try:
        secret = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: {file} is not text in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{name}: {file} cannot be read: {error.strerror}") from None
    if not secret:
        raise ConfigError(f"{name}: {file} is empty")
    return secret


def _with_password(given: str, environment: Mapping[str, str]) -> str:
    """The URL with the password from the file that the environment names, if it asks for one and has none."""
    file = environment.get("HPTUNE_STORAGE_PASSWORD_FILE")
    if not file:
        return given
    try:
        url = addresses.parse(given)
    except ConfigError:
        return given  # `Settings.url` says so
    if url.get_backend_name() == "sqlite" and environment.get("HPTUNE_STORAGE_URL"):
        # in containers, whose password file is set: each would wait for a file that no other one sees
        raise ConfigError(
            "HPTUNE_STORAGE_URL: a SQLite file has no password, and HPTUNE_STORAGE_PASSWORD_FILE names one; for "
            "containers, which share a PostgreSQL: unset HPTUNE_STORAGE_URL"
        )
    if url.host is None or url.password is not None:
        return given
    password = read_secret("HPTUNE_STORAGE_PASSWORD_FILE", file)
    return url.set(password=password).render_as_string(hide_password=False)


def _is_json(given: str) -> bool:
    if given not in ("text", "json"):
        raise ConfigError(f"HPTUNE_LOG: given {given!r}, allowed: text, json")
    return given == "json"


def _seconds(environment: Mapping[str, str], name: str, *, default: float) -> float:
    given = environment.get(name) or str(default)
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds < math.inf:
        raise ConfigError(f"{name}: must be a number of seconds from 1, given {given!r}")
    return seconds


def _workers(given: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", given) or not 1 <= int(given) <= 64:
        raise ConfigError(f"HPTUNE_WORKERS_PER_GPU: must be a whole number from 1 to 64, given {given!r}")
    return int(given)
