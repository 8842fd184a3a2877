"""Trunk road 1: a dual road between loess hills; cars, coaches and coal lorries pass, nobody walks."""

import cv2
import numpy as np

from actors import Grove, bus, car, coal_truck, shaded
from effects import Noise, smoothstep
from space import HEIGHT, WIDTH, Camera, Land, Patch, drifted, finished, lerp, sky, small

RATE, SECONDS, KEY_EVERY = 15, 32, 30
TITLE, START, QUALITY = "TRUNK ROAD 1", 10 * 3600 + 7 * 60 + 42, 26
SUN = (-0.62, 0.28, 0.55)
HAZE = (200, 206, 212)
CAMERA = Camera(height=8.2, focal=980.0, horizon=232.0, yaw=0.13)
MIDDLE = 3.4  # x of the road's middle line; the road runs along y
LANES = {"away": (MIDDLE + 2.2, MIDDLE + 5.9), "towards": (MIDDLE - 2.2, MIDDLE - 5.9)}
START_Y, END_Y = -14.0, 520.0


class Place:
    def __init__(self):
        rng = np.random.default_rng(4201)
        soil = Noise(rng)

        def heights(x, y):
            aside = np.abs(x - MIDDLE)
            bank = smoothstep(11, 42, aside)
            loess = 1 - np.abs(2 * soil.fractal(x / 210 + 4, y / 260 + 9, 5) - 1)
            gully = soil.fractal(x / 60, y / 60, 4)
            far = smoothstep(350, 1400, y)
            cut = bank * (3 + loess**1.5 * 26 + gully * 5) * (0.35 + 0.65 * smoothstep(20, 160, y))
            return cut + far * smoothstep(30, 420, aside) * loess**1.3 * 110 + far * 34 * loess - smoothstep(9.5, 12, aside) * 0.5

        land = Land(900.0, 2400.0, heights, SUN, cells=2048)
        x, y, distance = land.seen(CAMERA, near=5.0)
        seen = np.isfinite(distance)
        away = np.where(seen, distance, 1.0)
        light = 0.46 + 0.72 * land.sample(land.light, x, y) * land.sample(land.open, x, y)
        detail = Noise(rng)
        bare = lerp((150, 122, 86), (206, 180, 136), detail.fractal(x / 7, y / 7, 5))
        bare = bare * (0.88 + 0.24 * detail(x / 0.5, y / 0.5) * np.clip(30 / away, 0, 1) + 0.12 * detail.fractal(x / 40, y / 3 + land.sample(land.heights, x, y), 2))[..., None]
        grass = lerp((70, 84, 42), (140, 142, 84), detail.fractal(x / 2.2 + 9, y / 2.2, 4)) * (0.85 + 0.3 * detail(x / 0.16, y / 0.3))[..., None]
        green = smoothstep(0.44, 0.60, detail.fractal(x / 34 + 3, y / 34 + 50, 4) - 0.5 * smoothstep(0.5, 1.2, land.sample(land.steep, x, y)))
        colour = lerp(bare, grass, green * 0.9)
        colour = colour * light[..., None]
        self.road(detail, x, y, away, colour)
        veil = 1 - np.exp(-np.maximum(away - 50, 0) / 900)
        colour = lerp(colour, HAZE, veil)
        self.clear, self.clouds, self.cloud_matte = sky(rng, CAMERA, (108, 152, 204), (222, 228, 232), 0.75, (0.45, 0.8))
        land_matte = small(seen.astype(np.float32))
        pixels = small(colour * seen[..., None]) + self.clear * (1 - land_matte[..., None])
        self.plant(rng, pixels, land, small(np.where(seen, distance, 1e6).astype(np.float32)))
        self.sky_share = 1 - land_matte
        self.pixels = finished(pixels)
        # Trees before the sky must not be drifted over: the sky shows only where it still does.
        self.sky_share *= 1 - smoothstep(3, 14, np.abs(pixels - self.clear).max(-1)) * (land_matte < 0.5)
        self.furniture(self.pixels)
        self.traffic = self.timetable(np.random.default_rng(4203))

    def road(self, detail, x, y, away, colour):
        """Asphalt, lines and shoulders, painted over the ground."""
        aside = x - MIDDLE
        far = np.clip(60 / away, 0, 1)
        grain = detail(x / 0.09, y / 0.16) * far + (1 - far) * 0.5
        patches = detail.fractal(x / 2.6, y / 24, 3)
        tracks = sum(np.exp(-(((np.abs(aside) - lane - side) / 0.33) ** 2)) for lane in (2.2, 5.9) for side in (-0.85, 0.85))
        asphalt = np.full_like(colour, 1.0) * np.float32([116, 116, 118])
        asphalt = asphalt * (0.80 + 0.22 * grain + 0.22 * patches - 0.10 * tracks)[..., None]
        joints = (np.abs((y / 46) % 1 - 0.5) > 0.4985) | (detail.fractal(x / 3 + 7, y / 9, 4) > 0.735)
        asphalt = asphalt * np.where(joints, 0.86, 1.0)[..., None]
        on = smoothstep(8.75, 8.55, np.abs(aside))
        gravel = lerp((128, 118, 102), (176, 166, 148), detail(x / 0.14, y / 0.14) * far + (1 - far) * 0.5)
        shoulder = smoothstep(10.6, 9.6, np.abs(aside) + detail.fractal(x, y / 2, 3) - 0.5)
        light = np.float32(1.0)
        colour[:] = lerp(colour, gravel * light, shoulder)
        colour[:] = lerp(colour, asphalt * light, on)
        soft = 0.03 + away / 2600
        line = lambda offset, half: smoothstep(half + soft, half - soft * 0.3, np.abs(aside - offset)) * np.clip(half / soft, 0, 1)
        wear = 0.72 + 0.28 * detail.fractal(x / 0.8, y / 0.8, 3)
        dash = ((y / 12) % 1 < 0.5).astype(np.float32)
        paint = np.maximum.reduce([line(-8.0, 0.09), line(8.0, 0.09), line(4.05, 0.075) * dash, line(-4.05, 0.075) * dash])
        colour[:] = lerp(colour, np.float32([228, 228, 222]) * light, paint * wear)
        centre = np.maximum(line(-0.16, 0.075), line(0.16, 0.075))
        colour[:] = lerp(colour, np.float32([216, 172, 60]) * light, centre * wear)

    def plant(self, rng, pixels, land, seen):
        grove = Grove(rng, ["poplar", "broad", "pine"], each=5, sun=-1.0, tall=420)
        shadows = np.zeros((HEIGHT, WIDTH), np.float32)
        spots = [(MIDDLE + side * rng.uniform(12.2, 13.4), y + rng.uniform(-1, 1), "poplar", rng.uniform(10, 14)) for side in (-1, 1) for y in np.arange(34, 330, 8)]
        spots += [(MIDDLE + side * rng.uniform(15, 130), rng.uniform(22, 420), rng.choice(["broad", "broad", "pine"]), rng.uniform(2.2, 5.5)) for side in (-1, 1) for _ in range(420)]
        planted = []
        for x, y, kind, tall in sorted(spots, key=lambda spot: -spot[1]):
            z = float(land.sample(land.heights, [x], [y])[0])
            foot, away = CAMERA.project([x, y, z])
            if not (-80 < foot[0] < WIDTH + 80 and 0 < foot[1] < HEIGHT + 100) or away < 12:
                continue
            if seen[min(int(foot[1]) - 1, HEIGHT - 1), int(np.clip(foot[0], 0, WIDTH - 1))] < away * 0.93:
                continue
            planted.append((foot, away, kind, tall))
            if kind != "poplar":
                continue
            shade = Patch()
            tip = np.array([x, y, 0]) - np.array([*SUN[:2], 0]) / SUN[2] * tall
            shade.capsule(foot, CAMERA.project([tip[0], tip[1], z])[0], max(0.6, CAMERA.focal * tall * 0.09 / away), (0, 0, 0))
            drawn = shade.coverage()
            if drawn:
                _, matte, left, top = drawn
                window = (slice(top, top + matte.shape[0]), slice(left, left + matte.shape[1]))
                shadows[window] = np.maximum(shadows[window], cv2.GaussianBlur(matte[..., 0], (0, 0), 2.0) * np.exp(-away / 300))
        y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
        dapple = smoothstep(0.2, 0.75, Noise(rng).fractal(x / 16, y / 7, 3) + 0.15)
        pixels *= 1 - 0.45 * (shadows * (0.5 + 0.5 * dapple))[..., None]
        for foot, away, kind, tall in planted:
            veil = 1 - np.exp(-max(float(away) - 50, 0) / 900)
            grove.plant(pixels, foot, kind, int(rng.integers(6)), CAMERA.focal * tall / float(away), rng.uniform(0.85, 1.1), HAZE, veil)

    def furniture(self, picture):
        """Guard rails and lamp posts, from far to near."""
        for y in np.arange(300, 8, -4.0):
            away = CAMERA.project([MIDDLE, y, 0])[1]
            veil = float(1 - np.exp(-max(away - 50, 0) / 900))
            for x in (MIDDLE - 9.4, MIDDLE + 9.4):
                patch = Patch()
                a, b = CAMERA.project(np.array([[x, y, 0.0], [x, y, 0.75]]))[0]
                patch.capsule(a, b, max(0.35, 0.06 * CAMERA.focal / away), (128, 132, 136))
                beam = lambda low, high: CAMERA.project(np.array([[x, y, low], [x, y + 4, low], [x, y + 4, high], [x, y, high]]))[0]
                patch.polygon(beam(0.50, 0.82), (150, 154, 158))
                patch.polygon(beam(0.68, 0.82), (206, 210, 212))
                patch.polygon(beam(0.50, 0.56), (176, 180, 182))
                patch.blend(picture, HAZE, veil)
            if y % 40 == 20:
                for side in (-1, 1):
                    post = Patch()
                    x = MIDDLE + side * 10.3
                    top = [x, y, 9.5]
                    arm = [x - side * 2.6, y, 10.1]
                    a, b, c, d = CAMERA.project(np.array([[x, y, 0.0], top, arm, [x - side * 3.4, y, 10.1]]))[0]
                    thick = max(0.4, 0.075 * CAMERA.focal / away)
                    post.capsule(a, b, thick, (168, 172, 176))
                    post.capsule(b, c, thick * 0.7, (160, 164, 168))
                    post.capsule(c, d, thick * 1.3, (208, 212, 214))
                    post.blend(picture, HAZE, veil)

    def timetable(self, rng):
        """Who drives in which lane: (mesh, x, direction, metres a second, second in which it enters)."""
        paints = [(226, 228, 230), (40, 42, 48), (150, 154, 160), (168, 34, 36), (30, 62, 122), (226, 228, 230), (94, 74, 60)]
        cabs, beds = [(36, 92, 160), (170, 40, 40), (228, 228, 224), (44, 120, 86)], [(96, 104, 112), (118, 60, 48), (60, 84, 110)]
        traffic = []
        for way, lane, first, gap, kinds in (("away", 1, 1.0, 5.3, "tctbct"), ("away", 0, 3.0, 6.4, "ccccc"), ("towards", 1, 0.0, 5.3, "ctctbt"), ("towards", 0, 4.4, 8.0, "cccc")):
            for i, kind in enumerate(kinds):
                mesh = car(paints[rng.integers(len(paints))]) if kind == "c" else bus((232, 230, 222)) if kind == "b" else coal_truck(cabs[rng.integers(4)], beds[rng.integers(3)])
                traffic.append((mesh, LANES[way][lane] + rng.uniform(-0.2, 0.2), 1 if way == "away" else -1, 17.0 if lane else 23.0, (first + i * gap + rng.uniform(-0.5, 0.5)) % SECONDS))
        return traffic

    def frame(self, number):
        t = number / RATE
        picture = self.pixels.copy()
        drift = smoothstep(0.75 * SECONDS, SECONDS, np.float32(t))
        mix = lambda layer: drifted(layer, 100 + 3.0 * t) * (1 - drift) + drifted(layer, 100 + 3.0 * (t - SECONDS)) * drift
        top = int(CAMERA.horizon) + 10
        above = self.clear + (mix(self.clouds) - self.clear) * mix(self.cloud_matte)[..., None]
        share = self.sky_share[:top, :, None]
        picture[:top] = finished(picture[:top] * (1 - share) + above[:top] * share)
        moving = []
        for mesh, x, way, pace, enters in self.traffic:
            # A vehicle may still be on its way when the loop starts again.
            for since in (t - enters, t - enters + SECONDS):
                y = START_Y + since * pace if way > 0 else END_Y - since * pace
                if since >= 0 and START_Y <= y <= END_Y and since < (END_Y - START_Y) / pace:
                    moving.append((y, mesh, x, way))
        for y, mesh, x, way in sorted(moving, key=lambda one: -one[0]):
            placed = mesh.moved(x, y, 0.0, np.pi / 2 * way)
            away = float(CAMERA.project([x, y, 0])[1])
            nearest = min(CAMERA.turned(points)[:, 1].min() for points, *_ in placed.faces)
            if nearest < 2.5:
                continue
            veil = 1 - np.exp(-max(away - 50, 0) / 900)
            shaded(placed, CAMERA, SUN, picture, max(0.5, 24 / away), 0.55, haze=HAZE, veil=veil)
        return picture
