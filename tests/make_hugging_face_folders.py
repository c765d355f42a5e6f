"""Make tests/hugging_face/: tiny models as transformers saves them, and what it says about a few texts.

Not a test and not part of the package: it was run once, in a venv of its own.

    python -m venv /tmp/torchv
    /tmp/torchv/bin/pip install torch==2.14.1 transformers==5.24.0
    /tmp/torchv/bin/python tests/make_hugging_face_folders.py tests/hugging_face
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TEXTS = ("sun 0?", "the sea, the fog", "gull's rope")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
SPECIAL += ["<|start_header_id|>", "<|end_header_id|>"]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SIZE = {"hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def byte_pairs() -> transformers.PreTrainedTokenizerFast:
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġs", "Ġt", "he", "Ġthe"]
    merges = [("Ġ", "s"), ("Ġ", "t"), ("h", "e"), ("Ġt", "he")]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(SPECIAL)
    first = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **first)


def save(folder: Path, model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    said = {}
    for i, text in enumerate(TEXTS):
        row = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            found = model(**row)
        said[f"ids_{i}"] = row.input_ids[0].numpy()
        last = found.logits if hasattr(found, "logits") else found.last_hidden_state
        said[f"found_{i}"] = last[0, -1].numpy()
    np.savez_compressed(folder / "said.npz", texts=TEXTS, **said)


def main(target: Path) -> None:
    torch.manual_seed(0)
    cut = byte_pairs()
    cut.chat_template = CHATML
    size = {**SIZE, "vocab_size": len(cut), "num_key_value_heads": 1, "rope_parameters": None}
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}
    scaled = {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0}
    scaled |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    llama = transformers.LlamaConfig(
        **{**size, "rope_parameters": scaled}, rms_norm_eps=1e-3, bos_token_id=3, eos_token_id=4
    )
    save(target / "llama", transformers.LlamaForCausalLM(llama), cut)
    qwen = transformers.Qwen2Config(**{**size, **rope}, tie_word_embeddings=True, bos_token_id=None, eos_token_id=2)
    save(target / "qwen2", transformers.Qwen2ForCausalLM(qwen), cut)
    shape = {"n_positions": 64, "n_embd": 8, "n_layer": 2, "n_head": 2}
    gpt2 = transformers.GPT2Config(vocab_size=len(cut), **shape, bos_token_id=0, eos_token_id=0)
    cut.chat_template = CHATML.replace("<|im_end|>", "<|endoftext|>")  # KerasHub's GPT-2 knows no other end
    save(target / "gpt2", transformers.GPT2LMHeadModel(gpt2), cut)
    # Files of transformers 4, which version 5 no longer writes and KerasHub reads.
    cut.backend_tokenizer.model.save(str(target / "gpt2"))
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "sun",
        "sea",
        "fog",
        "gull",
        "rope",
        "0",
        "?",
        ",",
        "'",
        "s",
    ]
    bert = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=32, **SIZE)
    cutter = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    save(target / "bert", transformers.BertModel(bert), cutter)
    (target / "bert" / "vocab.txt").write_text("\n".join(words) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
