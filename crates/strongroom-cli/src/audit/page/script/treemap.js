// The map.

/** The rectangle in `box` for each of `items` by its `area`, biggest first, as square as can be
    (Bruls, Huizing, van Wijk: Squarified treemaps). */
function squarify(items, box, place) {
  const total = items.reduce((sum, item) => sum + item.area, 0);
  if (!total || box.w <= 0 || box.h <= 0) return;
  const scale = (box.w * box.h) / total;
  let { x, y, w, h } = box, from = 0;
  while (from < items.length) {
    const side = Math.min(w, h);
    let to = from, sum = 0, worst = Infinity;
    while (to < items.length) {
      const next = sum + items[to].area * scale;
      const ratio = Math.max((side * side * items[from].area * scale) / (next * next), (next * next) / (side * side * items[to].area * scale));
      if (to > from && ratio > worst) break;
      worst = ratio; sum = next; to += 1;
    }
    const thick = to === items.length ? Math.max(w, h) : sum / side;
    let along = 0;
    for (let i = from; i < to; i += 1) {
      const length = (side * items[i].area * scale) / sum;
      place(items[i], w >= h ? { x, y: y + along, w: thick, h: length } : { x: x + along, y, w: length, h: thick });
      along += length;
    }
    if (w >= h) { x += thick; w -= thick; } else { y += thick; h -= thick; }
    from = to;
  }
}

/** Less than this many square pixels is not worth a cell of its own. */
const LEAST = 300;
/** A look into a heap of tiny ones shows at least so many of them. */
const SOME = 160;

/** Cells for the mappings in so many square pixels: the tiny ones merged into one. */
function cells(list, pixels, looking) {
  const sorted = [...list].sort((a, b) => b.weight - a.weight || a.place - b.place);
  const total = sorted.reduce((sum, mapping) => sum + mapping.weight, 0);
  let kept = sorted.findIndex((mapping) => (mapping.weight / total) * pixels < LEAST);
  if (kept < 0) kept = sorted.length;
  if (looking) kept = Math.max(kept, Math.min(SOME, sorted.length));
  if (sorted.length - kept === 1) kept += 1;
  const floor = (LEAST / pixels) * total;
  const made = sorted.slice(0, kept).map((mapping) => ({ mapping, area: Math.max(mapping.weight, floor) }));
  const rest = sorted.slice(kept);
  if (rest.length) {
    const weight = rest.reduce((sum, mapping) => sum + mapping.weight, 0);
    const shown = made.reduce((sum, cell) => sum + cell.area, 0);
    const area = Math.max(floor * 3, looking ? Math.min(weight, shown / 3) : weight);
    made.push({ rest, weight, area, squeezed: area < weight });
  }
  return made.sort((a, b) => b.area - a.area);
}

/** How one got into what is shown: each step is a title and a list of mappings. */
let trail = [];
const treemap = byId("treemap");

function shownMappings() {
  const drawn = trail.length ? trail.at(-1).list : mappings;
  return drawn.filter((mapping) => mapping.weight > 0 && (!state.own || mapping.own > 0));
}

function put(made, box) {
  for (const [side, length] of [["left", box.x], ["top", box.y], ["width", box.w], ["height", box.h]]) made.style[side] = length.toFixed(2) + "px";
  made.tabIndex = -1;
  treemap.append(made);
}

function putCell(cell, box, kind) {
  const merged = cell.rest, mapping = cell.mapping;
  const made = element("button", "cell" + (merged ? " merged " + common(merged) : " " + look(mapping)));
  made.type = "button";
  made.dataset.count = merged ? merged.length : 1;
  made.dataset.bytes = merged ? cell.weight : mapping.weight;
  const title = merged ? number(merged.length) + " more" : short(mapping);
  const amount = bytes(merged ? cell.weight : mapping.weight);
  if (box.w >= 38 && box.h >= 19) {
    // A piece of an address says nothing.
    if (merged || mapping.name || box.w >= 78) made.append(element("b", "name", title));
    if (box.h >= 36) made.append(element("span", "", amount));
    if (!merged && box.h >= 52 && box.w >= 66) made.append(element("span", "", state.adversary === null ? mapping.reached + " of " + ALL : verdict(mapping)));
  }
  if (cell.squeezed) byId("map-note").append("; “" + title + "” is drawn smaller than its share");
  if (merged) {
    made.setAttribute("aria-label", title + ", small ones of " + kind + ", " + amount + " together: open");
    made.addEventListener("click", () => open(title + " of " + kind, merged));
    made.title = title + " of " + kind + ", " + amount + " together: open";
    made.addEventListener("focus", () => inspectMany(title + " of " + kind, cell));
    made.addEventListener("pointerenter", (event) => { if (event.pointerType !== "touch") inspectMany(title + " of " + kind, cell); });
  } else {
    made.dataset.start = mapping.start;
    made.dataset.place = mapping.place;
    made.setAttribute("aria-label", short(mapping) + ", " + kind + ", " + amount + ", " + verdict(mapping));
    made.addEventListener("click", () => choose(mapping, true));
    made.addEventListener("focus", () => inspect(mapping));
  }
  put(made, box);
}

