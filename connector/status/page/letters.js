// Dead letters: filter, list, details, and what can be done about them.
import { t, has, h, put, keyed, clock, number } from "./text.js";
import { access, onAccess, get, post, act, confirm, copyButton, say } from "./ask.js";

const form = document.getElementById("filter"), table = document.getElementById("letters"), body = table.tBodies[0];
const bulk = document.getElementById("bulk"), more = document.getElementById("more"), none = document.getElementById("none");
const classes = ["mapping", "rejected", "uncertain", "failing"];
let letters = [], next = 0, chosen = new Set(), opened = new Map(), counts = "", turn = 0;

const columns = ["select", "number", "class", "mapping", "when", "reason", "stands"];

function heading() {
  const all = h("input", { type: "checkbox", "aria-label": t("selectAll"), onchange: () => {
    for (const l of letters.filter(mayChange)) all.checked ? chosen.add(l.id) : chosen.delete(l.id);
    draw();
  } });
  table.tHead.rows[0].replaceChildren(...columns.map((c) => h("th", { scope: "col", class: "c-" + c }, c === "select" ? all : t(c))));
}

function options(select, values) {
  const value = select.options.length ? select.value : values[0][0];
  select.replaceChildren(...values.map(([v, text]) => h("option", { value: v }, text)));
  select.value = values.some(([v]) => v === value) ? value : values[0][0];
}

export function labelLetters() {
  heading();
  options(form.elements.class, [["", t("class.all")], ...classes.map((c) => [c, t("class." + c)])]);
  options(form.elements.open, [["true", t("stands.open")], ["false", t("stands.closed")], ["", t("class.all")]]);
  const mappings = [...form.elements.mapping.options].map((o) => o.value).filter(Boolean);
  options(form.elements.mapping, [["", t("class.all")], ...mappings.map((m) => [m, m])]);
  put(document.getElementById("textLabel"), t(access.admin ? "textPayload" : "text"));
  for (const e of body.querySelectorAll("tr")) e.remove();
  body.kept = undefined;
  opened.clear();
  draw();
}

const mayChange = (l) => !l.closed && !l.retrying;
const stands = (l) => l.closed ? l.resolution : l.retrying ? "retrying" : l.overtaken ? "overtaken" : "open";

// showCounts tells of the open ones by class, and has the list read again when they have changed.
export function showCounts({ snapshot: s }) {
  put(document.getElementById("counts"), s.stateRead ? t("countsOf", { list: classes.map((c) => `${t("class." + c)} ${number(s.deadLetters[c] ?? 0)}`).join(" · ") }) : t("counts.unknown"));
  const names = s.mappings.map((m) => m.name);
  if (names.join() !== [...form.elements.mapping.options].map((o) => o.value).filter(Boolean).join()) options(form.elements.mapping, [["", t("class.all")], ...names.map((m) => [m, m])]);
  const now = JSON.stringify([s.stateRead, s.deadLetters, s.since]);
  if (now !== counts) {
    counts = now;
    if (s.stateRead) read();
  }
}

async function page(after) {
  const f = form.elements, open = f.open.value;
  const text = f.text.value.trim();
  if (access.admin && text) return post("/deadletters/search", { class: f.class.value, mapping: f.mapping.value, text, open: open === "" ? null : open === "true", after });
  const q = new URLSearchParams({ class: f.class.value, mapping: f.mapping.value, text, open, after });
  return get("/deadletters.json?" + q);
}

let reading = false, again = false;

// read reads the list again, as far as it is shown; one request at a time.
export async function read() {
  if (reading) { again = true; return; }
  reading = true;
  const mine = ++turn;
  try {
    const p = await page(0);
    if (mine === turn) {
      letters = p.letters;
      next = p.next ?? 0;
      chosen = new Set(letters.filter((l) => chosen.has(l.id) && mayChange(l)).map((l) => l.id));
      draw();
    }
  } catch (e) {
    say(t("failed", { text: e.message }));
  }
  reading = false;
  if (again) { again = false; read(); }
}

more.addEventListener("click", async () => {
  try {
    const p = await page(next);
    letters = letters.concat(p.letters);
    next = p.next ?? 0;
    draw();
  } catch (e) {
    say(t("failed", { text: e.message }));
  }
});

