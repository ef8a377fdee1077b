// What was asked lately, and what went wrong, in plain words.

import { bytes, clock, count, element, host, latency, say, wanted } from './words.js';

const KEPT = 128;
const FATES = {
  fetched: ['fetched', 'Something had to be fetched'],
  passed: ['passed on', "The registry's own answer"],
  refused: ['refused', 'For a reason in the request, or for what the registry says of it'],
  failed: ['failed', 'For trouble of this node, the cluster or the registry'],
};

export class Requests {
  #list = document.getElementById('request-list');
  #button = document.getElementById('only-trouble');
  #known = [];
  last = 0;

  constructor() {
    this.#button.addEventListener('click', () => {
      this.#button.setAttribute('aria-pressed', String(!this.#onlyTrouble));
      this.#draw();
    });
    this.#draw();
  }

  get #onlyTrouble() {
    return this.#button.getAttribute('aria-pressed') === 'true';
  }

  // What has come since the last time.
  show(answer) {
    this.last = answer.last;
    if (answer.requests.length === 0) return;
    this.#known = [...answer.requests.reverse(), ...this.#known].slice(0, KEPT);
    this.#draw();
  }

  // What is known may be of another daemon, which counts anew.
  forget() {
    this.#known = [];
    this.last = 0;
    this.#draw();
  }

  note(requests) {
    const hits = requests.hit;
    const text = hits > 0 ? `Besides these, ${count(hits)} ${hits === 1 ? 'was' : 'were'} answered from the cache alone.` : 'What the cache answers alone is counted and not listed.';
    say('requests-note', text);
  }

  #draw() {
    const isTrouble = (request) => request.fate === 'failed' || request.fate === 'refused';
    const shown = this.#onlyTrouble ? this.#known.filter(isTrouble) : this.#known;
    const items = shown.slice(0, 40).map(line);
    if (items.length === 0) items.push(element('li', { class: 'empty' }, this.#onlyTrouble ? 'No request has failed lately.' : 'Nothing was asked yet.'));
    this.#list.replaceChildren(...items);
  }
}

function line(request) {
  const [fate, why] = FATES[request.fate] ?? [request.fate, ''];
  const [repository, what] = wanted(request.path);
  const method = request.method === 'GET' ? '' : `${request.method} `;
  const facts = [String(request.status), `after ${latency(request.head_after_ms)}`];
  if (request.body_bytes > 0) facts.splice(1, 0, bytes(request.body_bytes));
  const words = element('span', { class: 'words' }, `${method}${repository ? `${repository}: ` : ''}${what}`);
  words.title = request.path;
  const item = element('li', { class: request.fate },
    element('time', { datetime: new Date(request.at_unix_ms).toISOString() }, clock(request.at_unix_ms)),
    element('span', { class: 'fate', title: why }, fate),
    words,
    element('span', { class: 'facts' }, [host(request.registry), ...facts].filter(Boolean).join(' · ')));
  if (request.trouble) item.append(element('p', { class: 'trouble' }, sentence(request.trouble)));
  return item;
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
