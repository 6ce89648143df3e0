"""The models of a study, module by module: shapes, parameters, operations."""

from collections.abc import Iterator

from model.config.counts import ModuleCount, module_counts, parameter_count
from model.config.section import validate
from model.config.train_config import TrainConfig
from model.config.yaml_tree import Document
from service.report.record.study_record import StudyRecord
from service.text.tables import Table

_MODULE_TABLES = 8
"""Models shown module by module; a tuned study may have one a trial."""
_NAMES = 6
"""Arms of one model that are named."""


def tables(record: StudyRecord) -> tuple[Table, ...]:
    """An overview with one row a model, then the modules of the base and of the first other models."""
    models: dict[tuple[ModuleCount, ...], tuple[TrainConfig, list[str]]] = {}
    for name, config in _configurations(record):
        models.setdefault(module_counts(config), (config, []))[1].append(name)
    overview = Table(
        "models",
        "Models of this study",
        ("model of", "layers", "heads", "d_model", "block", "vocabulary", "parameters", "forward FLOPs per token"),
        tuple(_overview_row(config, counts, names) for counts, (config, names) in models.items()),
        (
            "FLOPs are those of matrix products. Training costs three times as many, six times with SAM or R-Drop, "
            "twelve times with both, and muon's updates beside them.",
        ),
    )  # fmt: skip
    modules = (
        _module_table(number, counts, names)
        for number, (counts, (_, names)) in enumerate(models.items())
        if number < _MODULE_TABLES
    )
    return (overview, *modules)


def _configurations(record: StudyRecord) -> Iterator[tuple[str, TrainConfig]]:
    """The base's configuration, and one of each arm that has begun."""
    yield "base", record.definition.gpt_config("a table of its modules")
    for arm in record.arms:
        config = next((run.config for run in arm.runs if run.config), None)
        if config:
            yield arm.name, validate(Document(f"configuration of {arm.name}", dict(config)), TrainConfig)


def _overview_row(config: TrainConfig, counts: tuple[ModuleCount, ...], names: list[str]) -> tuple[str, ...]:
    model = config.model
    numbers = (model.n_layer, model.n_head, model.d_model, model.block_size, config.tokenizer.vocab_size)
    counted = (parameter_count(config), sum(count.flops_per_token for count in counts))
    return (_listed(names), *(f"{number:,}" for number in (*numbers, *counted)))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more


def _module_table(number: int, counts: tuple[ModuleCount, ...], names: list[str]) -> Table:
    rows = [
        (
            count.name,
            f"{count.copies}",
            "; ".join(" × ".join(map(str, shape)) for shape in count.shapes) or "–",
            f"{count.parameters:,}",
            f"{count.flops_per_token:,}",
        )
        for count in counts
    ]
    parameters = sum(count.parameters for count in counts)
    flops = sum(count.flops_per_token for count in counts)
    return Table(
        f"modules-{number + 1}",
        f"Modules of {_listed(names)}",
        ("module", "copies", "shapes", "parameters", "forward FLOPs per token"),
        (*rows, ("all", "", "", f"{parameters:,}", f"{flops:,}")),
        ("Parameters and FLOPs are of all copies together. A tied head has no parameters of its own.",),
    )