let typing;
form.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(read, 250);
});
form.addEventListener("submit", (e) => { e.preventDefault(); read(); });

function row(l) {
  const cells = Object.fromEntries(columns.map((c) => [c, h("td", { class: "c-" + c })]));
  const box = h("input", { type: "checkbox", "aria-label": t("select", { id: l.id }), onchange: () => { box.checked ? chosen.add(l.id) : chosen.delete(l.id); draw(); } });
  cells.select.append(box);
  const button = h("button", { type: "button", class: "expand", "aria-expanded": "false", "aria-label": t("details", { id: l.id }), onclick: () => toggle(l.id) }, String(l.id));
  cells.number.append(button);
  const tr = h("tr", { "data-letter": l.id }, Object.values(cells));
  return Object.assign(tr, { cells2: cells, box, button });
}

function fillRow(tr, l) {
  const c = tr.cells2;
  tr.box.checked = chosen.has(l.id);
  tr.box.disabled = !access.admin || !mayChange(l);
  if (!c.class.firstChild) c.class.append(h("span", { class: "class" }));
  c.class.firstChild.className = "class " + l.class;
  put(c.class.firstChild, t("class." + l.class));
  put(c.mapping, l.mapping);
  put(c.when, clock(l.created));
  put(c.reason, l.retried ? `${l.retried} — ${l.reason}` : l.reason);
  put(c.stands, t("stands." + stands(l)));
  tr.classList.toggle("closed", Boolean(l.closed));
  tr.button.setAttribute("aria-expanded", String(opened.has(l.id)));
}

function draw() {
  const f = form.elements;
  const help = document.getElementById("classHelp");
  help.hidden = !f.class.value;
  put(help, f.class.value ? t("help." + f.class.value) : "");
  const items = letters.flatMap((l) => opened.has(l.id) ? [{ key: "l" + l.id, l }, { key: "d" + l.id, l, details: true }] : [{ key: "l" + l.id, l }]);
  keyed(body, items, (i) => i.key, (i) => i.details ? h("tr", { class: "details", "data-details": i.l.id }, h("td", { colSpan: columns.length })) : row(i.l),
    (tr, i) => i.details ? fillDetails(tr, i.l) : fillRow(tr, i.l));
  table.hidden = letters.length === 0;
  none.hidden = letters.length > 0;
  const filtered = f.class.value || f.mapping.value || f.text.value.trim() || f.open.value !== "true";
  put(none, t(filtered ? "letters.noneSo" : "letters.none"));
  more.hidden = !next;
  drawBulk();
}

function drawBulk() {
  const some = letters.filter((l) => chosen.has(l.id) && mayChange(l));
  bulk.hidden = some.length === 0;
  if (bulk.hidden) { bulk.replaceChildren(); return; }
  if (!bulk.firstChild) bulk.append(h("span"), h("button", { type: "button", class: "main", onclick: () => retry(picked()) }), h("button", { type: "button", class: "danger", onclick: () => drop(picked()) }));
  put(bulk.children[0], t("chosen", { n: some.length }));
  put(bulk.children[1], t("retry"));
  put(bulk.children[2], t("drop"));
}

const picked = () => letters.filter((l) => chosen.has(l.id) && mayChange(l));

async function toggle(id) {
  if (opened.delete(id)) return draw();
  opened.set(id, { letter: null, plain: false });
  draw();
  await load(id, false);
}

async function load(id, plain) {
  try {
    const letter = plain ? await post("/deadletters/unmask", { id }) : await get("/deadletters/" + id + ".json");
    if (opened.has(id)) opened.set(id, { letter, plain });
  } catch (e) {
    say(t("failed", { text: e.message }));
  }
  draw();
}

