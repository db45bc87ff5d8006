"""`tsumugi`: every command in one place. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 service not reachable."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version as package_version
from typing import NoReturn

import typer

from cli import (
    adapters,
    ask,
    backup,
    builds,
    calibrate,
    demo,
    dictionary,
    doctor,
    documents,
    erase,
    evaluate,
    index,
    jobs,
    keys,
    models,
    sync,
    tune,
    up,
)
from cli.output import EXIT_FAILED, EXIT_USAGE, CommandFailed, JsonOption, errors, print_json
from cli.server import commands as server
from core.errors import DataDirBusy, TsumugiError

LIBRARY_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TQDM_DISABLE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Read by libraries when they are imported, here and in children: nothing is fetched, no bars in logs, and a thread
that waits for its sibling sleeps (spinning beside one other busy process made an adapter load take 21 s, not 3.5)."""

app = typer.Typer(
    name="tsumugi",
    help="Knowledge assistant service: retrieval for facts that change, adapters for the style that stays.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog="Example: tsumugi up --data-dir ./data --port 8080")(up.up)
app.command(epilog="Example: tsumugi api --host 0.0.0.0 --port 8080")(server.api)
app.command(epilog="Example: tsumugi worker ingest")(server.worker)
app.command(epilog="Example: tsumugi beat")(server.beat)
app.command(epilog="Example: tsumugi demo --report demo-report.json")(demo.demo)
app.command(epilog='Example: tsumugi ingest ./handbook "./price list.pdf"')(documents.ingest)
app.command(epilog="Example: tsumugi sync ./handbook --source handbook; tsumugi sync s3://rules/2026")(sync.sync)
app.command(epilog='Example: tsumugi ask "How many days of leave are there in the first year?"')(ask.ask)
app.command(epilog="Example: tsumugi search 有給休暇 --limit 3")(ask.search)
app.command(epilog="Example: tsumugi tune house --dataset examples/style.jsonl")(tune.tune)
app.command(epilog="Example: tsumugi doctor --repair")(doctor.doctor)
app.command(epilog="Example: tsumugi calibrate examples/questions.jsonl")(calibrate.calibrate)
app.command("eval", epilog="Example: tsumugi eval questions.jsonl --kinds price,rule")(evaluate.evaluate)
app.command(epilog="Example: tsumugi erase --document doc_0190... --certificate erased.json")(erase.erase)
app.command(epilog="Example: tsumugi backup tsumugi.tar.gz")(backup.backup)
app.command(epilog="Example: tsumugi restore tsumugi.tar.gz --data-dir ./restored")(backup.restore)
app.add_typer(documents.app, name="documents")
app.add_typer(jobs.app, name="jobs")
app.add_typer(erase.app, name="erasures")
app.add_typer(adapters.app, name="adapters")
app.add_typer(index.app, name="index")
app.add_typer(builds.datasets, name="datasets")
app.add_typer(keys.app, name="keys")
app.add_typer(dictionary.app, name="dictionary")
app.add_typer(models.app, name="models")


@app.command(epilog="Example: tsumugi version --json")
def version(json_output: JsonOption = False) -> None:
    """Print the version."""
    number = package_version("tsumugi")
    if json_output:
        print_json({"version": number})
    else:
        typer.echo(number)


def main() -> NoReturn:
    """Entry point: run a command, turn what it raises into one line and an exit code."""
    for name, value in LIBRARY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        app()
    except CommandFailed as failure:
        if failure.message:
            errors.print(failure.message, markup=False, soft_wrap=True)
        sys.exit(failure.exit_code)
    except DataDirBusy as error:
        errors.print(error.detail, markup=False, soft_wrap=True)
        sys.exit(EXIT_USAGE)
    except TsumugiError as error:
        errors.print(f"{error.detail} ({error.code})", markup=False, soft_wrap=True)
        sys.exit(EXIT_USAGE if error.code == "invalid_settings" else EXIT_FAILED)
    except Exception as error:
        message = _told_by_machine(error)
        if message is None:
            raise
        errors.print(message, markup=False, soft_wrap=True)
        sys.exit(EXIT_FAILED)
    sys.exit(0)


def _told_by_machine(error: Exception) -> str | None:
    """One line for a disk, a memory or a database that fails; None for what is a bug."""
    from core.environment import environment_fault

    fault = environment_fault(error)
    if fault is None:
        return None
    where = f": {error.filename}" if isinstance(error, OSError) and error.filename else ""
    return f"{fault.detail}{where} ({fault.code})"


if __name__ == "__main__":
    main()
