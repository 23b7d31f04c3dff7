"""Settings that every test shares."""

import gc
import os

# Small tensors on two cores: more threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.postgres import postgres  # noqa: F401  a fixture
from tests.registered import pair, registry  # noqa: F401  fixtures
from tests.tiny_models import *  # noqa: F403  fixtures

MODEL_SETTINGS = {
    "teacher": "sasrec",
    "d_prime": 16, "distill": True, "uniform": True, "distill_loss": "mse", "distill_normalize": False,
    "weights": {"retrieval": 1.0, "cf_retrieval": 0.0, "distill": 1.0, "uniform": 1.0}, "history": 4, "candidates": 4,
    "negatives": "own", "user_representation": False, "date_format": "YYYY/MM/DD", "head_hidden": 32, "title_tokens": 8,
    "max_tokens": 300,
}  # fmt: skip


TEACHERS = {
    "sasrec": {"blocks": 2, "heads": 2, "dropout": 0.2},
    "gru4rec": {"hidden": 12, "layers": 1, "embedding_dropout": 0.2, "dropout": 0.2},
    "bert4rec": {"blocks": 2, "heads": 2, "dropout": 0.2},
    "nextitnet": {"dilations": [1, 2], "dropout": 0.2},
    "ctrl": {"blocks": 2, "heads": 2, "dropout": 0.2},
}


def pytest_configure() -> None:
    """What is imported stays, so Python need not look through it for garbage again and again."""
    gc.set_threshold(20_000)


