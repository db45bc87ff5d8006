"""A tuning run from start to end: prepare where the index lives, then train, evaluate, judge and register.

Every stage leaves its result in the run's folder and is skipped when that is there, so an attempt that follows a dead
worker goes on where it stopped: rows are not drawn anew, training resumes from its checkpoint, and a version is
registered once however often the last stage is tried.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from sqlalchemy import select

from core.database import Database
from core.errors import TsumugiError
from core.gpu import GpuLeases
from core.jobs import JobLease
from core.ports import BlobStore
from core.queue import Task
from core.settings import Settings
from core.storage import require_room
from core.tables.adapters import AdapterVersion
from core.tables.tuning import TuningRun
from core.types import AdapterStatus
from generation.adapters.manifest import Fingerprint, Manifest, build_manifest, content_digest, verify
from generation.canary.policy import policy_of
from generation.chat import ChatFormat
from tuning.artefacts import keep_artefact, unpack_artefact
from tuning.chain import chain_link, check_parent, load_trained
from tuning.child import started
from tuning.comparison import EVALUATE_SHARE, FINGERPRINT_FILE, Comparison
from tuning.document_questions import public_passages
from tuning.gate import GateReport, Verdict, judge
from tuning.gpu_need import hold_gpu
from tuning.items import read_items
from tuning.kinds import Method
from tuning.launching import launch_of, processes_of
from tuning.looks import look_of
from tuning.machines import has_gpu
from tuning.margins import Margins
from tuning.merge_sources import find_sources, parents_of, together
from tuning.negatives import Search
from tuning.prepare import BUNDLE, HELD_OUT_FILE, ITEMS_FILE, ROWS_FILE, SEED, prepare_files, token_counter
from tuning.progress import LossCurve
from tuning.recipe import DistillMethod, GrpoMethod, MergeMethod, Recipe, RlooMethod, parse_recipe, stages_of
from tuning.requirements import judges_for, teacher_folder
from tuning.revision import code_revision
from tuning.reward_accuracy import accuracy_of
from tuning.run import Run, fetch_files, folder_of, keep_error, load_run
from tuning.seen import record_lineage
from tuning.sizes import RunSize, size_of
from tuning.sources import load_rows, withhold
from tuning.spec import EXIT_INTERRUPTED, MergePart, RewardSource, TrainSpec, parse_event, read_rows

if TYPE_CHECKING:
    from generation.models import BaseModelInfo

log = structlog.stdlib.get_logger(__name__)

TRAIN_SHARE = (0.08, EVALUATE_SHARE[0])
"""Where training lies on the progress of the whole job; preparing comes before it."""
_TELL_EVERY_S = 1.0
_REWARD_MODEL = "reward_model"


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
        self._size = size or size_of(settings.tuning.evaluation_items, on_gpu=has_gpu(settings))
        self._comparison = Comparison(db, settings, self._size)

    def prepare(self, lease: JobLease) -> None:
        """Write rows, held-out rows and evaluation items; hand the job over to the training worker.

        Raises:
            DatasetRejected: the rows cannot be used.
        """
        run = load_run(self._db, lease)
        lease.progress("prepare", 0.0)
        base = self._base()
        recipe = parse_recipe(run.recipe)
        rows, duplicates = load_rows(self._db, run.tenant_id, run.dataset_ids)
        with self._db.read() as reading:
            audience = policy_of(reading, run.family_id).groups
            if run.parent is not None:  # again: something may have been deleted since the run was asked for
                version = reading.get_one(AdapterVersion, run.parent.version_id)
                check_parent(reading, version, recipe, self._settings.adapters_dir)
            parents = [run.parent] if run.parent is not None else []
            if isinstance(recipe, MergeMethod):
                sources = find_sources(reading, run.tenant_id, recipe, self._settings.adapters_dir)
                parents = parents_of(reading, sources)
        rows, withheld = withhold(self._db, rows, audience, run.reader)
        seen = [row for parent in parents for row in load_trained(self._db, run.tenant_id, parent)]
        trained = list({row.digest: row for row in seen}.values())
        trained, no_more = withhold(self._db, trained, audience, run.reader)

        def step(fraction: float) -> None:
            lease.check()
            lease.progress("prepare", TRAIN_SHARE[0] * fraction)

        passages = public_passages(self._db, run.tenant_id, self._size.documents, lease.check)
        folder = folder_of(run, self._settings.runs_dir)
        found = prepare_files(
            folder,
            rows,
            duplicates=duplicates,
            tenant_id=run.tenant_id,
            recipe=recipe,
            search=self._search,
            count_tokens=token_counter(base.path),
            holds_control=ChatFormat.of_folder(base.path, base.name).holds_control,
            size=self._size,
            step=step,
            look=lease.check,
            left_out=[*withheld, *no_more],
            audience=audience,
            trained=trained,
            parent=together(parents) if isinstance(recipe, MergeMethod) else run.parent,
            passages=passages,
        )
        if recipe.method is Method.MERGE:  # its rows make the gate's items; it learns from none of them
            held_out = {row: part for row, part in found.parts.items() if part == "held_out"}
            found = replace(found, parts=held_out, negative_documents=[])
        # Through the blob store, because the training worker may be another machine.
        files = {name: self._blobs.put((folder / name).read_bytes()) for name in BUNDLE}
        with lease.write() as session:
            row = session.get_one(TuningRun, run.id)
            row.dataset_version = found.dataset_version
            told = {key: run.progress[key] for key in ("warnings", "recipe_choice") if key in run.progress}
            row.progress = {**told, "preparation": found.to_json(), "files": files}
            record_lineage(session, run.id, found, parents)
            lease.hand_over(Task.TUNING_TRAIN)

    def train(self, lease: JobLease) -> None:
        """Train, evaluate, judge, register. Safe to repeat after any death.

        Raises:
            InvalidInput: `too_little_memory`: no GPU here lends what the estimate asks for.
            Postponed: `gpu_busy`: the memory of the GPU is lent to others.
            ChildFailed: `out_of_memory`, `train_failed`, `train_killed`, `evaluate_failed`, ...; `extra` holds stderr.
            DatasetRejected: the trainer's audit refused the rows.
            Unavailable: `judge_unavailable`: the judges are down; what was trained and evaluated is kept for the next
                attempt. `storage_full`: checkpoints would take the reserve of the disk.
        """
        run = load_run(self._db, lease)
        if run.adapter_version_id is not None or "artefact" in run.progress:
            return  # died between registering and saying so
        recipe = parse_recipe(run.recipe)
        base = self._base()
        folder = fetch_files(run, self._settings.runs_dir, self._blobs)
        adapter = folder / "adapter"
        rows_path = folder / ROWS_FILE
        on_gpu = has_gpu(self._settings)
        with hold_gpu(self._gpus, lease, base.path, recipe, rows_path) if on_gpu else nullcontext() as grant:
            environment = grant.environment if grant is not None else {}
            if not (folder / "trained").exists():
                require_room(self._settings)
                processes = len(grant.gpus) if grant is not None else processes_of(recipe, 0)
                self._train(lease, run, base, folder, adapter, environment, processes)
                (folder / "trained").write_text(content_digest(adapter), encoding="utf-8")
            if recipe.method is Method.REWARD:
                self._keep(lease, run, folder, adapter, _REWARD_MODEL, None)
                return
            evaluation, notes = self._comparison.evaluate(lease, run, base, folder, adapter, environment)
        items = read_items(folder / ITEMS_FILE)
        verdicts = self._comparison.ask_judges(run, items, evaluation, notes, lease.check)
        with self._db.read() as session:
            margins = Margins().at_look(look_of(session, run.id))
        report = judge(items, evaluation, margins=margins, notes=notes, judged=verdicts)
        lease.progress("register", EVALUATE_SHARE[1])
        if recipe.export:
            self._keep(lease, run, folder, adapter, recipe.adapter.value, report)
            return
        self._register(lease, run, base, folder, adapter, report)

    def _keep(
        self, lease: JobLease, run: Run, folder: Path, adapter: Path, kind: str, report: GateReport | None
    ) -> None:
        """The end of a run whose result is no version: its files become an artefact of the run."""
        artefact = keep_artefact(self._blobs, adapter, kind)
        with lease.write() as session:
            row = session.get_one(TuningRun, run.id)
            row.gate_report = report.to_json() if report is not None else None
            if kind == _REWARD_MODEL:
                held_out = read_rows(folder / HELD_OUT_FILE)
                artefact |= accuracy_of(row.loss_curve, sum(one.rejected is not None for one in held_out))
            row.progress = {**row.progress, "artefact": artefact}
            lease.succeed()
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        log.info("tuning.kept", run_id=run.id, family=run.family, kind=kind)

    def _reward_sources(self, recipe: Recipe, folder: Path) -> tuple[RewardSource, ...]:
        """Reward models that the recipe's stages name, unpacked in the run's folder."""
        found = []
        for stage in stages_of(recipe):
            rewards = stage.online.rewards if isinstance(stage, GrpoMethod | RlooMethod) else ()
            for run_id in dict.fromkeys(reward.run for reward in rewards if reward.run is not None):
                with self._db.read() as session:
                    artefact = session.get_one(TuningRun, run_id).progress["artefact"]
                path = unpack_artefact(self._blobs, artefact, folder / "rewards" / run_id)
                found.append(RewardSource(run=run_id, path=path))
        return tuple(found)

    def _merge_parts(self, run: Run, recipe: Recipe, base: BaseModelInfo) -> tuple[MergePart, ...]:
        """Folders of the versions that are merged, checked against their manifests and the base."""
        if not isinstance(recipe, MergeMethod):
            return ()
        with self._db.read() as session:
            versions = find_sources(session, run.tenant_id, recipe, self._settings.adapters_dir)
        folders = [self._settings.adapters_dir / version.digest for version in versions]
        for folder in folders:
            verify(folder, base)
        weights = [source.weight for source in recipe.merge.sources]
        return tuple(MergePart(path=path, weight=weight) for path, weight in zip(folders, weights, strict=True))

    def _train(
        self,
        lease: JobLease,
        run: Run,
        base: BaseModelInfo,
        folder: Path,
        adapter: Path,
        environment: Mapping[str, str],
        processes: int,
    ) -> None:
        recipe = parse_recipe(run.recipe)
        spec = TrainSpec(
            run_dir=folder,
            base_path=base.path,
            rows_path=folder / ROWS_FILE,
            eval_rows_path=folder / HELD_OUT_FILE,
            warm_start=self._parent_folder(run, base),
            merge_parts=self._merge_parts(run, recipe, base),
            reward_sources=self._reward_sources(recipe, folder),
            teacher_path=next(
                (
                    teacher_folder(self._settings, stage)
                    for stage in stages_of(recipe)
                    if isinstance(stage, DistillMethod)
                ),
                None,
            ),
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
        interrupted = False
        launch = launch_of(recipe, path, processes=processes, on_gpu=has_gpu(self._settings))
        with started(
            launch.module,
            launch.arguments,
            folder=folder,
            memory_bytes=self._settings.tuning.worker_memory_bytes,
            environment={**environment, **judges_for(recipe, self._settings)},
        ) as child:
            for line in child.lines(lease.check):
                event = parse_event(line)
                if event is None:
                    continue
                curve.take(event)
                interrupted = event.event == "interrupted"
                if event.event == "error":
                    error = TsumugiError(event.detail or "training failed", code=event.code or "train_failed")
                if time.monotonic() - told >= _TELL_EVERY_S:
                    told = time.monotonic()
                    self._tell(lease, run, curve)
            end = child.end()
        self._tell(lease, run, curve)
        if end.status == 0 and adapter.is_dir():
            return
        # a launcher of several processes has a status of its own
        failure = (replace(end, status=EXIT_INTERRUPTED) if interrupted else end).failure("train")
        keep_error(lease, run, "train", failure)
        if error is not None and failure.code != "out_of_memory":
            raise error
        raise failure

    def _tell(self, lease: JobLease, run: Run, curve: LossCurve) -> None:
        """Loss curve and progress as one write."""
        first, last = TRAIN_SHARE
        with lease.write() as session:
            row = session.get_one(TuningRun, run.id)
            row.loss_curve = curve.points()
            row.progress = {**row.progress, "training": curve.state()}
            lease.progress("train", first + (last - first) * curve.fraction)

    def _parent_folder(self, run: Run, base: BaseModelInfo) -> Path | None:
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
        run: Run,
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
                    "merged_from": run.recipe.get("merge", {}).get("sources"),
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
