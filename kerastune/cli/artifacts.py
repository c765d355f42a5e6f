"""kerastune export, verify, benchmark and serve: exported files, and the proof that they compute what was trained."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kerastune import files
from kerastune.cli import show
from kerastune.cli.options import force_option, json_option, out_option
from kerastune.cli.progress import progress
from kerastune.cli.terminal import emit, put, say, say_next, shown, typed
from kerastune.errors import ConverterError, VerificationError
from kerastune.formats import FORMATS, QUANTIZATIONS

if TYPE_CHECKING:
    from kerastune.verifying.artifact import Artifact
    from kerastune.verifying.verification import VerificationReport


@click.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--target", help="Deployment target; see kerastune targets list.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(FORMATS)),
    help="File format, instead of a target or as an alternative that the target supports.",
)
@click.option(
    "--quantize",
    type=click.Choice(QUANTIZATIONS),
    help="Default: the target's own. auto takes the smallest file within the limits.",
)
@click.option(
    "--max-accuracy-drop",
    type=click.FloatRange(0, 1),
    default=0.02,
    show_default=True,
    help="Refuse a quantised model that loses more validation accuracy.",
)
@click.option("--max-size-mb", type=click.FloatRange(0, min_open=True), help="Refuse a larger model.")
@click.option(
    "--max-latency-ms", type=click.FloatRange(0, min_open=True), help="Refuse a slower model (median, on this machine)."
)
@out_option
@force_option
@json_option
def export(
    run_folder: str,
    target: str | None,
    format_: str | None,
    quantize: str | None,
    max_accuracy_drop: float,
    max_size_mb: float | None,
    max_latency_ms: float | None,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Export a run's model and verify it in its runtime.

    The exit code is 3 if it does not compute what was trained.

    Example: kerastune export runs/first --target linux --quantize int8
    """
    if target is None and format_ is None:
        raise click.UsageError("Give --target NAME or --format FORMAT.")
    from kerastune import recipe
    from kerastune import run as runs
    from kerastune.exporting import exporter
    from kerastune.reporting import report

    of = runs.load(run_folder)
    limits = {"accuracy_drop": max_accuracy_drop, "size_mb": max_size_mb, "latency_ms": max_latency_ms}
    wanted = recipe.parse_export(
        {"target": target, "format": format_, "quantize": quantize} | {f"max_{k}": v for k, v in limits.items()}
    )
    with progress() as told:
        try:
            (made,) = exporter.export(of, wanted, out, force=force, progress=told)
        except (VerificationError, ConverterError):
            report.write(of, progress=told)  # it lists the accepted and the refused artifacts
            raise
        report.write(of, progress=told)
    if made.report:
        _show(made, made.report, as_json)
    say_next(show.predicting(made.folder, made))
    say(f"How to deploy it: kerastune targets show {made.manifest.target}")


@click.command()
@click.argument("artifact_folder", metavar="ARTIFACT")
@click.option("--run", "run_folder", metavar="RUN", help="The run it came from, if the artifact was moved.")
@click.option("--runtime", "names", multiple=True, metavar="NAME", help="A runtime below; default: all installed.")
@json_option
def verify(artifact_folder: str, run_folder: str | None, names: tuple[str, ...], as_json: bool) -> None:
    """Replay an artifact in real runtimes.

    The exit code is 3 if it does not compute what was trained. The runtimes:

    \b
    litert, litert-reference   TFLite: LiteRT with fast kernels, and with reference kernels
    tflm                       TFLite: TensorFlow Lite Micro
    mediapipe                  TFLite: MediaPipe's ImageClassifier, ImageEmbedder or AudioClassifier
    browser                    TFLite and ONNX for images of one size and sounds: LiteRT.js, onnxruntime-web
    onnxruntime                ONNX
    openvino                   ONNX, TFLite and SavedModel
    saved-model                SavedModel: TensorFlow without Keras

    Example: kerastune verify runs/first/exports/linux --runtime litert
    """
    from kerastune.verifying import artifact, verifier

    of = artifact.load(artifact_folder)
    with progress() as told:
        report = verifier.verify(of, run_folder, in_runtimes=names, progress=told)
    _show(of, report, as_json)
    say_next(show.predicting(of.folder, of))


@click.command()
@click.argument("artifact_folders", nargs=-1, required=True, metavar="ARTIFACT...")
@click.option("--threads", type=click.IntRange(1), help="Threads per inference; default: the runtime's own choice.")
@click.option("--runtime", "names", multiple=True, metavar="NAME", help="As for verify; default: all installed.")
@click.option("--plot", "image", type=click.Path(path_type=Path), help="Plot accuracy against latency to this file.")
@json_option
def benchmark(
    artifact_folders: tuple[str, ...], threads: int | None, names: tuple[str, ...], image: Path | None, as_json: bool
) -> None:
    """Time artifacts in real runtimes.

    Shows size, load time, latency and memory, and the accuracy from verification.

    Example: kerastune benchmark runs/first/exports/* --threads 1 --plot latency.png
    """
    from kerastune.verifying import artifact
    from kerastune.verifying import benchmark as timing

    if image:
        files.refuse_plot(image)
    refused = [folder for folder in artifact_folders if folder.endswith(".failed.json")]  # RUN/exports/* names them
    for each in refused:
        say(f"left out: {each} says why an export was refused")
    made = [artifact.load(folder) for folder in artifact_folders if folder not in refused]
    with progress() as told:
        rows = timing.benchmark(made, threads=threads, in_runtimes=names, progress=told)
    if image:
        timing.plot(rows, image)
    emit(as_json, rows, lambda: show.benchmark(rows))
    drawing = typed("kerastune", "benchmark", *artifact_folders, "--plot", "latency.png")
    say_next(f"open {shown(image)}" if image else ("to draw it", drawing))


@click.command()
@click.argument("artifact_folder", metavar="ARTIFACT")
@click.option("--name", help="Model name in URLs; default: the artifact's.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8501, show_default=True, type=click.IntRange(0, 65535), help="REST port; 0: any free.")
@click.option(
    "--grpc-port", default=8500, show_default=True, type=click.IntRange(0, 65535), help="gRPC port; 0: any free."
)
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="NAME",
    help="A host name in REST requests, besides localhost, this machine's name and IP addresses.",
)
@json_option
def serve(
    artifact_folder: str,
    name: str | None,
    host: str,
    port: int,
    grpc_port: int,
    allow_hosts: tuple[str, ...],
    as_json: bool,
) -> None:
    """Serve a SavedModel artifact as TF Serving does.

    A stand-in for development. Stop it with Ctrl-C.

    Example: kerastune serve runs/first/exports/tf-serving
    """
    from kerastune.serving import stand_in

    loading = contextlib.ExitStack()

    def ready(where: dict[str, Any]) -> None:
        loading.close()

        def listening() -> None:
            put(f"REST: {where['rest']}\ngRPC: {where['grpc']}, model {where['name']}, version {where['version']}")
            put(f"Requests are limited to {where['max_request_bytes'] >> 20} MiB. There is no authentication.")
            put("This is a stand-in for TF Serving. For production: kerastune targets show tf-serving")

        emit(as_json, where, listening)
        say_next(where["example"])

    with loading:
        loading.enter_context(loading.enter_context(progress()).working("loading the model"))
        stand_in.serve(artifact_folder, name, host, port, grpc_port, allow_hosts, ready)
    say("Stopped.")


def _show(of: "Artifact", report: "VerificationReport", as_json: bool) -> None:
    row = show.artifact_document(of, report)
    emit(as_json, {**row, "report": report.document()}, lambda: show.artifact(row, of, report))
