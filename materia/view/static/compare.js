// <before-after>: two pictures of the same place, the second uncovered from the left by a slider.

import { h, picture } from "/static/dom.js";

class BeforeAfter extends HTMLElement {
  show(before, after, overlays, label, width, height) {
    const top = h("div", { class: "top" }, picture(after, "background without its subjects"), ...overlays);
    const slider = h("input", {
      type: "range",
      min: "0",
      max: "100",
      value: "50",
      "aria-label": label,
      oninput: () => this.#cut(top, slider.value),
    });
    this.style.setProperty("aspect-ratio", `${width} / ${height}`);
    this.replaceChildren(picture(before, "middle frame"), top, h("span", { class: "edge" }), slider);
    this.#cut(top, 50);
  }

  #cut(top, value) {
    top.style.setProperty("clip-path", `inset(0 0 0 ${value}%)`);
    this.style.setProperty("--cut", `${value}%`);
  }
}

customElements.define("before-after", BeforeAfter);
