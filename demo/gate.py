"""School gate 1: pupils arrive, alone and in twos and threes, and go in; some grown-ups walk by."""

import cv2
import numpy as np

from actors import Grove, Person, shaded
from effects import Noise, smoothstep
from space import HEIGHT, WIDTH, Camera, Land, Mesh, Patch, drifted, finished, lerp, sky, small, tint

RATE, SECONDS, KEY_EVERY = 15, 36, 30
TITLE, START, QUALITY = "SCHOOL GATE 1", 7 * 3600 + 21 * 60 + 5, 30
SUN = (0.52, -0.62, 0.55)
HAZE = (206, 214, 222)
CAMERA = Camera(height=5.2, focal=1020.0, horizon=168.0, yaw=-0.04)
WALL = 27.0  # how far the school's wall is
STREET = 12.5  # where the street ends and the pavement begins
GAP = (-5.0, 5.0)  # the gateway in the wall
OPEN = (-5.0, 2.2)  # the part that the sliding gate leaves free


class Place:
    def __init__(self):
        rng = np.random.default_rng(4301)
        self.detail = Noise(rng)
        land = Land(160.0, 420.0, lambda x, y: smoothstep(140, 400, y) * (6 + 34 * self.detail.fractal(x / 80 + 3, y / 120, 4)), SUN)
        x, y, distance = land.seen(CAMERA, near=4.0)
        seen = np.isfinite(distance)
        away = np.where(seen, distance, 1.0)
        colour = self.floor(x, y, away)
        hills = lerp((96, 112, 66), (150, 152, 104), self.detail.fractal(x / 9, y / 9, 4)) * (0.5 + 0.6 * land.sample(land.light, x, y))[..., None]
        colour = lerp(colour, hills, smoothstep(130, 150, y))
        colour = lerp(colour, HAZE, 1 - np.exp(-np.maximum(away - 45, 0) / 420))
        self.clear, self.clouds, self.cloud_matte = sky(rng, CAMERA, (104, 158, 214), (222, 230, 236), 0.85, (0.46, 0.78))
        land_matte = small(seen.astype(np.float32))
        pixels = finished(small(colour * seen[..., None]) + self.clear * (1 - land_matte[..., None]))
        sky_only = finished(self.clear)
        self.school(pixels)
        self.bollards = np.zeros((HEIGHT, WIDTH), np.float32)
        pixels = self.trees(rng, pixels)
        self.wall(pixels)
        same = (np.abs(pixels.astype(int) - sky_only).max(-1) < 3).astype(np.float32)
        self.sky_share = cv2.GaussianBlur(same, (0, 0), 0.6) * (np.arange(HEIGHT)[:, None] < CAMERA.horizon)
        self.pixels = pixels
        self.walkers = self.timetable(np.random.default_rng(4303))

    def floor(self, x, y, away):
        """Street, kerb, paved forecourt, and the yard behind the wall."""
        d, far = self.detail, np.clip(14 / away, 0, 1)
        asphalt = np.float32([104, 105, 108]) * (0.84 + 0.22 * d(x / 0.05, y / 0.05) * far + 0.24 * d.fractal(x / 3, y / 2, 4))[..., None]
        row = np.floor(y / 0.42)
        joint = np.minimum(np.abs(((x + 0.4 * (row % 2)) / 0.84) % 1 - 0.5) * 0.84, 1)
        joint_y = np.abs((y / 0.42) % 1 - 0.5) * 0.42
        edge = 0.012 + away / 2600
        lines = np.maximum(smoothstep(0.42 - edge, 0.42 - edge * 0.3, joint), smoothstep(0.21 - edge, 0.21 - edge * 0.3, joint_y)) * np.clip(0.016 / edge, 0.12, 1)
        each = d(np.floor((x + 0.4 * (row % 2)) / 0.84) * 0.73 + 5, row * 0.61 + 9)
        warm = ((np.floor(x / 4.2) % 3) == 0) & (y > STREET + 1) & (y < WALL)
        paving = lerp(lerp((172, 166, 158), (196, 190, 180), each), lerp((158, 112, 96), (178, 132, 112), each), 0.85 * warm)
        paving = paving * (1 - 0.35 * lines)[..., None] * (0.86 + 0.26 * d.fractal(x / 2.4 + 9, y / 2.4, 4))[..., None]
        yard = np.float32([160, 162, 160]) * (0.82 + 0.34 * d.fractal(x / 6, y / 6, 4))[..., None]
        colour = lerp(asphalt, paving, smoothstep(STREET - 0.02, STREET + 0.02, y))
        colour = lerp(colour, np.float32([205, 203, 196]) * (0.9 + 0.2 * d(x / 0.3, y / 0.1))[..., None], smoothstep(0.17, 0.14, np.abs(y - STREET + 0.12)))
        colour = lerp(colour, yard, smoothstep(WALL, WALL + 0.05, y))
        zebra = (np.abs(x + 0.6) < 3.4) & (y > 4.6) & (y < STREET - 0.8)
        stripe = smoothstep(0.27, 0.25, np.abs((x + 0.6) % 1.05 - 0.525)) * zebra
        colour = lerp(colour, np.float32([226, 226, 220]), stripe * (0.70 + 0.25 * d.fractal(x / 0.4, y / 0.4, 3)))
        return colour * 1.08

    def paint(self, picture, mesh, veil=0.0):
        shaded(mesh, CAMERA, SUN, picture, 1.4, 0.42, haze=HAZE, veil=veil)

    def school(self, picture):
        """The building, its flag pole, and a running track's wall behind."""
        pane, frame = (88, 112, 134), (226, 228, 228)
        for x0, x1, y0, depth, floors, colour in ((-46, -17, 66, 12, 3, (196, 142, 116)), (-16.5, 20, 62, 14, 4, (222, 208, 180)), (20.5, 48, 66, 12, 3, (196, 142, 116))):
            high, decals = floors * 3.5 + 1.2, []
            for level in range(floors):
                z = 1.0 + level * 3.5
                decals.append(([(x0, y0 - 0.01, z + 2.35), (x1, y0 - 0.01, z + 2.35), (x1, y0 - 0.01, z + 2.75), (x0, y0 - 0.01, z + 2.75)], tint(colour, 0.86), False))
                for x in np.arange(x0 + 1.2, x1 - 2.0, 3.0):
                    if abs(x - 1.0) < 2.6 and level == 0 and y0 == 62:
                        continue
                    rect = lambda a, b, c, d, off=0.02: [(a, y0 - off, c), (b, y0 - off, c), (b, y0 - off, d), (a, y0 - off, d)]
                    decals += [(rect(x - 0.08, x + 2.08, z - 0.08, z + 2.0), frame, False), (rect(x, x + 2.0, z, z + 1.92, 0.03), pane, False),
                               (rect(x, x + 2.0, z + 1.0, z + 1.92, 0.04), (126, 152, 174), False), (rect(x + 0.97, x + 1.03, z, z + 1.92, 0.05), frame, False)]
            mesh = Mesh().box(x0, x1, y0, y0 + depth, 0, high, colour, decals={"front": decals})
            mesh.part(2).box(x0 - 0.3, x1 + 0.3, y0 - 0.3, y0 + depth, high, high + 0.5, (236, 232, 222))
            if y0 == 62:
                door = [([(-1.8, 60.39, 0.2), (3.8, 60.39, 0.2), (3.8, 60.39, 2.8), (-1.8, 60.39, 2.8)], (64, 84, 100), False)]
                mesh.part(2).box(-2.6, 4.6, 60.4, 62, 0, 3.6, (236, 228, 208), decals={"front": door})
                mesh.part(2).box(-4.0, 6.0, 62, 70, high, high + 2.6, (214, 198, 168))
            self.paint(picture, mesh, 0.10)

    def trees(self, rng, picture):
        grove = Grove(rng, ["broad", "pine", "poplar"], each=6, sun=1.0, tall=360)
        spots = [(x + rng.uniform(-0.6, 0.6), y, kind, rng.uniform(low, high)) for x, y, kind, low, high in
                 [(x, 57, "broad", 5, 7) for x in (-34, -26, -19, -11, 12, 19, 27, 35)] + [(x, 44, "pine", 3.5, 5) for x in (-15, -11, 11, 15)]
                 + [(x, 30.5, "broad", 5.5, 7.0) for x in (-17.5, -12.5, -8.2, 8.6, 13.2, 18.0)]]
        pixels = picture.astype(np.float32)
        for x, y, kind, tall in sorted(spots, key=lambda spot: -spot[1]):
            foot, away = CAMERA.project([x, y, 0])
            shade = Patch()
            tip = np.array([x, y, 0]) - np.array([*SUN[:2], 0]) / SUN[2] * tall * 0.6
            shade.capsule(foot, CAMERA.project(tip)[0], CAMERA.focal * tall * 0.10 / away, (0, 0, 0))
            ground = finished(pixels)
            shade.darken(ground, 0.34, 3.0)
            pixels = ground.astype(np.float32)
            grove.plant(pixels, foot, kind, int(rng.integers(6)), CAMERA.focal * tall / float(away), rng.uniform(0.92, 1.12), HAZE, 0.06)
        self.grove = grove
        return finished(pixels)

    def wall(self, picture):
        """Railings on a low wall, two pillars with a beam, the guard's hut, flag pole, planters."""
        stone, red = (206, 196, 182), (158, 58, 48)
        for x0, x1 in ((-40.0, GAP[0] - 1.3), (GAP[1] + 4.6, 40.0)):
            for part in np.arange(x0, x1, 3.2):
                end = min(part + 3.2, x1)
                fence = Mesh().box(part, end, WALL - 0.15, WALL + 0.15, 0, 0.7, stone)
                fence.part(2).box(part, part + 0.42, WALL - 0.22, WALL + 0.22, 0, 2.3, (190, 150, 128))
                fence.part(3).box(part - 0.06, part + 0.48, WALL - 0.28, WALL + 0.28, 2.3, 2.42, stone)
                self.paint(picture, fence)
                rails = Patch()
                for bar in np.arange(part + 0.56, end, 0.16):
                    a, b = CAMERA.project(np.array([[bar, WALL, 0.7], [bar, WALL, 2.05]]))[0]
                    rails.capsule(a, b, 0.75, (62, 66, 70))
                for z in (0.9, 1.9):
                    a, b = CAMERA.project(np.array([[part + 0.42, WALL, z], [end, WALL, z]]))[0]
                    rails.capsule(a, b, 0.9, (58, 62, 66))
                rails.blend(picture)
        for x in (GAP[0] - 0.9, GAP[1] + 0.9):
            pillar = Mesh().box(x - 0.65, x + 0.65, WALL - 0.65, WALL + 0.65, 0, 4.6, (178, 88, 70))
            pillar.part(2).box(x - 0.75, x + 0.75, WALL - 0.75, WALL + 0.75, 0, 0.5, stone).part(3).box(x - 0.8, x + 0.8, WALL - 0.8, WALL + 0.8, 4.6, 4.95, stone)
            self.paint(picture, pillar)
        sign = [([(-5.2, WALL - 0.41, 4.98), (5.2, WALL - 0.41, 4.98), (5.2, WALL - 0.41, 5.82), (-5.2, WALL - 0.41, 5.82)], red, False)]
        self.paint(picture, Mesh().box(GAP[0] - 1.7, GAP[1] + 1.7, WALL - 0.4, WALL + 0.4, 4.85, 5.95, (214, 206, 192), decals={"front": sign}))
        self.letters(picture, "DALIUTA  PRIMARY  SCHOOL", (-4.7, 4.7), 5.12, 5.68)
        pane = lambda a, b: [([(a, WALL - 1.31, 1.0), (b, WALL - 1.31, 1.0), (b, WALL - 1.31, 2.2), (a, WALL - 1.31, 2.2)], (70, 92, 112), False)]
        hut = Mesh().box(GAP[1] + 1.9, GAP[1] + 4.6, WALL - 1.3, WALL + 1.4, 0, 2.7, (232, 230, 224), decals={"front": pane(GAP[1] + 2.1, GAP[1] + 3.1) + pane(GAP[1] + 3.3, GAP[1] + 4.4)})
        hut.part(2).box(GAP[1] + 1.7, GAP[1] + 4.8, WALL - 1.6, WALL + 1.6, 2.7, 2.95, (64, 92, 132))
        self.paint(picture, hut)
        gate = Patch()
        for step in np.arange(OPEN[1], GAP[1] - 0.1, 0.34):
            for a, b in (((step, 0.1), (step + 0.34, 1.4)), ((step + 0.34, 0.1), (step, 1.4)), ((step, 0.1), (step, 1.45))):
                p, q = CAMERA.project(np.array([[a[0], WALL, a[1]], [b[0], WALL, b[1]]]))[0]
                gate.capsule(p, q, 1.0, (196, 200, 204))
        gate.blend(picture)
        self.paint(picture, Mesh().box(OPEN[1] - 0.5, OPEN[1], WALL - 0.3, WALL + 0.3, 0, 1.5, (206, 208, 210)))
        for x in (-9.5, -7.2, 11.5, 14.0):
            self.paint(picture, Mesh().box(x - 0.9, x + 0.9, WALL - 2.6, WALL - 1.7, 0, 0.55, (186, 178, 168)))
            pixels, rng = picture.astype(np.float32), np.random.default_rng(int(x * 10) + 500)
            for i in range(9):
                foot, away = CAMERA.project([x - 0.75 + i * 0.19, WALL - 2.15, 0.5])
                self.grove.plant(pixels, foot + (0, 2), "broad", i, CAMERA.focal * rng.uniform(0.5, 0.75) / float(away), 1.05)
            picture[:] = finished(pixels)
        for x in np.arange(-8.5, 9.6, 1.5):
            bollard, patch = Mesh().box(x - 0.07, x + 0.07, STREET + 0.55, STREET + 0.69, 0, 0.8, (222, 184, 62)), Patch()
            self.paint(picture, bollard)
            bollard.draw(patch, CAMERA, SUN)
            drawn = patch.coverage()
            if drawn:
                _, matte, left, top = drawn
                self.bollards[top : top + matte.shape[0], left : left + matte.shape[1]] = matte[..., 0]

    def letters(self, picture, words, span, low, high):
        """Words on the beam, in perspective."""
        flat = np.zeros((96, 1100), np.uint8)
        (wide, tall), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_DUPLEX, 2.2, 5)
        cv2.putText(flat, words, ((1100 - wide) // 2, (96 + tall) // 2), cv2.FONT_HERSHEY_DUPLEX, 2.2, 255, 5, cv2.LINE_AA)
        corners = CAMERA.project(np.array([[span[0], WALL - 0.42, high], [span[1], WALL - 0.42, high], [span[1], WALL - 0.42, low], [span[0], WALL - 0.42, low]]))[0]
        turn = cv2.getPerspectiveTransform(np.float32([[0, 0], [1100, 0], [1100, 96], [0, 96]]), corners.astype(np.float32) * 2)
        matte = cv2.resize(cv2.warpPerspective(flat, turn, (WIDTH * 2, HEIGHT * 2)), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)[..., None] / 255.0
        picture[:] = finished(picture * (1 - matte) + np.float32([248, 226, 150]) * matte)

    def timetable(self, rng):
        """Everybody's way: (person, points, pace, second in which they set out)."""
        walkers = []
        begins = np.concatenate([np.linspace(0, SECONDS, 13, endpoint=False), rng.uniform(8, 26, 7)])
        for i, begin in enumerate(begins):
            side = -1 if rng.random() < 0.5 else 1
            door = rng.uniform(OPEN[0] + 0.7, OPEN[1] - 0.9)
            kind = rng.random()
            if kind < 0.62:
                way = [(side * rng.uniform(17, 18), rng.uniform(14.5, 17.5)), (side * rng.uniform(3, 6), rng.uniform(16, 20)), (door, WALL - 1.2), (door + rng.uniform(-0.2, 0.2), WALL + 1.5), (door * 0.6 + 1, 58)]
                tall = float(rng.choice([1.2, 1.3, 1.4, 1.5]))
            elif kind < 0.85:
                way = [(-0.6 + rng.uniform(-2.4, 2.4), 2.6), (-0.6 + rng.uniform(-1.6, 1.6), STREET), (door, WALL - 1.2), (door, WALL + 1.5), (door * 0.6 + 1, 58)]
                tall = float(rng.choice([1.25, 1.35, 1.5]))
            else:
                lane = rng.uniform(13.6, 15.5)
                way = [(side * 17.5, lane), (-side * 17.5, lane + rng.uniform(-1, 1))]
                tall = float(rng.choice([1.62, 1.72, 1.78]))
            walkers.append((Person(rng, tall), np.array(way), rng.uniform(1.15, 1.5) * (0.75 + 0.15 * tall), begin % SECONDS, rng.random()))
        guard = Person(rng, 1.75)
        guard.coat, guard.trousers, guard.bag, guard.long_hair = np.array([38, 48, 74.0]), np.array([30, 34, 46.0]), None, False
        self.guard = guard
        return walkers

    def where(self, way, went):
        """(x, y, heading) after `went` metres along a way, or None past its end. Corners are rounded."""
        legs = np.linalg.norm(np.diff(way, axis=0), axis=1)
        ends = np.concatenate([[0], np.cumsum(legs)])
        if went >= ends[-1]:
            return None
        at = lambda s: np.array([np.interp(s, ends, way[:, k]) for k in (0, 1)])
        around = [at(np.clip(went + off, 0, ends[-1])) for off in np.linspace(-1.6, 1.6, 9)]
        middle, ahead = np.mean(around, 0), np.mean(around[5:], 0) - np.mean(around[:4], 0)
        return middle[0], middle[1], float(np.arctan2(ahead[1], ahead[0]))

    def frame(self, number):
        t = number / RATE
        picture = self.pixels.copy()
        drift = smoothstep(0.75 * SECONDS, SECONDS, np.float32(t))
        mix = lambda layer: drifted(layer, 120 + 2.0 * t) * (1 - drift) + drifted(layer, 120 + 2.0 * (t - SECONDS)) * drift
        top = int(CAMERA.horizon) + 4
        above = self.clear + (mix(self.clouds) - self.clear) * mix(self.cloud_matte)[..., None]
        share = self.sky_share[:top, :, None]
        picture[:top] = finished(picture[:top] * (1 - share) + above[:top] * share)
        self.flag(picture, t)
        people = []
        for person, way, pace, begin, phase in self.walkers:
            for since in (t - begin, t - begin + SECONDS):
                place = self.where(way, since * pace) if since >= 0 else None
                if place:
                    stride = 0.75 * person.tall
                    people.append((person, (*place, phase + since * pace / stride, 0.85)))
        people.append((self.guard, (OPEN[1] - 1.1 + 0.5 * np.sin(2 * np.pi * t / SECONDS), WALL - 1.6, -1.6 + 0.5 * np.sin(4 * np.pi * t / SECONDS), 0.0, 0.05)))
        for person, at in people:
            shade = Patch()
            person.shadow(shade, CAMERA, SUN, at)
            shade.darken(picture, 0.45, 0.8)
        for person, at in sorted(people, key=lambda one: -one[1][1]):
            patch = Patch()
            person.draw(patch, CAMERA, SUN, at)
            patch.blend(picture, hidden=self.bollards if at[1] > STREET + 0.6 else None)
        return picture

    def flag(self, picture, t):
        """A flag on its pole in the yard."""
        patch = Patch()
        x, y = -7.5, 48.0
        a, b = CAMERA.project(np.array([[x, y, 0.0], [x, y, 11.5]]))[0]
        patch.capsule(a, b, 1.3, (214, 216, 218))
        columns = np.linspace(0, 2.9, 13)
        wave = lambda s: 0.30 * (s / 2.9) * np.sin(2 * np.pi * (s / 1.7 - 12 * t / SECONDS))
        fall = lambda s: 0.10 * s + 0.06 * s * np.sin(2 * np.pi * (s / 2.2 - 12 * t / SECONDS))
        for s, e in zip(columns, columns[1:]):
            points = np.array([[x + s, y + wave(s), 9.4 - fall(s)], [x + e, y + wave(e), 9.4 - fall(e)], [x + e, y + wave(e), 11.3 - fall(e)], [x + s, y + wave(s), 11.3 - fall(s)]])
            patch.polygon(CAMERA.project(points)[0], tint((206, 34, 30), 0.86 + 0.8 * (wave(e) - wave(s))))
        patch.blend(picture, HAZE, 0.06)

