// The console's first page: every camera live, the alerts with their pictures.

import { Player } from './player.js';
import { kind, locale, switchLanguage, translate, word } from './words.js';

const POLL_EVERY = 5000; // while live events do not come
const COME_BACK = 10000; // after the box has refused them
const PAGE_MOST = 200; // alerts above those fetched by hand
const GATHER = 200; // changes so close together are fetched at once

const $ = (id) => document.getElementById(id);
const tiles = new Map(); // camera id → { figure, player, camera, state }
const cards = new Map(); // alert id → { item, revision }
let session = { name: null, may: {} };
let byToken = false; // how the sign-in form signs in
let older = []; // pages fetched by hand, below the newest
let olderCursor = null;
let newestSeen = null;
let events = null; // the EventSource, while the page is seen

async function api(path, options = {}) {
  const response = await fetch(path, { ...options, signal: AbortSignal.timeout(15000) });
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    const wait = Number(response.headers.get('Retry-After'));
    throw Object.assign(new Error(`${path}: ${response.status}`), { status: response.status, problem, wait });
  }
  return response.status === 204 ? null : response.json();
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// Live.

function tile(camera) {
  const figure = make('figure', 'tile');
  const video = make('video');
  Object.assign(video, { muted: true, autoplay: true, playsInline: true, hidden: true });
  const image = make('img');
  image.hidden = true;
  const state = make('div', 'state', word('starting'));
  state.setAttribute('role', 'status');
  const full = make('button', 'full', '⛶');
  full.type = 'button';
  full.onclick = () => (document.fullscreenElement ? document.exitFullscreen() : figure.requestFullscreen());
  const caption = make('figcaption');
  caption.append(make('span', 'dot'), make('span', 'name'), make('span', 'facts'));
  figure.append(video, image, state, full, caption);
  figure.dataset.camera = camera.id;
  const made = { figure, camera, state: 'starting' };
  made.player = new Player(video, image, camera, (now) => { made.state = now; paint(made); });
  return made;
}

function paint(made) {
  const { figure, camera, state } = made;
  const gone = !camera.online || state === 'offline' || state === 'noPicture';
  const live = !gone && (state === 'live' || state === 'pictures');
  figure.classList.toggle('live', live);
  figure.classList.toggle('gone', gone);
  figure.querySelector('.name').textContent = camera.name;
  const size = camera.height ? `${camera.height}p ${camera.codec === 'h265' ? 'H.265' : 'H.264'}` : '';
  figure.querySelector('.facts').textContent = state === 'pictures' ? `${size} · ${word('pictures')}` : size;
  const why = !camera.online ? camera.health.message || word('offline') : live ? '' : word(state);
  const box = figure.querySelector('.state');
  const short = why.length > 160 ? `${why.slice(0, 160)} …` : why;
  if (box.textContent !== short) box.textContent = short;
  box.title = why;
  const label = `${word('fullscreen')}: ${camera.name}`;
  figure.querySelector('.full').setAttribute('aria-label', label);
  for (const picture of figure.querySelectorAll('video, img')) picture.setAttribute('aria-label', camera.name);
}

// A tile that nobody sees costs the box and the network nothing.
const watched = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const made = tiles.get(entry.target.dataset.camera);
    if (made) { made.inView = entry.isIntersecting; run(made); }
  }
});

function run(made) {
  if (made.inView && !document.hidden) made.player.start();
  else made.player.stop();
}

async function refreshCameras() {
  const { items } = await api('/api/v1/cameras');
  const ids = new Set(items.map((camera) => camera.id));
  for (const [id, made] of tiles) {
    if (ids.has(id)) continue;
    watched.unobserve(made.figure);
    made.player.stop();
    made.figure.remove();
    tiles.delete(id);
  }
  for (const camera of items) {
    let made = tiles.get(camera.id);
    if (!made) {
      made = tile(camera);
      tiles.set(camera.id, made);
      $('tiles').append(made.figure);
      watched.observe(made.figure);
    }
    made.camera = made.player.camera = camera;
    paint(made);
  }
  $('online').textContent = word('online')(items.filter((camera) => camera.online).length, items.length);
  $('no-cameras').hidden = items.length > 0;
  $('no-cameras').textContent = word('noCameras');
}

// Alerts.

const when = (time) => new Date(time).toLocaleString(locale(), { dateStyle: 'medium', timeStyle: 'medium' });
const cameraName = (id) => tiles.get(id)?.camera.name ?? id;

