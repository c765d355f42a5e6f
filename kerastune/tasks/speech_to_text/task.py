"""Speech to text: a Whisper whose decoder learns the words of a domain, judged by what it writes."""

import numpy as np

from kerastune.data import Order, Split, Splits
from kerastune.tasks import text_models
from kerastune.tasks.causal_lm.learning import loss, metric
from kerastune.tasks.contract import Building, Changes, Dataset, Feeding, Learning, Model, Targets, Task
from kerastune.tasks.pipeline import with_truth
from kerastune.tasks.speech_to_text import hugging_face_writing, tracing
from kerastune.tasks.speech_to_text.building import build, describe, load, settled
from kerastune.tasks.speech_to_text.decoding import uncached
from kerastune.tasks.speech_to_text.feeding import batches, example, order, preprocessing, targets
from kerastune.tasks.speech_to_text.scoring import answers, controlled, transcripts, validated
from kerastune.tasks.speech_to_text.settings import SpeechToText


def _targets(recipe: SpeechToText, model: Model, splits: Splits, name: str, training: bool) -> Targets:
    known = targets(model, getattr(splits, name))
    return Targets(known, np.ones(len(known), np.float32))  # tokens are counted, so each sound has weight 1


def _batches(
    recipe: SpeechToText, model: Model, split: Split, order: Order, targets: Targets, changes: Changes | None
) -> Dataset:
    more = (recipe.augment, changes.seed, changes.view) if changes else ()
    return with_truth(batches(model, split, order, *more), targets)


TASK: Task[SpeechToText] = Task(
    building=Building(
        build=lambda recipe, preset, splits, precision: build(recipe, preset, precision),
        prepare=lambda recipe, model, splits: None,
        describe=describe,
        load=lambda folder, recipe, precision: load(folder, precision),
        write_beside=lambda model, folder: None,
        vary=lambda model, inputs: None,  # its outputs already differ between sounds
        largest_product=text_models.largest_product,
        settled=lambda recipe, model, splits: settled(recipe, model),
    ),
    feeding=Feeding(
        order=lambda recipe, *rest: order(*rest),
        batches=_batches,
        example=lambda recipe, model, split, batch_size: example(model, split, batch_size),
        fingerprint=lambda recipe, model, changed: preprocessing(model, recipe.augment if changed else None),
        shapes="fixed",
    ),
    learning=Learning(
        targets=_targets,
        loss=lambda recipe: loss,
        meter=lambda recipe: metric(),
        validated=None,
        decoded=validated,
        starts=True,
        sampled=lambda recipe, splits: [],
        samples=lambda recipe, model, splits: [],
    ),
    predict=lambda recipe, model, split, batch_size, told: transcripts(model, split, told),
    answer=lambda recipe, model, examples, options: {**answers(model, examples, **options)},
    signatures=lambda recipe, model: tracing.signatures(model),
    trace=lambda recipe, model, work, wanted: tracing.trace(model, work, wanted),
    reference=lambda recipe, model, examples: uncached(model, examples),
    beside=controlled,
    folder=lambda recipe, model, work, folder: hugging_face_writing.write(
        model, recipe.language, recipe.translate, folder
    ),
)
