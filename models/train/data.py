"""Training pictures: which, from where, with which boxes, and how they are varied.

`build` writes one pack (a pickle of JPEGs with boxes) from the real sets named by
split.json and from pictures drawn here; `Stream` turns the pack into an endless,
seeded sequence of augmented training pictures, item i depending on (seed, i) only.

A box row is (kind, x0, y0, x1, y1) in pixels: kind 0 fire, 1 smoke; kind 10 + c marks
a region about which nothing is known for class c, where it earns no loss. People and
vehicles have no rows: the teacher labels them in the augmented picture (loss.py).

Fire and smoke sprites come from effects.py, places and look-alikes from scenes.py.
"""

import json
import pickle
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import cv2
import numpy as np
import torch

from effects import Flame, Smoke, box_of, paste, smoothstep
from model import FIRE, SMOKE
import scenes

HERE = Path(__file__).parent
UNKNOWN = 10
SIDE = 480  # longest side of a packed picture
FIRE8_CLASSES = {0: FIRE, 2: SMOKE}  # its class 1, "none", boxes the whole of a clear picture
# Share of each kind in the stream.
SHARES = {"fire": 0.15, "smoke": 0.12, "none": 0.12, "hills": 0.11, "drawn": 0.30, "clear": 0.20}
NO_BOXES = np.zeros((0, 5), np.float32)


@dataclass
class Picture:
    kind: str
    jpeg: bytes
    rows: np.ndarray

    def pixels(self):
        return cv2.imdecode(np.frombuffer(self.jpeg, np.uint8), cv2.IMREAD_COLOR)


def encode(pixels, quality=92):
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1].tobytes()


def shrink(pixels, rows):
    scale = SIDE / max(pixels.shape[:2])
    if scale >= 1:
        return pixels, rows
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return small, rows * np.array([1, scale, scale, scale, scale], np.float32)


