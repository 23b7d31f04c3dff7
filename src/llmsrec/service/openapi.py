"""The OpenAPI document of what is served now: the version's own types, and the paths around them."""

from typing import Any

JSON = "application/json"
ERROR = {
    "type": "object",
    "required": ["error_code", "message"],
    "properties": {"error_code": {"type": "string"}, "message": {"type": "string"}},
}
ERRORS = {
    "400": "a request that cannot be meant; the sentence names the field",
    "401": "the token is missing or wrong",
    "408": "the body took too long",
    "413": "the body is too large",
    "415": "not JSON in UTF-8",
    "429": "too many requests wait; see Retry-After",
    "503": "no version answers yet, or no more",
    "504": "the deadline passed",
}
PROBES = {
    "/livez": "the process answers",
    "/readyz": "a version is loaded, has passed its self-test and answers",
    "/ping": "the same as /readyz, as MLflow's scoring server says it",
    "/health": "the same as /ping",
    "/version": "MLflow's version",
    "/metrics": "figures in Prometheus' text format",
}


def document(version: str, schemas: dict[str, Any], token: bool) -> dict[str, Any]:
    """The document.

    Args:
        version: such as `llm-srec/3`.
        schemas: of `Request`, `Answer` and what they hold.
        token: whether one must be sent.
    """
    body = {
        "type": "object",
        "required": ["inputs"],
        "additionalProperties": False,
        "properties": {"inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Request"}}},
    }
    answer = {
        "type": "object",
        "required": ["predictions"],
        "properties": {"predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Answer"}}},
    }
    responses: dict[str, Any] = {"200": _content("an answer to each request, in order", answer)}
    responses |= {status: _content(text, {"$ref": "#/components/schemas/Error"}) for status, text in ERRORS.items()}
    paths: dict[str, Any] = {
        "/invocations": {
            "post": {
                "summary": "Recommend items to some users",
                "requestBody": {"required": True, "content": {JSON: {"schema": body}}},
                "responses": responses,
            }
        }
    }
    for path, text in PROBES.items():
        paths[path] = {"get": {"summary": text, "responses": {"200": {"description": text}}}}
    components: dict[str, Any] = {"schemas": {**schemas, "Error": ERROR}}
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "llmsrec", "version": version},
        "paths": paths,
        "components": components,
    }
    if token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"token": []}]
    return made


def _content(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {JSON: {"schema": schema}}}
