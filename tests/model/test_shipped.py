import shutil
import subprocess
import sys

import pytest

from model.shipped import INSTALLED, PACKAGES, SHIPPED
from tests.conftest import ROOT


def test_a_checkout_has_its_own_files():
    assert not INSTALLED
    assert PACKAGES == SHIPPED == ROOT
    assert (SHIPPED / "train_config.yaml").is_file()


@pytest.mark.parametrize("has_share", [True, False])
def test_an_installation_is_known_by_the_files_that_it_brought_along(tmp_path, has_share):
    (tmp_path / "model").mkdir()
    for name in ("__init__.py", "shipped.py"):
        shutil.copy(ROOT / "model" / name, tmp_path / "model")
    share = tmp_path / "hptune" / "share"
    if has_share:
        share.mkdir(parents=True)
    asked = "from model.shipped import INSTALLED, SHIPPED; print(INSTALLED, SHIPPED)"
    done = subprocess.run(
        [sys.executable, "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == f"{has_share} {share if has_share else tmp_path}\n"
