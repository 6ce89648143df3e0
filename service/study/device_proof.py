"""The proof that a kind of device can train whatever a study may ask for, done before a worker leases a slot of it."""

from collections.abc import Iterator

from model.config.train_config import TrainConfig, precision_misfit
from model.errors import ConfigError
from service.study.definition import StudyDefinition

_PRECISION = "training.precision"


def prove_device(definition: StudyDefinition, device_type: str) -> None:
    """Raise ConfigError, naming key and place, where a trial of the study could not be trained on such a device.

    Args:
        definition: The study.
        device_type: `cpu` or `cuda`.
    """
    for name, place in _precisions(definition):
        if misfit := precision_misfit(name, device_type):
            raise ConfigError(f"{place}: {_PRECISION}: {misfit}; or give its workers a GPU")


def _precisions(definition: StudyDefinition) -> Iterator[tuple[str, str]]:
    """What trials may ask for as `training.precision`, and where it was given."""
    if not isinstance(definition.base_config, TrainConfig):
        return  # what a class of the user's needs it says itself
    space, base = definition.space, definition.base_config.training.precision
    place_of_base = definition.base.document.place(tuple(_PRECISION.split(".")))
    for cell in definition.cells:
        given = cell.get(_PRECISION)
        yield (given, f"study {definition.name}") if given else (base, place_of_base)
    if definition.cells:
        return
    for name in space.tried(_PRECISION, base, baseline=definition.baseline):
        searched = _PRECISION in space.parameters and name in space.parameters[_PRECISION].corners()
        yield name, space.places.get(_PRECISION, f"study {definition.name}") if searched else place_of_base
