"""The second half of a run: what base, candidate and champion answer, and what judges say of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.database import Database
from core.errors import AdapterRefused, TsumugiError
from core.jobs import JobLease
from core.settings import Settings
from core.tables.adapters import AdapterAlias, AdapterVersion
from generation.adapters.manifest import content_digest, verify
from tuning.child import started
from tuning.gate import Judged
from tuning.items import BASE, CANDIDATE, CHAMPION, EvaluateSpec, Evaluation, EvaluationItem, read_items
from tuning.judging import may_gate, pairs_of
from tuning.prepare import ITEMS_FILE, token_counter
from tuning.questions import answer_limit
from tuning.recipe import parse_recipe
from tuning.rubric import Ensemble
from tuning.run import Run, keep_error
from tuning.sizes import LARGE, RunSize

if TYPE_CHECKING:
    from generation.models import BaseModelInfo

EVALUATE_SHARE = (0.6, 0.95)
"""Where evaluation lies on the progress of the whole job."""
FINGERPRINT_FILE = "fingerprint.json"


class Comparison:
    """Evaluates a trained adapter beside what it has to beat."""

    def __init__(self, db: Database, settings: Settings, size: RunSize) -> None:
        self._db = db
        self._settings = settings
        self._size = size

    def evaluate(
        self,
        lease: JobLease,
        run: Run,
        base: BaseModelInfo,
        folder: Path,
        adapter: Path,
        environment: Mapping[str, str],
    ) -> tuple[Evaluation, list[str]]:
        """Outputs of base, candidate and champion; and what to note beside them. Kept in the run's folder.

        Raises:
            ChildFailed: `evaluate_failed`, `evaluate_killed`, `out_of_memory` ...
        """
        export = parse_recipe(run.recipe).export
        # What is exported is not compared with what serves: it never stands in for it.
        champion, notes = (None, ["exported: serves nobody"]) if export else self._champion(run, base)
        systems = {CANDIDATE: adapter} | ({CHAMPION: champion} if champion is not None else {})
        key = {name: content_digest(path) for name, path in systems.items()}
        done = folder / "evaluated.json"
        result_path = folder / "evaluation.json"
        if done.exists() and json.loads(done.read_text("utf-8")) == key:
            return Evaluation.model_validate_json(result_path.read_bytes()), notes
        items = read_items(folder / ITEMS_FILE)
        held_out = [item.id for item in items if item.source == "held_out"]
        limit = answer_limit(items, self._size, token_counter(base.path))
        spec = EvaluateSpec(
            base_path=base.path,
            items_path=folder / ITEMS_FILE,
            adapters=systems,
            result_path=result_path,
            fingerprint_path=None if export else folder / FINGERPRINT_FILE,
            known_path=self._settings.data_dir / "evaluations" / f"{base.digest[:24]}-{base.template_digest[:8]}.json",
            read_only=tuple(held_out[self._size.answered :]),
            max_new_tokens=limit,
            batch=64 if self._size.max_new_tokens == LARGE.max_new_tokens else 12,
            device=self._settings.generation.device,
        )
        path = folder / "evaluate.json"
        path.write_text(spec.model_dump_json(indent=2), encoding="utf-8")
        first, last = EVALUATE_SHARE
        lease.progress("evaluate", first)
        error: TsumugiError | None = None
        with started("tuning.evaluate", [str(path)], folder=folder, environment=environment, grace_s=2.0) as child:
            for line in child.lines(lease.check):
                event = _json_object(line)
                if event.get("event") == "progress" and event.get("total"):
                    lease.progress("evaluate", first + (last - first) * event["done"] / event["total"])
                elif event.get("event") == "error":
                    error = TsumugiError(str(event.get("detail")), code=str(event.get("code")))
            end = child.end()
        if end.status != 0:
            failure = end.failure("evaluate")
            keep_error(lease, run, "evaluate", failure)
            raise error if error is not None and failure.code != "out_of_memory" else failure
        done.write_text(json.dumps(key), encoding="utf-8")
        return Evaluation.model_validate_json(result_path.read_bytes()), notes

    def ask_judges(
        self,
        run: Run,
        items: list[EvaluationItem],
        evaluation: Evaluation,
        notes: list[str],
        look: Callable[[], None] = lambda: None,
    ) -> Judged | None:
        """The ensemble of the settings on held-out answers, beside the champion's or the base's; adds to the notes.

        look: called before each pair; it may raise to stop.

        Raises:
            Unavailable: `judge_unavailable`: the judges have failed, which says nothing of the version.
        """
        settings = self._settings.tuning
        if not settings.judges:
            return None
        against = CHAMPION if CHAMPION in evaluation.systems else BASE
        ensemble = Ensemble(settings.judges, settings.tuned_model_family)
        found = ensemble.judge(pairs_of(items, evaluation, against), look)
        with self._db.read() as session:
            calibrated = may_gate(session, run.tenant_id, ensemble.name)
        shown = found.to_json()
        notes.append(
            f"judge {shown['judge']} against {against}: {shown['wins']} won, {shown['losses']} lost, {shown['ties']} "
            f"tied, {len(found.skipped)} skipped" + ("" if calibrated else "; not calibrated, so it does not gate")
        )
        return Judged(
            against=against,
            candidate=tuple(one.candidate for one in found.judgements),
            reference=tuple(one.reference for one in found.judgements),
            skipped=len(found.skipped),
            gates=calibrated,
        )

    def _champion(self, run: Run, base: BaseModelInfo) -> tuple[Path | None, list[str]]:
        """Folder of the family's champion, when it fits this base; else why there is none."""
        with self._db.read() as session:
            alias = session.get(AdapterAlias, (run.family_id, "champion"))
            version = session.get(AdapterVersion, alias.version_id) if alias and alias.version_id else None
        if version is None:
            return None, ["the family has no champion: compared with the base alone"]
        folder = self._settings.adapters_dir / version.digest
        try:
            verify(folder, base)
        except AdapterRefused as refused:
            return None, [f"champion {version.version} cannot be compared: {refused.detail} ({refused.code})"]
        return folder, []


def _json_object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
