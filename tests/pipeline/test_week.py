"""Three weeks of a growing shop, as docs/nightly.md tells them: import, drift, training, promotion, recommendations.

Commands and stages run in this process, in the order of `dvc repro` (tests/pipeline/test_repro.py runs that itself): to
start Python forty times would take minutes.

The shop is the built-in sample with one department, and with settings under which a training takes seconds. New
customers come each week; in the third, half of all come for a second department. The gate has the margin of so small a
shop, and decides by itself.
"""

import csv
import gzip
import importlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from mlflow import MlflowClient

from llmsrec import cli
from llmsrec import params as parameters
from llmsrec.data import sample
from llmsrec.files import read_json
from llmsrec.promotion import actions
from stages.common import run
from tests.params_file import set_params
from tests.registry.made import quick_smoke

ROOT = Path(__file__).resolve().parents[2]
IMPORT = [
    "import", "orders.csv", "--user", "Kunde", "--item", "Artikel", "--time", "Bestellt am", "--title", "Bezeichnung",
    "--to", "data/incoming", "--category", "Shop",
]  # fmt: skip
IMPORTED = ["sources.files", "ingest", "filter"]
TRAINED = ["start", "split", "validate", "backbone", "sasrec", "llm_srec", "evaluate", "export", "register"]
SHOP: dict[str, Any] = {
    "data.source": "files",
    "data.category": "Shop",
    "split.negatives": 20,
    "backbone.embedded.vocab_size": 600,
    "backbone.embedded.hidden_size": 64,
    "backbone.embedded.layers": 1,
    "backbone.embedded.heads": 2,
    "backbone.embedded.steps": 5,
    "sasrec.lr": 0.01,
    "sasrec.batch_size": 32,
    "sasrec.epochs": 20,
    "model.history": 2,  # so the last two items alone are read, and a shuffle brings others
    "model.user_representation": True,
    "model.d_prime": 64,
    "model.head_hidden": 128,
    "model.title_tokens": 8,
    "train.lr": 0.01,
    "train.lr_decay": 0.9,
    "train.epochs": 5,
    "train.evaluations_per_epoch": 1,
    "train.monitor": "full/ndcg_10",
    "evaluate.bootstrap": 200,
    "export.users": 50,
    "registry.model": "shop",
    "registry.gate.margin": 0.15,  # of 200 customers; an interval is .04 to either side
    "registry.gate.slice_margin": 0.3,
}


@dataclass(frozen=True)
class Shop:
    """A repository with a registry, and its customers' orders."""

    folder: Path
    orders: dict[str, list[dict[str, str]]]  # department -> lines of an export

    def set(self, **values: Any) -> None:
        """Values of params.yaml, `__` for a dot."""
        set_params(self.folder / "params.yaml", {key.replace("__", "."): value for key, value in values.items()})

    def export(self, camping: int, pantry: int = 0, titles: bool = True) -> None:
        """orders.csv of so many customers of the two departments, as their shop's software writes it."""
        lines = [
            line if titles else {**line, "Bezeichnung": ""}
            for name, count in (("camping", camping), ("pantry", pantry))
            for line in self.orders[name]
            if int(line["Kunde"].split("-")[1]) < count
        ]
        with (self.folder / "orders.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [*lines[0]], delimiter=";")
            writer.writeheader()
            writer.writerows(lines)

    def stages(self, names: list[str]) -> None:
        for name in names:
            script = importlib.import_module(f"stages.{name}")
            run(script.main, name.rpartition(".")[2], script.FOLDER if "." in name else Path())

    def imported(self) -> None:
        """This week's export, up to data/filtered."""
        assert cli.main(IMPORT) == 0
        self.stages(IMPORTED)

    def drift(self) -> int:
        return cli.main(
            ["drift", "--data", "data/filtered", "--model", "models:/shop@staging", "--out", "reports/drift"]
        )

    def promote(self) -> int:
        return cli.main(["promote", "--model", "shop", "candidate", "--to", "staging", "--yes"])

    def scored(self) -> pl.DataFrame:
        command = ["score", "--model", "models:/shop@staging", "--out", "recommendations.parquet"]
        assert cli.main(command) == 0
        return pl.read_parquet("recommendations.parquet")

    def staging(self) -> str:
        client = MlflowClient(f"sqlite:///{self.folder}/mlruns/mlflow.db")
        return f"shop/{client.get_model_version_by_alias('shop', 'staging').version}"


def orders_of(department: int, name: str, seed: int, folder: Path) -> list[dict[str, str]]:
    """The built-in sample's reviews of one department as lines of an export, customers numbered."""
    vocabulary = json.loads((ROOT / "stages/sources/sample.json").read_text())
    only = {**vocabulary, "departments": vocabulary["departments"][department : department + 1]}
    folder.mkdir()
    sample.generate(only, parameters.Sample(users=300, items=150, seed=seed), folder)
    reviews, items = (
        [json.loads(line) for line in gzip.decompress((folder / f"{part}Sample.jsonl.gz").read_bytes()).splitlines()]
        for part in ("", "meta_")
    )
    titles = {item["parent_asin"]: item.get("title") for item in items}
    customers: dict[str, int] = {}
    return [
        {
            "Kunde": f"{name}-{customers.setdefault(review['user_id'], len(customers))}",
            "Artikel": review["parent_asin"],
            "Bestellt am": str(review["timestamp"]),
            "Bezeichnung": str(titles.get(review["parent_asin"]) or ""),
        }
        for review in reviews
    ]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    folder = tmp_path / "shop"
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder / name)
    monkeypatch.chdir(folder)
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    made = Shop(
        folder,
        {
            "camping": orders_of(0, "camping", 1, tmp_path / "camping"),
            "pantry": orders_of(1, "pantry", 2, tmp_path / "pantry"),
        },
    )
    made.set(**{key.replace(".", "__"): value for key, value in SHOP.items()})
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield made
    torch.use_deterministic_algorithms(deterministic)


