import json

from service import logs


def test_the_log_of_a_trial_is_bounded_and_keeps_the_newest(capsys):
    log = logs.configure(json_lines=True, study="s")
    for i in range(5000):
        log.info("event", trial=7, i=i, text="x" * 100)
    lines = logs.of_trial(7)
    log.debug("progress", trial=7)
    assert len(lines) <= logs.KEPT_CHARACTERS < len(lines) + 300
    assert json.loads(lines.splitlines()[-1])["i"] == 4999
    assert logs.of_trial(7) == lines
    log.info("event", text="of no trial")
    log.info("started", trial=8)
    assert [json.loads(line)["event"] for line in logs.of_trial(8).splitlines()] == ["started"]
    assert logs.of_trial(7) == ""
    capsys.readouterr()
