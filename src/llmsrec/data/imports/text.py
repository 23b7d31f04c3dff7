"""A file as UTF-8, whatever its compression and encoding.

The encoding is UTF-8 or, where the first byte beyond ASCII does not begin a character of UTF-8, Windows' cp1252, for
the whole file. A byte-order mark (of UTF-8 or UTF-16) or a stated encoding decides before that.
"""

import codecs
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from isal import igzip
from isal.igzip_lib import IsalError

from llmsrec.errors import DataError, RequestError

CHUNK = 1 << 22  # bytes of a read
LONGEST_RECORD = 1 << 26  # bytes; a longer one is an unclosed quote, or no file of records
GZIP, ZSTD, ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}

# Takes the bytes read so far and the number of their first line; how many of them are whole records.
Cut = Callable[[bytes, int], int]


class Text:
    """A reader of a file's text, as UTF-8 without a byte-order mark.

    Attributes:
        path: the file.
        encoding: what it is read as; None as long as only ASCII has come.
    """

    def __init__(self, path: Path, encoding: str | None = None) -> None:
        """
        Args:
            encoding: any text encoding that Python knows; None decides by content.

        Raises:
            RequestError: no such encoding.
        """
        if encoding is not None:
            try:
                "".encode(encoding)
            except LookupError as error:
                raise RequestError(
                    f"--encoding {encoding} is unknown; utf-8, cp1252, latin-1 and utf-16 are common ones."
                ) from error
        self.path = path
        self.encoding = encoding

    def chunks(self) -> Iterator[bytes]:
        """The text in pieces that end anywhere.

        Raises:
            DataError: the file cannot be read, or holds a byte that its encoding has no character for.
        """
        line = 1
        decoder: codecs.IncrementalDecoder | None = None
        try:
            with _open(self.path) as stream:
                chunk = stream.read(CHUNK)
                self._look_for_a_mark(chunk)
                while chunk:
                    if decoder is None and (self.encoding is not None or not chunk.isascii()):
                        chunk = self._decide(chunk, stream)
                        decoder = codecs.getincrementaldecoder(self.encoding or "utf-8")()
                    following = stream.read(CHUNK)
                    text = chunk if decoder is None else decoder.decode(chunk, final=not following).encode()
                    # A codec that knows its byte order, such as utf-16le, leaves the mark in the text.
                    yield text.removeprefix(codecs.BOM_UTF8) if line == 1 else text
                    line += text.count(b"\n")
                    chunk = following
        except UnicodeDecodeError as error:
            line += error.object[: error.start].count(b"\n")
            raise DataError(
                f"{self.path}, line {line}: byte {error.object[error.start : error.start + 1]!r} is not "
                f"{_name(self.encoding)}; mend the line, or state the file's encoding, such as --encoding cp1252."
            ) from error
        except (OSError, EOFError, IsalError, pa.ArrowException) as error:  # type: ignore[misc]  # as in json_lines
            raise DataError(
                f"{self.path} cannot be read to its end, what is wrong comes after line {line}: {error}. If it is a "
                "truncated or damaged compressed file (`gzip --test` tells), export or fetch it again."
            ) from error

    def _look_for_a_mark(self, start: bytes) -> None:
        for mark, encoding in MARKS.items():
            # A stated utf-16le must not lose to the mark, but utf-8 with a mark is utf-8-sig.
            if start.startswith(mark) and (self.encoding is None or codecs.lookup(self.encoding).name == "utf-8"):
                self.encoding = encoding

    def _decide(self, chunk: bytes, stream: Any) -> bytes:
        """Set the encoding by the first character beyond ASCII; the chunk, longer if that character was cut."""
        beyond = re.search(rb"[\x80-\xff]", chunk)
        if self.encoding is not None or beyond is None:
            return chunk
        if len(chunk) - beyond.start() < 4:
            chunk += stream.read(4)
        try:
            chunk[beyond.start() : beyond.start() + 4].decode("utf-8")
            self.encoding = "utf-8"
        except UnicodeDecodeError as error:
            self.encoding = "utf-8" if error.start else "cp1252"
        return chunk


def records(text: Text, cut: Cut) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole records, each with the number of its first line (from 1); only the last may lack its line end.

    Raises:
        DataError: a record has no end.
    """
    line, rest = 1, b""
    for chunk in text.chunks():
        rest += chunk
        end = cut(rest, line)
        if end:
            yield line, rest[:end]
            line += rest.count(b"\n", 0, end)
            rest = rest[end:]
        if len(rest) > LONGEST_RECORD:
            raise DataError(
                f"{text.path}, line {line}: what begins here has no end within {LONGEST_RECORD >> 20} MB; a quote is "
                "opened and never closed (--quote none reads quotes as text), or it is no file of lines."
            )
    if rest:
        yield line, rest


def head(path: Path, encoding: str | None, size: int = 1 << 20) -> str:
    """The beginning of the text: whole lines of about `size` bytes, or all there is."""
    start = b""
    for chunk in Text(path, encoding).chunks():
        start += chunk
        if len(start) >= size:
            start = start[: start.rfind(b"\n", 0, size) + 1 or None]
            break
    return start.decode("utf-8", errors="ignore")  # a character may be cut where there is no line end


def magic(path: Path) -> bytes:
    """The first four bytes.

    Raises:
        DataError: the file is missing, empty, not a file or not readable.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is a folder or a pipe, and a file is read twice; give the path of a file.")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; give the path of a file.") from error
    if not start:
        raise DataError(f"{path} is empty; export it again.")
    return start


def _open(path: Path) -> Any:
    """The file, decompressed if its content is gzip or zstd, whatever its name."""
    start = magic(path)
    if start == ZIP:
        raise DataError(f"{path} is a ZIP archive or an Excel workbook; unpack it, or save the sheet as CSV.")
    if start.startswith(GZIP):
        return igzip.open(path, "rb")
    if start == ZSTD:
        return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
    return path.open("rb")


def _name(encoding: str | None) -> str:
    return (encoding or "utf-8").removesuffix("-sig").upper()