def test_a_shop_lives_through_three_weeks_and_nothing_is_forced(
    shop: Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "smoke", quick_smoke)  # a fresh process a promotion is tests/registry's
    # The first: nobody is in staging yet.
    shop.export(camping=200)
    shop.imported()
    shop.stages(TRAINED)
    assert shop.promote() == 0 and shop.staging() == "shop/1"
    first = shop.scored()
    assert set(first["version"]) == {"shop/1"} and first["user_id"].n_unique() > 150

    # The second: more customers of the same kind, so the training begins from what is in staging.
    shop.export(camping=290)
    shop.imported()
    assert shop.drift() == 0
    start = read_json(Path("reports/drift/drift.json"))["version"]
    assert start == "shop/1"
    shop.set(train__start=start, sasrec__epochs=5, train__epochs=2)
    capsys.readouterr()
    shop.stages(TRAINED)
    said = capsys.readouterr().out
    assert "sasrec: begins from shop/1, which knows" in said and "LLM-SRec begins from shop/1" in said
    assert shop.promote() == 0 and shop.staging() == "shop/2"
    said = capsys.readouterr().out
    assert "version 1 was tested on other data: it is asked about" in said and "forced" not in said
    version = MlflowClient(f"sqlite:///{shop.folder}/mlruns/mlflow.db").get_model_version("shop", "2")
    assert version.tags["started_from"] == "shop/1" and "- started from shop/1, bundle" in version.description
    second = shop.scored()
    assert set(second["version"]) == {"shop/2"} and second["user_id"].n_unique() > first["user_id"].n_unique()

    # The third begins with an export that has lost its titles: the checks say no, and staging stays.
    shop.export(camping=290, pantry=280, titles=False)
    shop.imported()
    with pytest.raises(SystemExit):
        shop.stages(TRAINED[: TRAINED.index("backbone")])
    assert shop.staging() == "shop/2"
    assert shop.scored()["version"].unique().to_list() == ["shop/2"]

    # With titles: half of the customers come for other goods, so all is learnt anew.
    shop.export(camping=290, pantry=280)
    shop.imported()
    assert shop.drift() == 3
    assert "unknown items, share" in capsys.readouterr().out.partition("DRIFT: ")[2]
    shop.set(train__start="scratch", sasrec__epochs=SHOP["sasrec.epochs"], train__epochs=SHOP["train.epochs"])
    shop.stages(TRAINED)
    assert shop.promote() == 0 and shop.staging() == "shop/3"
    assert "their last items that it does not know, each a miss" in capsys.readouterr().out
    third = shop.scored()
    assert set(third["version"]) == {"shop/3"} and third["user_id"].n_unique() > 450
    capsys.readouterr()
    assert cli.main(["history", "--model", "shop"]) == 0
    decisions = capsys.readouterr().out
    assert decisions.count("promote") == 3 and "forced" not in decisions