def fire8(folder, names):
    """The pictures of fire8 with their boxes; None for kinds that teach nothing good."""
    for name in names:
        pixels = cv2.imread(str(folder / name))
        height, width = pixels.shape[:2]
        rows, kinds, flooded = [], set(), False
        for line in (folder / name).with_suffix(".txt").read_text().splitlines():
            kind, x, y, w, h = (float(part) for part in line.split()[:5])
            kinds.add(int(kind))
            if int(kind) in FIRE8_CLASSES:
                rows.append((FIRE8_CLASSES[int(kind)], (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height))
                flooded |= w * h > 0.8
        if not kinds or flooded:
            # A room filled with fog shows a flat grey: as a positive it would teach that
            # bare walls and asphalt are smoke, as a negative the opposite.
            continue
        if FIRE in {row[0] for row in rows} and SMOKE not in {row[0] for row in rows}:
            rows.append((UNKNOWN + SMOKE, 0, 0, width, height))
        kind = "none" if 1 in kinds and not rows else "fire" if any(row[0] == FIRE for row in rows) else "smoke"
        yield kind, *shrink(pixels, np.array(rows, np.float32).reshape(-1, 5))


def hpwren(folder, scene, names, labels):
    """Hillsides: boxes where labelled, else a region in which a plume stands somewhere."""
    for name in names:
        pixels = cv2.imread(str(folder / name))
        height, width = pixels.shape[:2]
        size = np.array([width, height, width, height], np.float32)
        rows = [(UNKNOWN + SMOKE, *(np.array(labels["where"][scene]) * size))]
        if name in labels["boxes"]:
            rows = [(SMOKE, *(np.array(labels["boxes"][name]) * size))]
        yield "hills", *shrink(pixels, np.array(rows, np.float32))


def read_sets(data, split):
    """(kind, pixels, rows) of every real picture of one side of the split."""
    labels = json.loads((HERE / "hpwren_labels.json").read_text())
    for scene, names in json.loads((HERE / "split.json").read_text())[split].items():
        source, scene = scene.split("/")
        if source == "fire8":
            yield from fire8(data / source, names)
        else:
            yield from hpwren(data / source, scene, names, labels)


def clear_crop(rng, pixels, rows):
    """A part of a picture in which nothing burns, or None."""
    height, width = pixels.shape[:2]
    for _ in range(12):
        share = rng.uniform(0.35, 1.0)
        w, h = int(width * share), int(height * min(1.0, share * rng.uniform(0.8, 1.25)))
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        apart = (rows[:, 1] >= x + w) | (rows[:, 3] <= x) | (rows[:, 2] >= y + h) | (rows[:, 4] <= y)
        if apart.all():
            return cv2.resize(pixels[y : y + h, x : x + w], (416, max(160, int(416 * h / w))), interpolation=cv2.INTER_AREA)
    return None


def cut_flames(pictures):
    """Sprites (RGBA, box) of real flames: the bright parts of fire boxes, where these end inside the box."""
    sprites = []
    for picture in pictures:
        pixels = picture.pixels()[..., ::-1]
        for _, x0, y0, x1, y1 in picture.rows[picture.rows[:, 0] == FIRE].astype(int):
            crop = pixels[max(y0, 0) : y1, max(x0, 0) : x1]
            if min(crop.shape[:2]) < 24:
                continue
            red, blue = crop[..., 0].astype(np.float32), crop[..., 2].astype(np.float32)
            matte = smoothstep(140, 215, red) * smoothstep(-30, 40, red - blue + 60 * (red > 235))
            matte = cv2.GaussianBlur(matte, (0, 0), 0.8)
            rim = np.concatenate([matte[0], matte[:, 0], matte[:, -1]]).mean()
            if 0.06 < matte.mean() < 0.7 and rim < 0.2:
                y, x = np.mgrid[-1 : 1 : crop.shape[0] * 1j, -1 : 1 : crop.shape[1] * 1j]
                matte *= smoothstep(1.0, 0.8, np.maximum(abs(x), abs(y)))
                sprites.append(np.dstack([crop, (matte * 255).astype(np.uint8)]))
    return sprites


def flame(rng, width, height, t, cuts):
    """(rgba, box) of one flame: drawn, or cut out of a real picture."""
    if len(cuts) == 0 or rng.random() < 0.5:
        return Flame(int(rng.integers(1 << 31)), (width, height)).at(t)
    rgba = cv2.resize(cuts[rng.integers(len(cuts))], (width, height), interpolation=cv2.INTER_AREA)
    rgba = np.ascontiguousarray(rgba[:, ::-1] if rng.random() < 0.5 else rgba)
    return rgba, box_of(rgba[..., 3] / 255.0, 0.35)


def window(rng, picture, x, y, width, height):
    """A dark opening with a frame, for a fire behind it; returns a function that sets its bars."""
    frame = rng.uniform(60, 250, 3).tolist()
    left, top, right, foot = int(x - width * 0.65), int(y - height * 1.1), int(x + width * 0.65), int(y + height * 0.1)
    cv2.rectangle(picture, (left, top), (right, foot), rng.uniform(5, 70, 3).tolist(), -1)

    def bars():
        thick = max(1, int(width * 0.06))
        cv2.rectangle(picture, (left, top), (right, foot), frame, thick)
        for i in range(1, int(rng.integers(1, 4))):
            at = left + (right - left) * i // 3
            cv2.line(picture, (at, top), (at, foot), frame, max(1, thick // 2))

    return bars


def burn(rng, picture, cuts):
    """Draw fire, smoke or both into an RGB picture; returns the rows."""
    height, width = picture.shape[:2]
    rows = []
    bright = float(np.clip(picture.mean() / 110, 0.25, 1.15))
    for _ in range(1 + (rng.random() < 0.3)):
        what = rng.choice(["fire", "smoke", "both"], p=[0.4, 0.3, 0.3])
        foot_x, foot_y = rng.uniform(0.05, 0.95) * width, rng.uniform(0.3, 1.0) * height
        tall = height * np.exp(rng.uniform(np.log(0.04), np.log(0.6)))
        t = rng.uniform(0, 60)
        if what != "fire":
            plume_h = int(np.clip(tall * rng.uniform(1.5, 5.0), 16, height * 1.3)) if what == "both" else int(np.clip(tall * 2, 16, height * 1.2))
            plume_w = int(plume_h * rng.uniform(0.5, 1.6)) + 8
            plume = Smoke(int(rng.integers(1 << 31)), (plume_w, plume_h), grow_s=rng.uniform(0, 90))
            rgba, box = plume.at(t)
            rgba[..., :3] = np.clip(rgba[..., :3] * min(bright, 1.0), 0, 255).astype(np.uint8)
            opacity = rng.uniform(0.55, 1.0)
            placed = paste(picture, rgba, box, int(foot_x - plume.root * plume_w), int(foot_y - plume_h), opacity)
            if placed:
                rows.append((SMOKE, *placed))
        if what != "smoke":
            # One fire, or a line of them close together that counts as one.
            line, whole = int(rng.choice([1, 1, 1, 2, 4])), None
            flame_h = int(max(8, tall * rng.uniform(0.6, 1.0)))
            flame_w = int(max(8, flame_h * rng.uniform(0.45, 1.5)))
            bars = window(rng, picture, foot_x, foot_y, flame_w, flame_h) if line == 1 and rng.random() < 0.25 else None
            opacity = rng.uniform(0.6, 1.0)
            for i in range(line):
                x, y = int(foot_x + (i * 0.6 - line * 0.3 - 0.2) * flame_w), int(foot_y - flame_h * rng.uniform(0.95, 1.05))
                placed = paste(picture, *flame(rng, flame_w, flame_h, t, cuts), x, y, opacity)
                if placed:
                    whole = placed if whole is None else (*np.minimum(whole[:2], placed[:2]), *np.maximum(whole[2:], placed[2:]))
            if bars:
                bars()
            if whole:
                rows.append((FIRE, *whole))
    return rows


def draw(job):
    """One drawn picture: a place, drawn or a clear part of a real one, burning or not."""
    seed, kind, real, cuts = job
    rng = np.random.default_rng([21, seed])
    picture = None
    if real is not None:
        picture = clear_crop(rng, real.pixels(), real.rows)
        if picture is not None:
            picture = np.ascontiguousarray(picture[..., ::-1])
    if picture is None:
        picture = scenes.background(rng, 416, int(rng.choice([234, 312, 416])))
    rows = []
    for _ in range(int(rng.choice([1, 1, 2, 3])) if kind == "clear" else int(rng.random() < 0.4)):
        picture = scenes.lookalike(rng, picture)
    if kind == "drawn":
        rows = burn(rng, picture, cuts)
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.1))
    return Picture(kind, encode(picture[..., ::-1], rng.uniform(35, 95)), np.array(rows, np.float32).reshape(-1, 5))


def build(data, split, drawn, clear, seed):
    """All pictures of one side of the split, real ones first."""
    real = [Picture(kind, encode(pixels), rows) for kind, pixels, rows in read_sets(data, split)]
    places = [p for p in real if p.kind in ("none", "hills")]
    rng = np.random.default_rng([20, seed])
    cuts, jobs = cut_flames([p for p in real if p.kind == "fire"]), []
    for i in range(drawn + clear):
        place = places[rng.integers(len(places))] if places and rng.random() < 0.5 else None
        few = [cuts[k] for k in rng.integers(len(cuts), size=4)] if cuts else []
        jobs.append((seed * 1_000_000 + i, "drawn" if i < drawn else "clear", place, few))
    with Pool(2) as pool:
        return real + pool.map(draw, jobs, chunksize=16)


def pack(path, **what):
    """The pictures of `build(**what)`, kept in a file between runs."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(build(**what)))
    return pickle.loads(path.read_bytes())


class Stream(torch.utils.data.Dataset):
    """Augmented training pictures: (uint8 BGR [3,size,size], rows)."""

    def __init__(self, pictures, size, seed, length):
        self.by_kind = {kind: [p for p in pictures if p.kind == kind] for kind in SHARES}
        self.size, self.seed, self.length, self.start = size, seed, length, 0

    def __len__(self):
        return self.length - self.start

    def pick(self, rng):
        kind = rng.choice(list(SHARES), p=list(SHARES.values()))
        return self.by_kind[kind][rng.integers(len(self.by_kind[kind]))]

    def __getitem__(self, index):
        cv2.setNumThreads(1)
        rng = np.random.default_rng([30, self.seed, self.start + index])
        canvas = np.full((self.size, self.size, 3), 114, np.uint8)
        if rng.random() < 0.35:
            cx, cy = (int(self.size * rng.uniform(0.3, 0.7)) for _ in range(2))
            tiles = [(0, 0, cx, cy), (cx, 0, self.size, cy), (0, cy, cx, self.size), (cx, cy, self.size, self.size)]
        else:
            tiles = [(0, 0, self.size, self.size)]
        rows = np.concatenate([self.place(rng, canvas, tile) for tile in tiles])
        if rng.random() < 0.5:
            canvas = canvas[:, ::-1]
            rows[:, [1, 3]] = self.size - rows[:, [3, 1]]
        canvas = vary(rng, canvas, (rows[:, 0] == FIRE).any())
        return torch.from_numpy(np.ascontiguousarray(canvas.transpose(2, 0, 1))), torch.from_numpy(rows)

    def place(self, rng, canvas, tile):
        """One picture, scaled and shifted, into a tile of the canvas."""
        picture = self.pick(rng)
        pixels, rows = picture.pixels(), picture.rows
        x0, y0, x1, y1 = tile
        w, h = x1 - x0, y1 - y0
        fit = min(self.size / pixels.shape[1], self.size / pixels.shape[0])
        scale = fit * np.exp(rng.uniform(np.log(0.5), np.log(1.9)))
        aspect = np.exp(rng.uniform(-0.3, 0.3))
        sx, sy = scale * aspect**0.5, scale / aspect**0.5
        spare_x, spare_y = w - pixels.shape[1] * sx, h - pixels.shape[0] * sy
        dx, dy = rng.uniform(min(0, spare_x), max(0, spare_x)), rng.uniform(min(0, spare_y), max(0, spare_y))
        area = cv2.INTER_AREA if scale < 0.6 else cv2.INTER_LINEAR
        canvas[y0:y1, x0:x1] = cv2.warpAffine(pixels, np.float32([[sx, 0, dx], [0, sy, dy]]), (w, h), flags=area, borderValue=(114, 114, 114))
        if not len(rows):
            return NO_BOXES
        moved = rows.copy()
        moved[:, [1, 3]] = rows[:, [1, 3]] * sx + dx
        moved[:, [2, 4]] = rows[:, [2, 4]] * sy + dy
        whole = (moved[:, 3] - moved[:, 1]) * (moved[:, 4] - moved[:, 2])
        moved[:, [1, 3]] = moved[:, [1, 3]].clip(0, w)
        moved[:, [2, 4]] = moved[:, [2, 4]].clip(0, h)
        sides = moved[:, 3:5] - moved[:, 1:3]
        seen = sides.prod(1) / np.maximum(whole, 1)
        # Of a box that is cut to a sliver, or has become a speck, nothing is claimed.
        doubtful = (seen < 0.25) | (sides.min(1) < 5)
        moved[doubtful & (moved[:, 0] < UNKNOWN), 0] += UNKNOWN
        return moved[sides.min(1) >= 1] + np.array([0, x0, y0, x0, y0], np.float32)


def vary(rng, pixels, has_fire):
    """Colour, light, blur, noise and compression of another camera."""
    hsv = cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(-5, 5)) % 180
    hsv[..., 1] *= rng.uniform(0.45, 1.4)
    hsv[..., 2] *= rng.uniform(0.55, 1.4)
    pixels = cv2.cvtColor(hsv.clip(0, 255).astype(np.uint8), cv2.COLOR_HSV2BGR)
    if not has_fire and rng.random() < 0.12:
        pixels = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    if rng.random() < 0.2:
        side = int(pixels.shape[0] * rng.uniform(0.4, 0.85))
        pixels = cv2.resize(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA), pixels.shape[1::-1])
    if rng.random() < 0.2:
        pixels = (pixels + rng.normal(0, rng.uniform(2, 10), pixels.shape)).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        pixels = cv2.imdecode(np.frombuffer(encode(pixels, rng.uniform(20, 70)), np.uint8), cv2.IMREAD_COLOR)
    return pixels


def collate(batch):
    return torch.stack([pixels for pixels, _ in batch]), [rows for _, rows in batch]
