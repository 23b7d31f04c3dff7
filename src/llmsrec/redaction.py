"""Passwords and tokens are taken out of every text that is printed, logged or kept for the record."""

import os
import re
from urllib.parse import unquote

HIDDEN = "***"
SHORTEST = 4  # a shorter value is no secret, and would blot out words
NAMES = re.compile(
    r"PASSWORD|PASSWD|SECRET|(^|_)(TOKEN|API_KEY|ACCESS_KEY)$", re.IGNORECASE
)  # of environment variables
WITH_PASSWORD = re.compile(r"(\w[\w+.-]*://[^\s:/@'\"]*):([^\s/'\"]*)@")  # scheme://user:password@host
TOKEN_ALONE = re.compile(r"(\bhttps?://)[^\s:/@'\"?#]+@")  # https://token@host
IN_QUERY = re.compile(
    r"([?&;][\w.-]*(?:password|passwd|pwd|token|secret|signature|credential|key|sig)=)[^\s&;'\"#]+", re.IGNORECASE
)
IN_WORDS = re.compile(r"(\b(?:\w*password|passwd|pwd)\s?=\s?)('[^']*'|[^\s,;&'\"]+)", re.IGNORECASE)  # libpq's own form
HEADERS = re.compile(r"(\b(?:Basic|Bearer) )[\w+/=.~-]{8,}")
SHAPES = re.compile(r"\b(?:hf_\w{20,}|(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_\w{20,})\b")
URI_PASSWORD = re.compile(r"\A[\w+.-]+://[^:/@\s]*:(?!\d{1,5}/)(\S+)@")  # in a variable: any character may be in it


def redact(text: str) -> str:
    """`text` with `***` for each secret: in URIs and their queries, in headers, by the shapes of well-known tokens, and
    wherever the value of one of the environment's secrets stands by itself.
    """
    text = WITH_PASSWORD.sub(rf"\1:{HIDDEN}@", text)
    text = TOKEN_ALONE.sub(rf"\1{HIDDEN}@", text)
    for pattern in (IN_QUERY, IN_WORDS, HEADERS):
        text = pattern.sub(rf"\1{HIDDEN}", text)
    text = SHAPES.sub(HIDDEN, text)
    for secret in sorted(_environment(), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    return text


def _environment() -> set[str]:
    """Values that must not be seen: of variables with a telling name, and the passwords within URIs."""
    found = set()
    for name, value in os.environ.items():
        if NAMES.search(name):
            found.add(value)
        elif password := URI_PASSWORD.search(value):
            found |= {password[1], unquote(password[1])}
    return {value for value in found if len(value) >= SHORTEST}
