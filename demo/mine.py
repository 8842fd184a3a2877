"""Closed mine 1: a coal pit in benches, in which an excavator loads and a dump truck hauls."""

import numpy as np

from actors import Grove, dumper, excavator, shaded
from effects import Noise, smoothstep
from space import HEIGHT, WIDTH, Camera, Land, Mesh, drifted, finished, lerp, sky, small

RATE, SECONDS, KEY_EVERY = 15, 36, 30
TITLE, START, QUALITY = "CLOSED MINE 1", 16 * 3600 + 48 * 60 + 20, 26
SUN = (-0.70, -0.18, 0.50)
HAZE = (210, 206, 200)
CAMERA = Camera(height=26.0, focal=1420.0, horizon=128.0)
FLOOR = (-6.0, 105.0)  # the middle of the pit's floor
DIGGER = (-17.0, 97.0)
# The truck's way: it comes down on the right, is loaded beside the excavator, and leaves on the left.
WAY = np.array([(92, 60), (56, 66), (30, 76), (8, 88), (-6.5, 93.5), (-22, 86), (-44, 70), (-80, 56)], np.float32)
LOADING = (11.0, 23.0)  # seconds in which it stands at WAY[4]


class Place:
    def __init__(self):
        rng = np.random.default_rng(4401)
        self.noise = rock = Noise(rng)

        def heights(x, y):
            # A bowl that is open towards the camera, cut into benches.
            away = np.hypot((x - FLOOR[0]) / 1.25, np.maximum(y - FLOOR[1], (FLOOR[1] - y) * 0.35))
            away = away + 16 * (rock.fractal(x / 70 + 5, y / 70 + 2, 4) - 0.5)
            climb = np.maximum(away - 26, 0) / 19.0
            bench = np.floor(climb) + smoothstep(0.66, 0.93, climb % 1.0)
            cut = np.minimum(bench, 4.0) * 8.0
            rough = 1.1 * (rock.fractal(x / 6, y / 6, 4) - 0.5) * smoothstep(0, 0.3, climb) + 0.25 * (rock.fractal(x / 2 + 7, y / 2, 3) - 0.5)
            heap = sum(h * np.exp(-(((x - hx) / w) ** 2 + ((y - hy) / w) ** 2)) for hx, hy, h, w in ((-27, 104, 6.5, 6), (-35, 99, 5.5, 6), (24, 112, 4, 7), (33, 108, 3.2, 6)))
            hills = smoothstep(230, 1300, y) * 62 * (1 - np.abs(2 * rock.fractal(x / 300 + 9, y / 300 + 4, 5) - 1)) ** 1.3
            return cut + rough + heap * (1 + 0.25 * (rock.fractal(x / 2, y / 2, 3) - 0.5)) + hills

        land = Land(620.0, 1500.0, heights, SUN, cells=3072)
        x, y, distance = land.seen(CAMERA, near=14.0)
        seen = np.isfinite(distance)
        away = np.where(seen, distance, 1.0)
        z, steep = land.sample(land.heights, x, y), land.sample(land.steep, x, y)
        colour = self.strata(x, y, z, steep, away)
        light = 0.50 + 0.86 * land.sample(land.light, x, y) * land.sample(land.open, x, y)
        colour = lerp(colour * light[..., None], HAZE, 1 - np.exp(-np.maximum(away - 60, 0) / 800))
        self.clear, self.clouds, self.cloud_matte = sky(rng, CAMERA, (128, 164, 204), (228, 226, 220), 0.7, (0.44, 0.8))
        land_matte = small(seen.astype(np.float32))
        pixels = small(colour * seen[..., None]) + self.clear * (1 - land_matte[..., None])
        self.sky_share = 1 - land_matte
        self.shrubs(rng, pixels, land, small(np.where(seen, distance, 1e6).astype(np.float32)))
        self.pixels = finished(pixels)
        self.land = land
        self.sites(self.pixels)
        legs = np.linalg.norm(np.diff(WAY, axis=0), axis=1)
        self.ends = np.concatenate([[0], np.cumsum(legs)])

    def strata(self, x, y, z, steep, away):
        """Loess above, sandstone and coal in the faces, trodden spoil on the floors."""
        rock = self.noise
        layer = z + 1.2 * (rock.fractal(x / 24, y / 24, 3) - 0.5)
        bands = rock.fractal(x / 60 + 3, layer * 0.9, 4)
        stone = lerp((138, 122, 104), (190, 172, 146), bands)
        loess = lerp((176, 146, 104), (212, 184, 140), bands)
        face = lerp(stone, loess, smoothstep(16, 22, layer))
        coal = smoothstep(1.6, 2.4, layer) * smoothstep(9.0, 8.2, layer) + smoothstep(12.5, 13, layer) * smoothstep(15, 14.5, layer)
        face = lerp(face, lerp((34, 33, 36), (74, 72, 74), rock.fractal(x / 1.5, layer * 1.3, 3)), np.clip(coal, 0, 1) * 0.94)
        near = np.clip(80 / away, 0, 1)
        grit = rock.fractal(x / 1.1 + 3, y / 1.1, 4)
        floor = lerp((112, 100, 88), (170, 152, 128), 0.55 * grit + 0.45 * rock.fractal(x / 14, y / 14, 4))
        dark = smoothstep(0.46, 0.64, rock.fractal(x / 19 + 30, y / 12 + 8, 4)) * smoothstep(8, 1, z)
        floor = lerp(floor, (64, 60, 58), 0.55 * dark)
        low = np.minimum.reduce([self.aside(x, y, a, b) for a, b in zip(WAY, WAY[1:])])
        track = smoothstep(6.5, 3.6, low + 2.2 * (rock.fractal(x / 5, y / 5, 3) - 0.5))
        ruts = np.exp(-(((low - 2.0) / 0.6) ** 2))
        floor = lerp(floor, np.float32([176, 160, 136]), 0.6 * track) * (1 - 0.22 * ruts * track)[..., None]
        colour = lerp(floor, face, smoothstep(0.35, 0.75, steep))
        grass = smoothstep(0.46, 0.58, rock.fractal(x / 40 + 4, y / 40 + 1, 4)) * smoothstep(30, 32, z) * smoothstep(1.0, 0.4, steep)
        colour = lerp(colour, lerp((96, 102, 58), (158, 152, 96), grit), 0.8 * grass)
        return colour * (0.84 + 0.32 * rock.fractal(x / 0.45, y / 0.45, 2) * near + 0.16 * (1 - near))[..., None]

    @staticmethod
    def aside(x, y, a, b):
        """How far points lie from the stretch a-b."""
        along = np.clip(((x - a[0]) * (b[0] - a[0]) + (y - a[1]) * (b[1] - a[1])) / ((b - a) @ (b - a)), 0, 1)
        return np.hypot(x - a[0] - along * (b[0] - a[0]), y - a[1] - along * (b[1] - a[1]))

    def shrubs(self, rng, pixels, land, seen):
        grove = Grove(rng, ["broad", "pine"], each=5, sun=-1.0)
        spots = np.stack([rng.uniform(-330, 330, 5200), rng.uniform(60, 560, 5200)], 1)
        z, steep = (land.sample(field, *spots.T) for field in (land.heights, land.steep))
        spots, z = spots[(z > 30) & (steep < 0.7)], z[(z > 30) & (steep < 0.7)]
        for i in np.argsort(-spots[:, 1]):
            foot, away = CAMERA.project([*spots[i], z[i]])
            if not (-20 < foot[0] < WIDTH + 20 and 2 < foot[1] < HEIGHT) or seen[int(foot[1]) - 1, int(np.clip(foot[0], 0, WIDTH - 1))] < away * 0.95:
                continue
            veil = 1 - np.exp(-max(float(away) - 60, 0) / 800)
            grove.plant(pixels, foot, rng.choice(["broad", "broad", "pine"]), int(rng.integers(5)), CAMERA.focal * rng.uniform(1.4, 4.0) / float(away), rng.uniform(0.8, 1.05), HAZE, veil)

    def height(self, x, y):
        return float(self.land.sample(self.land.heights, [x], [y])[0])

    def sites(self, picture):
        """A container, a fence with a sign, and fuel drums, which do not move."""
        z = self.height(30, 92)
        box = Mesh().box(25.5, 31.5, 92, 94.5, 0, 2.6, (52, 96, 132)).moved(0, 0, z)
        box.part(2).box(34, 35.1, 92.5, 93.6, 0, 1.2, (140, 52, 44))
        shaded(box, CAMERA, (*SUN[:2], SUN[2]), picture, 1.0, 0.45)

    def truck_at(self, t):
        """(x, y, heading, load) or None while it is away."""
        stop = self.ends[4]
        if t < LOADING[0]:
            s = stop * (1 - (1 - t / LOADING[0]) ** 1.25)
        elif t < LOADING[1]:
            s = stop
        else:
            s = stop + 6.2 * (np.sqrt(1 + ((t - LOADING[1]) / 1.6) ** 2) - 1) * 1.6
        if s >= self.ends[-1]:
            return None
        at = lambda d: np.array([np.interp(d, self.ends, WAY[:, k]) for k in (0, 1)])
        around = [at(np.clip(s + off, 0, self.ends[-1])) for off in np.linspace(-6, 6, 13)]
        ahead = np.mean(around[7:], 0) - np.mean(around[:6], 0)
        load = float(np.clip((t - LOADING[0] - 2.2) / (LOADING[1] - LOADING[0] - 2.2), 0, 1))
        x, y = np.mean(around, 0)
        return float(x), float(y), float(np.arctan2(ahead[1], ahead[0])), np.floor(load * 4 + 0.001) / 4

    def arm_at(self, t):
        """(swing, boom, stick, bucket) of the excavator: a bucketful every three seconds while a truck stands by."""
        cycle = (t - LOADING[0] - 1.0) / 3.0
        busy = smoothstep(-1.2, 0.0, np.float32(cycle)) * smoothstep(4.6, 3.8, np.float32(cycle))
        turn = cycle % 1.0 * 2 * np.pi
        over = 0.5 - 0.5 * np.cos(turn)  # 0 at the heap, 1 over the truck
        heap, truck, rest = np.array([2.45, 0.62, -1.45, -0.9]), np.array([-0.32, 0.98, -0.95, -1.5]), np.array([1.9, 0.75, -1.3, -1.0])
        at = heap + (truck - heap) * over
        dig = np.clip(np.cos(turn), 0, 1) ** 2
        at = at + np.array([0, -0.22, -0.12 + 0.25 * np.sin(2 * turn), -0.5]) * dig
        return rest + (at - rest) * float(busy)

    def frame(self, number):
        t = number / RATE
        picture = self.pixels.copy()
        drift = smoothstep(0.75 * SECONDS, SECONDS, np.float32(t))
        mix = lambda layer: drifted(layer, 120 + 2.4 * t) * (1 - drift) + drifted(layer, 120 + 2.4 * (t - SECONDS)) * drift
        top = int(CAMERA.horizon) + 4
        above = self.clear + (mix(self.clouds) - self.clear) * mix(self.cloud_matte)[..., None]
        share = self.sky_share[:top, :, None]
        picture[:top] = finished(picture[:top] * (1 - share) + above[:top] * share)
        self.dust(picture, t)
        things = []
        truck = self.truck_at(t)
        if truck:
            x, y, heading, load = truck
            things.append((y, dumper(load).moved(x, y, self.height(x, y), heading)))
        z = self.height(*DIGGER)
        for mesh in excavator(*self.arm_at(t)):
            things.append((DIGGER[1], mesh.moved(*DIGGER, z, 0.0)))
        for y, mesh in sorted(things, key=lambda one: -one[0]):
            shaded(mesh, CAMERA, SUN, picture, 1.0, 0.45, haze=HAZE, veil=0.05)
        return picture

    def dust(self, picture, t):
        """Thin, low and brown behind the wheels."""
        for age in np.arange(0.2, 4.0, 0.35):
            truck = self.truck_at(t - age) if t > age else None
            if truck is None or LOADING[0] - 1 < t - age < LOADING[1] + 1:
                continue
            x, y = truck[:2]
            at, away = CAMERA.project([x, y, self.height(x, y) + 0.4 + 0.35 * age])
            radius = CAMERA.focal / float(away) * (1.6 + 1.1 * age)
            left, right = int(max(at[0] - 2 * radius, 0)), int(min(at[0] + 2 * radius, WIDTH))
            up, low = int(max(at[1] - radius, 0)), int(min(at[1] + radius, HEIGHT))
            if left >= right or up >= low:
                continue
            v, u = np.mgrid[up:low, left:right].astype(np.float32)
            round_off = np.clip(1 - ((u - at[0]) / (2 * radius)) ** 2 - ((v - at[1]) / radius) ** 2, 0, 1)
            billow = self.noise.fractal(u / 26 + age * 0.7, v / 15 + (t - age) * 3.0, 3)
            matte = (0.30 * (1 - age / 4.0) * round_off * (0.4 + 1.2 * billow))[..., None]
            picture[up:low, left:right] = finished(picture[up:low, left:right] * (1 - matte) + np.float32([196, 178, 150]) * matte)
