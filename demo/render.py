"""Render the demo's camera clips: `/usr/bin/python3 demo/render.py [PLACE...]`.

Every picture is drawn by the files beside this one; nothing is filmed, nothing comes
from the training's pictures. Each clip is a loop: its last picture leads into its
first. `--still SECOND` writes PNGs instead.
"""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "models" / "train"))

import cv2  # noqa: E402

from space import HEIGHT, WIDTH  # noqa: E402

PLACES = ("forest", "gate", "road", "mine")
DAY = (2026, 9, 14)


def stamp(picture, title, start, seconds):
    """The camera's name and clock, as cameras burn them into the picture."""
    clock = start + int(seconds)
    text = "%04d-%02d-%02d  %02d:%02d:%02d" % (*DAY, clock // 3600, clock // 60 % 60, clock % 60)
    for words, at in ((text, (28, 44)), (title, (28, HEIGHT - 26))):
        for colour, thick in (((20, 20, 20), 5), ((245, 245, 245), 2)):
            cv2.putText(picture, words, at, cv2.FONT_HERSHEY_SIMPLEX, 0.82, colour, thick, cv2.LINE_AA)


def encoder(path, rate, key_every, quality):
    """ffmpeg reading RGB pictures. No B-pictures and closed, even groups, as cameras send."""
    return subprocess.Popen(
        ["ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(rate), "-i", "-",
         "-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p", "-c:v", "libx264", "-profile:v", "high", "-preset", "medium",
         "-crf", str(quality), "-bf", "0", "-g", str(key_every), "-keyint_min", str(key_every), "-sc_threshold", "0",
         "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv", "-threads", "2",
         "-movflags", "+faststart", "-map_metadata", "-1", "-fflags", "+bitexact", str(path)],
        stdin=subprocess.PIPE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="*", default=PLACES, metavar="PLACE", help="forest, gate, road, mine (default: all)")
    parser.add_argument("--out", type=Path, default=HERE / "clips")
    parser.add_argument("--still", type=float, action="append", help="seconds into the loop to write as a PNG")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.places:
        module = importlib.import_module(name)
        place = module.Place()

        def picture(number):
            pixels = place.frame(number)
            stamp(pixels, module.TITLE, module.START, number / module.RATE)
            return pixels

        if args.still:
            for second in args.still:
                cv2.imwrite(str(args.out / f"{name}-{second:g}.png"), picture(round(second * module.RATE))[..., ::-1])
            continue
        path = args.out / f"{name}-1.mp4"
        video = encoder(path, module.RATE, module.KEY_EVERY, module.QUALITY)
        for number in range(module.RATE * module.SECONDS):
            video.stdin.write(picture(number).tobytes())
        video.stdin.close()
        if video.wait():
            sys.exit(f"ffmpeg could not write {path}")
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    main()
