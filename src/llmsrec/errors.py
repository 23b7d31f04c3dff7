"""The errors that a user can meet.

Each message says what is wrong, the value, where it was found and what to do about it. Command lines print
the message without a traceback and exit with status 1; the service answers with a 4xx.
"""

import difflib
import errno
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from llmsrec.redaction import redact

# What the machine refuses and its owner can mend.
REFUSALS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, as the quota is used up",
    errno.EFBIG: "raise the limit on a file's size (`ulimit -f`)",
    errno.EROFS: "the file system can only be read: mount it for writing or work elsewhere",
    errno.EACCES: "fix the permissions",
    errno.EPERM: "fix the permissions",
    errno.EIO: "look after the disk, which failed",
}

# What pydantic's problems with a value are in plain words, by their type; in braces what it knows of the limit.
WORDS = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be {ge} or more",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be {le} or less",
    "less_than": "must be less than {lt}",
    "too_short": "must have {min_length} or more entries",
    "too_long": "must have at most {max_length} entries",
    "string_too_short": "must have {min_length} or more characters",
    "string_pattern_mismatch": "must have a character that is no space",
    "string_too_long": "must have at most {max_length} characters",
}

# What is wrong with a text that is not JSON, by how the json module's own words begin.
JSON_WORDS = {
    "Expecting value": "a value is missing",
    "Expecting ',' delimiter": "a comma is missing",
    "Expecting ':' delimiter": "a colon is missing",
    "Expecting property name": "a name in double quotes is missing",
    "Illegal trailing comma": "a comma is too many",
    "Extra data": "more follows after its end",
    "Unterminated string": "a text without a closing quote begins",
    "Invalid control character": "a text holds a control character",
    "Invalid \\": "a backslash begins no escape",
    "Unexpected UTF-8 BOM": "there is a byte-order mark",
}


class LLMSRecError(Exception):
    """Base of the errors below; catch this one to report any of them. Its text holds no password and no token."""

    def __str__(self) -> str:
        return redact(super().__str__())


class ParamsError(LLMSRecError):
    """A key or a value in params.yaml (or an override of it) that cannot be used."""


class DataError(LLMSRecError):
    """A file or folder (reviews, checkpoint, backbone, bundle) that is missing, broken or inconsistent."""


class RequestError(LLMSRecError):
    """A request, for recommendations or to the registry, that cannot be met as asked."""


def refusal(error: BaseException) -> tuple[str, str] | None:
    """What the system said and what helps, where it refused to read or write (a full disk, one that is closed).

    Libraries hand the system's refusal on as they like: as an OSError, or in their own error's text or cause.
    """
    cause: BaseException | None = error
    while cause is not None:
        number = cause.errno if isinstance(cause, OSError) else None
        if number is None and (said := re.search(r"\(os error (\d+)\)|\[Errno (\d+)\]", str(cause))):
            number = int(said[1] or said[2])
        if number in REFUSALS:
            return os.strerror(number), REFUSALS[number]
        cause = cause.__cause__ or cause.__context__
    return None


def explained(error: BaseException) -> str | None:
    """The text of an error that a user can mend: one of the above, the system's refusal, a full device. Else None."""
    if isinstance(error, LLMSRecError):
        return str(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which nobody here has to import
        return _device_full(str(error))
    if (known := refusal(error)) is None:
        return None
    name = getattr(error, "filename", None)
    return redact(f"cannot use {name or 'a file'}: {known[0]}; {known[1]}, then run the same command again.")


def _device_full(text: str) -> str:
    asked = re.search(r"allocate ([\d.]+ \w+)\..* capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free", text)
    numbers = f" ({asked[1]} more were asked for, {asked[3]} of {asked[2]} are free)" if asked else ""
    return (
        f"the device's memory is full{numbers}; lower `train.batch_size`, set `backbone.gradient_checkpointing` to "
        "true or end what else uses the device, then run the same command again."
    )


def in_words(problem: Mapping[str, Any]) -> str:
    """What one of pydantic's problems (`ValidationError.errors()`) says of a value, as `must be 1 or more`."""
    limits = {
        name: f"{value:g}" if isinstance(value, float) else value for name, value in problem.get("ctx", {}).items()
    }
    words = WORDS.get(problem["type"])
    said = words.format(**limits) if words else str(problem["msg"]).removeprefix("Value error, ")
    valid = re.findall("'([^']*)'", said) if problem["type"] == "literal_error" else []
    near = difflib.get_close_matches(str(problem.get("input")), valid, n=1)
    return f"{said} (did you mean {near[0]!r}?)" if near else said


def json_in_words(error: ValueError | RecursionError) -> str:
    """Why `json.loads` could not read a text, as `a comma is missing at column 29, near ...`."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 from byte {error.start} on"
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    if error.pos >= len(error.doc.rstrip()):
        return f"it ends too early, after {shown(error.doc.rstrip()[-20:])}"
    words = next((words for start, words in JSON_WORDS.items() if error.msg.startswith(start)), "it cannot be read")
    line = f"line {error.lineno}, " if "\n" in error.doc.strip() else ""
    return f"{words} at {line}column {error.colno}, near {shown(error.doc[max(error.pos - 20, 0) : error.pos + 20])}"


def nearest(name: str, names: Iterable[str]) -> str:
    """What follows a name that means nothing: `; did you mean 'table7'?`, or a full stop where none is near."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.3)
    return f"; did you mean {near[0]!r}?" if near else "."


def shown(value: Any) -> str:
    """A value as JSON ("3" is not 3), in ASCII (half a surrogate is no text) and short enough for a message."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
