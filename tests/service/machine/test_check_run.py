from pathlib import Path

import pytest

from model.config.yaml_tree import read
from model.errors import ConfigError
from service.machine import check_run
from service.study.own_run import BudgetConfig, OwnRunKind, imported
from tests.own_code import RUN, altered, write_own

KIND = OwnRunKind("falling:Run", BudgetConfig(amount=8, unit="strides", rungs=4), "height")
TAKEN_UP = "        self.random.setstate((kind, tuple(numbers), gauss))\n"


def found(folder: Path, source: str) -> list[tuple[bool, str]]:
    """The findings of a class, its runs in this process."""
    base = read(write_own(folder, source=source).parent / "config.yaml")
    cls, kind = imported(KIND, [folder], base)
    tree = kind.read(base).tree

    def run(what, **how):
        check_run.write_job(folder, kind, tree, [folder], **how)
        check_run.main(folder)
        return check_run.read_result(folder, what)

    found = check_run.findings(run, kind, folder, exact=getattr(cls, "exact", True))
    return [(each.holds, each.said) for each in found]


def test_a_class_that_does_it_all(tmp_path):
    assert [holds for holds, _ in found(tmp_path, RUN)] == [True] * 5
    said = [said for _, said in found(tmp_path, RUN)]
    assert said[0].startswith("evaluates at 2, 4, 6, 8 strides: height 0.")
    assert said[1] == "a second run has the same values to the last bit"
    assert (
        said[2]
        == "a run saved and restored in a fresh process after every rung has the same values to the last bit"
    )
    assert said[3] == "ends 0.0 s after stop(), allowed: 60 s"
    assert said[4] == "a run restored after stop() has the same values to the last bit"


NOT_SEEDED = altered('random.Random(config["seed"])', "random.Random()")


@pytest.mark.parametrize(
    ("source", "place", "said"),
    [
        (NOT_SEEDED, 1, "a second run has 0."),
        (
            NOT_SEEDED,
            1,
            ": does all that is random follow from the configuration's seed? Where it cannot be exact",
        ),
        (altered(TAKEN_UP, ""), 2, "restored in a fresh process after every rung has 0."),
        (altered(TAKEN_UP, ""), 2, ": do save and restore hand on weights, optimizer, how far it has come, "),
        (
            altered('(folder / "state.json").read', '(folder / "stat.json").read'),
            2,
            "a run restored after 2 strides: falling:Run.restore: FileNotFoundError: ",
        ),
        (altered(" and not self.stopped", ""), 3, "stop() did not end it: it went on to 8 strides"),
        (
            altered("self.step in self.rungs", "self.step % 3 == 0"),
            0,
            "a whole run: evaluated at 6 strides, must be at 4 and before 6",
        ),
        (
            altered("self.value *= ", "self.value /= 0 * self.value; self.value *= "),
            0,
            "a whole run: ZeroDivisionError: ",
        ),
        (
            altered("self.value *= ", "self.value *= float('nan') * "),
            0,
            "a whole run: diverged: height nan at 2 strides",
        ),
        (altered("(folder / ", "(folder / 'there' / "), 0, "a whole run: FileNotFoundError: "),
        (
            altered("        self.step, self.value, (", "        self.stop, self.value, ("),
            2,
            "a run restored after 2 strides: evaluated at 2 strides",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, source, place, said):
    findings = found(tmp_path, source)
    assert [holds for holds, _ in findings[:place]] == [True] * place
    holds, line = findings[place]
    assert not holds
    assert said in line
    assert len(line.splitlines()) == 1


def test_a_state_that_cannot_be_restored_is_shown_with_their_own_line(tmp_path):
    base = read(write_own(tmp_path, source=altered("json.loads(", "json.loads(1 + ")).parent / "config.yaml")
    kind = imported(KIND, [tmp_path], base)[1]
    tree, state = kind.read(base).tree, tmp_path / "state.zip"
    check_run.write_job(tmp_path, kind, tree, [tmp_path], evaluations=1, save=[state])
    check_run.main(tmp_path)
    check_run.write_job(tmp_path, kind, tree, [tmp_path], restore=state)
    check_run.main(tmp_path)
    with pytest.raises(check_run.Broken) as broken:
        check_run.read_result(tmp_path, "a run")
    first, line, *_ = broken.value.finding.traceback.splitlines()
    assert first.startswith("Traceback")
    assert "falling.py" in line
    assert str(state) not in broken.value.finding.said


def test_a_class_may_say_that_it_is_not_exact(tmp_path):
    source = NOT_SEEDED.replace("class Run:\n", "class Run:\n    exact = False\n")
    findings = found(tmp_path, source)
    assert all(holds for holds, _ in findings)
    assert findings[1][1].endswith("not to the bit, as the class says (exact = False)")


@pytest.mark.slow
def test_runs_in_processes_of_their_own_share_nothing(tmp_path):
    folder = tmp_path / "down"
    base = read(write_own(folder, source=RUN).parent / "config.yaml")
    assert [each.holds for each in check_run.check(KIND, base, [folder], say=print)] == [True] * 5
    # what is kept in the module and not in the state is there in one process only
    kept = altered(TAKEN_UP, "        self.random = KEPT.get('random', self.random)\n")
    kept = f"KEPT = {{}}\n{kept}".replace(
        "        self.value *=", "        KEPT['random'] = self.random\n        self.value *="
    )
    write_own(folder, source=kept)
    lines = [(each.holds, each.said) for each in check_run.check(KIND, base, [folder], say=print)]
    assert [holds for holds, _ in lines[:3]] == [True, True, False]
    write_own(
        folder,
        source=altered(
            "        self.value *=", "        import os\n        os._exit(7)\n        self.value *="
        ),
    )
    (only,) = check_run.check(KIND, base, [folder], say=print)
    assert (only.holds, only.said) == (False, "a whole run ended with status 7: no message")


def test_a_base_file_that_cannot_be_used_is_the_users_to_mend(tmp_path):
    base = read(write_own(tmp_path, base="rate: 0.1\n").parent / "config.yaml")
    with pytest.raises(ConfigError, match="seed: missing key"):
        list(check_run.check(KIND, base, [tmp_path], say=print))
