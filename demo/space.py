"""The world that the demo cameras look at: a camera, land, meshes, and how they become pixels.

Lengths are metres: x to the right, y away from the camera's foot, z up. The camera's
axis is level (a shift lens moves the horizon instead), so upright things stay upright.
Colours are RGB 0..255. What stands where, and how it moves, is each place's own file.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from effects import Noise, smoothstep

WIDTH, HEIGHT = 1280, 720
FINE = 2  # still pictures are painted this much larger and scaled down
SHARP = 3  # and so is what moves, patch by patch


@dataclass
class Camera:
    """`focal` and `horizon` are in pixels of the finished picture; yaw turns right."""

    height: float
    focal: float
    horizon: float
    yaw: float = 0.0

    def turned(self, points):
        """Points [..., 3] of the world as (right, away, up) of the camera."""
        x, y, z = np.moveaxis(np.asarray(points, np.float32), -1, 0)
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.stack([x * c - y * s, x * s + y * c, z - self.height], -1)

    def project(self, points):
        """Pixels [..., 2] and distances [...] of points in the world."""
        right, away, up = np.moveaxis(self.turned(points), -1, 0)
        away = np.maximum(away, 0.5)
        return np.stack([WIDTH / 2 + self.focal * right / away, self.horizon - self.focal * up / away], -1), away

    def ground(self, right, away):
        """World (x, y) of what lies `right` and `away` of the camera."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return right * c + away * s, -right * s + away * c


def lerp(low, high, amount):
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    return low + (high - low) * np.asarray(amount, np.float32)[..., None]


def finished(pixels):
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)


