import optuna
import pytest
from optuna.trial import TrialState

from service.catalogue.intake import IMPORTED
from tests.service.catalogue.asking import fill, invoke, opened, plain_study


def test_an_enqueued_point_waits_for_the_next_free_slot(anywhere):
    anywhere.create(2)
    done = invoke(anywhere, "enqueue", "tiny", "optimizer.lr=2e-3")
    assert done.stdout == "enqueued: trial 0 of study tiny runs in the next of 2 free slots\n"
    with opened(anywhere) as (_, study, _):
        (trial,) = study.get_trials(states=(TrialState.WAITING,))
        assert trial.system_attrs["fixed_params"] == {"optimizer.lr": 0.002}


@pytest.mark.slow
def test_an_enqueued_point_is_run(tiny):
    tiny.create(2)
    invoke(tiny, "enqueue", "tiny", "optimizer.lr=2e-3")
    tiny.worker().work()
    assert sorted(trial.params["optimizer.lr"] for trial in tiny.trials()) == [0.001, 0.002]


def test_a_plain_optuna_study_is_taken_in_once(anywhere):
    anywhere.create(2)
    plain_study(anywhere, "foreign", (0.002, 2.5), (0.008, 2.25), waiting=1)
    call = ("import", "tiny", "--optuna", "foreign", "--map", "lr=optimizer.lr")
    assert invoke(anywhere, *call).stdout == "imported: 2 trials into study tiny; 1 are not complete\n"
    again = invoke(anywhere, *call).stdout
    assert again == "imported: 0 trials into study tiny; 2 were there already; 1 are not complete\n"
    with opened(anywhere) as (_, found, _):
        assert [(t.params, t.value) for t in found.trials] == [
            ({"optimizer.lr": 0.002}, 2.5),
            ({"optimizer.lr": 0.008}, 2.25),
        ]
        assert found.trials[1].user_attrs[IMPORTED] == {"from": "study foreign", "number": 1}
    assert "slots closed, 2 left" in invoke(anywhere, "show", "tiny").stdout


def test_a_study_of_another_storage_is_only_read(tiny, tmp_path):
    tiny.create(1)
    url = f"sqlite:///{tmp_path}/elsewhere.db"
    plain = optuna.create_study(storage=url, study_name="x")
    plain.add_trial(
        optuna.trial.create_trial(
            value=1.0,
            params={"optimizer.lr": 0.002, "note": 3},
            distributions={
                "optimizer.lr": optuna.distributions.FloatDistribution(0, 1),
                "note": optuna.distributions.IntDistribution(0, 9),
            },
        )
    )
    before = (tmp_path / "elsewhere.db").read_bytes()
    call = ("import", "tiny", "--optuna", "x", "--storage", url)
    refused = invoke(tiny, *call)
    assert refused.stderr == (
        "error: trial 0 of x: note: is no parameter of the space, which has: optimizer.lr; --map note=KEY gives it the "
        "space's name, --map note= leaves it out; --fitting takes the 0 that fit\n"
    )
    assert invoke(tiny, *call, "--map", "note=").stdout == "imported: 1 trials into study tiny\n"
    assert (tmp_path / "elsewhere.db").read_bytes() == before


def test_what_one_study_exports_another_imports(anywhere, tmp_path):
    anywhere.create(1)
    anywhere.create(1, name="second")
    fill(
        anywhere,
        ({"optimizer.lr": 0.001}, 2.0),
        ({"optimizer.lr": 0.0123 / 3}, 1.5),
        ({"optimizer.lr": 0.002}, None),
    )
    file = tmp_path / "trials.csv"
    invoke(anywhere, "export", "tiny", "--format", "csv", "--out", file)
    done = invoke(anywhere, "import", "second", "--csv", file)
    assert done.stdout == "imported: 2 trials into study second; 1 are not complete\n", done.output
    with opened(anywhere, "second") as (_, study, _):
        assert [(t.params["optimizer.lr"], t.value) for t in study.trials] == [(0.001, 2.0), (0.0041, 1.5)]


def test_optunas_own_table_is_read(tiny, tmp_path):
    tiny.create(1)
    study = plain_study(tiny, "foreign", (0.002, 2.5))
    study.trials_dataframe().to_csv(tmp_path / "t.csv", index=False)
    done = invoke(tiny, "import", "tiny", "--csv", tmp_path / "t.csv", "--map", "params_lr=optimizer.lr")
    assert done.stdout == "imported: 1 trials into study tiny\n", done.output
    assert tiny.trials()[0].params == {"optimizer.lr": 0.002}


