"""Procedural fire and smoke: animated sprites with an alpha matte and an exact box.

Everything here is a pure function of a seed and a time in seconds, so the same
sprite can be drawn again for any picture of a clip, and neighbouring times give
neighbouring pictures: flames lick upwards, a plume grows and drifts. Only numpy.

    flame = Flame(seed=3, size=(96, 128))
    smoke = Smoke(seed=4, size=(240, 200), grow_s=20.0)
    for i in range(200):
        t = i / 10
        smoke_box = paste(picture, *smoke.at(t), x=60, y=-20)
        flame_box = paste(picture, *flame.at(t), x=180, y=120)

`at` returns `(rgba, box)`: uint8 RGBA (straight alpha) of the asked size and the box
`(x0, y0, x1, y1)` of what a person would mark, in sprite pixels, or None while nothing
is visible. `paste` blends a sprite into a picture and returns the box in picture pixels.

Backgrounds, lamps and other look-alikes do not live here (scenes.py), neither does the
choice of what is drawn where for training (data.py).
"""

import numpy as np


class Noise:
    """Smooth value noise in two dimensions, tiling every 64 cells, in 0..1."""

    SIDE = 64

    def __init__(self, rng):
        self.lattice = rng.random((self.SIDE, self.SIDE), dtype=np.float32)

    def __call__(self, x, y):
        x0, y0 = np.floor(x), np.floor(y)
        fx, fy = x - x0, y - y0
        fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
        xi, yi = x0.astype(np.int32) % self.SIDE, y0.astype(np.int32) % self.SIDE
        xj, yj = (xi + 1) % self.SIDE, (yi + 1) % self.SIDE
        lattice = self.lattice
        top = lattice[yi, xi] * (1 - fx) + lattice[yi, xj] * fx
        bottom = lattice[yj, xi] * (1 - fx) + lattice[yj, xj] * fx
        return top * (1 - fy) + bottom * fy

    def fractal(self, x, y, octaves):
        """Octaves of noise, each twice as fine and half as strong, in 0..1."""
        total, weight, scale = 0.0, 0.0, 1.0
        for octave in range(octaves):
            strength = 0.5**octave
            total = total + strength * self(x * scale + 17.3 * octave, y * scale + 9.1 * octave)
            weight += strength
            scale *= 2.0
        return total / weight


def smoothstep(low, high, value):
    """0 below low, 1 above high, smooth between."""
    step = np.clip((value - low) / (high - low), 0.0, 1.0)
    return step * step * (3 - 2 * step)


def ramp(value, stops):
    """Colours along `stops` [(position, (r, g, b)), ...], linear between them."""
    positions = [position for position, _ in stops]
    channels = [np.interp(value, positions, [colour[c] for _, colour in stops]) for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def box_of(matte, visible):
    """The box around `matte >= visible`, trimmed of stray wisps, or None."""
    mask = matte >= visible
    if mask.sum() < 6:
        return None
    bounds = []
    for axis in (0, 1):
        share = np.cumsum(mask.sum(axis=axis)) / mask.sum()
        bounds.append((int(np.searchsorted(share, 0.004)), int(np.searchsorted(share, 0.996)) + 1))
    (x0, x1), (y0, y1) = bounds
    return x0, y0, x1, y1


def paste(picture, rgba, box, x, y, opacity=1.0):
    """Blend a sprite into an RGB uint8 picture in place, its left top at (x, y).

    Returns the box clipped to the picture, or None where nothing of it is seen.
    """
    height, width = picture.shape[:2]
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + rgba.shape[1], width), min(y + rgba.shape[0], height)
    if x0 >= x1 or y0 >= y1:
        return None
    sprite = rgba[y0 - y : y1 - y, x0 - x : x1 - x].astype(np.float32)
    alpha = sprite[..., 3:] * (opacity / 255.0)
    under = picture[y0:y1, x0:x1].astype(np.float32)
    picture[y0:y1, x0:x1] = np.clip(under + (sprite[..., :3] - under) * alpha + 0.5, 0, 255).astype(np.uint8)
    if box is None:
        return None
    left, top = max(x + box[0], 0), max(y + box[1], 0)
    right, bottom = min(x + box[2], width), min(y + box[3], height)
    return (left, top, right, bottom) if right - left >= 2 and bottom - top >= 2 else None


