"""kerastune predict and search: ask a run or an artifact."""

from pathlib import Path
from typing import IO, Any

import click

from kerastune.cli.options import json_option
from kerastune.cli.progress import progress
from kerastune.cli.terminal import emit, put, say, say_next, shown, table, typed


@click.command()
@click.argument("folder", metavar="RUN_OR_ARTIFACT")
@click.argument("examples", nargs=-1, metavar="FILE_OR_TEXT...")
@click.option("--file", "lines", type=click.File(encoding="utf-8"), help="File with one text per line; - for stdin.")
@click.option("--top", default=3, show_default=True, type=click.IntRange(1), help="Number of labels to print for each.")
@click.option("--max-tokens", type=click.IntRange(1), help="Maximum tokens to generate; default: 64.")
@click.option("--temperature", type=click.FloatRange(0), help="0 = greedy; above 0 = sample; default: 0.")
@click.option("--seed", type=click.IntRange(0), help="Sampling seed; default: 0.")
@click.option("--beams", type=click.IntRange(1, 8), help="Drafts of a transcript to pursue; default: the model's.")
@click.option("--timestamps", is_flag=True, help="Tell when each segment of speech is said.")
@click.option("--mic", metavar="SECONDS", type=click.FloatRange(0.1, 3600), help="Hear a microphone for this long.")
@click.option(
    "--draw", type=click.Path(path_type=Path), help="Folder for the images with boxes, classes or heat maps drawn."
)
@json_option
def predict(
    folder: str,
    examples: tuple[str, ...],
    lines: IO[str] | None,
    top: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Label image files or texts, write speech down, or ask a language model.

    A run answers in Keras, an artifact in its own runtime. A model for pairs takes two texts per answer. Embedders
    print vectors. --max-tokens, --temperature and --seed are for language models, --beams and
    --timestamps for speech, --mic for sounds.

    \b
    Example: kerastune predict runs/first/exports/onnxruntime photo.jpg --top 1
             kerastune predict runs/birds/exports/linux photos/*.jpg --draw drawn
             kerastune predict runs/questions "Where is the Louvre?"
             kerastune predict runs/tone "How do I boil an egg?" --temperature 0.7
             kerastune predict runs/speech interview.wav --timestamps
             kerastune predict runs/speech --mic 10
    """
    from kerastune.predicting import inference
    from kerastune.predicting import search as searching
    from kerastune.run import Run

    asked = [*examples, *(line.rstrip("\n") for line in lines or () if line.strip())]
    if not asked and not options["mic"]:
        raise click.UsageError("Give files or texts, or --mic.")
    of = inference.opened(folder)
    with progress() as told, told.working("loading and asking the model"):
        found = inference.predict(of, asked, top, **options)

    def answers() -> None:
        for each in found:
            put("\n  ".join([each.input, *each.lines]))

    emit(as_json, [{"input": each.input, **each.document} for each in found], answers)
    if searching.makes_vectors(of):
        say_next(f"{typed('kerastune', 'search', folder)} --index FILE QUERY", "--json, which prints all numbers")
    else:
        of_run = of.folder if isinstance(of, Run) else of.run
        where = shown(of_run / "report.html") if of_run else "its run's report.html"
        say_next(f"open {where} in a browser, which shows how well this model does")


@click.command()
@click.argument("folder", metavar="RUN_OR_ARTIFACT")
@click.argument("query")
@click.option(
    "--index",
    required=True,
    type=click.Path(path_type=Path),
    help="Texts to search: .csv, .jsonl, .parquet or .txt; a folder of photos; or an .npz written by --save.",
)
@click.option("--column", default="text", show_default=True, help="Column of texts in --index.")
@click.option("--top", default=5, show_default=True, type=click.IntRange(1), help="Number of hits to print.")
@click.option("--save", type=click.Path(path_type=Path), help="Save the vectors of --index to this new .npz file.")
@json_option
def search(folder: str, query: str, index: Path, column: str, top: int, save: Path | None, as_json: bool) -> None:
    """Find the texts in a file, or the photos in a folder, that are most similar to a query.

    QUERY is a text, or an image file for a model of images. Ranks by cosine similarity.

    \b
    Example: kerastune search runs/questions --index faq.csv --column question "Who wrote Emma?"
             kerastune search runs/questions --index faq.txt --save faq.npz "Who wrote Emma?"
             kerastune search runs/products --index photos new.jpg
    """
    from kerastune.predicting import search as searching

    with progress() as told:
        found = searching.search(folder, index, query, top=top, column=column, save=save, progress=told)
    rows = [[f"{hit.similarity:.4f}", hit.found] for hit in found]
    document = [{"found": hit.found, "similarity": hit.similarity} for hit in found]
    emit(as_json, document, lambda: table(["cosine", "found"], rows))
    if save:
        say_next(("to search faster", typed("kerastune", "search", folder, "--index", save, query)))
    elif index.suffix != ".npz":
        named = [] if column == "text" else ["--column", column]
        keeping = typed("kerastune", "search", folder, "--index", index, *named, "--save", f"{index.stem}.npz", query)
        say_next(("to keep the vectors", keeping))


@click.command()
@click.argument("folder", metavar="ARTIFACT")
@click.argument("photos", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder of the new artifact.")
@click.option(
    "--false-accepts",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of photos of unknown products that may be taken for a known one.",
)
@json_option
def index(folder: str, photos: Path, out: Path, false_accepts: float, as_json: bool) -> None:
    """Give an artifact of image vectors a catalogue of products.

    The new artifact names the product in a photo, or says "unknown". PHOTOS is a folder with a folder of photos for
    each product, or with one photo for each. Photos are added to a catalogue that the artifact already has.

    \b
    Example: kerastune index runs/products/exports/linux photos -o catalogue
             kerastune predict catalogue photo.jpg
    """
    from dataclasses import asdict

    from kerastune.predicting import catalogue

    with progress() as told:
        _, facts = catalogue.index(folder, photos, out, false_accepts=false_accepts, progress=told)

    def said() -> None:
        share = f"{facts.false_accepts:.0%} of photos of unknown products"
        put(f"{facts.products:,} products, {facts.photos:,} photos, vectors in {facts.dtype}")
        put(f'"unknown" below a cosine of {facts.threshold:.4f}, which about {share} exceed')
        if facts.recognised is not None:
            put(f"{facts.recognised:.1%} of photos are nearest to another one of their product, and known")
        if not facts.enough:
            say(f"Warning: {facts.photos} photos are too few to promise {share}; add photos or allow more.")

    emit(as_json, asdict(facts), said)
    say_next(f"{typed('kerastune', 'predict', out)} photo.jpg")
