// Contents as bars of their pieces: here, coming, absent.

import { bytes, count, element, host, kind, percent, say, short } from './words.js';

export const SHOWN = 40;
export const CELLS = 120;

const VERIFIED = {
  passed: ['verified', 'The whole digest was right'],
  pending: ['not yet verified', 'Not all of it has come or been hashed'],
  wrong: ['wrong', 'The bytes are not those of the digest'],
  unprovable: ['no digest', 'A URL names it, which proves nothing'],
};

export class Contents {
  #list = document.getElementById('content-list');
  // By id and registry, so that a row stays what it is while it changes.
  #rows = new Map();

  show(page, held) {
    const rows = new Map();
    for (const content of page.contents) {
      const key = `${content.id} ${content.registry}`;
      const row = this.#rows.get(key) ?? new Row();
      row.show(content);
      rows.set(key, row);
    }
    this.#rows = rows;
    const items = [...rows.values()].map((row) => row.item);
    const isSame = items.length === this.#list.children.length && items.every((item, index) => item === this.#list.children[index]);
    if (!isSame) this.#list.replaceChildren(...items);
    if (items.length === 0) this.#list.append(element('li', { class: 'empty' }, 'Nothing is held yet. What clients read through the front comes here.'));
    const all = Math.max(held, page.contents.length);
    say('contents-note', all > items.length ? `the ${items.length} used last of ${count(all)}` : items.length > 0 ? `all ${count(all)}, what was used last first` : '');
  }
}

class Row {
  #name = element('span', { class: 'name' });
  #from = element('span', { class: 'from' });
  #share = element('span', { class: 'share' });
  #tags = element('span', { class: 'tags' });
  #bar = element('div', { class: 'bar', role: 'img' });
  #drawn = '';
  item = element('li', {}, element('div', { class: 'line' }, this.#name, this.#from, this.#tags, this.#share), this.#bar);

  show(content) {
    const { held_bytes: held, length_bytes: length } = content;
    const isWhole = held >= length;
    set(this.#name, `${kind(content)} ${short(content.id)}`);
    this.#name.title = content.id;
    set(this.#from, host(content.registry));
    set(this.#share, isWhole ? bytes(length) : `${bytes(held)} of ${bytes(length)}`);
    const cells = content.cells ?? { held: '', coming: '' };
    const isComing = /[1-9]/.test(cells.coming);
    this.item.classList.toggle('is-coming', isComing);
    const [verified, why] = VERIFIED[content.verification] ?? [content.verification, ''];
    const tags = [[isWhole ? 'whole' : `${percent(held, length)} here`, ''], [verified, why]];
    if (isComing) tags.unshift(['coming', 'coming']);
    if (content.pinned) tags.push(['pinned', 'Never evicted']);
    const drawn = `${cells.held} ${cells.coming} ${tags.join()}`;
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    this.#tags.replaceChildren(...tags.map(([text, why]) => {
      const tag = element('span', { class: `tag ${text.split(' ')[0]}` }, text);
      if (why) tag.title = why;
      return tag;
    }));
    this.#bar.setAttribute('aria-label', `${percent(held, length)} is here${isComing ? ', and more is coming' : ''}`);
    this.#bar.replaceChildren(...runs(cells.held, 'held'), ...runs(cells.coming, 'coming'));
  }
}

// Neighbouring cells of one digit are one strip.
function runs(cells, name) {
  const strips = [];
  for (const run of cells.matchAll(/(\d)\1*/g)) {
    const digit = Number(run[1]);
    if (digit === 0) continue;
    const strip = element('span', { class: name });
    strip.style.left = `${(100 * run.index) / cells.length}%`;
    strip.style.width = `${(100 * run[0].length) / cells.length}%`;
    if (name === 'held') strip.style.opacity = 0.25 + (0.75 * digit) / 9;
    strips.push(strip);
  }
  return strips;
}

function set(place, text) {
  if (place.textContent !== text) place.textContent = text;
}
