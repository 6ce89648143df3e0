"""The configurations that a study's file lists: a design's, or those of a space under `sampler: {name: grid}`."""

from collections.abc import Sequence
from dataclasses import replace

from model.config.yaml_tree import Document
from model.errors import ConfigError
from service.study import samplers
from service.study.base import Base, Built
from service.study.design import BASELINE, MAX_CELLS, Cell, arm_name, distinct
from service.study.file import StudyConfig
from service.study.scale import ScaleConfig
from service.study.search_space import SearchSpace, Values


def file_space(study: StudyConfig, document: Document) -> SearchSpace:
    """The space of a study that has one."""
    assert study.space is not None, "the schema asks for it where there is no design"
    return SearchSpace(study.space, {key: document.place(("space", key)) for key in study.space})


def built_cells(
    study: StudyConfig, document: Document, base: Base, scale: ScaleConfig | None
) -> list[tuple[Cell, Built]]:
    """Each configuration once, and what it makes of the base; none where a sampler searches.

    Raises:
        ConfigError: the sampler cannot search this space.
    """
    if study.design is None:
        cells = [Cell(("space",), arm_name(values), values) for values in _grid(study, document)]
    else:
        cells = study.design.cells(of_gpt=study.run is None)
    if scale is not None:
        cells = [replace(cell, values=scale.cell_values(cell.values)) for cell in cells]
    if cells and study.baseline:
        cells.insert(0, Cell((), BASELINE, {}))
    if study.design is not None:
        cells = study.design.repeated(cells)
    return _distinct(cells, base)


def _grid(study: StudyConfig, document: Document) -> Sequence[Values]:
    """The cells of a space under `sampler: {name: grid}`, none under another; refuses what does not fit."""
    space = file_space(study, document)
    if study.sampler is None:
        return []
    misfit = samplers.sampler_misfit(study.sampler, space.distributions, space.conditional)
    if misfit is None and study.sampler.name == "grid":
        if space.cell_count <= MAX_CELLS:
            return list(space.cells())
        misfit = f"grid must have at most {MAX_CELLS} configurations, given {space.cell_count}"
    if misfit:
        raise ConfigError(f"{document.place(('sampler',))}: sampler: {misfit}")
    return []


def _distinct(cells: Sequence[Cell], base: Base) -> list[tuple[Cell, Built]]:
    built = {id(cell): base.built(cell.values) for cell in cells}

    def identity(cell: Cell) -> object:
        """Equal for cells that make the same configuration; of one that the proof will refuse, its own."""
        config = built[id(cell)]
        return id(cell) if isinstance(config, str) else config.model_dump_json()

    return [(cell, built[id(cell)]) for cell in distinct(cells, identity)]
