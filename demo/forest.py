"""Forest 1: hills of pine and birch; a fire breaks out in a hollow, burns and is put out."""

import cv2
import numpy as np

from actors import Grove
from effects import Flame, Noise, Smoke, paste, smoothstep
from space import HEIGHT, WIDTH, Camera, Land, drifted, finished, lerp, sky, small

RATE, SECONDS, KEY_EVERY = 15, 60, 15  # a key picture each second: looks follow key pictures
TITLE, START, QUALITY = "FOREST 1", 14 * 3600 + 26 * 60 + 11, 36
SUN = (0.62, -0.35, 0.62)
HAZE = (186, 200, 214)
CAMERA = Camera(height=62.0, focal=1050.0, horizon=196.0)
FIRE = (18.0, 205.0)  # where it burns, in the world
BURNS = (9.0, 33.0)  # seconds in which flames stand
SMOKES = (6.5, 44.0)


class Place:
    def __init__(self):
        rng = np.random.default_rng(4101)
        ground = Noise(rng)

        def heights(x, y):
            ridge = 1 - np.abs(2 * ground.fractal(x / 620 + 11, y / 620 + 3, 5) - 1)
            roll = ground.fractal(x / 260 + 5, y / 260 + 30, 4)
            far = smoothstep(150, 1500, y)
            return (ridge**1.6) * (14 + 250 * far) + roll * (18 + 34 * far) - 22 - 55 * far + np.abs(x) * 0.05 * (1 - far)

        land = Land(1700.0, 3300.0, heights, SUN)
        x, y, distance = land.seen(CAMERA, near=24.0)
        land_seen = np.isfinite(distance)
        away = np.where(land_seen, distance, 1.0)
        light = land.sample(land.light, x, y) * land.sample(land.open, x, y)
        cover = Noise(rng)
        fine = cover.fractal(x / 5.5, y / 5.5, 3)
        crowns = smoothstep(0.30, 0.72, fine)
        stand = cover.fractal(x / 140 + 9, y / 140, 3)
        meadow = smoothstep(0.585, 0.64, cover.fractal(x / 95 + 40, y / 120 + 12, 3))
        leaves = lerp((30, 44, 28), (88, 104, 56), crowns)
        leaves = lerp(leaves, lerp((52, 60, 26), (134, 132, 62), crowns), smoothstep(0.45, 0.62, stand) * 0.75)
        grass = lerp((112, 116, 62), (158, 148, 92), cover.fractal(x / 9 + 3, y / 9, 4))
        land_colour = lerp(leaves, grass, meadow) * (0.42 + 0.78 * light)[..., None] * (0.93 + 0.14 * cover(x / 1.3, y / 1.3))[..., None]
        veil = 1 - np.exp(-np.maximum(away - 60, 0) / 1500)
        clear, self.clouds, self.cloud_matte = sky(rng, CAMERA, (84, 136, 200), (206, 220, 232), 0.9)
        self.sky = clear
        shown = small(lerp(land_colour, HAZE, veil) * land_seen[..., None])
        self.land_matte = small(land_seen.astype(np.float32))
        pixels = shown + clear * (1 - self.land_matte[..., None])
        self.sway = np.zeros((HEIGHT, WIDTH), np.float32)
        self.before_fire = np.zeros((HEIGHT, WIDTH), np.float32)
        self.plant(rng, pixels, land, cover, distance)
        self.pixels = finished(pixels)
        self.sky_share = 1 - self.land_matte
        self.sway = cv2.GaussianBlur(self.sway, (0, 0), 3)
        self.wind = Noise(rng)
        self.columns, self.rows = (axis.astype(np.float32) for axis in np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)))
        self.foot = CAMERA.project([*FIRE, float(land.sample(land.heights, [FIRE[0]], [FIRE[1]])[0])])[0]
        # Seeds from 2^31 on are never drawn by the training.
        places = np.random.default_rng(4102)
        self.flames = []
        for i, along in enumerate([0, -38, 44, -82, 86, -6, 128, -58, 62, 24, 166, -112]):
            wide = int(places.uniform(74, 120) * (1.2 if abs(along) < 70 else 0.95))
            high = int(wide * places.uniform(0.95, 1.35))
            flame = Flame(2**31 + 7 + i, (wide, high), vigour=0.9, exposure=places.uniform(0.3, 0.6), glow=0.18, tongues=int(places.integers(3, 6)))
            flame.widths *= 1.35
            self.flames.append((int(places.uniform(-26, 12)), along, 0.045 * abs(along) + places.uniform(0, 1.5), flame))
        self.flames.sort(key=lambda one: one[0])
        self.plumes = [(0.20, 0, Smoke(2**31 + 90, (250, 200), shade=0.50, density=1.0, wind=0.55, grow_s=14.0, root=0.20)),
                       (0.24, 70, Smoke(2**31 + 93, (250, 200), shade=0.66, density=0.9, wind=0.5, grow_s=18.0, root=0.24))]
        for _, _, plume in self.plumes:
            plume.mouth, plume.spread = 0.10, 0.34

    def plant(self, rng, pixels, land, cover, distance):
        grove = Grove(rng, ["pine", "broad"], each=6)
        seen = small(np.where(np.isfinite(distance), distance, 1e6).astype(np.float32))
        spots = []
        for near, far, gap in ((30, 120, 5.5), (120, 330, 6.5), (330, 700, 9.0), (700, 1100, 14.0)):
            y = np.arange(near, far, gap)
            for row in y:
                x = np.arange(-row * 0.66 - 10, row * 0.66 + 10, gap)
                spots.append(np.stack([x + rng.uniform(-0.5, 0.5, len(x)) * gap, row + rng.uniform(-0.5, 0.5, len(x)) * gap], 1))
        spots = np.concatenate(spots)
        x, y = spots.T.astype(np.float32)
        meadow = cover.fractal(x / 95 + 40, y / 120 + 12, 3)
        hollow = np.hypot((x - FIRE[0]) / 26, (y - FIRE[1] + 16) / 26)
        keep = (meadow < 0.60 + 0.03 * rng.random(len(x))) & (hollow > 0.8 + 0.3 * rng.random(len(x))) & (rng.random(len(x)) < 0.93)
        spots = spots[keep][np.argsort(-y[keep])]
        x, y = spots.T.astype(np.float32)
        z = land.sample(land.heights, x, y)
        feet, away = CAMERA.project(np.stack([x, y, z], -1))
        light = land.sample(land.light, x, y)
        birch = cover.fractal(x / 140 + 9, y / 140, 3)
        for i in range(len(x)):
            u, v = int(feet[i, 0]), int(feet[i, 1])
            tall = rng.uniform(6.5, 12.5)
            peak = int(v - CAMERA.focal * tall * 0.7 / away[i])
            if not (-60 < u < WIDTH + 60 and v > 0 and peak < HEIGHT):
                continue
            if seen[min(max(peak, 0), HEIGHT - 1), min(max(u, 0), WIDTH - 1)] < away[i] * 0.9:
                continue
            kind = "broad" if birch[i] + rng.normal(0, 0.05) > 0.53 else "pine"
            size = CAMERA.focal * tall / away[i] * (0.85 if kind == "broad" else 1.0)
            veil = 1 - np.exp(-max(away[i] - 60, 0) / 1500)
            matte = self.before_fire if away[i] < FIRE[1] - 4 else None
            bright = (0.50 + 0.62 * light[i]) * rng.uniform(0.85, 1.12)
            grove.plant(pixels, feet[i], kind, int(rng.integers(6)), size, bright, HAZE, veil, matte)
            if away[i] < 400:
                high = int(size)
                window = (slice(max(v - high, 0), max(v - high // 3, 0)), slice(max(u - high // 4, 0), max(u + high // 4, 0)))
                self.sway[window] = min(1.0, 90 / away[i])

    def frame(self, number):
        t = number / RATE
        turn = 2 * np.pi * t / SECONDS
        picture = self.swayed(turn)
        drift = smoothstep(0.8 * SECONDS, SECONDS, np.float32(t))
        mix = lambda layer: drifted(layer, 40 + 2.2 * t) * (1 - drift) + drifted(layer, 40 + 2.2 * (t - SECONDS)) * drift
        matte = mix(self.cloud_matte)[..., None]
        above = self.sky + (mix(self.clouds) - self.sky) * matte
        top = int(CAMERA.horizon) + 40
        share = self.sky_share[:top, :, None]
        picture[:top] = finished(picture[:top] * (1 - share) + above[:top] * share)
        if SMOKES[0] <= t < SMOKES[1]:
            self.burn(picture, t)
        return picture

    def swayed(self, turn):
        x, y = self.columns[::8, ::8], self.rows[::8, ::8]
        gust = np.sin(13 * turn + x * 0.011 + y * 0.017) * 0.65 + np.sin(29 * turn - x * 0.019 + y * 0.03) * 0.35
        gust = cv2.resize(gust, (WIDTH, HEIGHT))
        return cv2.remap(self.pixels, self.columns + self.sway * gust * 1.7, self.rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

    def burn(self, picture, t):
        fx, fy = self.foot
        strength = float(smoothstep(BURNS[0], BURNS[0] + 7, np.float32(t)) * (1 - smoothstep(BURNS[1] - 5, BURNS[1], np.float32(t))))
        flicker = 0.85 + 0.15 * float(self.wind(np.float32(t * 5), np.float32(3)))
        # All that flames light, and all trees that stand before them, lie in this part.
        about = (slice(int(fy) - 320, min(int(fy) + 200, HEIGHT)), slice(max(int(fx) - 460, 0), int(fx) + 480))
        before = self.before_fire[about][..., None]
        if strength > 0.02:
            x, y = self.columns[about], self.rows[about]
            glow = (np.exp(-(((x - fx - 20) / 210) ** 2 + ((y - fy + 30) / 110) ** 2)) * strength * flicker)[..., None]
            picture[about] = finished(picture[about] * (1 + 0.55 * glow * (1.0, 0.45, 0.1)) + glow * (52, 22, 3))
        clean = picture[about].copy()
        fade = float(smoothstep(SMOKES[0], SMOKES[0] + 5, np.float32(t)) * (1 - smoothstep(SMOKES[1] - 9, SMOKES[1], np.float32(t))))
        wide, high = 980, 640
        for root, shift, plume in self.plumes:
            rgba, _ = plume.at(t - SMOKES[0])
            rgba = cv2.resize(rgba, (wide, high), interpolation=cv2.INTER_CUBIC)
            rgba[-70:, :, 3] = rgba[-70:, :, 3] * np.linspace(1, 0, 70)[:, None]  # it leaves the undergrowth, not a line
            if strength > 0.02:
                lower = smoothstep(0.70, 1.0, np.linspace(0, 1, high, dtype=np.float32))[:, None, None] * 0.6 * strength * flicker
                rgba[..., :3] = finished(rgba[..., :3] * (1 - lower) + np.float32([250, 140, 62]) * lower)
            paste(picture, rgba, None, int(fx + shift - root * wide), int(fy - high + 26), 0.92 * fade)
        picture[about] = finished(picture[about] + (clean - picture[about].astype(np.float32)) * before * 0.55)
        for down, along, later, flame in self.flames:
            size = float(smoothstep(BURNS[0] + later - 1, BURNS[0] + later + 5, np.float32(t)) * (1 - smoothstep(BURNS[1] - 6, BURNS[1] - later * 0.2, np.float32(t))))
            if size < 0.12:
                continue
            rgba, _ = flame.at(t + 5 * later)
            rgba = cv2.resize(rgba, None, fx=0.4 + 0.6 * size, fy=0.25 + 0.75 * size, interpolation=cv2.INTER_AREA)
            paste(picture, rgba, None, int(fx + along - rgba.shape[1] / 2), int(fy + down - rgba.shape[0]), min(1.0, size * 2))
        picture[about] = finished(picture[about] + (clean - picture[about].astype(np.float32)) * before * 0.8)
