// The page: hears how the connector stands, and draws it.
import { loadTexts, setLanguage, language, t, has, h, put, keyed, number, bytes, span, clock } from "./text.js";
import { access, onAccess, lookAccess, signIn, signOut, act, confirm, copyButton } from "./ask.js";
import { Curve } from "./curve.js";
import { drawFlow } from "./flow.js";
import { labelLetters, showCounts, read } from "./letters.js";

const $ = (id) => document.getElementById(id);
const silence = 25000, kept = 720; // ms without a word after which the connector is lost; points of the curves
let state = null, points = [], heard = 0, lost = null, skew = 0, source = null, wait = 1000, full = false;

const curves = [new Curve("lag", 1, span), new Curve("behind", 2, bytes), new Curve("rate", 6, (n) => n === null ? t("unknown") : t("perSecond", { n })), new Curve("pending", 4, number)];

const now = () => Date.now() + skew; // by the connector's clock

function connect() {
  source?.close();
  source = new EventSource("/events");
  const hear = (f) => (e) => {
    heard = Date.now();
    wait = 1000;
    full = false;
    const data = JSON.parse(e.data);
    f(data);
    if (lost) { lost = null; drawLost(); draw(); read(); lookAccess(); }
  };
  source.addEventListener("state", hear((s) => { skew = s.at - Date.now(); state = s; draw(); }));
  source.addEventListener("points", hear((list) => {
    const last = points.at(-1)?.[0] ?? 0;
    points = points.concat(list.filter((p) => p[0] > last)).slice(-kept);
    drawCurves();
  }));
  source.addEventListener("beat", hear(() => {}));
  source.addEventListener("full", () => { full = true; });
  source.onerror = () => { source.close(); lose(); };
}

let again = 0;
function lose() {
  lost ??= heard || Date.now();
  drawLost();
  clearTimeout(again);
  again = setTimeout(connect, wait);
  wait = Math.min(wait * 1.6, 10000);
}

setInterval(() => {
  if (!lost && heard && Date.now() - heard > silence) { source.close(); lose(); }
  if (!lost && state) draw();
}, 1000);

function drawLost() {
  document.body.classList.toggle("is-lost", Boolean(lost));
  $("lost").hidden = !lost;
  if (lost) put($("lost"), full ? t("full") : t("lost", { time: clock(lost) }));
  drawState();
}

function drawState() {
  const s = state?.snapshot, e = $("state");
  const name = lost ? "lost" : !s ? "asking" : s.paused && s.state === "streaming" ? "paused" : s.state;
  put(e, t("state." + name));
  e.className = "state " + name + (s?.alarms.length && name === "streaming" ? " alarmed" : "");
  document.title = (lost ? "⚠ " : s?.alarms.length ? `(${s.alarms.length}) ` : "") + "tuzhan-cdc" + (s?.database ? " · " + s.database : "");
}

function draw() {
  const { snapshot: s } = state;
  drawState();
  put($("database"), s.database ?? "");
  put($("process"), t("process", { version: s.version, time: clock(s.since), ago: ago(s.since) }));
  drawAlarms(s);
  drawFlow(state, now());
  drawCurves();
  drawSlot(s);
  drawWaits(s);
  showCounts(state);
}

const ago = (when) => t("ago", { span: span(Math.max(0, Math.round((now() - Date.parse(when)) / 1000))) });

function verdict(s) {
  if (s.alarms.length) return t("verdict.alarms", { n: s.alarms.length });
  if (s.state === "waiting") return t("verdict.waiting");
  if (s.state !== "streaming") return t("verdict.starting");
  if (s.lag.seconds > 3) return t("verdict.flowing", { records: s.pending.records, lag: span(s.lag.seconds) });
  return t("verdict.well");
}

// headline gives the title of an alarm by its key: the longest part of it that is known.
function headline(key) {
  for (let cut = key.length; cut > 0; cut = key.lastIndexOf("/", cut - 1)) {
    const known = "alarm." + key.slice(0, cut).replaceAll("/", ".");
    if (has(known)) return t(known, { name: key.slice(cut + 1) });
  }
  return t("alarm.other", { name: key });
}

// cure gives a cure with its commands set apart, to be copied: what stands in backquotes, and SQL.
function cure(text) {
  const sql = /(tuzhan-cdc [a-z-]+(?: (?:'[^']*'|[^\s;,)']+))*(?=[;,)]|$)|(?:ALTER|SELECT|CREATE|GRANT|DROP|REINDEX) [A-Zp][^;]*(?:; (?=SELECT pg_)[^;]*)?;?)/;
  return text.split("`").flatMap((p, i) => i % 2 ? [[true, p]] : p.split(sql).map((q, j) => [j % 2 === 1, q]))
    .flatMap(([command, part]) => command ? [h("code", {}, part.trim()), copyButton(part.trim())] : part ? [part] : []);
}

