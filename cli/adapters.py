"""`tsumugi adapters`: which style serves, and who changed it when."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Annotated

import typer

from cli.client import connect
from cli.output import EXIT_USAGE, CommandFailed, DataDirOption, JsonOption, console, errors, print_json, print_rows

app = typer.Typer(help="Adapter families and versions: promote, roll back, import.", no_args_is_help=True)

FamilyArgument = Annotated[str, typer.Argument(help="Name of an adapter family.")]


@app.command("list", epilog="Example: tsumugi adapters list")
def list_families(json_output: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """List families with their champion."""
    with connect(data_dir) as client:
        found = list(client.items("/v1/admin/adapters"))
    if json_output:
        print_json({"items": found})
    else:
        for family in found:
            family["champion"] = _alias(family, "champion")
            family["canary"] = _alias(family, "canary")
        print_rows(found, ["family", "champion", "canary", "created_at"], empty="no adapter families yet")


@app.command("show", epilog="Example: tsumugi adapters show house")
def show_family(family: FamilyArgument, json_output: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Show the versions of a family."""
    with connect(data_dir) as client:
        found = client.get(f"/v1/admin/adapters/{family}")
    if json_output:
        print_json(found)
        return
    console.print(f"champion: {_alias(found, 'champion') or 'none, the base answers'}")
    print_rows(found.get("versions", []), ["version", "status", "source", "reasons", "created_at"], empty="no versions")


