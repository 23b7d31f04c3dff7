"""What `dvc repro` left is a run of the paper's tables, as long as it is what the files say; by DVC's own status."""

import subprocess
from pathlib import Path

import pytest

from llmsrec.experiments.runs import Run
from llmsrec.experiments.workspace import Workspace

STAGE = """\
  {0}:
    foreach: [gru4rec-retrieval]
    do:
      cmd: mkdir -p {1} && cp code.py {1}/${{item}}.json
      wdir: ..
      params:
        - systems/gru4rec.yaml:
      deps: [code.py]
      outs:
        - {1}/${{item}}.json:
            cache: false
"""
PARAMS = """\
split: {shuffle_train: false}
model: {distill: true, uniform: true, distill_loss: mse, user_representation: false}
train: {targets: all, seed: 3}
"""


def test_a_run_is_there_until_something_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("baselines", "systems", "cross"):
        (tmp_path / folder).mkdir()
    places = {"train": "models", "rank": "reports", "log": "metrics/systems"}
    (tmp_path / "baselines/dvc.yaml").write_text("stages:\n" + "".join(STAGE.format(*of) for of in places.items()))
    others = {"cross": "reports/cross", "log": "metrics/cross"}
    other = "".join(STAGE.format(*of) for of in others.items()).replace("code.py", "other.py")
    (tmp_path / "cross/dvc.yaml").write_text(f"stages:\n{other}")
    (tmp_path / "other.py").write_text("1")
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "systems/gru4rec.yaml").write_text("dim: 8\nseed: 42\n")
    (tmp_path / "code.py").write_text("1")
    for command in (("git", "init", "-q"), ("dvc", "init", "-q")):
        subprocess.run(command, check=True, capture_output=True)
    run = Run("original", "gru4rec-retrieval")
    assert not Workspace(tmp_path).has(run), "nobody has trained it"
    subprocess.run(("dvc", "repro", "baselines/dvc.yaml"), check=True, capture_output=True)

    workspace = Workspace(tmp_path)
    of_other_data = Run("cross", "gru4rec-retrieval")
    assert workspace.has(run) and not workspace.has(of_other_data)
    subprocess.run(("dvc", "repro", "cross/dvc.yaml"), check=True, capture_output=True)
    assert Workspace(tmp_path).has(of_other_data)
    (tmp_path / "other.py").write_text("2")
    assert not Workspace(tmp_path).has(of_other_data) and Workspace(tmp_path).has(run)
    (tmp_path / "other.py").write_text("1")
    different = Run("original", "gru4rec-retrieval", 1), Run("shuffled", "gru4rec-retrieval"), Run("original", "main")
    assert not any(workspace.has(other) for other in different)
    (tmp_path / "code.py").write_text("2")
    assert not Workspace(tmp_path).has(run), "its code has changed"
    assert not Workspace(tmp_path).has(of_other_data), "it would be trained otherwise"
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "params.yaml").write_text(PARAMS.replace("uniform: true", "uniform: false"))
    assert not Workspace(tmp_path).has(run), "params.yaml is another setting now"
