"""Where the files lie that the project ships with its code: `studies/`, `train_config.yaml`, `requirements.lock`."""

from pathlib import Path

PACKAGES = Path(__file__).resolve().parents[1]
"""The folder that Python imports the project from: a checkout, or an installation's site-packages."""
_BROUGHT_ALONG = PACKAGES / "hptune" / "share"
INSTALLED = _BROUGHT_ALONG.is_dir()
"""The project has been installed as a package; a checkout, also one that is installed to be edited, has its files."""
SHIPPED = _BROUGHT_ALONG if INSTALLED else PACKAGES
"""The folder that has them."""
