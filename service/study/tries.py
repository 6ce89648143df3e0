"""Points that a study's file asks for before the search: `try`, in the file."""

from model.config.yaml_tree import Document
from model.errors import ConfigError
from service.study.base import Base
from service.study.file import StudyConfig
from service.study.search_space import SearchSpace, Values


def tried_points(
    study: StudyConfig, document: Document, space: SearchSpace, base: Base
) -> tuple[Values, ...]:
    """The points as whole ones of the space: what one leaves out it has from the base file, as the baseline has.

    Raises:
        ConfigError: one lies outside the space, or is the baseline or an earlier one; the message has its place.
    """
    found: list[Values] = []
    baseline = space.within(base.values) if study.baseline and study.tries else None
    for number, given in enumerate(study.tries):
        place = document.place(("try", number))
        try:
            point = space.point({**space.within({**base.values, **given}), **given}, whole=True)
        except ConfigError as error:
            raise ConfigError(f"{place}: try: {error}") from None
        if point == baseline:
            raise ConfigError(f"{place}: try: is the baseline, which is the first trial already")
        if point in found:
            raise ConfigError(f"{place}: try: is the same point as an earlier one")
        found.append(point)
    return tuple(found)
