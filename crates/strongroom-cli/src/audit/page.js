"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  // Everything that comes from the process is text, never markup.
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const PAGE = 4096;
  const size = (bytes) => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let unit = 0;
    while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit++; }
    return `${bytes >= 99.95 || Math.abs(bytes - Math.round(bytes)) < 0.05 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
  };
  const WORDS = ["out of reach", "reachable", "unknown"];
  // From kept to reached by all; light and dark pages share them.
  const SCALE = ["#1f7a74", "#4f8f5b", "#8fa04a", "#c5a93c", "#d0922f", "#cd722b", "#c75a2b", "#bd3f28"];
  const GREY = "#85888e";
  const names = data.adversaries.map((adversary) => adversary.name);
  const shown = data.mappings.filter((mapping) => mapping.present + mapping.swapped > 0);
  const label = (mapping) => mapping.name || `${mapping.group} memory`;
  const short = (mapping) => mapping.name ? mapping.name.replace(/^.*\//, "") || mapping.name : mapping.group;
  let chosen = null;
  let filter = -1;

  // Head.
  const process = data.process;
  document.title = `${process.name} (${process.pid}) – strongroom audit`;
  byId("title").textContent = `${process.name}, PID ${process.pid}`;
  const own = data.mappings.reduce((sum, mapping) => sum + mapping.own, 0);
  byId("subtitle").textContent = `User ${process.user} · ${size(own * PAGE)} of its own in ${data.mappings.length} mappings`
    + (process.command.length ? ` · ${process.command.join(" ")}` : "");
  if (data.partial) {
    byId("partial").hidden = false;
    byId("partial").textContent = `This is not all of it: ${data.partial}.`;
  }
  byId("direct-map").textContent = `direct-map: ${data.directMap}.`;
  const absent = data.mappings.length - shown.length;
  byId("absent").textContent = absent ? `${absent} mappings without a present page are not drawn.` : "";

  // Filters, with how much each adversary reaches.
  const buttons = [];
  const addFilter = (index, name, amount, parts) => {
    const button = make("button");
    button.type = "button";
    button.append(make("span", "name", name), make("span", "amount", amount));
    const bar = make("span", "bar");
    const sum = parts.reduce((a, [, b]) => a + b, 0);
    for (const [kind, pages] of parts) {
      const piece = make("i", kind);
      piece.style.width = `${sum ? 100 * pages / sum : 0}%`;
      bar.append(piece);
    }
    button.append(bar);
    button.addEventListener("click", () => {
      location.hash = index < 0 ? "" : `adversary=${names[index]}`;
      choose(index);
    });
    byId("filters").append(button);
    buttons.push([index, button]);
  };
  const reachedByAny = data.mappings.reduce((sum, mapping) =>
    sum + (mapping.findings.some(([reach]) => reach === 1) ? mapping.own : 0), 0);
  const inDoubt = data.mappings.reduce((sum, mapping) =>
    sum + (mapping.findings.every(([reach]) => reach !== 1) && mapping.findings.some(([reach]) => reach === 2) ? mapping.own : 0), 0);
  addFilter(-1, "any of them", `${size(reachedByAny * PAGE)}`, [["open", reachedByAny], ["unknown", inDoubt], ["kept", own - reachedByAny - inDoubt]]);
  data.totals.forEach((total, index) => addFilter(index, total.adversary, size(total.reachable_bytes),
    [["open", total.reachable], ["unknown", total.unknown], ["kept", total.out_of_reach]]));

  // The map: kinds of memory side by side, their mappings within (squarified treemap).
  const squarify = (items, box, place) => {
    let { x, y, w, h } = box;
    let rest = items.reduce((sum, item) => sum + item.weight, 0);
    let at = 0;
    while (at < items.length && rest > 0) {
      const side = Math.min(w, h);
      const scale = w * h / rest;
      let row = 0, worst = Infinity, end = at, smallest = Infinity, largest = 0;
      while (end < items.length) {
        const area = items[end].weight * scale;
        const sum = row + area;
        const low = Math.min(smallest, area), high = Math.max(largest, area);
        const ratio = sum > 0 && low > 0
          ? Math.max(side * side * high / (sum * sum), sum * sum / (side * side * low)) : Infinity;
        if (end > at && ratio > worst) break;
        row = sum; worst = ratio; smallest = low; largest = high; end++;
      }
      const thick = side > 0 ? Math.min(row / side, w >= h ? w : h) : 0;
      let along = 0;
      for (; at < end; at++) {
        const length = row > 0 ? side * items[at].weight * scale / row : 0;
        place(items[at], w >= h ? { x, y: y + along, w: thick, h: length } : { x: x + along, y, w: length, h: thick });
        rest -= items[at].weight;
        along += length;
      }
      if (w >= h) { x += thick; w -= thick; } else { y += thick; h -= thick; }
    }
  };
  const map = byId("map");
  const cells = [];
  const byGroup = new Map();
  for (const mapping of shown) {
    if (!byGroup.has(mapping.group)) byGroup.set(mapping.group, []);
    byGroup.get(mapping.group).push(mapping);
  }
  const groups = [...byGroup].map(([group, members]) => {
    const items = members.map((mapping) => {
      const cell = make("div", "cell");
      cell.setAttribute("role", "option");
      cell.setAttribute("aria-selected", "false");
      cell.tabIndex = -1;
      cell.dataset.start = mapping.start;
      return { cell, mapping, weight: mapping.present + mapping.swapped };
    }).sort((a, b) => b.weight - a.weight);
    return { group, items, weight: items.reduce((sum, item) => sum + item.weight, 0) };
  }).sort((a, b) => b.weight - a.weight);
  for (const group of groups) for (const item of group.items) { cells.push(item); map.append(item.cell); }
  const layout = () => {
    const { clientWidth: width, clientHeight: height } = map;
    if (!width || !height) return;
    squarify(groups, { x: 0, y: 0, w: width, h: height }, (group, box) =>
      squarify(group.items, box, ({ cell, mapping }, { x, y, w, h }) => {
        const style = cell.style;
        // Parts of the whole: on paper the map has another width.
        style.left = `${100 * x / width}%`; style.top = `${100 * y / height}%`;
        style.width = `${100 * w / width}%`; style.height = `${100 * h / height}%`;
        cell.replaceChildren();
        if (w > 46 && h > 18) cell.append(make("span", "", short(mapping)));
        if (w > 60 && h > 34) cell.lastChild.append(document.createElement("br"), size((mapping.present + mapping.swapped) * PAGE));
      }));
  };
  const paint = () => {
    for (const { cell, mapping } of cells) {
      const reached = mapping.findings.filter(([reach]) => reach === 1).length;
      const doubt = mapping.findings.some(([reach]) => reach === 2);
      const reach = filter < 0 ? null : mapping.findings[filter][0];
      const colour = filter < 0 ? (reached || !doubt ? SCALE[reached] : GREY) : [SCALE[0], SCALE[7], GREY][reach];
      // What is not the process's own is pale.
      cell.style.backgroundColor = mapping.own === 0 ? `${colour}40` : colour;
      cell.classList.toggle("doubt", filter < 0 ? doubt : reach === 2);
      cell.classList.toggle("file", mapping.own === 0);
      cell.classList.toggle("dark", mapping.own > 0 && filter < 0 && reached >= 2 && reached <= 4);
      cell.dataset.reach = filter < 0 ? String(reached) : WORDS[reach];
      const what = filter < 0 ? `reached by ${reached} of ${names.length}` : `${names[filter]}: ${WORDS[reach]}`;
      cell.setAttribute("aria-label", `${label(mapping)}, ${size((mapping.present + mapping.swapped) * PAGE)}, ${what}`);
    }
    const legend = byId("legend");
    legend.replaceChildren();
    const add = (colour, text, className) => {
      const entry = make("span");
      const box = make("b", className);
      box.style.backgroundColor = colour;
      entry.append(box, text);
      legend.append(entry);
    };
    if (filter < 0) {
      add(SCALE[0], "reached by none");
      add(SCALE[3], "by three");
      add(SCALE[5], "by five");
      add(SCALE[7], "by all seven");
    } else {
      add(SCALE[7], "reachable");
      add(SCALE[0], "out of reach");
    }
    if (cells.some(({ cell }) => cell.classList.contains("doubt"))) add(GREY, "cannot be told", "doubt");
    legend.append(make("span", "", "Pale: unchanged parts of files, not the process's own"));
  };

  // What is chosen.
  const line = (mapping) => `${mapping.start}–${mapping.end} · ${mapping.access} · ${size(mapping.size)} mapped, `
    + `${size(mapping.present * PAGE)} present${mapping.swapped ? `, ${size(mapping.swapped * PAGE)} swapped out` : ""}, ${size(mapping.own * PAGE)} own`;
  const show = (item) => {
    if (chosen) { chosen.cell.classList.remove("chosen"); chosen.cell.setAttribute("aria-selected", "false"); chosen.cell.tabIndex = -1; }
    chosen = item;
    item.cell.classList.add("chosen");
    item.cell.setAttribute("aria-selected", "true");
    item.cell.tabIndex = 0;
    const { mapping } = item;
    const list = make("ul");
    mapping.findings.forEach(([reach, reason], index) => {
      const entry = make("li");
      entry.append(make("span", "", names[index]), make("span", `reach r${reach}`, WORDS[reach]), make("span", "", data.reasons[reason]));
      list.append(entry);
    });
    byId("details").replaceChildren(make("h3", "", label(mapping)), make("p", "note mono", line(mapping)),
      make("p", "note", `${mapping.group}${mapping.flags ? ` · VmFlags ${mapping.flags}` : ""}`), list);
  };
  const itemOf = (target) => cells.find(({ cell }) => cell === target.closest?.(".cell"));
  for (const event of ["pointerover", "click", "focusin"]) {
    map.addEventListener(event, ({ target }) => { const item = itemOf(target); if (item && item !== chosen) show(item); });
  }
  // An arrow goes to the nearest cell in its direction.
  map.addEventListener("keydown", (event) => {
    const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const direction = directions[event.key];
    const ends = { Home: cells[0], End: cells[cells.length - 1] }[event.key];
    if (!chosen || !(direction || ends)) return;
    event.preventDefault();
    let best = ends;
    if (direction) {
      const centre = ({ cell }) => { const box = cell.getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2]; };
      const [x, y] = centre(chosen);
      let least = Infinity;
      for (const item of cells) {
        const [a, b] = centre(item);
        const ahead = (a - x) * direction[0] + (b - y) * direction[1];
        const aside = Math.abs((a - x) * direction[1]) + Math.abs((b - y) * direction[0]);
        const far = ahead + 2 * aside;
        if (item !== chosen && ahead > 0.5 && far < least) { least = far; best = item; }
      }
    }
    best?.cell.focus();
  });

  const choose = (index) => {
    filter = index;
    for (const [which, button] of buttons) button.setAttribute("aria-pressed", String(which === index));
    byId("about").textContent = index < 0 ? "Choose one to colour the map by it."
      : `${names[index]}: ${data.adversaries[index].about}.`;
    paint();
  };
  const fromHash = () => choose(names.indexOf(decodeURIComponent(location.hash).replace(/^#adversary=/, "")));
  addEventListener("hashchange", fromHash);

  // Holes.
  for (const hole of data.holes) {
    const entry = make("li", hole.severity);
    const text = make("p", "", hole.what);
    entry.append(make("span", "badge", `${hole.severity} · ${hole.hole}`), text);
    const fixes = make("ul");
    hole.fixes.forEach((fix, place) => {
      const item = make("li");
      item.append(make("span", "", place ? "or" : "fix"), make("code", "", fix));
      fixes.append(item);
    });
    entry.append(fixes);
    byId("holes").append(entry);
  }
  if (!data.holes.length) byId("holes").append(make("li", "low", "None was found."));

  // The largest, for readers without a pointer and for paper.
  for (const mapping of [...data.mappings].sort((a, b) => b.present + b.swapped - a.present - a.swapped).slice(0, 25)) {
    const row = make("tr");
    const who = names.filter((_, index) => mapping.findings[index][0] === 1);
    const name = make("td", "", label(mapping));
    name.append(document.createElement("br"), make("span", "note mono", `${mapping.start}–${mapping.end}`));
    row.append(name, make("td", "mono", mapping.access), make("td", "number", size(mapping.present * PAGE)), make("td", "number", size(mapping.own * PAGE)),
      make("td", "", mapping.own === 0 ? "a file, unchanged" : who.length === names.length ? "all" : who.join(", ") || "none"));
    byId("table").append(row);
  }

  layout();
  fromHash();
  // What is the process's own first.
  const first = cells.find(({ mapping }) => mapping.own > 0) ?? cells[0];
  if (first) show(first);
  addEventListener("resize", layout);
  addEventListener("beforeprint", layout);
})();