function card(alert) {
  const item = make('li', `level-${alert.level}`);
  const shot = make('button', 'shot');
  shot.type = 'button';
  const image = make('img');
  image.loading = 'lazy';
  image.src = `${alert.snapshot.url}?revision=${alert.revision}`;
  image.alt = `${kind(alert.kind)}, ${cameraName(alert.camera)}, ${when(alert.snapshot_at)}`;
  shot.append(image);
  shot.onclick = () => enlarge(image);
  const text = make('div', 'text');
  const head = make('div', 'head');
  head.append(make('span', 'kind', kind(alert.kind)), make('span', 'quiet', `${Math.round(alert.confidence * 100)}%`),
    make('span', `phase ${alert.phase}`, word(alert.phase)));
  const camera = make('div', 'camera', cameraName(alert.camera));
  camera.title = alert.camera;
  const time = make('time', 'quiet', when(alert.started_at));
  time.dateTime = alert.started_at;
  const facts = [`${word('level')} ${alert.level}`, alert.zone, word('seen')(alert.count)].filter(Boolean);
  const more = make('div', 'quiet', `${facts.join(' · ')} · `);
  const clip = make('a', '', word('clip'));
  clip.href = alert.clip.url;
  more.append(clip);
  text.append(head, camera, time, more);
  item.append(shot, text);
  return item;
}

function enlarge(image) {
  const dialog = $('picture');
  dialog.querySelector('img').src = image.src;
  dialog.querySelector('img').alt = image.alt;
  dialog.querySelector('p').textContent = image.alt;
  dialog.showModal();
}

function showAlerts(items) {
  const list = $('list');
  const ids = new Set(items.map((alert) => alert.id));
  for (const [id, { item }] of cards) {
    if (!ids.has(id)) { item.remove(); cards.delete(id); }
  }
  items.forEach((alert, place) => {
    const known = cards.get(alert.id);
    let item = known?.item;
    if (known?.revision !== alert.revision) {
      const focused = item?.contains(document.activeElement) && document.activeElement.className;
      const fresh = card(alert);
      if (item) item.replaceWith(fresh);
      item = fresh;
      if (focused === 'shot') item.querySelector('.shot').focus();
      cards.set(alert.id, { item, revision: alert.revision });
    }
    if (list.children[place] !== item) list.insertBefore(item, list.children[place] ?? null);
  });
  const active = items.filter((alert) => alert.phase === 'active');
  $('active').textContent = word('openNow')(active.length);
  const burning = new Set(active.map((alert) => alert.camera));
  for (const [id, made] of tiles) made.figure.classList.toggle('alarm', burning.has(id));
  const [newest] = items;
  if (newest && newestSeen !== null && newest.id > newestSeen) {
    $('news').textContent = word('news')(kind(newest.kind), cameraName(newest.camera));
  }
  newestSeen = newest?.id ?? newestSeen ?? '';
  $('no-alerts').hidden = items.length > 0;
}

let newestPage = [];

async function refreshAlerts() {
  if (!session.may.alerts) {
    showAlerts([]);
    $('no-alerts').hidden = true;
    return;
  }
  const page = await api('/api/v1/alerts?limit=50');
  newestPage = page.items;
  if (older.length === 0) olderCursor = page.next;
  renderAlerts();
}

/** A revision that came by itself, in the order of the list: newest first. */
function takeAlert(alert) {
  const others = newestPage.filter((known) => known.id !== alert.id);
  const known = newestPage.find((one) => one.id === alert.id) ?? older.find((one) => one.id === alert.id);
  if (known && known.revision >= alert.revision) return;
  older = older.map((one) => (one.id === alert.id ? alert : one));
  if (!older.includes(alert)) {
    const later = (one) => one.started_at > alert.started_at || (one.started_at === alert.started_at && one.id > alert.id);
    const place = others.findIndex((one) => !later(one));
    others.splice(place < 0 ? others.length : place, 0, alert);
    newestPage = others;
    // A page that is left open for weeks goes on with the newest.
    if (newestPage.length > PAGE_MOST) fetchSoon('alerts');
  }
  renderAlerts();
}

function renderAlerts() {
  const seen = new Set(newestPage.map((alert) => alert.id));
  showAlerts([...newestPage, ...older.filter((alert) => !seen.has(alert.id))]);
  $('older').hidden = !olderCursor;
}

$('older').onclick = async () => {
  const page = await api(`/api/v1/alerts?limit=50&cursor=${encodeURIComponent(olderCursor)}`).catch(() => null);
  if (!page) return;
  older.push(...page.items);
  olderCursor = page.next;
  renderAlerts();
};

// Sign-in.

async function refreshSession() {
  session = await api('/api/v1/session');
  const signedIn = session.name !== null && session.name !== 'anonymous';
  $('box').textContent = session.box;
  $('who').textContent = signedIn ? `${session.name} · ${session.role}` : '';
  $('sign-out').hidden = !signedIn;
  $('setup').hidden = signedIn || !session.setup;
  $('sign-in').hidden = session.may.alerts;
  $('sign-in').querySelector('p').textContent =
    !session.may.live ? word('signInLive') : signedIn ? word('notAllowed') : word('signInWhy');
  chooseSignIn();
}

function chooseSignIn() {
  const shown = { name: !byToken, password: !byToken, token: byToken };
  for (const [id, show] of Object.entries(shown)) {
    $(id).hidden = $('sign-in').querySelector(`label[for="${id}"]`).hidden = !show;
    $(id).required = show;
  }
  $('by-token').textContent = word(byToken ? 'byPassword' : 'byToken');
}

