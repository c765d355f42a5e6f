"""Runs the training loop over phases, epochs and steps; checkpoints it and resumes it after a kill."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import keras
import tensorflow as tf

from kerastune import run, tasks, weights
from kerastune.errors import KerastuneError
from kerastune.progress import Progress
from kerastune.recipe import Phase
from kerastune.records import Decision, Ran, Recalibration
from kerastune.tasks import contrast
from kerastune.tasks.learnt import Metric
from kerastune.training import batch_norm, decide, freezing, inputs, interrupts, lora, memory, optimizers, tensorboard
from kerastune.training.batches import Batches, seed_of
from kerastune.training.checkpoint import Arrays
from kerastune.training.feed import Feed
from kerastune.training.keeper import Keeper
from kerastune.training.parts import Parts
from kerastune.training.plan import Plan
from kerastune.training.position import Position
from kerastune.training.prefix import cutting, features
from kerastune.training.prefix.forward import Implementation
from kerastune.training.steps import Steps, compiled, together
from kerastune.workers.group import Group


class Training:
    """One training. Its work folder holds the checkpoints and the best weights.

    Args:
        made: its plan. What is decided on the way is added to the plan's decisions.
        facts: what may not change between a checkpoint and its resumption; written into each checkpoint.
        group: the workers that train together. Only the chief writes files.
    """

    def __init__(
        self, made: Plan, work: Path, facts: Mapping[str, Any], progress: Progress, group: Group | None = None
    ) -> None:
        self.group, self.parts = group or Group(), cast("Parts | None", None)
        self.recipe, self.splits, self.task, self.batches = made.recipe, made.splits, made.task, made.batches
        self.work, self.moving = work, made.moving
        self.keeper = Keeper(work / run.CHECKPOINTS, facts, made.recipe.train.checkpoint_every)
        self.facts, self.progress = facts, progress
        self.kind = tasks.get(made.recipe.task)
        self.at = Position(decisions=list(made.decisions))
        self.optimizer: Any = None
        self._loss = keras.metrics.Mean(name="loss")
        self._meter = self.kind.learning.meter(made.recipe)
        self._found = contrast.FoundLabel(name=self._meter.name)
        self._left: Arrays = {}  # of a checkpoint: what is put back once its variables exist
        self._told = time.perf_counter()

    @property
    def phase(self) -> Phase:
        return self.recipe.phases[min(self.at.phase, len(self.recipe.phases)) - 1]  # the last one, after the end

    @property
    def metrics(self) -> list[Any]:
        """The mean of the loss, and the figure that the phase shows."""
        return [self._loss, self._found if self.phase.contrastive else self._meter]

    @property
    def judge(self) -> Metric:
        """The metric that chooses the best epoch."""
        return tasks.device(self.recipe.task).learnt(self.recipe).metric

    @property
    def metric(self) -> str:
        """The name of the metric that chooses the best epoch."""
        return self.judge.name

    @property
    def title(self) -> str:
        return f"phase {self.at.phase}/{len(self.recipe.phases)} ({self.phase.unfreeze})"

    def decision(self, key: str) -> Decision | None:
        """The decision for the current phase, made in this process or before a resumption."""
        return next((d for d in self.at.decisions if d.key == key and d.phase == self.at.phase), None)

    def decided(self, key: str, asked: Any, got: Any, why: str) -> Any:
        self.at.decisions.append(Decision(key, asked, got, why, self.at.phase))
        return got

    @property
    def ran(self) -> Ran:
        """The record of the current phase."""
        return self.at.ran[-1]

    def happened(self, **facts: Any) -> None:
        self.at.ran[-1] = dataclasses.replace(self.ran, **facts)

    def run(self, last: int | None = None) -> bool:
        """Trains the remaining phases and leaves the best weights in the task. Returns whether Ctrl-C ended it.

        Args:
            last: the phase to end after; by default the recipe's last.
        """
        last = len(self.recipe.phases) if last is None else last
        try:
            if not self._left:
                self.save()  # whoever is killed from here on can go on
            with memory.kept(), self.group.listening():
                while self.at.phase <= last:
                    self._phase()
            self._put_back()
        except KeyboardInterrupt:
            with interrupts.delayed():
                self.progress.say(f"Interrupted in {self.title}: keeping {self._describe_best()}.")
                if not self._left:  # else nothing was done since the checkpoint that is gone on from
                    if self.at.frozen and not self._is_gradual:
                        self._prove(self.at.frozen)
                    self.save()
                self._load_best()
                lora.merge(self.task)
            return True
        if self.at.best is not None:
            self.progress.say(f"Keeping {self._describe_best()}.")
        return False

    # --- a phase -------------------------------------------------------------------------------------------

    def _phase(self) -> None:
        at, phase = self.at, self.phase
        # Random draws of a phase, such as its adapters, must not depend on how much earlier phases drew.
        keras.utils.set_random_seed(seed_of(self.recipe.seed, at.phase))
        freezing.freeze(self.task, phase)
        self._put_back_weights(self._left)  # an optimizer's averages begin from them
        if not self.kind.learning.fit:
            self.optimizer = optimizers.of_phase(phase, self.task, self.steps * phase.epochs, self.steps)
        if len(at.ran) < at.phase:
            at.ran.append(Ran(epochs_run=0, seconds=0.0, precision=self.task.backbone.dtype_policy.name))
        if self.group.count > 1:
            self.parts = Parts(self.group, self.task, self.metrics)
            self.parts.begin()
        self._put_back()
        if self.kind.learning.fit:
            before = freezing.frozen_hashes(self.task)
            decided = self.kind.learning.fit(self.recipe, self.task, self.splits, self.progress)
            for one in decided:
                self.progress.say(f"{one.key} = {one.asked}: {one.got} ({one.why})")
            at.decisions += decided
            self._prove(before)
            self.happened(epochs_run=phase.epochs)
        elif phase.epochs:
            self._epochs()
        else:
            self._prove(freezing.frozen_hashes(self.task))
        with interrupts.delayed():
            self._end_phase()

    def _epochs(self) -> None:
        at, phase = self.at, self.phase
        patience = 0 if phase.contrastive else self.recipe.train.early_stopping
        feed, steps = None, None
        while at.epoch <= phase.epochs and not (patience and at.waited >= patience):
            # `_phase` has unfrozen all layers that this phase will ever train; the cut lies in front of them.
            feed = feed or self.feed(phase.epochs)
            if steps is None or self._is_gradual:
                audit = self.batches.counted(freezing.freeze(self.task, phase, at.epoch))
                stage = [unit.name for unit in audit.units if unit.trainable_parameters]
                if steps is None or stage != at.stage:
                    self.progress.phase(f"{self.title}, from epoch {at.epoch}", audit)
                    if stage != at.stage:
                        at.stage, at.frozen = stage, freezing.frozen_hashes(self.task)
                    steps = self._functions(feed)
                    self.save()  # what was measured holds for whoever resumes
            row, validated = self._epoch(feed, steps)
            if self._is_gradual:
                self._prove(at.frozen)
            with interrupts.delayed():
                self._end_epoch(row, validated)
        self._prove(at.frozen)
        if at.epoch <= phase.epochs:
            what = f"{patience} epoch{'s' if patience > 1 else ''}"
            self.progress.say(f"{self.title}: stopped early, no better epoch in the last {what}")

    @property
    def _is_gradual(self) -> bool:
        """Whether each epoch freezes fewer weights than the one before."""
        return self.phase.unfreeze == "gradual"

    def feed(self, epochs: int, cached: bool = True) -> Feed:
        """Returns the batches of the current phase, cut in front of the layers that are trainable now.

        Args:
            epochs: how many epochs there will be batches for.
            cached: use the features that were decided to be kept; else all batches hold inputs.
        """
        cut, kept, decision = None, None, self.decision("train.cache")
        self._keep_inputs()
        batches = self.batches.of_phase(self.phase)
        if decision and decision.after:  # the plan has proved that the two parts are the whole
            cut, why = cutting.cut(batches.task, batches.example, batches.bucketed)
            assert cut, why
            if cached and decision.got != "off":
                kept = self._kept(batches, cut, on_disk=decision.got == "disk")
        return Feed(batches, self.at.phase, epochs, cut, kept, self.group)

    def _keep_inputs(self) -> None:
        """Decodes all examples, once in a process, if it was decided to keep them."""
        decision = next((one for one in self.at.decisions if one.key == "train.inputs"), None)
        if decision and decision.got != "off" and not self.batches.splits.train.kept:
            self.batches = inputs.keep(self.batches, decision.got == "disk", self.progress, self.group)

    def _kept(self, batches: Batches, cut: cutting.Cut, on_disk: bool) -> features.Kept:
        """Runs the frozen layers over all examples, or finds the features that an earlier run cached."""
        phase, run_prefix = self.at.phase, None
        key = features.keys(batches, phase, cut)
        known = self.decision("train.cache forward")
        stored = features.stored(key, self.recipe.train.cache_views) if on_disk else None
        if known:
            by: Implementation = known.got  # type: ignore[assignment]
        elif stored:
            by = self.decided("train.cache forward", "auto", stored, "an earlier run kept its features")
        else:
            if self.group.is_chief:
                run_prefix, by, why = features.fastest(batches, phase, cut, self.progress)
            by, why = self.group.agree([by, why] if self.group.is_chief else None)
            self.decided("train.cache forward", "auto", by, why)
        return features.keep(batches, phase, cut, key, by, on_disk, self.title, self.progress, run_prefix, self.group)

    def _epoch(self, feed: Feed, steps: Steps) -> tuple[dict[str, float], Arrays]:
        """Finishes an epoch and validates. Returns the history's row, and the weights if they are the best so far."""
        at, started = self.at, time.perf_counter()
        first = at.step
        for batch in feed.train(at.epoch, at.step):
            self.group.due = self.group.is_chief and self.keeper.is_due(at.step + 1)
            with interrupts.delayed():  # a step and its count belong together
                steps.train(*batch)
                at.step += 1
            if self.ran.start_s is None:
                float(self.metrics[0].result())  # waits for the device
                self.happened(start_s=round(time.perf_counter() - started, 1))
            self._tell(first, started)
            if self.group.stopping:
                raise KeyboardInterrupt
            if self.group.due:
                self.save()
        if self.parts:
            self.parts.meet()
        with self._totalled():
            row = {"phase": at.phase, "epoch": at.epoch} | {m.name: float(m.result()) for m in self.metrics}
        # Of contrastive epochs the last one counts: a dozen validation examples cannot tell them apart.
        counts = not self.phase.contrastive or at.epoch == self.phase.epochs
        with optimizers.averaged(self.optimizer, self.task):
            row |= {f"val_{name}": value for name, value in (self._validate(feed, steps) if counts else {}).items()}
            row = self.group.agree(row)  # what is decided by it is decided alike
            validated = self._weights() if counts and self._is_best(row) else {}
            if self.group.is_chief and (samples := self.kind.learning.samples(self.recipe, self.task, self.splits)):
                self.at.said[f"{at.phase}.{at.epoch}"] = samples
        rate = float(keras.ops.convert_to_numpy(self.optimizer.learning_rate))
        seconds = self.group.agree(round(time.perf_counter() - started, 2))
        return row | {"learning_rate": rate, "seconds": seconds}, validated

    def _is_best(self, row: dict[str, float]) -> bool:
        """Returns whether an epoch is better than all before."""
        best = self.at.best
        return self.phase.contrastive or best is None or self.judge.rank(row) > self.judge.rank(best)

    def _validate(self, feed: Feed, steps: Steps) -> dict[str, float]:
        train_state = [variable.numpy() for metric in self.metrics for variable in metric.variables]
        try:
            self._reset_metrics()
            said = []
            whole = None if self.phase.contrastive else self.kind.learning.validated
            for x, y, weight in feed.validation(shared=whole is None):
                outputs = steps.test(x, y, weight)
                if whole:
                    needed = self.kind.learning.reduced(self.recipe, outputs)
                    said.append((y, tf.nest.map_structure(_numpy, needed)))
            with self._totalled(self.group.is_apart and whole is None):
                found = {metric.name: float(metric.result()) for metric in self.metrics}
            found |= whole(self.recipe, *zip(*said, strict=True)) if whole else {}
            decoded = self.kind.learning.decoded
            return found | (decoded(self.recipe, self.task, self.splits) if decoded else {})
        finally:
            _assign([variable for metric in self.metrics for variable in metric.variables], train_state)

    def _totalled(self, shared: bool = True) -> contextlib.AbstractContextManager[None]:
        """Holds the sums of all workers' metrics in the metrics inside the block."""
        return self.parts.totalled() if self.parts and shared else contextlib.nullcontext()

    def _end_epoch(self, row: dict[str, float], validated: Arrays) -> None:
        at = self.at
        if not self.phase.contrastive:  # its figures are not those of the head
            at.history.append(row)
        kind, loss = ("validation", row["val_loss"]) if "val_loss" in row else ("training", row["loss"])
        if not math.isfinite(loss):
            raise KerastuneError(
                f"{self.title} diverged: the {kind} loss of epoch {at.epoch} is {loss}.",
                f"Lower phases.{at.phase - 1}.learning_rate; kerastune lr-find RECIPE --phase {at.phase} suggests one. "
                "To train again into the same folder, add --force.",
            )
        metric, judge, seen = self.metric, self.judge, self.metrics[1].name
        if validated:
            figures = {k: row[k] for k in ("phase", "epoch", f"val_{metric}", "val_loss")}
            self.keeper.keep(at, figures, validated)
        said = f"{self.title}, epoch {at.epoch}/{self.phase.epochs}: loss {row['loss']:.4f}, {seen} {row[seen]:.4f}"
        if "val_loss" in row:
            improved = at.phase_best is None or judge.rank(row) > judge.rank(at.phase_best)
            at.phase_best, at.waited = (row, 0) if improved else (at.phase_best, at.waited + 1)
            said += f", validation loss {row['val_loss']:.4f}, validation {metric} {row[f'val_{metric}']:.4f}"
        until, is_first = self.ran.start_s, self.ran.epochs_run == 0
        start = f", {until:.0f} s of them until the first step was done" if is_first and until is not None else ""
        self.progress.say(f"{said} ({row['seconds']:.0f} s{start})")
        if self.group.is_chief:
            run.write_history(self.work, at.history)
            if self.recipe.train.tensorboard:
                tensorboard.log(self.work / "tensorboard", len(at.history), row)
        self.happened(epochs_run=self.ran.epochs_run + 1)
        at.epoch, at.step = at.epoch + 1, 0
        self._reset_metrics()
        if at.epoch > self.phase.epochs or self.keeper.is_worth_while:
            self.save()

    def _prove(self, before: dict[str, str]) -> None:
        after = freezing.frozen_hashes(self.task)
        self.happened(frozen_sha256=freezing.prove_frozen(before, after), frozen_weights=len(before))

    def _end_phase(self) -> None:
        at, phase = self.at, self.phase
        self._load_best()
        if phase.batch_norm == "recalibrate":
            self.happened(recalibrated=self._recalibrate())
        if phase.lora:
            lora.merge(self.task)
            if at.best:
                self.keeper.keep(at, at.best, self._weights())
        proof = (self.ran.frozen_sha256 or "")[:12]
        if frozen := self.ran.frozen_weights:
            self.progress.say(f"{self.title}: {frozen} frozen weights did not move (sha256 {proof})")
        self.happened(best=at.best)
        if phase.contrastive:
            self.keeper.forget(at)
        self.at = dataclasses.replace(
            at, phase=at.phase + 1, epoch=1, step=0, waited=0, phase_best=None, stage=[], frozen={}
        )
        self.optimizer = None
        self.save()

    def _recalibrate(self) -> Recalibration:
        """Sets the statistics of unfrozen BatchNorm layers to those of the training data, and validates again."""
        batches = self.batches.of("train", self.batches.order("train"))
        measured = batch_norm.recalibrate(self.task, self.phase, (x for x, *_ in batches))
        feed = self.feed(1, cached=False)
        found = self._validate(feed, self.compiled(feed, xla=False))
        best = {"phase": self.at.phase, "epoch": (self.at.best or {}).get("epoch", 0)}
        metric = self.metric
        was = (self.at.best or {}).get(f"val_{metric}", math.nan)
        self.progress.say(
            f"{self.title}: BatchNorm recalibrated, validation {metric} {was:.4f} before, {found[metric]:.4f} after"
        )
        self.keeper.keep(self.at, best | {f"val_{name}": value for name, value in found.items()}, self._weights())
        return dataclasses.replace(measured, validation=found)

    # --- steps ---------------------------------------------------------------------------------------------

    def _functions(self, feed: Feed) -> Steps:
        """Returns the steps, compiled in the faster way."""
        asked, known = self.recipe.train.xla, self.decision("train.xla")
        if asked == "auto" and not known and self.phase.contrastive:
            why = "a contrastive phase mixes lengths, and has few steps"
            self.happened(xla=self.decided("train.xla", "auto", False, why))
            return self.compiled(feed, False)
        if known is not None or asked != "auto":
            got = bool(known.got if known else self.decided("train.xla", asked, asked, "as asked"))
            self.happened(xla=got)
            return self.compiled(feed, got)
        found = self._faster(feed) if self.group.is_chief else None
        got, why = self.group.agree(found and found[1:])
        self.happened(xla=self.decided("train.xla", "auto", got, why))
        return found[0] if found and not self.parts else self.compiled(feed, got)

    def _faster(self, feed: Feed) -> tuple[Steps, bool, str]:
        """Times steps without the other workers: their sums take as long with XLA as without."""
        order, loss = self.batches.order("train"), self.kind.learning.loss(self.recipe)
        batches = feed.train(1, 0)
        return decide.xla(
            functools.partial(compiled, feed, self.task, loss, self.optimizer, self.metrics),
            self.task,
            feed.kept is not None,
            (first for first, *_ in batches) if self.parts else batches,
            self.steps * self.phase.epochs,
            order.shapes,
            self.metrics,
            self._unchanged,
        )

    def compiled(self, feed: Feed, xla: bool) -> Steps:
        loss = contrast.of_labels if self.phase.contrastive else self.kind.learning.loss(self.recipe)
        of = (feed, self.task, loss, self.optimizer, self.metrics, xla)
        return together(*of, self.parts) if self.parts else compiled(*of)

    @contextlib.contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Restores everything that steps inside the block change."""
        before = self._arrays()
        try:
            yield
        finally:
            self._put_back(before)

    def _tell(self, first: int, started: float) -> None:
        at, now = self.at, time.perf_counter()
        if now - self._told < 0.1 and at.step < self.steps:
            return  # reading the metrics costs more than a small step
        self._told = now
        rate = (at.step - first) * self.recipe.train.batch_size / (now - started)
        figures = "  ".join(f"{metric.name} {float(metric.result()):.4f}" for metric in self.metrics)
        stage = f"{self.title}, epoch {at.epoch}/{self.phase.epochs}"
        self.progress.advance(stage, at.step, self.steps, f"{figures}  {rate:,.0f} examples/s")

    def _reset_metrics(self) -> None:
        for metric in self.metrics:
            metric.reset_state()
        if self.parts:
            self.parts.reset()

    @functools.cached_property
    def steps(self) -> int:
        """Steps per epoch."""
        return self.batches.order("train").steps

    # --- what is kept --------------------------------------------------------------------------------------

    def _load_best(self) -> None:
        if best := self.keeper.best(self.at):
            weights.restore(self.task, best)

    def _describe_best(self) -> str:
        if self.at.best is None:
            return "the weights as they are (no epoch was finished)"
        figures = (
            f"validation {self.metric} {self.at.best[f'val_{self.metric}']:.4f}, loss {self.at.best['val_loss']:.4f}"
        )
        return f"the best epoch's weights ({figures})"

    def save(self) -> None:
        """Writes a checkpoint.

        Raises:
            ConverterError: the disk is full; the last checkpoint is intact.
        """
        seconds = self.keeper.lap()
        self.at.seconds += seconds
        if self.at.ran:
            self.happened(seconds=round(self.ran.seconds + seconds, 2))
        arrays = self._arrays() | (self.parts.gathered() if self.parts else {})
        if self.group.is_chief:
            self.keeper.write(self.at, arrays)

    def _arrays(self) -> Arrays:
        """Returns every array that training changes: weights, optimizer, random states and running metrics."""
        arrays = {f"weights/{name}": value for name, value in self._weights().items()}
        for group, variables in self._groups().items():
            arrays |= {f"{group}/{i}": variable.numpy() for i, variable in enumerate(variables)}
        return arrays

    def _weights(self) -> Arrays:
        named = weights.named(self.task)
        return {name: weight.numpy() for name, weight in named.items() if weights.number(name) in self.moving}

    def _groups(self) -> dict[str, list[Any]]:
        return {
            "optimizer": self.optimizer.variables if self.optimizer else [],
            "seeds": weights.seed_states(self.task),
            "metrics": [variable for metric in self.metrics for variable in metric.variables],
        }

    def go_on_from(self, at: Position, arrays: Arrays, best: Arrays | None = None) -> None:
        """Continues from a checkpoint instead of from the start; `best`: its best file's content, if not here."""
        self.at, self._left = at, arrays
        self.keeper.hold(best or {})

    def _put_back(self, arrays: Arrays | None = None) -> None:
        arrays, self._left = (self._left, {}) if arrays is None else (arrays, self._left)
        if not arrays:
            return
        self._put_back_weights(arrays)
        for group, variables in self._groups().items():
            if f"{group}/0" in arrays:  # between two phases there is no optimizer
                _assign(variables, [arrays[f"{group}/{i}"] for i in range(len(variables))])
        if self.parts and "parts/0/0" in arrays:
            self.parts.restore(arrays)

    def _put_back_weights(self, arrays: Arrays) -> None:
        stored = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
        if stored:
            weights.restore(self.task, stored)


# --- helpers -----------------------------------------------------------------------------------------------


def _numpy(tensor: Any) -> Any:
    return tensor.numpy() if hasattr(tensor, "numpy") else tensor


def _assign(variables: Sequence[Any], values: Sequence[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