function fillDetails(tr, l) {
  const state = opened.get(l.id), cell = tr.firstElementChild;
  const sign = JSON.stringify([state, access, stands(l), l.retried]);
  if (tr.sign === sign) return;
  const focused = cell.contains(document.activeElement) ? document.activeElement.dataset.do : null;
  tr.sign = sign;
  const d = state.letter;
  if (!d) { cell.replaceChildren(h("p", { class: "none" }, "…")); return; }
  const line = (name, value, cls) => value ? [h("dt", {}, t(name)), h("dd", { class: cls }, value)] : [];
  const answer = d.answer && [d.answer.httpStatus && `HTTP ${d.answer.httpStatus}`, d.answer.code && `code ${d.answer.code}`, d.answer.msg, d.answer.error].filter(Boolean).join(", ");
  const json = d.payload ?? d.change;
  const button = (name, cls, onclick) => h("button", { type: "button", class: cls, "data-do": name, onclick }, t(name));
  const open = mayChange(l);
  cell.replaceChildren(h("div", { class: "letter" },
    h("p", { class: "help" }, t("help." + d.class)),
    h("dl", { class: "facts" }, line("reason", d.reason), line("lastRetry", d.retried), line("answer", answer), line("table", d.table, "mono"),
      line("position", d.number < 0 ? d.position : `${d.position} #${d.number}`, "mono"), line("committed", d.commitTime && clock(d.commitTime)), line("attempts", d.attempts && number(d.attempts)),
      d.relateBizCode ? [h("dt", {}, "relateBizCode"), h("dd", { class: "mono" }, d.relateBizCode)] : [],
      line("closedAt", d.closed && `${clock(d.closed)}, ${has("stands." + d.resolution) ? t("stands." + d.resolution) : d.resolution}`)),
    json && h("div", { class: "payload" },
      h("div", { class: "head" }, h("h3", {}, t(d.payload ? "payload" : "change")), h("p", { class: state.plain ? "note bare" : "note" }, t(state.plain ? "unmasked" : "masked")),
        access.admin && (state.plain ? button("mask", "plain", () => load(l.id, false)) : button("unmask", "plain", () => load(l.id, true))), copyButton(() => JSON.stringify(json, null, 2))),
      h("pre", { tabIndex: 0 }, JSON.stringify(d.payload ?? readable(d.change), null, 2))),
    h("div", { class: "buttons" }, access.admin && open && [button("retry", "main", () => retry([l])), button("drop", "danger", () => drop([l]))],
      copyButton(`tuzhan-cdc deadletters show ${l.id}`, `tuzhan-cdc deadletters show ${l.id}`))));
  if (focused) cell.querySelector(`[data-do="${focused}"], [data-do="${{ mask: "unmask", unmask: "mask" }[focused]}"]`)?.focus();
}

// readable leaves out of a change what only its mapper needs.
const readable = ({ op, schema, table, old, new: row, unknown }) => ({ op, table: `${schema}.${table}`, old, new: row, unknown });

async function retry(some) {
  const uncertain = some.filter((l) => l.class === "uncertain").length, overtaken = some.filter((l) => l.overtaken).length;
  const yes = await confirm({ title: t("retry.sure", { n: some.length }), yes: t("retry"), danger: uncertain + overtaken > 0,
    notes: [t("retry.help"), uncertain && t("retry.uncertain", { n: uncertain }), overtaken && t("retry.overtaken", { n: overtaken })].filter(Boolean), word: uncertain ? t("checkedWord") : null });
  if (yes) await change("/deadletters/retry", { ids: some.map((l) => l.id), anyway: overtaken > 0, checked: uncertain > 0 }, "did.retry");
}

async function drop(some) {
  const yes = await confirm({ title: t("drop.sure", { n: some.length }), notes: [t("drop.help")], yes: t("drop"), danger: true });
  if (yes) await change("/deadletters/drop", { ids: some.map((l) => l.id) }, "did.drop");
}

async function change(path, asked, said) {
  if (await act(path, asked, (d) => t(said, { n: d.letters ?? asked.ids.length }))) for (const id of asked.ids) chosen.delete(id);
  // Until none of them is on its way: how a retry ended need not show in the counts.
  for (let i = 0; i < 30; i++) {
    await read();
    const away = letters.filter((l) => asked.ids.includes(l.id));
    for (const l of away) if (opened.has(l.id) && !l.retrying) await load(l.id, opened.get(l.id).plain);
    if (!away.some((l) => l.retrying)) break;
    await new Promise((r) => setTimeout(r, 1000));
  }
}

onAccess(() => {
  put(document.getElementById("textLabel"), t(access.admin ? "textPayload" : "text"));
  for (const [id, o] of opened) if (o.plain && !access.admin) load(id, false);
  draw();
});
