from dataclasses import replace

from service.report.page import content


def test_the_header_says_on_what_it_was_measured(built, record):
    facts = dict(built.facts)
    assert facts["scale"] == "the study's own, as published"
    assert facts["device"] == "a CPU"
    assert facts["seeds"] == "1, 2, 3"
    assert facts["budget of a run"] == "8,960 tokens"
    assert facts["model"] == "9,000 parameters"
    assert facts["trials"] == "8 complete, 1 diverged, 1 interrupted and resumed"
    assert record.corpus["fingerprint"] in facts["corpus"]


def test_what_broke_off_is_told_before_the_numbers(built):
    what, why = (
        "wild: of 3 runs 1 diverged, left out of means and intervals",
        "diverged: the loss of step 30 is nan",
    )
    assert f"{what} (trial 7, seed 2: {why})." in built.warnings
    assert "Published, and no arm of this study: nobody." in built.warnings


def test_claims_are_checked_in_their_order(built):
    assert [(claim.text, claim.verdict) for claim in built.claims] == [
        ("The highest rate is best.", "refuted"),
        ("It is faster.", "confirmed"),
        ("Memory is lower.", "not shown here"),
    ]


def test_the_tables_stand_in_order_under_ids_of_their_own(built):
    ids = [table.id for table in built.tables]
    assert ids == [
        "summary", "differences", "defects", "published-table-2", "claims", "compute", "predictions", "stability",
        "speed", "runs", "definitions",
    ]  # fmt: skip
    for table in built.tables:
        assert {len(row) for row in table.rows} == {len(table.headings)}, table.id


def test_a_scale_is_warned_of(built, record):
    scaled = content.build(replace(record, scale="cpu"), built.published)
    assert dict(scaled.facts)["scale"] == "cpu"
    assert "not at the published size" in scaled.warnings[0]
    assert not any("published size" in warning for warning in built.warnings)


def test_one_seed_is_said(record_of):
    found = content.build(record_of(slow={"val_loss": [1.0]}, fast={"val_loss": [2.0]}), None)
    assert "One seed: no interval, and no difference can be told from chance." in found.warnings
    assert "No run yet: wild." in found.warnings
    assert found.claims == ()
