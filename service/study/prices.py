"""What a training token costs in floating-point operations, by configuration: known before it is trained."""

import json
import math
from dataclasses import dataclass, field
from functools import cached_property

from model.errors import ConfigError
from service.study.base import Base
from service.study.parameters import FloatParameter
from service.study.run_config import RunConfig
from service.study.search_space import SearchSpace, Values


@dataclass(frozen=True)
class Prices:
    """Of the configurations of a study, each a whole number: rounded up, so that amounts add up to the last one."""

    base: Base
    space: SearchSpace
    _known: dict[str, int] = field(default_factory=dict, compare=False)

    @cached_property
    def of_base(self) -> int:
        """Of the base configuration."""
        return self.of_config(self.base.config)

    def of_config(self, config: RunConfig) -> int:
        """Of a configuration of the built-in GPT."""
        flops = self.base.kind.flops_per_token(config)
        assert flops is not None, "refused when the study was loaded"
        return math.ceil(flops)

    def of(self, values: Values) -> int | None:
        """Of a point of the space; None of one that is not whole."""
        if not self.space.is_complete(values):
            return None
        # a search asks for hundreds at each decision, most of which differ in nothing that costs anything
        key = json.dumps({name: value for name, value in values.items() if name not in self._free})
        if key not in self._known:
            self._known[key] = self.of_config(self.base.config_for(values))
        return self._known[key]

    @cached_property
    def _free(self) -> frozenset[str]:
        """Real numbers that change no cost: learning rates, decays, rates of dropout."""
        return frozenset(
            key
            for key, parameter in self.space.parameters.items()
            if isinstance(parameter, FloatParameter) and self._is_free(key, parameter)
        )

    def _is_free(self, key: str, parameter: FloatParameter) -> bool:
        try:
            found = [
                self.of_config(self.base.config_for({key: value}))
                for value in (parameter.low, parameter.high)
            ]
        except ConfigError:  # it does not stand beside the base file's other values
            return False
        return found[0] == found[1]
