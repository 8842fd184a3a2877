"""Judge an exported model: on pictures held out of the training, and on real clips.

    judge.py held  MODEL.onnx --data DIR       pictures of the held-out scenes
    judge.py clips MODEL.onnx --footage DIR    fire and smoke scores per clip
    judge.py rules MODEL.onnx --footage DIR    whether a scene's rules raise an alert on each clip
    judge.py kept  MODEL.onnx --footage DIR --weights yolox_nano_416.onnx
                                               people and vehicles against YOLOX-nano

A picture's score of a class is its best prediction's. "3 of 5" is the greatest score
that three of five successive pictures reach: what an alert that wants three of five
looks answers to. Needs onnxruntime; judges what is shipped, not a checkpoint.
"""

import argparse
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

import data
from model import COCO_PERSON, COCO_VEHICLES, FIRE, LABELS, PERSON, SMOKE, STRIDES, VEHICLE

SIDE = 416
FIRE_CLIP = "furg_house6.mp4"
# Clips with a stretch before the smoke: pictures counted from 0, the end not included.
CLEAR_STRETCH = {"hpwren_seq3_sunrise_then_smoke.mp4": (0, 75), "hpwren_seq7.mp4": (0, 41)}
SMOKE_STRETCH = {"hpwren_seq3_sunrise_then_smoke.mp4": (82, 146), "hpwren_seq7.mp4": (61, 186), "hpwren_seq1.mp4": (0, 146)}


class Detector:
    """A model of the YOLOX family: pictures (BGR) to scores and boxes."""

    def __init__(self, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options)
        cells = [(x, y, stride) for stride in STRIDES for y in range(SIDE // stride) for x in range(SIDE // stride)]
        self.cells = np.array(cells, np.float32)

    def __call__(self, picture):
        """Scores [predictions, labels] and boxes (x0, y0, x1, y1) in picture pixels."""
        scale = min(SIDE / picture.shape[0], SIDE / picture.shape[1])
        fitted = cv2.resize(picture, (round(picture.shape[1] * scale), round(picture.shape[0] * scale)))
        canvas = np.full((SIDE, SIDE, 3), 114, np.uint8)
        canvas[: fitted.shape[0], : fitted.shape[1]] = fitted
        raw = self.session.run(None, {"images": canvas.transpose(2, 0, 1)[None].astype(np.float32)})[0][0]
        centre = (raw[:, :2] + self.cells[:, :2]) * self.cells[:, 2:]
        half = np.exp(raw[:, 2:4]) * self.cells[:, 2:] / 2
        return raw[:, 4:5] * raw[:, 5:], np.concatenate([centre - half, centre + half], 1) / scale


def pictures(path, every):
    """(number, picture) of every `every`-th picture of a clip."""
    clip, number = cv2.VideoCapture(str(path)), 0
    while True:
        more, picture = clip.read()
        if not more:
            return
        if number % every == 0:
            yield number, picture
        number += 1


def three_of_five(scores):
    """The greatest score that three of some five successive scores reach."""
    scores = np.asarray(scores)
    if len(scores) < 3:
        return 0.0
    return max(np.sort(scores[i : i + 5])[-3] for i in range(max(1, len(scores) - 4)))


def boxes_of_truth(path):
    """The boxes (x0, y0, x1, y1) of each picture of a FURG clip."""
    truth = {}
    for frame in ElementTree.parse(path).getroot().find("frames"):
        boxes = [[int(part) for part in box.text.split()] for box in frame.find("annotations") or []]
        truth[int(frame.find("frameNumber").text)] = [(x, y, x + w, y + h) for x, y, w, h in boxes]
    return truth


def iou(box, others):
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    return shared / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared)


def over(box, truth):
    """Whether a box lies over one of the true ones: it overlaps it, or its middle is inside."""
    middle = (box[:2] + box[2:]) / 2
    return any(iou(box, np.array([t]))[0] > 0.2 or (t[0] <= middle[0] <= t[2] and t[1] <= middle[1] <= t[3]) for t in truth)


def quantiles(scores):
    return " ".join(f"{q:.3f}" for q in np.quantile(scores, [0.5, 0.9, 0.99, 1.0])) + f"  {three_of_five(scores):.3f}"


def judge_clips(args):
    detector = Detector(args.model)
    print(f"{'clip':44} {'pictures':>8}  fire: p50 p90 p99 max 3of5        smoke: p50 p90 p99 max 3of5")
    for path in sorted(args.footage.glob("*.mp4")):
        rate = cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS)
        every = 1 if path.name.startswith("hpwren") else max(1, round(rate / args.rate))
        truth = boxes_of_truth(path.with_suffix(".xml")) if path.name == FIRE_CLIP else {}
        numbers, best, placed = [], [], []
        for number, picture in pictures(path, every):
            scores, boxes = detector(picture)
            numbers.append(number)
            best.append(scores[:, [FIRE, SMOKE]].max(0))
            if truth.get(number):
                placed.append((scores[:, FIRE].max(), over(boxes[scores[:, FIRE].argmax()], truth[number])))
        numbers, best = np.array(numbers), np.array(best)
        stretches = {"": (0, 1 << 30)}
        if path.name in CLEAR_STRETCH:
            stretches = {" [clear]": CLEAR_STRETCH[path.name]}
        if path.name in SMOKE_STRETCH:
            stretches[" [smoke]"] = SMOKE_STRETCH[path.name]
            stretches.pop("", None)
        for name, (first, end) in stretches.items():
            part = best[(numbers >= first) & (numbers < end)]
            print(f"{path.name[:36] + name:44} {len(part):8}  {quantiles(part[:, 0])}    {quantiles(part[:, 1])}")
        for threshold in (0.3, 0.4, 0.5, 0.6, 0.7) if placed else ():
            reached = [good for score, good in placed if score >= threshold]
            print(f"    fire >= {threshold}: {len(reached)} of {len(placed)} pictures, best box over the fire in {sum(reached)}")


