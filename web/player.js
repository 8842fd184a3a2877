// Plays a camera's HLS stream in a <video> by Media Source Extensions, close to the live edge; where the browser lacks
// the codec, shows single pictures instead. Comes back by itself when the camera does.

const EDGE = 1.5; // seconds behind the newest picture at which playback is held
const LATE = 8; // further behind than this, it jumps to the edge
const KEEP = 20; // seconds kept behind what is shown
const PICTURE_EVERY = 2000;

const sleep = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener('abort', () => { clearTimeout(timer); resolve(); }, { once: true });
});

/** Nothing is wrong with the stream, but it starts anew (or this browser cannot go on): play it from the beginning. */
class Restart extends Error {}
/** This browser cannot play it at all. */
class Unplayable extends Error {}

export class Player {
  /** `report(state)`: 'live', 'pictures', 'starting', 'offline', 'signIn', 'noPicture'. */
  constructor(video, image, camera, report) {
    Object.assign(this, { video, image, camera, report });
    this.stopping = null;
  }

  start() {
    if (this.stopping) return;
    this.stopping = new AbortController();
    this.run(this.stopping.signal);
  }

  stop() {
    this.stopping?.abort();
    this.stopping = null;
    this.video.removeAttribute('src');
    this.video.load();
  }

  async run(signal) {
    let pause = 1000;
    while (!signal.aborted) {
      const begun = Date.now();
      try {
        if (this.pictures) await this.showPicture(signal);
        else await this.play(signal);
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Unplayable) this.pictures = true;
        else if (!(error instanceof Restart)) this.report(error.state ?? 'offline');
        if (Date.now() - begun > 10000) pause = 1000;
        await sleep(this.pictures ? PICTURE_EVERY : pause, signal);
        pause = Math.min(pause * 1.5, 5000);
      }
    }
  }

  async fetch(url, signal) {
    const response = await fetch(url, { signal: AbortSignal.any([signal, AbortSignal.timeout(15000)]) });
    if (response.ok) return response;
    const error = new Error(`${url}: ${response.status}`);
    error.status = response.status;
    error.state = response.status === 401 ? 'signIn' : response.status === 503 ? 'starting' : 'offline';
    throw error;
  }

  async showPicture(signal) {
    try {
      const blob = await (await this.fetch(`${this.camera.addresses.frame}?width=960`, signal)).blob();
      const old = this.image.src;
      this.image.src = URL.createObjectURL(blob);
      this.image.hidden = false;
      this.video.hidden = true;
      if (old) URL.revokeObjectURL(old);
      this.report('pictures');
    } catch (error) {
      if (error.status === 501) error.state = 'noPicture';
      throw error;
    }
    await sleep(PICTURE_EVERY, signal);
  }

  async play(signal) {
    const address = this.camera.addresses.hls;
    const shown = new Map(); // segment address → nothing; in order
    let buffer = null;
    let first = null; // the first segment: what follows belongs to its run and its init segment
    for (;;) {
      const list = parse(await (await this.fetch(address, signal)).text(), new URL(address, location));
      const known = list.segments.findLastIndex((segment) => shown.has(segment.url));
      // From the start, the last three segments of the newest run will do; later, what is new.
      const run = list.segments.findLastIndex((segment) => segment.run !== list.run) + 1;
      const from = shown.size === 0 ? Math.max(run, list.segments.length - 3) : known + 1;
      if (shown.size > 0 && known < 0 && list.segments.length > 0) throw new Restart();
      for (const segment of list.segments.slice(from)) {
        if (first && (segment.run !== first.run || segment.init !== first.init)) throw new Restart();
        if (!first) {
          const bytes = new Uint8Array(await (await this.fetch(segment.init, signal)).arrayBuffer());
          buffer = await this.open(mime(bytes, this.camera.codecs), signal);
          await append(buffer, bytes, signal);
          first = segment;
        }
        await append(buffer, await (await this.fetch(segment.url, signal)).arrayBuffer(), signal);
        shown.set(segment.url);
        if (shown.size > 60) shown.delete(shown.keys().next().value);
        await this.holdEdge(buffer, signal);
      }
      if (this.video.error) throw new Restart();
      if (buffer) await this.holdEdge(buffer, signal);
      if (list.ended) throw new Restart();
      // A camera that is gone leaves a list that does not grow: the page says so from what the box tells of it.
      await sleep(Math.max(400, list.target * 300), signal);
      if (signal.aborted) return;
    }
  }

  async open(type, signal) {
    const Source = window.ManagedMediaSource ?? window.MediaSource;
    if (!type || !Source || !Source.isTypeSupported(type)) throw new Unplayable(type ?? 'no codec');
    const source = new Source();
    const url = URL.createObjectURL(source);
    this.video.disableRemotePlayback = true;
    this.video.src = url;
    await event(source, 'sourceopen', signal);
    URL.revokeObjectURL(url);
    return source.addSourceBuffer(type);
  }

  /** Stays near the newest picture, skips holes, forgets what has been shown. */
  async holdEdge(buffer, signal) {
    const { buffered, currentTime } = this.video;
    if (buffered.length === 0) return;
    const start = buffered.start(buffered.length - 1);
    const end = buffered.end(buffered.length - 1);
    if (currentTime < start || end - currentTime > LATE) {
      this.video.currentTime = Math.max(start, end - EDGE - 1);
    }
    // A little faster is not seen; it wins back what a slow fetch has cost.
    this.video.playbackRate = end - currentTime > EDGE + 3 ? 1.1 : 1;
    if (this.video.paused) await this.video.play().catch(() => {});
    this.video.hidden = false;
    this.image.hidden = true;
    this.report('live');
    const oldest = buffered.start(0);
    if (currentTime - oldest > KEEP * 2) {
      buffer.remove(oldest, currentTime - KEEP);
      await event(buffer, 'updateend', signal);
    }
  }
}

