"""Any compression and encoding as UTF-8."""

import codecs
import gzip
import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest

from llmsrec.data.imports import text
from llmsrec.data.imports.text import Text
from llmsrec.errors import DataError, RequestError

WORDS = "Käse;für;1 €\n" * 200


def read(path: Path, encoding: str | None = None) -> tuple[str, str | None]:
    source = Text(path, encoding)
    return b"".join(source.chunks()).decode("utf-8"), source.encoding


@pytest.fixture(params=[7, 1 << 22])
def chunk(request, monkeypatch):
    """Reads of a few bytes, which cut characters, and of whole files."""
    monkeypatch.setattr(text, "CHUNK", request.param)
    return request.param


@pytest.mark.parametrize(
    ("encoding", "stated", "taken"),
    [
        ("utf-8", None, "utf-8"),
        ("utf-8-sig", None, "utf-8-sig"),
        ("utf-8-sig", "utf-8", "utf-8-sig"),
        ("cp1252", None, "cp1252"),
        ("utf-16", None, "utf-16"),
        ("utf-16le", "utf-16le", "utf-16le"),
        ("utf-16", "utf-16le", "utf-16le"),
        ("cp1250", "cp1250", "cp1250"),
    ],
)
def test_encodings(tmp_path, chunk, encoding, stated, taken):
    path = tmp_path / "a.csv"
    path.write_bytes(WORDS.encode(encoding))
    assert read(path, stated) == (WORDS, taken)


@pytest.mark.parametrize("tail", [b"\xe9", b"\xe9\n", b"\xc3", b"\xe4b"])
def test_the_first_character_beyond_ascii_may_be_the_last(tmp_path, chunk, tail):
    path = tmp_path / "a.csv"
    path.write_bytes(b"abcdef" + tail)
    assert read(path) == ("abcdef" + tail.decode("cp1252"), "cp1252")


def test_a_damaged_character_does_not_change_the_encoding(tmp_path, chunk):
    path = tmp_path / "a.csv"
    path.write_bytes("Käse\n".encode() * 9 + b"K\xe4se\n")
    with pytest.raises(DataError, match=r"a\.csv, line 10: byte b'\\xe4' is not UTF-8; mend the line, or state"):
        read(path)


def test_ascii_is_not_decided(tmp_path, chunk):
    (tmp_path / "a").write_bytes(b"abc\n")
    assert read(tmp_path / "a") == ("abc\n", None)
    (tmp_path / "b").write_bytes(codecs.BOM_UTF8 + b"abc\n")
    assert read(tmp_path / "b")[0] == "abc\n"


def test_compressions_by_content(tmp_path, chunk):
    data = WORDS.encode()
    (tmp_path / "gzip").write_bytes(gzip.compress(data) + gzip.compress(data))
    with pa.CompressedOutputStream(str(tmp_path / "zstd"), "zstd") as stream:
        stream.write(data)
    assert read(tmp_path / "gzip")[0] == WORDS * 2
    assert read(tmp_path / "zstd")[0] == WORDS


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize("cut", [20, -9])
def test_a_truncated_file_is_an_error(tmp_path, kind, cut):
    data = b"".join(f"{n},{n * n}\n".encode() for n in range(2000))
    with pa.CompressedOutputStream(str(tmp_path / "a"), kind) as stream:
        stream.write(data)
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:cut])
    with pytest.raises(DataError, match="cannot be read to its end"):
        read(tmp_path / "a")


def test_what_is_no_text_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n")
    subprocess.run(["python3", "-m", "zipfile", "-c", "a.zip", "a.csv"], cwd=tmp_path, check=True)
    (tmp_path / "empty.csv").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, message in [
        ("a.zip", "is a ZIP archive or an Excel workbook"),
        ("empty.csv", "is empty; export it again"),
        ("nowhere.csv", "cannot be read: No such file or directory"),
        (".", "is a folder or a pipe"),
        ("pipe", "is a folder or a pipe"),
    ]:
        with pytest.raises(DataError, match=message):
            read(tmp_path / name)
    for encoding in ("klingon", "hex"):
        with pytest.raises(RequestError, match=f"--encoding {encoding} is unknown"):
            Text(tmp_path / "a.csv", encoding)
