"""What moves, grows or parks in the demo places: trees, people, vehicles, machines.

Vehicles are meshes that head towards +x with their middle at the origin; people are
joints that walk. Where they are at which time is each place's own file.
"""

import cv2
import numpy as np

from space import Mesh, Patch, tint

GLASS, TYRE, HUB = (42, 52, 62), (28, 28, 30), (120, 122, 126)
TAIL, HEAD = (190, 30, 28), (250, 248, 235)


def tree(rng, kind, tall=240, sun=1.0):
    """A tree as RGBA floats (straight alpha): "pine", "broad" or "poplar", lit from the right for sun > 0."""
    share = {"pine": 0.46, "broad": 0.95, "poplar": 0.30}[kind]
    wide = int(tall * share)
    pixels, matte = np.zeros((tall, wide, 3), np.float32), np.zeros((tall, wide), np.float32)
    middle = wide / 2
    trunk = {"pine": 0.14, "broad": 0.20, "poplar": 0.10}[kind]
    for y in range(int(tall * 0.45), tall):
        half = max(0.7, tall * 0.011 * (0.5 + y / tall))
        cv2.line(pixels, (int(middle - half), y), (int(middle + half), y), (62.0, 50.0, 40.0), 1)
        cv2.line(matte, (int(middle - half), y), (int(middle + half), y), 1.0, 1)
    dark = np.array({"pine": (22, 36, 24), "broad": (32, 46, 20), "poplar": (36, 50, 22)}[kind], np.float32)
    bright = np.array({"pine": (96, 118, 66), "broad": (140, 152, 70), "poplar": (150, 160, 84)}[kind], np.float32)
    hue = rng.normal(0, 7, 3) + rng.normal(0, 5)
    lumps = rng.normal(0, 1, (9, 3)) * (0.26, 0.22, 0.5)
    leaves = []
    crowd = (tall / 240) ** 1.6
    for _ in range(int({"pine": 1600, "broad": 3000, "poplar": 2600}[kind] * crowd)):
        if kind == "pine":
            v = rng.random() ** 0.75
            reach = (0.06 + 0.94 * v) * (0.72 + 0.28 * np.sin(v * 42 + lumps[0, 0] * 9))
            u, depth = rng.uniform(-1, 1) * reach, rng.uniform(-1, 1)
            y = v * (1 - trunk) + 0.10 * abs(u) + 0.005
            lift = 0.35 - 0.5 * abs(u)
        else:
            angle, radius = rng.uniform(0, 2 * np.pi), rng.random() ** 0.6
            u, v, depth = np.cos(angle) * radius, np.sin(angle) * radius, rng.uniform(-1, 1)
            lump = lumps[rng.integers(9)]
            if kind == "poplar":
                u *= 0.95 - 0.35 * abs(v) - 0.25 * max(0.0, -v) + 0.12 * lumps[rng.integers(9), 0]
            if kind == "broad":
                u, v = u * 0.52 + lump[0] * 1.3, v * 0.46 + lump[1] * 1.2
            y = 0.5 * (1 - trunk) * (1 + v) + 0.02
            lift = -v * 0.8
        facing = np.clip(0.42 + 0.36 * sun * u + 0.30 * lift + 0.22 * depth + rng.normal(0, 0.13), 0, 1)
        leaves.append((depth, middle + u * middle * 0.94, y * tall, facing))
    size = max(1.0, tall**0.5 * {"pine": 0.17, "broad": 0.19, "poplar": 0.13}[kind])
    for _, x, y, facing in sorted(leaves):
        colour = np.clip(dark + (bright - dark) * facing**1.4 + hue * facing, 0, 255)
        axes = (max(1, int(size * rng.uniform(0.7, 1.7))), max(1, int(size * rng.uniform(0.5, 1.0))))
        spin = rng.uniform(-40, 40)
        cv2.ellipse(pixels, (int(x), int(y)), axes, spin, 0, 360, colour.tolist(), -1)
        cv2.ellipse(matte, (int(x), int(y)), axes, spin, 0, 360, 1.0, -1)
    return np.dstack([pixels, matte])


