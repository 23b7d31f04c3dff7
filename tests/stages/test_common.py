"""dvc.yaml says what each stage reads: its parameters and the code that it runs."""

import ast
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ruamel.yaml import YAML

from llmsrec import params as parameters
from llmsrec import systems
from llmsrec.models.cf import teacher
from stages import common

ROOT = Path(__file__).resolve().parents[2]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
BASELINES = YAML(typ="safe").load((ROOT / "baselines/dvc.yaml").read_text())["stages"]
SYSTEMS = BASELINES["train"]["foreach"]
PARAMS = parameters.load(ROOT / "params.yaml")
TUNING = YAML(typ="safe").load((ROOT / "tuning/dvc.yaml").read_text())["stages"]
# Reading params.yaml, naming errors, hiding secrets and writing files whole decide nothing about a result.
PLUMBING = {ROOT / f"src/llmsrec/{name}.py" for name in ("errors", "files", "params", "redaction", "__init__")}
PLUMBING |= {path for path in (ROOT / "src/llmsrec").rglob("__init__.py") if len(ast.parse(path.read_text()).body) == 1}


def imports(path: Path) -> set[Path]:
    """Modules of the package that a file imports, wherever in the file it does so."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("llmsrec"):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("llmsrec")}
    found = set()
    for name in names:
        base = ROOT / "src" / name.replace(".", "/")
        found |= {path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()}
    # A module may be run by its file's name, as MLflow does with the code of a model.
    named = {ROOT / f"src/llmsrec/{name}" for name in re.findall(r'"(\w+/\w+\.py)"', path.read_text())}
    return found | {module for module in named if module.exists()}


def reached(path: Path) -> set[Path]:
    seen: set[Path] = set()
    todo = [path]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo += imports(current) - PLUMBING
    return seen - {path}


TEACHER = ROOT / "src/llmsrec/models/cf/teacher.py"  # it imports a system by its name
TEACHERS = {TEACHER.with_name(f"{system}.py") for system in teacher.CLASSES}


@pytest.mark.parametrize("stage", [*STAGES, *TUNING])
def test_deps_hold_the_code_that_a_stage_runs(stage: str) -> None:
    deps = [ROOT / common._resolve(dep, PARAMS, SimpleNamespace()) for dep in (STAGES | TUNING)[stage]["deps"]]
    script = ROOT / f"stages/{stage}.py"
    assert script in deps
    needed = reached(script)
    missing = {str(m.relative_to(ROOT)) for m in needed if not any(m == dep or dep in m.parents for dep in deps)}
    assert not missing, f"{stage} runs code that dvc.yaml does not list: {sorted(missing)}"
    if TEACHER in needed:
        assert any(m == dep or dep in m.parents for m in TEACHERS for dep in deps), (
            f"{stage} loads a teacher, and dvc.yaml lists none"
        )
        needed |= TEACHERS.union(*map(reached, TEACHERS))
    idle = {
        str(dep.relative_to(ROOT))
        for dep in deps
        if dep.is_relative_to(ROOT / "src") and not any(m == dep or dep in m.parents for m in needed)
    }
    assert not idle, f"{stage} lists code that it does not run: {sorted(idle)}"


@pytest.mark.parametrize(
    "name", [*(f"{group}@{item}" for group in ("train", "rank") for item in SYSTEMS), "stage1@a_llmrec"]
)
def test_deps_hold_the_code_that_a_system_runs(name: str) -> None:
    group, _, item = name.partition("@")
    of = BASELINES[group]["foreach"][item]
    slots = SimpleNamespace(key=item, item=SimpleNamespace(**of))
    deps = [ROOT / common._resolve(dep, PARAMS, slots) for dep in BASELINES[group]["do"]["deps"]]
    scripts = {ROOT / f"stages/{script}.py" for script in (group, "rank")}
    module = ROOT / f"src/llmsrec/systems/{of.get('module', item)}.py"
    needed = {path for start in (*scripts, module) for path in (start, *reached(start))} | {module}
    missing = {str(m.relative_to(ROOT)) for m in needed if not any(m == dep or dep in m.parents for dep in deps)}
    assert not missing, f"{name} runs code that baselines/dvc.yaml does not list: {sorted(missing)}"


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
    from llmsrec.errors import DataError

    def main(stage: Any) -> None:
        raise DataError("the file x is empty; give another.")

    with pytest.raises(SystemExit) as exit_info:
        common.run(main, "toy")
    assert exit_info.value.code == 1
    assert capsys.readouterr().err == "error in stage toy: the file x is empty; give another.\n"
