"""What a YOLOX network says, by numpy: the judge of src/worker/postprocess.rs.

    yolox_reference.py SIDE LABELS MIN_SCORE < RAW

RAW: the float32 output. Prints one line a box: label score x0 y0 x1 y1, in pixels of the input, best first, after
suppression by label (intersection over union above 0.45).
"""

import sys

import numpy as np


def boxes(raw, side, labels, least):
    raw = raw.reshape(-1, 5 + labels)
    cells, strides = [], []
    for stride in (8, 16, 32):
        count = side // stride
        y, x = np.mgrid[:count, :count]
        cells.append(np.stack([x, y], -1).reshape(-1, 2))
        strides.append(np.full(count * count, stride))
    cells, strides = np.concatenate(cells), np.concatenate(strides)[:, None]
    middle = (raw[:, :2] + cells) * strides
    half = np.exp(raw[:, 2:4]) * strides / 2
    corners = np.concatenate([middle - half, middle + half], 1)
    scores = raw[:, 4:5] * raw[:, 5:]
    found = []
    for label in range(labels):
        mine = np.where((scores.argmax(1) == label) & (scores[:, label] >= least))[0]
        mine = list(mine[np.argsort(-scores[mine, label], kind="stable")])
        while mine:
            best = mine.pop(0)
            found.append((label, scores[best, label], *corners[best]))
            if mine:
                others = corners[mine]
                low = np.maximum(corners[best, :2], others[:, :2])
                high = np.minimum(corners[best, 2:], others[:, 2:])
                shared = np.clip(high - low, 0, None).prod(1)
                area = lambda of: (of[..., 2] - of[..., 0]) * (of[..., 3] - of[..., 1])
                ratio = shared / (area(corners[best]) + area(others) - shared)
                mine = [other for other, overlap in zip(mine, ratio) if overlap <= 0.45]
    return sorted(found, key=lambda box: -box[1])


if __name__ == "__main__":
    side, labels, least = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    raw = np.frombuffer(sys.stdin.buffer.read(), np.float32).astype(np.float64)
    for box in boxes(raw, side, labels, least):
        print(*box)
