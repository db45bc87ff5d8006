"""`tsumugi index`: change embedder, chunker or lexical side with the service answering throughout, and go back."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from cli.client import connect
from cli.output import CommandFailed, DataDirOption, JsonOption, console, print_json, print_rows

app = typer.Typer(help="Index versions: build beside, switch, roll back.", no_args_is_help=True)

VersionArgument = Annotated[str, typer.Argument(help="Index version, as `tsumugi index status` lists it.")]
ReasonOption = Annotated[str | None, typer.Option(help="Why; kept in the audit trail.")]
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
