// One sample by itself: its clip, three frames, references, background, and everything that is known of it.

import { about, failed, get, masks, media, small } from "/static/api.js";
import "/static/compare.js";
import { boxes, caption, colour, h, number, picture, seconds } from "/static/dom.js";
import { markBar } from "/static/marks.js";
import { cleared, query, store } from "/static/store.js";

export function sample(place, close, onmark) {
  let shown = "", facts = null, around = null, bar = null, at = 0, asking = null;

  const filterBy = (word) => store.set({ ...cleared(), words: [word], sample: "" });

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
      place.replaceChildren(h("div", { class: "bar" }, h("h2", { tabindex: "-1" }, key), closer()), h("p", { class: "nothing" }, error.message));
    } finally { place.removeAttribute("aria-busy"); }
  }

  const closer = () => h("button", { type: "button", class: "quiet", onclick: close, title: "Esc" }, "Close");
  const step = (key) => key && store.set({ sample: key }, true);

  function draw() {
    const own = facts, { next } = around;
    bar = markBar(own, (mark) => {
      own.mark = mark;
      onmark(own.n, mark);
      if (mark && !mark.bad && store.state.audit && facts === own) step(next);
    });
    const head = h("div", { class: "bar" },
      h("button", { type: "button", class: "quiet", disabled: !around.previous, onclick: () => step(around.previous), title: "previous, ←", "aria-label": "previous sample" }, "←"),
      h("button", { type: "button", class: "quiet", disabled: !around.next, onclick: () => step(around.next), title: "next, →", "aria-label": "next sample" }, "→"),
      h("h2", { tabindex: "-1" }, facts.key), h("span", { class: "place" }, around.here ? `${number(around.at + 1)} of ${number(around.total)}` : "not in this selection"),
      closer());
    const body = facts.problem ? [h("p", { class: "trouble" }, facts.problem), facts.caption ? h("p", { class: "caption large" }, facts.caption) : null] : [
      h("div", { class: "columns" },
        h("div", {}, clip(), h("p", { class: "facts" }, [seconds(facts.video.duration_s), `${facts.video.width} × ${facts.video.height}`, `${number(facts.video.fps)} fps`, facts.video.codec, ...(facts.row.flags || [])].join(" · "))),
        h("div", {}, h("p", { class: "caption large" }, ...caption(facts.caption, facts.entities, filterBy)), words(), alike(), why())),
      frames(), references(), background(),
    ];
    place.replaceChildren(head, bar.element, ...body, details());
    toggles();
  }

  function clip() {
    const { member, codec, container } = facts.video;
    const video = h("video", { controls: true, loop: true, muted: true, preload: "metadata", playsInline: true, src: media(0, facts.n, member), "aria-label": `clip of ${facts.key}` });
    video.muted = true;
    video.addEventListener("error", async () => {
      const answer = await fetch(video.src, { headers: { Range: "bytes=0-0" } }).catch(() => null);
      const told = answer && !answer.ok ? await answer.text() : `this browser does not play ${codec} in ${container}`;
      video.replaceWith(h("p", { class: "broken" }, told));
    }, { once: true });
    return h("div", { class: "clip" }, video);
  }

  function words() {
    const masked = new Set(facts.instances.map((one) => one.word.toLowerCase()));
    const line = (entity) => h("li", {},
      h("span", { class: "dot", style: { "--track": colour(entity.track) } }),
      h("button", { type: "button", class: "link", title: "filter by this word", onclick: () => filterBy(entity.word) }, entity.word),
      h("small", {}, entity.category, entity.category === "background" || masked.has(entity.word.toLowerCase()) ? "" : ", not found"));
    return h("ul", { class: "entities" }, ...facts.entities.map(line));
  }

  function alike() {
    if (!facts.alike?.length) return null;
    return h("p", { class: "alike" }, "More like this: ", ...facts.alike.map(([layer, column]) => h("button", { type: "button", class: "chip", onclick: () => store.set({ ...cleared(), like: { key: facts.key, layer, column } }) }, `${layer}.${column}`)));
  }

  function frames() {
    return h("section", {}, h("h3", {}, "Frames"), toggleLine(),
      h("div", { class: "frames" }, ...facts.frames.map((frame, index) => {
        const chosen = facts.instances.filter((one) => one.frame === index).map((one) => ({ xyxy: one.box_xyxy_px, colour: colour(one.track), kind: one.is_face ? "face" : "box", title: `${one.word} ${number(one.detector_score)}` }));
        const others = facts.candidates.filter((box) => box.frame === index).map((box) => ({ xyxy: box.box_xyxy_px, kind: box.dropped ? "candidate dropped" : "candidate", title: `${box.word} ${number(box.score)}${box.dropped ? `, ${box.dropped.replaceAll("_", " ")}` : ", not chosen"}` }));
        return h("figure", {}, h("div", { class: "frame", style: { "aspect-ratio": `${facts.width} / ${facts.height}` } },
          picture(media(0, facts.n, frame.member), `frame at ${frame.percent} % of the clip`),
          picture(masks(0, facts.n, `frame${index}`, 1536), "", { class: "masks" }), boxes(facts.width, facts.height, [...others, ...chosen])),
          h("figcaption", {}, h("button", { type: "button", class: "link", onclick: () => seek(frame.time_s), title: "show it in the clip" }, `${frame.percent} % · ${seconds(frame.time_s)}`)));
      })));
  }

  function seek(time) { const video = place.querySelector("video"); if (video) { video.pause(); video.currentTime = time; } }

  function toggleLine() {
    const toggle = (letter, text) => h("button", { type: "button", class: "chip toggle", "data-letter": letter, onclick: () => store.show(letter) }, text);
    const dropped = facts.candidates.filter((box) => box.dropped);
    return h("div", { class: "chips" }, toggle("b", "boxes (o)"), toggle("m", "masks (m)"), toggle("c", `candidates (c) ${facts.candidates.length}`),
      dropped.length ? h("small", { class: "hint" }, `${dropped.length} dropped: ${[...new Set(dropped.map((box) => `${box.word}, ${box.dropped.replaceAll("_", " ")}`))].join("; ")}`) : null);
  }

  function toggles() {
    for (const [letter, name] of [["b", "show-boxes"], ["m", "show-masks"], ["c", "show-candidates"], ["w", "show-borrowed"]]) {
      place.classList.toggle(name, store.shows(letter));
      place.querySelectorAll(`[data-letter="${letter}"]`).forEach((button) => { button.classList.toggle("on", store.shows(letter)); button.setAttribute("aria-pressed", String(store.shows(letter))); });
    }
  }

  function references() {
    const tracks = Map.groupBy ? Map.groupBy(facts.instances, (one) => one.track) : group(facts.instances);
    return h("section", {}, h("h3", {}, "References, by individual"), ...[...tracks.keys()].sort((a, b) => a - b).map((track) => {
      const own = tracks.get(track);
      const link = facts.links.find((one) => one.word.toLowerCase() === own[0].word.toLowerCase());
      const sure = link ? [link.score !== null ? `link ${number(link.score)}` : "a single reference", link.second_best !== null ? `second best ${number(link.second_best)}` : "nobody else in question", link.ambiguous ? "ambiguous" : ""].filter(Boolean).join(" · ") : "links were not looked for";
      return h("div", { class: "track", style: { "--track": colour(track) } },
        h("h4", {}, own[0].word, h("small", {}, sure)),
        h("div", { class: "crops" }, ...own.map((one) => h("figure", {}, h("a", { class: "crop", href: media(0, facts.n, one.member), target: "_blank", rel: "noreferrer", "aria-label": `${one.is_face ? "face of " : ""}${one.word} in frame ${one.frame + 1}, full size` }, picture(small(0, facts.n, one.member, 384), one.word)),
          h("figcaption", {}, `${one.is_face ? "face" : `frame ${one.frame + 1}`}${one.link_score !== undefined && one.link_score !== null ? ` · link ${number(one.link_score)}` : ""}`, h("br"), one.is_face ? `face ${number(one.face_score)}` : `box ${number(one.detector_score)} · mask ${number(one.mask_score)}`)))));
    }));
  }

  function background() {
    const facts_ = facts.background;
    const slider = document.createElement("before-after");
    const borrowed = facts.has_borrowed ? [picture(masks(0, facts.n, "borrowed", 1536), "", { class: "masks borrowed" })] : [];
    slider.show(media(0, facts.n, "frame1.jpg"), media(0, facts.n, facts_.member), borrowed, "before and after", facts.width, facts.height);
    const pairs = Object.entries(facts_).filter(([name, value]) => !["member", "residual"].includes(name) && value !== null);
    return h("section", {}, h("h3", {}, "Background"),
      facts.has_borrowed ? h("div", { class: "chips" }, h("button", { type: "button", class: "chip toggle", "data-letter": "w", onclick: () => store.show("w") }, "borrowed pixels")) : null,
      h("div", { class: "columns" }, slider, h("dl", { class: "list" }, ...pairs.flatMap(([name, value]) => [h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, number(value))]),
        ...Object.entries(facts_.residual).flatMap(([word, value]) => [h("dt", {}, `residual of ${word}`), h("dd", {}, number(value))]))));
  }

  function why() {
    const config = about.value.config || {}, row = facts.row;
    const of = (section, name) => config[section]?.[name];
    const lines = [
      ["entities", "subjects that are masked", row.n_subjects, "≥ 1"],
      ["frames", "clip, seconds", facts.video.duration_s, [of("frames", "min_duration_s"), of("frames", "max_duration_s")].every((one) => one !== undefined) ? `${of("frames", "min_duration_s")} to ${of("frames", "max_duration_s")}` : ""],
      ["localise", "least detector score", row.min_detector_score, bound(of("localise", "min_score"), "≥")],
      ["localise", "frames with a subject", row.frames_with_subject, bound(of("localise", "min_subject_frames"), "≥")],
      ["link", "least link score", row.min_link_score, bound(of("link", "min_score"), "≥")],
      ["segment", "least mask score", row.min_mask_score, bound(of("segment", "min_score"), "≥")],
      ["background", "share replaced", row.masked_share, bound(of("background", "max_masked_share"), "≤")],
      ["background", "residual", row.residual, bound(of("background", "max_residual"), "≤")],
      ["background", "quality", row.background_quality, bound(of("background", "min_quality"), "≥")],
    ].filter((line) => line[2] !== undefined && line[2] !== null);
    const head = h("thead", {}, h("tr", {}, ...["stage", "measure", "here", "asked for"].map((text) => h("th", { scope: "col" }, text))));
    const cell = (value, index) => h("td", { class: index === 2 ? "number" : "" }, typeof value === "number" ? number(value) : value || "");
    const table = h("table", {}, head, h("tbody", {}, ...lines.map((line) => h("tr", {}, ...line.map(cell)))));
    return h("section", {}, h("h3", {}, "Why it was kept"), h("div", { class: "wide" }, table));
  }

  const bound = (value, sign) => (value === undefined || value === null ? "" : `${sign} ${value}`);

  function details() {
    const raw = h("pre", { tabindex: "0", "aria-label": "KEY.json" }, "…");
    const json = h("details", {}, h("summary", {}, "KEY.json"), raw);
    json.addEventListener("toggle", async () => {
      if (!json.open || raw.textContent !== "…") return;
      const answer = await fetch(media(0, facts.n, "json"));
      const text = await answer.text();
      try { raw.textContent = JSON.stringify(JSON.parse(text), null, 1); } catch { raw.textContent = text; }
    });
    const table = (entries) => h("dl", { class: "list" }, ...entries.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value === null || value === undefined ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value))]));
    const members = (facts.members || []).map((one) => [one.name, `${number(one.size)} bytes at ${number(one.offset)}`]);
    return h("section", {}, facts.source ? h("details", {}, h("summary", {}, "Provenance"), table([...Object.entries(facts.source), ["shard", facts.shard], ["prompt", facts.provenance.prompt_sha], ...Object.entries(facts.provenance.stage_sha)])) : null,
      Object.keys(facts.extra || {}).length ? h("details", {}, h("summary", {}, "The manifest's other columns"), table(Object.entries(facts.extra))) : null,
      h("details", {}, h("summary", {}, "Members of the tar"), table(members)), facts.problem ? null : json);
  }

  function keyed(event) {
    if (!facts || !around || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
    const video = place.querySelector("video");
    const acts = {
      ArrowLeft: () => step(around.previous), ArrowRight: () => step(around.next), Escape: close, o: () => store.show("b"), m: () => store.show("m"),
      c: () => store.show("c"), w: () => store.show("w"), g: () => bar.good(), b: () => bar.bad(), u: () => bar.undo(),
      " ": () => video && (video.paused ? video.play().catch(failed) : video.pause()),
    };
    if (event.target === video && ["ArrowLeft", "ArrowRight", " "].includes(event.key)) return;
    if (event.target.matches("button, summary, a") && event.key === " ") return;
    const act = acts[event.key] || (/^[1-9]$/.test(event.key) ? () => bar.why(Number(event.key) - 1) : null);
    if (act) { event.preventDefault(); act(); }
  }

  return {
    keyed,
    refresh() {
      const key = store.state.sample;
      if (!key) { shown = ""; facts = null; asking?.abort(); place.replaceChildren(); return; }
      if (key !== shown) open(key); else if (facts) toggles();
    },
    from(index) { at = index; },
    redraw() { shown = ""; this.refresh(); },
  };
}

function group(list) {
  const found = new Map();
  for (const one of list) found.set(one.track, [...(found.get(one.track) || []), one]);
  return found;
}
