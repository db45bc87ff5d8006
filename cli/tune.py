"""`tsumugi tune` and `tsumugi datasets`: examples of a style in, an adapter version out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.client import Client, connect
from cli.output import CommandFailed, DataDirOption, JsonOption, console, errors, print_json, print_rows

datasets = typer.Typer(help="Training sets.", no_args_is_help=True)
FamilyOption = Annotated[str | None, typer.Option(help="Family whose runs take the set.")]


def tune(
    family: Annotated[str, typer.Argument(help="Adapter family the new version belongs to.")],
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="A JSONL or JSON file, or the id of a set; repeatable [default: the sets of the family]."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="sft, dpo, kto, orpo, reward, grpo, rloo, distill or staged [default: sft].")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Name of a recipe [default: the one of the method].")] = None,
    export: Annotated[
        bool, typer.Option("--export", help="Train for download: kinds that are not served here.")
    ] = False,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE over the recipe, value in JSON; repeatable.")
    ] = None,
    start_from: Annotated[
        str, typer.Option("--from", help="base, champion or a version (v3): whose weights training goes on from.")
    ] = "base",
    wait: Annotated[bool, typer.Option(help="Follow the run to its end.")] = True,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Train a version of a style, evaluate it, and put it before the gate. Promotion is a step of its own."""
    with connect(data_dir) as client:
        ids = [
            upload_dataset(client, Path(name), family)["id"] if Path(name).is_file() else name for name in dataset or []
        ]
        body = {
            "family": family, "method": method, "recipe": recipe, "dataset_ids": ids or None, "start_from": start_from,
        }  # fmt: skip
        run = client.post("/v1/admin/tuning-runs", {**body, "export": export, "overrides": _overrides(override or [])})
        _warn(run)
        if wait:
            run = follow_run(client, run, quiet=json_output)
    if json_output:
        print_json(run)
    else:
        console.print(f"{run['id']} {run['job']['status']}")
        print_gate(run)
    if wait and run["job"]["status"] != "succeeded":
        raise CommandFailed()


@datasets.command("upload", epilog="Example: tsumugi datasets upload examples/style.jsonl")
def upload(
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSONL or JSON.")],
    family: FamilyOption = None,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Upload a training set; rows that cannot be used are reported by line."""
    with connect(data_dir) as client:
        found = upload_dataset(client, path, family)
    if json_output:
        print_json(found)
        return
    console.print(f"{found['id']}: {found['row_count']} rows, {found['invalid_count']} invalid ({found['format']})")
    for row in found.get("report", {}).get("invalid", [])[:20]:
        errors.print(f"  line {row['line']}: {row['detail']} ({row['code']})", markup=False)
    for member, one in found.get("report", {}).get("untrained", {}).items():
        errors.print(f"  {member} ({one['rows']} rows): {one['detail']}", markup=False)
    _warn(found)


@datasets.command("list", epilog="Example: tsumugi datasets list")
def list_datasets(family: FamilyOption = None, json_output: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """List training sets, of one family or of all."""
    with connect(data_dir) as client:
        found = list(client.items("/v1/datasets", family=family))
    if json_output:
        print_json({"items": found})
    else:
        print_rows(
            found, ["id", "name", "family", "format", "row_count", "retired_count", "created_at"], empty="no datasets"
        )


@datasets.command("change", epilog="Example: tsumugi datasets change dst_... --retire --reason 'the old tone'")
def change(
    dataset: Annotated[str, typer.Argument(help="Id of a set.")],
    family: FamilyOption = None,
    retire: Annotated[
        bool | None, typer.Option("--retire/--restore", help="Out of force: no new run takes it; or back into it.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why it is retired.")] = None,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Give a set to another family, retire it, or take it back."""
    given = {"family": family, "retired": retire, "reason": reason}
    body = {name: value for name, value in given.items() if value is not None}
    with connect(data_dir) as client:
        found = client.patch(f"/v1/datasets/{dataset}", body)
    if json_output:
        print_json(found)
    else:
        state = "retired" if found["retired_at"] else f"{found['row_count']} rows in force"
        console.print(f"{found['id']}: family {found['family']}, {state}", markup=False)


@datasets.command("delete", epilog="Example: tsumugi datasets delete dst_...")
def delete(
    dataset: Annotated[str, typer.Argument(help="Id of a set.")],
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Delete a set with its rows and its file; versions trained on it stay."""
    with connect(data_dir) as client:
        client.delete(f"/v1/datasets/{dataset}")
    if json_output:
        print_json({"id": dataset, "deleted": True})
    else:
        console.print(f"{dataset} is deleted", markup=False)


def upload_dataset(client: Client, path: Path, family: str | None = None) -> dict[str, Any]:
    """Upload a file as a training set of a family, by default of the service's default one."""
    with path.open("rb") as file:
        fields = {"family": family} if family else None
        found: dict[str, Any] = client.post("/v1/datasets", files={"file": (path.name, file)}, data=fields)
    return found


def _warn(found: dict[str, Any]) -> None:
    for warning in found.get("warnings", []):
        errors.print(f"{warning['code']}: {warning['detail']}", markup=False)


def follow_run(client: Client, run: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Follow a run to its end, telling stages and losses as they come; returns the run's detail."""
    seen_steps = 0
    stage: str | None = None

    def tell(job: dict[str, Any]) -> None:
        nonlocal seen_steps, stage
        if job.get("stage") not in {stage, None}:
            stage = job["stage"]
            console.print(f"  [bold]{stage}[/bold]")
        curve = client.get(f"/v1/admin/tuning-runs/{run['id']}").get("loss_curve") or []
        for point in curve[seen_steps:]:
            console.print(f"    step {point['step']:>4}  loss {point['loss']:.3f}")
        seen_steps = len(curve)

    client.follow_job(run["job"]["id"], None if quiet else tell)
    detail: dict[str, Any] = client.get(f"/v1/admin/tuning-runs/{run['id']}")
    return detail


def print_gate(run: dict[str, Any]) -> None:
    """The verdict on a run, if there is one."""
    report = run.get("gate_report")
    if not report:
        return
    verdict = report.get("verdict") or ("passed" if report.get("passed") else "rejected")
    console.print(f"gate: {verdict}; version {run.get('adapter_version') or '-'}", markup=False)
    for reason in report.get("reasons", []):
        console.print(f"  {reason}", markup=False)
    for note in report.get("notes", [])[:1]:  # which look this is, and what it may err
        console.print(f"  {note}", markup=False)


def _overrides(pairs: list[str]) -> dict[str, Any] | None:
    overrides: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise CommandFailed(f"--set takes NAME=VALUE, not {pair!r}", exit_code=2)
        try:
            overrides[name] = json.loads(value)
        except ValueError:
            overrides[name] = value
    return overrides or None
