"""The OpenAPI document of what is served now: the version's own types, and the paths around them."""

from typing import Any

from llmsrec.serving import limits

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


def document(version: str, schemas: dict[str, Any], towers: list[str], users: bool, token: bool) -> dict[str, Any]:
    """The document.

    Args:
        version: such as `llm-srec/3`.
        schemas: of `Request`, `Answer` and what they hold.
        towers: that are served.
        users: whether their histories are known here.
        token: whether one must be sent.
    """
    schemas = {name: _of_towers(schema, towers) for name, schema in schemas.items()}
    inputs = {
        "type": "object",
        "required": ["inputs"],
        "additionalProperties": False,
        "properties": {"inputs": {"type": "array", "items": _reference("Request"), "maxItems": limits.REQUESTS}},
    }
    predictions = {
        "type": "object",
        "required": ["predictions"],
        "properties": {"predictions": {"type": "array", "items": _reference("Answer")}},
    }
    paths: dict[str, Any] = {
        "/invocations": _post("Recommend items to some users", inputs, "an answer to each, in order", predictions)
    }
    if "Rank" in schemas:  # versions from before these paths answer none of them
        ranked = "the candidates, best first"
        paths["/rank"] = _post("Put items in order for one user", _reference("Rank"), ranked, _reference("Answer"))
        near = "the nearest items"
        paths["/similar"] = _post("Name items like one", _reference("Similar"), near, _reference("Neighbours"))
    if users:
        schemas["OfUser"] = _without(schemas["Request"], "history")
        paths["/users/{id}"] = _post(
            "Recommend items to a user", _reference("OfUser"), "as to one", _reference("Answer")
        )
        post = paths["/users/{id}"]["post"]
        post["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
        post["responses"]["404"] = _content("there is no such user", _reference("Error"))
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


def _of_towers(schema: dict[str, Any], towers: list[str]) -> dict[str, Any]:
    """A schema whose `tower`, if it has one, is one of those that are served."""
    tower = schema.get("properties", {}).get("tower")
    if tower is None:
        return schema
    said = tower | {"anyOf": [{"type": "string", "enum": towers}, {"type": "null"}]}
    return schema | {"properties": schema["properties"] | {"tower": said}}


def _without(schema: dict[str, Any], field: str) -> dict[str, Any]:
    kept = {name: of for name, of in schema["properties"].items() if name != field}
    return schema | {"properties": kept, "required": [name for name in schema["required"] if name != field]}


def _content(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {JSON: {"schema": schema}}}


def _post(summary: str, body: dict[str, Any], text: str, answer: dict[str, Any]) -> dict[str, Any]:
    responses = {"200": _content(text, answer)}
    responses |= {status: _content(reason, _reference("Error")) for status, reason in ERRORS.items()}
    request = {"required": True, "content": {JSON: {"schema": body}}}
    return {"post": {"summary": summary, "requestBody": request, "responses": responses}}


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