function drawAlarms(s) {
  put($("verdict"), verdict(s));
  $("verdict").className = "verdict " + (s.alarms.length ? "bad" : s.state === "streaming" ? "good" : "");
  keyed($("alarms"), s.alarms, (a) => a.key, (a) => {
    const title = h("h3"), since = h("p", { class: "since" }), text = h("p", { class: "text" }), todo = h("p", { class: "cure" }), buttons = h("div", { class: "buttons" });
    // How long it lasts changes each second: that is not to be read out.
    return Object.assign(h("li", { class: "alarm", "data-alarm": a.key }, h("div", { class: "head" }, title, since), text, todo, buttons), { parts: { title, since, text, todo, buttons } });
  }, (li, a) => {
    const p = li.parts;
    put(p.title, headline(a.key));
    p.since.setAttribute("aria-live", "off");
    put(p.since, t("alarm.since", { time: clock(a.since), ago: ago(a.since) }));
    put(p.text, a.text);
    const sign = a.cure + language + access.admin;
    if (p.sign !== sign) {
      p.sign = sign;
      p.todo.replaceChildren(...(a.cure ? [h("strong", {}, t("alarm.cure") + " "), ...cure(a.cure)] : []));
      p.buttons.replaceChildren(...actions(a.key));
    }
  });
}

// actions are the buttons that end what an alarm is about.
function actions(key) {
  if (!access.admin) return [];
  if (key === "delivery/deadletters" || key === "delivery/rejected") return [resumeButton("")];
  return [];
}

function resumeButton(mapping) {
  return h("button", { type: "button", class: "main", "data-do": "resume", onclick: async () => {
    const ask = mapping ? { title: t("resume.sure", { name: mapping }), notes: [t("resume.sure.help")] } : { title: t("resume.all.sure"), notes: [t("resume.all.help")] };
    if (await confirm({ ...ask, yes: t("resume") })) act("/resume", { mapping }, () => t("askedFor"));
  } }, t("resume"));
}

function asideButton(mapping) {
  return h("button", { type: "button", class: "danger", "data-do": "aside", onclick: async () => {
    if (await confirm({ title: t("aside.sure", { name: mapping }), notes: [t("aside.help")], yes: t("aside"), danger: true })) act("/set-aside", { mapping }, () => t("askedFor"));
  } }, t("aside"));
}

function drawCurves() {
  if (!state) return;
  const { snapshot: s, rates } = state, delivered = rates.over ? Object.values(rates.mappings).reduce((n, m) => n + m.delivered, 0) : null;
  const values = [s.state === "streaming" ? s.lag.seconds : null, s.slot.known ? s.lag.bytes : null, delivered, s.pending.records];
  curves.forEach((c, i) => c.show(points, values[i]));
}

// facts shows names and values; a value that is empty is left out.
function facts(dl, list) {
  keyed(dl, list.filter(([, v]) => v).flatMap(([name, value, cls]) => [["dt", name], ["dd", name, value, cls]]), ([tag, name]) => tag + name, ([tag, , , cls]) => h(tag, { class: cls }),
    (e, [tag, name, value]) => put(e, tag === "dt" ? t(name) : value));
}

function drawSlot(s) {
  const { slot, checkpoint: c, holdup } = s, used = slot.known ? slot.retainedBytes / slot.walBudget : 0;
  const wal = $("wal");
  if (!wal.firstChild) wal.append(h("div", { class: "head" }, h("h3"), h("p", { class: "note" })), h("meter", { min: 0, max: 1, low: 0.5, high: 0.8, optimum: 0 }), h("p", { class: "note" }));
  const [head, meter, limit] = wal.children;
  put(head.firstChild, t("walKept"));
  put(head.lastChild, slot.known ? t("walOf", { n: bytes(slot.retainedBytes), budget: bytes(slot.walBudget) }) : t("unknown"));
  meter.value = Math.min(1, used);
  meter.setAttribute("aria-label", t("walKept") + ": " + head.lastChild.textContent);
  put(limit, !slot.known ? "" : slot.safeWalSize !== undefined ? t("walLimit", { n: bytes(slot.safeWalSize) }) : t("walNoLimit"));
  const answer = holdup && (holdup.httpStatus ? `HTTP ${holdup.httpStatus} ${holdup.code ?? ""}`.trim() : t("noAnswer"));
  facts($("facts"), [
    ["slot", slot.known ? `${slot.name} · ${slot.walStatus} · ${t(slot.active ? "slot.active" : "slot.inactive")}` : `${slot.name}: ${t("slot.unknown")}`],
    ["outage", slot.outageSeconds !== undefined ? t("outageFor", { span: span(slot.outageSeconds), rate: bytes(slot.walPerSecond) }) : slot.known ? t("unknown") : ""],
    ["settled", c ? c.settled.replace(/:4294967295$/, "") + (c.ranges ? " · " + t("ranges", { n: c.ranges }) : "") : t("noCheckpoint"), "mono"],
    ["confirmed", slot.known ? slot.confirmed : c?.flush, "mono"],
    ["committed", c?.commitTime && clock(c.commitTime)],
    ["written", c?.written && t("agoPast", { span: span(Math.max(1, Math.round((now() - Date.parse(c.written)) / 1000))) })],
    ["skipped", s.skipped.transactions ? t("skippedOf", { t: s.skipped.transactions, c: s.skipped.changes }) : ""],
    ["holdup", holdup && t("holdupOf", { ...holdup, n: holdup.attempts, time: clock(holdup.since), answer })],
    ["lastError", s.lastError && `${clock(s.lastError.at)} · ${s.lastError.text}`],
  ]);
}

