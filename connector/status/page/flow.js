// The data's way: tables, mappings, endpoints, and ribbons between them that are as wide as what flows.
import { t, h, put, keyed, number, span, clock } from "./text.js";

const ns = "http://www.w3.org/2000/svg";
const lists = { tables: document.getElementById("tables"), mappings: document.getElementById("mappings"), endpoints: document.getElementById("endpoints") };
const box = document.getElementById("flow"), svg = document.getElementById("ribbons");
let edges = [];

const sum = (o) => Object.values(o ?? {}).reduce((a, b) => a + b, 0);
const rate = (n) => t("perSecond", { n: n ?? 0 });

function node(cls) {
  return h("li", { class: "node " + cls }, h("span", { class: "name" }), h("span", { class: "rate" }), h("span", { class: "small" }), h("span", { class: "chips" }));
}

function fill(li, name, rateText, small, chips) {
  put(li.children[0], name);
  put(li.children[1], rateText);
  put(li.children[2], small.filter(Boolean).join(" · "));
  keyed(li.children[3], chips.filter(Boolean), (c) => c[0] + c[2], (c) => h("span", { class: "chip " + c[0] }), (e, c) => put(e, c[1]));
}

export function drawFlow({ snapshot: s, rates }, now) {
  const held = new Map(s.heldMappings.map((m) => [m.mapping, m]));
  put(document.getElementById("over"), rates.over ? t("flow.over", { n: rates.over, time: clock(s.since) }) : t("flow.since", { time: clock(s.since) }));
  box.classList.toggle("empty", s.mappings.length === 0);
  box.dataset.none = t("noFlow");
  keyed(lists.tables, s.tables, (x) => x.name, () => node("table"), (li, x) => {
    fill(li, x.name, rate(rates.tables[x.name]), [t("changes", { n: x.changes })], []);
  });
  keyed(lists.mappings, s.mappings, (m) => m.name, () => {
    const li = node("mapping");
    li.append(h("span", { class: "way" }));
    return li;
  }, (li, m) => {
    const stuck = held.get(m.name), letters = sum(m.deadLetters);
    li.classList.toggle("held", Boolean(stuck?.reason));
    li.dataset.mapping = m.name;
    fill(li, m.name, rate(rates.mappings[m.name]?.delivered), [t("kind." + m.kind), t("delivered", { n: m.delivered }), m.retries && t("retries", { n: m.retries })], [
      stuck?.reason && ["bad", t("held"), "h"], stuck && !stuck.reason && ["warn", t("workingOff"), "w"],
      m.pending > 0 && ["wait", t("pending", { n: m.pending }), "p"], letters > 0 && ["warn", t("setAside", { n: letters }), "l"]]);
    put(li.lastElementChild, t("flow.fromTo", { table: m.table, endpoints: m.endpoints.map((e) => t("endpoint." + e)).join(", ") }));
  });
  // In the order of the mappings that feed them, so that few ribbons cross.
  const middle = (e) => { const fed = s.mappings.flatMap((m, i) => m.endpoints.includes(e.name) ? [i] : []); return fed.reduce((a, b) => a + b, 0) / fed.length; };
  keyed(lists.endpoints, s.endpoints.toSorted((a, b) => middle(a) - middle(b)), (e) => e.name, () => node("endpoint"), (li, e) => {
    const r = rates.endpoints[e.name], pending = s.mappings.filter((m) => m.endpoints[0] === e.name).reduce((n, m) => n + m.pending, 0);
    const wait = (Date.parse(e.retryAt) - now) / 1000;
    li.classList.toggle("down", e.down);
    li.dataset.endpoint = e.name;
    fill(li, t("endpoint." + e.name), rate(r?.records), [t("requests", { n: sum(e.requests) }), r?.took > 0 && t("took", { n: span(r.took) }),
      e.inFlight > 0 && t("inFlight", { n: e.inFlight })], [
      e.down && ["bad", t("down", { ago: span(Math.max(0, (now - Date.parse(e.since)) / 1000)) }), "d"],
      e.down && ["plain", t("verdict-" + e.verdict), "v"],
      e.down && ["plain", wait > 0 ? t("nextTry", { n: span(Math.ceil(wait)) }) : t("tryingNow"), "n"],
      pending > 0 && ["wait", t("pending", { n: pending }), "p"]]);
  });
  edges = s.mappings.flatMap((m) => {
    const stuck = Boolean(held.get(m.name)?.reason), r = rates.mappings[m.name];
    return [{ from: ["tables", m.table], to: ["mappings", m.name], rate: r?.changes ?? 0, state: stuck ? "held" : "" },
      ...m.endpoints.map((e) => ({ from: ["mappings", m.name], to: ["endpoints", e], rate: r?.delivered ?? 0,
        state: s.endpoints.find((x) => x.name === e)?.down ? "down" : stuck ? "held" : "" }))];
  });
  ribbons();
}

// width is that of a ribbon: a hairline where nothing flows, then by the order of magnitude.
const width = (rate) => rate > 0 ? 2 + 3.2 * Math.log10(1 + 9 * rate) : 1.25;

function ribbons() {
  const frame = box.getBoundingClientRect();
  if (getComputedStyle(svg).display === "none") return;
  svg.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
  const at = ([list, key]) => lists[list].kept?.get(key)?.getBoundingClientRect();
  const used = new Map(); // how much of a node's side is taken
  const total = new Map();
  for (const e of edges) for (const [end, side] of [[e.from, "r"], [e.to, "l"]]) {
    const id = end.join("|") + side;
    total.set(id, (total.get(id) ?? 0) + width(e.rate) + 2);
  }
  const paths = edges.flatMap((e) => {
    const a = at(e.from), b = at(e.to), w = Math.max(width(e.rate), e.state ? 2 : 0);
    if (!a || !b) return [];
    const y = (r, end, side) => {
      const id = end.join("|") + side, taken = used.get(id) ?? 0;
      used.set(id, taken + w + 2);
      return r.top - frame.top + r.height / 2 - total.get(id) / 2 + taken + 1 + w / 2;
    };
    const x1 = a.right - frame.left, x2 = b.left - frame.left, y1 = y(a, e.from, "r"), y2 = y(b, e.to, "l"), c = (x2 - x1) * 0.5;
    return [{ ...e, w, d: `M${x1} ${y1}C${x1 + c} ${y1} ${x2 - c} ${y2} ${x2} ${y2}` }];
  });
  while (svg.childElementCount > paths.length * 2) svg.lastElementChild.remove();
  while (svg.childElementCount < paths.length * 2) svg.append(document.createElementNS(ns, "path"));
  paths.forEach((p, i) => {
    for (const [path, cls] of [[svg.children[2 * i], "ribbon"], [svg.children[2 * i + 1], "drift"]]) {
      path.setAttribute("d", p.d);
      path.setAttribute("class", `${cls} ${p.state} ${p.rate > 0 ? "flows" : ""}`);
      path.setAttribute("stroke-width", cls === "ribbon" ? p.w.toFixed(2) : "1.5");
    }
  });
}

new ResizeObserver(ribbons).observe(box);
