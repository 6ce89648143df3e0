import pytest

from model.config.section import validate
from model.config.train_config import TrainConfig
from model.config.yaml_tree import read
from model.errors import ConfigError
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"tokenizer.vocab_size": 256}, "tokenizer.vocab_size: must be greater than or equal to 257"),
        ({"tokenizer.vocab_size": 65537}, "tokenizer.vocab_size: must be less than or equal to 65536"),
        ({"data.source": "file"}, "data: source file needs data.path, given null"),
        ({"data.validation_fraction": 1.0}, "data.validation_fraction: must be less than 1"),
        ({"data.seed": 2**64}, "data.seed: must be less than or equal to 18446744073709551615"),
    ],
)
def test_what_cannot_be_read_is_refused(overrides, message):
    document = read(ROOT / "train_config.yaml").with_overrides(overrides)
    with pytest.raises(ConfigError) as caught:
        validate(document, TrainConfig)
    assert message in str(caught.value)


def test_a_file_is_read_where_one_is_named():
    document = read(ROOT / "train_config.yaml").with_overrides({"data.source": "file", "data.path": "a.txt"})
    assert validate(document, TrainConfig).data.path == "a.txt"