class Flame:
    """A fire of one to several tongues standing on the sprite's lower edge.

    `vigour` 0..1 raises the tongues; `exposure` 0..1 goes from deep orange to the
    burnt-out white core that cameras show; `glow` is the strength of the halo, which
    is not part of the box.
    """

    def __init__(self, seed, size, vigour=None, exposure=None, glow=None, tongues=None):
        rng = np.random.default_rng([11, seed])
        self.width, self.height = size
        self.vigour = rng.uniform(0.5, 1.0) if vigour is None else vigour
        self.exposure = rng.uniform(0.1, 1.0) if exposure is None else exposure
        self.glow = rng.uniform(0.0, 0.4) if glow is None else glow
        self.speed = rng.uniform(1.3, 2.4)
        self.lean = rng.uniform(-0.35, 0.35)
        self.detail = rng.uniform(2.2, 4.2)
        self.noise = Noise(rng)
        count = int(rng.integers(1, 6)) if tongues is None else tongues
        centres = np.linspace(-0.55, 0.55, count) if count > 1 else np.zeros(1)
        self.centres = centres + rng.uniform(-0.12, 0.12, count)
        self.widths = rng.uniform(0.55, 1.0, count) * (0.78 / np.sqrt(count))
        self.tops = rng.uniform(0.55, 0.95, count)
        self.tops[rng.integers(count)] = 0.95
        self.phases = rng.uniform(0.0, 50.0, count)
        self.tint = rng.normal(0.0, 9.0, 3)

    def at(self, t):
        """The sprite at time t: `(rgba, box)`."""
        v, u = np.mgrid[self.height - 1 : -1 : -1, 0 : self.width].astype(np.float32)
        v, u = (v + 0.5) / self.height, (u + 0.5) / self.width * 2 - 1
        aspect = self.width / self.height
        rise = t * self.speed
        sway = self.noise(u * 0.6 + 3.0, v * 2.2 - rise) - 0.5
        curl = self.noise.fractal(u * 2.6 * aspect + 40.0, v * 3.2 - rise * 1.3, 3) - 0.5
        bent = u - self.lean * v * v + sway * v * 1.1 + curl * (0.12 + 0.75 * v)
        field = np.zeros_like(v)
        for centre, width, top, phase in zip(self.centres, self.widths, self.tops, self.phases):
            flicker = float(self.noise(np.float32(t * 4.0 + phase), np.float32(phase)))
            reach = top * (0.45 + 0.55 * self.vigour) * (0.7 + 0.4 * flicker)
            along = v / reach
            girth = width * np.sqrt(np.clip(1 - along, 0, 1)) * (1.05 - 0.35 * np.clip(along, 0, 1))
            inside = 1 - np.abs(bent - centre) / np.maximum(girth, 1e-3)
            field = field + np.clip(inside, 0, 1) ** 1.5 * (1 - 0.4 * np.clip(along, 0, 1))
        lick = self.noise.fractal(bent * self.detail * aspect, v * self.detail * 0.8 - rise * 1.6, 3)
        field = np.clip(field, 0, 1) * (0.75 + 0.5 * lick) - (0.22 + 0.70 * v) * (1 - lick) * 0.8
        field *= smoothstep(0.0, 0.10, v - 0.10 * u * u * lick + 0.03)
        body = smoothstep(0.06, 0.30, field)
        heat = np.clip(field * (0.85 + 0.9 * self.exposure) + 0.25 * self.exposure * body, 0, 1.2)
        colour = ramp(heat, [(0.0, (120, 24, 6)), (0.18, (205, 62, 12)), (0.40, (250, 132, 24)),
                             (0.62, (255, 198, 70)), (0.85, (255, 238, 160)), (1.05, (255, 253, 240))])
        colour = np.clip(colour + self.tint, 0, 255)
        matte = body * (0.80 + 0.20 * smoothstep(0.1, 0.5, field))
        far = (u / 0.95) ** 2 + ((v - 0.32) / 0.62) ** 2
        halo = self.glow * np.clip(1 - far, 0, 1) ** 2
        alpha = matte + (1 - matte) * halo
        warm = np.array([255.0, 150.0, 60.0], np.float32)
        colour = (colour * matte[..., None] + warm * ((1 - matte) * halo)[..., None]) / np.maximum(alpha, 1e-4)[..., None]
        rgba = np.concatenate([colour, alpha[..., None] * 255.0], axis=-1)
        return np.clip(rgba + 0.5, 0, 255).astype(np.uint8), box_of(matte, 0.35)


