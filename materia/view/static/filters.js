// The left side: words, flags, marks and the histograms of all columns; what is dragged is counted while it moves.

import { about, failed, get } from "/static/api.js";
import { button, chip, h, number, section } from "/static/dom.js";
import "/static/histogram.js";
import { cleared, query, store } from "/static/store.js";

const FIRST = [
  "background_quality",
  "residual",
  "min_mask_score",
  "min_detector_score",
  "min_link_score",
  "masked_share",
  "n_subjects",
  "n_objects",
  "n_instances",
  "duration_s",
];

export function filters(side, onbusy) {
  let histograms = new Map();
  let built = "";
  let observer = null;
  const count = h("output", { class: "count", id: "kept" });

  function build() {
    const now = about.value;
    const made = JSON.stringify([now.columns.map((c) => c.name), now.flags, now.dropped, now.done]);
    if (made === built) return;
    built = made;
    histograms = new Map();
    observer?.disconnect();
    observer = new IntersectionObserver(
      (entries) =>
        entries.forEach((entry) => {
          entry.target.seen = entry.isIntersecting;
          if (entry.isIntersecting && entry.target.stale) load(entry.target);
        }),
      { root: side, rootMargin: "120px" },
    );
    const order = (name) => (FIRST.includes(name) ? FIRST.indexOf(name) : name.includes(".") ? 200 : 100);
    const columns = [...now.columns].sort((a, b) => order(a.name) - order(b.name));
    side.replaceChildren(
      h(
        "div",
        { class: "row head" },
        h("h2", {}, "Filters"),
        h("button", { type: "button", class: "quiet", id: "clear", onclick: () => store.set(cleared()) }, "Clear all"),
        h(
          "button",
          {
            type: "button",
            class: "quiet close",
            "aria-label": "close the filters",
            onclick: () => document.body.classList.remove("side-open"),
          },
          "Close",
        ),
      ),
      words(),
      key(),
      marks(),
      choices("Flags", "flags", now.flags),
      choices("Dropped references", "dropped", now.dropped),
      h("h3", {}, "Ranges"),
      h("p", { class: "hint" }, "Drag over a histogram, or move its ends. Light: all, dark: kept."),
      ...columns.map(histogram),
    );
  }

  function words() {
    const list = h("datalist", { id: "words" });
    const input = h("input", {
      type: "search",
      list: "words",
      placeholder: "a word of the captions",
      "aria-label": "filter by a word",
      autocomplete: "off",
      id: "word",
    });
    let known = [];
    input.addEventListener("input", async (event) => {
      if (known.includes(input.value) && (!event.inputType || event.inputType === "insertReplacementText")) return add();
      try {
        const found = await get("/api/words", { typed: input.value });
        known = found.map((one) => one.word);
        list.replaceChildren(...found.map((one) => h("option", { value: one.word }, `${one.kind}, ${number(one.count)}`)));
      } catch (error) {
        failed(error);
      }
    });
    function add() {
      const word = input.value.trim();
      if (!word) return;
      input.value = "";
      if (!store.state.words.includes(word)) store.toggle("words", word);
    }
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") add();
    });
    return h("section", {}, h("label", { for: "word" }, "Word"), input, list, chips("words"));
  }

  function key() {
    const input = h("input", {
      type: "search",
      "aria-label": "part of the key",
      placeholder: "part of a key",
      value: store.state.key,
      id: "key",
    });
    input.addEventListener("change", () => store.set({ key: input.value.trim() }));
    const part = h("section", {}, h("label", { for: "key" }, "Key"), input);
    part.refresh = () => {
      if (document.activeElement !== input) input.value = store.state.key;
    };
    return part;
  }

  function chips(list) {
    const place = h("div", { class: "chips" });
    const given = (value) => button(`${value} ×`, () => store.toggle(list, value), { class: "chip on", title: "take away" });
    place.refresh = () => place.replaceChildren(...store.state[list].map(given));
    return place;
  }

  function choices(title, list, counts) {
    const names = Object.keys(counts);
    if (!names.length) return "";
    const place = h("div", { class: "chips" });
    const choice = (name) => {
      const on = store.state[list].includes(name);
      return chip(name.replaceAll("_", " "), on, () => store.toggle(list, name), { count: counts[name] });
    };
    place.refresh = () => place.replaceChildren(...names.map(choice));
    return section(title, place);
  }

  function marks() {
    const place = h("div", { class: "chips" });
    const kinds = { good: "good", bad: "bad", any: "marked", none: "not marked" };
    const kindChip = ([kind, text]) => {
      const on = store.state.marked === kind;
      return chip(text, on, () => store.set({ marked: on ? "" : kind }));
    };
    const reasonChip = ({ name, text }) =>
      chip(name.replaceAll("_", " "), store.state.why.includes(name), () => store.toggle("why", name), { title: text });
    place.refresh = () => {
      const asked = store.state.marked === "bad" || store.state.why.length;
      const reasons = asked ? about.value.marks.reasons.map(reasonChip) : [];
      place.replaceChildren(...Object.entries(kinds).map(kindChip), ...reasons);
    };
    return section("Marks", place);
  }

  function histogram(column) {
    const element = h("range-histogram", { name: column.name, meaning: column.meaning, kind: column.kind });
    element.stale = true;
    let waiting = null;
    element.addEventListener("range", (event) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => counted(column.name, event.detail), 60);
    });
    element.addEventListener("chosen", (event) => {
      clearTimeout(waiting);
      choose(column.name, event.detail);
    });
    histograms.set(column.name, element);
    observer.observe(element);
    return element;
  }

  async function counted(name, range) {
    try {
      const state = { ...store.state, ranges: { ...store.state.ranges, [name]: range } };
      const found = await get("/api/count", { q: query(state, ["sort"]) });
      onbusy(found.total);
    } catch (error) {
      failed(error);
    }
  }

  function choose(name, [low, high]) {
    const ranges = { ...store.state.ranges };
    if (low === null && high === null) delete ranges[name];
    else ranges[name] = [low, high];
    store.set({ ranges });
  }

  async function load(element) {
    element.stale = false;
    try {
      element.data = await get("/api/histogram", {
        column: element.getAttribute("name"),
        q: query(store.state, ["sort", "sql", "audit", "like"]),
      });
    } catch (error) {
      failed(error);
    }
  }

  let asked = "";
  return {
    count,
    refresh(force = false) {
      if (!about.value) return;
      build();
      side.querySelectorAll(".chips, section").forEach((place) => place.refresh?.());
      const now = query(store.state, ["sort", "sql", "audit", "like"]);
      for (const [name, element] of histograms) {
        element.range = store.state.ranges[name];
        if (now !== asked || force) {
          element.stale = true;
          if (element.seen) load(element);
        }
      }
      asked = now;
    },
  };
}
