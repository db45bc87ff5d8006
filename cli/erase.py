"""`tsumugi erase`: the plan first, then on yes the rest, to the certificate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.client import Client, connect
from cli.output import CommandFailed, DataDirOption, JsonOption, console, print_json, print_rows

app = typer.Typer(help="Erasures that were asked for.", no_args_is_help=True)

COLUMNS = ["id", "kind", "status", "retire", "asked_by", "created_at", "finished_at"]
TIMEOUT_S = 7 * 24 * 3600.0


class _Waits(Exception):
    """It goes on by itself when a training has passed the gate: nobody watches for that long."""


def erase(
    document: Annotated[str | None, typer.Option(help="Id of a document, also of one that was deleted.")] = None,
    external_id: Annotated[str | None, typer.Option(help="External id of documents, also of deleted ones.")] = None,
    text: Annotated[str | None, typer.Option(help="All that holds this text, whole documents too.")] = None,
    tenant: Annotated[str | None, typer.Option(help="A whole tenant, by name or id; needs the operator's key.")] = None,
    retire: Annotated[str, typer.Option(help="Adapter versions that saw it: now, or after-retrain.")] = "now",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what is held where.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask after the plan.")] = False,
    certificate: Annotated[Path | None, typer.Option(help="File for the certificate.")] = None,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Forget a document, a text or a tenant to the last byte, and say what could not be reached."""
    named = {"document_id": document, "external_id": external_id, "text": text, "tenant": tenant}
    selector = {name: value for name, value in named.items() if value is not None}
    if len(selector) != 1:
        raise CommandFailed("give exactly one of --document, --external-id, --text and --tenant", exit_code=2)
    if retire not in {"now", "after-retrain"}:
        raise CommandFailed("--retire is now or after-retrain", exit_code=2)
    with connect(data_dir) as client:
        body = {**selector, "retire": retire.replace("-", "_"), "dry_run": True}
        made = _followed(client, client.post("/v1/admin/erasures", body), json_output)
        if not json_output:
            _print_plan(made)
        if not dry_run:
            if not yes and (json_output or not typer.confirm("Erase all of it? There is no way back")):
                raise CommandFailed("nothing was erased; say --yes to go on without a question")
            made = _followed(client, client.post(f"/v1/admin/erasures/{made['id']}/start"), json_output)
    if certificate is not None and made["certificate"] is not None:
        certificate.write_text(json.dumps(made["certificate"], indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if json_output:
        print_json(made)
    elif not dry_run:
        _print_end(made)


@app.command("list", epilog="Example: tsumugi erasures list")
def list_erasures(
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """List erasures, newest first."""
    with connect(data_dir) as client:
        found = list(client.items("/v1/admin/erasures", limit))
    if json_output:
        print_json({"items": found})
    else:
        print_rows(found, COLUMNS, empty="no erasures")


@app.command("show", epilog="Example: tsumugi erasures show era_0190... --json")
def show_erasure(
    erasure_id: Annotated[str, typer.Argument(help="Id of an erasure.")],
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Show one with its plan, or with what was erased and what could not be reached."""
    with connect(data_dir) as client:
        found = client.get(f"/v1/admin/erasures/{erasure_id}")
    if json_output:
        print_json(found)
        return
    print_rows([found], COLUMNS, empty="")
    _print_plan(found)
    _print_end(found)


def _followed(client: Client, made: dict[str, Any], quiet: bool) -> dict[str, Any]:
    def look(job: dict[str, Any]) -> None:
        if job["waiting_for"] == "erasure_waits_for_training":
            raise _Waits
        if not quiet and console.is_terminal:
            console.print(f"  {job['stage'] or job['status']} {100 * job['progress']:.0f} %", end="\r", markup=False)

    try:
        job = client.follow_job(made["job"]["id"], look, timeout_s=TIMEOUT_S)
    except _Waits:
        job = None
    if job is not None and job["status"] != "succeeded":
        error = job.get("error") or {}
        raise CommandFailed(f"{error.get('detail', job['status'])} ({error.get('code', job['status'])})")
    found: dict[str, Any] = client.get(f"/v1/admin/erasures/{made['id']}")
    return found


def _print_plan(erasure: dict[str, Any]) -> None:
    plan = erasure["plan"] or {"counts": {}, "adapters": []}
    held = [{"held in": name, "count": count} for name, count in plan["counts"].items() if count]
    print_rows(held, ["held in", "count"], empty="nothing is held")
    print_rows(plan["adapters"], ["version", "status", "run_id"], empty="no adapter version saw it")


def _print_end(erasure: dict[str, Any]) -> None:
    told = erasure["certificate"]
    if told is None:
        console.print(f"{erasure['id']} is {erasure['status']}", markup=False)
        return
    console.print(f"{erasure['id']} is done; certificate {told['sha256'][:16]}", markup=False)
    print_rows(told["not_reached"], ["what", "why"], empty="")
