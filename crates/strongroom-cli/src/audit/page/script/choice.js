// What is chosen, which the address says, so that it can be linked.

const state = { adversary: null, own: false, mapping: null, wrong: "" };

function read() {
  const asked = new URLSearchParams(location.hash.slice(1));
  // A plain anchor such as #holes changes nothing.
  if (location.hash.length > 1 && !location.hash.includes("=")) return;
  const name = asked.get("adversary");
  const found = adversaries.findIndex((adversary) => adversary.name === name);
  state.wrong = name && name !== "all" && found < 0 ? name : "";
  state.adversary = found < 0 ? null : found;
  state.own = asked.get("only") === "own";
  const mapping = asked.get("mapping");
  if (mapping) state.mapping = mappings.find((one) => one.start === mapping) ?? state.mapping;
}

/** The address that says the state with these changes. */
function link(changes) {
  const next = { ...state, ...changes };
  const asked = new URLSearchParams();
  asked.set("adversary", next.adversary === null ? "all" : adversaries[next.adversary].name);
  if (next.own) asked.set("only", "own");
  if (changes.mapping) asked.set("mapping", changes.mapping.start);
  return "#" + asked;
}

/** The verdict's class for a mapping, by the chosen adversary or by how many reach it. */
function colour(mapping) {
  if (state.adversary !== null) return STYLES[mapping.verdicts[state.adversary].reach];
  if (mapping.verdicts.every((verdict) => verdict.reach === "nothing")) return "is-nothing";
  if (mapping.reached === 0) return mapping.verdicts.some((verdict) => verdict.reach === "unknown") ? "is-unknown" : "step-0";
  return "step-" + (mapping.reached === ALL ? 4 : Math.min(3, Math.ceil((3 * mapping.reached) / Math.max(1, ALL - 1))));
}

/** The same, fainter where the process keeps no secret. */
const look = (mapping) => colour(mapping) + (mapping.own ? "" : " faded");
/** What all of these look like; faint, where most of it keeps no secret. */
function common(list) {
  if (list.some((mapping) => colour(mapping) !== colour(list[0]))) return "mixed";
  const rest = list.reduce((sum, mapping) => sum + (mapping.own ? -mapping.weight : mapping.weight), 0);
  return colour(list[0]) + (rest > 0 ? " faded" : "");
}

/** The verdict in words. */
function verdict(mapping) {
  if (state.adversary !== null) return WORDS[mapping.verdicts[state.adversary].reach];
  return "reachable by " + mapping.reached + " of " + ALL;
}
