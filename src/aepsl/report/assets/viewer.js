"use strict";
// The full view: one large picture with a layer over it, all layers in a strip, and what the layer says under the pointer.
const viewer = (() => {
  const LEAST = 1, MOST = 16;
  let shown = null, pixels = null, wished, zoom = 1, shift = [0, 0], off = false, abort = null, opener = null, palette = null, drag = null;
  const dialog = () => by("viewer");
  const layers = () => gallery.layersOf(shown.row);

  // ---- opening and closing

  async function open(id) {
    const row = gallery.row(id), again = shown?.id === id && dialog().open;
    if (!dialog().open) { shown = null; opener = document.activeElement; dialog().showModal(); by("viewer-id").focus(); }
    if (row === null) { unknown(id); return; }
    if (again) {  // another layer, or another opacity
      if (shown.images && shown.layer !== gallery.state.layer) choose();
      opacity();
      return;
    }
    abort?.abort();
    abort = new AbortController();
    const {signal} = abort, {images} = gallery.data, per = gallery.data.per_shard.full;
    const before = shown;
    shown = {id, row, images: null, size: [images.width[row], images.height[row]]};
    if (!before) reset();
    by("viewer-id").replaceChildren(name(id));
    const [place, count] = gallery.place(row);
    by("viewer-place").textContent = place < 0 ? `${images.split[row]}; not among the images chosen in the gallery` : `${images.split[row]}, ${counted(place + 1)} of ${counted(count)}`;
    by("viewer-previous").disabled = gallery.neighbour(row, -1) === null;
    by("viewer-next").disabled = gallery.neighbour(row, 1) === null;
    facts();
    strip();
    opacity();
    const waiting = setTimeout(() => note("Loading …"), 150);
    by("sheet").replaceChildren();
    try {
      const image = (await shards.get("full", Math.floor(row / per), signal))[row % per];
      if (signal.aborted) return;
      if (!image) throw new Error(`report/data: no picture of ${id} is in its shard`);
      shown.images = image;
      note("");
      strip();
      choose();
      ahead(row, per);
    } catch (error) {
      if (signal.aborted) return;
      pixels = null;
      note(`${error.message}.`);
    } finally {
      clearTimeout(waiting);
    }
  }

  // The shard of the image that is likely to come next.
  function ahead(row, per) {
    const next = gallery.neighbour(row, 1);
    if (next !== null && Math.floor(next / per) !== Math.floor(row / per)) shards.get("full", Math.floor(next / per), abort.signal).catch(() => { /* told when it is opened */ });
  }

  function unknown(id) {
    abort?.abort();
    shown = null;
    pixels = null;
    by("viewer-id").replaceChildren(name(id));
    by("viewer-place").textContent = "";
    for (const part of ["sheet", "strip", "viewer-facts", "viewer-legend", "layer-title"]) by(part).replaceChildren();
    by("heat-choice").hidden = true;
    by("viewer-previous").disabled = by("viewer-next").disabled = true;
    note("No image of this report has this id.");
  }

  function close() {
    if (dialog().open) dialog().close();
  }

  // The browser closes the dialog by itself, too, and tells of it a little later.
  const left = () => Boolean(gallery.state.image) && !dialog().open;

  function closed() {
    if (dialog().open) return;  // by now another image is open
    abort?.abort();
    const row = shown?.row ?? null;
    shown = null;
    pixels = null;
    by("sheet").replaceChildren();
    by("strip").replaceChildren();
    if (gallery.state.image) gallery.go({image: "", layer: ""});
    if (row !== null && gallery.place(row)[0] >= 0) gallery.focusCard(row);
    else if (opener?.isConnected) opener.focus();
    opener = null;
  }

  const note = (text) => { by("stage-note").textContent = text; by("stage-note").hidden = !text; };

  // ---- layers

  function number() {
    const key = gallery.state.layer, place = layers().findIndex((layer) => layer.key === key);
    if (place >= 0 || key === "photo") return place;
    const likely = ["after", "labels", "merged"].map((one) => layers().findIndex((layer) => layer.key === one)).find((found) => found >= 0);
    return likely ?? layers().length - 1;
  }

  const pick = (place) => { off = false; gallery.go({layer: place < 0 ? "photo" : layers()[place].key}); };

  function choose() {
    shown.layer = gallery.state.layer;
    const place = number(), layer = layers()[place], [photo, drawings] = shown.images, drawing = layer ? drawings[place] : null;
    by("layer-title").textContent = layer ? layer.title : "photograph";
    const several = drawing !== null && typeof drawing === "object" ? Object.keys(drawing) : [];
    if (several.length && !several.includes(wished)) wished = several[0];
    by("heat-choice").hidden = several.length < 1;
    by("heat-class").replaceChildren(...several.map((label) => make("option", {value: label, textContent: gallery.data.classes[label] ?? label, selected: label === wished})));
    const drawn = picture(drawing, wished), classes = gallery.listed(shown.row);
    const about = layer ? `${layer.title}${several.length ? ` of ${gallery.data.classes[wished] ?? wished}` : ""}` : "photograph";
    const parts = [make("img", {src: pictures.photo(photo), alt: drawn ? "" : `${shown.id}: photograph; ${classes}`, draggable: false})];
    if (drawn) parts.push(make("img", {className: `layer${layer.kind === "heat" ? " smooth" : ""}${off ? " off" : ""}`, src: pictures.layer(drawn), alt: `${shown.id}: ${about}; ${classes}`, draggable: false}));
    by("sheet").replaceChildren(...parts);
    note(layer && !drawn ? `${layer.title}: nothing there` : "");
    for (const button of by("strip").children) button.setAttribute("aria-pressed", String(Number(button.dataset.place) === place));
    const chosen = by("strip").querySelector("[aria-pressed=true]"), room = by("strip").clientWidth - chosen.offsetWidth;
    by("strip").scrollLeft = Math.max(chosen.offsetLeft - by("strip").offsetLeft - room + 8, Math.min(by("strip").scrollLeft, chosen.offsetLeft - by("strip").offsetLeft - 8));
    legend(layer);
    fit();
    measure(drawn);
    opacity();
    by("probe").textContent = "\u00a0";
  }

  function strip() {
    const button = (place, title, drawing) => {
      const frame = make("span", {className: "frame"});
      frame.style.aspectRatio = `${shown.size[0]} / ${shown.size[1]}`;
      if (shown.images) {
        frame.append(make("img", {src: pictures.photo(shown.images[0]), alt: "", decoding: "async"}));
        if (drawing) frame.append(make("img", {className: "layer", src: pictures.layer(drawing), alt: "", decoding: "async"}));
      }
      const element = make("button", {type: "button", className: "panel", "aria-pressed": "false", onclick: () => pick(place)}, frame, make("span", {className: "caption", textContent: title}));
      element.dataset.place = place;
      return element;
    };
    by("strip").replaceChildren(button(-1, "photograph", null), ...layers().map((layer, place) => button(place, layer.title, shown.images ? picture(shown.images[1][place], wished) : null)));
  }

  function facts() {
    const {images} = gallery.data, {row, size} = shown, list = by("viewer-facts");
    const add = (label, ...content) => list.append(make("dt", {textContent: label}), make("dd", {}, ...content));
    list.replaceChildren();
    add("Labels", images.labels[row].length ? make("ul", {className: "labels"}, ...images.labels[row].map((label) => make("li", {}, chip(gallery.data.colours[label] ?? [127, 127, 127]), " ", name(gallery.data.classes[label] ?? String(label))))) : "none");
    if (images.iou[row] !== null) add(`IoU of the ${gallery.scored(row)}`, percent(images.iou[row]));
    palette.errors.forEach(([error]) => { if (images[error][row] !== null) add(error, percent(images[error][row])); });
    add("Size", `${size[0]} × ${size[1]} pixels`);
  }

  // ---- colours

  const near = (one, other) => Math.abs(one[0] - other[0]) + Math.abs(one[1] - other[1]) + Math.abs(one[2] - other[2]);
  const rgb = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));

  // Colours of a layer with their names, and the name of what is not painted.
  function meanings(kind) {
    const {classes, colours, rounds, round_colours: found} = gallery.data;
    if (kind === "classes") return [classes.map((title, place) => [title, colours[place]]), classes[0], "ignored"];
    if (kind === "rounds") return [rounds.map((title, place) => [title, found[place % found.length]]), "not mined", "mined"];
    if (kind === "errors") return [[...palette.errors.map(([title, value]) => [title, rgb(value)]), ["right", palette.right]], "no object, none called one", "other"];
    if (kind === "regions") return [[["inside", palette.region]], "outside", "inside"];
    return null;
  }

  function legend(layer) {
    const list = by("viewer-legend"), known = layer ? meanings(layer.kind) : null;
    list.replaceChildren();
    list.hidden = !known;
    if (known) shown.legend = known;
  }

  // Only what the picture holds is named in its legend.
  function present(kind) {
    const [known, , other] = meanings(kind), counts = new Map();
    for (let at = 0; at < pixels.data.length; at += 4) {
      if (!pixels.data[at + 3]) continue;
      const code = (pixels.data[at] << 16) | (pixels.data[at + 1] << 8) | pixels.data[at + 2];
      counts.set(code, (counts.get(code) ?? 0) + 1);
    }
    const sums = new Map();
    for (const [code, count] of counts) {
      const value = [code >> 16, (code >> 8) & 255, code & 255], found = known.find(([, one]) => near(one, value) <= 12);
      const title = found ? found[0] : other;
      const sum = sums.get(title) ?? {count: 0, value: found ? found[1] : value};
      sum.count += count;
      sums.set(title, sum);
    }
    const all = pixels.width * pixels.height;
    by("viewer-legend").replaceChildren(...[...sums].sort((one, two) => two[1].count - one[1].count).map(([title, {count, value}]) =>
      make("li", {}, title === "ignored" ? make("span", {className: "chip ignored"}) : chip(value), " ", name(title), make("span", {className: "muted number", textContent: ` ${percent(count / all)}`}))));
  }

  async function measure(drawn) {
    pixels = null;
    const image = by("sheet").querySelector(".layer");
    if (!drawn || !image) { by("viewer-legend").replaceChildren(); return; }
    try { await image.decode(); } catch { note("This layer cannot be decoded: its file is damaged."); return; }
    if (!image.isConnected) return;
    const canvas = make("canvas", {width: image.naturalWidth, height: image.naturalHeight}), pen = canvas.getContext("2d", {willReadFrequently: true});
    pen.drawImage(image, 0, 0);
    pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
    const layer = layers()[number()];
    if (meanings(layer.kind)) present(layer.kind);
  }

  function value(at) {
    const layer = layers()[number()], [red, green, blue, alpha] = pixels.data.slice(at, at + 4), here = [red, green, blue], known = meanings(layer.kind);
    if (known) {
      const [named, empty, other] = known;
      return alpha ? named.find(([, one]) => near(one, here) <= 12)?.[0] ?? other : empty;
    }
    if (!alpha) return "0";
    if (layer.kind === "grey") return (red / 255).toFixed(2);
    let best = [Infinity, 0];
    const steps = palette.heat.length - 1;
    for (let place = 0; place <= 100; place += 1) {
      const left = Math.min(steps - 1, Math.floor(place / 100 * steps)), part = place / 100 * steps - left;
      const distance = near(here, palette.heat[left].map((one, channel) => one + part * (palette.heat[left + 1][channel] - one)));
      if (distance < best[0]) best = [distance, place];
    }
    return `about ${(best[1] / 100).toFixed(2)}`;
  }

  function probe(event) {
    const box = by("sheet").getBoundingClientRect(), x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height, out = by("probe");
    if (!shown || !(x >= 0 && x < 1 && y >= 0 && y < 1)) { out.textContent = "\u00a0"; return; }
    const where = `x ${Math.floor(x * shown.size[0])}, y ${Math.floor(y * shown.size[1])}`;
    if (!pixels) { out.textContent = where; return; }
    const at = 4 * (Math.floor(y * pixels.height) * pixels.width + Math.floor(x * pixels.width));
    out.replaceChildren(make("b", {}, name(value(at))), ` at ${where}`);
  }

  // ---- size and place

  function fit() {
    if (!shown) return;
    const stage = by("stage"), factor = Math.min(stage.clientWidth / shown.size[0], stage.clientHeight / shown.size[1]) || 1, sheet = by("sheet");
    sheet.style.width = `${shown.size[0] * factor}px`;
    sheet.style.height = `${shown.size[1] * factor}px`;
    draw();
  }

  function draw() {
    const stage = by("stage"), sheet = by("sheet"), most = [(sheet.clientWidth * zoom - stage.clientWidth) / 2, (sheet.clientHeight * zoom - stage.clientHeight) / 2].map((room) => Math.max(0, room));
    shift = shift.map((value_, axis) => Math.min(most[axis], Math.max(-most[axis], value_)));
    sheet.style.transform = `translate(${shift[0]}px, ${shift[1]}px) scale(${zoom})`;
    stage.classList.toggle("zoomed", zoom > 1);
    by("zoom-value").textContent = `${Math.round(100 * zoom)} %`;
    by("zoom-out").disabled = zoom <= LEAST;
    by("zoom-in").disabled = zoom >= MOST;
  }

  // Zoom so that what is at a point of the stage, from its centre, stays there.
  function scale(factor, point = [0, 0]) {
    const before = zoom;
    zoom = Math.min(MOST, Math.max(LEAST, zoom * factor));
    shift = shift.map((value_, axis) => point[axis] - (point[axis] - value_) * zoom / before);
    draw();
  }

  function reset() { zoom = 1; shift = [0, 0]; draw(); }

  function opacity() {
    by("viewer-opacity").value = gallery.state.opacity;
    by("viewer-opacity-value").textContent = `${gallery.state.opacity} %`;
  }

  function pointers(stage) {
    const down = new Map();
    let begun = null;
    const centre = (event) => { const box = stage.getBoundingClientRect(); return [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2]; };
    const gap = () => { const [one, other] = [...down.values()]; return Math.hypot(one[0] - other[0], one[1] - other[1]); };
    stage.addEventListener("wheel", (event) => { event.preventDefault(); scale(Math.exp(-event.deltaY / 400), centre(event)); }, {passive: false});
    stage.addEventListener("dblclick", (event) => zoom > 1 ? reset() : scale(3, centre(event)));
    stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); down.set(event.pointerId, centre(event)); drag = down.size === 2 ? gap() : null; begun = down.size === 1 ? centre(event) : null; probe(event); });
    stage.addEventListener("pointermove", (event) => {
      probe(event);
      const before = down.get(event.pointerId), now = centre(event);
      if (!before) return;
      down.set(event.pointerId, now);
      if (down.size === 1) { shift = shift.map((value_, axis) => value_ + now[axis] - before[axis]); draw(); }
      else if (down.size === 2 && drag) { scale(gap() / drag, now); drag = gap(); }
    });
    // A finger that wipes sideways over the whole picture turns to the next image, as in a book.
    stage.addEventListener("pointerup", (event) => {
      if (event.pointerType !== "touch" || !begun || zoom > 1) return;
      const [x, y] = centre(event).map((value_, axis) => value_ - begun[axis]);
      if (Math.abs(x) > 60 && Math.abs(x) > 2 * Math.abs(y)) step(x < 0 ? 1 : -1);
    });
    for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => { down.delete(event.pointerId); drag = null; });
    stage.addEventListener("pointerleave", () => { by("probe").textContent = "\u00a0"; });
  }

  // ---- keys

  function step(way) {
    const row = shown ? gallery.neighbour(shown.row, way) : null;
    if (row !== null) gallery.go({image: gallery.data.images.id[row]});
  }

  function key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("input[type=range], select")) return;
    if (!gallery.single() && event.key.length === 1) return;
    const moves = {ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};
    if (event.shiftKey && moves[event.key]) { shift = shift.map((value_, axis) => value_ + 60 * moves[event.key][axis]); draw(); event.preventDefault(); return; }
    if (!shown) return;
    const count = layers().length, digit = /^[0-9]$/.test(event.key) ? Number(event.key) : -1;
    if (event.key === "ArrowRight" || event.key === "j") step(1);
    else if (event.key === "ArrowLeft" || event.key === "k") step(-1);
    else if (event.key === "ArrowDown") pick(Math.min(count - 1, number() + 1));
    else if (event.key === "ArrowUp") pick(Math.max(-1, number() - 1));
    else if (digit >= 0 && digit <= count) pick(digit - 1);
    else if (event.key === "+" || event.key === "=") scale(1.5);
    else if (event.key === "-") scale(1 / 1.5);
    else if (event.key === "f") reset();
    else if (event.key === " " && !event.target.matches("button")) { off = !off; by("sheet").querySelector(".layer")?.classList.toggle("off", off); }
    else return;
    event.preventDefault();
  }

  async function copy() {
    const button = by("viewer-link"), say = (text) => { button.textContent = text; setTimeout(() => { button.textContent = "Copy link"; }, 1500); };
    try { await navigator.clipboard.writeText(gallery.link()); say("Copied"); } catch { say("Copy the address above"); }
  }

  return {
    open, close, left,
    start() {
      const {errors, right, heat, region} = by("page-data").dataset;
      palette = {errors: JSON.parse(errors), heat: JSON.parse(heat).map(rgb), region: rgb(region), right: rgb(right)};
      dialog().addEventListener("close", closed);
      dialog().addEventListener("keydown", key);
      by("viewer-previous").onclick = () => step(-1);
      by("viewer-next").onclick = () => step(1);
      by("viewer-close").onclick = close;
      by("viewer-link").onclick = copy;
      by("zoom-in").onclick = () => scale(1.5);
      by("zoom-out").onclick = () => scale(1 / 1.5);
      by("zoom-fit").onclick = reset;
      by("heat-class").onchange = () => { wished = by("heat-class").value; strip(); choose(); };
      by("viewer-opacity").oninput = () => { gallery.fade(Number(by("viewer-opacity").value)); opacity(); };
      by("viewer-opacity").onchange = () => gallery.go({opacity: Number(by("viewer-opacity").value)});
      pointers(by("stage"));
      new ResizeObserver(fit).observe(by("stage"));
    },
  };
})();
