// The cluster as a picture: this node in the middle, registries on its left, clients on its right, other nodes around it.
// A line that flows is as thick as what flows, and moves the way the bytes do.

import { bytes, counted, element, percent, rate, say, short, svg } from './words.js';

// Other nodes in the picture.
export const SHOWN = 14;
const STATES = { connected: 'connected', known: 'known, no connection is open', leaving: 'leaves' };

export class Cluster {
  #root = document.getElementById('cluster');
  #links = svg('g');
  #nodes = svg('g');
  #before = null;
  #last = null;
  // Lines stay what they are, so that their movement goes on.
  #lines = new Map();

  constructor() {
    this.#root.append(this.#links, this.#nodes);
    new ResizeObserver(() => this.#draw()).observe(this.#root);
  }

  // `flows`: bytes a second of cache, fetched, passed, origin. `peers` as /api/v1/peers tells, or null.
  show(status, flows, peers) {
    let others = this.#last?.others ?? [];
    if (peers && peers.at_ms !== this.#before?.at_ms) {
      const elapsed = this.#before ? (peers.at_ms - this.#before.at_ms) / 1000 : 0;
      const earlier = new Map((this.#before?.peers ?? []).map((peer) => [peer.id, peer]));
      others = peers.peers.map((peer) => {
        const before = earlier.get(peer.id) ?? peer;
        const moved = (name) => (elapsed > 0 ? Math.max(0, peer[name] - before[name]) / elapsed : 0);
        return { ...peer, receives: moved('received_bytes'), sends: moved('sent_bytes') };
      });
      this.#before = peers;
    }
    if (!peers && !status.node) others = [];
    this.#last = { status, flows, others };
    this.#draw();
    this.#table(others);
    const { node } = status;
    if (!node) return say('cluster-note', 'this node is in no cluster');
    const known = Math.max(node.connected, others.length) + 1;
    const words = {
      joined: `${counted(known, 'node')} known here, ${counted(node.seeds, 'seed')}${known > SHOWN + 1 ? `; the ${SHOWN} that moved most` : ''}`,
      alone: 'the only seed so far',
      joining: 'no seed reached yet',
      leaving: 'leaving',
    };
    say('cluster-note', words[node.standing] ?? node.standing);
  }

  #draw() {
    if (!this.#last) return;
    const { status, flows, others } = this.#last;
    const width = this.#root.clientWidth;
    if (width === 0) return;
    const isNarrow = width < 480;
    const height = others.length === 0 ? 190 : isNarrow ? 330 : 340;
    this.#root.setAttribute('viewBox', `0 0 ${width} ${height}`);
    this.#root.style.height = `${height}px`;
    const middle = { x: width / 2, y: height / 2, r: 34 };
    const registries = { x: isNarrow ? 42 : 62, y: height / 2, r: 24 };
    const clients = { x: width - (isNarrow ? 42 : 62), y: height / 2, r: 24 };
    const shown = others.slice(0, SHOWN);
    const places = around(shown.length, middle, width, height);
    const lines = [
      ['registries', registries, middle, flows.origin + flows.passed, 'origin', true],
      ['clients', middle, clients, flows.cache + flows.fetched + flows.passed, 'cache', true],
    ];
    shown.forEach((peer, index) => {
      const place = { ...places[index], r: 15 };
      lines.push([`${peer.id} in`, place, middle, peer.receives, 'peers', false]);
      lines.push([`${peer.id} out`, middle, place, peer.sends, 'given', false]);
      lines.push([`${peer.id} link`, place, middle, -1, peer.state, false]);
    });
    this.#link(lines);
    const { store } = status;
    const nodes = [
      place(registries, 'registries', 'Registries', [moving(flows.origin + flows.passed)]),
      place(clients, 'clients', 'Clients', [moving(flows.cache + flows.fetched + flows.passed), [counted(status.connections.open, 'connection'), 'small']]),
      ...shown.map((peer, index) => this.#peer(peer, places[index], shown.length > 6)),
      own(middle, status, store),
    ];
    this.#nodes.replaceChildren(...nodes);
    this.#describe(status, flows, others);
  }

  #peer(peer, at, isCrowded) {
    const title = `${peer.role} ${peer.id}, ${peer.address}${peer.zone ? `, zone ${peer.zone}` : ''}: ${STATES[peer.state] ?? peer.state}`;
    const shape = peer.role === 'seed'
      ? svg('rect', { x: at.x - 13, y: at.y - 13, width: 26, height: 26, rx: 7 })
      : svg('circle', { cx: at.x, cy: at.y, r: 14 });
    const isBelow = at.y >= this.#root.viewBox.baseVal.height / 2;
    const flows = [];
    if (peer.receives >= 1) flows.push(isCrowded ? rate(peer.receives) : `gives ${rate(peer.receives)}`);
    if (peer.sends >= 1) flows.push(isCrowded ? rate(peer.sends) : `takes ${rate(peer.sends)}`);
    const said = isCrowded && flows.length > 0 ? flows.slice(0, 1) : [short(peer.id).slice(0, 6), flows.join(', ')].filter(Boolean);
    const labels = said.map((text, index) => {
      const y = isBelow ? at.y + 30 + 14 * index : at.y - 22 - 14 * (said.length - 1 - index);
      return svg('text', { x: at.x, y, class: index > 0 ? 'flow' : '' }, text);
    });
    const letter = svg('text', { x: at.x, y: at.y + 4, class: 'letter' }, peer.role === 'seed' ? 'S' : 'P');
    return svg('g', { class: `node ${peer.role} ${peer.state}` }, svg('title', {}, title), shape, letter, ...labels);
  }

  #link(lines) {
    const kept = new Map();
    for (const [key, from, to, flow, name, isMain] of lines) {
      const line = this.#lines.get(key) ?? svg('g', {}, svg('path'));
      const path = line.firstChild;
      const isOther = flow < 0;
      const offset = isOther || isMain ? 0 : 4;
      const [start, end] = ends(from, to, offset);
      path.setAttribute('d', `M${start.x} ${start.y}L${end.x} ${end.y}`);
      const flowing = flow >= 1;
      line.setAttribute('class', isOther ? `link base ${name}` : `link ${name}${flowing ? ' flows' : ''}${isMain ? ' main' : ''}`);
      path.style.strokeWidth = flowing ? thickness(flow) : 1.5;
      path.style.animationDuration = flowing ? `${speed(flow)}s` : '0s';
      kept.set(key, line);
    }
    for (const [key, line] of this.#lines) if (!kept.has(key)) line.remove();
    for (const [key, line] of kept) if (!this.#lines.has(key)) (key.endsWith('link') ? this.#links.prepend(line) : this.#links.append(line));
    this.#lines = kept;
  }

  #describe(status, flows, others) {
    const parts = [
      `registries give ${rate(flows.origin + flows.passed)}`,
      `clients take ${rate(flows.cache + flows.fetched + flows.passed)}`,
    ];
    const busy = others.filter((peer) => peer.receives + peer.sends >= 1);
    for (const peer of busy.slice(0, 5)) parts.push(`${peer.role} ${short(peer.id)} gives ${rate(peer.receives)} and takes ${rate(peer.sends)}`);
    if (status.node && busy.length === 0) parts.push('nothing flows between nodes');
    this.#root.setAttribute('aria-label', `What flows: ${parts.join('; ')}.`);
  }

  #table(others) {
    document.getElementById('cluster-details').hidden = others.length === 0;
    if (!document.getElementById('cluster-details').open) return;
    const row = (peer) => element('tr', {},
      ...[short(peer.id), peer.role, peer.zone || '–', peer.address, STATES[peer.state] ?? peer.state, rate(peer.receives), rate(peer.sends)]
        .map((text) => element('td', {}, text)));
    document.getElementById('nodes').replaceChildren(...others.map(row));
  }
}

// Places above and below this node, on a flat ring that leaves left and right free.
function around(number, middle, width, height) {
  const above = Math.ceil(number / 2);
  const row = (count, sign) => Array.from({ length: count }, (_, index) => {
    const share = count === 1 ? 0.5 : index / (count - 1);
    const reach = Math.min(width / 2 - 40, 60 + count * 34);
    const across = (share - 0.5) * 2;
    const lift = (height / 2 - 56) * (1 - 0.24 * across * across);
    return { x: middle.x + across * (count === 1 ? 0 : reach), y: middle.y + sign * lift };
  });
  const [up, down] = [row(above, -1), row(number - above, 1)];
  return Array.from({ length: number }, (_, index) => (index % 2 === 0 ? up[index / 2] : down[(index - 1) / 2]));
}

// The ends of a line between two nodes, beside the straight one by `offset`, without what the nodes cover.
function ends(from, to, offset) {
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const length = Math.hypot(dx, dy) || 1;
  const [ux, uy] = [dx / length, dy / length];
  const at = (node, away) => ({
    x: Number((node.x + ux * away - uy * offset).toFixed(1)),
    y: Number((node.y + uy * away + ux * offset).toFixed(1)),
  });
  return [at(from, from.r + 5), at(to, -(to.r + 5))];
}

const thickness = (flow) => Math.min(9, 2 + Math.log2(1 + flow / 65536) * 0.6);
const speed = (flow) => Math.max(0.35, 1.8 - Math.log2(1 + flow / 65536) * 0.12).toFixed(2);

function own(at, status, store) {
  const around = 2 * Math.PI * (at.r + 5);
  const used = store.capacity_bytes > 0 ? store.used_bytes / store.capacity_bytes : 0;
  const ring = svg('circle', { cx: at.x, cy: at.y, r: at.r + 5, class: 'ring' });
  const fill = svg('circle', { cx: at.x, cy: at.y, r: at.r + 5, class: 'ring used', transform: `rotate(-90 ${at.x} ${at.y})` });
  fill.style.strokeDasharray = `${around * used} ${around}`;
  const title = `This node. Its store holds ${bytes(store.used_bytes)} of ${bytes(store.capacity_bytes)}.`;
  return svg('g', { class: 'node own' },
    svg('title', {}, title),
    svg('circle', { cx: at.x, cy: at.y, r: at.r }), ring, fill,
    svg('text', { x: at.x, y: at.y - 1, class: 'letter' }, status.node?.role === 'seed' ? 'this seed' : 'this node'),
    svg('text', { x: at.x, y: at.y + 14, class: 'small' }, percent(store.used_bytes, store.capacity_bytes)));
}

// What moves there, and with which weight it is written.
const moving = (flow) => (flow >= 1 ? [rate(flow), 'flow'] : ['nothing now', 'small']);

function place(at, name, label, notes) {
  const shape = name === 'registries'
    ? [
        svg('path', { d: `M${at.x - 15} ${at.y - 13}v26c0 9 30 9 30 0v-26` }),
        svg('ellipse', { cx: at.x, cy: at.y - 13, rx: 15, ry: 6 }),
        svg('path', { d: `M${at.x - 15} ${at.y}c0 8 30 8 30 0`, class: 'inner' }),
      ]
    : [-7, 5].map((dy) => svg('rect', { x: at.x - 17, y: at.y + dy - 8, width: 34, height: 11, rx: 3 }));
  return svg('g', { class: `node ${name}` }, ...shape,
    svg('text', { x: at.x, y: at.y + 40 }, label),
    ...notes.map(([note, weight], index) => svg('text', { x: at.x, y: at.y + 55 + 14 * index, class: weight }, note)));
}
