"""Requests made from the OpenAPI document, sound and unsound ones, against the service that gave it.

A sound one is answered, but for what no JSON schema says.
"""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from llmsrec.service.decode import FORMS
from llmsrec.service.openapi import PROBES
from tests.service.conftest import Running

EXAMPLES = 8  # of each path and mode
UNSAID = (  # why a sound call is a 400 all the same
    "give each event of a history a time, or none of them",
    "must be ms since 1970",
    "but the catalogue has 30 items",
    "which the catalogue does not have",
    "has no such user",
    "add up to",  # the `k` of all requests
    "with it, `k` is at most",
)


@pytest.fixture(scope="module")
def document(service: Running) -> Any:
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{service.port}/openapi.json")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["sound", "unsound"])
@pytest.mark.parametrize("path", FORMS)
def test_calls_made_from_the_document_are_answered_as_it_says(document: Any, path: str, mode: GenerationMode) -> None:
    _check(document[path]["POST"], mode)


@pytest.mark.parametrize("path", PROBES)
def test_probes_answer_as_the_document_says(document: Any, path: str) -> None:
    _check(document[path]["GET"], GenerationMode.POSITIVE)


def test_the_document_lists_every_path(document: Any) -> None:
    assert {result.ok().path for result in document.get_all_operations()} == {*FORMS, *PROBES}


def _check(operation: Any, mode: GenerationMode) -> None:
    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=[*HealthCheck]
    )
    def check(case: Any) -> None:
        response = case.call_and_validate(excluded_checks=[positive_data_acceptance])
        if mode is GenerationMode.POSITIVE and response.status_code != 200:
            assert response.status_code in (400, 404) and any(reason in response.json()["message"] for reason in UNSAID)

    check()