function draw() {
  const list = shownMappings();
  const width = Math.max(200, treemap.clientWidth);
  const height = width < 560 ? 460 : Math.round(Math.min(620, Math.max(440, width * 0.6)));
  treemap.replaceChildren();
  treemap.style.height = height + "px";
  byId("trail").hidden = !trail.length;
  byId("trail-text").textContent = trail.length ? trail.map((step) => step.title).join(" › ") : "";
  byId("back").textContent = trail.length > 1 ? "← Back" : "← All";
  const total = list.reduce((sum, mapping) => sum + mapping.weight, 0);
  mapNote(list, total);
  if (!list.length) {
    treemap.append(element("p", "", "No page is present in what is shown."));
    return;
  }
  const kinds = new Map();
  for (const mapping of list) kinds.set(mapping.kind, [...(kinds.get(mapping.kind) ?? []), mapping]);
  const pixels = width * height;
  // Small groups are often the ones that matter: they are drawn big enough to be seen.
  const groups = [...kinds].map(([kind, members]) => {
    const weight = members.reduce((sum, mapping) => sum + mapping.weight, 0);
    return { kind, members, weight, area: Math.max(weight, (total * Math.min(6400, pixels / (3 * kinds.size))) / pixels) };
  }).sort((a, b) => b.area - a.area);
  squarify(groups, { x: 0, y: 0, w: width, h: height }, (group, box) => {
    const inner = { x: box.x + 1.5, y: box.y + 1.5, w: box.w - 3, h: box.h - 3 };
    if (kinds.size > 1 && inner.h > 40 && inner.w > 46) {
      const title = element("button", "kind", kindOf(group.kind), element("span", "", "  " + bytes(group.weight)));
      title.type = "button";
      title.title = "Look at " + kindOf(group.kind) + " alone: " + named(group.members.length) + ", " + bytes(group.weight);
      title.addEventListener("click", () => open(kindOf(group.kind), group.members));
      put(title, { ...inner, h: 19 });
      inner.y += 19; inner.h -= 19;
    }
    squarify(cells(group.members, inner.w * inner.h, trail.length > 0), inner, (cell, at) => putCell(cell, at, kindOf(group.kind)));
  });
  const first = treemap.querySelector(".cell.chosen") ?? treemap.querySelector(".cell");
  if (first) first.tabIndex = 0;
  mark();
}

function mapNote(list, total) {
  const absent = mappings.filter((mapping) => mapping.weight === 0);
  const space = absent.reduce((sum, mapping) => sum + mapping.size, 0);
  byId("map-note").textContent = bytes(total) + " present in " + named(list.length) +
    (absent.length && !trail.length && !state.own ? "; " + named(absent.length) + " with no page (" + bytes(space) + " of addresses) not drawn" : "");
}

function open(title, list) {
  trail.push({ title, list });
  draw();
  treemap.querySelector(".cell")?.focus({ preventScroll: true });
}

function back() {
  trail.pop();
  draw();
}

/** The chosen cell, or the one that holds the chosen mapping. */
function mark() {
  for (const cell of treemap.querySelectorAll(".chosen")) cell.classList.remove("chosen");
  if (!state.mapping) return;
  treemap.querySelector(`[data-place="${state.mapping.place}"]`)?.classList.add("chosen");
}

treemap.addEventListener("pointerover", (event) => {
  const cell = event.target.closest("[data-place]");
  if (cell && event.pointerType !== "touch") inspect(mappings[cell.dataset.place]);
});
treemap.addEventListener("pointerleave", () => inspect(state.mapping));
treemap.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && trail.length) { back(); treemap.querySelector("button")?.focus(); return; }
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step || !event.target.matches("button")) return;
  event.preventDefault();
  const middle = (cell) => [cell.offsetLeft + cell.offsetWidth / 2, cell.offsetTop + cell.offsetHeight / 2];
  const [x, y] = middle(event.target);
  let nearest = null, least = Infinity;
  for (const cell of treemap.querySelectorAll("button")) {
    const [dx, dy] = middle(cell).map((at, axis) => at - [x, y][axis]);
    const ahead = dx * step[0] + dy * step[1], aside = Math.abs(dx * step[1]) + Math.abs(dy * step[0]);
    if (ahead > 1 && ahead + 2 * aside < least) { least = ahead + 2 * aside; nearest = cell; }
  }
  if (nearest) { event.target.tabIndex = -1; nearest.tabIndex = 0; nearest.focus(); }
});
byId("back").addEventListener("click", back);