def raises(scores, rule):
    """Whether the best score of each look, in order, raises the rule's alert."""
    needed, of = rule["confirm"]
    hits = np.concatenate([np.zeros(of - 1), np.asarray(scores) >= rule["threshold"]])
    return bool((np.convolve(hits, np.ones(of), "valid") >= needed).any())


def judge_rules(args):
    """Each clip looked at every 2, 1 and 0.2 s, from every first picture; a time lapse picture by picture."""
    detector = Detector(args.model)
    rules = {c: tomllib.loads(args.scene.read_text())["rules"][LABELS[c]] for c in (FIRE, SMOKE)}
    print(f"{'clip':44}" + "".join(f"  {LABELS[c]} {rule['threshold']} {rule['confirm']}".ljust(44) for c, rule in rules.items()))
    for path in sorted(args.footage.glob("*.mp4")):
        lapse = path.name.startswith("hpwren")
        rate = cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS)
        every = 1 if lapse else max(1, round(rate / 5))
        best = np.array([detector(picture)[0][:, [FIRE, SMOKE]].max(0) for _, picture in pictures(path, every)])
        line = f"{path.name:44}"
        for column, rule in enumerate(rules.values()):
            for step in (1,) if lapse else (round(2 * rate / every), round(rate / every), 1):
                alerts = sum(raises(best[first::step, column], rule) for first in range(step))
                line += f"  {alerts} of {step} every {step * every / rate:.1f} s"
        print(line, flush=True)


def judge_held(args):
    """Recall and false pictures on held-out scenes; rates of a few scenes, not of the world."""
    detector = Detector(args.model)
    found = {}
    real = [data.Picture(kind, data.encode(pixels), rows) for kind, pixels, rows in data.read_sets(args.data, "held")]
    drawn = data.build(args.data, "held", args.drawn, args.drawn, seed=args.seed)[len(real) :]
    for picture in real + drawn:
        best = detector(picture.pixels())[0][:, [FIRE, SMOKE]].max(0)
        kinds = set(picture.rows[:, 0].astype(int))
        for c in (FIRE, SMOKE):
            if c in kinds:
                found.setdefault((picture.kind, c, True), []).append(best[c])
            elif data.UNKNOWN + c not in kinds:
                found.setdefault((picture.kind, c, False), []).append(best[c])
    marks = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    print(f"{'share of pictures that reach a score of':48}" + "".join(f"{m:7}" for m in marks))
    for (kind, c, there), scores in sorted(found.items()):
        name = f"{LABELS[c]} {'there' if there else 'absent'}, {kind} ({len(scores)})"
        print(f"{name:48}" + "".join(f"{np.mean(np.array(scores) >= m):7.3f}" for m in marks))


def suppressed(scores, boxes, least):
    """Boxes that remain after non-maximum suppression."""
    keep, order = [], [i for i in np.argsort(-scores) if scores[i] >= least]
    while order:
        first = order.pop(0)
        keep.append(first)
        order = [i for i, o in zip(order, iou(boxes[first], boxes[order])) if o < 0.5] if order else []
    return boxes[keep]


def judge_kept(args):
    ours, nano = Detector(args.model), Detector(args.weights)
    for path in sorted(args.footage.glob("*.mp4")):
        if path.name.startswith(("hpwren", "furg")):
            continue
        rate = cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS)
        line = f"{path.name:44}"
        count = {c: [0, 0, 0, 0] for c in (PERSON, VEHICLE)}
        for _, picture in pictures(path, max(1, round(rate / args.rate))):
            scores, boxes = ours(picture)
            nano_scores, nano_boxes = nano(picture)
            for c, rows in ((PERSON, [COCO_PERSON]), (VEHICLE, list(COCO_VEHICLES))):
                taught = suppressed(nano_scores[:, rows].max(1), nano_boxes, args.least)
                kept = suppressed(scores[:, c], boxes, args.least)
                count[c][0] += len(taught)
                count[c][1] += sum(bool(len(kept)) and iou(box, kept).max() > 0.5 for box in taught)
                count[c][2] += len(kept)
                count[c][3] += sum(bool(len(taught)) and iou(box, taught).max() > 0.5 for box in kept)
        for c, (taught, found, kept, shared) in count.items():
            line += f"  {LABELS[c]}: finds {found} of nano's {taught}, {kept - shared} of its {kept} are not nano's;"
        print(line)


def main():
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["held", "clips", "rules", "kept"])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, default=here / "../../../shared/training")
    parser.add_argument("--footage", type=Path, default=here / "../../../shared/footage")
    parser.add_argument("--weights", type=Path, default=here / "../../../shared/models/yolox_nano_416.onnx")
    parser.add_argument("--scene", type=Path, default=here / "../../config/scenes/forest-fire.toml", help="whose rules to judge")
    parser.add_argument("--rate", type=float, default=5.0, help="pictures a second taken from real-rate clips")
    parser.add_argument("--drawn", type=int, default=300, help="drawn pictures of each kind, on held-out places")
    parser.add_argument("--least", type=float, default=0.4, help="score from which a person or vehicle counts")
    parser.add_argument("--seed", type=int, default=77)
    args = parser.parse_args()
    {"held": judge_held, "clips": judge_clips, "rules": judge_rules, "kept": judge_kept}[args.what](args)


if __name__ == "__main__":
    main()
