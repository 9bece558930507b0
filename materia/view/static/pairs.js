// Two outputs side by side, sample by sample, those that differ most first.

import { about, failed, get, masks, small } from "/static/api.js";
import { boxes, button, caption, chip, colour, h, instanceBoxes, number, picture } from "/static/dom.js";
import { store } from "/static/store.js";

const PAGE = 20;
const KINDS = {
  different: "different",
  first: "only in the first",
  second: "only in the second",
  both: "in both",
  all: "all",
};

export function pairs(place) {
  let asked = null;
  let shown = 0;
  const kinds = h("div", { class: "chips", role: "group", "aria-label": "which pairs" });
  const list = h("div", { class: "pairs" });
  const more = button("Show more", () => load(shown));
  place.replaceChildren(h("div", { class: "pad" }, kinds, list, more));

  async function load(offset) {
    const only = store.state.only;
    try {
      const found = await get("/api/pairs", { only, offset, limit: PAGE });
      const cards = await Promise.all(["n1", "n2"].map((side, o) => cardsOf(o, found.rows, side)));
      if (only !== store.state.only) return;
      const kind = ([name, text]) =>
        chip(text, only === name, () => store.set({ only: name }), { count: found.counts[name] ?? 0 });
      kinds.replaceChildren(...Object.entries(KINDS).map(kind));
      if (!offset) list.replaceChildren();
      list.append(...found.rows.map((row) => pair(row, cards)));
      shown = offset + found.rows.length;
      const nothing = about.value.done ? "There is no such pair." : "Still reading.";
      if (!shown) list.replaceChildren(h("p", { class: "nothing" }, nothing));
      more.hidden = shown >= found.total;
    } catch (error) {
      failed(error);
    }
  }

  return {
    refresh(force = false) {
      place.classList.toggle("show-boxes", store.shows("b"));
      place.classList.toggle("show-masks", store.shows("m"));
      if (store.state.only === asked && !force) return;
      asked = store.state.only;
      load(0);
    },
  };
}

async function cardsOf(o, rows, side) {
  const numbers = rows.map((row) => row[side]).filter((n) => n !== null);
  const found = numbers.length ? await get("/api/cards", { o, n: numbers.join(",") }) : [];
  return new Map(found.map((card) => [card.n, card]));
}

function pair(row, cards) {
  const absent = (why) => h("p", { class: "nothing" }, why ? `rejected, ${why}` : "not there");
  const side = (o, n, why) => h("div", { class: "side" }, n === null ? absent(why) : half(o, cards[o].get(n)));
  const open = () => store.set({ view: "samples", sample: row.key });
  const far =
    row.difference === null ? "on one side only" : row.difference ? `difference ${number(row.difference)}` : "the same";
  const title = h("h3", {}, button(row.key, open, { class: "link", disabled: row.n1 === null }), h("small", {}, far));
  const sides = h("div", { class: "columns" }, side(0, row.n1, row.why1), side(1, row.n2, row.why2));
  return h("article", { class: "card" }, title, sides, row.changed.length ? changes(row.changed) : "");
}

function changes(changed) {
  const shown = (value) => h("td", {}, Array.isArray(value) ? value.join(", ") || "none" : number(value, 4));
  const rows = changed.map((one) => h("tr", {}, h("th", { scope: "row" }, one.column), shown(one.first), shown(one.second)));
  const head = ["column", "first", "second"].map((text) => h("th", { scope: "col" }, text));
  const table = h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows));
  return h("details", { open: changed.length <= 6 }, h("summary", {}, `${changed.length} columns differ`), table);
}

function half(o, card) {
  if (!card || card.problem) return h("p", { class: "broken" }, card?.problem || "not there");
  const width = 480 * devicePixelRatio;
  const style = { "aspect-ratio": `${card.width} / ${card.height}` };
  const frame = h(
    "div",
    { class: "frame", style },
    picture(small(o, card.n, "frame1.jpg", width), "middle frame"),
    picture(masks(o, card.n, "frame1", width), "", { class: "masks" }),
    boxes(card.width, card.height, instanceBoxes(card.instances, 1)),
  );
  const background = h("div", { class: "frame", style }, picture(small(o, card.n, "background.png", width), "background"));
  const references = card.instances
    .filter((one) => !one.is_face)
    .map((one) =>
      h(
        "span",
        { class: "reference", style: { "--track": colour(one.track) } },
        picture(small(o, card.n, one.member, 96), one.word),
      ),
    );
  return [
    h("div", { class: "halves" }, frame, background),
    h("div", { class: "references" }, references),
    h("p", { class: "caption" }, ...caption(card.caption, card.entities)),
  ];
}
