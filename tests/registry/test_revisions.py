import subprocess
from pathlib import Path

from llmsrec.registry import revisions


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_files_and_experiments_of_other_revisions(tmp_path: Path) -> None:
    assert revisions.show(tmp_path, "HEAD", "params.yaml") is None  # no repository
    assert revisions.experiments(tmp_path, "tubby-gobs") == []
    git(tmp_path, "init", "-q")
    (tmp_path / "params.yaml").write_text("a: 1\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "one")
    (tmp_path / "params.yaml").write_text("a: 2\n")
    git(tmp_path, "commit", "-qam", "two")
    head = git(tmp_path, "rev-parse", "HEAD")
    for name in (f"{head[:2]}/{head[2:]}/new", "exec/EXEC_HEAD", "ab/cd12/tubby-gobs", "ab/cd12/tubby", "celery/stash"):
        git(tmp_path, "update-ref", f"refs/exps/{name}", "HEAD")
    assert revisions.show(tmp_path, "HEAD", "params.yaml") == "a: 2\n"
    assert revisions.show(tmp_path, "HEAD~1", "params.yaml") == "a: 1\n"
    assert revisions.show(tmp_path, "HEAD", "dvc.lock") is None
    assert revisions.params(tmp_path, "HEAD") == {"a": 2}
    assert revisions.params(tmp_path, "no-such") == {}
    assert revisions.experiments(tmp_path, "tubby-gobs") == [head]
    assert revisions.experiments_at_head(tmp_path) == {"new": head}
    assert revisions.experiments(tmp_path, "EXEC_HEAD") == []


def test_a_folder_of_a_larger_repository_has_its_own_files(tmp_path: Path) -> None:
    """Titles of runs lost their changes there, and no revision had a metrics/registered.json."""
    own = tmp_path / "shop/recommender"
    own.mkdir(parents=True)
    (tmp_path / "params.yaml").write_text("a: another's\n")
    (own / "params.yaml").write_text("a: 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "one")
    assert revisions.show(own, "HEAD", "params.yaml") == "a: 1\n"
    assert revisions.params(own, "HEAD") == {"a": 1}
    assert revisions.show(own, "HEAD", "shop/recommender/params.yaml") is None
