"use strict";
// What a path says is text here, never markup: only textContent takes it.
const root = document.documentElement;
const note = (what) => { root.dataset.errors = (root.dataset.errors ? root.dataset.errors + "\n" : "") + what; };
const byId = (id) => document.getElementById(id);
addEventListener("error", (event) => {
  note(event.message);
  byId("failed").hidden = false;
  byId("failed").textContent = "A part of this page could not be drawn: " + event.message;
});
document.addEventListener("securitypolicyviolation", (event) => note("policy: " + event.violatedDirective + " " + event.blockedURI));

const audit = JSON.parse(byId("data").textContent);
const { adversaries, mappings, summary, holes, verdicts, version, written } = audit;
mappings.forEach((mapping, place) => {
  mapping.place = place;
  // What is in the swap is of the process as much as what is present.
  mapping.weight = mapping.present + mapping.swapped;
  mapping.verdicts = mapping.reach.map((number) => verdicts[number]);
  mapping.reached = mapping.verdicts.filter((verdict) => verdict.reach === "reachable").length;
});

const WORDS = { reachable: "reachable", "out-of-reach": "out of reach", unknown: "unknown", nothing: "nothing there" };
const STYLES = { reachable: "is-reachable", "out-of-reach": "is-out", unknown: "is-unknown", nothing: "is-nothing" };
const KINDS = {
  heap: "Heap", stack: "Stack", anonymous: "Anonymous", secret: "Secret memory", reserved: "Reserved", program: "Program",
  library: "Libraries", file: "Files", shared: "Shared memory", kernel: "Kernel",
};
const ALL = adversaries.length;
