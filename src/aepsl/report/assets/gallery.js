"use strict";
// The gallery: which images, in which order, as cards of one page; what is shown is what the address says after its #.
const gallery = (() => {
  const ERRORS = ["missed", "spilled", "confused"];
  const MEANING = {missed: "of the pixels of objects, the share called background or nothing at all", spilled: "of the pixels called an object, the share that is background",
    confused: "of the pixels of objects, the share called another object’s class"};
  const SORTS = ["", "id", "iou", "-iou", ...ERRORS], SIZES = [12, 24, 48, 96];
  const DEFAULTS = {view: "overview", q: "", split: "", class: "", failure: "", least: 20, sort: "", page: 1, size: 24, hide: "", opacity: 70, image: "", layer: ""};
  let state = {...DEFAULTS}, rows = [], data = null, ids = new Map(), numbers = new Map(), lower = [], places = null, current = -1, abort = null, watcher = null;

  // ---- the address

  function read(hash) {
    const found = {...DEFAULTS}, text = hash.replace(/^#/, "");
    for (const part of text.split("&")) {
      const at = part.indexOf("=");
      if (at < 0) { if (part === "gallery") found.view = part; continue; }
      const key = part.slice(0, at);
      let value;
      try { value = decodeURIComponent(part.slice(at + 1)); } catch { continue; }
      if (!Object.hasOwn(DEFAULTS, key) || key === "view") continue;
      found[key] = typeof DEFAULTS[key] === "number" ? Math.round(Number(value)) : value;
      found.view = "gallery";
    }
    if (!(found.least >= 1 && found.least <= 100)) found.least = DEFAULTS.least;
    if (!(found.opacity >= 0 && found.opacity <= 100)) found.opacity = DEFAULTS.opacity;
    if (!SIZES.includes(found.size)) found.size = DEFAULTS.size;
    if (!(found.page >= 1)) found.page = 1;
    if (!SORTS.includes(found.sort)) found.sort = "";
    if (!ERRORS.includes(found.failure)) found.failure = "";
    return found;
  }

  function written(of) {
    const parts = Object.keys(DEFAULTS).filter((key) => key !== "view" && of[key] !== DEFAULTS[key]).map((key) => `${key}=${encodeURIComponent(of[key])}`);
    return of.view === "gallery" ? `#${parts.length && of.image ? parts.join("&") : ["gallery", ...parts].join("&")}` : "#overview";
  }

  // Browsers forbid more than some changes of the address a second, as a key that is held down would make: then it follows a little later.
  const CHANGES = 50, SPAN = 10000;
  const changes = [];
  let due = 0;

  function address() {
    clearTimeout(due);
    const now = performance.now();
    while (changes.length && now - changes[0] > SPAN) changes.shift();
    if (changes.length >= CHANGES) { due = setTimeout(address, 300); return; }
    changes.push(now);
    history.replaceState(null, "", written(state));
  }

  // Change what is shown. A step that Back should undo gets an entry of its own in the history.
  function go(change, {push = false} = {}) {
    const before = state, left = viewer.left() ? {image: "", layer: ""} : {};
    state = {...state, ...left, ...change, view: "gallery"};
    if (push) { clearTimeout(due); history.pushState(null, "", written(state)); }
    else address();
    show(before);
  }

  function arrive() {
    const before = state, anchor = location.hash.slice(1);
    clearTimeout(due);
    by("keys").close();  // Back and Forward lead away from what lies over the page, too
    state = read(location.hash);
    show(before);
    if (state.view === "overview" && anchor && anchor !== "overview") by(anchor)?.scrollIntoView();
  }

  // ---- choosing

  function select() {
    if (!data) return [];
    const {images} = data, {split, failure, least, q, sort} = state, words = q.trim().toLowerCase();
    const wanted = state.class === "" ? 0 : numbers.get(state.class) ?? -1, shares = failure ? images[failure] : null, found = [];
    for (let row = 0; row < images.id.length; row += 1) {
      if (split && images.split[row] !== split) continue;
      if (wanted && !images.labels[row].includes(wanted)) continue;
      if (shares && !(shares[row] !== null && shares[row] >= least / 100)) continue;
      if (words && !lower[row].includes(words)) continue;
      found.push(row);
    }
    if (sort === "id") {
      if (!places) {
        const {compare} = new Intl.Collator("en", {numeric: true});
        places = new Int32Array(images.id.length);
        [...images.id.keys()].sort((one, other) => compare(images.id[one], images.id[other]) || one - other).forEach((row, place) => { places[row] = place; });
      }
      found.sort((one, other) => places[one] - places[other]);
    } else if (sort) {
      const values = images[sort.replace("-", "")], sign = sort === "iou" ? 1 : -1;
      found.sort((one, other) => (values[one] === null) - (values[other] === null) || sign * (values[one] - values[other]) || one - other);
    }
    return found;
  }

  const pages = () => Math.max(1, Math.ceil(rows.length / state.size));
  const layersOf = (row) => data.layers[data.images.split[row]] ?? [];
  const hidden = () => new Set(state.hide ? state.hide.split(",") : []);
  const classes = (row) => data.images.labels[row].map((label) => data.classes[label] ?? String(label));
  const scored = (row) => data.images.split[row] === "train" ? "pseudo-label" : "prediction";  // what the scores of an image are of
  const listed = (row) => classes(row).join(", ") || "no class";

  // ---- showing

  function show(before) {
    for (const view of ["overview", "gallery"]) by(view).hidden = state.view !== view;
    document.querySelectorAll("[data-view]").forEach((link) => link.dataset.view === state.view ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current"));
    if (state.view !== "gallery") { viewer.close(); return; }
    const changed = (...keys) => before.view !== "gallery" || keys.some((key) => before[key] !== state[key]);
    controls();
    if (!data) { viewer.close(); return; }
    const chosen = changed("q", "split", "class", "failure", "least", "sort");
    if (chosen) rows = select();
    if (chosen && state.image && ids.has(state.image)) {  // a link to an image leads to its page too
      const place = rows.indexOf(ids.get(state.image));
      if (place >= 0) state.page = Math.floor(place / state.size) + 1;
    }
    state.page = Math.min(state.page, pages());
    if (chosen || changed("page", "size", "hide")) cards();
    if (state.image) viewer.open(state.image);
    else viewer.close();
  }

  function controls() {
    const form = by("filters");
    for (const key of ["q", "split", "class", "failure", "least", "sort"]) {
      const field = form.elements[key];
      if (document.activeElement !== field || field.tagName === "SELECT") field.value = state[key];
    }
    form.elements.least.disabled = !state.failure;
    const text = by("failure-text");
    text.hidden = !state.failure;
    if (state.failure) text.textContent = `${state.failure}: ${MEANING[state.failure]}. Shown are images where it is at least ${state.least} %; images without truth are left out.`;
    by("size").value = state.size;
    opacity();
  }

  // While a slider moves: the address follows when it is let go.
  function fade(share) {
    state.opacity = share;
    opacity();
  }

  function opacity() {
    by("opacity").value = state.opacity;
    by("opacity-value").textContent = `${state.opacity} %`;
    document.documentElement.style.setProperty("--opacity", state.opacity / 100);
  }

  function cards() {
    abort?.abort();
    abort = new AbortController();
    watcher?.disconnect();
    const place = by("cards"), first = (state.page - 1) * state.size, shown = rows.slice(first, first + state.size);
    const total = data.images.id.length;
    by("count").textContent = total === 0 ? "This report holds no images." : rows.length === 0 ? `None of ${counted(total)} images is like that.`
      : `${rows.length === total ? counted(total) : `${counted(rows.length)} of ${counted(total)}`} image${total === 1 ? "" : "s"}${pages() > 1 ? `, ${counted(first + 1)} to ${counted(first + shown.length)} shown` : ""}`;
    document.querySelectorAll("[data-pages]").forEach(pager);
    const {signal} = abort;
    watcher = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const {card} = entry.target;
        if (entry.isIntersecting) fill(card, signal);
        else { card.wish?.abort(); card.wish = null; }
      }
    }, {rootMargin: "150px 0px"});
    const leftOut = hidden(), made = shown.map((row) => cardOf(row, leftOut));
    place.replaceChildren(...made.map((card) => card.element));
    made.forEach((card) => watcher.observe(card.element));
    current = -1;
  }

  function pager(nav) {
    const last = pages();
    const step = (text, label, page, off) => make("button", {type: "button", textContent: text, "aria-label": label, disabled: off, onclick: () => turn(page)});
    if (last === 1) { nav.replaceChildren(); return; }
    const field = make("input", {type: "number", min: 1, max: last, value: state.page, "aria-label": "Page"});
    field.onchange = () => turn(Math.min(last, Math.max(1, Math.round(Number(field.value)) || 1)));
    nav.replaceChildren(step("«", "First page", 1, state.page === 1), step("‹", "Page before", state.page - 1, state.page === 1), field,
      make("span", {textContent: `of ${counted(last)}`}), step("›", "Page after", state.page + 1, state.page === last), step("»", "Last page", last, state.page === last));
  }

  function turn(page) {
    go({page});
    by("gallery").scrollIntoView();
    by("cards").firstElementChild?.focus({preventScroll: true});
  }

  // A card holds room for its panels from the start, so that nothing moves when they come.
  function cardOf(row, leftOut) {
    const {images} = data, id = images.id[row], title = make("a", {href: written({...state, view: "gallery", image: id, layer: ""})}, name(id));
    const scores = make("dl", {className: "scores"});
    for (const [key, label] of [["iou", "IoU"], ...ERRORS.map((error) => [error, error])]) {
      if (images[key][row] !== null) scores.append(make("div", {className: state.failure === key || state.sort.replace("-", "") === key ? "chosen" : "", title: `${label} of the ${scored(row)}`}, make("dt", {textContent: label}), make("dd", {textContent: percent(images[key][row])})));
    }
    const labels = make("ul", {className: "labels"}, ...images.labels[row].map((label) => make("li", {}, chip(data.colours[label] ?? [127, 127, 127]), " ", name(data.classes[label] ?? String(label)))));
    const panels = make("div", {className: "panels"}), holders = [];
    const add = (key, text, number) => {
      const frame = make("span", {className: "frame"}), caption = make("span", {className: "caption", textContent: text});
      frame.style.aspectRatio = `${images.width[row]} / ${images.height[row]}`;
      const button = make("button", {type: "button", className: "panel", "aria-label": `${id}: ${text}; ${listed(row)}. Full view`, onclick: () => go({image: id, layer: key}, {push: true})}, frame, caption);
      panels.append(button);
      holders.push({frame, number, text});
    };
    add("photo", "photograph", -1);
    layersOf(row).forEach((layer, number) => { if (!leftOut.has(layer.key)) add(layer.key, layer.title, number); });
    const heading = make("h2", {}, title);
    const element = make("article", {className: "card", tabIndex: -1, "aria-label": id}, make("header", {}, heading, make("span", {className: "tag", textContent: images.split[row]}), labels, scores), panels);
    element.card = {row, element, holders, panels, filled: false, wish: null};
    element.dataset.row = row;
    element.onfocus = () => { current = row; };
    return element.card;
  }

  async function fill(card, signal) {
    if (card.filled || card.wish) return;
    const wish = new AbortController(), per = data.per_shard.thumbs;
    card.wish = wish;
    try {
      const images = await shards.get("thumbs", Math.floor(card.row / per), wish.signal);
      if (signal.aborted || card.filled) return;
      const image = images[card.row % per];
      if (!image) throw new Error(`report/data: no picture of ${data.images.id[card.row]} is in its shard`);
      const [photo, layers] = image, id = data.images.id[card.row];
      for (const {frame, number, text} of card.holders) {
        const drawn = number < 0 ? null : picture(layers[number]);
        frame.replaceChildren(make("img", {src: pictures.photo(photo), alt: number < 0 ? `${id}: photograph; ${listed(card.row)}` : "", decoding: "async"}));
        if (number >= 0) frame.append(drawn ? make("img", {className: "layer", src: pictures.layer(drawn), alt: `${id}: ${text}; ${listed(card.row)}`, decoding: "async"}) : make("span", {className: "nothing", textContent: "nothing there"}));
      }
      card.filled = true;
    } catch (error) {
      if (signal.aborted) return;
      const again = make("button", {type: "button", textContent: "Try again", onclick: () => { card.element.querySelector(".fault")?.remove(); fill(card, signal); }});
      card.element.querySelector(".fault")?.remove();
      card.panels.before(make("p", {className: "notice fault", role: "alert"}, `${error.message}. `, again));
    } finally {
      if (card.wish === wish) card.wish = null;
    }
  }

  // ---- moving

  // From one image to the next or the one before in what is chosen, over the ends of pages too. Null = there is none.
  function neighbour(row, step) {
    const place = rows.indexOf(row);
    if (place < 0) return rows.length ? rows[step > 0 ? 0 : rows.length - 1] : null;
    return rows[place + step] ?? null;
  }

  function focusCard(row) {
    const page = Math.floor(rows.indexOf(row) / state.size) + 1;
    if (page !== state.page) go({page});
    const element = by("cards").querySelector(`[data-row="${row}"]`);
    if (!element) return;
    element.focus({preventScroll: true});
    element.scrollIntoView({block: "nearest", behavior: reduced.matches ? "auto" : "smooth"});
    current = row;
  }

  function move(step) {
    const inside = current >= 0 && rows.includes(current);
    const row = inside ? neighbour(current, step) : rows[(state.page - 1) * state.size] ?? null;
    if (row !== null) focusCard(row);
  }

  const single = () => by("keys-on").checked;

  function key(event) {
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey) return;
    if (document.querySelector("dialog[open]")) return;
    const {target} = event, typing = target.matches("input:not([type=checkbox]), select, textarea");
    if (typing) return;
    const off = !single() && event.key.length === 1;
    if (off) return;
    if (event.key === "?") { event.preventDefault(); by("keys").showModal(); return; }
    if (state.view !== "gallery" || !data) return;
    const around = target.closest?.(".panels, .scroll"), strip = around && around.scrollWidth > around.clientWidth;  // the arrows scroll it
    if (event.key === "j" || (event.key === "ArrowRight" && !strip)) { event.preventDefault(); move(1); }
    else if (event.key === "k" || (event.key === "ArrowLeft" && !strip)) { event.preventDefault(); move(-1); }
    else if (event.key === "]" && state.page < pages()) turn(state.page + 1);
    else if (event.key === "[" && state.page > 1) turn(state.page - 1);
    else if (event.key === "/") { event.preventDefault(); by("filters").elements.q.focus(); }
    else if (event.key === "Enter" && (target.matches(".card") || target === document.body || target === by("main"))) {
      const row = current >= 0 ? current : rows[(state.page - 1) * state.size];
      if (row !== undefined) { event.preventDefault(); go({image: data.images.id[row], layer: ""}, {push: true}); }
    }
  }

  // ---- setting up

  function fields() {
    const form = by("filters"), later = (work, wait) => { let timer; return () => { clearTimeout(timer); timer = setTimeout(work, wait); }; };
    const take = () => {
      const {q, split, failure, least, sort} = form.elements, amount = Math.round(Number(least.value));
      go({q: q.value, split: split.value, class: form.elements.class.value, failure: failure.value, least: amount >= 1 && amount <= 100 ? amount : DEFAULTS.least, sort: sort.value, page: 1});
    };
    form.onsubmit = (event) => { event.preventDefault(); take(); };
    form.onchange = take;
    form.elements.q.oninput = later(take, 120);
    form.elements.least.oninput = later(take, 250);
    form.onreset = (event) => { event.preventDefault(); const {q, split, class: chosen, failure, least, sort, page} = DEFAULTS; form.elements.q.value = ""; go({q, split, class: chosen, failure, least, sort, page}); };
    by("filter-box").open = !matchMedia("(max-width: 46rem)").matches;
    by("size").onchange = () => go({size: Number(by("size").value), page: 1});
    by("opacity").oninput = () => fade(Number(by("opacity").value));
    by("opacity").onchange = () => go({opacity: Number(by("opacity").value)});
    const panel = by("panel"), size = Number(remembered.get("aepsl-panel"));
    const resize = () => document.documentElement.style.setProperty("--panel", `${panel.value}px`);
    if (size >= 88 && size <= 256) { panel.value = size; resize(); }
    panel.oninput = () => { resize(); remembered.set("aepsl-panel", panel.value); };
    document.addEventListener("click", (event) => document.querySelectorAll("details.menu[open]").forEach((menu) => { if (!menu.contains(event.target)) menu.open = false; }));
    document.addEventListener("keydown", (event) => {
      const menu = event.key === "Escape" ? document.activeElement?.closest("details.menu[open]") : null;
      if (menu) { menu.open = false; menu.firstElementChild.focus(); }
    });
  }

  function chooser() {
    const titles = new Map(), boxes = by("layer-boxes");
    for (const split of new Set(data.images.split)) for (const layer of data.layers[split] ?? []) titles.set(layer.key, layer.title);
    const take = () => go({hide: [...boxes.querySelectorAll("input:not(:checked)")].map((box) => box.value).join(",")});
    const all = (checked) => () => { boxes.querySelectorAll("input").forEach((box) => { box.checked = checked; }); take(); };
    const hides = hidden();
    boxes.replaceChildren(...[...titles].map(([key, title]) => make("label", {className: "check"}, make("input", {type: "checkbox", value: key, checked: !hides.has(key), onchange: take}), ` ${title}`)));
    by("layers-all").onclick = all(true);
    by("layers-none").onclick = all(false);
    by("layer-menu").hidden = titles.size === 0;
  }

  return {
    start() {
      data = aepsl.data;
      fields();
      if (data) {
        lower = data.images.id.map((id) => id.toLowerCase());
        data.images.id.forEach((id, row) => ids.set(id, row));
        const counts = new Array(data.classes.length).fill(0);
        for (const labels of data.images.labels) for (const label of labels) counts[label] += 1;
        data.classes.forEach((title, number) => {
          if (!number) return;
          numbers.set(title, number);
          by("filters").elements.class.append(make("option", {value: title, textContent: `${title} (${counted(counts[number])})`}));
        });
        chooser();
      } else {
        by("count").replaceChildren(make("span", {className: "notice fault", role: "alert", textContent: "report/data/index.js cannot be read: it is missing or damaged. Copy the whole folder report/, or run dvc repro again."}));
        by("filters").querySelectorAll("input, select, button").forEach((field) => { field.disabled = true; });
      }
      document.addEventListener("keydown", key);
      addEventListener("popstate", arrive);
      addEventListener("hashchange", () => { if (written(state) !== location.hash) arrive(); });
      arrive();
    },
    go, neighbour, focusCard, listed, scored, layersOf, single, fade,
    link: () => location.href.split("#")[0] + written(state),
    get state() { return state; },
    get data() { return data; },
    row: (id) => ids.get(id) ?? null,
    place: (row) => [rows.indexOf(row), rows.length],
  };
})();
