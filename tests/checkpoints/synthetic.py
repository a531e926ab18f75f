"""A checkpoint of the released PGM 8/8: its names, shapes, average, optimiser and file layout, and no numbers.

    python -m tests.checkpoints.synthetic make FILE [WIDTH LAYERS VOCABULARY]
    python -m tests.checkpoints.synthetic convert FILE FOLDER      prints the peak of anonymous memory, and what was written
    python -m tests.checkpoints.synthetic sample FOLDER            prints seconds (`sample`)
"""
from __future__ import annotations

import re
import sys
import threading
import time
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path

import torch

C = 128


def mlp(prefix: str, h: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.mlp.0.weight": (4 * h, h), f"{prefix}.mlp.0.bias": (4 * h,),
            f"{prefix}.mlp.2.weight": (h, 4 * h), f"{prefix}.mlp.2.bias": (h,),
            f"{prefix}.adaLN_modulation.weight": (6 * h, C), f"{prefix}.adaLN_modulation.bias": (6 * h,)}


def shapes(h: int, layers: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the order of registration (spec: text 1.8)."""
    found: dict[str, tuple[int, ...]] = {
        "vocab_embed.embedding": (vocabulary, h), "rotary_emb.inv_freq": (32,), "sigma_map.mlp.0.weight": (C, 256), "sigma_map.mlp.0.bias": (C,),
        "sigma_map.mlp.2.weight": (C, C), "sigma_map.mlp.2.bias": (C,)}
    for i in range(layers):
        at = f"encoder.blocks.{i}"
        found |= {f"{at}.norm1.weight": (h,), f"{at}.attn_qkv.weight": (3 * h, h), f"{at}.attn_out.weight": (h, h), f"{at}.norm2.weight": (h,),
                  **mlp(at, h)}
    swap = "decoder.group_swap"
    found |= {f"{swap}.base_embedding": (1, h), f"{swap}.pre_query_norm.weight": (h,), f"{swap}.pre_query_norm.bias": (h,)}
    for name, rows in (("query_processor", h), ("hidden_to_key_value", 2 * h), ("output_linear", h)):
        found |= {f"{swap}.{name}.weight": (rows, h), f"{swap}.{name}.bias": (rows,)}
    for i in range(layers):
        at = f"decoder.layers.{i}"
        found |= {f"{at}.q_norm1.weight": (h,), f"{at}.kv_norm1.weight": (h,), f"{at}.norm2.weight": (h,), f"{at}.attn_q.weight": (h, h),
                  f"{at}.attn_kv.weight": (2 * h, h), f"{at}.attn_out.weight": (h, h), **mlp(at, h)}
    last = "output_layer"
    return {**found, f"{last}.norm_final.weight": (h,), f"{last}.linear.weight": (vocabulary, h), f"{last}.linear.bias": (vocabulary,),
            f"{last}.adaLN_modulation.weight": (2 * h, C), f"{last}.adaLN_modulation.bias": (2 * h,)}


def make(path: Path, h: int = 768, layers: int = 8, vocabulary: int = 50258) -> None:
    """Write the file: 16 bytes a parameter, nearly all of them holes."""
    wanted = shapes(h, layers, vocabulary)
    parameters = {key: shape for key, shape in wanted.items() if key != "rotary_emb.inv_freq"}
    with torch.serialization.skip_data():                           # nothing is written into the tensors: their memory is never taken
        adam = {n: {"step": torch.empty(()), "exp_avg": torch.empty(shape), "exp_avg_sq": torch.empty(shape)}
                for n, shape in enumerate(parameters.values())}
        torch.save({
            "epoch": 0, "global_step": 1_000_000, "pytorch-lightning_version": "2.5.1",
            "state_dict": OrderedDict((f"backbone.{key}", torch.empty(shape)) for key, shape in wanted.items()), "loops": {}, "callbacks": {},
            "optimizer_states": [{"state": adam, "param_groups": [{"lr": 3e-4, "params": list(adam)}]}], "lr_schedulers": [],
            "ema": {"decay": 0.9999, "num_updates": 1_000_000, "shadow_params": [torch.empty(shape) for shape in parameters.values()]},
        }, path)
    from maskless.checkpoints.torchfile import read_torch

    file = read_torch(path)
    start = file.place(file.content["state_dict"]["backbone.rotary_emb.inv_freq"].storage)
    with open(path, "r+b") as stream:
        stream.seek(start)
        stream.write((10000.0 ** (-torch.arange(32, dtype=torch.float64) / 32)).float().numpy().tobytes())


def anonymous() -> int:
    """Bytes of anonymous memory in use: what the system cannot take back."""
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def convert(path: Path, folder: Path) -> None:
    from maskless.checkpoints import convert as conversion

    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    conversion.convert(path, folder, tokenizer=sys.argv[4] if len(sys.argv) > 4 else None)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    print(peak[0], (folder / "model.safetensors").stat().st_size, f"{seconds:.2f}")


def sample(folder: Path) -> None:
    """Seconds of loading, of the first 32 tokens of a text of 1,024 in 32 steps, and of 32 tokens in 8 steps: clock, processor."""
    import maskless

    class Enough(Exception):
        pass

    def first(canvas: object, record: object) -> None:
        raise Enough

    marks = [(time.perf_counter(), time.process_time())]
    model = maskless.load(folder, device="cpu")
    marks.append((time.perf_counter(), time.process_time()))
    try:
        model.generate(length=1024, steps=32, watch=first)
    except Enough:
        marks.append((time.perf_counter(), time.process_time()))
    model.generate(length=33, steps=8)
    marks.append((time.perf_counter(), time.process_time()))
    print(" ".join(f"{after - before:.2f}" for one, other in pairwise(marks) for before, after in zip(one, other)))


if __name__ == "__main__":
    verb, places, sizes = sys.argv[1], [Path(word) for word in sys.argv[2:4]], [int(word) for word in sys.argv[3:] if word.isdigit()]
    {"make": lambda: make(places[0], *sizes), "convert": lambda: convert(*places), "sample": lambda: sample(places[0])}[verb]()
