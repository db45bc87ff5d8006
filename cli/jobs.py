"""`tsumugi jobs`: what runs, what failed, and once more."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.client import Client, connect
from cli.output import CommandFailed, DataDirOption, JsonOption, console, print_json, print_rows

app = typer.Typer(help="Background jobs.", no_args_is_help=True)

COLUMNS = ["id", "kind", "status", "stage", "progress", "attempt", "error.code", "created_at"]
JobArgument = Annotated[str, typer.Argument(help="Id of a job.")]


@app.command("list", epilog="Example: tsumugi jobs list --status failed")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="queued, running, succeeded, failed or cancelled.")] = None,
    kind: Annotated[str | None, typer.Option(help="ingest, delete or tuning.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """List jobs, newest first."""
    with connect(data_dir) as client:
        found = list(client.items("/v1/jobs", limit, status=status, kind=kind))
    if json_output:
        print_json({"items": found})
    else:
        print_rows(found, COLUMNS, empty="no jobs")


@app.command("show", epilog="Example: tsumugi jobs show job_0190... --follow")
def show_job(
    job_id: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Wait until it has ended.")] = False,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Show one job; with --follow, exit 1 unless it succeeds."""
    with connect(data_dir) as client:
        job = client.follow_job(job_id) if follow else client.get(f"/v1/jobs/{job_id}")
    if json_output:
        print_json(job)
    else:
        print_rows([job], COLUMNS, empty="")
    if follow and job["status"] != "succeeded":
        raise CommandFailed()


@app.command("retry", epilog="Example: tsumugi jobs retry job_0190...   or   tsumugi jobs retry --code ocr_unavailable")
def retry_job(
    job_id: Annotated[str | None, typer.Argument(help="Id of a job.")] = None,
    code: Annotated[str | None, typer.Option(help="All failed jobs with this error code instead.")] = None,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Queue a failed or cancelled job again, or all that failed with one code."""
    if (job_id is None) == (code is None):
        raise CommandFailed("give either the id of a job or --code", exit_code=2)
    with connect(data_dir) as client:
        items = [client.post(f"/v1/jobs/{job_id}/retry")] if code is None else _retry_all(client, code)
    if json_output:
        print_json(items[0] if code is None else {"items": items})
    elif code is not None:
        console.print(f"{len(items)} jobs are queued again")
    else:
        console.print(f"{job_id} is {items[0]['status']} again")


def _retry_all(client: Client, code: str) -> list[dict[str, Any]]:
    """The service takes a thousand at a time."""
    items: list[dict[str, Any]] = []
    seen: set[str] = set()
    while True:
        page = client.request("POST", "/v1/jobs/retry", params={"code": code}).json()["items"]
        fresh = [job for job in page if job["id"] not in seen]
        if not fresh:
            return items
        seen.update(job["id"] for job in fresh)
        items += fresh


@app.command("cancel", epilog="Example: tsumugi jobs cancel job_0190...")
def cancel_job(job_id: JobArgument, json_output: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Ask a job to stop."""
    with connect(data_dir) as client:
        job = client.post(f"/v1/jobs/{job_id}/cancel")
    if json_output:
        print_json(job)
    else:
        console.print(f"{job_id} is {job['status']}; it stops at its next safe point")
