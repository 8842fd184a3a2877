"""Write liuta-watch-n.onnx and its manifest from a checkpoint (default: the averaged weights).

    python3 models/train/export.py --work DIR

Input `images` [1,3,416,416], BGR 0..255, letterboxed to the left top, padded with 114.
Output `output` [1,3549,9]: per prediction x, y, w, h as published YOLOX files hold them
(xy = (xy + cell) * stride, wh = exp(wh) * stride), then objectness and the four classes
as probabilities; score = objectness * class.
"""

import argparse
import hashlib
from pathlib import Path

import torch

from model import LABELS, Watch

SIDE = 416
VERSION = "0.1.0"
# Recommended least scores: see liuta-watch-n.md for how they were chosen.
THRESHOLDS = {"fire": 0.35, "smoke": 0.35, "person": 0.4, "vehicle": 0.4}

MANIFEST = """\
name = "liuta-watch-n"
version = "{version}"
file = "liuta-watch-n.onnx"
sha256 = "{sha256}"
licence = "MIT OR Apache-2.0"
origin = ""
family = "yolox"

[input]
size = [{side}, {side}]
layout = "nchw"
channels = "bgr"
mean = [0.0, 0.0, 0.0]
scale = [1.0, 1.0, 1.0]
fit = "letterbox-top-left"
pad = 114

[output]
labels = [{labels}]

[thresholds]
{thresholds}
"""


def main():
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=here / "../../data/train")
    parser.add_argument("--out", type=Path, default=here / "..", help="folder of the model and its manifest")
    args = parser.parse_args()
    model = Watch().eval()
    saved = torch.load(args.work / "last.pt")
    model.load_state_dict(saved["average"])
    model.exporting = True
    file = args.out / "liuta-watch-n.onnx"
    torch.onnx.export(model, torch.zeros(1, 3, SIDE, SIDE), file, input_names=["images"], output_names=["output"], opset_version=13)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    labels = ", ".join(f'"{label}"' for label in LABELS)
    thresholds = "\n".join(f"{label} = {THRESHOLDS[label]}" for label in LABELS)
    file.with_suffix(".toml").write_text(MANIFEST.format(version=VERSION, sha256=sha256, side=SIDE, labels=labels, thresholds=thresholds))
    print(f"{file}: step {saved['step']}, {file.stat().st_size} bytes, sha256 {sha256}")


if __name__ == "__main__":
    main()
