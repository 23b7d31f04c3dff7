"""Which stages each key of params.yaml re-runs: read off dvc.yaml, and asked of DVC itself, without a training."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from llmsrec import params as parameters
from llmsrec.registry.record import flatten

ROOT = Path(__file__).parents[2]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
KEYS = flatten(parameters.load(ROOT / "params.yaml").model_dump())
AFTER_MODEL = ["llm_srec", "evaluate", "export", "register"]
AFTER_DATA = ["split", "validate", "backbone", "sasrec", *AFTER_MODEL]
# Outs that stay as they are when these keys change; passed.txt holds one sentence.
SAME = {"": {"reports/passed.txt"}}
SAME["split.negatives"] = SAME[""] | {"data/split/train.parquet", "data/split/valid.parquet"}
SAME["split.seed"] = SAME["split.negatives"]  # where training is not shuffled
EXPECTED = {
    "data.source": ["ingest", "filter", *AFTER_DATA],
    "data.category": ["ingest", "filter", *AFTER_DATA],
    "data.dir": ["ingest", "filter", *AFTER_DATA],
    "data.revision": ["ingest", "filter", *AFTER_DATA],
    "sample": ["ingest", "filter", *AFTER_DATA],
    "data.core": ["filter", *AFTER_DATA],
    "data.repeats": ["filter", *AFTER_DATA],
    "data.user_fraction": ["filter", *AFTER_DATA],
    "data.cold_fraction": ["filter", *AFTER_DATA],
    "data.seed": ["filter", *AFTER_DATA],
    "split.negatives": ["split", "validate", *AFTER_MODEL],
    "split.seed": ["split", "validate", *AFTER_MODEL],
    "split.shuffle_train": ["split", "validate", "sasrec", *AFTER_MODEL],
    "split.by": ["split", "validate", "sasrec", *AFTER_MODEL],
    "split.time": ["split", "validate", "sasrec", *AFTER_MODEL],
    "checks": ["validate", "register"],
    "backbone.model": ["backbone", *AFTER_MODEL],
    "backbone.revision": ["backbone", *AFTER_MODEL],
    "backbone.embedded": ["backbone", *AFTER_MODEL],
    "backbone": AFTER_MODEL,
    "sasrec": ["sasrec", *AFTER_MODEL],
    "model": AFTER_MODEL,
    "train": AFTER_MODEL,
    "train.start": ["start", "backbone", "sasrec", *AFTER_MODEL],
    "evaluate.validation_users": AFTER_MODEL,
    "evaluate": ["evaluate", "register"],
    "export": ["export", "register"],
    "registry.gate": [],
    "registry.after_promotion": [],
    "registry": ["register"],
    "tune": [],
    "drift": [],
    "cross": [],
}


def expected(key: str) -> list[str]:
    """By the longest name that the key is or begins with."""
    return EXPECTED[max((name for name in EXPECTED if f"{key}.".startswith(f"{name}.")), key=len)]


def plain(entries: list[Any]) -> list[str]:
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def related(one: str, other: str) -> bool:
    return Path(one) == Path(other) or Path(one) in Path(other).parents or Path(other) in Path(one).parents


def reads(stage: dict[str, Any], key: str) -> bool:
    templated = any(f"${{{key}}}" in dep for dep in stage["deps"])
    return templated or any(key == name or key.startswith(f"{name}.") for name in plain(stage.get("params", [])))


def filled(dep: str) -> str:
    """With the values of params.yaml, as DVC fills them in."""
    for key, value in KEYS.items():
        dep = dep.replace(f"${{{key}}}", str(value))
    return dep


def re_run(key: str) -> list[str]:
    """Those that read the key, and those that read what changes of their outs."""
    same, again, changed = SAME.get(key, SAME[""]), [], []
    for name, stage in STAGES.items():
        hit = any(related(filled(dep), out) for dep in stage["deps"] if dep not in same for out in changed)
        if reads(stage, key) or hit:
            again.append(name)
            changed += [out for out in plain([*stage.get("outs", []), *stage.get("metrics", [])]) if out not in same]
    return again


@pytest.mark.parametrize("key", KEYS)
def test_a_key_re_runs_no_more_than_it_must(key: str) -> None:
    assert re_run(key) == expected(key)


OTHER = {
    "data.core": 4, "split.shuffle_train": True, "backbone.embedded.steps": 7, "backbone.dtype": "bfloat16",
    "sasrec.patience": 3, "model.candidates": 2, "model.history": 5, "model.distill_normalize": True,
    "model.date_format": "YYYY-MM-DD", "model.user_representation": True, "model.distill_loss": "contrastive",
    "train.patience": 5, "evaluate.seed": 1, "export.users": 10, "registry.alias": "other",
}  # fmt: skip


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A repository whose outs are empty stand-ins that DVC holds for up to date."""
    from dvc.repo import Repo

    folder = tmp_path_factory.mktemp("stand-ins")
    for name in ("src", "stages"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "dvc.yaml")
        )
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder / name)
    files = [dep for stage in STAGES.values() for dep in stage["deps"] if not dep.startswith(("src", "stages"))]
    outs = [out for stage in STAGES.values() for out in plain([*stage.get("outs", []), *stage.get("metrics", [])])]
    for path in sorted({*files, *outs}, key=lambda path: (path.count("/"), path), reverse=True):
        at = folder / path
        if not at.exists():
            at.parent.mkdir(parents=True, exist_ok=True)
            if at.suffix:
                at.write_text(path)
            else:
                at.mkdir()
                (at / "made").write_text(path)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # dvc takes what is not said from there
        repo = Repo.init(str(folder))
        repo.commit(force=True)
        yield repo
        repo.close()


def test_dvc_says_the_same(committed: Any) -> None:
    """`dvc status` names for each stage the keys that changed for it; what follows those stages is the graph's.

    All at once, as a question takes DVC seconds.
    """
    path, yaml = Path(committed.root_dir) / "params.yaml", YAML()
    values = yaml.load(path.read_text())
    for key, other in OTHER.items():
        *parents, last = key.split(".")
        node = values
        for parent in parents:
            node = node[parent]
        assert node[last] != other
        node[last] = other
    with path.open("w") as handle:
        yaml.dump(values, handle)
    said: dict[str, set[str]] = {key: set() for key in OTHER}
    for name, changes in committed.status(targets=list(STAGES)).items():
        (changed,) = (change["changed deps"]["params.yaml"] for change in changes)
        for listed in changed:
            for key in OTHER:
                if key == listed or key.startswith(f"{listed}."):
                    said[key].add(name)
    assert said == {key: {name for name, stage in STAGES.items() if reads(stage, key)} for key in OTHER}
