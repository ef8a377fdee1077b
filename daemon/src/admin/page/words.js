// Numbers, times and names as people read them. Pure.

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

// 1536 → "1.5 KiB".
export function bytes(count) {
  let unit = 0;
  while (count >= 1024 && unit < UNITS.length - 1) {
    count /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || count >= 100 ? 0 : 1;
  return `${count.toFixed(digits)} ${UNITS[unit]}`;
}

export function rate(bytesPerS) {
  return bytesPerS < 1 ? '0 B/s' : `${bytes(bytesPerS)}/s`;
}

// 1234567 → "1 234 567".
export function count(number) {
  return String(Math.round(number)).replace(/\B(?=(\d{3})+$)/g, '\u2009');
}

// 1 of one thing, 2 of several.
export function counted(number, one, several = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : several}`;
}

// A share as a percentage that is 0 or 100 only if it is nothing or all.
export function percent(part, whole) {
  if (whole <= 0) return '–';
  const exact = (100 * part) / whole;
  if (part <= 0) return '0 %';
  if (part >= whole) return '100 %';
  if (exact >= 99) return `${Math.min(99.9, Math.floor(exact * 10) / 10)} %`;
  if (exact < 1) return '< 1 %';
  return `${Math.round(exact)} %`;
}

// How long, coarsely: "3 d 4 h".
export function duration(ms) {
  const seconds = Math.floor(ms / 1000);
  const parts = [
    [Math.floor(seconds / 86400), 'd'],
    [Math.floor(seconds / 3600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'min'],
    [seconds % 60, 's'],
  ];
  const first = parts.findIndex(([value]) => value > 0);
  if (first < 0) return '0 s';
  return parts.slice(first, first + 2).filter(([value]) => value > 0).map((part) => part.join(' ')).join(' ');
}

// How long something quick took: "0.4 ms", "12 ms", "1.3 s".
export function latency(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

// 24 hours, in the reader's time zone.
export function clock(unixMs) {
  const date = new Date(unixMs);
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map((part) => String(part).padStart(2, '0')).join(':');
}

// The name of a registry without its scheme.
export function host(registry) {
  return (registry ?? '').replace(/^[a-z]+:\/\//, '');
}

// The first digits of a digest or an id.
export function short(id) {
  return (id.split(':').pop() ?? '').slice(0, 12);
}

// What a content is, by its media type.
export function kind(content) {
  const type = content.media_type ?? '';
  if (content.id.startsWith('url:')) return 'File';
  if (/manifest|index/.test(type)) return 'Manifest';
  if (/config/.test(type)) return 'Image configuration';
  if (/layer|rootfs|nydus|\btar\b/.test(type)) return 'Layer';
  return 'Blob';
}

// What was asked for, as [a repository or nothing, the rest].
export function wanted(path) {
  const [, name, what, reference] = /^\/v2\/(.+)\/(blobs|manifests|tags|referrers)\/(.+)$/.exec(path) ?? [];
  if (what === undefined) return ['', path];
  if (what === 'blobs') return [name, `blob ${short(reference)}`];
  if (what === 'manifests') return [name, `manifest ${reference.includes(':') ? short(reference) : reference}`];
  return [name, what];
}

// An element with attributes and children; text is never read as markup.
export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', name), attributes, children);
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Sets a text only if it is another: screen readers and selections are left in peace.
export function say(id, text) {
  const place = document.getElementById(id);
  if (place.textContent !== text) place.textContent = text;
}