def small(pixels):
    """A picture painted FINE times too large, at its final size."""
    return cv2.resize(pixels, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


class Land:
    """A height field over x in -half..half, y in 0..depth, and the light upon it."""

    def __init__(self, half, depth, height_of, sun, cells=1536):
        self.half, self.depth = half, depth
        self.shape = (cells, cells)
        self.step = (2 * half / cells, depth / cells)
        x = (np.arange(cells, dtype=np.float32) + 0.5) * self.step[0] - half
        y = (np.arange(cells, dtype=np.float32) + 0.5) * self.step[1]
        self.heights = height_of(*np.meshgrid(x, y)).astype(np.float32)
        dx = cv2.Sobel(self.heights, cv2.CV_32F, 1, 0, scale=1 / 8) / self.step[0]
        dy = cv2.Sobel(self.heights, cv2.CV_32F, 0, 1, scale=1 / 8) / self.step[1]
        self.steep = np.hypot(dx, dy)
        sun = np.asarray(sun, np.float32) / np.linalg.norm(sun)
        facing = (sun[2] - dx * sun[0] - dy * sun[1]) / np.sqrt(1 + dx * dx + dy * dy)
        self.light = np.clip(facing, 0, 1) * (1 - 0.75 * self.shadow(sun))
        # Hollows see less of the sky.
        wide = cv2.GaussianBlur(self.heights, (0, 0), cells / 90)
        self.open = np.clip(1 + (self.heights - wide) / (half * 0.035), 0.55, 1.15)

    def shadow(self, sun):
        """How much of the sun other land hides, 0..1."""
        reach = 1.5 * min(self.step)
        flat = np.hypot(sun[0], sun[1])
        shaded = np.zeros(self.shape, np.float32)
        for hop in range(1, 60):
            far = reach * hop * (1 + hop / 20)
            shift = np.float32([[1, 0, -sun[0] / flat * far / self.step[0]], [0, 1, -sun[1] / flat * far / self.step[1]]])
            ahead = cv2.warpAffine(self.heights, shift, self.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
            above = ahead - self.heights - far * sun[2] / flat
            shaded = np.maximum(shaded, np.clip(above / (0.05 * far + 0.3), 0, 1))
        return cv2.GaussianBlur(shaded, (0, 0), 1.2)

    def sample(self, field, x, y):
        """A field of the land at points of the world."""
        u = ((np.asarray(x, np.float32) + self.half) / self.step[0] - 0.5).astype(np.float32)
        v = (np.asarray(y, np.float32) / self.step[1] - 0.5).astype(np.float32)
        shape = u.shape
        u, v = np.atleast_2d(u), np.atleast_2d(v)
        if max(u.shape) >= 32000:  # remap's limit
            return np.concatenate([self.sample(field, *part) for part in zip(np.array_split(np.ravel(x), 64), np.array_split(np.ravel(y), 64))])
        return cv2.remap(field, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).reshape(shape)

    def seen(self, camera, near=4.0, steps=1500):
        """World (x, y) and distance of every pixel of a FINE picture; distance inf is sky."""
        columns, rows = WIDTH * FINE, HEIGHT * FINE
        away = near * (self.depth * 0.98 / near) ** (np.arange(steps, dtype=np.float32)[:, None] / (steps - 1))
        slope = ((np.arange(columns, dtype=np.float32) + 0.5) / FINE - WIDTH / 2) / camera.focal
        x, y = camera.ground(slope[None] * away, away)
        heights = self.sample(self.heights, x, y)
        level = (camera.horizon + camera.focal * (camera.height - heights) / away) * FINE
        # The farthest row that any step so far has reached, per column, from the bottom up.
        reached = np.minimum.accumulate(level, axis=0)
        distance = np.full((rows, columns), np.inf, np.float32)
        wanted = np.arange(rows, dtype=np.float32) + 0.5
        for column in range(columns):
            climb = -reached[:, column]
            first = np.searchsorted(climb, -wanted)
            hit = first < steps
            k = np.clip(first, 1, steps - 1)
            share = (-wanted - climb[k - 1]) / np.maximum(climb[k] - climb[k - 1], 1e-6)
            between = away[k - 1, 0] + np.clip(share, 0, 1) * (away[k, 0] - away[k - 1, 0])
            distance[hit, column] = between[hit]
        flat = np.where(np.isfinite(distance), distance, 1.0)
        x, y = camera.ground(slope[None] * flat, flat)
        return x, y, distance


def sky(rng, camera, top, low, clouds, cover=(0.48, 0.75)):
    """A FINE-less sky and a wide cloud layer (colour, matte) that may drift across it."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    up = np.clip((camera.horizon - y) / max(camera.horizon, 1), 0, 1)
    clear = lerp(low, top, up**0.75)
    wide = WIDTH + 400
    y, x = np.mgrid[0:HEIGHT, 0:wide].astype(np.float32)
    # Clouds are a flat layer high up: towards the horizon they crowd together.
    lift = np.clip((camera.horizon - y) / HEIGHT, 0.004, 1)
    u, v = (x - wide / 2) / HEIGHT / (lift + 0.25), 0.9 / (lift + 0.12)
    noise = Noise(rng)
    body = noise.fractal(u * 1.6 + 20, v * 1.9 + 7, 6)
    lit = noise.fractal(u * 1.6 + 20.10, v * 1.9 + 7.12, 6)
    matte = smoothstep(*cover, body) * smoothstep(0.01, 0.12, lift) * clouds
    colour = lerp((176, 184, 198), (255, 253, 248), np.clip(0.55 + (body - lit) * 5.0, 0, 1))
    return clear, colour, matte


def drifted(layer, shift):
    """The part of a wide layer that is seen after it moved `shift` pixels to the left."""
    move = np.float32([[1, 0, -shift], [0, 1, 0]])
    return cv2.warpAffine(layer, move, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)


class Patch:
    """Shapes drawn one over the other, then blended into a picture with smooth edges."""

    def __init__(self):
        self.shapes = []

    def polygon(self, points, colour):
        self.shapes.append((np.asarray(points, np.float32), None, colour))

    def capsule(self, start, end, radius, colour):
        self.shapes.append((np.asarray([start, end], np.float32), max(radius, 0.3), colour))

    def coverage(self):
        """(colour, matte, left, top) at the picture's size, or None if nothing is inside."""
        if not self.shapes:
            return None
        low = np.min([points.min(0) - (radius or 0) for points, radius, _ in self.shapes], axis=0)
        high = np.max([points.max(0) + (radius or 0) for points, radius, _ in self.shapes], axis=0)
        left, top = np.maximum(np.floor(low).astype(int) - 2, 0)
        right, bottom = np.minimum(np.ceil(high).astype(int) + 2, (WIDTH, HEIGHT))
        if right - left < 2 or bottom - top < 2:
            return None
        colours = np.zeros(((bottom - top) * SHARP, (right - left) * SHARP, 3), np.uint8)
        mask = np.zeros(colours.shape[:2], np.uint8)
        for points, radius, colour in self.shapes:
            at = np.round(((points - (left, top)) * SHARP) * 16).astype(np.int32)
            if radius is None:
                cv2.fillPoly(colours, [at], colour, cv2.LINE_8, 4)
                cv2.fillPoly(mask, [at], 255, cv2.LINE_8, 4)
            else:
                thick = max(1, round(2 * radius * SHARP))
                ends = [tuple(int(v) for v in point) for point in at]
                cv2.line(colours, *ends, colour, thick, cv2.LINE_8, 4)
                cv2.line(mask, *ends, 255, thick, cv2.LINE_8, 4)
        size = (right - left, bottom - top)
        matte = cv2.resize(mask, size, interpolation=cv2.INTER_AREA).astype(np.float32)[..., None] / 255
        colour = cv2.resize(colours, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        return colour / np.maximum(matte, 1e-3), matte, left, top

    def blend(self, picture, haze=None, veil=0.0, hidden=None):
        """Into an RGB uint8 picture. `hidden` is a matte of what stands before it."""
        drawn = self.coverage()
        if drawn is None:
            return
        colour, matte, left, top = drawn
        if haze is not None:
            colour = colour + (np.asarray(haze, np.float32) - colour) * veil
        window = (slice(top, top + matte.shape[0]), slice(left, left + matte.shape[1]))
        if hidden is not None:
            matte = matte * (1 - hidden[window][..., None])
        under = picture[window].astype(np.float32)
        picture[window] = finished(under + (np.minimum(colour, 255) - under) * matte)

    def darken(self, picture, strength, soft=1.2, hidden=None):
        """As a shadow."""
        drawn = self.coverage()
        if drawn is None:
            return
        _, matte, left, top = drawn
        matte = cv2.GaussianBlur(matte[..., 0], (0, 0), soft)[..., None] * strength
        window = (slice(top, top + matte.shape[0]), slice(left, left + matte.shape[1]))
        if hidden is not None:
            matte = matte * (1 - hidden[window][..., None])
        picture[window] = finished(picture[window] * (1 - matte * (0.96, 0.92, 0.85)))


class Mesh:
    """Flat faces in parts. A face may carry decals, drawn right after it.

    Parts of a lower layer are drawn first (under-carriage, bodies, what is fixed to
    them), parts of one layer from far to near, and so are the faces of a part.
    """

    def __init__(self):
        self.faces = []  # (points, colour, decals, glow, part)
        self.layers = [1]

    def part(self, layer):
        """What is added from here on belongs to a new part."""
        self.layers.append(layer)
        return self

    def add(self, other, shift=(0, 0, 0)):
        """Another mesh's faces, its parts kept apart."""
        first = len(self.layers)
        self.layers += other.layers
        shift = np.asarray(shift, np.float32)
        self.faces += [(points + shift, colour, decals, glow, part + first) for points, colour, decals, glow, part in other.faces]

    def face(self, points, colour, decals=(), glow=False):
        self.faces.append((np.asarray(points, np.float32), np.asarray(colour, np.float32), decals, glow, len(self.layers) - 1))
        return self

    def box(self, x0, x1, y0, y1, z0, z1, colour, taper=0.0, decals=None):
        """An upright box; `taper` draws the top in. `decals` by side: front, back, left, right."""
        decals, t = decals or {}, taper
        b = [(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)]
        u = [(x0 + t, y0 + t, z1), (x1 - t, y0 + t, z1), (x1 - t, y1 - t, z1), (x0 + t, y1 - t, z1)]
        for name, i, j in (("front", 0, 1), ("right", 1, 2), ("back", 2, 3), ("left", 3, 0)):
            self.face([b[i], b[j], u[j], u[i]], colour, decals.get(name, ()))
        return self.face([u[0], u[1], u[2], u[3]], np.asarray(colour) * 1.03)

    def extrude(self, outline, half, colour, colours=None, inset=None, decals=()):
        """A side view (x, z), counter-clockwise from below, spread over y = -half..half."""
        colours, inset = colours or {}, inset or {}
        right = [(x, -(half - inset.get(i, 0)), z) for i, (x, z) in enumerate(outline)]
        left = [(x, half - inset.get(i, 0), z) for i, (x, z) in enumerate(outline)]
        for i in range(len(outline)):
            j = (i + 1) % len(outline)
            self.face([right[i], left[i], left[j], right[j]], colours.get(i, colour))
        flip = lambda points: [(x, -y, z) for x, y, z in points]
        self.face(right, colour, [d for d in decals])
        return self.face(left[::-1], colour, [(flip(points)[::-1], tint, glow) for points, tint, glow in decals])

    def moved(self, x, y, z=0.0, heading=0.0, pitch=0.0):
        """Turned by `pitch` (nose up) and `heading` (from +x towards +y), then shifted."""
        ch, sh, cp, sp = np.cos(heading), np.sin(heading), np.cos(pitch), np.sin(pitch)
        turn = np.array([[ch * cp, -sh, -ch * sp], [sh * cp, ch, -sh * sp], [sp, 0, cp]], np.float32)
        def place(points):
            return np.asarray(points, np.float32) @ turn.T + np.array([x, y, z], np.float32)
        other = Mesh()
        other.layers = list(self.layers)
        for points, colour, decals, glow, part in self.faces:
            other.faces.append((place(points), colour, [(place(p), tint, g) for p, tint, g in decals], glow, part))
        return other

    def draw(self, patch, camera, sun):
        """The faces that are turned to the camera."""
        sun = np.asarray(sun, np.float32) / np.linalg.norm(sun)
        eye = np.array([0, 0, camera.height], np.float32)
        gathered = {}
        for points, _, _, _, part in self.faces:
            gathered.setdefault(part, []).append(points.mean(0))
        behind = {part: -float(camera.project(np.mean(middles, 0))[1]) for part, middles in gathered.items()}
        order = []
        for points, colour, decals, glow, part in self.faces:
            # Newell's sum: three corners would not do, outlines may be hollow.
            normal = np.cross(points, np.roll(points, -1, 0)).sum(0)
            size = np.linalg.norm(normal)
            middle = points.mean(0)
            if size < 1e-9 or normal @ (middle - eye) > 0:
                continue
            normal = normal / size
            light = 1.0 if glow else 0.50 + 0.14 * normal[2] + 0.55 * max(0.0, float(normal @ sun))
            order.append(((self.layers[part], behind[part], part, -float(camera.project(middle)[1])), points, colour, decals, light))
        for _, points, colour, decals, light in sorted(order, key=lambda face: face[0]):
            patch.polygon(camera.project(points)[0], tint(colour, light))
            for shape, colour, glow in decals:
                patch.polygon(camera.project(shape)[0], tint(colour, 1.0 if glow else light))

    def shadow(self, patch, camera, sun, floor=0.02):
        """Every face laid flat on the ground along the sun's rays."""
        for points, *_ in self.faces:
            rise = points[:, 2:] - floor
            flat = np.concatenate([points[:, :2] - rise * np.asarray(sun[:2]) / sun[2], np.full_like(rise, floor)], 1)
            if (camera.turned(flat)[:, 1] > 1).all():
                patch.polygon(camera.project(flat)[0], (0, 0, 0))


def tint(colour, light):
    return tuple(float(v) for v in np.clip(np.asarray(colour, np.float32) * light, 0, 255))