@app.command("history", epilog="Example: tsumugi adapters history house")
def show_history(family: FamilyArgument, json_output: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Show who moved which alias when, from what to what, and why."""
    with connect(data_dir) as client:
        found = list(client.items(f"/v1/admin/adapters/{family}/history"))
    if json_output:
        print_json({"items": found})
    else:
        columns = ["created_at", "action", "alias", "from_version", "to_version", "actor", "reason", "effective_ms"]
        print_rows(found, columns, empty="nothing happened yet")


@app.command("report", epilog="Example: tsumugi adapters report house v2 --html report.html")
def show_report(
    family: FamilyArgument,
    version: Annotated[str, typer.Argument(help="Version, such as v2.")],
    html: Annotated[
        Path | None, typer.Option(help="Write the page with its pictures to this file instead of printing.")
    ] = None,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Show the gate report of a version as a page to read."""
    path = f"/v1/admin/adapters/{family}"
    with connect(data_dir) as client:
        if json_output:
            wanted = version.removeprefix(f"{family}@")
            versions = client.get(path)["versions"]
            found = next((one for one in versions if one["version"] == wanted), None)
            if found is None:
                raise CommandFailed(f"{family} has no version {wanted}")
            print_json(found["gate_report"])
            return
        kind = "html" if html is not None else "markdown"
        page = client.request("GET", f"{path}/versions/{version}/report", params={"as": kind}).text
    if html is not None:
        html.write_text(page, encoding="utf-8")
        console.print(f"written to {html}")
    else:
        from rich.markdown import Markdown

        console.print(Markdown(page))


@app.command("canary", epilog="Example: tsumugi adapters canary house")
def show_canary(family: FamilyArgument, json_output: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Show the canaries of a family: the figures of the newest against the champion, and how the others ended."""
    with connect(data_dir) as client:
        found = list(client.items(f"/v1/admin/adapters/{family}/canaries"))
    if json_output:
        print_json({"items": found})
        return
    columns = ["created_at", "version", "champion", "percent", "outcome", "reason"]
    print_rows(found, columns, empty="no canary yet")
    if found and found[0]["figures"]:
        figures = found[0]["figures"]
        seen = figures["conversations"]
        console.print(
            f"{seen['canary']} of {figures['needed']} conversations of the canary, {seen['champion']} of the champion; "
            f"evidence e^{figures['log_evidence']:.2f}, rolls back at e^{figures['rolls_back_at']:.2f}"
        )
        rows = [{"figure": name, **one} for name, one in figures["figures"].items()]
        print_rows(rows, ["figure", "canary", "champion", "log_evidence", "weight"], empty="no figures")


@app.command("policy", epilog='Example: tsumugi adapters policy house --set \'{"promotion": "by_rule"}\'')
def show_policy(
    family: FamilyArgument,
    new: Annotated[
        str | None, typer.Option("--set", help="The whole new policy as JSON; what is left out has the default.")
    ] = None,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Show or replace how versions of a family come to serve, and whom it serves."""
    path = f"/v1/admin/adapters/{family}/policy"
    with connect(data_dir) as client:
        if new is None:
            answer = client.get(path)
        else:
            try:
                body = json.loads(new)
            except ValueError as error:
                raise CommandFailed(f"--set is not JSON: {error}", exit_code=EXIT_USAGE) from error
            answer = client.request("PUT", path, json=body).json()
    if json_output:
        print_json(answer)
    else:
        rows = [{"setting": name, "value": value} for name, value in answer["policy"].items()]
        print_rows(rows, ["setting", "value"], empty="")


@app.command("merge", epilog="Example: tsumugi adapters merge house house@v1=0.7 house@v3=0.3 --how ties")
def merge(
    family: FamilyArgument,
    versions: Annotated[list[str], typer.Argument(help="FAMILY@VERSION=WEIGHT, two or more; without =WEIGHT it is 1.")],
    how: Annotated[str, typer.Option(help="cat, svd, linear, ties or dare.")] = "svd",
    rank: Annotated[int | None, typer.Option(help="Rank of the result; default: that of the first.")] = None,
    density: Annotated[float, typer.Option(help="Of ties and dare: share of entries kept.")] = 0.5,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Make one candidate out of several versions; it passes the gate like a trained one."""
    sources = []
    for given in versions:
        version, _, weight = given.partition("=")
        try:
            sources.append({"version": version, "weight": float(weight or 1)})
        except ValueError as error:
            raise CommandFailed(f"'{given}' is not FAMILY@VERSION=WEIGHT", exit_code=EXIT_USAGE) from error
    body = {"sources": sources, "combination": how, "rank": rank, "density": density}
    with connect(data_dir) as client:
        run = client.request("POST", f"/v1/admin/adapters/{family}/merge", json=body).json()
    if json_output:
        print_json(run)
    else:
        console.print(f"run {run['id']} merges {' and '.join(versions)}; its job is {run['job']['id']}")


@app.command("promote", epilog="Example: tsumugi adapters promote house v2")
def promote(
    family: FamilyArgument,
    version: Annotated[str, typer.Argument(help="Version, such as v2.")],
    force: Annotated[
        bool, typer.Option("--force", help="Serve a version that the gate rejected; needs --reason.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why; kept in the history.")] = None,
    canary_percent: Annotated[int | None, typer.Option(min=1, max=99, help="Share of conversations it takes.")] = None,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Let a version serve."""
    body = {"version": version, "force": force or None, "reason": reason, "canary_percent": canary_percent}
    with connect(data_dir) as client:
        answer = client.post(f"/v1/admin/adapters/{family}/promote", body)
    if json_output:
        print_json(answer)
    else:
        console.print(f"{family}@{version} serves" + (f" {canary_percent} % as canary" if canary_percent else ""))
        for warning in answer["warnings"]:
            errors.print(f"{warning['code']}: {warning['detail']}", markup=False)


@app.command("rollback", epilog='Example: tsumugi adapters rollback house --reason "tone too stiff"')
def rollback(
    family: FamilyArgument,
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")],
    to: Annotated[str | None, typer.Option(help="Version [default: the previous champion].")] = None,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Go back to the previous champion, or to the base when there was none."""
    with connect(data_dir) as client:
        answer = client.post(f"/v1/admin/adapters/{family}/rollback", {"to": to, "reason": reason})
    if json_output:
        print_json(answer)
    else:
        before, now = answer["from"] or "the base", answer["to"] or "the base"
        console.print(f"{before} -> {now}, effective in {answer['effective_ms']:.0f} ms")


@app.command("import", epilog="Example: tsumugi adapters import house ./my-adapter")
def import_version(
    family: FamilyArgument,
    path: Annotated[Path, typer.Argument(exists=True, help="A PEFT adapter folder, or a .tar or .zip of one.")],
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Bring a version trained elsewhere; safetensors only, and it must fit the base."""
    if path.is_dir():
        name, data = f"{path.name}.tar", _tar_of(path)
    else:
        name, data = path.name, path.read_bytes()
    with connect(data_dir) as client:
        answer = client.post(f"/v1/admin/adapters/{family}/versions", files={"file": (name, data)})
    if json_output:
        print_json(answer)
    else:
        console.print(f"{family}@{answer['version']} is {answer['status']}")
        left_out = answer["manifest"].get("notes", {}).get("left_out") or []
        if left_out:
            console.print(f"left out: {', '.join(left_out)}")


def _alias(family: dict[str, object], alias: str) -> str | None:
    aliases = family.get("aliases")
    value = aliases.get(alias) if isinstance(aliases, dict) else None
    if isinstance(value, dict):
        value = value.get("version")
    return str(value) if value else None


def _tar_of(folder: Path) -> bytes:
    from generation.adapters.archive import is_trainer_state

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        # The weights and what describes them: a trainer's optimiser is twice as large as what it trained.
        for file in sorted(folder.iterdir()):
            if file.is_file() and not is_trainer_state(file.name):
                archive.add(file, arcname=file.name)
    return buffer.getvalue()
