// Asking the connector, and the operator: requests, sign-in, dialogs, short messages.
import { t, h, put } from "./text.js";

export let access = { admin: false, token: false, signedIn: false };
const listeners = [];
export const onAccess = (f) => listeners.push(f);

function grant(a) {
  access = a;
  for (const f of listeners) f();
}

async function answer(response) {
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  if (response.status === 401 && access.admin) grant({ ...access, admin: false, signedIn: false });
  throw new Error(body.error ?? `HTTP ${response.status}`);
}

const reach = (path, options) => fetch(path, options).catch(() => { throw new Error(t("unreachable")); });

export const get = async (path) => answer(await reach(path));
export const post = async (path, body) => answer(await reach(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }));

export async function lookAccess() {
  try { grant(await get("/session")); } catch { /* it is asked again when the connector is back */ }
}

let quiet;
export function say(text) {
  const e = document.getElementById("said");
  e.hidden = false;
  put(e, text);
  clearTimeout(quiet);
  quiet = setTimeout(() => { e.hidden = true; put(e, ""); }, 6000);
}

// act does something and says what came of it.
export async function act(path, body, said) {
  try {
    const done = await post(path, body);
    say(said(done));
    return done;
  } catch (e) {
    say(t("failed", { text: e.message }));
    return null;
  }
}

// copy copies a text; where the page came without TLS from another machine, browsers have only the old way for it.
export async function copy(text) {
  let done = false;
  try {
    await navigator.clipboard.writeText(text);
    done = true;
  } catch {
    const focused = document.activeElement, area = h("textarea", { value: text, class: "sr" });
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
    focused?.focus();
  }
  say(t(done ? "copied" : "notCopied"));
}

export const copyButton = (text, label = t("copy")) => h("button", { type: "button", class: "plain copy", onclick: () => copy(typeof text === "function" ? text() : text) }, label);

const dialog = document.getElementById("dialog");

// confirm asks; word, where given, has to be typed. It gives whether the operator agrees.
export function confirm({ title, notes, yes, danger, word }) {
  return new Promise((resolve) => {
    const go = h("button", { type: "submit", class: danger ? "danger" : "main", disabled: Boolean(word) }, yes);
    const typed = word && h("input", { type: "text", autocomplete: "off", spellcheck: false, id: "typed", oninput: () => { go.disabled = typed.value.trim().toLowerCase() !== word.toLowerCase(); } });
    open(h("form", { method: "dialog", onsubmit: () => { dialog.returnValue = "yes"; } }, h("h2", { id: "dialogTitle" }, title), notes.map((n) => h("p", {}, n)),
      word && h("p", {}, h("label", { htmlFor: "typed" }, t("typeChecked", { word }))), typed,
      h("div", { class: "buttons" }, h("button", { type: "button", class: "plain", onclick: () => dialog.close("no") }, t("cancel")), go)), (value) => resolve(value === "yes"));
  });
}

function open(form, done) {
  dialog.replaceChildren(form);
  dialog.returnValue = "";
  dialog.onclose = () => { dialog.replaceChildren(); done?.(dialog.returnValue); };
  form.addEventListener("submit", (e) => { e.preventDefault(); if (form.method === "dialog") dialog.close("yes"); });
  dialog.showModal();
}

export function signIn() {
  const token = h("input", { type: "password", id: "token", autocomplete: "current-password", required: true });
  const wrong = h("p", { class: "wrong", role: "alert" });
  const form = h("form", { method: "post" }, h("h2", { id: "dialogTitle" }, t("signIn")), h("p", {}, t("signIn.help")), h("label", { htmlFor: "token" }, t("token")), token, wrong,
    h("div", { class: "buttons" }, h("button", { type: "button", class: "plain", onclick: () => dialog.close() }, t("cancel")), h("button", { type: "submit", class: "main" }, t("signIn"))));
  form.addEventListener("submit", async () => {
    try {
      grant(await post("/login", { token: token.value }));
      dialog.close();
    } catch (e) {
      put(wrong, e.message);
      token.select();
    }
  });
  open(form);
}

export async function signOut() {
  if (await act("/logout", {}, () => t("signedOut"))) lookAccess();
}