class Grove:
    """Ready-made trees, scaled to the size that is asked for."""

    def __init__(self, rng, kinds, each=5, sun=1.0, tall=240):
        self.kinds = {kind: [tree(rng, kind, tall, sun) for _ in range(each)] for kind in kinds}
        self.sizes = {}

    def get(self, kind, number, tall):
        """(colour times matte, matte) of about `tall` pixels."""
        tall = max(3, round(tall)) if tall < 40 else round(tall / 4) * 4
        number %= len(self.kinds[kind])
        if (kind, number, tall) not in self.sizes:
            full = self.kinds[kind][number]
            matte = full[..., 3:]
            size = (max(2, round(full.shape[1] * tall / full.shape[0])), tall)
            scaled = cv2.resize(np.dstack([full[..., :3] * matte, matte]), size, interpolation=cv2.INTER_AREA)
            self.sizes[kind, number, tall] = (scaled[..., :3], scaled[..., 3:])
        return self.sizes[kind, number, tall]

    def plant(self, pixels, foot, kind, number, tall, light=1.0, haze=(0, 0, 0), veil=0.0, matte=None):
        """Into a float picture, its foot at `foot`; `matte` gathers where trees stand."""
        colour, cover = self.get(kind, number, tall)
        high, wide = cover.shape[:2]
        x0, y0 = int(round(foot[0] - wide / 2)), int(round(foot[1])) - high
        left, top = max(x0, 0), max(y0, 0)
        right, bottom = min(x0 + wide, pixels.shape[1]), min(y0 + high, pixels.shape[0])
        if left >= right or top >= bottom:
            return
        part = (slice(top - y0, bottom - y0), slice(left - x0, right - x0))
        window = (slice(top, bottom), slice(left, right))
        shown = colour[part] * (light * (1 - veil)) + np.asarray(haze, np.float32) * veil * cover[part]
        pixels[window] = pixels[window] * (1 - cover[part]) + shown
        if matte is not None:
            matte[window] = np.maximum(matte[window], cover[part][..., 0])


