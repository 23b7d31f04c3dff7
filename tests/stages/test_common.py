"""dvc.yaml says what each stage reads: its parameters and the code that it runs."""

import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ruamel.yaml import YAML

from llmsrec import params as parameters
from llmsrec import systems
from llmsrec.closure import imports
from llmsrec.errors import DataError
from llmsrec.models.cf import teacher
from stages import common, deps

ROOT = Path(__file__).resolve().parents[2]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
BASELINES = YAML(typ="safe").load((ROOT / "baselines/dvc.yaml").read_text())["stages"]
ALONE = YAML(typ="safe").load((ROOT / "alone/dvc.yaml").read_text())["stages"]["register"]
SYSTEMS = BASELINES["train"]["foreach"]
PARAMS = parameters.load(ROOT / "params.yaml")
CROSS = YAML(typ="safe").load((ROOT / "cross/dvc.yaml").read_text())["stages"]
TUNING = YAML(typ="safe").load((ROOT / "tuning/dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("path", deps.PIPELINES)
def test_dvc_yaml_lists_the_code_that_each_stage_runs(path: Path) -> None:
    text = (ROOT / path).read_text()
    assert text == deps.written(text), "`python -m stages.deps` writes it anew"


def test_the_code_of_a_stage_is_followed_through_imports() -> None:
    code = deps.code([ROOT / "stages/llm_srec.py"])
    assert "src/llmsrec/engine/readout.py" in code, "imported by what the stage imports"
    assert "src/llmsrec/models/cf/block.py" in code, "imported by teachers alone"
    assert not {"src/llmsrec/models/cf/gru4rec.py", "src/llmsrec/errors.py", "src/llmsrec/models/__init__.py"} & code


@pytest.mark.parametrize("stage", [*STAGES, *TUNING])
def test_what_loads_a_teacher_lists_one(stage: str) -> None:
    listed = (STAGES | TUNING)[stage]["deps"]
    loads = "src/llmsrec/models/cf/teacher.py" in listed
    files = [f"src/llmsrec/models/cf/{name}.py" for name in (*teacher.CLASSES, "${model.teacher}")]
    assert loads == any(path in listed for path in files)


@pytest.mark.parametrize("name", ["target", *(f"cross@{item}" for item in CROSS["cross"]["foreach"])])
def test_deps_hold_the_code_that_other_data_are_asked_with(name: str) -> None:
    group, _, item = name.partition("@")
    spec = CROSS[group]["do"] if item else CROSS[group]
    slots = SimpleNamespace(key=item, item=SimpleNamespace(**CROSS[group]["foreach"][item]) if item else None)
    listed = [ROOT / common._resolve(dep, PARAMS, slots) for dep in spec["deps"]]
    starts = [ROOT / f"stages/{script}.py" for script in (group, "rank" if item else "ingest")]
    assert {*starts} <= {*listed}
    missing = {m for m in deps.code(starts) if not {ROOT / m, *(ROOT / m).parents} & set(listed)}
    assert not missing, f"{name} runs code that cross/dvc.yaml does not list: {sorted(missing)}"
    if item:
        main = item == "llm_srec-retrieval"
        assert slots.item.folder == ("models/llm_srec" if main else str(systems.folder(*systems.parse(item))))


@pytest.mark.parametrize(
    "name", [*(f"{group}@{item}" for group in ("train", "rank") for item in SYSTEMS), "stage1@a_llmrec"]
)
def test_deps_hold_the_code_that_a_system_runs(name: str) -> None:
    group, _, item = name.partition("@")
    of = BASELINES[group]["foreach"][item]
    slots = SimpleNamespace(key=item, item=SimpleNamespace(**of))
    listed = [ROOT / common._resolve(dep, PARAMS, slots) for dep in BASELINES[group]["do"]["deps"]]
    module = ROOT / f"src/llmsrec/systems/{of.get('module', item)}.py"
    starts = [ROOT / f"stages/{group}.py", ROOT / "stages/rank.py", module]
    missing = {m for m in deps.code(starts) if not {ROOT / m, *(ROOT / m).parents} & set(listed)}
    if of["system"] in teacher.CLASSES:
        assert ROOT / f"src/llmsrec/models/cf/{of['system']}.py" in listed
    assert not missing, f"{name} runs code that baselines/dvc.yaml does not list: {sorted(missing)}"


@pytest.mark.parametrize("system", ALONE["foreach"])
def test_a_system_that_is_registered_by_itself_depends_on_its_own_code(system: str) -> None:
    slots = SimpleNamespace(key=system, item=SimpleNamespace(system=system))
    listed = {ROOT / common._resolve(dep, PARAMS, slots) for dep in ALONE["do"]["deps"]}
    own = ROOT / f"src/llmsrec/models/cf/{system}.py"
    assert {own, *(imports(own) & deps.TEACHERS)} <= listed


def test_who_can_teach_llm_srec_can_be_registered_by_itself() -> None:
    assert {*ALONE["foreach"]} == {*teacher.CLASSES} - {"sasrec"}


def test_the_systems_of_baselines_are_all_that_there_are() -> None:
    assert list(SYSTEMS) == systems.names()
    for item, slots in SYSTEMS.items():
        system, form = systems.parse(item)
        assert (slots["system"], slots["folder"]) == (system, str(systems.folder(system, form)))
        assert slots["module"] == systems.MODULES[system][form]


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_those_that_a_stage_reads(stage: str) -> None:
    """What is not listed cannot be read (see `Stage.params`), so here: what is listed is read."""
    text = (ROOT / f"stages/{stage}.py").read_text()
    for key in STAGES[stage].get("params", []):
        section, _, rest = key.partition(".")
        names = [key, f"{section}.{rest.split('.')[0]}"] if rest else [section]
        aliases = re.findall(rf"(\w+) = (?:stage\.)?params\.{section}\b", text) or re.findall(
            rf"(\w+) = stage\.params\.{section}\b", text
        )
        names += [f"{alias}.{rest}" for alias in aliases if rest]
        quoted = rest and f'"{rest}"' in text and f"params.{section}" in text
        assert quoted or any(re.search(rf"\b{re.escape(name)}\b", text) for name in names), f"{stage}: {key}"


@pytest.mark.parametrize("stage", STAGES)
def test_stage_scripts_are_thin(stage: str) -> None:
    assert len((ROOT / f"stages/{stage}.py").read_text().splitlines()) < 80


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  toy:\n    params: [split, data.core, model.weights.distill]\n    deps: ['in/${data.source}.txt']\n"
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "in/sample.txt").write_text("1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_stage_gets_the_parameters_that_dvc_yaml_lists_and_no_others(project: Path) -> None:
    params = common.load("toy").params
    assert (params.split.negatives, params.data.core, params.model.weights.distill) == (99, 5, 1.0)
    for unlisted in ("params.train", "params.data.seed", "params.model.d_prime"):
        with pytest.raises(AttributeError):
            eval(unlisted, {"params": params})


def test_the_digest_is_over_listed_parameters_and_contents(project: Path) -> None:
    first = common.load("toy").digest
    assert common.load("toy").digest == first
    edit(project / "params.yaml", "d_prime: 128", "d_prime: 64")
    assert common.load("toy").digest == first, "not listed"
    edit(project / "params.yaml", "core: 5", "core: 6")
    changed = common.load("toy").digest
    assert changed != first
    (project / "in/sample.txt").write_text("2")
    assert common.load("toy").digest not in (first, changed)


def test_relative_paths_mean_the_repository_that_dvc_root_names(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(project / "in"))
    stage = common.load("toy")
    assert stage.path("../x") == project / "x"
    assert stage.resume.is_relative_to(project / "in/.resume/toy")


def test_a_user_error_is_one_line_and_exit_status_1(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def main(stage: Any) -> None:
        raise DataError("the file x is empty;\n\tgive another.")

    with pytest.raises(SystemExit) as exit_info:
        common.run(main, "toy")
    assert exit_info.value.code == 1
    assert capsys.readouterr().err == "error in stage toy: the file x is empty; give another.\n"


@pytest.mark.parametrize(
    ("script", "item", "near"),
    [
        ("train", "gru4rc-retrieval", "gru4rec-retrieval"),
        ("train", "gru4rec-titles", "gru4rec-retrieval"),
        ("rank", "llara-title", "llara-titles"),
        ("log", "colm-titles", "collm-titles"),
        ("stage1", "a_llmrc", "a_llmrec"),
    ],
)
def test_a_stage_without_such_an_item_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], script: str, item: str, near: str
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="1"):
        common.run(print, f"{script}@{item}", Path("baselines"))
    said = capsys.readouterr().err
    assert said.startswith(
        f"error in stage {script}@{item}: baselines/dvc.yaml has no {script}@{item}; did you mean {near!r}? It has: "
    )
    assert said.count("\n") == 1


def test_a_stage_that_is_told_no_item_lists_those_that_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["stages/train.py"])
    with pytest.raises(SystemExit, match="1"):
        common.run_item(print, "train", Path("baselines"))
    said = capsys.readouterr().err
    assert said.startswith("error in stage train@: baselines/dvc.yaml has no train@. It has: gru4rec-retrieval, ")
    assert said.count("\n") == 1


def test_what_makes_a_dependency_that_is_not_there_is_named(project: Path) -> None:
    (project / "other").mkdir()
    (project / "other/dvc.yaml").write_text("stages:\n  toy:\n    wdir: ..\n    deps: ['models/x']\n")
    with pytest.raises(DataError, match=r"^models/x is not there; `dvc repro other/dvc.yaml` makes it"):
        common.load("toy", Path("other"))
    (project / "in/sample.txt").unlink()
    with pytest.raises(DataError, match=r"^in/sample.txt is not there; `dvc repro` makes it"):
        common.load("toy")
