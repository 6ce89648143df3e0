"""The figures of the study written by hand, beside a published table."""

import pytest

from service.report.figures import overview as figures
from service.report.figures.plots import Chart
from service.report.published.document import Published

PUBLISHED = Published.model_validate_json(
    """{"source": "a document",
        "tables": [{"id": "t1", "title": "T", "source": "table 1",
                    "columns": [{"name": "loss", "metric": "val_loss"}, {"name": "speed"}],
                    "rows": [{"arm": "slow", "values": {"loss": 2.5, "speed": 9}},
                             {"arm": "fast", "values": {"loss": null}}]}],
        "curves": [{"arm": "fast", "metric": "val_loss_official", "x": "steps", "points": [[1, 9.0], [70, 1.25]]}]}"""
)


@pytest.fixture(scope="module")
def drawn(record):
    return {plot.id: plot for plot in figures.build(record, PUBLISHED)}


def series_of(chart: Chart):
    return {series.name: series for series in chart.series}
