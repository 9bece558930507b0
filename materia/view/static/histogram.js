// <range-histogram>: the distribution of a column, of all samples and of those kept, and a range that is dragged over it
// or set with two sliders. Fires "range" with [low, high] (null: open) while it moves and "chosen" when it is let go.

import { h, number, svg } from "/static/dom.js";

const STEPS = 1000;

class RangeHistogram extends HTMLElement {
  #data; // undefined: not asked for yet; null: the column has no values
  #range = [null, null];
  #integer = false;
  #built = false;

  #build() {
    this.#built = true;
    this.all = svg("path", { class: "all" });
    this.kept = svg("path", { class: "kept" });
    this.span = svg("rect", { class: "span", y: "0", height: "24" });
    this.bars = svg(
      "svg",
      { viewBox: "0 0 48 24", preserveAspectRatio: "none", "aria-hidden": "true" },
      this.span,
      this.all,
      this.kept,
    );
    const name = this.getAttribute("name");
    const slider = (at, label) =>
      h("input", {
        type: "range",
        min: "0",
        max: String(STEPS),
        step: "1",
        "aria-label": `${name}, ${label}`,
        class: at ? "high" : "low",
        oninput: () => this.#slid(at),
        onchange: () => this.#fire("chosen"),
      });
    this.low = slider(0, "at least");
    this.high = slider(1, "at most");
    this.text = h("output", { class: "ends" });
    this.reset = h(
      "button",
      {
        type: "button",
        class: "quiet reset",
        title: `any ${name}`,
        "aria-label": `any ${name}`,
        onclick: () => {
          this.#range = [null, null];
          this.#draw();
          this.#fire("chosen");
        },
      },
      "×",
    );
    this.append(
      h(
        "div",
        { class: "line" },
        h("span", { class: "name", title: this.getAttribute("meaning") || name }, name),
        this.text,
        this.reset,
      ),
      h("div", { class: "plot" }, this.bars, this.low, this.high),
    );
    this.bars.addEventListener("pointerdown", (event) => this.#brush(event));
  }

  connectedCallback() {
    if (!this.#built) {
      this.#build();
      this.#draw();
    }
  }

  set data(data) {
    this.#data = data;
    this.#integer = this.getAttribute("kind") !== "number";
    if (this.#built) this.#draw();
  }

  set range(range) {
    this.#range = range || [null, null];
    if (this.#built) this.#draw();
  }

  get range() {
    return this.#range;
  }

  #value(share) {
    const { low, high } = this.#data;
    const value = low + share * (high - low);
    return this.#integer ? Math.round(value) : Number(value.toPrecision(4));
  }

  #share(value) {
    const { low, high } = this.#data;
    return high > low ? Math.min(1, Math.max(0, (value - low) / (high - low))) : 0;
  }

  #slid(at) {
    const share = Number((at ? this.high : this.low).value) / STEPS;
    const [low, high] = this.#range;
    const value = share <= 0 && !at ? null : share >= 1 && at ? null : this.#value(share);
    this.#range = at
      ? [low, value !== null && low !== null ? Math.max(value, low) : value]
      : [value !== null && high !== null ? Math.min(value, high) : value, high];
    this.#draw();
    this.#fire("range");
  }

  #brush(event) {
    if (!this.#data || event.button) return;
    event.preventDefault();
    const box = this.bars.getBoundingClientRect();
    const share = (one) => Math.min(1, Math.max(0, (one.clientX - box.left) / box.width));
    const from = share(event);
    const move = (moved) => {
      const [a, b] = [from, share(moved)].sort((x, y) => x - y);
      if (b - a < 0.01) return;
      this.#range = [a <= 0 ? null : this.#value(a), b >= 1 ? null : this.#value(b)];
      this.#draw();
      this.#fire("range");
    };
    const up = () => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", up);
      this.#fire("chosen");
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", up);
  }

  #fire(name) {
    this.dispatchEvent(new CustomEvent(name, { detail: this.#range }));
  }

  #draw() {
    const [low, high] = this.#range;
    const open = low === null && high === null;
    this.reset.hidden = open;
    if (this.#data === undefined) {
      this.text.textContent = "";
      this.low.disabled = this.high.disabled = true;
      return;
    }
    if (!this.#data) {
      this.classList.add("empty");
      this.text.textContent = "no values";
      this.low.disabled = this.high.disabled = true;
      return;
    }
    this.classList.remove("empty");
    this.low.disabled = this.high.disabled = false;
    const { all, kept } = this.#data;
    const most = Math.max(1, ...all);
    const path = (counts) =>
      counts
        .map((count, at) => (count ? `M${at + 0.08} 24V${24 - 23 * Math.sqrt(count / most)}H${at + 0.92}V24Z` : ""))
        .join("");
    const a = low === null ? 0 : this.#share(low),
      b = high === null ? 1 : this.#share(high);
    this.all.setAttribute("d", path(all));
    this.kept.setAttribute("d", path(kept.map((count, at) => ((at + 1) / 48 < a || at / 48 > b ? 0 : count))));
    this.span.setAttribute("x", String(48 * a));
    this.span.setAttribute("width", String(48 * Math.max(0.004, b - a)));
    this.span.setAttribute("class", open ? "span open" : "span");
    this.low.value = String(Math.round(STEPS * a));
    this.high.value = String(Math.round(STEPS * b));
    this.low.setAttribute("aria-valuetext", low === null ? "open" : number(low));
    this.high.setAttribute("aria-valuetext", high === null ? "open" : number(high));
    const missing = this.#data.missing ? `, ${number(this.#data.missing)} without` : "";
    this.text.textContent = open
      ? `${number(this.#data.low)} – ${number(this.#data.high)}${missing}`
      : low === null
        ? `≤ ${number(high)}`
        : high === null
          ? `≥ ${number(low)}`
          : `${number(low)} – ${number(high)}`;
  }
}

customElements.define("range-histogram", RangeHistogram);
