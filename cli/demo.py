"""`tsumugi demo`: the whole loop on examples/, over HTTP, against a service started for it with an empty data dir."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from cli.client import Client
from cli.example_set import ExampleSet, Question, contains_fact, judge, load_examples, shares
from cli.output import CommandFailed, JsonOption, console, print_json
from cli.service_process import ServiceProcess
from cli.tune import follow_run, print_gate, upload_dataset
from core.errors import TsumugiError

ASKERS = 4
"""Questions asked at once; the engine decodes them in one batch."""
MIN_RIGHT = 0.80
MIN_STYLED = 0.80
MIN_FACTS_KEPT = 0.90
MAX_ROLLBACK_MS = 1000.0

Facts = dict[str, Any]


class StepFailed(Exception):
    """A step came out otherwise than it must; `facts` go into the report."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.facts = facts


@dataclass
class Loop:
    """The eight steps, and what they leave for each other and for the report."""

    examples: ExampleSet
    service: ServiceProcess
    quiet: bool
    steps: list[Facts] = field(default_factory=list)
    answers: list[Facts] = field(default_factory=list)
    rollback_ms: float | None = None
    version: str = ""

    def run(self) -> bool:
        """Run the steps in order; the first that breaks (not: misses a figure) skips to the last."""
        steps: list[tuple[str, Callable[[], Facts]]] = [
            ("start the service", self.start),
            ("upload the documents", self.upload),
            ("ask", self.ask),
            ("replace a document", self.replace),
            ("tune a style", self.tune),
            ("promote and ask again", self.promote),
            ("roll back", self.roll_back),
        ]
        for name, action in steps:
            if not self._step(name, action):
                break
        self._step("stop the service", self.stop)
        return len(self.steps) == len(steps) + 1 and all(step["ok"] for step in self.steps)

    def start(self) -> Facts:
        """1: a fresh service on a free port."""
        ready_s = self.service.start()
        self.say(f"{self.service.url} is ready after {ready_s:.1f} s, data in {self.service.data_dir}")
        return {"url": self.service.url, "ready_s": round(ready_s, 2)}

    def upload(self) -> Facts:
        """2: every document, and wait until all are ready."""
        with self.service.client() as client:
            uploads = [(path, self._upload(client, path)) for path in self.examples.documents]
            failed = []
            for path, queued in uploads:
                job = client.follow_job(queued["id"])
                mark = "[green]ready[/green]" if job["status"] == "succeeded" else f"[red]{job['status']}[/red]"
                self.say(f"{mark} {escape(path.name)}", markup=True)
                if job["status"] != "succeeded":
                    failed.append({"filename": path.name, "error": job.get("error")})
        if failed:
            raise StepFailed(f"{len(failed)} documents failed", failed=failed)
        return {"documents": len(uploads)}

    def ask(self) -> Facts:
        """3: every question, untuned."""
        rows = self._ask_all(self.examples.questions, "untuned")
        figures = shares(rows)
        wrong = [f"{language}: right {f['right']}" for language, f in figures.items() if (f["right"] or 0) < MIN_RIGHT]
        wrong += [
            f"{row['id']}: answered what no document says" for row in rows if "fact" not in row and not row["right"]
        ]
        return _verdict(wrong, figures=figures)

    def replace(self) -> Facts:
        """4: a new price list; the next answer knows it, and nothing was trained."""
        change = self.examples.replacement
        question = Question("replaced", "en", change.question, change.before, change.filename)
        with self.service.client() as client:
            before = client.post("/v1/ask", {"question": question.text})
            job = self._upload(client, change.file)
            if client.follow_job(job["id"])["status"] != "succeeded":
                raise StepFailed("the replacement could not be ingested")
            after = client.post("/v1/ask", {"question": question.text})
        self.say(f"Q {question.text}")
        self.say(f"  before: {before['answer']}")
        self.say(f"  after:  {after['answer']}")
        wrong = []
        if not contains_fact(before["answer"], change.before):
            wrong.append("the old fact was not in the answer before")
        if not contains_fact(after["answer"], change.after) or contains_fact(after["answer"], change.before):
            wrong.append("the new fact did not take the old one's place")
        for phase, answer in (("before_replacement", before), ("after_replacement", after)):
            self.answers.append(judge(question, answer, self.examples.style, phase))
        return _verdict(wrong, before=before["answer"], after=after["answer"])

    def tune(self) -> Facts:
        """5: the style set, a tuning run as a job, its loss and its gate."""
        family = self.examples.style.family
        with self.service.client() as client:
            dataset = upload_dataset(client, self.examples.style_rows)
            body = {"family": family, "method": "sft", "recipe": "style-cpu", "dataset_ids": [dataset["id"]]}
            run = client.post("/v1/admin/tuning-runs", body)
            run = follow_run(client, run, quiet=self.quiet)
        if not self.quiet:
            print_gate(run)
        curve = run.get("loss_curve") or []
        facts = {"run": run["id"], "losses": [point["loss"] for point in curve], "gate": run.get("gate_report")}
        if run["job"]["status"] != "succeeded" or not run.get("adapter_version"):
            raise StepFailed(f"the run ended {run['job']['status']}: {run['job'].get('error')}", **facts)
        self.version = _version_of(run)
        return {"version": f"{family}@{self.version}", "rows": dataset["row_count"], **facts}

    def promote(self) -> Facts:
        """6: the new version serves; the same questions again."""
        family = self.examples.style.family
        with self.service.client() as client:
            client.post(f"/v1/admin/adapters/{family}/promote", {"version": self.version})
        rows = self._ask_all(self.examples.questions, "tuned")
        figures = shares(rows)
        answered = [row for row in rows if "fact" in row and not row["refused"]]
        styled = sum(row["styled"] for row in answered) / max(1, len(answered))
        before = {row["id"]: row for row in self.answers if row["phase"] == "untuned"}
        known = [row for row in rows if before[row["id"]].get("fact")]
        kept = sum(row["fact"] for row in known) / max(1, len(known))
        hinted = sum(row["style_hinted"] for row in before.values())
        wrong = []
        if styled < MIN_STYLED:
            wrong.append(f"style in {styled:.0%} of the tuned answers")
        if hinted:
            wrong.append(f"style in {hinted} untuned answers")
        if kept < MIN_FACTS_KEPT:
            wrong.append(f"{kept:.0%} of the facts kept")
        if any(row["adapter"] != f"{family}@{self.version}" for row in rows):
            wrong.append("an answer is stamped with another version")
        self.say(
            f"style in {styled:.0%} of the tuned answers and in {hinted} untuned ones; {kept:.0%} of the facts kept"
        )
        return _verdict(
            wrong, styled=round(styled, 4), untuned_styled=hinted, facts_kept=round(kept, 4), figures=figures
        )

    def roll_back(self) -> Facts:
        """7: the previous champion (here: the base) serves again."""
        family = self.examples.style.family
        with self.service.client() as client:
            body = {"reason": "the demo shows a rollback"}
            answer = client.post(f"/v1/admin/adapters/{family}/rollback", body)
        self.rollback_ms = float(answer["effective_ms"])
        self.say(f"{answer['from']} -> {answer['to'] or 'the base'} in {self.rollback_ms:.1f} ms")
        few = [question for question in self.examples.questions if question.answerable]
        rows = self._ask_all([*few[:2], *few[-2:]], "rolled_back")
        wrong = []
        if self.rollback_ms >= MAX_ROLLBACK_MS:
            wrong.append(f"the rollback took {self.rollback_ms:.0f} ms")
        if any(row["style_hinted"] or row["adapter"] is not None for row in rows):
            wrong.append("an answer after the rollback came from the tuned version")
        return _verdict(wrong, effective_ms=self.rollback_ms)

    def stop(self) -> Facts:
        """8: SIGTERM; exit code 0, and nothing left."""
        family = self.service.family()
        code = self.service.stop()
        left = self.service.left_behind(family)
        wrong = [f"exit code {code}"] if code else []
        wrong += [f"left behind: {name}" for name in left]
        return _verdict(wrong, exit_code=code, processes=len(family))

    def say(self, text: str, *, markup: bool = False) -> None:
        """A line below the step."""
        if not self.quiet:
            console.print("  " + (text if markup else escape(text)), soft_wrap=True)

    def report(self, ok: bool, seconds: float) -> Facts:
        """The JSON report."""
        phases = {str(row["phase"]): None for row in self.answers}
        summary = {phase: shares([row for row in self.answers if row["phase"] == phase]) for phase in phases}
        return {
            "ok": ok,
            "seconds": round(seconds, 1),
            "steps": self.steps,
            "answers": self.answers,
            "rollback_ms": self.rollback_ms,
            "summary": summary,
        }

    def _step(self, name: str, action: Callable[[], Facts]) -> bool:
        """Run one step and note it; False when it broke and the next ones make no sense."""
        number = len(self.steps) + 1 if name != "stop the service" else 8
        if not self.quiet:
            console.print(f"\n[bold]{number}. {name}[/bold]")
        started = time.monotonic()
        broke = False
        try:
            facts = {"ok": True, **action()}
        except StepFailed as error:
            facts, broke = {"ok": False, "error": str(error), **error.facts}, True
        except (CommandFailed, TsumugiError) as error:
            facts, broke = {"ok": False, "error": str(error)}, True
        seconds = time.monotonic() - started
        self.steps.append({"name": name, "ok": facts.pop("ok"), "seconds": round(seconds, 2), **facts})
        step = self.steps[-1]
        if not self.quiet:
            mark = "[green]ok[/green]" if step["ok"] else f"[red]failed[/red] {escape(str(step.get('error', '')))}"
            console.print(f"  {mark} [dim]{seconds:.1f} s[/dim]", soft_wrap=True)
        return not broke

    def _upload(self, client: Client, path: Path) -> Facts:
        change = self.examples.replacement
        external_id = change.external_id if path.name == change.filename else path.name
        with path.open("rb") as file:
            answer = client.post("/v1/documents", files={"file": (path.name, file)}, data={"external_id": external_id})
        job: Facts = answer["items"][0]["job"]
        return job

    def _ask_all(self, questions: Sequence[Question], phase: str) -> list[Facts]:
        rows: list[Facts] = []
        with self.service.client() as client, ThreadPoolExecutor(ASKERS) as pool:
            answers = pool.map(lambda question: client.post("/v1/ask", {"question": question.text}), questions)
            for question, answer in zip(questions, answers, strict=True):
                row = judge(question, answer, self.examples.style, phase)
                rows.append(row)
                mark = "[green]✓[/green]" if row["right"] else "[red]✗[/red]"
                sources = ", ".join(dict.fromkeys(row["cited"])) or ("refused" if row["refused"] else "no source")
                self.say(f"{mark} {escape(question.text)}", markup=True)
                self.say(f"  {escape(row['answer'])} [cyan]{escape(sources)}[/cyan]", markup=True)
        self.answers.extend(rows)
        return rows