def test_one_result_outside_the_space_refuses_all_or_is_left_out(tiny, tmp_path):
    tiny.create(1)
    file = tmp_path / "t.csv"
    file.write_text("optimizer.lr,val_loss\n0.002,2.0\n0.5,1.0\n,1.5\n0.003,nan\n")
    refused = invoke(tiny, "import", "tiny", "--csv", file)
    assert refused.stderr == (
        f"error: {file}:3: optimizer.lr: given 0.5, allowed: from 0.0001 to 0.01 (and 2 more); --fitting takes the 1 "
        "that fit\n"
    )
    assert tiny.trials() == []
    done = invoke(tiny, "import", "tiny", "--csv", file, "--fitting")
    assert done.stdout.splitlines() == [
        f"left out: {file}:3: optimizer.lr: given 0.5, allowed: from 0.0001 to 0.01",
        f"left out: {file}:4: optimizer.lr: is missing, allowed: from 0.0001 to 0.01",
        f"left out: {file}:5: loss: must be finite, given nan",
        "imported: 1 trials into study tiny",
    ]


CASES_A_FILE_THAT_ = [
    (b"", "has no column val_loss or value; columns: none"),
    (b"optimizer.lr,loss\n1,2\n", "has no column val_loss or value; columns: optimizer.lr, loss"),
    (b"optimizer.lr,val_loss\n0.002\n", ":2: has 1 cells, its heading has 2"),
    (b"optimizer.lr,val_loss\n0.002,low\n", ":2: val_loss: must be a number, given 'low'"),
    (b"optimizer.lr,val_loss\n[1,2.0\n", ":2: value '[1'"),
    (b"\xff\xfe\x00", "not valid CSV in UTF-8: "),
    (b'a,val_loss\n"x\n', "not valid CSV in UTF-8: unexpected end of data"),
]


def test_a_file_that_is_none_is_told_in_one_line(tiny, tmp_path):
    tiny.create(1)
    for content, says in CASES_A_FILE_THAT_:
        (tmp_path / "t.csv").write_bytes(content)
        done = invoke(tiny, "import", "tiny", "--csv", tmp_path / "t.csv")
        assert done.exit_code == 2
        assert done.stderr.startswith(f"error: {tmp_path / 't.csv'}")
        assert says in done.stderr
        assert done.stderr.count("\n") == 1


CASES_BAD_ARGUMENT = [
    (("enqueue", "tiny", "optimizer.lr=0.5"), "optimizer.lr: given 0.5, allowed: from 0.0001 to 0.01"),
    (("enqueue", "tiny", "lr=1"), "lr: is no parameter of the space, which has: optimizer.lr"),
    (("enqueue", "tiny"), "KEY=VALUE: none given, allowed: keys of the space: optimizer.lr"),
    (("enqueue", "tiny", "optimizer.lr"), "optimizer.lr: must be KEY=VALUE"),
    (("enqueue", "foreign", "lr=1"), "study 'foreign' was made by Optuna itself"),
    (("import", "tiny"), "import: neither given, allowed: one of --optuna and --csv"),
    (
        ("import", "tiny", "--csv", "x", "--optuna", "y"),
        "import: both given, allowed: one of --optuna and --csv",
    ),
    (("import", "tiny", "--csv", "x", "--storage", "y"), "--storage: has no effect with --csv"),
    (
        ("import", "tiny", "--csv", "/nowhere.csv"),
        "/nowhere.csv: cannot be read: No such file or directory",
    ),
    (("import", "tiny", "--optuna", "tiny"), "--optuna tiny: is the study itself, allowed: another one"),
    (("import", "tiny", "--optuna", "nosuch"), "study 'nosuch' is not in "),
    (
        ("import", "tiny", "--optuna", "upwards"),
        "study 'upwards': must minimise one loss, given: maximize",
    ),
    (("import", "tiny", "--optuna", "x", "--map", "lr"), "--map lr: must be NAME=KEY"),
    (
        ("import", "tiny", "--optuna", "x", "--storage", "sqlite:////nowhere.db"),
        "sqlite:////nowhere.db: there is no",
    ),
    (
        (
            "import",
            "tiny",
            "--optuna",
            "x",
            "--storage",
            "postgresql+psycopg://me:secret@127.0.0.1:1/none",
        ),
        "postgresql+psycopg://me:***@127.0.0.1:1/none: the storage cannot be opened: ",
    ),
]


def test_bad_arguments_are_told_in_one_line(tiny):
    tiny.create(1)
    plain_study(tiny, "foreign", (0.002, 2.5))
    plain_study(tiny, "upwards", direction="maximize")
    for arguments, says in CASES_BAD_ARGUMENT:
        done = invoke(tiny, *arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {says}"), done.stderr
        assert done.stderr.count("\n") == 1
        assert tiny.trials() == []


def test_a_design_takes_nothing_in(tiny):
    tiny.write("design:\n  list: [{arm: A}, {arm: B, optimizer.lr: 2.0e-3}]\nbaseline: false\n")
    tiny.create(1)
    plain_study(tiny, "foreign", (0.002, 2.5))
    for call in (("enqueue", "tiny", "optimizer.lr=0.002"), ("import", "tiny", "--optuna", "foreign")):
        assert invoke(tiny, *call).stderr == (
            "error: study 'tiny' runs 2 configurations that its file lists, and no other; add it there\n"
        )
