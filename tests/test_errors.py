"""Messages in plain words."""

import json
import re
from typing import Any, Literal

import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from llmsrec.errors import explained, in_words, json_in_words


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


@pytest.mark.parametrize(
    ("kind", "field", "value", "words"),
    [
        (int, Field(), "1", "must be a whole number"),
        (int, Field(), 1.5, "must be a whole number"),
        (int, Field(ge=1), 0, "must be 1 or more"),
        (int, Field(le=3), 4, "must be 3 or less"),
        (float, Field(gt=0), 0, "must be more than 0"),
        (float, Field(lt=0.5), 0.5, "must be less than 0.5"),
        (float, Field(), "fast", "must be a number"),
        (float, Field(allow_inf_nan=False), float("inf"), "must be a finite number"),
        (str, Field(), 7, "must be a text"),
        (str, Field(min_length=1), "", "must have 1 or more characters"),
        (str, Field(max_length=2), "abc", "must have at most 2 characters"),
        (bool, Field(), "yes", "must be true or false"),
        (list[int], Field(), 7, "must be a list"),
        (list[int], Field(min_length=1), [], "must have 1 or more entries"),
        (list[int], Field(max_length=1), [1, 2], "must have at most 1 entries"),
        (dict[str, int], Field(), 7, "must be an object"),
        (Inner, Field(), 7, "must be an object"),
        (Literal["a", "b"], Field(), "c", "must be 'a' or 'b'"),
    ],
)
def test_what_is_wrong_with_a_value_is_not_said_in_a_librarys_words(
    kind: Any, field: Any, value: Any, words: str
) -> None:
    model = create_model("Sent", __config__=ConfigDict(strict=True), x=(kind, field))
    with pytest.raises(ValidationError) as caught:
        model.model_validate({"x": value})
    said = in_words(caught.value.errors()[0])
    assert said == words and not re.search("[Ii]nput|should", said)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 5', r'it ends too early, after "{\"a\": 5"'),
        ('{"a": "x', r'a text without a closing quote begins at column 7, near "{\"a\": \"x"'),
        ('{"a": 5 "b": 6}', "a comma is missing at column 9, near"),
        ('{"a" 5}', "a colon is missing at column 6, near"),
        ('{"a": nil}', "a value is missing at column 7, near"),
        ("{'a': 5}", "a name in double quotes is missing at column 2, near"),
        ('{"a": 5}{"a": 6}', "more follows after its end at column 9, near"),
        ('{"a": "x\ty"}', "a text holds a control character at column 9, near"),
        (r'{"a": "C:\dir"}', "a backslash begins no escape at column 10, near"),
        ('{\n"a": 5 "b"}', "a comma is missing at line 2, column 8, near"),
        ("\ufeff{}", "there is a byte-order mark at column 1, near"),
        ("", "it ends too early"),
        ("[" * 10_000, "it is nested too deeply"),
    ],
)
def test_what_is_wrong_with_json_is_not_said_in_the_modules_words(text: str, words: str) -> None:
    with pytest.raises((ValueError, RecursionError)) as caught:
        json.loads(text)
    said = json_in_words(caught.value)
    assert said.startswith(words) and not re.search("Expecting|char [0-9]", said)


FULL = (
    "CUDA out of memory. Tried to allocate 80.00 MiB. GPU 0 has a total capacity of 139.80 GiB of which 26.81 MiB is "
    "free. Process 1404 has 1.5 GiB memory in use. See documentation for Memory Management"
)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [(FULL, " (80.00 MiB more were asked for, 26.81 MiB of 139.80 GiB are free)"), ("CUDA error: out of memory", "")],
)
def test_a_full_device_is_said_in_one_line_with_what_helps(text: str, numbers: str) -> None:
    said = explained(torch.OutOfMemoryError(text))
    assert said is not None
    assert said.startswith(f"the device's memory is full{numbers}; ")
    assert "`train.batch_size`" in said
    assert "\n" not in said