class Person:
    """Somebody who walks; colours are drawn from `rng`."""

    SKIN = (206, 160, 130)

    def __init__(self, rng, tall=None):
        self.tall = rng.choice([1.25, 1.35, 1.45, 1.62, 1.7, 1.75]) if tall is None else tall
        coats = [(36, 74, 140), (36, 74, 140), (44, 90, 150), (150, 40, 48), (230, 232, 236), (60, 66, 74), (52, 110, 84), (196, 168, 60), (120, 70, 130)]
        trousers = [(34, 40, 58), (34, 40, 58), (52, 54, 60), (70, 66, 62), (90, 98, 120)]
        self.coat = np.array(coats[rng.integers(len(coats))], float) + rng.normal(0, 6, 3)
        self.trousers = np.array(trousers[rng.integers(len(trousers))], float)
        bags = [(180, 40, 60), (40, 60, 120), (70, 140, 150), (60, 60, 66), None]
        self.bag = bags[rng.integers(len(bags))] if self.tall < 1.6 else None
        self.hair = (28, 24, 24) if rng.random() < 0.9 else (110, 108, 108)
        self.long_hair = rng.random() < 0.45
        self.skin = np.array(self.SKIN) + rng.normal(0, 8, 3)

    def joints(self, x, y, heading, phase, pace):
        """Points of the body in the world. `phase` counts strides, `pace` 0..1 is how far the legs swing."""
        s = self.tall / 1.7
        along, across = np.array([np.cos(heading), np.sin(heading), 0]), np.array([-np.sin(heading), np.cos(heading), 0])
        root, up = np.array([x, y, 0.0]), np.array([0, 0, 1.0])
        swing = np.sin(2 * np.pi * phase)
        bob = 0.025 * pace * np.cos(4 * np.pi * phase) * s
        hip = root + up * (0.88 * s + bob)
        points = {"hip": hip, "neck": root + up * (1.40 * s + bob) + along * 0.04 * pace, "head": root + up * (1.57 * s + bob) + along * 0.06 * pace}
        for side, sign in (("left", 1), ("right", -1)):
            step = sign * swing * pace
            start = hip + across * (0.09 * s * sign)
            thigh, knee_bend = 0.50 * step, 0.15 * pace + 0.75 * pace * max(0.0, sign * np.cos(2 * np.pi * phase))
            knee = start + (along * np.sin(thigh) - up * np.cos(thigh)) * 0.43 * s
            shin = thigh - knee_bend
            ankle = knee + (along * np.sin(shin) - up * np.cos(shin)) * 0.42 * s
            points[side + "_hip"], points[side + "_knee"], points[side + "_foot"] = start, knee, ankle
            points[side + "_toe"] = ankle + along * 0.14 * s
            shoulder = root + up * (1.34 * s + bob) + across * (0.18 * s * sign)
            arm = -0.55 * step
            elbow = shoulder + (along * np.sin(arm) - up * np.cos(arm)) * 0.29 * s + across * 0.03 * sign
            fore = arm + 0.35
            points[side + "_shoulder"], points[side + "_elbow"] = shoulder, elbow
            points[side + "_hand"] = elbow + (along * np.sin(fore) - up * np.cos(fore)) * 0.26 * s
        points["bag"] = root + up * (1.15 * s + bob) - along * 0.17 * s
        points["chest"] = root + up * (1.22 * s + bob)
        points["nose"] = points["head"] + along * 0.05 * s
        return points

    def draw(self, patch, camera, sun, at):
        """Onto a patch; `at` is (x, y, heading, phase, pace)."""
        s = self.tall / 1.7
        points = self.joints(*at)
        flat, away = camera.project(np.array(list(points.values())))
        on = dict(zip(points, flat))
        unit = camera.focal / away[0] * s
        across = np.array([-np.sin(at[2]), np.cos(at[2])])
        lit = "left" if across @ np.asarray(sun[:2]) > 0 else "right"
        eye = -np.array(at[:2])
        near = "left" if across @ eye > 0 else "right"
        far = {"left": "right", "right": "left"}[near]
        def limb(names, radii, colour):
            for a, b, radius in zip(names, names[1:], radii):
                patch.capsule(on[a], on[b], radius * unit, colour)
        def side(which):
            light = 1.0 if which == lit else 0.72
            limb([which + part for part in ("_hip", "_knee", "_foot")], [0.085, 0.062], tint(self.trousers, light))
            limb([which + "_foot", which + "_toe"], [0.05], (230, 230, 228) if self.coat[0] > 100 else (40, 40, 44))
        def arm(which):
            light = 1.0 if which == lit else 0.75
            limb([which + part for part in ("_shoulder", "_elbow", "_hand")], [0.058, 0.048], tint(self.coat, light * 0.94))
            limb([which + "_hand", which + "_hand"], [0.045], tint(self.skin, light))
        away_from_us = np.array([np.cos(at[2]), np.sin(at[2])]) @ eye < 0
        side(far), arm(far)
        if self.bag and not away_from_us:
            limb(["bag", "bag"], [0.17], self.bag)
        side(near)
        limb(["hip", "neck"], [0.145], tint(self.coat, 0.82))
        limb(["left_shoulder", "right_shoulder"], [0.075], tint(self.coat, 0.9))
        patch.capsule((on["hip"] + on[lit + "_hip"]) / 2, (on["chest"] + on[lit + "_shoulder"]) / 2, 0.085 * unit, tint(self.coat, 1.1))
        if self.bag and away_from_us:
            limb(["bag", "bag"], [0.175], self.bag)
            patch.capsule(on["bag"] + (0, 0.08 * unit), on["bag"] + (0, 0.12 * unit), 0.12 * unit, tint(self.bag, 0.78))
        arm(near)
        limb(["neck", "head"], [0.05], tint(self.skin, 0.8))
        limb(["head", "head"], [0.115], tint(self.skin, 0.98))
        crown = on["head"] - (on["nose"] - on["head"]) * 0.8 - (0, 0.03 * unit)
        patch.capsule(crown, crown, 0.112 * unit, self.hair)
        if self.long_hair:
            patch.capsule(crown, crown + (0, 0.13 * unit), 0.085 * unit, self.hair)

    def shadow(self, patch, camera, sun, at):
        points = self.joints(*at)
        names = list(points)
        world = np.array([points[name] for name in names])
        rise = world[:, 2:]
        flat = np.concatenate([world[:, :2] - rise * np.asarray(sun[:2]) / sun[2], np.zeros_like(rise)], 1)
        on, away = camera.project(flat)
        on = dict(zip(names, on))
        unit = camera.focal / away[0] * self.tall / 1.7
        for a, b, radius in (("left_hip", "left_knee", 0.07), ("left_knee", "left_foot", 0.055), ("right_hip", "right_knee", 0.07),
                             ("right_knee", "right_foot", 0.055), ("hip", "neck", 0.17), ("left_shoulder", "right_shoulder", 0.09), ("neck", "head", 0.08), ("head", "head", 0.12)):
            patch.capsule(on[a], on[b], radius * unit * 0.8, (0, 0, 0))


