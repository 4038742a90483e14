"""How were rest.json and webhooks.json made? Run by hand when GitHub's packages change; the README says how.

Keeps the operations and events that Oroboros uses, with every schema they refer to, and drops what validation does not
need: descriptions, examples, vendor extensions. OpenAPI 3.0's `nullable` becomes JSON Schema's null type.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

REPOSITORY = "/repos/{owner}/{repo}"
OPERATIONS = (
    ("get", REPOSITORY),
    ("get", f"{REPOSITORY}/pulls"),
    ("post", f"{REPOSITORY}/pulls"),
    ("get", f"{REPOSITORY}/pulls/{{pull_number}}"),
    ("patch", f"{REPOSITORY}/pulls/{{pull_number}}"),
    ("put", f"{REPOSITORY}/pulls/{{pull_number}}/merge"),
    ("get", f"{REPOSITORY}/branches"),
    ("get", f"{REPOSITORY}/git/ref/{{ref}}"),
    ("get", f"{REPOSITORY}/commits/{{ref}}"),
    ("post", f"{REPOSITORY}/statuses/{{sha}}"),
    ("get", f"{REPOSITORY}/commits/{{ref}}/statuses"),
    ("get", f"{REPOSITORY}/commits/{{ref}}/status"),
    ("get", f"{REPOSITORY}/hooks/{{hook_id}}/deliveries"),
    ("get", f"{REPOSITORY}/hooks/{{hook_id}}/deliveries/{{delivery_id}}"),
    ("post", f"{REPOSITORY}/hooks/{{hook_id}}/deliveries/{{delivery_id}}/attempts"),
    ("get", f"{REPOSITORY}/branches/{{branch}}"),
    ("get", f"{REPOSITORY}/installation"),
    ("get", f"{REPOSITORY}/collaborators/{{username}}/permission"),
    ("post", f"{REPOSITORY}/check-runs"),
    ("get", f"{REPOSITORY}/check-runs/{{check_run_id}}"),
    ("patch", f"{REPOSITORY}/check-runs/{{check_run_id}}"),
    ("get", f"{REPOSITORY}/check-runs/{{check_run_id}}/annotations"),
    ("get", f"{REPOSITORY}/commits/{{ref}}/check-runs"),
    ("get", f"{REPOSITORY}/deployments"),
    ("post", f"{REPOSITORY}/deployments"),
    ("get", f"{REPOSITORY}/deployments/{{deployment_id}}"),
    ("delete", f"{REPOSITORY}/deployments/{{deployment_id}}"),
    ("get", f"{REPOSITORY}/deployments/{{deployment_id}}/statuses"),
    ("post", f"{REPOSITORY}/deployments/{{deployment_id}}/statuses"),
    ("get", f"{REPOSITORY}/issues/comments"),
    ("get", f"{REPOSITORY}/issues/{{issue_number}}/comments"),
    ("post", f"{REPOSITORY}/issues/{{issue_number}}/comments"),
    ("get", f"{REPOSITORY}/issues/comments/{{comment_id}}"),
    ("patch", f"{REPOSITORY}/issues/comments/{{comment_id}}"),
    ("delete", f"{REPOSITORY}/issues/comments/{{comment_id}}"),
    ("get", f"{REPOSITORY}/issues/comments/{{comment_id}}/reactions"),
    ("post", f"{REPOSITORY}/issues/comments/{{comment_id}}/reactions"),
    ("post", "/app-manifests/{code}/conversions"),
    ("get", "/app"),
    ("get", "/app/hook/config"),
    ("patch", "/app/hook/config"),
    ("get", "/app/hook/deliveries"),
    ("get", "/app/hook/deliveries/{delivery_id}"),
    ("post", "/app/hook/deliveries/{delivery_id}/attempts"),
    ("post", "/app/installations/{installation_id}/access_tokens"),
    ("get", "/installation/repositories"),
    ("get", "/rate_limit"),
    ("get", "/user"),
)
#: What an operation may answer instead; most name none of them.
ERRORS = ("basic-error", "validation-error")
EVENTS = (
    "push$event",
    "pull_request$opened",
    "pull_request$closed",
    "pull_request$reopened",
    "pull_request$synchronize",
    "issue_comment$created",
    "check_run$rerequested",
    "merge_group$checks_requested",
    "merge_group$destroyed",
)
DROPPED = {
    "description", "example", "examples", "default", "externalDocs", "deprecated", "title", "$schema",
    "tsAdditionalProperties", "readOnly",
}  # fmt: skip


def trim(node: Json, *, is_names: bool = False) -> Json:
    """Return a schema without its words; `is_names`: the keys are names of properties, not keywords."""
    if isinstance(node, list):
        return [trim(one) for one in node]
    if not isinstance(node, dict):
        return node
    kept: dict[str, Json] = {}
    for key, value in node.items():
        if is_names:
            kept[key] = trim(value)
        elif key in ("enum", "required", "const"):
            kept[key] = value
        elif key not in DROPPED and key != "nullable" and not key.startswith("x-"):
            kept[key] = trim(value, is_names=key in ("properties", "definitions", "schemas"))
    if not is_names and node.get("nullable") is True:
        return {"anyOf": [kept, {"type": "null"}]}
    return kept


def refer(node: Json) -> set[str]:
    """Return every local reference in a schema."""
    if isinstance(node, list):
        return {ref for one in node for ref in refer(one)}
    if not isinstance(node, dict):
        return set()
    own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
    return {str(ref) for ref in own} | {ref for value in node.values() for ref in refer(value)}


def gather(start: Json, source: dict[str, Json], prefix: str) -> dict[str, Json]:
    """Return the named schemas that `start` needs, directly or not."""
    found: dict[str, Json] = {}
    wanted = refer(start)
    while wanted:
        name = wanted.pop().removeprefix(prefix)
        if name not in found:
            found[name] = trim(source[name])
            wanted |= refer(found[name])
    return dict(sorted(found.items()))


def reply_schema(reply: dict[str, Json], components: dict[str, Json]) -> Json:
    """Return the schema of a reply's JSON, None when it has no body."""
    if "$ref" in reply:
        responses = components["responses"]
        assert isinstance(responses, dict)
        named = responses[str(reply["$ref"]).rpartition("/")[2]]
        assert isinstance(named, dict)
        reply = named
    content = reply.get("content")
    if not isinstance(content, dict):
        return None
    media = next(iter(content.values()))
    assert isinstance(media, dict)
    return trim(media["schema"])


