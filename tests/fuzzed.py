"""What the fuzz test gives to the project: valid inputs, changed. Each is made again from its number alone."""

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.conftest import TINY, sentences

SECRET = "S3CR3T"
ODD: list[Any] = [
    None, True, "", [], {}, -1, 0, 1, 2**63, 2**64, -(2**70), 10**30, 0.1, -0.0, 1e-320, 1e308, float("inf"),
    float("nan"), "1e400", "nan", "null", "yes", "word", "a b", "ü\u202e", "\x1b[2J", "two\nlines", "x" * 3000,
    "9" * 5000, [1, 2], ["a", "a"], [[]], [None], {"a": {"b": {}}}, {"": 1}, {"type": "int"}, "../..", "/proc/nope",
]  # fmt: skip


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Each container of a tree with each of its keys."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    here = [(tree, key) for key, _ in items]
    return here + [place for _, child in list(items) for place in places(child)]


def changed(tree: Any, draw: random.Random) -> Any:
    """The tree with one part dropped, doubled, renamed, moved or replaced."""
    container, key = draw.choice(places(tree) or [([tree], 0)])
    match draw.randrange(6):
        case 0:
            container.pop(key)
        case 1 if isinstance(container, dict):
            container[draw.choice([f"{key}x", str(key).upper(), "", str(key)[1:], f"{key}.{key}"])] = (
                container.pop(key)
            )
        case 1:
            container.append(container[key])
        case 2:
            other, its_key = draw.choice(places(tree))
            container[key] = json.loads(json.dumps(other[its_key]))
        case 3:
            value = container[key]
            container[key] = draw.choice([[value], {"a": value}, str(value), [value] * 30])
        case _:
            container[key] = draw.choice(ODD)
    return tree


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The bytes of a file as other programs, disks and people leave them."""
    at = draw.randrange(len(content) + 1)
    match draw.randrange(12):
        case 0:
            return content[:at]
        case 1:
            return b"\xef\xbb\xbf" + content
        case 2:
            return content.replace(b"\n", b"\r\n")
        case 3:
            return content.replace(b"\n", b"\r")
        case 4:
            return content[:at] + draw.randbytes(5) + content[at:]
        case 5:
            return content[:at] + b"\0" + content[at:]
        case 6:
            return content.decode("utf-8", "replace").encode("utf-16")
        case 7:
            return content[:at] + b"\t" + content[at:]
        case 8:
            return content[:at] + draw.choice(
                [b"&a ", b"*a ", b"!!python/object:os.system ", b"{{", b"- ", b'"']
            )
        case 9:
            return content * 2
        case 10:
            return content[:at] + draw.choice([b"[", b"{a: ", b"- "]) * 20_000 + content[at:]
        case _:
            return content[:at] + content[at : at + 1] * 100_000 + content[at + 1 :]


FIXED = {"data.source": "docstrings", **TINY, "training.epochs": None}
STUDIES: list[dict[str, Any]] = [
    {
        "question": "Which?",
        "fixed": FIXED,
        "space": {"optimizer.lr": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}},
        "sampler": {"name": "tpe", "startup_trials": 5},
        "pruner": {"name": "median", "audit": 0.1},
        "trials": 7,
    },
    {
        "question": "Which?",
        "fixed": FIXED,
        "design": {
            "list": [{"arm": "A"}, {"arm": "B", "optimizer.name": "sgd", "training.tokens": 18000}],
            "grid": {"optimizer.lr": [0.001, 0.01]},
            "one_at_a_time": {"optimizer.weight_decay": [0, 0.01]},
            "seeds": [1, 2],
        },
        "baseline": False,
        "scales": {"half": {"set": {"training.tokens": 4000}, "map": {"optimizer.lr": {"0.01": 0.02}}}},
    },
]  # fmt: skip


def study_file(number: int) -> bytes:
    draw = random.Random(f"study {number}")
    tree = json.loads(json.dumps(draw.choices(STUDIES, weights=[1, 3])[0]))  # a space takes long to prove
    for _ in range(draw.choice([0, 1, 1, 1, 2, 5])):
        changed(tree, draw)
    flow = draw.choice([None, False, True])
    content = yaml.safe_dump(tree, default_flow_style=flow, allow_unicode=True, sort_keys=False).encode()
    return damaged(content, draw) if draw.random() < 0.3 else content


def data_file(number: int) -> tuple[str, bytes, str | None]:
    """Suffix, content and column of a file of documents."""
    draw = random.Random(f"data {number}")
    suffix = draw.choice(["txt", "csv", "jsonl", "parquet"])
    titles: list[Any] = sentences(0)[:40]
    for _ in range(draw.choice([0, 0, 1, 3])):
        odd = [*ODD, "x" * 140_000, "a\0b", "a\rb", '"', "=1+1", "," * 99, "\ud800"]
        titles[draw.randrange(len(titles))] = draw.choice(odd)
    column = draw.choice([None, "title", "title", "other", "", "ü"])
    if suffix == "txt":
        content = "\n".join(map(str, titles)).encode("utf-8", "replace")
    elif suffix == "csv":
        file = io.StringIO()
        csv.writer(file).writerows([["title", "points"], *([title, 3] for title in titles)])
        content = file.getvalue().encode("utf-8", "replace")
    elif suffix == "jsonl":
        lines = [json.dumps({"title": title, "points": 3}) for title in titles]
        if draw.random() < 0.2:
            lines[3] = draw.choice(
                ['{"title": ' + "9" * 5000 + "}", "[" * 200_000, '{"title": NaN}', "3", '"a"']
            )
        content = "\n".join(lines).encode()
    else:
        texts = [str(title).encode("utf-8", "replace") for title in titles]
        if draw.random() < 0.2:
            texts[3] = b"\xff\xfe"
        array = pa.array(texts).cast(pa.binary()) if draw.random() < 0.2 else pa.StringArray.from_buffers(
            len(texts), *pa.array(texts).buffers()[1:]
        )  # fmt: skip
        names = draw.choice([["title", "points"], ["title", "title"], ["", "title"]])
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_arrays([array, array], names=names), buffer)
        content = buffer.getvalue()
    return suffix, damaged(content, draw) if draw.random() < 0.5 else content, column


def address(number: int, folder: Path) -> str:
    draw = random.Random(f"address {number}")
    password = "".join(draw.choices("aZ9@:/?#%&+= {}[]\\'\"ü\x1b\n", k=draw.randrange(6)))
    text = draw.choice(
        [
            f"postgresql+psycopg://u:{password}{SECRET}@127.0.0.1:1/db",
            f"postgresql+psycopg://u:{SECRET}{password}@127.0.0.1:1/db?sslmode=disable",
            f"postgresql://u@127.0.0.1:1/db?password={SECRET}{password}&connect_timeout=3",
            f"sqlite:///{folder}/{password}.db",
            f"sqlite:///{folder}/{number}.db",
        ]
    )
    for _ in range(draw.choice([0, 0, 1, 2])):
        at = draw.randrange(len(text))
        text = (
            text[:at] + draw.choice(["", *"@:/?#%&= {}[]\r", "%00", "%ff", "://", "9" * 30]) + text[at + 1 :]
        )
    return text


NAMES = (
    "STORAGE_URL", "ARTIFACTS", "CACHE", "CURVES", "DEVICE", "WORKERS_PER_GPU", "CUDA_GRAPHS", "LEASE_SECONDS",
    "PATIENCE_SECONDS", "DASHBOARD_PASSWORD", "DASHBOARD_PASSWORD_FILE",
)  # fmt: skip


def environment(number: int, folder: Path) -> dict[str, str]:
    draw = random.Random(f"environment {number}")
    given = {"STORAGE_URL": f"sqlite:///{folder}/none.db", "ARTIFACTS": str(folder), "CACHE": str(folder)}
    for name in draw.sample(NAMES, draw.randrange(3)):
        odd = [str(value) for value in ODD] + [
            "cuda:99",
            "s3://",
            "s3://b/../x",
            "http://[::1",
            "~/x",
            "\udcff",
            "٣",
        ]
        given[name] = draw.choice(odd)
    columns = {"COLUMNS": str(draw.choice(ODD))} if draw.random() < 0.3 else {}
    return {f"HPTUNE_{name}": value for name, value in given.items()} | columns
