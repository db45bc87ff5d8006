"""`/docs`: every route on one page, rendered here from the OpenAPI document. It holds no script and loads nothing.

The usual interactive page takes its code from a CDN, and would run it beside the reader's API key.
"""

from __future__ import annotations

import json
from functools import lru_cache
from html import escape
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem;border-bottom:1px solid #ccc}
summary{cursor:pointer;padding:.25rem 0}code,pre{font:13px/1.45 ui-monospace,monospace}
pre{background:#f5f5f5;padding:.75rem;overflow:auto}.m{display:inline-block;width:4.5rem;font-weight:600}
table{border-collapse:collapse}td,th{border:1px solid #ddd;padding:.2rem .5rem;text-align:left;vertical-align:top}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}pre{background:#242424}}
"""


@router.get("/docs")
def docs(request: Request) -> Response:
    """The page."""
    return HTMLResponse(_page(json.dumps(request.app.openapi())))


@lru_cache(maxsize=2)
def _page(document: str) -> str:
    api = json.loads(document)
    by_tag: dict[str, list[str]] = {}
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            tag = (operation.get("tags") or ["other"])[0]
            by_tag.setdefault(tag, []).append(_operation(api, method, path, operation))
    parts = [f"<h2>{escape(tag)}</h2>{''.join(shown)}" for tag, shown in by_tag.items()]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(api["info"]["title"])} API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(api['info']['title'])} API</h1><p>{escape(api['info'].get('description', ''))}</p>"
        '<p>For machines: <a href="/openapi.json">openapi.json</a>.</p>'
        f"{''.join(parts)}</body></html>"
    )


def _operation(api: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(one['name'])}</code></td><td>{escape(one['in'])}</td>"
        f"<td>{escape(_type(one.get('schema', {})))}</td><td>{escape(one.get('description', ''))}</td></tr>"
        for one in operation.get("parameters", [])
    )
    parameters = f"<table><tr><th>name</th><th>in</th><th>type</th><th></th></tr>{rows}</table>" if rows else ""
    bodies = "".join(
        f"<p>Body, <code>{escape(kind)}</code></p><pre>{escape(_example(api, content.get('schema', {})))}</pre>"
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
    )
    answers = ", ".join(
        f"{escape(status)} {escape(answer.get('description', ''))}" for status, answer in operation["responses"].items()
    )
    return (
        f'<details><summary><span class="m">{escape(method.upper())}</span><code>{escape(path)}</code></summary>'
        f"<p>{escape(operation.get('description', ''))}</p>{parameters}{bodies}<p>Answers: {answers}</p></details>"
    )


def _example(api: dict[str, Any], schema: dict[str, Any]) -> str:
    return json.dumps(_shape(api, schema, 0), indent=2, ensure_ascii=False)


def _shape(api: dict[str, Any], schema: dict[str, Any], depth: int) -> Any:
    """A value that shows the schema's shape: types in the place of values."""
    name = schema.get("$ref", "").rpartition("/")[2]
    if name:
        schema = api["components"]["schemas"].get(name, {})
    if depth > 4:
        return name or "..."
    if "properties" in schema:
        required = set(schema.get("required", ()))
        return {
            key if key in required else f"{key}?": _shape(api, inner, depth + 1)
            for key, inner in schema["properties"].items()
        }
    options = [one for one in schema.get("anyOf", []) if one.get("type") != "null"]
    if len(options) == 1:
        return _shape(api, options[0], depth)
    if schema.get("type") == "array":
        return [_shape(api, schema.get("items", {}), depth + 1)]
    return _type(schema)


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(_type(one) for one in schema["anyOf"])
    return str(schema.get("format") or schema.get("type") or "any")
