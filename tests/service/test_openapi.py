"""Requests made from the OpenAPI document, sound and unsound ones, against the service that gave it.

A sound one may be a 400 all the same: dates, sums over a call, and what the catalogue has are in no JSON schema.
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
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    check()
