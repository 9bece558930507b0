// Rows that became no samples: by reason, with what was found until then, and their frames where the clip can still be opened.

import { failed, get, lost } from "/static/api.js";
import { boxes, caption, colour, h, number, picture, seconds } from "/static/dom.js";
import { store } from "/static/store.js";

const PAGE = 40;

export function rejects(place) {
  let asked = null, rows = [], total = 0;
  const reasons = h("div", { class: "chips", role: "group", "aria-label": "reasons" });
  const list = h("div", { class: "cards" });
  const more = h("button", { type: "button", onclick: () => load(rows.length) }, "Show more");
  place.replaceChildren(h("div", { class: "pad" }, reasons, list, more));

  async function load(offset) {
    const reason = store.state.reason;
    try {
      const found = await get("/api/rejects", { reason, offset, limit: PAGE });
      if (reason !== store.state.reason) return;
      total = found.total;
      rows = offset ? [...rows, ...found.rows] : found.rows;
      reasons.replaceChildren(chip("", "all", found.reasons.reduce((sum, one) => sum + one.count, 0)), ...found.reasons.map((one) => chip(one.reason, `${one.stage}: ${one.reason.replaceAll("_", " ")}`, one.count)));
      if (!offset) list.replaceChildren();
      list.append(...found.rows.map(card));
      if (!total) list.replaceChildren(h("p", { class: "nothing" }, "No row was rejected."));
      more.hidden = rows.length >= total;
    } catch (error) { failed(error); }
  }

  const chip = (reason, text, count) => h("button", { type: "button", class: store.state.reason === reason ? "chip on" : "chip", "aria-pressed": String(store.state.reason === reason), onclick: () => store.set({ reason, rejection: "" }) }, text, h("small", {}, number(count)));

  function card(row) {
    if (row.problem) return h("article", { class: "card trouble" }, row.problem);
    const frames = h("div", { class: "frames" });
    const look = h("button", { type: "button", onclick: () => show() }, "Look at the clip");
    const found = h("details", {}, h("summary", {}, "What was found"), h("pre", { tabindex: "0", "aria-label": "what was found" }, JSON.stringify(row.found, null, 1)));
    async function show() {
      look.disabled = true;
      look.textContent = "Decoding …";
      try {
        const seen = await get("/api/rejection", { n: row.n });
        look.remove();
        if (!seen.frames.length) { frames.replaceChildren(h("p", { class: "broken" }, seen.no_frames)); return; }
        frames.replaceChildren(...seen.frames.map((frame, index) => h("figure", {}, h("div", { class: "frame", style: { "aspect-ratio": `${frame.width} / ${frame.height}` } }, picture(lost(row.n, index), `frame at ${frame.percent} % of the clip`),
          boxes(frame.width, frame.height, seen.boxes.filter((box) => box.frame === index).map((box) => ({ xyxy: box.box_xyxy_px, colour: colour(box.track), kind: box.chosen === false ? "candidate" : "box", title: `${box.word} ${number(box.score)}` })))),
          h("figcaption", {}, `${frame.percent} % · ${seconds(frame.time_s)}`))));
      } catch (error) { failed(error); look.disabled = false; look.textContent = "Look at the clip"; }
    }
    const element = h("article", { class: "card", id: `row-${row.row}` },
      h("h3", {}, h("span", { class: "reason" }, row.reason.replaceAll("_", " ")), h("small", {}, `${row.stage} · row ${number(row.row)} · ${row.key || "no key"}`)),
      h("p", { class: "message" }, row.message), row.cure ? h("p", { class: "hint" }, row.cure) : null,
      row.caption ? h("p", { class: "caption" }, ...caption(row.caption, row.entities)) : null, h("p", { class: "facts" }, row.uri || ""), frames, h("div", { class: "chips" }, row.uri ? look : null), found);
    if (store.state.rejection === String(row.row)) queueMicrotask(show);
    return element;
  }

  return { refresh(force = false) { place.classList.add("show-boxes", "show-candidates"); if (store.state.reason !== asked || force) { asked = store.state.reason; load(0); } } };
}
