"use strict";
// What the data files hand over: data/index.js calls aepsl.index, data/thumbs/*.js and data/full/*.js call aepsl.shard, run.js calls aepsl.run.
// They are scripts, not JSON, because a page opened as a file may not fetch. Their text reaches the page by textContent alone.
const aepsl = {
  data: null,
  facts: null,
  index(data) { this.data = data; },
  run(facts) { this.facts = facts; },
  shard(kind, number, images) { shards.arrived(kind, number, images); },
};

// An element with properties, attributes (names with a dash, or role) and children; text is text.
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (name.includes("-") || name === "role" || name === "for" || name === "scope") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
const by = (id) => document.getElementById(id);
const colour = (rgb) => `rgb(${rgb.join(",")})`;
const chip = (rgb) => {
  const element = make("span", {className: "chip"});
  element.style.background = colour(rgb);
  return element;
};
const name = (text) => make("bdi", {textContent: text});
const counted = (number) => number.toLocaleString("en-US");
const percent = (share, digits = 1) => share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)} %`;
const reduced = matchMedia("(prefers-reduced-motion: reduce)");

// Shards of images, loaded as scripts. Few are kept: the oldest used goes when another comes. At most a few load at once, the latest wish first,
// and a wish that nobody has any longer, because its card was scrolled away, is dropped.
const shards = (() => {
  const MOST = {thumbs: 6, full: 3}, AT_ONCE = 4;
  const kept = {thumbs: new Map(), full: new Map()};
  const waiting = [], loading = new Map();

  const key = (kind, number) => `${kind}/${String(number).padStart(5, "0")}`;

  function get(kind, number, signal) {
    const store = kept[kind];
    if (store.has(number)) {
      const images = store.get(number);
      store.delete(number);
      store.set(number, images);
      return Promise.resolve(images);
    }
    const id = key(kind, number);
    const asked = loading.get(id);
    if (asked) return asked.promise;
    return new Promise((resolve, reject) => {
      waiting.push({kind, number, id, signal, resolve, reject});
      next();
    });
  }

  function next() {
    while (waiting.length && loading.size < AT_ONCE) {
      const wish = waiting.pop();
      if (wish.signal?.aborted) continue;
      const same = loading.get(wish.id);
      if (same) { same.promise.then(wish.resolve, wish.reject); continue; }
      if (kept[wish.kind].has(wish.number)) { wish.resolve(kept[wish.kind].get(wish.number)); continue; }
      load(wish);
    }
  }

  function load(wish) {
    const job = {images: null};
    job.promise = new Promise((resolve, reject) => { job.resolve = resolve; job.reject = reject; });
    job.promise.then(wish.resolve, wish.reject);
    loading.set(wish.id, job);
    const script = make("script", {src: `data/${wish.id}.js`});
    const end = (fault) => {
      script.remove();
      loading.delete(wish.id);
      if (fault) job.reject(new Error(fault));
      else {
        const store = kept[wish.kind];
        store.set(wish.number, job.images);
        while (store.size > MOST[wish.kind]) store.delete(store.keys().next().value);
        job.resolve(job.images);
      }
      next();
    };
    script.onload = () => end(job.images ? null : `report/data/${wish.id}.js holds no images: it is damaged or of another report`);
    script.onerror = () => end(`report/data/${wish.id}.js cannot be read: it is missing, or was not copied with the page`);
    document.head.append(script);
  }

  return {
    get,
    arrived(kind, number, images) {
      const job = loading.get(key(kind, number));
      if (job && Array.isArray(images)) job.images = images;
    },
    sizes: () => ({thumbs: kept.thumbs.size, full: kept.full.size, loading: loading.size}),
  };
})();

const pictures = {photo: (data) => `data:image/webp;base64,${data}`, layer: (data) => `data:image/png;base64,${data}`};
// One picture of a layer that has one per class: that of the wished class, else the first.
function picture(layer, wished) {
  if (layer === null || layer === undefined || typeof layer === "string") return layer ?? null;
  return (wished !== undefined && Object.hasOwn(layer, wished) ? layer[wished] : Object.values(layer)[0]) ?? null;
}