function drawWaits(s) {
  const box = $("waits"), list = [];
  if (s.paused) list.push({ key: "paused", title: t("waits.paused"), text: t("waits.paused.help"), buttons: () => [resumeButton("")] });
  for (const m of s.heldMappings) {
    const since = m.sinceTime && !m.sinceTime.startsWith("0001") ? t("heldSince", { position: m.since, time: clock(m.sinceTime) }) : t("heldNext");
    list.push({ key: "held/" + m.mapping, title: m.mapping, chip: m.reason ? t(m.setAside ? "heldAside" : "hold." + m.why) : t("workingOff"), text: m.reason ? `${since}: ${m.reason}` : since,
      buttons: () => m.reason ? [m.why !== "misfit" && resumeButton(m.mapping), !m.setAside && asideButton(m.mapping)] : [] });
  }
  for (const b of s.backfills ?? []) {
    list.push({ key: "backfill/" + b.id, title: `${t("waits.backfills")}: ${b.mapping}`, chip: t("backfill." + b.state),
      text: [b.table, b.estimate > b.rows ? t("rowsOf", { n: b.rows, all: b.estimate }) : t("rows", { n: b.rows }), b.rate > 0 && t("perSecond", { n: b.rate }),
        b.pending > 0 && t("pending", { n: b.pending }), b.reason].filter(Boolean).join(" · ") });
  }
  for (const g of s.gaps) list.push({ key: `gap/${g.from}/${g.table ?? ""}/${g.at}`, title: t("waits.gaps"), text: t("gapOf", { table: g.table || t("allTables"), from: g.from, to: g.to && g.to !== "0/0" ? g.to : t("unknownEnd"), time: clock(g.at) }) + ": " + g.reason,
    help: t("waits.gaps.help") });
  const none = !list.length;
  if (none) list.push({ key: "none", text: t("waits.none") });
  box.closest(".pair").classList.toggle("calm", none);
  keyed(box, list, (x) => x.key, (x) => h("div", { class: "wait", "data-wait": x.key }, h("h3"), h("p"), h("p", { class: "note" }), h("div", { class: "buttons" })), (e, x) => {
    const [title, text, help, buttons] = e.children;
    title.hidden = !x.title;
    if (title.dataset.sign !== `${x.title}|${x.chip}`) {
      title.dataset.sign = `${x.title}|${x.chip}`;
      title.replaceChildren(x.title ?? "", ...(x.chip ? [" ", h("span", { class: "chip warn" }, x.chip)] : []));
    }
    put(text, x.text);
    help.hidden = !x.help;
    put(help, x.help ?? "");
    const sign = [language, access.admin, x.chip].join();
    if (buttons.dataset.sign !== sign) {
      buttons.dataset.sign = sign;
      buttons.replaceChildren(...(access.admin && x.buttons ? x.buttons().filter(Boolean) : []));
    }
  });
}

function label() {
  put($("language"), t("otherLanguage"));
  $("language").lang = language === "zh" ? "en" : "zh-CN";
  const sign = $("sign");
  sign.hidden = access.admin && !access.signedIn;
  sign.disabled = !access.token;
  put(sign, access.signedIn ? t("signOut") : access.token ? t("signIn") : t("state.readonly"));
  sign.title = access.admin ? "" : t(access.token ? "needSignIn" : "readOnly");
}

$("language").addEventListener("click", () => {
  setLanguage(language === "zh" ? "en" : "zh", true);
  label();
  labelLetters();
  if (state) draw();
  if (lost) drawLost();
});
$("sign").addEventListener("click", () => access.signedIn ? signOut() : signIn());
onAccess(() => { label(); if (state) draw(); });

await loadTexts();
$("curves").append(...curves.map((c) => c.element));
label();
labelLetters();
drawState();
await lookAccess();
connect();
