"""`tsumugi calibrate`: where refusing begins, chosen on questions of one's own over one's own documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.data_dir import exclusive
from cli.output import DataDirOption, JsonOption, console, print_json
from core.settings import load_settings


def calibrate(
    questions: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help='JSONL: "question", "answerable".')],
    tenant: Annotated[str, typer.Option(help="Tenant whose documents are searched.")] = "default",
    evidence: Annotated[
        bool, typer.Option("--evidence", help="Fit how lines are chosen and how sure of them an answer is.")
    ] = False,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Choose the threshold under which an answer is refused, and how both arms of search are fused, by language.

    The service must be stopped.

    Each line of QUESTIONS is {"question": "...", "answerable": true or false}; at least 8 answerable and 2 unanswerable
    ones of a language are needed to move its threshold. "document" may name the file or document that answers it (or a
    list of them); at least 20 such questions are needed to move the fusion, which on them is never worse than the
    better arm alone.

    With --evidence the lines say "expected" as for `tsumugi eval`, at least 30 answerable and 10 unanswerable ones; the
    tenant's answers are as sure from then on as they were right on questions held out. Of 200 and more the ranking of
    lines is fitted as well, and taken if it is right more often.
    """
    from core.access import Principal, access_filter
    from core.database import Database
    from core.log import configure
    from core.migrate import upgrade
    from core.tables.base import utc_now
    from core.tenants import find_tenant
    from core.types import Scope
    from generation.evaluation import questions as answered
    from generation.evaluation.evidence import EvidenceReport, calibrate_evidence
    from retrieval.build import build_retrieval
    from retrieval.calibrate import CalibrationReport, read_questions
    from retrieval.calibrate import calibrate as choose

    settings = load_settings(**({"data_dir": data_dir} if data_dir is not None else {}))
    configure("WARNING")
    with exclusive(settings.data_dir, "tsumugi calibrate"):
        asked = [] if evidence else read_questions(questions)
        db = Database(settings.database_url, busy_timeout_s=settings.database.busy_timeout_s)
        try:
            upgrade(db)
            with db.read() as session:
                owner = find_tenant(session, tenant)
            principal = Principal(owner.id, "operator", frozenset({Scope.ADMIN}), frozenset())
            retrieval = build_retrieval(settings, db)
            report: CalibrationReport | EvidenceReport
            try:
                if evidence:
                    known = answered.parse_questions(answered.read_questions(questions)[0])
                    report = calibrate_evidence(db, retrieval.searcher, principal, known, today=utc_now().date())
                else:
                    report = choose(db, retrieval, access_filter(principal), asked)
            finally:
                retrieval.close()
        finally:
            db.close()
    if json_output:
        print_json({"id": report.calibration_id, "parameters": report.parameters, "figures": report.figures})
        return
    for language, figures in report.figures.items():
        if isinstance(figures, dict):
            facts = "  ".join(f"{name} {value}" for name, value in figures.items())
            console.print(f"[bold]{language}[/bold]  {facts}", soft_wrap=True)
