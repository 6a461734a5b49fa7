// The table, which has all that the map has.

const COLUMNS = [
  { title: "Addresses", key: (mapping) => mapping.place, style: "address" },
  { title: "Size", key: (mapping) => -mapping.size, style: "number" },
  { title: "Present", key: (mapping) => -mapping.weight, style: "number" },
  { title: "Access", key: (mapping) => mapping.access, style: "access" },
  { title: "Kind", key: (mapping) => kindOf(mapping.kind), style: "kind-of" },
  { title: "Name", key: (mapping) => mapping.name },
  ...adversaries.map((adversary, index) => ({
    title: adversary.name, index, style: "verdict",
    key: (mapping) => ["reachable", "unknown", "out-of-reach", "nothing"].indexOf(mapping.verdicts[index].reach),
  })),
];
/** Rows are made so many at a time: a process may have 65,530 mappings. */
const PAGE = 400;
const order = { column: 0, down: false, limit: PAGE };

function search(list, text) {
  const words = text.trim().toLowerCase().split(/\s+/).filter(Boolean);
  return list.filter((mapping) => words.every((word) => {
    if (/^(0x)?[0-9a-f]{5,16}$/.test(word)) {
      const address = BigInt("0x" + word.replace(/^0x/, ""));
      if (address >= BigInt(mapping.start) && address < BigInt(mapping.end)) return true;
    }
    return [mapping.name, mapping.access, kindOf(mapping.kind), mapping.start].some((field) => field.toLowerCase().includes(word));
  }));
}

function row(mapping) {
  const cell = (style, label, ...content) => {
    const made = element("td", style, ...content);
    made.setAttribute("role", "cell");
    if (label) made.dataset.label = label;
    return made;
  };
  const start = element("button", "", mapping.start + "–" + mapping.end);
  start.type = "button";
  start.title = "Show it in the map";
  start.addEventListener("click", () => { choose(mapping, false); byId("map").scrollIntoView(); });
  const made = element("tr", state.mapping === mapping ? "chosen" : "",
    cell("address", "", start), cell("number", "size", bytes(mapping.size)),
    cell("number", "present", bytes(mapping.present) + (mapping.swapped ? " + " + bytes(mapping.swapped) + " swapped" : "")),
    cell("access", "", mapping.access), cell("kind-of", "", kindOf(mapping.kind)), cell("named name", "", visible(mapping.name)),
    ...mapping.verdicts.map((found, index) => {
      const made = cell("verdict" + (index === state.adversary ? " current" : ""), "", swatch(STYLES[found.reach]),
        element("span", "short", adversaries[index].name), element("span", "unseen", " " + WORDS[found.reach]));
      made.title = adversaries[index].name + ": " + WORDS[found.reach] + ". " + found.why;
      return made;
    }));
  made.setAttribute("role", "row");
  made.dataset.place = mapping.place;
  return made;
}

function table() {
  const text = byId("search").value;
  const found = search(state.own ? mappings.filter((mapping) => mapping.own > 0) : mappings, text);
  const { key } = COLUMNS[order.column];
  const turn = order.down ? -1 : 1;
  const keys = new Map(found.map((mapping) => [mapping, key(mapping)]));
  found.sort((a, b) => {
    const [left, right] = [keys.get(a), keys.get(b)];
    return (left < right ? -turn : left > right ? turn : 0) || a.place - b.place;
  });
  byId("rows").replaceChildren(...found.slice(0, order.limit).map(row));
  const left = found.length - order.limit;
  byId("more").hidden = left <= 0;
  byId("more").textContent = "Show " + number(Math.min(PAGE, left)) + " more of " + number(left);
  byId("table-note").textContent = found.length === mappings.length ? number(mappings.length)
    : number(found.length) + " of " + number(mappings.length) + (state.own ? ", those that may hold a secret" : "");
  COLUMNS.forEach((column, index) => {
    const head = byId("head").children[index];
    head.setAttribute("aria-sort", order.column !== index ? "none" : order.down !== (column.style === "number") ? "descending" : "ascending");
    head.classList.toggle("current", column.index !== undefined && column.index === state.adversary);
  });
  byId("sort").value = String(order.column);
}

function tableHead() {
  const sort = (column) => {
    order.down = order.column === column && !order.down;
    order.column = column;
    table();
  };
  COLUMNS.forEach((column, index) => {
    const button = element("button", "", column.title);
    button.type = "button";
    button.addEventListener("click", () => sort(index));
    const made = element("th", column.style ?? "", button);
    made.scope = "col";
    made.dataset.title = column.title;
    made.setAttribute("role", "columnheader");
    if (column.index !== undefined) made.title = adversaries[column.index].about;
    byId("head").append(made);
    const option = element("option", "", column.title);
    option.value = index;
    byId("sort").append(option);
  });
  byId("sort").addEventListener("change", (event) => sort(Number(event.target.value)));
  let waiting;
  byId("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { order.limit = PAGE; table(); }, 120);
  });
  byId("more").addEventListener("click", () => { order.limit += PAGE; table(); });
  byId("table-legend").append(...Object.entries(WORDS).map(([reach, word]) => element("li", "", swatch(STYLES[reach]), word)));
  // On paper there is no button for more, and nothing to search by.
  let before;
  addEventListener("beforeprint", () => { before = order.limit; order.limit = Infinity; table(); });
  addEventListener("afterprint", () => { order.limit = before ?? PAGE; table(); });
}