def wheel(mesh, x, y, radius, out):
    """A wheel at (x, y) whose face looks towards `out` (+1 or -1 along y)."""
    turn = np.linspace(0, 2 * np.pi, 19)[:-1] * -out
    ring = lambda r, off: [(x + r * np.cos(a), y + off * out, radius + r * np.sin(a)) for a in turn]
    mesh.part(3).face(ring(radius, 0.0), TYRE, [(ring(radius * 0.58, 0.01), HUB, False), (ring(radius * 0.2, 0.02), (60, 60, 64), False)])


def quad(x, y0, y1, z0, z1, towards):
    """A rectangle in the plane x, looking towards +x or -x."""
    points = [(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)]
    return points if towards > 0 else points[::-1]


def car(colour, lamps=False):
    """A saloon, 4.5 m."""
    mesh, half = Mesh(), 0.9
    outline = [(-2.2, 0.28), (2.2, 0.28), (2.25, 0.62), (2.1, 0.80), (1.05, 0.98), (0.35, 1.44), (-0.95, 1.46), (-1.75, 1.02), (-2.2, 0.95), (-2.25, 0.55)]
    side = lambda points: ([(x, -half - 0.005 + (0.12 if z > 1.0 else 0.0), z) for x, z in points], GLASS, False)
    windows = [side([(0.95, 1.0), (0.32, 1.38), (-0.25, 1.39), (-0.25, 1.0)]), side([(-0.35, 1.0), (-0.35, 1.39), (-0.93, 1.4), (-1.6, 1.03)])]
    inset = {4: 0.03, 5: 0.16, 6: 0.16, 7: 0.03}
    mesh.extrude(outline, half, colour, {4: GLASS, 6: GLASS, 0: (30, 30, 32)}, inset, windows)
    for x in (-1.35, 1.4):
        wheel(mesh, x, half + 0.02, 0.33, 1)
        wheel(mesh, x, -half - 0.02, 0.33, -1)
    mesh.part(3)
    for y in (-0.72, 0.72):
        mesh.face(quad(2.27, y - 0.16, y + 0.16, 0.6, 0.74, 1), HEAD if lamps else (215, 220, 222), glow=lamps)
        mesh.face(quad(-2.27, y - 0.15, y + 0.15, 0.68, 0.84, -1), TAIL, glow=lamps)
    mesh.face(quad(2.28, -0.45, 0.45, 0.36, 0.52, 1), (40, 42, 46))
    mesh.face(quad(-2.28, -0.26, 0.26, 0.48, 0.6, -1), (40, 80, 170))
    return mesh


