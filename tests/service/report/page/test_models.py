from dataclasses import replace

from model.config.counts import parameter_count
from service.report.page import models
from service.report.record.study_record import Arm
from tests.service.report.conftest import run_of


def test_modules_add_up_to_the_model(record):
    overview, modules = models.tables(record)
    base = record.definition.base_config
    assert modules.rows[-1][0] == "all"
    assert modules.rows[-1][3] == f"{parameter_count(base):,}"
    assert sum(int(row[3].replace(",", "")) for row in modules.rows[:-1]) == parameter_count(base)
    shapes = {row[0]: row[2] for row in modules.rows}
    assert shapes["token_embedding"] == "300 × 16"
    assert shapes["blocks.*.mlp.up"] == "64 × 16; 64"
    (row,) = overview.rows
    assert row[0] == "base, slow, fast, wild", "arms of one model are one row"
    assert row[1:7] == ("1", "1", "16", "16", "300", f"{parameter_count(base):,}")


def test_another_model_has_a_row_and_a_table_of_its_own(record):
    wide = record.definition.config_for({"model.d_model": 32}).with_tokens(9000)
    arm = Arm("wide", (run_of("wide", 1, {}, config=wide.model_dump(mode="json")),))
    overview, *modules = models.tables(replace(record, arms=(*record.arms, arm)))
    assert [row[0] for row in overview.rows] == ["base, slow, fast, wild", "wide"]
    assert overview.rows[1][6] == f"{parameter_count(wide):,}"
    assert [table.title for table in modules] == ["Modules of base, slow, fast, wild", "Modules of wide"]


def test_many_arms_of_one_model_are_counted_after_the_first(record):
    run = record.arms[0].runs[0]
    arms = tuple(Arm(f"a{i}", (replace(run, arm=f"a{i}"),)) for i in range(9))
    overview, _ = models.tables(replace(record, arms=arms))
    assert overview.rows[0][0] == "base, a0, a1, a2, a3, a4 and 4 more"