$('by-token').onclick = () => {
  byToken = !byToken;
  chooseSignIn();
  $(byToken ? 'token' : 'name').focus();
};

/** Sends what the form asks for, and says there what is wrong. */
async function submit(form, path, fields) {
  const error = form.querySelector('.error');
  error.hidden = true;
  const button = form.querySelector('.main');
  button.disabled = true;
  try {
    const body = JSON.stringify(fields);
    const told = await api(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
    form.reset();
    if (told.stream_key) showOnce(told.stream_key);
    await begin();
  } catch (failure) {
    const kind = failure.problem?.type?.split(':').pop();
    const own = word('refused')[kind];
    error.textContent = own ? own(failure.wait) : failure.problem?.detail ?? word('failed');
    error.hidden = false;
  } finally {
    button.disabled = false;
  }
}

function showOnce(key) {
  $('own-key').querySelector('code').textContent = key;
  $('own-key').showModal();
}

$('sign-in').onsubmit = (event) => {
  event.preventDefault();
  const fields = byToken ? { token: $('token').value.trim() }
    : { name: $('name').value.trim(), password: $('password').value };
  return submit($('sign-in'), '/api/v1/session', fields);
};

$('setup').onsubmit = (event) => {
  event.preventDefault();
  const [token, name, password] = ['token', 'name', 'password'].map((id) => $(`setup-${id}`).value);
  return submit($('setup'), '/api/v1/setup', { token: token.trim(), name: name.trim(), password });
};

$('sign-out').onclick = async () => {
  await api('/api/v1/session', { method: 'DELETE' }).catch(() => {});
  older = [];
  newestSeen = null;
  await begin();
};

// The page.

const isLive = () => events?.readyState === EventSource.OPEN;
const due = new Set(); // what is fetched next
const fetchers = {
  cameras: () => (session.may.live ? refreshCameras() : null),
  alerts: refreshAlerts,
};

/** Fetches it soon, once however often that is asked for. */
function fetchSoon(...names) {
  if (due.size === 0) {
    setTimeout(async () => {
      const now = [...due];
      due.clear();
      for (const name of now) if (fetchers[name]) await attempt(fetchers[name]);
    }, GATHER);
  }
  names.forEach((name) => due.add(name));
}

/** Follows live events while the page is seen and its visitor may see anything. */
function follow() {
  events?.close();
  events = null;
  if (document.hidden || !(session.may.live || session.may.alerts)) return;
  const source = new EventSource('/api/v1/events');
  let opened = false;
  source.onopen = async () => {
    $('connection').hidden = true;
    if (!opened) {
      opened = true;
      fetchSoon('cameras', 'alerts'); // what happened before the first event
      return;
    }
    // It came back by itself, and the box tells what was missed; but it may know somebody else by now.
    const before = session.name;
    await attempt(refreshSession);
    if (session.name !== before && events === source) await begin();
  };
  source.onerror = () => {
    // The browser comes back by itself, but not where the box has refused.
    if (source.readyState !== EventSource.CLOSED) return;
    setTimeout(async () => {
      if (events !== source) return;
      await attempt(refreshSession);
      if (events === source) follow();
    }, COME_BACK);
  };
  source.addEventListener('alert', ({ data }) => takeAlert(JSON.parse(data)));
  source.addEventListener('camera', () => fetchSoon('cameras'));
  source.addEventListener('reset', ({ data }) => fetchSoon(...JSON.parse(data).refetch));
  events = source;
}

/** What keeps the page true where live events do not come. */
async function poll() {
  if (!document.hidden && !isLive()) {
    await attempt(session.may.live ? refreshCameras : refreshSession);
    await attempt(refreshAlerts);
  }
  setTimeout(poll, POLL_EVERY);
}

async function attempt(work) {
  try {
    await work();
    $('connection').hidden = true;
  } catch (error) {
    if (error.status === 401 || error.status === 403) await refreshSession().catch(() => {});
    else $('connection').hidden = false;
  }
}

async function begin() {
  await attempt(refreshSession);
  if (session.may.live) await attempt(refreshCameras);
  else for (const { player, figure } of tiles.values()) { player.stop(); figure.remove(); }
  if (!session.may.live) {
    tiles.clear();
    $('online').textContent = '';
  }
  await attempt(refreshAlerts);
  follow();
}

function speak() {
  translate();
  $('language').textContent = word('other');
  cards.forEach(({ item }) => item.remove());
  cards.clear();
  tiles.forEach(paint);
}

$('language').onclick = async () => {
  switchLanguage();
  for (const error of document.querySelectorAll('.error')) error.hidden = true;
  speak();
  await begin();
};
document.onvisibilitychange = () => {
  tiles.forEach(run);
  if (document.hidden) follow();
  else begin();
};

speak();
await begin();
setTimeout(poll, POLL_EVERY);
