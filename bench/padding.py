"""How many tokens an epoch of the questions has, in kerastune's batches and in random ones: python bench/padding.py"""

import numpy as np

from kerastune import Progress, read_recipe
from kerastune.tasks.tokens import tokens
from kerastune.training.plan import plan

BATCH, EPOCHS = 32, 3


def main():
    made = plan(
        read_recipe("questions", [f"train.batch_size={BATCH}", "exports=[]", "train.precision=float32"]), Progress()
    )
    order = made.batches.order("train", EPOCHS, (0, 1))
    alike = sum(x["token_ids"].shape.num_elements() for x, *_ in made.batches.of("train", order)) / EPOCHS
    lengths = tokens(made.task, made.splits.train).lengths
    drawn = [np.random.default_rng(epoch).permutation(lengths) for epoch in range(EPOCHS)]
    cut = [one[at : at + BATCH] for one in drawn for at in range(0, len(lengths), BATCH)]
    random = sum(len(part) * part.max() for part in cut) / EPOCHS
    print(f"tokens of {len(lengths):,} texts: {lengths.sum():,}; in batches of similar length {alike:,.0f}")
    bound = random / lengths.sum()
    print(
        f"in random batches {random:,.0f}: {random / alike:.2f} times as many, {bound:.2f} times those without padding"
    )


if __name__ == "__main__":
    main()
