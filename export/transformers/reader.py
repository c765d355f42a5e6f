"""Runs an artifact with Hugging Face transformers: pip install transformers torch."""

import os
import sys
from pathlib import Path

import numpy as np


def load(folder, manifest, options):
    os.environ["HF_HUB_OFFLINE"] = "1"  # read the folder without asking a hub
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    return {"conversation": conversing, "sound": writing}[manifest["modality"]](folder, manifest["reading"], options)


def conversing(folder, settings, options):
    """Returns what scores and answers conversations."""
    import torch
    from chats import Chat, speaking
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, set_seed

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

    chat = Theirs(tokenizer.chat_template, settings, None, tokenizer.decode)
    return speaking(chat, settings, options, logits, answer)


def writing(folder, settings, options):
    """Returns what writes windows down, float32 [B, samples]: transformers' own front end, `generate` and text."""
    import torch
    from speech import Writing, heard, limit
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

    hear, tokenizer = (kind.from_pretrained(folder) for kind in (WhisperFeatureExtractor, WhisperTokenizer))
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()

    @torch.inference_mode()
    def written(window):
        how = {"sampling_rate": settings["sample_rate"], "padding": "max_length", "max_length": settings["samples"]}
        features = hear(window, return_tensors="pt", **how).input_features
        most = limit(heard(window), settings)
        found = model.generate(features, max_new_tokens=most, return_dict_in_generate=True, output_logits=True)
        said = Writing(most, settings)  # ends loops, and knows the margins
        for logits in found.logits:
            if not said.is_over:
                said.add([logits[0].numpy()])
        draft = said.best
        tokens = found.sequences[0, len(found.sequences[0]) - len(found.logits) :].tolist()[: len(draft.tokens)]
        return tokens, draft.margins, spelled(tokens)

    def spelled(tokens):
        return tokenizer.decode(tokens, skip_special_tokens=True).strip().encode()

    def run(inputs):
        rows = [written(window) for window in inputs["sounds"]]
        width = max(1, *(len(tokens) for tokens, _, _ in rows))
        return {
            "tokens": np.array([tokens + [-1] * (width - len(tokens)) for tokens, _, _ in rows]),
            "margins": np.array([margins + [0.0] * (width - len(margins)) for _, margins, _ in rows]),
            "text": [text for _, _, text in rows],
        }

    run.spelled = spelled
    return run


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, artifact.py is next to this file
    from artifact import answering, main, threads

    main(load, threads, answering)
