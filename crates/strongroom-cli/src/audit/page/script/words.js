// Words and numbers.

/** An element with a class, and text or children. */
function element(tag, style, ...content) {
  const made = document.createElement(tag);
  if (style) made.className = style;
  made.append(...content.filter((piece) => piece !== null && piece !== undefined && piece !== ""));
  return made;
}

/** Bytes as KiB, MiB, GiB or TiB, with three figures. */
function bytes(count) {
  if (count < 1024) return count + " B";
  const units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
  let value = count / 1024, unit = 0;
  while (value >= 999.5 && unit < units.length - 1) { value /= 1024; unit += 1; }
  const digits = Number.isInteger(value) || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return parseFloat(value.toFixed(digits)) + " " + units[unit];
}

const number = (count) => String(count).replace(/\B(?=(\d{3})+$)/g, "\u202f");
const many = (count, one, more) => number(count) + "\u00a0" + (count === 1 ? one : more);
const named = (count) => many(count, "mapping", "mappings");

/** A share of the whole that is never rounded to nothing or to all. */
function percent(part, whole) {
  if (!whole || !part) return "0\u00a0%";
  if (part === whole) return "100\u00a0%";
  return Math.min(99, Math.max(1, Math.round((100 * part) / whole))) + "\u00a0%";
}

/** Control characters, invisible ones and ones that turn the direction round, as \u{…}. */
const visible = (text) =>
  text.replace(/[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g, (c) => "\\u{" + c.codePointAt(0).toString(16) + "}");

const kindOf = (kind) => KINDS[kind] ?? visible(kind);
/** The last part of a path, or what else there is. */
function short(mapping) {
  if (!mapping.name) return "…" + mapping.start.slice(-8);
  const end = mapping.name.replace(/ \(deleted\)$/, "");
  return visible(mapping.name.startsWith("/") ? end.slice(end.lastIndexOf("/") + 1) || end : end);
}
const long = (mapping) => visible(mapping.name) || "no name";

/** `rw-p` in words. */
function access(text) {
  const can = [["r", "read"], ["w", "write"], ["x", "execute"]].filter(([letter]) => text.includes(letter)).map(([, word]) => word);
  return (can.join(", ") || "no access") + (text.endsWith("s") ? " · shared" : " · private");
}

const swatch = (style) => { const made = element("i", "swatch " + style); made.setAttribute("aria-hidden", "true"); return made; };
