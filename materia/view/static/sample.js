// One sample by itself: opened by its key, left, gone through and marked by keys. What is shown of it is in parts.js.

import { failed, get } from "/static/api.js";
import { button, h, number } from "/static/dom.js";
import { markBar } from "/static/marks.js";
import { parts } from "/static/parts.js";
import { query, store } from "/static/store.js";

const TOGGLES = { b: "show-boxes", m: "show-masks", c: "show-candidates", w: "show-borrowed" };

export function sample(place, close, onmark) {
  let shown = "";
  let facts = null;
  let around = null;
  let bar = null;
  let at = 0;
  let asking = null;

  async function open(key) {
    shown = key;
    asking?.abort();
    asking = new AbortController();
    place.setAttribute("aria-busy", "true");
    try {
      facts = await get("/api/sample", { key }, asking.signal);
      around = await get("/api/neighbours", { q: query(store.state), n: facts.n, at }, asking.signal);
      at = around.at;
      draw();
      place.scrollTop = 0;
      if (!place.contains(document.activeElement)) place.querySelector("h2")?.focus({ preventScroll: true });
    } catch (error) {
      if (error.name === "AbortError") return;
      facts = around = null;
      place.replaceChildren(h("div", { class: "bar" }, title(key), closer()), h("p", { class: "nothing" }, error.message));
    } finally {
      place.removeAttribute("aria-busy");
    }
  }

  const title = (key) => h("h2", { tabindex: "-1" }, key);
  const closer = () => button("Close", close, { class: "quiet", title: "Esc" });
  const step = (key) => key && store.set({ sample: key }, true);

  function draw() {
    const own = facts;
    const { previous, next, here, total } = around;
    bar = markBar(own, (mark) => {
      own.mark = mark;
      onmark(own.n, mark);
      if (mark && !mark.bad && store.state.audit && facts === own) step(next);
    });
    const turn = (text, key, label) =>
      button(text, () => step(key), {
        class: "quiet",
        disabled: !key,
        title: `${label}, ${text}`,
        "aria-label": `${label} sample`,
      });
    const where = here ? `${number(around.at + 1)} of ${number(total)}` : "not in this selection";
    const head = [
      turn("←", previous, "previous"),
      turn("→", next, "next"),
      title(own.key ?? ""),
      h("span", { class: "place" }, where),
    ];
    place.replaceChildren(h("div", { class: "bar" }, head, closer()), bar.element, ...parts(own));
    toggles();
  }

  function toggles() {
    for (const [letter, name] of Object.entries(TOGGLES)) {
      const on = store.shows(letter);
      place.classList.toggle(name, on);
      for (const one of place.querySelectorAll(`[data-letter="${letter}"]`)) {
        one.classList.toggle("on", on);
        one.setAttribute("aria-pressed", String(on));
      }
    }
  }

  function keyed(event) {
    const { key, target } = event;
    if (!facts || !around || event.ctrlKey || event.metaKey || event.altKey || target.matches("input, textarea, select"))
      return;
    const video = place.querySelector("video");
    const acts = {
      ArrowLeft: () => step(around.previous),
      ArrowRight: () => step(around.next),
      Escape: close,
      o: () => store.show("b"),
      m: () => store.show("m"),
      c: () => store.show("c"),
      w: () => store.show("w"),
      g: () => bar.good(),
      b: () => bar.bad(),
      u: () => bar.undo(),
      " ": () => video && (video.paused ? video.play().catch(failed) : video.pause()),
    };
    if (target === video && ["ArrowLeft", "ArrowRight", " "].includes(key)) return;
    if (target.matches("button, summary, a") && key === " ") return;
    const act = /^[1-9]$/.test(key) ? () => bar.why(Number(key) - 1) : Object.hasOwn(acts, key) && acts[key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  return {
    keyed,
    refresh() {
      const key = store.state.sample;
      if (!key) {
        shown = "";
        facts = null;
        asking?.abort();
        place.replaceChildren();
      } else if (key !== shown) open(key);
      else if (facts) toggles();
    },
    from(index) {
      at = index;
    },
    redraw() {
      shown = "";
      this.refresh();
    },
  };
}
