"""Secrets in texts: hidden in every form that we know, and nothing else is."""

import time

import pytest

from llmsrec.errors import DataError
from llmsrec.redaction import redact

SECRET = "s3cr3t-Pa55%40w.rd"


@pytest.fixture(autouse=True)
def _no_secrets_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "text",
    [
        f"http://user:{SECRET}@mlflow.example:5000/api",
        f"postgresql+psycopg://user:{SECRET}@db/mlflow",
        f"postgresql://:{SECRET}@db/mlflow",
        f"MLflow at https://user:{SECRET}@host refused: API request to https://user:{SECRET}@host/api failed",
        f"https://{SECRET}@github.com/a/b",
        f"postgresql://db/mlflow?user=me&password={SECRET}&sslmode=require",
        f"postgresql://db/mlflow?sslpassword={SECRET}",
        f"https://bucket.example/key?X-Amz-Signature={SECRET}&X-Amz-Security-Token={SECRET}",
        f"https://host/?access_token={SECRET}",
        f"connection failed: host=db user=me password={SECRET} dbname=x",
        f"password='{SECRET} and more'",
        f"postgresql://u:9/{SECRET}'x@127.0.0.1:1/db",
        f"http://u:p/{SECRET}@127.0.0.1",
        f'{{"password": "{SECRET}"}}',
        f"password: {SECRET}",
        f"aws_secret_access_key={SECRET}",
        "{'Authorization': 'Basic c2VjcmV0OnB3c2VjcmV0OnB3'}",
        "hf_" + "a1B2" * 9,
        "AKIA" + "ABCD" * 4,
    ],
)
def test_a_secret_is_hidden_and_the_rest_is_still_told(text: str) -> None:
    hidden = redact(text)
    assert "***" in hidden
    for part in (SECRET, "c2VjcmV0OnB3", "a1B2a1B2", "ABCDABCD"):
        assert part not in hidden
    for kept in ("refused", "sslmode=require", "dbname=x", "mlflow.example:5000/api", "@db/mlflow"):
        assert (kept in text) == (kept in hidden)


@pytest.mark.parametrize(
    "name",
    [
        "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
        "PGPASSWORD", "OPTUNA_STORAGE", "MLFLOW_TRACKING_URI",
    ],
)  # fmt: skip
def test_the_environments_secrets_are_hidden_wherever_they_stand(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "mysql://me:p/w@x!+z@db/a" if "UR" in name or "STORAGE" in name else "p/w@x!+z")
    assert redact("access denied with p/w@x!+z, using p/w@x!+z.") == "access denied with ***, using ***."
    assert "p/w@x!+z" not in str(DataError("the driver says p/w@x!+z"))


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////tmp/a/mlruns/mlflow.db",
        "postgresql+psycopg://mlflow@127.0.0.1:5432/postgres",
        "http://127.0.0.1:5000/models/llm-srec@staging and models:/llm-srec@candidate",
        "model.max_tokens=300, title_tokens=20, key=5",
        "the tokenizer's table; B00A@1391040000000; a password is needed",
        '{"tokens": 3, "by": "root"}',
        "https://github.com/a/b?tab=readme#key=1",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("part", ["x", "a://", "a://b:", "http://b:", "&key", "password=", "a.b-c+", "Bearer x"])
def test_the_time_to_redact_grows_as_the_texts_length(part: str) -> None:
    start = time.process_time()
    redact(part * (400_000 // len(part)))
    assert time.process_time() - start < 5  # a field's name of 400,000 characters stopped the service for an hour


def test_a_short_value_or_a_part_of_a_word_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "db")
    monkeypatch.setenv("OPTUNA_STORAGE", "postgresql://me:postgres@db/x")
    assert redact("postgresql on db") == "postgresql on db"