def bus(colour):
    """A coach, 11 m."""
    mesh, half = Mesh(), 1.25
    panes = lambda y: [([(x, y, 1.5), (x + 1.5, y, 1.5), (x + 1.5, y, 2.65), (x, y, 2.65)][:: 1 if y < 0 else -1], GLASS, False) for x in np.arange(-5.1, 4.4, 1.65)]
    stripe = lambda y: [([(-5.5, y, 0.9), (5.5, y, 0.9), (5.5, y, 1.15), (-5.5, y, 1.15)][:: 1 if y < 0 else -1], (40, 96, 150), False)]
    sides = {"front": panes(-half - 0.01) + stripe(-half - 0.01), "back": panes(half + 0.01) + stripe(half + 0.01),
             "right": [(quad(5.51, -1.1, 1.1, 1.3, 2.8, 1), GLASS, False)], "left": [(quad(-5.51, -0.9, 0.9, 1.7, 2.7, -1), GLASS, False)]}
    mesh.box(-5.5, 5.5, -half, half, 0.4, 3.1, colour, decals=sides)
    for x in (-3.4, 3.6):
        wheel(mesh, x, half + 0.02, 0.5, 1)
        wheel(mesh, x, -half - 0.02, 0.5, -1)
    mesh.part(3)
    for y in (-0.95, 0.95):
        mesh.face(quad(5.52, y - 0.15, y + 0.15, 0.7, 0.92, 1), HEAD)
        mesh.face(quad(-5.52, y - 0.12, y + 0.12, 0.8, 1.15, -1), TAIL)
    return mesh


def coal_truck(cab, bed):
    """A tractor with a long tipping trailer under a tarpaulin, 14 m."""
    mesh, half = Mesh(), 1.25
    ribs = lambda y: [([(x, y, 1.35), (x + 0.14, y, 1.35), (x + 0.14, y, 2.9), (x, y, 2.9)][:: 1 if y < 0 else -1], tint(bed, 0.8), False) for x in np.arange(-6.6, 3.0, 1.1)]
    mesh.part(0).box(-7.0, 6.6, -0.5, 0.5, 0.7, 1.2, (46, 46, 48))
    mesh.part(1).box(-7.0, 3.6, -half, half, 1.25, 2.95, bed, decals={"front": ribs(-half - 0.01), "back": ribs(half + 0.01), "left": [(quad(-7.01, -1.1, 1.1, 1.3, 1.6, -1), (200, 60, 50), False)]})
    mesh.part(1).box(-6.9, 3.5, -half + 0.1, half - 0.1, 2.95, 3.25, (74, 84, 80), taper=0.25)
    window = [([(5.4, -half - 0.01, 2.0), (6.6, -half - 0.01, 2.0), (6.5, -half - 0.01, 2.9), (5.4, -half - 0.01, 2.9)], GLASS, False)]
    other = [([(x, -y, z) for x, y, z in points][::-1], c, g) for points, c, g in window]
    face = [(quad(6.91, -1.08, 1.08, 1.95, 2.95, 1), GLASS, False), (quad(6.92, -0.8, 0.8, 1.1, 1.7, 1), (52, 54, 58), False)]
    mesh.part(1).box(4.4, 6.9, -half, half, 0.7, 3.3, cab, decals={"front": window, "back": other, "right": face})
    for x in (-6.0, -4.7, -3.4, 3.0, 4.4, 6.0):
        wheel(mesh, x, half + 0.03, 0.52, 1)
        wheel(mesh, x, -half - 0.03, 0.52, -1)
    mesh.part(3)
    for y in (-1.0, 1.0):
        mesh.face(quad(6.93, y - 0.16, y + 0.16, 0.8, 1.0, 1), HEAD)
        mesh.face(quad(-7.02, y - 0.18, y + 0.18, 0.95, 1.15, -1), TAIL)
    return mesh


