// What the choices change, and the start.

function choices() {
  const choice = (text, changes, current, title) => {
    const made = element("a", "", text);
    made.href = link(changes);
    if (current) made.setAttribute("aria-current", "true");
    if (title) made.title = title;
    return element("li", "", made);
  };
  byId("adversaries").replaceChildren(choice("All", { adversary: null }, state.adversary === null),
    ...adversaries.map((adversary, index) => choice(adversary.name, { adversary: index }, state.adversary === index, adversary.about)));
  byId("scope").replaceChildren(choice("Every mapping", { own: false }, !state.own),
    choice("May hold a secret", { own: true }, state.own, "Pages that the process wrote and may still write, and private memory of no file"));
  for (const anchor of byId("bars").querySelectorAll("a")) {
    const index = Number(anchor.dataset.adversary);
    anchor.href = link({ adversary: index });
    anchor.toggleAttribute("aria-current", false);
    if (index === state.adversary) anchor.setAttribute("aria-current", "true");
  }
  byId("about").textContent = state.wrong ? "No adversary is called “" + visible(state.wrong) + "”: all are shown."
    : state.adversary === null ? "The colour says how many of the " + ALL + " adversaries reach a mapping."
      : adversaries[state.adversary].name + ": " + adversaries[state.adversary].about + ".";
  const steps = state.adversary === null
    ? [["step-0", "reached by none"], ...[1, 2, 3].map((step) => ["step-" + step, reachedBy(step)]).filter(([, word]) => word), ["step-4", "all " + ALL], ["is-unknown", "unknown"]]
    : Object.entries(WORDS).map(([reach, word]) => [STYLES[reach], word]);
  byId("legend").replaceChildren(...steps.map(([style, word]) => element("li", "", swatch(style), word)),
    ...(state.own ? [] : [element("li", "", swatch("faded"), "pale: nothing in it counts as a secret")]),
    element("li", "", "Areas are by pages present; small groups are enlarged to be seen."));
}

/** Which counts a step of the scale stands for. */
function reachedBy(step) {
  const counts = [];
  for (let count = 1; count < ALL; count += 1) if (Math.min(3, Math.ceil((3 * count) / Math.max(1, ALL - 1))) === step) counts.push(count);
  if (!counts.length) return "";
  return counts.length === 1 ? String(counts[0]) : counts[0] + "–" + counts.at(-1);
}

function show() {
  choices();
  draw();
  inspect(state.mapping);
  table();
}

head();
figures();
bars();
holeCards();
tableHead();
// What matters most is chosen first: the biggest mapping that may hold a secret and that most can reach.
state.mapping = [...mappings].filter((mapping) => mapping.own)
  .sort((a, b) => b.reached - a.reached || b.weight - a.weight)[0] ?? null;
read();
show();
addEventListener("hashchange", () => {
  // A plain anchor scrolls and does no more.
  if (location.hash.length > 1 && !location.hash.includes("=")) return;
  read();
  order.limit = PAGE;
  trail = [];
  show();
});
let width = treemap.clientWidth;
new ResizeObserver(() => {
  if (treemap.clientWidth === width) return;
  width = treemap.clientWidth;
  draw();
}).observe(treemap);
root.dataset.ready = "true";
