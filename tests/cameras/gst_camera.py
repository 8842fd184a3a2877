#!/usr/bin/python3
"""A test camera: clips over RTSP by gst-rtsp-server, at real pace, with a known number of pictures.

    gst_camera.py [options] NAME=SOURCE...

SOURCE is a clip (H.264 or H.265 in mp4, as it is, unless --codec says otherwise) or `testsrc2`, a moving test
picture of ten seconds. Every client gets its own run of each clip, from the first picture on.

    --port N            0 (the default) lets the system choose
    --codec copy|h264|h265   transcode with ffmpeg first (`testsrc2` with copy: h264)
    --size WxH          of transcoded pictures (testsrc2: 640x360)
    --fps N             of transcoded pictures (testsrc2: 25)
    --encoder-options O options for ffmpeg's encoder, e.g. "-bf 3 -g 25"; a key picture a second by default
    --pictures N        stop after N pictures; without it the clip is looped without end
    --then hold|end     after N pictures: keep the session open in silence (default), or end the stream
    --audio aac|pcma|pcmu   a tone beside the pictures
    --user U --password P [--auth digest|basic]

On stdout, a line each: `port N` when it listens, `play NAME` when a client's pictures begin, `sent NAME N` after the
last of --pictures. Ends with stdin or on a signal. Needs python3-gi, gir1.2-gst-rtsp-server-1.0 and GStreamer's
plugins (base, good, bad, ugly, libav), and ffmpeg where it transcodes.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
import threading
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstApp, GstRtsp, GstRtspServer  # noqa: E402

ROLE = "viewer"
AUDIO = {
    "aac": "avenc_aac ! aacparse ! rtpmp4gpay pt=97 name=pay1",
    "pcma": "audioresample ! audio/x-raw,rate=8000 ! alawenc ! rtppcmapay name=pay1",
    "pcmu": "audioresample ! audio/x-raw,rate=8000 ! mulawenc ! rtppcmupay name=pay1",
}


def say(line):
    print(line, flush=True)


def transcoded(source, options, folder):
    """The clip as an mp4 in the wanted codec."""
    if source != "testsrc2" and options.codec == "copy":
        return source
    codec = "h264" if options.codec == "copy" else options.codec
    size, fps = options.size or "640x360", options.fps or 25
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y"]
    if source == "testsrc2":
        command += ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate={fps}:duration=10"]
    else:
        command += ["-i", source]
        command += ["-s", options.size] if options.size else []
        command += ["-r", str(options.fps)] if options.fps else []
    command += ["-an", "-c:v", f"lib{codec.replace('h', 'x')}", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
    command += shlex.split(options.encoder_options or f"-g {fps} -bf 0")
    if codec == "h265":
        command += ["-x265-params", "log-level=error"]
    path = tempfile.NamedTemporaryFile(dir=folder, suffix=".mp4", delete=False).name
    subprocess.run(command + [path], check=True)
    return path


class Clip:
    """The access units of a clip, byte-stream, with their times."""

    def __init__(self, path):
        found = subprocess.run(
            ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "stream=codec_name", "-of",
             "csv=p=0", path], check=True, capture_output=True, text=True).stdout.strip().strip(",")
        self.codec = {"h264": "h264", "hevc": "h265"}[found]
        pipeline = Gst.parse_launch(
            f'filesrc name=file ! qtdemux ! {self.codec}parse config-interval=-1 ! '
            f"video/x-{self.codec},stream-format=byte-stream,alignment=au ! appsink name=sink sync=false")
        pipeline.get_by_name("file").set_property("location", path)
        pipeline.set_state(Gst.State.PLAYING)
        sink = pipeline.get_by_name("sink")
        self.units = []
        while (sample := sink.emit("pull-sample")) is not None:
            buffer = sample.get_buffer()
            data = buffer.extract_dup(0, buffer.get_size())
            self.units.append((data, buffer.pts, buffer.dts, buffer.duration))
        pipeline.set_state(Gst.State.NULL)
        if not self.units:
            sys.exit(f"{path}: no pictures")
        first = min(pts for _, pts, _, _ in self.units)
        self.units = [(data, pts - first, dts, duration) for data, pts, dts, duration in self.units]
        # From one loop to the next the distance of two pictures is kept.
        ordered = sorted(pts for _, pts, _, _ in self.units)
        step = ordered[1] - ordered[0] if len(ordered) > 1 else Gst.SECOND // 25
        self.length = ordered[-1] + step


class Factory(GstRtspServer.RTSPMediaFactory):
    def __init__(self, name, clip, options):
        super().__init__()
        self.name, self.clip, self.options = name, clip, options
        # Not aggregated: some readers take a key picture apart that comes in aggregates and fragments.
        aggregate = "aggregate-mode=zero-latency" if clip.codec == "h264" else ""
        # Its queue must hold the clip's largest pictures; nothing may be dropped.
        launch = (
            f"( appsrc name=source format=time is-live=true max-bytes=0 caps=video/x-{clip.codec},"
            f"stream-format=byte-stream,alignment=au ! rtp{clip.codec}pay name=pay0 pt=96 config-interval=0 {aggregate}")
        if options.audio:
            launch += f" audiotestsrc is-live=true samplesperbuffer=1024 ! {AUDIO[options.audio]}"
        self.set_launch(launch + " )")
        self.set_shared(False)
        if options.user:
            self.add_role_from_structure(access(ROLE))
        self.connect("media-configure", lambda _, media: self.feed(media))

    def feed(self, media):
        """Pushes the first picture, which the SDP is made of, then from PLAY on the others when they are due."""
        source = media.get_element().get_by_name("source")
        playing, over = threading.Event(), threading.Event()

        def state(_, new):
            if new == Gst.State.PLAYING:
                playing.set()
            elif new == Gst.State.NULL:
                over.set()
                playing.set()

        media.connect("new-state", state)
        media.connect("unprepared", lambda _: state(None, Gst.State.NULL))
        threading.Thread(target=self.push, args=(source, playing, over), daemon=True).start()

    def push(self, source, playing, over):
        units, length = self.clip.units, self.clip.length
        sent, start = 0, None
        while not over.is_set() and (self.options.pictures is None or sent < self.options.pictures):
            data, pts, _, duration = units[sent % len(units)]
            pts += sent // len(units) * length
            if sent == 1:
                playing.wait()
                start = time.monotonic()
                say(f"play {self.name}")
            if start is not None:
                # In decode order: what is presented late is sent early.
                due = start + sent * length / len(units) / Gst.SECOND
                over.wait(max(0, due - time.monotonic()))
            buffer = Gst.Buffer.new_wrapped(data)
            buffer.pts, buffer.duration = pts, duration
            if source.emit("push-buffer", buffer) != Gst.FlowReturn.OK:
                return
            sent += 1
        if over.is_set():
            return
        if self.options.then == "end":
            source.emit("end-of-stream")
        say(f"sent {self.name} {sent}")


def access(role):
    structure = Gst.Structure.new_empty(role)
    structure.set_value("media.factory.access", True)
    structure.set_value("media.factory.construct", True)
    return structure


def auth(options):
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", ROLE)
    if options.auth == "basic":
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(options.user, options.password), token)
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.BASIC)
    else:
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(options.user, options.password, token)
    return auth


def main():
    arguments = argparse.ArgumentParser(usage=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--port", default="0")
    arguments.add_argument("--codec", choices=["copy", "h264", "h265"], default="copy")
    arguments.add_argument("--size")
    arguments.add_argument("--fps", type=int)
    arguments.add_argument("--encoder-options")
    arguments.add_argument("--pictures", type=int)
    arguments.add_argument("--then", choices=["hold", "end"], default="hold")
    arguments.add_argument("--audio", choices=sorted(AUDIO))
    arguments.add_argument("--user")
    arguments.add_argument("--password", default="")
    arguments.add_argument("--auth", choices=["digest", "basic"], default="digest")
    arguments.add_argument("mounts", nargs="+", metavar="NAME=SOURCE")
    options = arguments.parse_args()

    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(options.port)
    if options.user:
        server.set_auth(auth(options))
    mounts = server.get_mount_points()
    with tempfile.TemporaryDirectory() as folder:
        factories = []
        for mount in options.mounts:
            name, _, source = mount.partition("=")
            factories.append(Factory(name, Clip(transcoded(source, options, folder)), options))
            mounts.add_factory(f"/{name}", factories[-1])
        if not server.attach(None):
            sys.exit(f"cannot listen on port {options.port}")
        say(f"port {server.get_bound_port()}")
        loop = GLib.MainLoop()
        # Whoever started us holds our stdin: we end with it, even when it is killed.
        GLib.io_add_watch(0, GLib.IO_HUP | GLib.IO_IN, lambda *_: sys.stdin.buffer.read1(1) != b"" or loop.quit())
        loop.run()


if __name__ == "__main__":
    main()
