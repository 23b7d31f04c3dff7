"""The script of docs/nightly.md, run by a shell in a git repository.

Its commands are scripts here, which write down how they were called and change params.yaml as `dvc exp run -S` does:
what they do by themselves is tests/pipeline/test_week.py's. Here it is what the shell makes of their exit statuses.
"""

import os
import re
import subprocess
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmsrec import cli

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs/nightly.md").read_text()
SCRIPT = textwrap.dedent(DOCUMENT[DOCUMENT.index("    #!/bin/sh") : DOCUMENT.index("    17 2 * * *")])
LLMSREC = """#!/bin/sh
echo "llmsrec $*" >> calls
case $1 in
    drift) mkdir -p reports/drift && echo '{"version": "shop/7"}' > reports/drift/drift.json; exit "$(cat drift)" ;;
    promote) exit "$(cat promote)" ;;
    preset) echo "-S train.epochs=2 -S train.lr_decay=0.5" ;;
esac
"""
DVC = """#!/bin/sh
echo "dvc $* | $(cat params.yaml)" >> calls
[ "$1" = repro ] || { echo "start: $4" > params.yaml; git add params.yaml; }
echo "$(cat calls)" > dvc.lock
exit "$(cat train)"
"""


@dataclass(frozen=True)
class Clone:
    """A shop's clone, with the script in it."""

    folder: Path

    def git(self, *arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=self.folder, check=True, capture_output=True, text=True).stdout

    def night(self, drift: int = 0, promote: int = 0, train: int = 0) -> tuple[int, list[str]]:
        """The script's exit status, and the commands that it called, when these of them end with such statuses."""
        for name, status in (("drift", drift), ("promote", promote), ("train", train)):
            (self.folder / name).write_text(str(status))
        (self.folder / "calls").unlink(missing_ok=True)
        done = subprocess.run(["sh", "nightly.sh"], cwd=self.folder, env=os.environ | {"PATH": PATH}, timeout=60)
        return done.returncode, (self.folder / "calls").read_text().splitlines()


PATH = f"/a folder/with spaces:{os.environ['PATH']}"


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    made = Clone(tmp_path / "a shop")
    commands = made.folder / ".venv/bin"
    commands.mkdir(parents=True)
    for name, text in (("llmsrec", LLMSREC), ("dvc", DVC)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    for name in ("dvc.lock", "stages/sources/dvc.lock", "metrics/summary.json", "reports/checks.json"):
        (made.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (made.folder / name).write_text("{}\n")
    (made.folder / "params.yaml").write_text("the shop's\n")
    (made.folder / "nightly.sh").write_text(SCRIPT)
    made.git("init", "-q", "-b", "main")
    made.git("config", "user.name", "shop")
    made.git("config", "user.email", "shop@example.org")
    made.git("add", "dvc.lock", "stages", "metrics", "reports", "params.yaml")
    made.git("commit", "-qm", "the shop's settings")
    return made


def names(calls: list[str]) -> list[str]:
    """The command and its first word, but for the preset's."""
    return [" ".join(call.split()[:2]) for call in calls if "preset" not in call]


WARM = ["llmsrec import", "dvc repro", "llmsrec drift", "dvc exp", "llmsrec promote", "llmsrec score"]


def test_a_night_without_drift_trains_from_the_version_that_drift_names(clone: Clone) -> None:
    status, calls = clone.night()
    assert (status, names(calls)) == (0, WARM)
    (training,) = [call for call in calls if call.startswith("dvc exp")]
    assert training.startswith("dvc exp run -S train.start=shop/7 -S train.epochs=2 -S train.lr_decay=0.5 |")
    assert "--time Bestellt am" in calls[0]
    assert clone.git("log", "-1", "--format=%s").startswith("the night of ")
    assert (clone.folder / "params.yaml").read_text() == "the shop's\n"
    assert clone.git("status", "--porcelain", "--untracked-files=no") == ""


def test_a_refusal_leaves_the_night_its_recommendations(clone: Clone) -> None:
    status, calls = clone.night(promote=1)
    assert (status, names(calls)) == (0, WARM)


@pytest.mark.parametrize(
    ("drift", "train", "status", "after"),
    [
        (3, 0, 0, ["dvc repro", "llmsrec promote", "llmsrec score"]),
        (1, 0, 1, []),
        (0, 1, 1, []),  # the first of its dvc commands fails
    ],
    ids=["drift", "an error of drift", "the data cannot be read"],
)
def test_what_a_status_leads_to(clone: Clone, drift: int, train: int, status: int, after: list[str]) -> None:
    done, calls = clone.night(drift=drift, train=train)
    before = ["llmsrec import", "dvc repro"] if train else ["llmsrec import", "dvc repro", "llmsrec drift"]
    assert (done, names(calls)) == (status, [*before, *after])
    assert clone.git("log", "-1", "--format=%s").startswith("the night of " if status == 0 else "the shop's settings")


def test_a_night_after_one_that_was_killed_has_neither_its_overrides_nor_its_branch(clone: Clone) -> None:
    """`dvc exp run` works on no branch, and puts the overridden params.yaml into git's index."""
    clone.git("checkout", "-q", "--detach")
    (clone.folder / "params.yaml").write_text("start: train.start=shop/6\n")
    clone.git("add", "params.yaml")
    status, calls = clone.night(drift=3)
    assert status == 0
    assert [call.partition("| ")[2] for call in calls if call.startswith("dvc")] == ["the shop's", "the shop's"]
    assert clone.git("branch", "--show-current") == "main\n"
    assert clone.git("log", "-1", "--format=%s").startswith("the night of ")


def test_the_workflow_gives_the_same_commands_and_all_of_them_are_read() -> None:
    workflow = (ROOT / ".github/workflows/nightly.yml").read_text()
    assert commands(workflow) == commands(SCRIPT)
    parser = cli.parser()
    for command in commands(SCRIPT):
        name, *arguments = command.split()
        if name == "llmsrec":
            parser.parse_args(arguments)


def commands(text: str) -> list[str]:
    """What a script calls of ours, in its order, with the model's name for whatever holds it."""
    text = text.replace("\\\n", " ").replace(".venv/bin/", "").replace('"', "")
    text = re.sub(r"\$(model|MODEL)\b", "shop", text.replace("Bestellt am", "Bestellt"))
    text = re.sub(r"train\.start=\S+( -r .version \S+)?", "train.start=shop/7", text)
    calls = re.findall(r"^[^#\n]*?\b((?:llmsrec (?!summary|preset)|dvc )[^|;\n]*)", text, flags=re.MULTILINE)
    return [re.sub(r"\s+", " ", call).strip() for call in calls]
