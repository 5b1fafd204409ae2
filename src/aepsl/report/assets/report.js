"use strict";
// The overview: theme, tables that sort, the confusion matrix, parameters, and what run.js knows.
const report = (() => {
  const THEMES = ["system", "light", "dark"];

  function theme() {
    const root = document.documentElement, show = () => { by("theme-name").textContent = root.dataset.theme ?? "system"; };
    by("theme").onclick = () => {
      const following = THEMES[(THEMES.indexOf(root.dataset.theme ?? "system") + 1) % THEMES.length];
      if (following === "system") delete root.dataset.theme;
      else root.dataset.theme = following;
      remembered.set("aepsl-theme", following === "system" ? null : following);
      show();
    };
    show();
  }

  // Click on a heading: numbers from the largest, text from A; click again turns the order. Empty cells stay last.
  function sortable(table) {
    const headings = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    headings.forEach((heading, column) => {
      const button = heading.querySelector(".sort");
      if (!button) return;
      button.onclick = () => {
        const text = column === 0;
        const turned = heading.getAttribute("aria-sort") === (text ? "ascending" : "descending");
        headings.forEach((other) => other.setAttribute("aria-sort", "none"));
        heading.setAttribute("aria-sort", turned === text ? "descending" : "ascending");
        const sign = turned ? -1 : 1;
        const value = (row) => row.cells[column].dataset.value;
        const rows = [...body.rows].sort((one, other) => {
          if (text) return sign * one.cells[0].textContent.localeCompare(other.cells[0].textContent, "en", {numeric: true});
          if (value(one) === "" || value(other) === "") return (value(one) === "") - (value(other) === "");
          return sign * (Number(value(other)) - Number(value(one)));
        });
        body.append(...rows);
      };
    });
  }

  // One cell is in the order of the Tab key; arrows move on from there.
  function matrix() {
    const table = by("matrix");
    if (!table) return;
    const body = table.tBodies[0], out = by("confusion-cell");
    const title = (heading) => heading.querySelector("bdi")?.textContent ?? "";
    const tell = (cell) => {
      if (cell.dataset.count === undefined) return;
      const row = cell.parentElement, column = cell.cellIndex;
      const count = Number(cell.dataset.count), total = [...row.cells].reduce((sum, other) => sum + Number(other.dataset.count ?? 0), 0);
      out.replaceChildren(name(title(row.cells[0])), row.rowIndex === column ? " recognised: " : " taken for ",
        row.rowIndex === column ? "" : name(title(table.tHead.rows[0].cells[column])), row.rowIndex === column ? "" : ": ",
        `${total ? percent(count / total) : "–"} of its pixels, ${counted(count)} of ${counted(total)}`);
      table.querySelectorAll(".lit").forEach((other) => other.classList.remove("lit"));
      row.cells[0].classList.add("lit");
      table.tHead.rows[0].cells[column].classList.add("lit");
    };
    // The images of val that a cell is made of come first: background taken for an object is spilled, an object for background missed.
    const open = (cell) => {
      const row = cell.parentElement.rowIndex - 1, column = cell.cellIndex - 1;
      const sort = row === column ? "iou" : column === 0 ? "missed" : row === 0 ? "spilled" : "confused";
      const chosen = row === 0 ? "" : `&class=${encodeURIComponent(title(cell.parentElement.cells[0]))}`;
      location.hash = `gallery&split=val${chosen}&sort=${sort}`;
    };
    body.addEventListener("mouseover", (event) => { const cell = event.target.closest("td"); if (cell) tell(cell); });
    body.addEventListener("focusin", (event) => { if (event.target.matches("td")) tell(event.target); });
    body.addEventListener("click", (event) => { const cell = event.target.closest("td[data-count]"); if (cell) open(cell); });
    body.addEventListener("keydown", (event) => {
      const cell = event.target.closest("td");
      const [down, right] = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key] ?? [0, 0];
      if (event.key === "Enter") open(cell);
      if (!down && !right) return;
      event.preventDefault();
      event.stopPropagation();
      const other = body.rows[cell.parentElement.sectionRowIndex + down]?.cells[cell.cellIndex + right];
      if (!other || other.dataset.count === undefined) return;
      cell.tabIndex = -1;
      other.tabIndex = 0;
      other.focus();
    });
  }

  function parameters() {
    const search = by("param-search");
    if (!search) return;
    const groups = [...document.querySelectorAll("details.params")], count = by("param-count"), toggle = by("param-toggle");
    search.oninput = () => {
      const words = search.value.trim().toLowerCase();
      let found = 0;
      for (const group of groups) {
        let here = 0;
        for (const row of group.querySelectorAll("tr")) {
          const hit = !words || `${group.firstElementChild.firstChild.textContent.trim()}.${row.cells[0].textContent} ${row.cells[1].textContent}`.toLowerCase().includes(words);
          row.hidden = !hit;
          here += hit;
        }
        group.hidden = !here;
        group.open = Boolean(words) && here > 0;
        found += here;
      }
      count.textContent = words ? `${found} found` : "";
    };
    toggle.onclick = () => {
      const open = groups.some((group) => !group.open);
      groups.forEach((group) => { group.open = open; });
      toggle.textContent = open ? "Close all" : "Open all";
    };
  }

  const number = (value) => typeof value === "number" ? String(Number(value.toPrecision(6))) : value === null || value === undefined ? "–" : String(value);

  function table(headings, rows, caption) {
    const head = make("tr", {}, ...headings.map(([title, numeric]) => make("th", {scope: "col", className: numeric ? "number" : "", textContent: title})));
    const body = rows.map((cells) => make("tr", {}, ...cells.map((cell, column) => {
      const element = make(column ? "td" : "th", {className: headings[column][1] ? "number" : ""});
      if (!column) element.scope = "row";
      element.append(cell instanceof Node ? cell : String(cell));
      return element;
    })));
    return make("div", {className: "scroll", tabIndex: 0, role: "region", "aria-label": caption},
      make("table", {}, make("caption", {textContent: caption}), make("thead", {}, head), make("tbody", {}, ...body)));
  }

  function bar(share) {
    const space = "http://www.w3.org/2000/svg", svg = document.createElementNS(space, "svg"), rect = document.createElementNS(space, "rect");
    svg.setAttribute("class", "bar series-1");
    svg.setAttribute("aria-hidden", "true");
    rect.setAttribute("width", `${100 * share}%`);
    rect.setAttribute("height", "100%");
    svg.append(rect);
    return svg;
  }

  function duration(seconds) {
    if (seconds < 60) return `${seconds.toFixed(1)} s`;
    const whole = Math.round(seconds), hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
    return hours ? `${hours} h ${String(minutes).padStart(2, "0")} min` : `${minutes} min ${String(whole % 60).padStart(2, "0")} s`;
  }

  function times(rows) {
    const value = (row, key) => Number(row[key]) || 0;
    const total = rows.reduce((sum, row) => sum + value(row, "seconds"), 0), longest = Math.max(...rows.map((row) => value(row, "seconds")));
    const ordered = [...rows].sort((one, other) => value(other, "seconds") - value(one, "seconds"));
    return table([["stage"], ["time"], ["share", true], ["rate"], ["peak memory", true], ["device"]], ordered.map((row) => [
      number(row.stage), make("span", {className: "with-bar"}, bar(longest ? value(row, "seconds") / longest : 0), make("span", {className: "number", textContent: duration(value(row, "seconds"))})),
      percent(total ? value(row, "seconds") / total : null), value(row, "count") ? `${number(Number(row.per_second))} ${number(row.unit)}/s` : "–",
      value(row, "peak_memory_mib") ? `${counted(value(row, "peak_memory_mib"))} MiB` : "–", number(row.device)]), `Time per stage: ${duration(total)} in all`);
  }

  function change(old, now) {
    if (typeof old !== "number" || typeof now !== "number") return "";
    const step = now - old;
    return make("span", {className: step > 0 ? "more" : step < 0 ? "less" : "", textContent: step ? `${step > 0 ? "▲ +" : "▼ −"}${Math.abs(Number(step.toPrecision(4)))}` : "="});
  }

  const minded = (...texts) => texts.map((text) => make("p", {className: "notice", textContent: `Mind: ${text}.`}));

  function differences(against) {
    const out = [make("p", {}, "Against ", make("code", {textContent: number(against.name)}), ": old is there, new is this report.")];
    const {metrics = [], params = [], artefacts = [], warnings = [], incomparable = []} = against;
    out.push(...minded(...warnings));
    if (metrics.length) out.push(table([["metric"], ["old", true], ["new", true], ["change", true]], metrics.map(([key, old, now]) => [key, number(old), number(now), incomparable.includes(key) ? "not comparable" : change(old, now)]), "Metrics that differ"));
    const json = (value) => typeof value === "string" ? value : JSON.stringify(value) ?? "–";
    if (params.length) out.push(table([["parameter"], ["old"], ["new"]], params.map(([key, old, now]) => [key, json(old), json(now)]), "Parameters that differ"));
    const short = (hash) => hash ? make("code", {textContent: String(hash).slice(0, 12), title: String(hash)}) : "–";
    if (artefacts.length) out.push(table([["artefact"], ["old MD5"], ["new MD5"]], artefacts.map(([key, old, now]) => [key, short(old), short(now)]), "Artefacts that differ"));
    if (!metrics.length && !params.length && !artefacts.length) out.push(make("p", {textContent: "Nothing differs: metrics, parameters and artefacts are equal."}));
    return out;
  }

  function run() {
    const facts = aepsl.facts, place = by("run-facts"), against = by("against");
    if (!facts) {
      place.replaceChildren(make("p", {className: "notice"}, make("code", {textContent: "report/run.js"}), " is not here, so revision, versions and times are unknown. It belongs to the machine that ran the pipeline and is not part of the stored report; ", make("code", {textContent: "aepsl report"}), " writes it anew."));
      against.replaceChildren(make("p", {className: "muted", textContent: "Unknown without run.js."}));
      return;
    }
    if (aepsl.data && facts.digest !== aepsl.data.digest) {
      place.replaceChildren(make("p", {className: "notice"}, make("code", {textContent: "report/run.js"}), " is of another report than this one, so revision, versions and times are not shown. ", make("code", {textContent: "aepsl report"}), " writes it anew."));
      against.replaceChildren(make("p", {className: "muted", textContent: "Unknown: run.js is of another report."}));
      return;
    }
    const parts = [];
    if (facts.revision) {
      const {commit, branch, dirty} = facts.revision;
      parts.push(make("p", {}, "Revision ", make("code", {textContent: number(commit)}), branch ? " on branch " : "", branch ? make("code", {textContent: branch}) : "", dirty ? make("strong", {textContent: " with uncommitted changes"}) : ""));
    } else parts.push(make("p", {className: "muted", textContent: "No git revision: the project is not in a git repository."}));
    if (facts.stale?.length) parts.push(...minded(`${facts.stale.length} parameter(s) changed since the stages ran (${facts.stale.join(", ")}): this report is of the values before, not of this revision`));
    const versions = Object.entries(facts.versions ?? {});
    if (versions.length) parts.push(make("dl", {className: "versions"}, ...versions.map(([key, value]) => make("div", {}, make("dt", {textContent: key}), make("dd", {textContent: number(value)})))));
    if (facts.runtime?.length) parts.push(times(facts.runtime));
    place.replaceChildren(...parts);
    if (facts.against) against.replaceChildren(...differences(facts.against));
    else against.replaceChildren(make("p", {className: "muted", textContent: "No second revision was given to compare with."}));
  }

  return {
    start() {
      theme();
      document.querySelectorAll("table.sortable").forEach(sortable);
      matrix();
      parameters();
      run();
    },
  };
})();
