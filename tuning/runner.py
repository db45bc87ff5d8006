"""A tuning run from start to end: prepare where the index lives, then train, evaluate, judge and register.

Every stage leaves its result in the run's folder and is skipped when that is there, so an attempt that follows a dead
worker goes on where it stopped: rows are not drawn anew, training resumes from its checkpoint, and a version is
registered once however often the last stage is tried.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from sqlalchemy import select

from core.database import Database
from core.errors import AdapterRefused, NotFound, TsumugiError
from core.gpu import GpuLeases
from core.jobs import JobLease
from core.ports import BlobStore
from core.queue import Task
from core.settings import Settings
from core.tables.adapters import AdapterAlias, AdapterFamily, AdapterVersion
from core.tables.tuning import TuningRun
from core.types import AdapterStatus
from generation.adapters.manifest import Fingerprint, Manifest, build_manifest, content_digest, verify
from generation.canary.policy import policy_of
from tuning.chain import Parent, chain_link, check_parent, load_parent, load_trained
from tuning.child import ChildFailed, started
from tuning.gate import GateReport, Judged, Verdict, judge
from tuning.items import (
    BASE,
    CANDIDATE,
    CHAMPION,
    EvaluateSpec,
    Evaluation,
    EvaluationItem,
    read_items,
)
from tuning.judging import may_gate, pairs_of
from tuning.negatives import Search
from tuning.prepare import BUNDLE, HELD_OUT_FILE, ITEMS_FILE, ROWS_FILE, SEED, prepare_files, token_counter
from tuning.progress import LossCurve
from tuning.questions import answer_limit
from tuning.recipe import parse_recipe
from tuning.revision import code_revision
from tuning.rubric import Ensemble
from tuning.seen import record_lineage
from tuning.service import has_gpu
from tuning.sizes import LARGE, SMALL, RunSize
from tuning.sources import load_rows, withhold
from tuning.spec import TrainSpec, parse_event

if TYPE_CHECKING:
    from generation.models import BaseModelInfo

log = structlog.stdlib.get_logger(__name__)

TRAIN_SHARE = (0.08, 0.6)
EVALUATE_SHARE = (0.6, 0.95)
"""Where training and evaluation lie on the progress of the whole job."""

FINGERPRINT_FILE = "fingerprint.json"
_TELL_EVERY_S = 1.0


class Registry(Protocol):
    """The part of the adapter registry that a run needs."""

    def register_version(
        self,
        tenant_id: str,
        family: str,
        folder: Path,
        *,
        status: AdapterStatus,
        reasons: list[str],
        gate_report: dict[str, Any] | None,
        run_id: str | None,
        manifest: Manifest,
    ) -> AdapterVersion:
        """Store an immutable version; the same content again is the same version."""
        ...


@dataclass(frozen=True, slots=True)
class _Run:
    """What the stages need of a run, read once per attempt."""

    id: str
    tenant_id: str
    family_id: str
    family: str
    recipe: Mapping[str, Any]
    dataset_ids: list[str]
    dataset_version: str | None
    parent: Parent | None
    progress: Mapping[str, Any]
    loss_curve: list[dict[str, Any]]
    adapter_version_id: str | None


class TuningRunner:
    """Works on jobs of the kind TUNING.

    search: the live index, where this process owns one; `prepare` is only called there. base: called once, when the
    base model is first needed.
    """

    def __init__(
        self,
        db: Database,
        blobs: BlobStore,
        registry: Registry,
        settings: Settings,
        *,
        base: Callable[[], BaseModelInfo],
        search: Search | None = None,
        size: RunSize | None = None,
        gpus: GpuLeases | None = None,
    ) -> None:
        self._db = db
        self._blobs = blobs
        self._registry = registry
        self._settings = settings
        self._base = base
        self._search = search
        self._gpus = gpus or GpuLeases(db, settings.gpu)
        self._size = size or (LARGE if has_gpu(settings) else SMALL)

    def prepare(self, lease: JobLease) -> None:
        """Write rows, held-out rows and evaluation items; hand the job over to the training worker.

        Raises:
            DatasetRejected: the rows cannot be used.
        """
        run = self._load(lease)
        lease.progress("prepare", 0.0)
        base = self._base()
        recipe = parse_recipe(run.recipe)
        rows, duplicates = load_rows(self._db, run.tenant_id, run.dataset_ids)
        with self._db.read() as reading:
            audience = policy_of(reading, run.family_id).groups
            if run.parent is not None:  # again: something may have been deleted since the run was asked for
                version = reading.get_one(AdapterVersion, run.parent.version_id)
                check_parent(reading, version, recipe, self._settings.adapters_dir)
        rows, withheld = withhold(self._db, rows, audience)
        trained = load_trained(self._db, run.tenant_id, run.parent) if run.parent is not None else []
        trained, no_more = withhold(self._db, trained, audience)

        def step(fraction: float) -> None:
            lease.check()
            lease.progress("prepare", TRAIN_SHARE[0] * fraction)

        folder = self._folder(run)
        found = prepare_files(
            folder,
            rows,
            duplicates=duplicates,
            tenant_id=run.tenant_id,
            recipe=recipe,
            search=self._search,
            count_tokens=token_counter(base.path),
            size=self._size,
            step=step,
            left_out=[*withheld, *no_more],
            audience=audience,
            trained=trained,
            parent=run.parent,
        )
        # Through the blob store, because the training worker may be another machine.
        files = {name: self._blobs.put((folder / name).read_bytes()) for name in BUNDLE}
        with lease.write() as session:
            row = session.get_one(TuningRun, run.id)
            row.dataset_version = found.dataset_version
            row.progress = {"preparation": found.to_json(), "files": files}
            record_lineage(session, run.id, found, run.parent)
            lease.hand_over(Task.TUNING_TRAIN)

    def train(self, lease: JobLease) -> None:
        """Train, evaluate, judge, register. Safe to repeat after any death.

        Raises:
            Postponed: `gpu_busy`: the memory of the GPU is lent to others.
            ChildFailed: `out_of_memory`, `train_failed`, `train_killed`, `evaluate_failed`, ...; `extra` holds stderr.
            DatasetRejected: the trainer's audit refused the rows.
        """
        run = self._load(lease)
        if run.adapter_version_id is not None:
            return  # died between registering and saying so
        base = self._base()
        folder = self._fetch(run)
        adapter = folder / "adapter"
        with self._gpus.held(lease) if has_gpu(self._settings) else nullcontext() as grant:
            environment = grant.environment if grant is not None else {}
            if not (folder / "trained").exists():
                self._train(lease, run, base, folder, adapter, environment)
                (folder / "trained").write_text(content_digest(adapter), encoding="utf-8")
            evaluation, notes = self._evaluate(lease, run, base, folder, adapter, environment)
        items = read_items(folder / ITEMS_FILE)
        verdicts = self._ask_judges(run, items, evaluation, notes)
        report = judge(items, evaluation, notes=notes, judged=verdicts)
        lease.progress("register", EVALUATE_SHARE[1])
        self._register(lease, run, base, folder, adapter, report)

    def _train(
        self,
        lease: JobLease,
        run: _Run,
        base: BaseModelInfo,
        folder: Path,
        adapter: Path,
        environment: Mapping[str, str],
    ) -> None:
        recipe = parse_recipe(run.recipe)
        spec = TrainSpec(
            run_dir=folder,
            base_path=base.path,
            rows_path=folder / ROWS_FILE,
            eval_rows_path=folder / HELD_OUT_FILE,
            warm_start=self._parent_folder(run, base),
            recipe=recipe,
            output_dir=adapter,
            seed=SEED,
        )
        path = folder / "train.json"
        path.write_text(spec.model_dump_json(indent=2), encoding="utf-8")
        curve = LossCurve(run.loss_curve)
        lease.progress("train", TRAIN_SHARE[0])
        told = 0.0
        error: TsumugiError | None = None
        with started(
            "tuning.train",
            [str(path)],
            folder=folder,
            memory_bytes=self._settings.tuning.worker_memory_bytes,
            environment=environment,
        ) as child:
            for line in child.lines(lease.check):
                event = parse_event(line)
                if event is None:
                    continue
                curve.take(event)
                if event.event == "error":
                    error = TsumugiError(event.detail or "training failed", code=event.code or "train_failed")
                if time.monotonic() - told >= _TELL_EVERY_S:
                    told = time.monotonic()
                    self._tell(lease, run, curve)
            end = child.end()
        self._tell(lease, run, curve)
        if end.status == 0 and adapter.is_dir():
            return
        failure = end.failure("train")
        self._keep_error(lease, run, "train", failure)
        if error is not None and failure.code != "out_of_memory":
            raise error
        raise failure

    def _tell(self, lease: JobLease, run: _Run, curve: LossCurve) -> None:
        """Loss curve and progress as one write."""
        first, last = TRAIN_SHARE
        with lease.write() as session:
            row = session.get_one(TuningRun, run.id)
            row.loss_curve = curve.points()
            row.progress = {**row.progress, "training": curve.state()}
            lease.progress("train", first + (last - first) * curve.fraction)

    def _evaluate(
        self,
        lease: JobLease,
        run: _Run,
        base: BaseModelInfo,
        folder: Path,
        adapter: Path,
        environment: Mapping[str, str],
    ) -> tuple[Evaluation, list[str]]:
        """Outputs of base, candidate and champion; and what to note beside them."""
        champion, notes = self._champion(run, base)
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
            fingerprint_path=folder / FINGERPRINT_FILE,
            read_only=tuple(held_out[self._size.answered :]),
            max_new_tokens=limit,
            batch=64 if self._size is LARGE else 12,
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
            self._keep_error(lease, run, "evaluate", failure)
            raise error if error is not None and failure.code != "out_of_memory" else failure
        done.write_text(json.dumps(key), encoding="utf-8")
        return Evaluation.model_validate_json(result_path.read_bytes()), notes

    def _ask_judges(
        self, run: _Run, items: list[EvaluationItem], evaluation: Evaluation, notes: list[str]
    ) -> Judged | None:
        """The ensemble of the settings on held-out answers, beside the champion's or the base's; adds to the notes."""
        settings = self._settings.tuning
        if not settings.judges:
            return None
        against = CHAMPION if CHAMPION in evaluation.systems else BASE
        ensemble = Ensemble(settings.judges, settings.tuned_model_family)
        found = ensemble.judge(pairs_of(items, evaluation, against))
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

    def _champion(self, run: _Run, base: BaseModelInfo) -> tuple[Path | None, list[str]]:
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

    def _parent_folder(self, run: _Run, base: BaseModelInfo) -> Path | None:
        """Weights to start from.

        Raises:
            AdapterRefused: they are not here, or not what they were.
        """
        if run.parent is None:
            return None
        folder = self._settings.adapters_dir / run.parent.digest
        verify(folder, base)
        return folder

    def _register(
        self,
        lease: JobLease,
        run: _Run,
        base: BaseModelInfo,
        folder: Path,
        adapter: Path,
        report: GateReport,
    ) -> None:
        """Registry first, run row and end of the job after; an attempt that died in between finds the version again."""
        with self._db.read() as session:
            version_id = session.scalar(
                select(AdapterVersion.id).where(
                    AdapterVersion.run_id == run.id, AdapterVersion.tenant_id == run.tenant_id
                )
            )
        chain = [*(run.parent.chain if run.parent is not None else []), chain_link("this version", report.to_json())]
        gate_report = report.to_json() | {"chain": chain}
        if version_id is None:
            passed = report.verdict is Verdict.CANDIDATE
            manifest = build_manifest(
                adapter,
                base,
                dataset_version=run.dataset_version,
                recipe=run.recipe,
                code_revision=code_revision(),
                gate_report=gate_report,
                gate_passed=passed,
                fingerprint=Fingerprint.model_validate_json((folder / FINGERPRINT_FILE).read_bytes()),
                notes={
                    "run": run.id,
                    "family": run.family,
                    "audience": run.progress.get("preparation", {}).get("audience"),
                    "parent": run.parent.stamp if run.parent is not None else None,
                },
            )
            lease.check()
            version_id = self._registry.register_version(
                run.tenant_id,
                run.family,
                adapter,
                status=AdapterStatus.CANDIDATE if passed else AdapterStatus.REJECTED,
                reasons=report.reasons,
                gate_report=gate_report,
                run_id=run.id,
                manifest=manifest,
            ).id
        with lease.write() as session:
            row = session.get_one(TuningRun, run.id)
            row.gate_report = gate_report
            row.adapter_version_id = version_id
            lease.succeed()
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        log.info("tuning.registered", run_id=run.id, family=run.family, verdict=report.verdict.value)

    def _keep_error(self, lease: JobLease, run: _Run, stage: str, failure: ChildFailed) -> None:
        with lease.write() as session:
            row = session.get_one(TuningRun, run.id)
            row.progress = {
                **row.progress,
                "error": {"stage": stage, "attempt": lease.attempt, "code": failure.code, **failure.extra},
            }

    def _load(self, lease: JobLease) -> _Run:
        with self._db.read() as session:
            run = session.get(TuningRun, lease.subject_id)
            if run is None or run.tenant_id != lease.tenant_id:
                raise NotFound(f"no tuning run '{lease.subject_id}'")
            family = session.get_one(AdapterFamily, run.family_id)
            return _Run(
                id=run.id,
                tenant_id=run.tenant_id,
                family_id=run.family_id,
                family=family.name,
                recipe=run.recipe,
                dataset_ids=list(run.dataset_ids),
                dataset_version=run.dataset_version,
                parent=load_parent(session, run.parent_version_id) if run.parent_version_id else None,
                progress=run.progress,
                loss_curve=list(run.loss_curve),
                adapter_version_id=run.adapter_version_id,
            )

    def _folder(self, run: _Run) -> Path:
        folder = self._settings.runs_dir / run.id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _fetch(self, run: _Run) -> Path:
        """The run's folder with the prepared files in it."""
        folder = self._folder(run)
        for name, digest in run.progress.get("files", {}).items():
            if name in BUNDLE and not (folder / name).exists():
                (folder / f".{name}.new").write_bytes(self._blobs.get(digest))
                (folder / f".{name}.new").replace(folder / name)
        return folder


def _json_object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
