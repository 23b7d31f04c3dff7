"""The errors that a user can meet.

Each message says what is wrong, the value, where it was found and what to do about it. Command lines print
the message without a traceback and exit with status 1; the service answers with a 4xx.
"""

import json
from typing import Any


class LLMSRecError(Exception):
    """Base of the errors below; catch this one to report any of them."""


class ParamsError(LLMSRecError):
    """A key or a value in params.yaml (or an override of it) that cannot be used."""


class DataError(LLMSRecError):
    """A file or folder (reviews, checkpoint, backbone, bundle) that is missing, broken or inconsistent."""


class RequestError(LLMSRecError):
    """A request, for recommendations or to the registry, that cannot be met as asked."""


def shown(value: Any) -> str:
    """A value as JSON ("3" is not 3), in ASCII (half a surrogate is no text) and short enough for a message."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
