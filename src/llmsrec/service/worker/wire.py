"""Frames between the service and a worker, over a socket: a header, which is JSON, and a body of bytes."""

import json
import struct
from collections.abc import Iterator
from typing import Any

OF_LLM = ("llm", "blend")  # the towers of the worker with the language model; the other one has all others
LENGTHS = struct.Struct("!II")  # of header and body


def frame(header: dict[str, Any], body: bytes = b"") -> bytes:
    """A frame to send."""
    head = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((LENGTHS.pack(len(head), len(body)), head, body))


class Frames:
    """Puts frames together from the pieces in which they arrive."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
        """The frames that are whole now: header and body."""
        self._bytes += data
        start = 0
        while len(self._bytes) - start >= LENGTHS.size:
            head, body = LENGTHS.unpack_from(self._bytes, start)
            middle = start + LENGTHS.size + head
            if len(self._bytes) < middle + body:
                break
            header = json.loads(self._bytes[start + LENGTHS.size : middle])
            yield header, bytes(self._bytes[middle : middle + body])
            start = middle + body
        del self._bytes[:start]
