"""`tsumugi index`: change embedder, chunker or lexical side with the service answering throughout, and go back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cli.client import connect
from cli.output import CommandFailed, DataDirOption, JsonOption, console, print_json, print_rows

app = typer.Typer(help="Index versions: build beside, switch, roll back.", no_args_is_help=True)

VersionArgument = Annotated[str, typer.Argument(help="Index version, as `tsumugi index status` lists it.")]
ReasonOption = Annotated[str | None, typer.Option(help="Why; kept in the audit trail.")]
TenantArgument = Annotated[str, typer.Argument(help="Tenant, by name or id.")]
WaitOption = Annotated[bool, typer.Option(help="Follow the jobs to their end.")]
SHARD_COLUMNS = ["tenant", "version", "state", "points", "left"]
COLUMNS = ["version", "state", "status", "embedder", "held", "created_at"]


@app.command("status", epilog="Example: tsumugi index status")
def show_status(json_output: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Show which version serves, and how much each holds."""
    with connect(data_dir) as client:
        found = client.get("/v1/admin/index")
    if json_output:
        print_json(found)
        return
    for version in found["versions"]:
        version["held"] = f"{version['documents']}/{version['documents_wanted']}"
        version["state"] = "serving" if version["active"] else ("configured" if version["configured"] else "")
    print_rows(found["versions"], COLUMNS, empty="no index yet")
    if found["configured"] != found["serving"]:
        console.print("the settings make another index than the one that serves: tsumugi index build, then switch")
    if not all(version["calibrated"] for version in found["versions"] if version["active"]):
        console.print("refusals are not calibrated for the serving embedder: tsumugi calibrate QUESTIONS")


@app.command(
    "build", epilog="Example: tsumugi index build --set retrieval.embedder=bge-m3 --set ingest.chunk_tokens=256"
)
def build(
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="SECTION.NAME=VALUE over the settings, value in JSON or plain; repeatable."),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Follow the job to its end.")] = True,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Build the version that the settings make, beside the one that serves. Resumes one that was begun."""
    config: dict[str, dict[str, Any]] = {}
    for item in override or []:
        name, _, value = item.partition("=")
        section, _, key = name.partition(".")
        if not key or not value:
            raise typer.BadParameter(f"'{item}' is not SECTION.NAME=VALUE")
        config.setdefault(section, {})[key] = _value(value)
    with connect(data_dir) as client:
        found = client.post("/v1/admin/index/build", config)
        if wait:
            shown = None if json_output else _show
            found["job"] = client.follow_job(found["job"]["id"], shown, timeout_s=7 * 24 * 3600.0)
    if json_output:
        print_json(found)
    else:
        console.print(f"{found['version']} {found['job']['status']}")
    if wait and found["job"]["status"] != "succeeded":
        error = found["job"].get("error") or {}
        raise CommandFailed(None if json_output else f"{error.get('detail', '')} ({error.get('code', 'cancelled')})")


@app.command("switch", epilog="Example: tsumugi index switch 5f0c61d2a7b3e94d")
def switch(
    version: VersionArgument,
    reason: ReasonOption = None,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Let a version serve that is ready."""
    with connect(data_dir) as client:
        _moved(client.post("/v1/admin/index/switch", {"version": version, "reason": reason}), json_output)


@app.command("rollback", epilog="Example: tsumugi index rollback --reason 'fewer right passages'")
def rollback(reason: ReasonOption = None, json_output: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Let the version serve that served before."""
    with connect(data_dir) as client:
        _moved(client.post("/v1/admin/index/rollback", {"reason": reason}), json_output)


@app.command("drop", epilog="Example: tsumugi index drop 5f0c61d2a7b3e94d")
def drop(version: VersionArgument, json_output: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Remove a version that does not serve. Ingest then writes one index less."""
    with connect(data_dir) as client:
        client.delete(f"/v1/admin/index/{version}")
    if json_output:
        print_json({"dropped": version})
    else:
        console.print(f"{version} is gone")


@app.command("promote", epilog="Example: tsumugi index promote acme")
def promote(
    tenant: TenantArgument, wait: WaitOption = True, json_output: JsonOption = False, data_dir: DataDirOption = None
) -> None:
    """Give a tenant that outgrew the rest a shard of its own on the Qdrant cluster. Again goes on with a move."""
    _move_tenant("PUT", tenant, wait, json_output, data_dir)


@app.command("demote", epilog="Example: tsumugi index demote acme")
def demote(
    tenant: TenantArgument, wait: WaitOption = True, json_output: JsonOption = False, data_dir: DataDirOption = None
) -> None:
    """Move a tenant back into the shard that all others share."""
    _move_tenant("DELETE", tenant, wait, json_output, data_dir)


@app.command("shards", epilog="Example: tsumugi index shards")
def show_shards(json_output: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Show the tenants that have a shard of their own."""
    with connect(data_dir) as client:
        found = client.get("/v1/admin/index/shards")
    if json_output:
        print_json(found)
        return
    for shard in found["items"]:
        shard["tenant"] = shard["tenant"] or f"{shard['tenant_id']} (gone)"
        state = "serves" if shard["serves"] else "is being filled"
        shard["state"] = state if shard["wanted"] else f"{state}, not wanted"
    print_rows(found["items"], SHARD_COLUMNS, empty="all tenants share a shard")


def _move_tenant(method: str, tenant: str, wait: bool, json_output: bool, data_dir: Path | None) -> None:
    path = f"/v1/admin/index/shards/{quote(tenant, safe='')}"
    with connect(data_dir) as client:
        found = client.request(method, path).json()
        if wait:
            shown = None if json_output else _show
            found["jobs"] = [client.follow_job(job["id"], shown, timeout_s=7 * 24 * 3600.0) for job in found["jobs"]]
    if json_output:
        print_json(found)
    else:
        where = "a shard of its own" if found["wanted"] else "the shared shard"
        console.print(f"{found['tenant']} in {where}: {', '.join(job['status'] for job in found['jobs'])}")
    failed = [job for job in found["jobs"] if wait and job["status"] != "succeeded"]
    if failed:
        error = failed[0].get("error") or {}
        raise CommandFailed(None if json_output else f"{error.get('detail', '')} ({error.get('code', 'cancelled')})")


def _moved(found: dict[str, Any], json_output: bool) -> None:
    if json_output:
        print_json(found)
    else:
        console.print(f"{found['to_version']} serves, {found['from_version']} stays ({found['effective_ms']:.0f} ms)")


def _show(job: dict[str, Any]) -> None:
    console.print(f"{job['stage'] or job['status']} {100 * job['progress']:.0f} %")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
