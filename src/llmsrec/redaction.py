"""Passwords and tokens are taken out of every text that is printed, logged or kept for the record."""

import os
import re
from urllib.parse import unquote

HIDDEN = "***"
SHORTEST = 4  # a shorter value is no secret, and would blot out words
NAMES = re.compile(
    r"PASSWORD|PASSWD|SECRET|(^|_)(TOKEN|API_KEY|ACCESS_KEY)$", re.IGNORECASE
)  # of environment variables
# Each repetition has a bound, so that the time grows as the text's length: texts come from requests, too.
# scheme://user:password@host. A database's password may hold any character; a web address ends its host at the first /,
# and what stands behind its port may hold an @ of its own.
IN_DATABASE_URI = re.compile(r"(?<![\w+.-])((?!https?:)\w[\w+.-]{0,40}://[^\s:/@'\"]{0,200}:)\S{1,500}@")
IN_WEB_URI = re.compile(
    r"(\bhttps?://[^\s:/@'\"]{0,200}:)(?!\d{1,5}(?:[/?#\s'\"]|$))(?:[^\s/]{1,500}@|\S{1,500}?@)"
)  # fmt: skip
TOKEN_ALONE = re.compile(r"(\bhttps?://)[^\s:/@'\"?#]{1,500}@")  # https://token@host
IN_QUERY = re.compile(
    r"([?&;][\w.-]{0,60}?(?:password|passwd|pwd|token|secret|signature|credential|key|sig)=)[^\s&;'\"#]{1,2000}",
    re.IGNORECASE,
)
# password=..., as libpq has it, and "password": "..." of JSON and YAML
IN_WORDS = re.compile(
    r"((?:password|passwd|\bpwd|secret|secret_access_key|api_key)[\"']?\s?[=:]\s?)"
    r"(?:(\"|')(?:(?!\2).){0,500}\2|[^\s,;&'\"{}\[\]]{1,500})",
    re.IGNORECASE,
)
HEADERS = re.compile(r"(\b(?:Basic|Bearer) )[\w+/=.~-]{8,2000}")
SHAPES = re.compile(r"\b(?:hf_\w{20,200}|(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_\w{20,200})\b")
# In a variable of the environment the URI is all there is, so that any character may be in the password.
URI_PASSWORD = re.compile(r"\A[\w+.-]{1,40}://[^:/@\s]{0,200}:(.+)@", re.DOTALL)


def redact(text: str) -> str:
    """`text` with `***` for each secret: in URIs and their queries, in headers, by the shapes of well-known tokens, and
    wherever the value of one of the environment's secrets stands by itself.
    """
    for pattern in (IN_DATABASE_URI, IN_WEB_URI, TOKEN_ALONE):
        text = pattern.sub(rf"\1{HIDDEN}@", text)
    text = IN_WORDS.sub(lambda match: f"{match[1]}{match[2] or ''}{HIDDEN}{match[2] or ''}", text)
    for pattern in (IN_QUERY, HEADERS):
        text = pattern.sub(rf"\1{HIDDEN}", text)
    text = SHAPES.sub(HIDDEN, text)
    for secret in sorted(_environment(), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    return text


def _environment() -> set[str]:
    """Values that must not be seen: of variables with a telling name, and the passwords within URIs."""
    secrets = set()
    for name, value in os.environ.items():
        if NAMES.search(name):
            secrets.add(value)
        elif password := URI_PASSWORD.search(value):
            secrets |= {password[1], unquote(password[1])}
    return {value for value in secrets if len(value) >= SHORTEST}
