// The status page: asks its daemon each second while it is looked at, and shows what it says.

import { CELLS, SHOWN as CONTENTS_SHOWN, Contents } from './contents.js';
import { Cluster, SHOWN as PEERS_SHOWN } from './cluster.js';
import { Plot } from './plot.js';
import { Requests } from './requests.js';
import { bytes, clock, count, counted, duration, element, percent, rate, say, short } from './words.js';

const EVERY_MS = 1000;
const ANSWER_WITHIN_MS = 5000;
// How often what rarely changes is asked for while nothing moves.
const AT_REST_MS = 10_000;
// By how much two looks at when the daemon was started may differ: answers take time, and clocks are put right.
const STARTED_WITHIN_MS = 5000;

const plot = new Plot();
const contents = new Contents();
const cluster = new Cluster();
const requests = new Requests();

let before = null;
let startedAt = null;
let timer = 0;
let round = 0;
const askedAt = { contents: -Infinity, peers: -Infinity };
let peersNow = null;
let failures = 0;
let seenAt = 0;

async function ask(path) {
  const answer = await fetch(`/api/v1/${path}`, { cache: 'no-store', signal: AbortSignal.timeout(ANSWER_WITHIN_MS) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`, { cause: answer.status });
  return answer.json();
}

async function askForRequests() {
  let answer = await ask(`requests?after=${requests.last}`);
  if (answer.last < requests.last) {
    requests.forget();
    answer = await ask('requests?after=0');
  }
  requests.show(answer);
}

async function askForContents(held) {
  try {
    contents.show(await ask(`contents?order=use&limit=${CONTENTS_SHOWN}&cells=${CELLS}`), held);
  } catch (error) {
    // Others look through them: the next round is soon enough.
    if (error.cause !== 503) throw error;
  }
}

// Whether the daemon is another one than at the last look, even if that was long ago.
function isAnother(status) {
  const last = startedAt;
  startedAt = Date.now() - status.at_ms;
  return last !== null && (Math.abs(startedAt - last) > STARTED_WITHIN_MS || (before !== null && status.at_ms < before.at_ms));
}

// One look at the node. `number` says for which round: what comes late is dropped.
async function look(number) {
  if (before === null) plot.begin(await ask('history'));
  const status = await ask('status');
  if (number !== round) return;
  // It was started again: what was counted begins anew.
  if (isAnother(status)) {
    before = null;
    peersNow = null;
    askedAt.contents = askedAt.peers = -Infinity;
    requests.forget();
    return look(number);
  }
  const flows = perSecond(status);
  const isMoving = status.fetches.contents > 0 || Object.values(flows).some((flow) => flow >= 1);
  const now = performance.now();
  const isDue = (name) => now - askedAt[name] >= (isMoving ? EVERY_MS * 0.9 : AT_REST_MS);
  const asked = [];
  const listed = status.requests;
  if (before === null || sum(listed) - listed.hit !== sum(before.requests) - before.requests.hit) {
    asked.push(askForRequests());
  }
  if (isDue('contents') || before?.store.contents !== status.store.contents) {
    askedAt.contents = now;
    asked.push(askForContents(status.store.contents));
  }
  if (status.node && (isDue('peers') || before?.node?.connected !== status.node.connected)) {
    askedAt.peers = now;
    asked.push(ask(`peers?limit=${PEERS_SHOWN}`).then((answer) => { peersNow = answer; }));
  }
  await Promise.all(asked);
  if (number !== round) return;
  if (before !== null) plot.add({ at_ms: status.at_ms, ...flows });
  cluster.show(status, flows, status.node ? peersNow : null);
  requests.note(status.requests);
  show(status, flows);
  before = status;
}

function perSecond(status) {
  const names = ['cache', 'fetched', 'passed', 'peers', 'origin', 'given'];
  const elapsed = before === null ? 0 : (status.at_ms - before.at_ms) / 1000;
  const flow = (name) => (elapsed > 0 ? Math.max(0, status.bytes[name] - before.bytes[name]) / elapsed : 0);
  return Object.fromEntries(names.map((name) => [name, flow(name)]));
}

const sum = (numbers) => Object.values(numbers).reduce((total, number) => total + number, 0);

function show(status, flows) {
  const { node, store, fetches } = status;
  const worst = status.concerns[0]?.severity;
  document.body.dataset.verdict = worst === 'error' ? 'error' : worst ? 'warning' : 'well';
  document.body.dataset.rounds = round;
  const verdict = worst === 'error' ? 'Needs attention' : worst ? 'Works, but look here' : 'All is well';
  say('verdict', verdict);
  say('summary', summary(status, flows));
  const said = status.concerns.map((concern) => concern.text);
  const list = document.getElementById('concerns');
  if ([...list.children].map((item) => item.textContent).join('\n') !== said.join('\n')) {
    list.replaceChildren(...status.concerns.map((concern) => element('li', { class: concern.severity }, concern.text)));
  }
  const mark = worst === 'error' ? '✕ ' : worst ? '! ' : '';
  document.title = `${mark}darter${node ? ` ${short(node.id).slice(0, 6)}` : ''}`;
  say('node', node ? `${node.role} ${short(node.id)}${node.zone ? ` in ${node.zone}` : ''} · ${node.address}` : 'a node of its own');
  say('build', `${status.version} · ${status.io === 'ring' ? 'io_uring' : 'thread pool'} · up ${duration(status.at_ms)}`);

  const lately = plot.sums();
  const { hit, fetched } = status.requests;
  const ever = status.bytes.cache + status.bytes.fetched;
  const now = lately.cache + lately.fetched;
  const [share, when] = now > 0 ? [percent(lately.cache, now), `in ${duration(plot.span_ms)}`] : [percent(status.bytes.cache, ever), 'in all'];
  say('hit-ratio', share);
  say('hit-note', ever > 0 ? `of bytes ${when}; ${percent(hit, hit + fetched)} of requests` : 'nothing was read yet');
  for (const name of ['cache', 'peers', 'origin', 'given']) {
    say(`now-${name}`, rate(flows[name]));
    const ever = status.bytes[name];
    say(`sum-${name}`, ever === 0 ? 'nothing yet' : `${bytes(ever)} since the start`);
  }
  say('store-share', percent(store.used_bytes, store.capacity_bytes));
  say('store-note', `${counted(store.contents, 'content')} in ${bytes(store.capacity_bytes)}`);
  document.getElementById('store-gauge').style.width = `${(100 * store.used_bytes) / Math.max(1, store.capacity_bytes)}%`;
  say('seen', scrubbed(status.scrub));
}

function summary({ fetches, connections }, flows) {
  const parts = [];
  const incoming = [['from other nodes', flows.peers], ['from registries', flows.origin]].filter(([, flow]) => flow >= 1);
  const speed = incoming.map(([words, flow]) => `${rate(flow)} ${words}`).join(', ');
  if (fetches.contents > 0) {
    parts.push(`${counted(fetches.contents, 'content is', 'contents are')} coming in${speed ? `: ${speed}` : ''}; ${bytes(fetches.coming_bytes)} still on the way.`);
  } else {
    parts.push(speed ? `Coming in: ${speed}.` : 'Nothing is coming in.');
  }
  const taken = flows.cache + flows.fetched + flows.passed;
  parts.push(taken >= 1 ? `Clients take ${rate(taken)}.` : `No client takes anything now; ${counted(connections.open, 'connection')} open.`);
  return parts.join(' ');
}

function scrubbed(scrub) {
  if (!scrub.on) return 'The scrub is off.';
  if (scrub.round) return `The scrub reads what is held: ${count(scrub.round.checked_blocks)} blocks so far, ${count(scrub.round.bad_blocks)} bad.`;
  if (!scrub.last) return 'The scrub has not ended a round yet.';
  return `The scrub has last ended a round at ${new Date(scrub.last.ended_at * 1000).toLocaleString('en-GB')}: ${count(scrub.last.bad_blocks)} bad of ${count(scrub.last.checked_blocks)} blocks.`;
}

function lost() {
  document.body.dataset.verdict = 'lost';
  document.title = '✕ darter';
  say('verdict', 'The node does not answer');
  say('summary', `${seenAt > 0 ? `What is below is of ${clock(seenAt)}. ` : ''}It is asked again and again; is the daemon running, and is this its admin port?`);
  document.getElementById('concerns').replaceChildren();
}

async function turn() {
  const begun = performance.now();
  round += 1;
  const number = round;
  try {
    await look(number);
    failures = 0;
    seenAt = Date.now();
  } catch (error) {
    failures += 1;
    // One answer may be late.
    if (failures > 1 && number === round) lost();
  }
  if (number !== round || document.hidden) return;
  const pause = failures > 3 ? 5 * EVERY_MS : EVERY_MS;
  timer = setTimeout(turn, Math.max(100, pause - (performance.now() - begun)));
}

// Nobody looks: nothing is asked. When somebody looks again, what was between is in the history.
document.addEventListener('visibilitychange', () => {
  clearTimeout(timer);
  round += 1;
  if (!document.hidden) {
    before = null;
    turn();
  }
});

if (!document.hidden) turn();
