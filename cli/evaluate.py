"""`tsumugi eval`: one's own questions asked of the running service; what is right, what is not, what changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from cli.client import Client, connect
from cli.output import EXIT_USAGE, CommandFailed, DataDirOption, JsonOption, console, errors, print_json
from core.errors import InvalidInput

LABELS = {
    "right": "right, of answerable",
    "wrong": "wrong, of all",
    "refused_wrongly": "refused wrongly, of answerable",
    "refused_rightly": "refused rightly, of unanswerable",
    "verified_wrong": "wrong although verified, of all",
    "verified_right": "verified, of right answers",
    "cited": "right document cited, of answers",
    "evidence_found": "passages hold the answer",
}


def evaluate(
    questions: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSON lines, one question each.")],
    name: Annotated[
        str | None, typer.Option(help="Runs of one name are compared [default: the name of the file].")
    ] = None,
    compare: Annotated[str | None, typer.Option(help="Id of the run to compare with [default: the last one].")] = None,
    kinds: Annotated[str | None, typer.Option(help="Only questions of these kinds, with commas.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many, spread evenly over the file.")] = None,
    adapter: Annotated[str | None, typer.Option(help="FAMILY, FAMILY@VERSION or base [default: as served].")] = None,
    collection: Annotated[str | None, typer.Option(help="Where a question names none.")] = None,
    show: Annotated[int, typer.Option(min=0, help="Questions shown that are wrong or changed.")] = 10,
    wait: Annotated[bool, typer.Option(help="Follow the run to its end.")] = True,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Ask your own questions of the service as it serves, and count what is right, wrong and refused.

    Each line of QUESTIONS is {"question": "...", "expected": [["25 days", "25日"]]}: one alternative of every inner
    list must stand in the answer. "not_expected" are values that make it wrong, "documents" the files that hold it,
    "unanswerable": true asks for a refusal; "kind" and "language" are counted by. docs/evaluation.md has all of it.

    Exits 1 when the run fails or is cancelled; figures decide nothing.
    """
    # Not at the top: checking questions needs pydantic models, which no other command should wait for.
    from generation.evaluation.questions import read_questions

    try:
        given, unknown = read_questions(questions)
    except InvalidInput as error:
        lines = [f"  {one.location}: {one.detail}" for one in error.errors[:20]]
        raise CommandFailed("\n".join([error.detail, *lines]), exit_code=EXIT_USAGE) from error
    if unknown:
        errors.print(f"fields that say nothing here are left out: {', '.join(unknown)}", markup=False)
    wanted = [kind.strip() for kind in kinds.split(",") if kind.strip()] if kinds else None
    body = {
        "questions": given, "name": name or questions.stem, "compare_to": compare, "kinds": wanted, "limit": limit,
        "adapter": adapter, "collection": collection,
    }  # fmt: skip
    with connect(data_dir) as client:
        run = client.post("/v1/admin/evaluations", body)
        wrong: list[dict[str, Any]] = []
        if wait:
            client.follow_job(run["job"]["id"], None if json_output else _tell, timeout_s=7 * 86_400.0)
            run = client.get(f"/v1/admin/evaluations/{run['id']}", compare_to=compare)
            wrong = outcomes(client, run["id"], show, status="wrong") if show and not json_output else []
            if json_output:
                run["outcomes"] = outcomes(client, run["id"])
    if json_output:
        print_json(run)
    else:
        print_run(run, wrong, show)
    if wait and run["status"] != "succeeded":
        raise CommandFailed()


def outcomes(client: Client, run_id: str, limit: int | None = None, status: str | None = None) -> list[dict[str, Any]]:
    """Outcomes of a run in the order of its questions, page by page, `limit` at most."""
    found: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None and (limit is None or len(found) < limit):
        size = min(200, limit - len(found)) if limit is not None else 200
        page = client.get(f"/v1/admin/evaluations/{run_id}/outcomes", status=status, after=after, limit=size)
        found += page["items"]
        after = page["next_after"]
    return found


def print_run(run: dict[str, Any], wrong: list[dict[str, Any]], show: int) -> None:
    """Figures, figures by kind and language, wrong answers, what changed."""
    console.print(f"{run['id']} {run['status']}: {run['question_count']} questions of {run['name']}", markup=False)
    report = run["report"]
    if report is None:
        return
    console.print(_figures(report))
    for title, groups in (("kind", report["by_kind"]), ("language", report["by_language"])):
        if groups:
            console.print(_groups(title, groups))
    if report["by_languages"]:
        console.print(_groups("asked in", report["by_languages"]))
    if report["calibration"]:
        told = report["calibration"]
        console.print(f"confidence is off by {told['ece']:.3f} on average (ECE over {told['answers']} answers)")
    if report["failed"]:
        console.print(f"[red]{report['failed']} questions got no answer[/red]")
    for one in wrong:
        told, question = one["outcome"], one["question"]
        console.print(f"\n[bold]{escape(question['id'])}[/bold] {escape(question['question'])}", soft_wrap=True)
        console.print(f"  {_short(told['answer'])}", markup=False, soft_wrap=True)
        files = ", ".join(dict.fromkeys(citation["filename"] for citation in told["citations"]))
        console.print(f"  {told['why']}{f' ({files})' if files else ''}", markup=False, soft_wrap=True, style="dim")
    if run["comparison"]:
        _print_comparison(run["comparison"], show)


def _print_comparison(told: dict[str, Any], show: int) -> None:
    before, now = told["right_before"], told["right_now"]
    both = f"{told['paired']} questions in both"
    console.print(f"\nsince {told['run_id']} ({both}): {before} right, now {now}", markup=False, soft_wrap=True)
    console.print(f"  {told['gained']} gained, {told['lost']} lost, p = {told['p']:.3g}", markup=False)
    worse = told["verified_wrong"]
    if worse["more"] or worse["fewer"]:
        console.print(f"  wrong although verified: {worse['more']} more, {worse['fewer']} fewer, p = {worse['p']:.3g}")
    for name, sides in told["conditions"].items():
        console.print(f"  {name}: {sides['before']} -> {sides['now']}", markup=False, soft_wrap=True)
    for one in told["changed"][:show]:
        line = f"  {one['before']} -> {one['now']}  {one['id']} {one['question']}"
        console.print(line, markup=False, soft_wrap=True)
    left = told["changed_count"] - min(show, len(told["changed"]))
    if left > 0:
        console.print(f"  and {left} more", style="dim")


def _figures(report: dict[str, Any]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("", "count", "of", "share", "95 %"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, label in LABELS.items():
        one = report[name]
        if one["of"]:
            table.add_row(label, str(one["count"]), str(one["of"]), _share(one), f"{one['low']:.3f}-{one['high']:.3f}")
    return table


def _groups(title: str, groups: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(title, overflow="fold")
    for heading in ("questions", "right", "95 %", "refused wrongly", "refused rightly", "verified wrong", "cited"):
        table.add_column(heading, justify="right")
    for name, told in groups.items():
        right = told["right"]
        interval = f"{right['low']:.2f}-{right['high']:.2f}" if right["of"] else "-"
        rest = (told[one] for one in ("refused_wrongly", "refused_rightly", "verified_wrong", "cited"))
        table.add_row(escape(name), str(told["questions"]), _share(right), interval, *(_share(one) for one in rest))
    return table


def _share(one: dict[str, Any]) -> str:
    return "-" if one["share"] is None else f"{one['share']:.2f}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:200]}…"


def _tell(job: dict[str, Any]) -> None:
    if console.is_terminal:
        console.print(f"  {job['status']} {100 * (job.get('progress') or 0):.0f} %", end="\r", markup=False)
