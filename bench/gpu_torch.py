"""The peer of gpu.py: a full training step in PyTorch, eager, on data that lie on the device.

python bench/gpu_torch.py JOB      JOB is JSON; prints one line of JSON

EfficientNet-Lite0 in channels_last, and an encoder of MiniLM's size; bfloat16 by autocast where there is a GPU. Weights
are random, which takes as long.
"""

import json
import sys
import time

import torch
from torch import nn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BLOCKS = [  # EfficientNet-B0 without squeeze and excitation: expansion, channels, repeats, stride, kernel
    *((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5)),
    (6, 320, 1, 1, 3),
]


def convolved(inputs, outputs, kernel, stride=1, groups=1, activated=True):
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)]
    layers += [nn.BatchNorm2d(outputs).eval(), *([nn.ReLU6(True)] if activated else [])]
    return nn.Sequential(*layers)


class Block(nn.Module):
    def __init__(self, inputs, outputs, expansion, stride, kernel):
        super().__init__()
        wide = inputs * expansion
        expanded = [convolved(inputs, wide, 1)] if expansion > 1 else []
        deep, out = convolved(wide, wide, kernel, stride, wide), convolved(wide, outputs, 1, activated=False)
        self.inner, self.adds = nn.Sequential(*expanded, deep, out), stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.inner(x) if self.adds else self.inner(x)


def images():
    layers, inputs = [convolved(3, 32, 3, 2)], 32
    for expansion, outputs, repeats, stride, kernel in BLOCKS:
        for i in range(repeats):
            layers.append(Block(inputs, outputs, expansion, 1 if i else stride, kernel))
            inputs = outputs
    head = [convolved(320, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 10)]
    return nn.Sequential(*layers, *head).to(memory_format=torch.channels_last)


class Texts(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(30522, 384)
        layer = nn.TransformerEncoderLayer(384, 12, 1536, activation="gelu", batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 6), nn.Linear(384, 6)

    def forward(self, ids):
        return self.head(self.encoder(self.tokens(ids)).mean(1))


def main(job):
    size = 8 if job["small"] else 128
    if job["what"] == "images":
        pixels = 32 if job["small"] else 224
        model, x = images(), torch.rand(size, 3, pixels, pixels).to(memory_format=torch.channels_last)
    else:
        model, x = Texts(), torch.randint(0, 30522, (size, 16))  # kerastune's batches have about as many tokens
    model, x, y = model.to(DEVICE), x.to(DEVICE), torch.zeros(size, dtype=torch.long, device=DEVICE)
    adam = torch.optim.Adam(model.parameters(), 1e-4)

    def step():
        with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
            loss = nn.functional.cross_entropy(model(x), y)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()

    def timed(steps):
        started = time.perf_counter()
        for _ in range(steps):
            step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    start = timed(1)
    timed(2 if job["small"] else 20)
    steps = 3 if job["small"] else 100
    return {"rate": size * steps / timed(steps), "start_s": start, "alone": 0.0, "note": DEVICE}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
