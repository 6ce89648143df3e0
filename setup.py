"""What pyproject.toml cannot say: a wheel brings along the files that a checkout has beside the packages."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class Build(build_py):
    """Puts studies, base file and lock file into `hptune/share`."""

    def run(self) -> None:
        """Build as usual, then copy them."""
        super().run()
        if self.editable_mode:
            return
        share = Path(self.build_lib) / "hptune" / "share"
        shutil.rmtree(share, ignore_errors=True)  # of an earlier build
        share.mkdir(parents=True)
        for name in ("train_config.yaml", "requirements.lock"):
            shutil.copy(ROOT / name, share)
        for path in sorted((ROOT / "studies").glob("*/*")):
            if path.suffix in (".yaml", ".md", ".py") or path.name == "runs.json":
                (share / "studies" / path.parent.name).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, share / "studies" / path.parent.name)


setup(cmdclass={"build_py": Build})
