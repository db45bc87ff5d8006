"""`tsumugi ask` and `tsumugi search`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape

from cli.client import Client, connect
from cli.output import CommandFailed, DataDirOption, JsonOption, console, print_json


def ask(
    question: Annotated[str, typer.Argument(help="The question, in English or Japanese.")],
    adapter: Annotated[str | None, typer.Option(help="FAMILY, FAMILY@VERSION or base [default: champion].")] = None,
    collection: Annotated[str | None, typer.Option(help="Only documents of this collection.")] = None,
    conversation: Annotated[str | None, typer.Option(help="Conversation id: earlier turns are taken along.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer in tokens.")] = None,
    expand_tokens: Annotated[
        int | None, typer.Option(min=0, max=4096, help="Read passages with their sections, up to so many tokens.")
    ] = None,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Ask a question; the answer cites the passages it stands on, or says that there are none."""
    body = {
        "question": question,
        "adapter": adapter,
        "collection": collection,
        "conversation_id": conversation,
        "max_tokens": max_tokens,
        "expand_tokens": expand_tokens,
    }
    with connect(data_dir) as client:
        if json_output:
            print_json(client.post("/v1/ask", body))
        else:
            _print_citations(_stream(client, {name: value for name, value in body.items() if value is not None}))


def search(
    query: Annotated[str, typer.Argument(help="Words or a question.")],
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many passages.")] = 5,
    collection: Annotated[str | None, typer.Option(help="Only documents of this collection.")] = None,
    expand_tokens: Annotated[
        int | None, typer.Option(min=0, max=4096, help="Grow passages to their sections, up to so many tokens.")
    ] = None,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Search for passages, best first."""
    body = {"query": query, "limit": limit, "collection": collection, "expand_tokens": expand_tokens}
    with connect(data_dir) as client:
        answer = client.post("/v1/search", body)
    if json_output:
        print_json(answer)
        return
    for number, item in enumerate(answer["items"], start=1):
        place = [escape(item["filename"])]
        if item.get("page"):
            place.append(f"page {item['page']}")
        if item.get("heading"):
            place.append(escape(item["heading"]))
        console.print(f"[bold]{number}[/bold] [cyan]{' · '.join(place)}[/cyan] [dim]{item['score']:.3f}[/dim]")
        console.print(escape(" ".join(item["text"].split())), soft_wrap=True)
    if not answer["items"]:
        console.print("[dim]nothing found[/dim]")


def _stream(client: Client, body: Mapping[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    printed = False
    for event, data in client.stream("POST", "/v1/ask", json={**body, "stream": True}):
        if event == "token":
            printed = True
            console.print(data["text"] if isinstance(data, dict) else data, end="", markup=False, soft_wrap=True)
        elif event == "done":
            answer = data
        elif event == "error":
            raise CommandFailed(f"{data.get('detail', data)}")
    if not answer:
        raise CommandFailed("the answer broke off before its end; ask again")
    console.print("" if printed else escape(answer.get("answer", "")))
    return answer


def _print_citations(answer: Mapping[str, Any]) -> None:
    for citation in answer.get("citations", ()):
        mark = "[green]verified[/green]" if citation["verified"] else "[yellow]unverified[/yellow]"
        page = f" page {citation['page']}" if citation.get("page") else ""
        page += f" ({escape(citation['edition'])})" if citation.get("edition") else ""
        console.print(f"  \\[{citation['index']}] [cyan]{escape(citation['filename'])}[/cyan]{page} {mark}")
        console.print(f"      “{escape(' '.join(citation['quote'].split()))}”", soft_wrap=True)
    provenance = answer.get("provenance", {})
    timings = answer.get("timings_ms", {})
    served_by = escape(provenance.get("adapter") or provenance.get("base_model") or "")
    console.print(f"[dim]{served_by} · {timings.get('total', 0):.0f} ms[/dim]")
