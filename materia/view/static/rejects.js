// Rows that became no samples: by reason, with what was found until then, and their frames where the clip can still be opened.

import { failed, get, lost } from "/static/api.js";
import { boxes, button, caption, chip, colour, h, number, picture, seconds } from "/static/dom.js";
import { store } from "/static/store.js";

const PAGE = 40;

export function rejects(place) {
  let asked = null;
  let shown = 0;
  const reasons = h("div", { class: "chips", role: "group", "aria-label": "reasons" });
  const list = h("div", { class: "cards" });
  const more = button("Show more", () => load(shown));
  place.classList.add("show-boxes", "show-candidates");
  place.replaceChildren(h("div", { class: "pad" }, reasons, list, more));

  async function load(offset) {
    const reason = store.state.reason;
    try {
      const found = await get("/api/rejects", { reason, offset, limit: PAGE });
      if (reason !== store.state.reason) return;
      const all = found.reasons.reduce((sum, one) => sum + one.count, 0);
      const chips = found.reasons.map((one) =>
        reasonChip(one.reason, `${one.stage}: ${one.reason.replaceAll("_", " ")}`, one.count),
      );
      reasons.replaceChildren(reasonChip("", "all", all), ...chips);
      if (!offset) list.replaceChildren();
      list.append(...found.rows.map(card));
      if (!found.total) list.replaceChildren(h("p", { class: "nothing" }, "No row was rejected."));
      shown = offset + found.rows.length;
      more.hidden = shown >= found.total;
    } catch (error) {
      failed(error);
    }
  }

  const reasonChip = (reason, text, count) =>
    chip(text, store.state.reason === reason, () => store.set({ reason, rejection: "" }), { count });

  return {
    refresh(force = false) {
      if (store.state.reason === asked && !force) return;
      asked = store.state.reason;
      load(0);
    },
  };
}

function card(row) {
  if (row.problem) return h("article", { class: "card trouble" }, row.problem);
  const frames = h("div", { class: "frames" });
  const look = button("Look at the clip", show);
  async function show() {
    look.disabled = true;
    look.textContent = "Decoding …";
    try {
      const seen = await get("/api/rejection", { n: row.n });
      look.remove();
      const told = h("p", { class: "broken" }, seen.no_frames);
      frames.replaceChildren(...(seen.frames.length ? seen.frames.map((frame, index) => frameOf(seen, frame, index)) : [told]));
    } catch (error) {
      failed(error);
      look.disabled = false;
      look.textContent = "Look at the clip";
    }
  }
  if (store.state.rejection === String(row.row)) queueMicrotask(show);
  const where = `${row.stage} · row ${number(row.row)} · ${row.key || "no key"}`;
  const found = h("pre", { tabindex: "0", "aria-label": "what was found" }, JSON.stringify(row.found, null, 1));
  return h(
    "article",
    { class: "card" },
    h("h3", {}, h("span", { class: "reason" }, row.reason.replaceAll("_", " ")), h("small", {}, where)),
    h("p", { class: "message" }, row.message),
    row.cure ? h("p", { class: "hint" }, row.cure) : "",
    row.caption ? h("p", { class: "caption" }, ...caption(row.caption, row.entities)) : "",
    h("p", { class: "facts" }, row.uri || ""),
    frames,
    h("div", { class: "chips" }, row.uri ? look : ""),
    h("details", {}, h("summary", {}, "What was found"), found),
  );
}

function frameOf(seen, frame, index) {
  const shown = seen.boxes
    .filter((box) => box.frame === index)
    .map((box) => ({
      xyxy: box.box_xyxy_px,
      colour: colour(box.track),
      kind: box.chosen === false ? "candidate" : "box",
      title: `${box.word} ${number(box.score)}`,
    }));
  const style = { "aspect-ratio": `${frame.width} / ${frame.height}` };
  const image = picture(lost(seen.n, index), `frame at ${frame.percent} % of the clip`);
  const inside = h("div", { class: "frame", style }, image, boxes(frame.width, frame.height, shown));
  return h("figure", {}, inside, h("figcaption", {}, `${frame.percent} % · ${seconds(frame.time_s)}`));
}
