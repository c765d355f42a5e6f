"""Runs a language model's artifact with Hugging Face transformers: pip install transformers torch."""

import os
import sys
from pathlib import Path


def load(folder, manifest, options):
    os.environ["HF_HUB_OFFLINE"] = "1"  # read the folder without asking a hub
    import torch
    from chats import Chat, speaking
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, set_seed

    if options.threads:
        torch.set_num_threads(options.threads)
    # For Qwen 2 models, AutoTokenizer of transformers 5 splits words Qwen's way, whatever tokenizer.json says.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()

    class Theirs(Chat):
        """Renders the template and tokenises with transformers."""

        def encode(self, texts):
            return tokenizer(texts, add_special_tokens=False).input_ids

        def render(self, messages, answering=False):
            opened = self.opened(messages)
            return tokenizer.apply_chat_template(opened, tokenize=False, add_generation_prompt=answering)

    @torch.inference_mode()
    def logits(ids):
        return model(torch.tensor([ids])).logits[0].numpy()

    @torch.inference_mode()
    def answer(ids, most):
        set_seed(options.seed)
        drawn = {"do_sample": True, "temperature": options.temperature, "top_k": 0, "top_p": 1.0}
        how = drawn if options.temperature else {"do_sample": False}
        asked = torch.tensor([ids])
        said = model.generate(asked, attention_mask=torch.ones_like(asked), max_new_tokens=most, **how)
        return said[0, len(ids) :].tolist()

    settings = manifest["reading"]
    chat = Theirs(tokenizer.chat_template, settings, None, tokenizer.decode)
    return speaking(chat, settings, options, logits, answer)


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, artifact.py is next to this file
    from artifact import answering, main, threads

    main(load, threads, answering)
