"""The peer of speech.py: adapters for a Whisper in transformers, peft and PyTorch, as their tutorials train them.

python bench/speech_script.py JOB      JOB is JSON, of speech.py; prints one line of JSON
"""

import copy
import json
import math
import os
import random
import resource
import sys
from pathlib import Path

import jiwer
import numpy as np
import peft
import torch
import transformers

HOME = Path(os.environ["KERASTUNE_HOME"])
BATCH, RATE, WARMUP = 8, 1e-3, 0.1


def read(name, processor, prompt):
    """Returns (log-mel features float32 [mels, frames], label ids, text) of each recording: made once, as usual."""
    features, tokenizer = processor
    with np.load(HOME / f"{name}.npz") as file:
        texts = file["texts"].tolist()
        sounds = [file[str(i)] for i in range(len(texts))]
    made = [features(sound, sampling_rate=16_000, return_tensors="pt").input_features[0] for sound in sounds]
    ids = [tokenizer(f" {text}", add_special_tokens=False).input_ids for text in texts]
    return [(x, [*prompt, *row, tokenizer.eos_token_id], text) for x, row, text in zip(made, ids, texts, strict=True)]


def batched(rows):
    """Returns features float32 [B, mels, frames] and labels int64 [B, T], padded with -100, which has no loss."""
    labels = [torch.tensor(ids) for _, ids, _ in rows]
    padded = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
    return torch.stack([x for x, _, _ in rows]), padded


def word_error_rate(said, truth):
    said, truth = (["".join(c if c.isalnum() else " " for c in text.lower()) for text in of] for of in (said, truth))
    return jiwer.wer(truth, said)


def main(job):
    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    whisper = transformers.WhisperForConditionalGeneration.from_pretrained(HOME / "whisper")
    features = transformers.WhisperFeatureExtractor.from_pretrained(HOME / "whisper")
    tokenizer = transformers.WhisperTokenizer.from_pretrained(HOME / "whisper")
    settings = whisper.generation_config
    prompt = [
        settings.lang_to_id[settings.language],
        settings.task_to_id[settings.task],
        settings.no_timestamps_token_id,
    ]
    train, validation, test = (read(name, (features, tokenizer), prompt) for name in ("train", "validation", "test"))
    lora = peft.LoraConfig(r=8, lora_alpha=8, target_modules=r".*\.decoder\..*(q_proj|v_proj)")
    model = peft.get_peft_model(whisper, lora)

    @torch.inference_mode()
    def written(rows):
        model.eval()
        said = []
        for i in range(0, len(rows), 16):
            x, _ = batched(rows[i : i + 16])
            said += tokenizer.batch_decode(model.generate(input_features=x), skip_special_tokens=True)
        model.train()
        return said

    steps = -(-len(train) // BATCH) * job["epochs"]
    trained = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(trained, RATE, weight_decay=0.0)
    schedule = transformers.get_cosine_schedule_with_warmup(adam, round(WARMUP * steps), steps)
    before, stepping, done = cpu(), 0.0, 0
    best, kept = math.inf, None
    shuffled = random.Random(0)
    for _ in range(job["epochs"]):
        order = shuffled.sample(train, len(train))
        began = cpu()
        for i in range(0, len(order), BATCH):
            x, labels = batched(order[i : i + BATCH])
            adam.zero_grad()
            model(input_features=x, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            adam.step()
            schedule.step()
            done += len(x)
            if job["steps"] and done >= job["steps"] * BATCH:
                break
        stepping += cpu() - began
        if job["steps"]:
            break
        if (found := word_error_rate(written(validation), [text for *_, text in validation])) < best:
            best, kept = found, copy.deepcopy(peft.get_peft_model_state_dict(model))
    found = {"cpu_seconds": cpu() - before, "step_cpu_seconds": stepping, "examples": done}
    if kept is not None:
        peft.set_peft_model_state_dict(model, kept)
        found |= {"said": written(test), "truth": [text for *_, text in test]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**found, "parameters": sum(p.numel() for p in trained), "peak_mb": peak}))


def cpu():
    return sum(os.times()[:2])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
