// The head, the summary and the holes.

function head() {
  const program = visible((audit.exe || audit.command[0] || "?").replace(/ \(deleted\)$/, "").split("/").pop());
  document.title = program + " (PID " + audit.pid + ") · strongroom audit";
  byId("program").textContent = program;
  byId("pid").textContent = "PID " + audit.pid;
  byId("command").textContent = audit.command.map((word) => (/^[\w@%+=:,.\/-]+$/.test(word) ? word : "'" + visible(word).replaceAll("'", "'\\''") + "'")).join(" ");
  byId("facts").append(
    visible(audit.exe) + " · user " + audit.user + " · " +
    (audit.as_root ? "read by root" : "read by an ordinary user: some answers need root") + " · " +
    new Date(written * 1000).toISOString().slice(0, 16).replace("T", " ") + " UTC");
  byId("partial").hidden = !audit.partial;
  byId("partial").textContent = audit.partial ?? "";
  byId("footer").append(
    element("p", "", "Written by strongroom " + version + ". Its addresses are those of a live process, which hides them from other users: until it ends, the page is as private."),
    element("p", "", "The mappings are told from /proc and the kernel's own rules; what was measured says so." +
      (audit.inferred ? " The direct map was not read: " + visible(audit.inferred) + "." : "")));
}

/** What may hold a secret: the same in every row of the summary, but for what was seen as nothing. */
const whole = Math.max(0, ...summary.map((row) => row.reachable.bytes + row.out_of_reach.bytes + row.unknown.bytes));

function figures() {
  const figure = (amount, ...text) => byId("figures").append(element("div", "figure", element("b", "", amount), element("span", "", ...text)));
  const holding = Math.max(0, ...summary.map((row) => row.reachable.mappings + row.out_of_reach.mappings + row.unknown.mappings));
  figure(bytes(whole), "may hold a secret: what the process wrote and may still write, in " + named(holding));
  const some = summary.filter((row) => row.reachable.bytes > 0);
  figure(some.length + " of " + ALL, some.length
    ? "adversaries reach some of it; " + some[0].adversary + " the most, with " + percent(some[0].reachable.bytes, whole)
    : "adversaries reach any of it");
  const ranks = ["high", "medium", "low"].map((rank) => [rank, holes.filter((hole) => hole.severity === rank).length]).filter(([, count]) => count);
  figure(many(holes.length, "hole", "holes"), holes.length
    ? ranks.map(([rank, count]) => count + " " + rank).join(", ") + "; each with its fix below"
    : "of the whole process were found");
}

function bars() {
  byId("summary-note").append("most reachable first", element("span", "on-screen", "; choose one to colour the map"));
  for (const row of summary) {
    const index = adversaries.findIndex((adversary) => adversary.name === row.adversary);
    const bar = element("span", "bar");
    bar.setAttribute("aria-hidden", "true");
    for (const [part, style] of [["reachable", "is-reachable"], ["unknown", "is-unknown"], ["out_of_reach", "is-out"]]) {
      if (!row[part].bytes) continue;
      const piece = element("i", style);
      piece.style.width = (100 * row[part].bytes) / whole + "%";
      bar.append(piece);
    }
    const rest = [[row.unknown, "unknown"], [row.out_of_reach, "out of reach"]].filter(([part]) => part.bytes).map(([part, word]) => bytes(part.bytes) + " " + word);
    const anchor = element("a", "",
      element("span", "who", element("b", "", row.adversary), element("span", "", adversaries[index]?.about ?? "")), bar,
      element("span", "amount", element("b", "", row.reachable.bytes ? bytes(row.reachable.bytes) : "none"), " reachable",
        element("span", "", row.reachable.bytes ? " in " + named(row.reachable.mappings) : " " + rest.join(", "))));
    anchor.title = [bytes(row.reachable.bytes) + " reachable", ...rest].join(", ");
    anchor.dataset.adversary = index;
    byId("bars").append(element("li", "", anchor));
  }
  byId("bars-legend").append(...[["is-reachable", "reachable"], ["is-unknown", "cannot be told from here"], ["is-out", "out of reach"]].map(([style, word]) => element("li", "", swatch(style), word)));
}

/** Text that is copied when it is pressed. */
function copied(text) {
  const code = element("code", "", text);
  code.tabIndex = 0;
  code.title = "Copy";
  code.setAttribute("role", "button");
  code.setAttribute("aria-label", "Copy: " + text);
  const copy = async () => {
    getSelection().selectAllChildren(code);
    let done = false;
    try { await navigator.clipboard.writeText(text); done = true; } catch { done = document.execCommand("copy"); }
    code.dataset.done = done ? "copied" : "selected";
    setTimeout(() => { delete code.dataset.done; }, 1500);
  };
  code.addEventListener("click", copy);
  code.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); copy(); }
  });
  return code;
}

/** How to close a hole: what stands between backticks is to be typed, or all of it where none does. */
function fix(text) {
  const pieces = visible(text.replaceAll("\n", "\u2424")).replaceAll("\u2424", "\n").split("`");
  if (pieces.length < 3) return element("p", "fix whole", copied(text));
  return element("p", "fix", ...pieces.map((piece, at) => (at % 2 ? copied(piece) : piece)));
}

function holeCards() {
  byId("holes-note").textContent = holes.length ? "of the whole process, most severe first" : "none was found";
  for (const hole of holes) {
    const severity = element("span", "severity " + (["high", "medium"].includes(hole.severity) ? hole.severity : "low"), hole.severity);
    byId("hole-list").append(element("li", "hole",
      element("div", "rank", severity, element("span", "mono", hole.hole), element("span", "", "opens it to " + hole.adversaries.join(", "))),
      element("h3", "", visible(hole.what)), fix(hole.fix)));
  }
}
