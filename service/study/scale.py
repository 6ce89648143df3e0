"""A study at another size: the same arms and seeds with other numbers, as its file names them under `scales`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from model.config.section import Section
from model.config.yaml_tree import KeyPath, parse_value
from model.errors import ConfigError
from service.study.design import shown_value
from service.study.parameters import same
from service.study.search_space import Values


class ScaleConfig(Section):
    """What is other at this size."""

    values: dict[str, Any] = Field(default_factory=dict, alias="set")
    """Values by dotted key that take the place of the base file's and of those under `fixed`."""
    replacements: dict[str, Annotated[dict[str, Any], Field(min_length=1)]] = Field(
        default_factory=dict, alias="map"
    )
    """By dotted key, the value that stands for each one that the study has, in the base file or an arm."""

    @model_validator(mode="after")
    def _one_way_for_a_key(self) -> "ScaleConfig":
        if both := sorted(self.values.keys() & self.replacements.keys()):
            raise ValueError(f"needs either set or map for a key, given both for {both[0]}")
        return self

    def base_values(self, base: Mapping[str, Any]) -> Values:
        """Overrides of a base file that has these values by dotted key."""
        return self.values | {key: self._replaced(key, base.get(key)) for key in self.replacements}

    def cell_values(self, cell: Values) -> Values:
        """The values of a cell at this size."""
        return {key: self._replaced(key, value) for key, value in cell.items()}

    def _replaced(self, key: str, value: Any) -> Any:
        for published, reduced in self.replacements.get(key, {}).items():
            if same(parse_value(published), value):
                return reduced
        return value

    def check(
        self, cells: Sequence[Values], base: Mapping[str, Any], place: Callable[[KeyPath], str]
    ) -> None:
        """See that `map` has an entry for each value that a run has, and none for others.

        Args:
            cells: the study's, at its published size; none where it searches.
            base: all values of the base file by dotted key.
            place: where something under the scale stands.

        Raises:
            ConfigError: it does not.
        """
        for key, replacements in self.replacements.items():
            if key not in base:
                continue  # a key that is unknown is the schema's to refuse
            of_base = base[key]
            in_runs = [cell.get(key, of_base) for cell in cells or ({},)]
            known = {text: parse_value(text) for text in replacements}
            for value in in_runs:
                if value is not None and not any(same(value, entry) for entry in known.values()):
                    raise ConfigError(
                        f"{place(('map', key))}: {key}: has no entry for {shown_value(value)}, which the study has"
                    )
            for text, entry in known.items():
                if not any(same(entry, value) for value in (*in_runs, of_base)):
                    raise ConfigError(
                        f"{place(('map', key, text))}: {key}: {text}: has no effect, no run has this value"
                    )