def pytest_collection_finish() -> None:
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """As `--dist loadfile`, but for the pipeline's files: they share a clone, which one worker makes once."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder = "tests/pipeline/"
            return folder if nodeid.startswith(folder) else super()._split_scope(nodeid)

    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


@dataclass(frozen=True)
class Tiny:
    """An untrained LLM-SRec of 30 items and 40 users, its files as the stages leave them, and its bundle."""

    folder: Path
    model: Any
    sequences: Any
    config: dict[str, Any]
    catalogue: pl.DataFrame

    @property
    def bundle(self) -> Path:
        return self.folder / "models/bundle"


def make_tiny(
    folder: Path, local: bool = False, lora_rank: int = 0, quantization: str = "none", titled: bool = False,
    graph: bool = True, **settings: Any,
) -> Tiny:  # fmt: skip
    """Untrained weights score as well as trained ones where two ways to score must agree.

    Args:
        titled: the teacher's item vectors are all of the titles (sasrec.items `text`).
        graph: whether the language model gets its ONNX graph, which takes more than half of the time; without, it is
            left to torch, as one is whose graph gives other vectors.
    """
    import torch
    from transformers import LlamaConfig, LlamaModel

    from llmsrec.data.sequences import Sequences
    from llmsrec.engine import backbone as backbones
    from llmsrec.engine import embedded
    from llmsrec.engine.text_vectors import text_vectors
    from llmsrec.export import bundle, layers
    from llmsrec.files import sha256, write_json
    from llmsrec.models.cf import teacher as teachers
    from llmsrec.models.llm import retrieval as llm_srec
    from llmsrec.models.text import item_vectors

    def left_to_torch(*_: object) -> None:
        raise layers.Unfit("no graph was asked for")

    rng = np.random.default_rng(0)
    items = pl.DataFrame({"item_id": np.arange(1, 31, dtype=np.int32)}).with_columns(
        parent_asin=pl.format("B{}", pl.col("item_id")),
        title=pl.format("Bottle no {} of rose water", pl.col("item_id")),
        store=pl.when(pl.col("item_id") % 3 > 0).then(pl.format("Shop {}", pl.col("item_id") % 3)),
        categories=pl.concat_list(pl.lit("Home"), pl.format("Shelf {}", pl.col("item_id") % 4)),
    )
    lengths = rng.integers(5, 9, size=40)
    rows = {
        "user_id": np.repeat(np.arange(1, 41, dtype=np.int32), lengths),
        "item_id": np.concatenate([rng.permutation(30)[:n] + 1 for n in lengths]).astype(np.int32),
        "timestamp": np.concatenate([1_500_000_000_000 + np.arange(n) * 86_400_000 for n in lengths]),
    }
    for name in ("data/filtered", "data/split", "models/backbone", "llm"):
        (folder / name).mkdir(parents=True)
    items.write_parquet(folder / "data/filtered/items.parquet")
    pl.DataFrame(rows).write_parquet(folder / "data/filtered/interactions.parquet")

    backbone, weights = folder / "models/backbone", folder / ("llm" if local else "models/backbone")
    tokenizer = embedded.train_tokenizer(items["title"].to_list(), 320, rng)
    tokenizer.save_pretrained(weights)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.2,
    )  # fmt: skip
    LlamaModel(shape).save_pretrained(weights)
    if local:
        backbones.describe("llm", None, folder, backbone)
    else:
        write_json(backbone / "backbone.json", {"kind": "embedded", "model": "embedded", "revision": None})
    write_json(folder / "models/start/start.json", {"version": None})
    system = settings.get("teacher", "sasrec")
    teacher = teachers.create(system, 30, {"dim": 16, "max_length": 6} | TEACHERS[system])
    with torch.no_grad():
        for parameter in teacher.initialise(torch.Generator().manual_seed(0)).parameters():
            parameter.mul_(8)
    if titled:
        texts = text_vectors(backbones.load(backbone), items["title"].to_list())
        of_titles = {"projection": torch.randn(32, 16, generator=torch.Generator().manual_seed(2)) / 8}
        of_titles["bias"] = -(texts[1:] @ of_titles["projection"]).mean(dim=0)
        with torch.no_grad():
            teacher.item.weight[1:] = texts[1:] @ of_titles["projection"] + of_titles["bias"]
        item_vectors.save(folder / "models" / system, of_titles)
    teachers.save(teacher, folder / "models" / system)

    config = {
        "model": {**MODEL_SETTINGS, **settings},
        "backbone": {"dtype": "float32", "quantization": quantization, "lora_rank": lora_rank},
        "seed": 0,
        "blend": {"weight": 0.4, "llm": 0.3, "teacher": 0.5},
        "data": {part: sha256(folder / "data" / part) for part in ("filtered", "split")},
    }
    paths = backbone, folder / "models" / system, folder / "data/filtered/items.parquet"
    fresh = llm_srec.build(*paths, config["model"], config["backbone"], 0)
    with torch.no_grad():
        for name, parameter in fresh.trainable().items():
            if "lora_B" in name:  # adapters start as zero, where they change nothing
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    fresh.save(folder / "models/llm_srec", config)
    model = llm_srec.load(folder / "models/llm_srec", *paths)
    sequences = Sequences.read(folder / "data/filtered/interactions.parquet").drop_last(1)
    counts = np.bincount(sequences.items, minlength=31)[1:]
    catalogue = items.with_columns(count=pl.Series(counts, dtype=pl.Int64))
    catalogue = catalogue.select("item_id", "parent_asin", "title", "count", "store", "categories")
    tiny = Tiny(folder, model, sequences, config, catalogue)
    with pytest.MonkeyPatch.context() as patch:
        if not graph:
            patch.setattr(layers, "export", left_to_torch)
        bundle.write(
            tiny.bundle, model, config, catalogue, backbone, sequences, users=40, tolerance=1e-4,
            of_titles=item_vectors.load(folder / "models" / system),
        )  # fmt: skip
    return tiny


@pytest.fixture
def full() -> Iterator[None]:
    """No file may grow beyond 2 kB: the system refuses as it does where the disk is full, to root, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@dataclass(frozen=True)
class Alone:
    """An untrained GRU4Rec of the tiny data, and its bundle, in which it stands by itself."""

    model: Any
    bundle: Path


@pytest.fixture(scope="session")
def alone(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    import torch

    from llmsrec.export import bundle
    from llmsrec.models.cf import teacher as teachers

    folder = tmp_path_factory.mktemp("alone") / "bundle"
    model = teachers.create("gru4rec", 30, {"dim": 16, "max_length": 6} | TEACHERS["gru4rec"])
    with torch.no_grad():
        for parameter in model.initialise(torch.Generator().manual_seed(1)).parameters():
            parameter.mul_(8)
    bundle.write_alone(folder, model, tiny.config["data"], tiny.catalogue, tiny.sequences, users=40, tolerance=1e-4)
    return Alone(model.eval(), folder)


@pytest.fixture(scope="session")
def tiny_lora(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The same with LoRA adapters, the prompt of Table 2 (c), and a backbone from a local folder."""
    return make_tiny(tmp_path_factory.mktemp("tiny_lora"), local=True, lora_rank=2, user_representation=True)