def rest(openapi: dict[str, Json]) -> dict[str, Json]:
    """Return the operations: what may be asked, what must be sent, what comes back."""
    paths, components = openapi["paths"], openapi["components"]
    assert isinstance(paths, dict)
    assert isinstance(components, dict)
    operations: dict[str, Json] = {}
    for method, path in OPERATIONS:
        operation = json.loads(json.dumps(paths[path]))[method]
        parameters = components["parameters"]
        assert isinstance(parameters, dict)
        query: dict[str, Json] = {}
        for one in operation.get("parameters", []):
            named = parameters[one["$ref"].rpartition("/")[2]] if "$ref" in one else one
            assert isinstance(named, dict)
            if named["in"] == "query":
                query[str(named["name"])] = trim(named["schema"])
        replies = {status: reply_schema(reply, components) for status, reply in operation["responses"].items()}
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        is_needed = operation.get("requestBody", {}).get("required", False)
        operations[f"{method.upper()} {path}"] = {
            "query": query, "replies": replies, "request": trim(body), "request_needed": is_needed,
        }  # fmt: skip
    schemas = components["schemas"]
    assert isinstance(schemas, dict)
    prefix = "#/components/schemas/"
    kept: Json = [operations, [{"$ref": f"{prefix}{error}"} for error in ERRORS]]
    return {"components": {"schemas": gather(kept, schemas, prefix)}, "operations": operations}


def webhooks(schema: dict[str, Json]) -> dict[str, Json]:
    """Return the events' payloads."""
    source = schema["definitions"]
    assert isinstance(source, dict)
    start: Json = [{"$ref": f"#/definitions/{event}"} for event in EVENTS]
    return {"definitions": gather(start, source, "#/definitions/")}


def main(openapi: Path, hooks: Path) -> None:
    """Write both excerpts beside this file."""
    here = Path(__file__).resolve().parent
    for name, content in (
        ("rest.json", rest(json.loads(openapi.read_text()))),
        ("webhooks.json", webhooks(json.loads(hooks.read_text()))),
    ):
        (here / name).write_text(json.dumps(content, sort_keys=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