class Smoke:
    """A plume that leaves the sprite's lower edge, grows, widens and drifts downwind.

    `shade` 0 (black, oil) .. 1 (white, damp wood); `density` 0..1; `wind` -1..1 bends
    it; it reaches its full height `grow_s` seconds after t = 0 (0: full from the start).
    `root` is where it leaves the lower edge, as a share of the width.
    """

    def __init__(self, seed, size, shade=None, density=None, wind=None, grow_s=0.0, root=None):
        rng = np.random.default_rng([12, seed])
        self.width, self.height = size
        self.shade = rng.uniform(0.05, 1.0) if shade is None else shade
        self.density = rng.uniform(0.45, 1.0) if density is None else density
        self.wind = rng.uniform(-0.9, 0.9) if wind is None else wind
        self.root = 0.5 - 0.28 * self.wind if root is None else root
        self.grow_s = grow_s
        self.spread = rng.uniform(0.16, 0.42)
        self.mouth = rng.uniform(0.02, 0.09)
        self.curve = rng.uniform(1.0, 1.9)
        self.speed = rng.uniform(0.10, 0.22)
        self.detail = rng.uniform(2.6, 5.0)
        self.noise = Noise(rng)
        self.puff = Noise(rng)
        tone = 38 + 205 * self.shade
        self.colour = np.array([tone + rng.normal(0, 6), tone, tone + rng.normal(0, 8)], np.float32)

    def at(self, t):
        """The sprite at time t: `(rgba, box)`."""
        v, u = np.mgrid[self.height - 1 : -1 : -1, 0 : self.width].astype(np.float32)
        v, u = (v + 0.5) / self.height, (u + 0.5) / self.width
        aspect = self.width / self.height
        rise = t * self.speed
        sway = self.noise.fractal(u * 1.5 * aspect + 5.0, v * 1.8 - rise, 2) - 0.5
        axis = self.root + self.wind * 0.55 * v**self.curve
        girth = self.mouth + self.spread * np.sqrt(v) * (0.35 + 0.65 * v)
        x, y = u * aspect * self.detail + 31.0, (v - rise * 1.3) * self.detail
        fold = self.noise.fractal(x * 0.8, y * 0.8, 2) - 0.5
        billow = self.puff.fractal(x + 1.1 * fold - self.wind * v * self.detail * 0.5, y + 0.8 * fold, 4)
        off = (u - axis + sway * (0.05 + 0.28 * v)) / girth + (billow - 0.5) * 0.9
        crisp = 1 - np.abs(2 * billow - 1)
        grown = 1.0 if self.grow_s <= 0 else float(np.clip(t / self.grow_s, 0.0, 1.0))
        front = 0.06 + 0.90 * grown**0.7
        below_front = smoothstep(0.0, 0.22, front - v + (billow - 0.5) * 0.3)
        field = np.exp(-off * off * 1.1) + (billow - 0.5) * 0.6 + fold * 0.5
        body = smoothstep(0.22, 0.75, field) * below_front
        thin = 1 - (0.25 + 0.5 * (1 - self.density)) * v
        edge = np.minimum(np.minimum(u, 1 - u) / 0.05, (1 - v) / 0.06)
        matte = body * thin * (0.35 + 0.65 * self.density) * np.clip(edge, 0, 1)
        slope = np.gradient(billow, axis=1) * self.width + np.gradient(billow, axis=0) * self.height
        light = np.clip(0.86 + 0.045 * slope + 0.28 * (crisp - 0.5), 0.45, 1.25)
        colour = np.clip(self.colour * light[..., None], 0, 255)
        rgba = np.concatenate([colour, matte[..., None] * 255.0], axis=-1)
        return np.clip(rgba + 0.5, 0, 255).astype(np.uint8), box_of(matte, 0.12 + 0.06 * self.density)