def demo(
    report: Annotated[Path, typer.Option(help="Where the JSON report goes.", dir_okay=False)] = Path(
        "demo-report.json"
    ),
    examples: Annotated[Path, typer.Option(help="Folder with the examples.")] = Path("examples"),
    keep: Annotated[bool, typer.Option("--keep", help="Keep the data dir of the demo.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Run the whole loop: documents in, cited answers out, a style tuned, promoted and rolled back.

    It uses an empty data dir of its own and a free port; a running service and its data are left alone.
    """
    started = time.monotonic()
    data_dir = Path(tempfile.mkdtemp(prefix="tsumugi-demo-"))
    loop = Loop(load_examples(examples), ServiceProcess(data_dir), quiet=json_output)
    ok = False
    try:
        ok = loop.run()
    finally:
        loop.service.stop()  # a no-op after step 8; needed when the demo itself is interrupted
        if ok and not keep:
            shutil.rmtree(data_dir)
    result = loop.report(ok, time.monotonic() - started)
    report.write_text(json.dumps(result, ensure_ascii=False, indent=2, default=str) + "\n", encoding="utf-8")
    if json_output:
        print_json(result)
    else:
        outcome = "[green]everything as it should be[/green]" if ok else f"[red]failed[/red], data kept in {data_dir}"
        console.print(f"\n{outcome} after {result['seconds']:.0f} s; report in {report}", soft_wrap=True)
    if not ok:
        raise CommandFailed()


def _verdict(wrong: Sequence[str], **facts: Any) -> Facts:
    return {"ok": not wrong, **({"error": "; ".join(wrong)} if wrong else {}), **facts}


def _version_of(run: Facts) -> str:
    version = run["adapter_version"]
    return str(version["version"] if isinstance(version, dict) else version).rpartition("@")[2]