async function append(buffer, bytes, signal) {
  const done = event(buffer, 'updateend', signal);
  try {
    buffer.appendBuffer(bytes);
  } catch (error) {
    throw new Restart(error.message);
  }
  await done;
}

function event(target, name, signal) {
  return new Promise((resolve, reject) => {
    const options = { once: true, signal };
    target.addEventListener(name, resolve, options);
    target.addEventListener('error', () => reject(new Restart(name)), options);
    signal.addEventListener('abort', () => reject(new Restart('stopped')), { once: true });
  });
}

/** The lines of a media playlist (RFC 8216) that matter here. */
export function parse(text, base) {
  const list = { target: 2, segments: [], run: 0, ended: false };
  let init = null;
  for (const line of text.split(/\r?\n/)) {
    if (line.startsWith('#EXT-X-TARGETDURATION:')) list.target = Number(line.slice(22)) || 2;
    else if (line.startsWith('#EXT-X-DISCONTINUITY-SEQUENCE:')) list.run = Number(line.slice(30)) || 0;
    else if (line === '#EXT-X-DISCONTINUITY') list.run += 1;
    else if (line.startsWith('#EXT-X-ENDLIST')) list.ended = true;
    else if (line.startsWith('#EXT-X-MAP:')) init = new URL(/URI="([^"]*)"/.exec(line)?.[1] ?? '', base).href;
    else if (line && !line.startsWith('#')) list.segments.push({ url: new URL(line, base).href, init, run: list.run });
  }
  return list;
}

/** The MIME type for an init segment: the codecs that its sample entries name. `undefined`: not playable here. */
export function mime(bytes, known) {
  const find = (name) => {
    const codes = [...name].map((letter) => letter.charCodeAt(0));
    return bytes.findIndex((_, at) => codes.every((code, n) => bytes[at + n] === code));
  };
  const codecs = [];
  const avcC = find('avcC');
  if (avcC >= 0) {
    const hex = [...bytes.slice(avcC + 5, avcC + 8)].map((byte) => byte.toString(16).padStart(2, '0'));
    codecs.push(`avc1.${hex.join('')}`);
  } else if (known && find('hvcC') >= 0) codecs.push(known);
  else return undefined;
  if (find('mp4a') >= 0) codecs.push('mp4a.40.2');
  else if (find('soun') >= 0) return undefined; // G.711: no browser plays it in MP4
  return `video/mp4; codecs="${codecs.join(',')}"`;
}
