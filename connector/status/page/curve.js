// Curves of the last hour, or of what there is of it: one point every five seconds, a line with a soft area below. Pointer and arrow keys read it.
import { t, h, put, clock } from "./text.js";

const ns = "http://www.w3.org/2000/svg", minutes = [3, 5, 10, 20, 40, 60], w = 300, height = 64;

function svg(tag, attributes) {
  const e = document.createElementNS(ns, tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  return e;
}

// Curve shows one column of the points; format writes its values.
export class Curve {
  constructor(key, column, format) {
    Object.assign(this, { key, column, format, points: [], now: null, at: null });
    this.line = svg("path", { class: "line" });
    this.area = svg("path", { class: "area" });
    this.rule = svg("path", { class: "rule" });
    this.grid = svg("path", { class: "grid", d: `M0 .5H${w}M0 ${height - .5}H${w}` + [1, 2, 3].map((i) => `M${i * w / 4} 0V${height}`).join("") });
    this.picture = svg("svg", { viewBox: `0 0 ${w} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    this.picture.append(this.grid, this.area, this.line, this.rule);
    this.chart = h("div", { class: "chart", tabIndex: 0, role: "img" }, this.picture);
    this.title = h("h3");
    this.value = h("p", { class: "value" });
    this.note = h("p", { class: "note" });
    this.element = h("div", { class: "curve", "data-curve": key }, this.title, this.value, this.chart, this.note);
    const read = (x) => { this.at = x; this.draw(); };
    this.chart.addEventListener("pointermove", (e) => {
      const r = this.chart.getBoundingClientRect();
      read(this.nearest(this.end() - this.reach() * 60 * (1 - (e.clientX - r.left) / r.width)));
    });
    for (const leave of ["pointerleave", "blur"]) this.chart.addEventListener(leave, () => read(null));
    this.chart.addEventListener("keydown", (e) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -12, PageDown: 12, Home: -Infinity, End: Infinity }[e.key];
      if (e.key === "Escape") read(null);
      if (step === undefined || !this.points.length) return;
      e.preventDefault();
      const i = this.at === null ? this.points.length : this.points.findIndex((p) => p[0] === this.at);
      read(this.points[Math.min(this.points.length - 1, Math.max(0, i + step))][0]);
    });
  }

  end() { return this.points.at(-1)?.[0] ?? Date.now() / 1000; }

  // reach is how many minutes are drawn.
  reach() {
    const there = (this.end() - (this.points[0]?.[0] ?? this.end())) / 60;
    return minutes.find((m) => there <= m) ?? minutes.at(-1);
  }

  nearest(time) {
    let best = null;
    for (const p of this.points) if (best === null || Math.abs(p[0] - time) < Math.abs(best - time)) best = p[0];
    return best;
  }

  show(points, now, notice) {
    this.points = points;
    this.now = now;
    this.notice = notice;
    this.draw();
  }

  draw() {
    const { points, column, format } = this, end = this.end(), reach = this.reach();
    const values = points.map((p) => p[column]).filter((v) => v !== null);
    const most = Math.max(0, this.now ?? 0, ...values), top = most > 0 ? most * 1.08 : 1;
    const x = (p) => w - (end - p[0]) * w / (reach * 60), y = (v) => height - 1 - (height - 4) * v / top;
    let line = "", area = "", run = [];
    const flush = () => {
      if (run.length) {
        const d = run.map((p) => `${x(p).toFixed(1)} ${y(p[column]).toFixed(1)}`).join("L");
        line += "M" + d + (run.length === 1 ? "h1" : "");
        area += `M${x(run[0]).toFixed(1)} ${height}L${d}L${x(run.at(-1)).toFixed(1)} ${height}Z`;
      }
      run = [];
    };
    points.forEach((p, i) => {
      if (i > 0 && p[0] - points[i - 1][0] > 20) flush(); // the connector was away
      if (p[column] === null) flush(); else run.push(p);
    });
    flush();
    this.line.setAttribute("d", line);
    this.area.setAttribute("d", area);
    const read = this.at === null ? null : points.find((p) => p[0] === this.at);
    this.rule.setAttribute("d", read ? `M${x(read).toFixed(1)} 0V${height}` : "");
    put(this.title, t("curve." + this.key));
    this.title.title = t(`curve.${this.key}.help`);
    put(this.value, read ? format(read[column]) : format(this.now));
    this.value.classList.toggle("read", Boolean(read));
    put(this.note, read ? clock(read[0] * 1000) : this.notice ?? t("curve.peak", { most: format(most), minutes: reach }));
    const label = read ? `${format(read[column])}, ${clock(read[0] * 1000)}` : t("curve.describe", { name: t("curve." + this.key), now: format(this.now), most: format(most), minutes: reach });
    if (this.chart.getAttribute("aria-label") !== label) this.chart.setAttribute("aria-label", label);
  }
}
