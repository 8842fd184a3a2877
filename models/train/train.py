"""Train liuta-watch-n: one command, seeded, resumable.

    python3 models/train/train.py --data DIR --weights yolox_nano_416.onnx

Writes its pack of pictures and its checkpoints under --work and goes on from the last
checkpoint when started again. `--steps` may be changed between starts: the learning
rate is flat and falls over the last 40 % of the steps. export.py turns a checkpoint
into the ONNX file.
"""

import argparse
import copy
import math
import time
from pathlib import Path

import torch

import data
from loss import loss
from model import Watch, anchors, initialise

SIZE, LAST_SIZE = 320, 416  # the last fifth of the steps sees the size that the daemon uses


def rate(step, steps, peak):
    """Warm up, stay, fall to a fiftieth of the peak along a cosine."""
    warm = min(1.0, (step + 1) / 150)
    fall = max(0.0, (step - 0.6 * steps) / (0.4 * steps))
    return peak * warm * (0.51 + 0.49 * math.cos(math.pi * min(fall, 1.0)))


def groups(model):
    """What lies deep moves slowest, or the people in it are forgotten within minutes."""
    kinds = {"deep": [], "heads": [], "classes": []}
    for name, parameter in model.named_parameters():
        kinds["classes" if ".classes." in name else "heads" if name.startswith("heads") else "deep"].append(parameter)
    shares = {"deep": 0.4, "heads": 1.0, "classes": 2.0}
    return [{"params": kinds[kind], "share": shares[kind]} for kind in kinds]


def loader(pictures, size, args, step):
    """Batches from `step` on. Sizes draw from the same sequence of pictures."""
    stream = data.Stream(pictures, size, args.seed, args.steps * args.batch)
    stream.start = step * args.batch
    return iter(torch.utils.data.DataLoader(stream, args.batch, num_workers=args.workers, collate_fn=data.collate, drop_last=True))


def main():
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=here / "../../../shared/training")
    parser.add_argument("--weights", type=Path, default=here / "../../../shared/models/yolox_nano_416.onnx")
    parser.add_argument("--work", type=Path, default=here / "../../data/train", help="pack and checkpoints")
    parser.add_argument("--begin", type=Path, help="checkpoint whose averaged weights to begin with")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--drawn", type=int, default=1400, help="pictures with drawn fire and smoke")
    parser.add_argument("--clear", type=int, default=1200, help="drawn pictures without")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(2)
    args.work.mkdir(parents=True, exist_ok=True)
    pictures = data.pack(args.work / "train.pack", data=args.data, split="train", drawn=args.drawn, clear=args.clear, seed=args.seed)
    print(f"{len(pictures)} pictures", flush=True)

    model = initialise(Watch(), args.weights).to(memory_format=torch.channels_last)
    if args.begin:
        model.load_state_dict(torch.load(args.begin)["average"])
    teacher = initialise(Watch(classes=80), args.weights).eval().to(memory_format=torch.channels_last)
    average = copy.deepcopy(model).eval()
    optimiser = torch.optim.AdamW(groups(model), weight_decay=1e-3)
    step, last = 0, args.work / "last.pt"
    if last.exists():
        saved = torch.load(last)
        step = saved["step"]
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        print(f"going on from step {step}", flush=True)

    size, batches = None, None
    sums, began = {}, time.monotonic()
    while step < args.steps:
        wanted = LAST_SIZE if step >= 0.8 * args.steps else SIZE
        if wanted != size:
            size, batches = wanted, loader(pictures, wanted, args, step)
            cells, strides = anchors(size, size)
        pixels, rows = next(batches)
        pixels = pixels.float().to(memory_format=torch.channels_last)
        for group in optimiser.param_groups:
            group["lr"] = rate(step, args.steps, args.rate) * group["share"]
        with torch.no_grad():
            taught = teacher(pixels)
        parts = loss(model(pixels), taught, rows, cells, strides)
        total = sum(parts.values())
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            keep = min(0.998, step / (step + 20))
            for kept, new in zip(average.parameters(), model.parameters()):
                kept.lerp_(new, 1 - keep)
        for name, part in parts.items():
            sums[name] = sums.get(name, 0.0) + part.item()
        if step % 50 == 0:
            pace = 50 * args.batch / (time.monotonic() - began)
            print(f"step {step}/{args.steps} {pace:.1f} pictures/s " + " ".join(f"{name} {value / 50:.3f}" for name, value in sums.items()), flush=True)
            sums, began = {}, time.monotonic()
        if step % 200 == 0 or step == args.steps:
            part = last.with_suffix(".part")
            torch.save({"step": step, "model": model.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}, part)
            part.replace(last)


if __name__ == "__main__":
    main()
