"""How fast an exported Whisper writes speech down on this machine: python bench/real_time.py ARTIFACT…

Prints seconds of the processor for each second of sound. Writes ten English prompts of 5 to 6 seconds down, with the
artifact's own reader and two threads, each artifact in a process of its own. Needs the fetched asset asterisk-prompts.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soundfile

from kerastune import assets

CLIPS, SECONDS, THREADS = 10, (5, 6), 2


def clips():
    """Returns float32 [samples] of each clip."""
    folder = assets.home() / "assets" / "asterisk-prompts"
    rows = map(json.loads, (folder / "en.jsonl").read_text(encoding="utf-8").splitlines())
    chosen = [row["audio"] for row in rows if SECONDS[0] <= row["seconds"] <= SECONDS[1]][:CLIPS]
    return [soundfile.read(folder / path, dtype="float32")[0] for path in chosen]


def measured(artifact):
    sys.path.insert(0, str(artifact))
    import reader
    import speech

    manifest = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    settings, sounds = manifest["reading"], clips()
    run = reader.load(artifact, manifest, SimpleNamespace(kernels="default", threads=THREADS))
    windows = [np.pad(x, (0, settings["samples"] - len(x)))[: settings["samples"]] for x in sounds]
    speech.transcribe(run, windows[0], settings)  # the first time, weights are packed
    started = time.process_time(), time.perf_counter()
    for window in windows:
        speech.transcribe(run, window, settings)
    spent, waited = time.process_time() - started[0], time.perf_counter() - started[1]
    seconds = sum(map(len, sounds)) / speech.RATE
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"{spent / seconds:.3f} s of the processor, {waited / seconds:.3f} s waited, {peak:.0f} MB at the most"


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        print(measured(Path(sys.argv[2])))
    else:
        for name in sys.argv[1:]:
            done = subprocess.run(
                [sys.executable, __file__, "--one", name], check=True, stdout=subprocess.PIPE, text=True
            )
            print(f"{name}: {done.stdout.splitlines()[-1]}", flush=True)
