"""Procedural backgrounds and the things that are mistaken for fire and smoke.

`background(rng, width, height)` draws an empty place by day, dusk, night or infrared;
`lookalike(rng, picture)` adds one thing that is neither fire nor smoke but has its
colour or its softness: lamps, tail lights, sun and flare, orange clothing, cones and
lorries, autumn trees, low cloud, fog. Pictures are RGB uint8.

No fire and no smoke is drawn here (effects.py).
"""

import cv2
import numpy as np

from effects import Noise, ramp, smoothstep


def grid(width, height):
    """(x, y) of every pixel in units of the height, and v, 0 at the top and 1 below."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / height
    return x, y


def shade(rng, colour, spread=14.0):
    """A colour near `colour`."""
    return np.clip(np.asarray(colour, np.float32) + rng.normal(0, spread, 3) * 0.5 + rng.normal(0, spread), 0, 255)


def texture(rng, x, y, scale, octaves=4):
    return Noise(rng).fractal(x * scale + rng.uniform(0, 60), y * scale + rng.uniform(0, 60), octaves)


def mix(low, high, amount):
    return low + (np.asarray(high, np.float32) - low) * amount[..., None]


def sky(rng, x, y, horizon):
    """Sky above the horizon: clear, clouded, overcast, sunset."""
    top, bottom = [
        ((70, 120, 200), (200, 220, 240)),
        ((40, 60, 140), (240, 245, 250)),
        ((150, 155, 165), (205, 208, 212)),
        ((70, 70, 110), (250, 150, 80)),
        ((120, 150, 190), (235, 225, 205)),
    ][rng.integers(5)]
    picture = mix(shade(rng, top), shade(rng, bottom), np.clip(y / max(horizon, 0.05), 0, 1) ** rng.uniform(0.6, 2.0))
    if rng.random() < 0.65:
        flat = rng.uniform(1.5, 5.0)
        cloud = texture(rng, x, y * flat, rng.uniform(1.0, 3.5), 5)
        cover = smoothstep(rng.uniform(0.42, 0.6), rng.uniform(0.62, 0.8), cloud)
        lit = shade(rng, rng.choice([(245, 245, 248), (190, 195, 205), (120, 125, 135)]))
        light = 0.80 + 0.4 * texture(rng, x, y * flat, 4.0, 3)
        picture = picture + (lit * light[..., None] - picture) * (cover * rng.uniform(0.4, 1.0))[..., None]
    return picture


def ridges(rng, picture, x, y, horizon, count):
    """Hills one behind the other, paler with distance."""
    haze = shade(rng, (175, 190, 205))
    base = shade(rng, rng.choice([(70, 85, 45), (110, 95, 60), (60, 80, 50), (130, 115, 85), (95, 100, 80)]))
    for layer in range(count):
        near = (layer + 1) / count
        line = horizon + near**1.5 * (1 - horizon) * 0.6 - 0.05
        crest = line + (texture(rng, x, 0 * y, 1.0 + 1.5 * near, 5)[:1] - 0.5) * 0.35 * (0.4 + near)
        grain = texture(rng, x, y, 10 + 50 * near, 4) - 0.5
        relief = texture(rng, x, y, 3 + 4 * near, 3) - 0.5
        colour = (base + (haze - base) * (1 - near) ** 0.8)[None, None] * (1 + (0.35 + near) * grain + 0.5 * relief)[..., None]
        picture = mix(picture, colour, smoothstep(0.0, 0.004, y - crest))
    return picture


def trees(rng, picture, x, y, line):
    """A wall of trees with its crowns about `line`."""
    crowns = line - 0.05 - 0.18 * texture(rng, x, 0 * y, 8.0, 4)[:1]
    leaf = texture(rng, x, y, 22.0, 4)
    colour = ramp(leaf, [(0.2, (14, 22, 10)), (0.5, (46, 66, 30)), (0.8, (110, 130, 70))]) + rng.normal(0, 8, 3)
    return mix(picture, colour, smoothstep(0, 0.006, y - crowns))


def ground(rng, x, y, kind):
    """A textured surface: asphalt, concrete, soil, grass or paving."""
    colour = shade(rng, {"asphalt": (95, 96, 100), "concrete": (165, 163, 158), "soil": (140, 112, 82),
                         "grass": (80, 105, 50), "paving": (130, 122, 115)}[kind], 18)
    grain = texture(rng, x, y, rng.uniform(60, 120), 3) - 0.5
    stain = texture(rng, x, y, rng.uniform(1.5, 6), 4) - 0.5
    surface = colour[None, None] * (1 + rng.uniform(0.05, 0.35) * grain + rng.uniform(0.1, 0.6) * stain)[..., None]
    if kind == "paving":
        size = rng.uniform(0.05, 0.2)
        joint = (np.abs((x / size) % 1 - 0.5) > 0.47) | (np.abs((y / size) % 1 - 0.5) > 0.47)
        surface = surface * np.where(joint, 0.75, 1.0)[..., None]
    return surface


def boxes_of_building(rng, picture, horizon):
    """Walls with windows, doors and shelves standing on the horizon."""
    height, width = picture.shape[:2]
    for _ in range(int(rng.integers(1, 5))):
        w, h = int(width * rng.uniform(0.1, 0.6)), int(height * rng.uniform(0.1, 0.5))
        left, foot = int(rng.uniform(-0.2, 1) * width), int(height * (horizon + rng.uniform(0.0, 0.12)))
        wall = shade(rng, rng.choice([(190, 180, 165), (150, 90, 70), (120, 120, 125), (220, 215, 205), (175, 140, 95)]))
        cv2.rectangle(picture, (left, foot - h), (left + w, foot), wall.tolist(), -1)
        pane = shade(rng, rng.choice([(50, 60, 75), (160, 180, 200), (230, 215, 160)]))
        rows, columns = rng.integers(1, 4), rng.integers(1, 6)
        for row in range(rows):
            for column in range(columns):
                px, py = left + int((column + 0.25) * w / columns), foot - h + int((row + 0.25) * h / rows)
                cv2.rectangle(picture, (px, py), (px + w // columns // 2, py + h // rows // 2), pane.tolist(), -1)
    return picture


def background(rng, width, height):
    """An empty place, seen by a fixed camera."""
    x, y = grid(width, height)
    place = rng.choice(["hills", "forest", "road", "yard", "overhead", "room"])
    horizon = rng.uniform(0.15, 0.55)
    if place in ("overhead", "room"):
        kinds = ["asphalt", "concrete", "paving", "soil", "grass"]
        picture = ground(rng, x, y, rng.choice(kinds))
        if place == "room" or rng.random() < 0.3:
            wall = shade(rng, rng.choice([(200, 195, 185), (230, 230, 228), (140, 150, 160), (190, 160, 120)]))
            picture = mix(wall[None, None] * (0.8 + 0.25 * x[..., None] / x.max()), picture, (y > horizon).astype(np.float32))
            picture = boxes_of_building(rng, np.ascontiguousarray(picture), horizon + 0.1)
        else:
            for _ in range(int(rng.integers(0, 4))):
                ends = [tuple(int(v) for v in rng.uniform(-0.2, 1.2, 2) * (width, height)) for _ in range(2)]
                picture = cv2.line(np.ascontiguousarray(picture), *ends, shade(rng, (215, 215, 205)).tolist(), int(rng.integers(2, 9)))
        # Uneven light on the surface, and a soft shadow.
        light = rng.uniform(0.3, 1.0) * (texture(rng, x, y, 1.0, 2) - 0.5)
        picture = picture * (1 + light)[..., None]
    else:
        picture = sky(rng, x, y, horizon)
        if place == "hills":
            picture = ridges(rng, picture, x, y, horizon, int(rng.integers(2, 6)))
        elif place == "forest":
            picture = ridges(rng, picture, x, y, horizon, 2)
            picture = trees(rng, picture, x, y, horizon + rng.uniform(0.05, 0.3))
        else:
            verge = ground(rng, x, y * 2, rng.choice(["grass", "soil", "concrete"]))
            picture = mix(picture, verge, smoothstep(0, 0.01, y - horizon))
            if rng.random() < 0.6:
                picture = trees(rng, picture, x, y, horizon)
                picture = mix(picture, verge, smoothstep(0, 0.01, y - horizon - 0.05))
            if rng.random() < 0.5:
                picture = boxes_of_building(rng, np.ascontiguousarray(picture), horizon)
            depth = np.clip((y - horizon) / (1 - horizon), 0, 1)
            middle = x.max() * (0.5 + rng.uniform(-0.3, 0.3) * (1 - depth))
            half = (0.02 + rng.uniform(0.4, 1.0) * depth) * x.max() * 0.6
            on_road = smoothstep(0, 0.01, half - np.abs(x - middle)) * (y > horizon)
            picture = mix(picture, ground(rng, x, y, "asphalt" if place == "road" else "concrete"), on_road)
            dashes = (np.abs(x - middle) < 0.012 * depth + 0.001) & ((1 / (depth + 0.08) * 2) % 1 < 0.5) & (y > horizon)
            picture = mix(picture, shade(rng, (225, 222, 205)), dashes.astype(np.float32) * (place == "road"))
    picture = picture * rng.uniform(0.75, 1.15)
    hour = rng.random()
    if hour < 0.18:
        picture = picture * rng.uniform(0.15, 0.4) * np.array([0.9, 0.95, 1.1])
    elif hour < 0.28:
        picture = picture * rng.uniform(0.4, 0.7) * np.array([1.15, 0.95, 0.8])
    elif hour < 0.36:
        picture = np.repeat(picture.mean(-1, keepdims=True), 3, -1) * rng.uniform(0.4, 1.0)
    picture = picture + rng.normal(0, rng.uniform(0.5, 6.0), picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def add_light(picture, centre, radius, colour, strength):
    """A glow around a burnt-out core, added as light."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    away = np.hypot(x - centre[0], y - centre[1]) / max(radius, 0.5)
    glow = strength * (np.exp(-away * away * 2.0) + 0.35 * np.exp(-away * 0.9))
    lit = picture + np.asarray(colour, np.float32) * glow[..., None]
    core = smoothstep(1.0, 0.6, away)
    return np.clip(mix(lit, (255, 252, 240), core * min(strength, 1.0)), 0, 255).astype(np.uint8)


