// The chosen mapping.

function inspect(mapping) {
  const panel = byId("inspector");
  if (!mapping) {
    panel.replaceChildren(element("p", "note", "Choose a mapping in the map or in the table to see who reaches it, and why."));
    return;
  }
  if (panel.dataset.place === String(mapping.place) && panel.dataset.adversary === String(state.adversary)) return;
  panel.dataset.place = mapping.place;
  panel.dataset.adversary = state.adversary;
  const facts = [
    ["Kind", kindOf(mapping.kind)], ["Access", access(mapping.access)], ["Size", bytes(mapping.size)],
    ["Present", bytes(mapping.present)], ["May hold a secret", mapping.own ? bytes(mapping.own) : ""], ["Swapped", mapping.swapped ? bytes(mapping.swapped) : ""], ["Locked", mapping.locked ? bytes(mapping.locked) : ""],
  ].filter(([, value]) => value);
  const measured = mapping.measured ?? [];
  panel.replaceChildren(
    element("h3", "name", long(mapping)), element("p", "range", mapping.start + "–" + mapping.end + " " + mapping.access),
    element("dl", "", ...facts.flatMap(([term, value]) => [element("dt", "", term), element("dd", "", value)])),
    element("ul", "verdicts", ...mapping.verdicts.map((found, index) =>
      element("li", index === state.adversary ? "current" : "", swatch("small " + STYLES[found.reach]),
        element("span", "", element("b", "", adversaries[index].name), " " + WORDS[found.reach] + (measured.includes(adversaries[index].name) ? " (measured)" : "")),
        element("span", "why", visible(found.why))))),
    mapping.own ? "" : element("p", "note", "Not counted in the summary: code, or unchanged pages of a file."));
}

/** What is told of a cell of small ones: how many of them each adversary reaches. */
function inspectMany(title, cell) {
  const panel = byId("inspector");
  delete panel.dataset.place;
  panel.replaceChildren(element("h3", "", title),
    element("dl", "", element("dt", "", "Present"), element("dd", "", bytes(cell.weight) + " together")),
    element("ul", "verdicts", ...adversaries.map((adversary, index) => {
      const reached = cell.rest.filter((mapping) => mapping.verdicts[index].reach === "reachable").length;
      const same = cell.rest.every((mapping) => mapping.verdicts[index].reach === cell.rest[0].verdicts[index].reach);
      return element("li", index === state.adversary ? "current" : "", swatch("small " + (same ? STYLES[cell.rest[0].verdicts[index].reach] : "mixed")),
        element("span", "", element("b", "", adversary.name), " " + (same ? WORDS[cell.rest[0].verdicts[index].reach] : number(reached) + " of " + number(cell.rest.length) + " reachable")));
    })),
    element("p", "note", "Choose the cell to look at them one by one."));
}

/** Makes a mapping the chosen one. */
function choose(mapping, inMap) {
  state.mapping = mapping;
  try { history.replaceState(null, "", link({ mapping })); } catch { /* Some browsers refuse it for a local file. */ }
  inspect(mapping);
  mark();
  for (const row of byId("rows").children) row.classList.toggle("chosen", row.dataset.place === String(mapping.place));
  if (inMap) byId("inspector").scrollIntoView({ block: "nearest" });
}
