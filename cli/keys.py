"""`tsumugi keys`: API keys. A secret is shown once, when its key is made or rotated."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from cli.client import connect
from cli.output import DataDirOption, JsonOption, console, errors, print_json, print_rows
from core.types import Scope

app = typer.Typer(help="API keys: create, list, rotate, revoke.", no_args_is_help=True)


@app.command("create", epilog="Example: tsumugi keys create intranet --scope query --scope feedback --group sales")
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[list[Scope], typer.Option(help="What it may do; repeatable.")],
    tenant: Annotated[str | None, typer.Option(help="Tenant it belongs to [default: that of your key].")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Groups whose documents it may read; repeatable.")] = None,
    expires_in_days: Annotated[int | None, typer.Option(min=1, help="Days until it expires [default: never].")] = None,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Make a key and print its secret, once."""
    expires_at = datetime.now(UTC) + timedelta(days=expires_in_days) if expires_in_days else None
    body = {
        "name": name,
        "scopes": [item.value for item in scope],
        "tenant": tenant,
        "groups": group,
        "expires_at": expires_at.isoformat() if expires_at else None,
    }
    with connect(data_dir) as client:
        key = client.post("/v1/admin/keys", body)
    if json_output:
        print_json(key)
    else:
        errors.print(f"[dim]{key['id']}: keep the secret, it is not shown again[/dim]")
        typer.echo(key["secret"])


@app.command("list", epilog="Example: tsumugi keys list")
def list_keys(json_output: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """List keys, without their secrets."""
    with connect(data_dir) as client:
        found = list(client.items("/v1/admin/keys"))
    if json_output:
        print_json({"items": found})
    else:
        columns = ["id", "name", "scopes", "groups", "expires_at", "revoked_at", "last_used_at"]
        print_rows(found, columns, empty="no keys")


@app.command("rotate", epilog="Example: tsumugi keys rotate key_0190... --overlap-hours 24")
def rotate(
    key_id: Annotated[str, typer.Argument(help="Id of a key.")],
    overlap_hours: Annotated[float, typer.Option(min=0, max=720, help="How long the old key works on.")] = 24.0,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Make a successor with the same rights and print its secret, once."""
    with connect(data_dir) as client:
        key = client.post(f"/v1/admin/keys/{key_id}/rotate", {"overlap_s": round(overlap_hours * 3600)})
    if json_output:
        print_json(key)
    else:
        errors.print(f"[dim]{key['id']} replaces {key_id}, which works until {key['replaces']['expires_at']}[/dim]")
        typer.echo(key["secret"])


@app.command("revoke", epilog="Example: tsumugi keys revoke key_0190...")
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of a key.")],
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Revoke a key; its next request is answered 401."""
    with connect(data_dir) as client:
        client.delete(f"/v1/admin/keys/{key_id}")
    if json_output:
        print_json({"id": key_id, "revoked": True})
    else:
        console.print(f"{key_id} is revoked")