def dumper(load):
    """A mining dump truck, 9 m; `load` 0..1 is how high its bed is filled."""
    mesh, half, paint = Mesh(), 2.0, (226, 178, 48)
    mesh.part(0).box(-3.6, 4.0, -1.0, 1.0, 0.9, 1.8, (60, 58, 54))
    mesh.part(1).extrude([(-4.4, 2.3), (2.0, 1.9), (2.3, 3.9), (3.9, 4.15), (3.9, 4.3), (2.1, 4.3), (1.9, 3.9), (-4.6, 3.6)], half, paint, {0: tint(paint, 0.6)})
    if load > 0.02:
        top = 3.6 + 1.0 * load
        mesh.part(1).box(-4.2, 1.8, -half + 0.1, half - 0.1, 3.55, top, (66, 60, 56), taper=0.75 * load)
    pane = [([(2.4, -1.91, 2.9), (3.7, -1.91, 2.9), (3.7, -1.91, 3.7), (2.4, -1.91, 3.7)], GLASS, False)]
    grille = [(quad(4.21, -0.9, 0.9, 1.5, 2.4, 1), (54, 52, 50), False)]
    mesh.part(1).box(2.2, 4.2, -1.9, 1.9, 1.5, 2.7, paint, decals={"right": grille})
    mesh.part(1).box(2.3, 3.8, -1.9, 0.2, 2.7, 3.85, paint, decals={"front": pane, "right": [(quad(3.81, -1.7, 0.0, 2.9, 3.7, 1), GLASS, False)]})
    for x in (-2.4, 2.8):
        wheel(mesh, x, half + 0.05, 1.0, 1)
        wheel(mesh, x, -half - 0.05, 1.0, -1)
    mesh.part(3)
    for y in (-1.5, 1.5):
        mesh.face(quad(4.23, y - 0.2, y + 0.2, 1.7, 1.95, 1), HEAD)
    return mesh


def excavator(swing, boom, stick, bucket):
    """A crawler excavator: (tracks, house and arm) as meshes; angles in radians."""
    paint, dark = (58, 118, 92), (52, 52, 54)
    tracks = Mesh()
    for y in (-1.35, 1.35):
        track = Mesh().extrude([(-2.1, 0.0), (2.1, 0.0), (2.5, 0.5), (2.1, 1.0), (-2.1, 1.0), (-2.5, 0.5)], 0.38, (48, 46, 44))
        tracks.add(track, (0, y, 0))
    house = Mesh()
    house.box(-3.0, 1.6, -1.5, 1.5, 1.1, 2.5, paint)
    house.part(1).box(-3.2, -1.6, -1.5, 1.5, 1.2, 2.7, dark)
    pane = lambda y: [([(0.3, y, 2.3), (1.75, y, 2.0), (1.6, y, 3.2), (0.3, y, 3.2)][:: 1 if y < 1 else -1], GLASS, False)]
    sides = {"front": pane(0.34), "back": pane(1.51), "right": [(quad(1.91, 0.45, 1.4, 1.9, 3.2, 1), GLASS, False)]}
    house.part(1).box(0.0, 1.9, 0.35, 1.5, 1.6, 3.4, paint, taper=0.06, decals=sides)

    def beam(start, angle, long, thick0, thick1, colour):
        end = start + long * np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-np.sin(angle), np.cos(angle)])
        outline = [start - across * thick0, end - across * thick1, end + across * thick1, start + across * thick0]
        house.add(Mesh().extrude([tuple(p) for p in outline], 0.28, colour), (0, -0.2, 0))
        return end

    knee = beam(np.array([1.5, 2.1]), boom, 3.0, 0.38, 0.45, paint)
    wrist = beam(knee, boom - 0.55, 2.6, 0.45, 0.26, paint)
    tip = beam(wrist, stick, 2.9, 0.34, 0.2, paint)
    angle = stick + bucket
    reach = np.array([np.cos(angle), np.sin(angle)])
    down = np.array([-np.sin(angle), np.cos(angle)])
    shape = [tip - down * 0.3, tip + reach * 1.0 - down * 0.5, tip + reach * 1.5 + down * 0.2, tip + reach * 0.9 + down * 0.75, tip + down * 0.3]
    house.add(Mesh().extrude([tuple(p) for p in shape], 0.65, (70, 66, 62)), (0, -0.2, 0))
    return tracks, house.moved(0, 0, 0, swing)


def shaded(mesh, camera, sun, picture, soft=1.2, strength=0.5, hidden=None, haze=None, veil=0.0):
    """A mesh and its shadow on the ground, into a picture."""
    shade, patch = Patch(), Patch()
    mesh.shadow(shade, camera, sun)
    shade.darken(picture, strength * (1 - veil), soft, hidden)
    mesh.draw(patch, camera, sun)
    patch.blend(picture, haze, veil, hidden)
