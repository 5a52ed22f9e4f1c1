// Texts in two languages, and numbers, sizes, times and spans as people read them. All texts stand in strings.json.

const remembered = "tuzhan-cdc.language";
let strings = {};
export let language = "en";

export async function loadTexts() {
  strings = await (await fetch("/page/strings.json")).json();
  let wanted = null;
  try { wanted = localStorage.getItem(remembered); } catch { /* storage is off: it is not remembered */ }
  setLanguage(wanted ?? document.documentElement.lang);
}

export function setLanguage(wanted, remember) {
  language = wanted.startsWith("zh") ? "zh" : "en";
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  if (remember) try { localStorage.setItem(remembered, language); } catch { /* as above */ }
  for (const e of document.querySelectorAll("[data-text]")) e.textContent = t(e.dataset.text);
}

// t gives the text of a key, with {names} filled in. A text may depend on n: one, other.
export function t(key, vars = {}) {
  let text = strings[key]?.[language];
  if (text && typeof text === "object") text = text[new Intl.PluralRules(language).select(vars.n)] ?? text.other;
  if (text === undefined) return key;
  return text.replace(/\{(\w+)\}/g, (_, name) => typeof vars[name] === "number" ? number(vars[name]) : vars[name] ?? "");
}

export const has = (key) => key in strings;

const locale = () => language === "zh" ? "zh-CN" : "en-GB";

// number writes a count in full up to 99,999, then shortened.
export function number(n) {
  if (n === null || n === undefined) return t("unknown");
  if (Math.abs(n) >= 1e5) return new Intl.NumberFormat(locale(), { notation: "compact", maximumSignificantDigits: 4 }).format(n);
  return new Intl.NumberFormat(locale(), { maximumFractionDigits: Number.isInteger(n) || n >= 100 ? 0 : n >= 10 ? 1 : 2 }).format(n);
}

// bytes writes a size as the commands do.
export function bytes(n) {
  if (n === null || n === undefined) return t("unknown");
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let i = 0;
  for (; n >= 1024 && i < units.length - 1; i++) n /= 1024;
  return number(i === 0 ? n : Math.round(n * 10) / 10) + units[i];
}

// span writes seconds.
export function span(s) {
  if (s === null || s === undefined) return t("unknown");
  const unit = (n, u, digits = 0) => t("unit." + u, { n: new Intl.NumberFormat(locale(), { maximumFractionDigits: digits }).format(n) });
  if (s === 0) return unit(0, "s");
  if (s < 0.0995) return unit(s * 1000, "ms", s < 0.00995 ? 1 : 0);
  if (s < 10) return unit(s, "s", 1);
  if (s < 100) return unit(s, "s");
  if (s < 5400) return unit(s / 60, "min");
  if (s < 129600) return unit(s / 3600, "h", s < 36000 ? 1 : 0);
  return unit(s / 86400, "d", s < 864000 ? 1 : 0);
}

// clock writes a moment: the time of today, else with the date.
export function clock(when, seconds = true) {
  const d = new Date(when), today = new Date().toDateString() === d.toDateString();
  const o = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  if (seconds) o.second = "2-digit";
  if (!today) Object.assign(o, { year: "numeric", month: "short", day: "numeric" });
  return new Intl.DateTimeFormat(locale(), o).format(d);
}

// h makes an element; children may be texts. Properties with - are attributes.
export function h(tag, props = {}, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(props)) {
    if (v === undefined || v === null || v === false) continue;
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else if (k === "class") e.className = v;
    else if (k in e && !k.includes("-")) e[k] = v;
    else e.setAttribute(k, v === true ? "" : v);
  }
  e.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return e;
}

// put sets an element's text, where it is another: nothing is announced for nothing.
export function put(e, text) {
  if (e.textContent !== text) e.textContent = text;
  return e;
}

// keyed keeps one child of parent for each item, by its key, so that focus and selection outlive an update.
export function keyed(parent, items, keyOf, make, update) {
  const kept = parent.kept ??= new Map(), keys = new Set();
  let before = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    keys.add(key);
    let child = kept.get(key);
    if (!child) kept.set(key, child = make(item));
    update(child, item);
    if (child === before) before = before.nextElementSibling;
    else parent.insertBefore(child, before);
  }
  for (const [key, child] of kept) if (!keys.has(key)) { child.remove(); kept.delete(key); }
}
