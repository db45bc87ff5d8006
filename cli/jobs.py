"""`tsumugi jobs`: what runs, what failed, and once more."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.client import connect
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


@app.command("retry", epilog="Example: tsumugi jobs retry job_0190...")
def retry_job(job_id: JobArgument, json_output: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Queue a failed or cancelled job again."""
    with connect(data_dir) as client:
        job = client.post(f"/v1/jobs/{job_id}/retry")
    if json_output:
        print_json(job)
    else:
        console.print(f"{job_id} is {job['status']} again")


@app.command("cancel", epilog="Example: tsumugi jobs cancel job_0190...")
def cancel_job(job_id: JobArgument, json_output: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Ask a job to stop."""
    with connect(data_dir) as client:
        job = client.post(f"/v1/jobs/{job_id}/cancel")
    if json_output:
        print_json(job)
    else:
        console.print(f"{job_id} is {job['status']}; it stops at its next safe point")
