// Two outputs side by side, sample by sample, those that differ most first.

import { about, failed, get, masks, small } from "/static/api.js";
import { boxes, caption, colour, h, number, picture } from "/static/dom.js";
import { store } from "/static/store.js";

const PAGE = 20;
const KINDS = { different: "different", first: "only in the first", second: "only in the second", both: "in both", all: "all" };

export function pairs(place) {
  let asked = null, count = 0, last = -1;
  const kinds = h("div", { class: "chips", role: "group", "aria-label": "which pairs" });
  const list = h("div", { class: "pairs" });
  const more = h("button", { type: "button", onclick: () => load(count) }, "Show more");
  place.replaceChildren(h("div", { class: "pad" }, kinds, list, more));

  async function load(offset) {
    const only = store.state.only;
    try {
      const found = await get("/api/pairs", { only, offset, limit: PAGE });
      if (only !== store.state.only) return;
      const numbers = ["n1", "n2"].map((side) => found.rows.map((row) => row[side]).filter((n) => n !== null));
      const sides = await Promise.all(numbers.map((list_, o) => (list_.length ? get("/api/cards", { o, n: list_.join(",") }) : [])));
      const cards = sides.map((side) => new Map(side.map((card) => [card.n, card])));
      kinds.replaceChildren(...Object.entries(KINDS).map(([kind, text]) => h("button", { type: "button", class: only === kind ? "chip on" : "chip", "aria-pressed": String(only === kind), onclick: () => store.set({ only: kind }) }, text, h("small", {}, number(found.counts[kind] ?? 0)))));
      if (!offset) { list.replaceChildren(); count = 0; }
      list.append(...found.rows.map((row) => pair(row, cards)));
      count += found.rows.length;
      if (!count) list.replaceChildren(h("p", { class: "nothing" }, about.value.done ? "There is no such pair." : "Still reading."));
      more.hidden = count >= found.total;
    } catch (error) { failed(error); }
  }

  function pair(row, cards) {
    const side = (o, n, why) => h("div", { class: "side" }, n === null ? h("p", { class: "nothing" }, why ? `rejected, ${why}` : "not there") : half(o, cards[o].get(n)));
    const changed = row.changed.map((one) => h("tr", {}, h("th", { scope: "row" }, one.column), h("td", {}, shown(one.first)), h("td", {}, shown(one.second))));
    return h("article", { class: "card" }, h("h3", {}, h("button", { type: "button", class: "link", disabled: row.n1 === null, onclick: () => store.set({ view: "samples", sample: row.key }) }, row.key), h("small", {}, row.difference === null ? "on one side only" : row.difference ? `difference ${number(row.difference)}` : "the same")),
      h("div", { class: "columns" }, side(0, row.n1, row.why1), side(1, row.n2, row.why2)),
      changed.length ? h("details", { open: changed.length <= 6 }, h("summary", {}, `${changed.length} columns differ`), h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "column"), h("th", { scope: "col" }, "first"), h("th", { scope: "col" }, "second"))), h("tbody", {}, ...changed))) : null);
  }

  const shown = (value) => (Array.isArray(value) ? value.join(", ") || "none" : number(value, 4));

  function half(o, card) {
    if (!card || card.problem) return h("p", { class: "broken" }, card?.problem || "not there");
    const width = 480 * devicePixelRatio;
    const style = { "aspect-ratio": `${card.width} / ${card.height}` };
    return [h("div", { class: "halves" }, h("div", { class: "frame", style }, picture(small(o, card.n, "frame1.jpg", width), "middle frame"), picture(masks(o, card.n, "frame1", width), "", { class: "masks" }),
      boxes(card.width, card.height, card.instances.filter((one) => one.frame === 1).map((one) => ({ xyxy: one.box_xyxy_px, colour: colour(one.track), kind: one.is_face ? "face" : "box", title: one.word })))),
      h("div", { class: "frame", style }, picture(small(o, card.n, "background.png", width), "background"))),
    h("div", { class: "references" }, ...card.instances.filter((one) => !one.is_face).map((one) => h("span", { class: "reference", style: { "--track": colour(one.track) } }, picture(small(o, card.n, one.member, 96), one.word)))),
    h("p", { class: "caption" }, ...caption(card.caption, card.entities))];
  }

  return { refresh(force = false) {
    place.classList.toggle("show-boxes", store.shows("b"));
    place.classList.toggle("show-masks", store.shows("m"));
    if (store.state.only !== asked || force) { asked = store.state.only; load(0); }
  } };
}
