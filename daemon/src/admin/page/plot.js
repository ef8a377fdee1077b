// The moving plot: what came from where in each of the last seconds, above the line; what was given to others, below.

import { clock, duration, rate, say, svg } from './words.js';

// Of the windows, the shortest that has room for all that is known.
const WINDOWS_S = [60, 120, 300];
const SECONDS = 300;
const STEP_MS = 1000;
const ABOVE = ['cache', 'peers', 'origin'];
const NAMES = { cache: 'from the cache', peers: 'from other nodes', origin: 'from registries', given: 'to other nodes' };
const SCALE_MIN = 1 << 20;
const MARGIN = { left: 8, right: 8, top: 14, bottom: 22 };

export class Plot {
  // Of points {at_ms, cache, fetched, peers, origin, given} in bytes a second, the newest last.
  #points = [];
  #root = document.getElementById('plot');
  #grid = svg('g', { class: 'grid' });
  #moving = svg('g', { class: 'moving' });
  #cursor = svg('g', { class: 'cursor' });
  #paths = {};
  #at = null;
  #window = SECONDS;
  #size = { width: 0, height: 0 };
  // By how much the clock of this machine is ahead of the daemon's, which begins with its start.
  #unixOffset = 0;

  constructor() {
    for (const name of [...ABOVE, 'given']) {
      this.#paths[name] = svg('path', { class: `area ${name}` });
      this.#moving.append(this.#paths[name]);
    }
    const clip = svg('clipPath', { id: 'plot-clip' }, svg('rect'));
    this.#root.append(clip, this.#grid, svg('g', { 'clip-path': 'url(#plot-clip)' }, this.#moving), this.#cursor);
    new ResizeObserver(() => this.#draw()).observe(this.#root);
    this.#root.addEventListener('pointermove', (event) => this.#point(event));
    for (const name of ['pointerleave', 'blur']) this.#root.addEventListener(name, () => this.#look(null));
    this.#root.addEventListener('keydown', (event) => this.#key(event));
  }

  // The whole past, as /api/v1/history tells it.
  begin(history) {
    this.#points = history.at_ms.map((at_ms, index) => ({
      at_ms,
      cache: history.cache_bytes[index],
      fetched: history.fetched_bytes[index],
      peers: history.peers_bytes[index],
      origin: history.origin_bytes[index],
      given: history.given_bytes[index],
    }));
    this.#dropOld();
    this.#draw();
  }

  add(point) {
    const last = this.#points.at(-1);
    if (last && point.at_ms <= last.at_ms) this.#points = [];
    this.#points.push(point);
    this.#dropOld();
    this.#unixOffset = Date.now() - point.at_ms;
    this.#draw();
    this.#move();
  }

  #dropOld() {
    const oldest = (this.#points.at(-1)?.at_ms ?? 0) - SECONDS * STEP_MS;
    this.#points = this.#points.filter((point) => point.at_ms > oldest);
  }

  // Sums of bytes over what is known: a point is of the time since the one before, which is not always a second.
  sums() {
    const sums = { cache: 0, fetched: 0, peers: 0, origin: 0, given: 0 };
    this.#points.forEach((point, index) => {
      const seconds = this.#step(index) / 1000;
      for (const name of Object.keys(sums)) sums[name] += point[name] * seconds;
    });
    return sums;
  }

  // Of the first one the time before is not known; a daemon's are a second apart.
  #step(index) {
    return index === 0 ? STEP_MS : this.#points[index].at_ms - this.#points[index - 1].at_ms;
  }

  // The time that the sums are of.
  get span_ms() {
    return this.#points.reduce((sum, _, index) => sum + this.#step(index), 0);
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.#root;
    if (width === 0) return;
    this.#size = { width, height };
    this.#root.setAttribute('viewBox', `0 0 ${width} ${height}`);
    const clip = this.#root.querySelector('#plot-clip rect');
    clip.setAttribute('width', width);
    clip.setAttribute('height', height);
    const above = Math.max(0, ...this.#points.map((point) => point.cache + point.peers + point.origin));
    const below = Math.max(0, ...this.#points.map((point) => point.given));
    const unit = step(Math.max(SCALE_MIN, above, below) / 3);
    const up = Math.max(1, Math.ceil(above / unit)) * unit;
    const down = below > 0 ? Math.ceil(below / unit) * unit : 0;
    const usable = height - MARGIN.top - MARGIN.bottom;
    const perByte = usable / (up + down);
    const zero = MARGIN.top + up * perByte;
    const newest = this.#points.at(-1)?.at_ms ?? 0;
    const known = (newest - (this.#points[0]?.at_ms ?? 0)) / STEP_MS;
    this.#window = WINDOWS_S.find((window) => window >= known) ?? SECONDS;
    const x = (at_ms) => width - MARGIN.right - ((newest - at_ms) / STEP_MS / this.#window) * (width - MARGIN.left - MARGIN.right);
    this.#drawGrid({ unit, up, down, perByte, zero });
    const floor = this.#points.map(() => 0);
    for (const name of ABOVE) {
      const base = [...floor];
      this.#points.forEach((point, index) => { floor[index] += point[name]; });
      this.#paths[name].setAttribute('d', this.#area(x, (value) => zero - value * perByte, base, floor));
    }
    const given = this.#points.map((point) => point.given);
    this.#paths.given.setAttribute('d', this.#area(x, (value) => zero + value * perByte, given.map(() => 0), given));
    this.#x = x;
    this.#drawCursor();
    this.#describe();
  }

  #x = () => 0;

  #drawGrid({ unit, up, down, perByte, zero }) {
    const { width, height } = this.#size;
    const lines = [];
    for (let value = -down; value <= up; value += unit) {
      const y = Math.round(zero - value * perByte) + 0.5;
      lines.push(svg('line', { x1: 0, x2: width, y1: y, y2: y, class: value === 0 ? 'zero' : '' }));
      if (value !== 0) lines.push(svg('text', { x: 4, y: y - 4 }, rate(Math.abs(value))));
    }
    const parts = width < 500 ? [5, 3, 1] : [5, 4, 3, 2, 1];
    for (const part of parts) {
      const seconds = (this.#window * part) / 5;
      const at = MARGIN.left + (1 - part / 5) * (width - MARGIN.left - MARGIN.right);
      const text = seconds % 60 === 0 ? `${seconds / 60} min` : `${seconds} s`;
      lines.push(svg('text', { x: at, y: height - 5, class: part === 5 ? 'start' : 'middle' }, part === 5 ? `${text} ago` : text));
    }
    lines.push(svg('text', { x: width - MARGIN.right, y: height - 5, class: 'end' }, 'now'));
    this.#grid.replaceChildren(...lines);
  }

  #area(x, y, base, top) {
    if (this.#points.length < 2) return '';
    const at = (values) => (point, index) => `${x(point.at_ms).toFixed(1)} ${y(values[index]).toFixed(1)}`;
    const edge = this.#points.map(at(top));
    const back = this.#points.map(at(base)).reverse();
    return `M${edge.join('L')}L${back.join('L')}Z`;
  }

  // Slides by one second until the next point comes.
  #move() {
    const slide = (this.#size.width - MARGIN.left - MARGIN.right) / this.#window;
    this.#moving.classList.remove('slides');
    this.#moving.style.transform = `translateX(${slide}px)`;
    this.#moving.getBoundingClientRect();
    this.#moving.classList.add('slides');
    this.#moving.style.transform = 'translateX(0)';
  }

  #describe() {
    const last = this.#points.at(-1);
    if (!last) return;
    const seconds = Math.max(1, this.span_ms / 1000);
    const sums = this.sums();
    const words = Object.entries(NAMES).map(([name, words]) => `${words} ${rate(last[name])}, on average ${rate(sums[name] / seconds)}`);
    this.#root.setAttribute('aria-label', `Throughput by source in ${this.#span()}. Now ${words.join('; ')}. Arrow keys read earlier seconds.`);
  }

  #span() {
    return this.#points.length === 0 ? '' : `the last ${duration(this.span_ms)}`;
  }

  #point(event) {
    const { left } = this.#root.getBoundingClientRect();
    const at = event.clientX - left;
    let best = null;
    this.#points.forEach((point, index) => {
      const distance = Math.abs(this.#x(point.at_ms) - at);
      if (best === null || distance < best.distance) best = { index, distance };
    });
    this.#look(best === null ? null : this.#points[best.index].at_ms);
  }

  #key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -SECONDS, End: SECONDS };
    if (event.key === 'Escape') return this.#look(null);
    const steps_by = steps[event.key];
    if (steps_by === undefined || this.#points.length === 0) return;
    event.preventDefault();
    const now = this.#at === null ? this.#points.length - 1 : this.#index();
    const next = Math.min(this.#points.length - 1, Math.max(0, now + steps_by));
    this.#look(this.#points[next].at_ms);
  }

  #index() {
    const found = this.#points.findIndex((point) => point.at_ms >= this.#at);
    return found < 0 ? this.#points.length - 1 : found;
  }

  #look(at_ms) {
    this.#at = at_ms;
    this.#drawCursor();
  }

  #drawCursor() {
    if (this.#at === null || this.#points.length === 0) {
      this.#cursor.replaceChildren();
      say('plot-reading', this.#span());
      return;
    }
    const point = this.#points[this.#index()];
    const x = this.#x(point.at_ms);
    this.#cursor.replaceChildren(svg('line', { x1: x, x2: x, y1: 0, y2: this.#size.height - MARGIN.bottom }));
    const parts = Object.entries(NAMES).filter(([name]) => point[name] > 0).map(([name, words]) => `${rate(point[name])} ${words}`);
    say('plot-reading', `${clock(point.at_ms + this.#unixOffset)}: ${parts.join(', ') || 'nothing moved'}`);
  }
}

// The next round number of 1, 2, 4, … 512 KiB, MiB or GiB.
function step(atLeast) {
  return 2 ** Math.ceil(Math.log2(atLeast));
}
