from tests.service.calls import in_process


def test_create_and_status(tiny):
    result = in_process(tiny, "create", str(tiny.file), "--trials", "3", "--set", "model.dropout=0.2")
    assert result.exit_code == 0, result.output
    shown = in_process(tiny, "status", "tiny")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines() == [
        "study tiny: no trials",
        "0 of 3 trials finished, 0 workers alive",
        "one that has just been started takes some seconds, on a busy machine a minute",
    ]


def test_one_seed_is_too_few_to_confirm(tiny):
    result = in_process(tiny, "confirm", "tiny", "--seeds", "1")
    assert result.exit_code == 2
    assert "'--seeds': 1 is not in the range 2<=x<=20" in result.stderr


def test_a_scale_that_is_not_there_is_answered_with_those_that_are(tiny):
    result = in_process(tiny, "create", str(tiny.file), "--scale", "cpu")
    assert result.exit_code == 2
    assert result.stderr.endswith("study.yaml: scale 'cpu' does not exist; there are: none\n")


def test_a_file_that_is_only_read_without_its_source_is_refused(tiny):
    tiny.write(source="docstrings")
    result = in_process(tiny, "create", str(tiny.file), "--set", "data.path=titles.txt")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: command line: data.path: has no effect in any trial of this study; it is read with data.source=file\n"
    )