def blob(rng, picture, box, colour, soft=0.8):
    """A piece of coloured cloth or lacquer with folds, in a rounded box."""
    x0, y0, x1, y1 = (int(v) for v in box)
    mask = np.zeros(picture.shape[:2], np.float32)
    if rng.random() < 0.5:
        cv2.ellipse(mask, ((x0 + x1) // 2, (y0 + y1) // 2), (max((x1 - x0) // 2, 1), max((y1 - y0) // 2, 1)), 0, 0, 360, 1.0, -1)
    else:
        cv2.rectangle(mask, (x0, y0), (x1, y1), 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), soft)
    x, y = grid(picture.shape[1], picture.shape[0])
    folds = 0.7 + 0.6 * texture(rng, x, y, rng.uniform(5, 20), 3)
    return np.clip(mix(picture.astype(np.float32), np.asarray(colour) * folds[..., None], mask), 0, 255).astype(np.uint8)


ORANGES = [(240, 110, 30), (255, 140, 20), (225, 80, 40), (250, 190, 40), (210, 40, 30), (255, 220, 60)]


def lookalike(rng, picture):
    """The picture with one thing that resembles fire or smoke and is neither."""
    height, width = picture.shape[:2]
    x, y = grid(width, height)
    kind = rng.choice(["lamp", "lights", "sun", "sunrise", "clothing", "lorry", "tree", "cloud", "fog", "shine"])
    at = rng.uniform(0.05, 0.95, 2) * (width, height)
    if kind == "lamp":
        for _ in range(int(rng.integers(1, 5))):
            colour = rng.choice([(255, 200, 120), (255, 160, 60), (255, 240, 220), (255, 90, 50)])
            at = rng.uniform(0.03, 0.97, 2) * (width, height)
            picture = add_light(picture, at, height * rng.uniform(0.006, 0.06), colour, rng.uniform(0.5, 1.3))
    elif kind == "lights":
        gap, radius = width * rng.uniform(0.015, 0.12), height * rng.uniform(0.004, 0.02)
        colour = rng.choice([(255, 40, 20), (255, 70, 30), (255, 240, 210)])
        for side in (-1, 1):
            picture = add_light(picture, at + (side * gap / 2, 0), radius, colour, rng.uniform(0.6, 1.2))
    elif kind == "sun":
        at[1] *= 0.5
        picture = add_light(picture, at, height * rng.uniform(0.03, 0.15), (255, 225, 170), rng.uniform(0.7, 1.3))
        towards = np.array([width, height]) / 2 - at
        for _ in range(int(rng.integers(0, 5))):
            spot, radius = at + towards * rng.uniform(0.4, 2.2), height * rng.uniform(0.01, 0.06)
            ring = np.exp(-((np.hypot(x * height - spot[0], y * height - spot[1]) / radius - 0.7) ** 2) * 6)
            tint = rng.choice([(255, 140, 60), (120, 255, 140), (255, 80, 120), (255, 220, 150)])
            picture = np.clip(picture + np.asarray(tint) * (ring * rng.uniform(0.1, 0.4))[..., None], 0, 255).astype(np.uint8)
    elif kind == "sunrise":
        # Dark land below a burnt-out sun in an orange sky, with drops of flare.
        low = rng.uniform(0.3, 0.7)
        tint = np.array([255, rng.uniform(110, 190), rng.uniform(20, 90)], np.float32)
        away = np.hypot(x - at[0] / height, (y - low) * rng.uniform(1.0, 2.5))
        glow = np.exp(-away * rng.uniform(1.5, 5.0)) * rng.uniform(0.6, 1.2)
        dark = smoothstep(low, low + 0.05, y + 0.1 * (texture(rng, x, 0 * y, 3.0, 4)[:1] - 0.5))
        picture = picture * (1 - rng.uniform(0.5, 0.85) * dark)[..., None] + tint * (glow * (1 - 0.85 * dark))[..., None]
        picture = np.clip(picture, 0, 255).astype(np.uint8)
        picture = add_light(picture, (at[0], low * height), height * rng.uniform(0.02, 0.1), tint, rng.uniform(0.7, 1.2))
        for _ in range(int(rng.integers(0, 7))):
            spot, radius = rng.uniform(0, 1, 2) * (width, height), height * rng.uniform(0.01, 0.08)
            disc = smoothstep(1.1, 0.8, np.hypot(x * height - spot[0], y * height - spot[1]) / radius)
            picture = np.clip(picture + tint * (disc * rng.uniform(0.08, 0.4))[..., None], 0, 255).astype(np.uint8)
    elif kind == "clothing":
        tall = height * rng.uniform(0.06, 0.4)
        wide, colour = tall * 0.32, shade(rng, ORANGES[rng.integers(len(ORANGES))])
        picture = blob(rng, picture, (at[0] - wide / 2, at[1] + tall * 0.5, at[0] + wide / 2, at[1] + tall), shade(rng, (45, 45, 60)))
        picture = blob(rng, picture, (at[0] - wide / 2, at[1] + tall * 0.14, at[0] + wide / 2, at[1] + tall * 0.55), colour)
        picture = blob(rng, picture, (at[0] - tall * 0.06, at[1], at[0] + tall * 0.06, at[1] + tall * 0.14), shade(rng, (190, 140, 110)))
        if rng.random() < 0.5:
            band = at[1] + tall * 0.34
            picture = blob(rng, picture, (at[0] - wide / 2, band, at[0] + wide / 2, band + tall * 0.04), (230, 235, 225), 0.5)
    elif kind == "lorry":
        for _ in range(int(rng.integers(1, 4))):
            wide = width * rng.uniform(0.03, 0.4)
            tall, colour = wide * rng.uniform(0.3, 1.6), shade(rng, ORANGES[rng.integers(len(ORANGES))])
            at = rng.uniform(0.0, 0.9, 2) * (width, height)
            picture = blob(rng, picture, (at[0], at[1], at[0] + wide, at[1] + tall), colour, rng.uniform(0.5, 2.0))
    elif kind == "tree":
        radius = height * rng.uniform(0.05, 0.35)
        leaf = texture(rng, x, y, rng.uniform(15, 40), 4)
        hue = shade(rng, rng.choice([(225, 120, 30), (200, 60, 25), (235, 180, 50)]))
        away = np.hypot(x * height - at[0], y * height - at[1]) / radius
        crown = smoothstep(1.0, 0.85, away + (texture(rng, x, y, 12.0, 3) - 0.5) * 0.9) * smoothstep(0.3, 0.5, leaf)
        picture = np.clip(mix(picture.astype(np.float32), hue[None, None] * (0.3 + 1.3 * leaf)[..., None], crown), 0, 255).astype(np.uint8)
    elif kind == "cloud":
        # Flat, wide and lit from above: not a plume, which has a root.
        band = np.exp(-(((y - at[1] / height * 0.45) / rng.uniform(0.04, 0.16)) ** 2))
        cover = smoothstep(0.45, 0.75, texture(rng, x, y * rng.uniform(2, 5), rng.uniform(1.5, 5), 5)) * band
        tone = shade(rng, rng.choice([(245, 245, 248), (170, 172, 180), (250, 190, 150)]))
        picture = np.clip(mix(picture.astype(np.float32), tone, cover * rng.uniform(0.4, 0.95)), 0, 255).astype(np.uint8)
    elif kind == "fog":
        slope = rng.uniform(-0.5, 0.8)
        veil = rng.uniform(0.2, 0.75) * np.clip(1 - slope * y + 0.25 * (texture(rng, x, y, 0.8, 2) - 0.5), 0, 1)
        tone = shade(rng, (195, 198, 202)) * min(1.0, 0.35 + picture.mean() / 160)
        picture = np.clip(mix(picture.astype(np.float32), tone, veil), 0, 255).astype(np.uint8)
    else:
        # Low sun or a lamp mirrored on wet ground: a stretched warm patch.
        patch = np.exp(-(((x * height - at[0]) / (width * rng.uniform(0.01, 0.08))) ** 2) - ((y * height - at[1]) / (height * rng.uniform(0.05, 0.3))) ** 2)
        broken = patch * (0.4 + texture(rng, x, y * 3, 20.0, 3))
        tint = rng.choice([(255, 190, 110), (255, 240, 220), (255, 120, 60)])
        picture = np.clip(picture + np.asarray(tint) * (broken * rng.uniform(0.4, 1.2))[..., None], 0, 255).astype(np.uint8)
    return picture
