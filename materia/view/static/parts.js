// What is shown of one sample: clip, words, why it was kept, frames, references by individual, background, provenance.

import { about, masks, media, small } from "/static/api.js";
import "/static/compare.js";
import { boxes, button, caption, chip, colour, h, instanceBoxes, number, picture, seconds, section } from "/static/dom.js";
import { cleared, store } from "/static/store.js";

const FULL = 1536; // px of masks over whole frames

export function parts(facts) {
  if (facts.problem) {
    const told = h("p", { class: "trouble" }, facts.problem);
    return [told, facts.caption ? h("p", { class: "caption large" }, facts.caption) : "", details(facts)];
  }
  const text = h("p", { class: "caption large" }, ...caption(facts.caption, facts.entities, filterBy));
  const left = h("div", {}, clip(facts), h("p", { class: "facts" }, about_clip(facts)));
  const right = h("div", {}, text, words(facts), alike(facts), why(facts));
  return [h("div", { class: "columns" }, left, right), frames(facts), references(facts), background(facts), details(facts)];
}

const filterBy = (word) => store.set({ ...cleared(), words: [word], sample: "" });
const same = (a, b) => a.toLowerCase() === b.toLowerCase();
const spoken = (name) => name.replaceAll("_", " ");

function about_clip({ video, row }) {
  const size = `${video.width} × ${video.height}`;
  return [seconds(video.duration_s), size, `${number(video.fps)} fps`, video.codec, ...(row.flags || []).map(spoken)].join(
    " · ",
  );
}

function clip(facts) {
  const { member, codec, container } = facts.video;
  const src = media(0, facts.n, member);
  const label = `clip of ${facts.key}`;
  const video = h("video", { controls: true, loop: true, preload: "metadata", playsInline: true, src, "aria-label": label });
  video.muted = true;
  async function explain() {
    const answer = await fetch(src, { headers: { Range: "bytes=0-0" } }).catch(() => null);
    const told = answer && !answer.ok ? await answer.text() : `this browser does not play ${codec} in ${container}`;
    video.replaceWith(h("p", { class: "broken" }, told));
  }
  video.addEventListener("error", explain, { once: true });
  return h("div", { class: "clip" }, video);
}

function words(facts) {
  const line = (entity) => {
    const found = entity.category === "background" || facts.instances.some((one) => same(one.word, entity.word));
    const dot = h("span", { class: "dot", style: { "--track": colour(entity.track) } });
    const word = button(entity.word, () => filterBy(entity.word), { class: "link", title: "filter by this word" });
    return h("li", {}, dot, word, h("small", {}, entity.category, found ? "" : ", not found"));
  };
  return h("ul", { class: "entities" }, ...facts.entities.map(line));
}

function alike(facts) {
  if (!facts.alike?.length) return "";
  const ask = (layer, column) => () => store.set({ ...cleared(), like: { key: facts.key, layer, column } });
  const buttons = facts.alike.map(([layer, column]) => button(`${layer}.${column}`, ask(layer, column), { class: "chip" }));
  return h("p", { class: "alike" }, "More like this: ", buttons);
}

const toggle = (letter, text) => chip(text, store.shows(letter), () => store.show(letter), { "data-letter": letter });

function frames(facts) {
  const dropped = facts.candidates.filter((box) => box.dropped).map((box) => `${box.word}, ${spoken(box.dropped)}`);
  const told = dropped.length ? `${dropped.length} dropped: ${[...new Set(dropped)].join("; ")}` : "";
  const toggles = [
    toggle("b", "boxes (o)"),
    toggle("m", "masks (m)"),
    toggle("c", `candidates (c) ${facts.candidates.length}`),
  ];
  const chips = h("div", { class: "chips" }, toggles, h("small", { class: "hint" }, told));
  return section(
    "Frames",
    chips,
    h("div", { class: "frames" }, ...facts.frames.map((frame, index) => frameOf(facts, frame, index))),
  );
}

function frameOf(facts, frame, index) {
  const others = facts.candidates
    .filter((box) => box.frame === index)
    .map((box) => ({
      xyxy: box.box_xyxy_px,
      kind: box.dropped ? "candidate dropped" : "candidate",
      title: `${box.word} ${number(box.score)}, ${box.dropped ? spoken(box.dropped) : "not chosen"}`,
    }));
  const drawn = boxes(facts.width, facts.height, [...others, ...instanceBoxes(facts.instances, index)]);
  const shown = picture(media(0, facts.n, frame.member), `frame at ${frame.percent} % of the clip`);
  const overlay = picture(masks(0, facts.n, `frame${index}`, FULL), "", { class: "masks" });
  const style = { "aspect-ratio": `${facts.width} / ${facts.height}` };
  const text = `${frame.percent} % · ${seconds(frame.time_s)}`;
  const seek = button(text, () => seekTo(frame.time_s), { class: "link", title: "show it in the clip" });
  return h("figure", {}, h("div", { class: "frame", style }, shown, overlay, drawn), h("figcaption", {}, seek));
}

function seekTo(time) {
  const video = document.querySelector(".sample video");
  if (!video) return;
  video.pause();
  video.currentTime = time;
}

function references(facts) {
  const tracks = [...new Set(facts.instances.map((one) => one.track))].sort((a, b) => a - b);
  const line = (track) => {
    const own = facts.instances.filter((one) => one.track === track);
    const sure = h("small", {}, sureness(facts.links.find((one) => same(one.word, own[0].word))));
    const crops = h("div", { class: "crops" }, ...own.map((one) => crop(facts, one)));
    return h("div", { class: "track", style: { "--track": colour(track) } }, h("h4", {}, own[0].word, sure), crops);
  };
  return section("References, by individual", ...tracks.map(line));
}

function sureness(link) {
  if (!link) return "links were not looked for";
  const score = link.score === null ? "a single reference" : `link ${number(link.score)}`;
  const other = link.second_best === null ? "nobody else in question" : `second best ${number(link.second_best)}`;
  return [score, other, link.ambiguous ? "ambiguous" : ""].filter(Boolean).join(" · ");
}

function crop(facts, one) {
  const name = `${one.is_face ? "face of " : ""}${one.word} in frame ${one.frame + 1}, full size`;
  const href = media(0, facts.n, one.member);
  const image = picture(small(0, facts.n, one.member, 384), one.word);
  const link = h("a", { class: "crop", href, target: "_blank", rel: "noreferrer", "aria-label": name }, image);
  const linked = one.link_score === undefined || one.link_score === null ? "" : ` · link ${number(one.link_score)}`;
  const scores = one.is_face
    ? `face ${number(one.face_score)}`
    : `box ${number(one.detector_score)} · mask ${number(one.mask_score)}`;
  return h(
    "figure",
    {},
    link,
    h("figcaption", {}, `${one.is_face ? "face" : `frame ${one.frame + 1}`}${linked}`, h("br"), scores),
  );
}

function background(facts) {
  const { member, residual, ...told } = facts.background;
  const slider = document.createElement("before-after");
  const borrowed = facts.has_borrowed ? [picture(masks(0, facts.n, "borrowed", FULL), "", { class: "masks borrowed" })] : [];
  const [before, after] = ["frame1.jpg", member].map((name) => media(0, facts.n, name));
  slider.show(before, after, borrowed, "before and after", facts.width, facts.height);
  const scores = Object.entries(told).filter(([, value]) => value !== null);
  const left = Object.entries(residual).map(([word, value]) => [`residual of ${word}`, value]);
  const table = list([...scores, ...left].map(([name, value]) => [spoken(name), number(value)]));
  const chips = facts.has_borrowed ? h("div", { class: "chips" }, toggle("w", "borrowed pixels (w)")) : "";
  return section("Background", chips, h("div", { class: "columns" }, slider, table));
}

// What the scores of the sample were held against, as far as the output's configuration says it.
function why({ row, video }) {
  const of = (section_, name) => about.value.config?.[section_]?.[name];
  const bound = (sign, section_, name) =>
    of(section_, name) === undefined || of(section_, name) === null ? "" : `${sign} ${of(section_, name)}`;
  const length = [of("frames", "min_duration_s"), of("frames", "max_duration_s")];
  const lines = [
    ["entities", "subjects that are masked", row.n_subjects, "≥ 1"],
    ["frames", "clip, seconds", video.duration_s, length.includes(undefined) ? "" : length.join(" to ")],
    ["localise", "least detector score", row.min_detector_score, bound("≥", "localise", "min_score")],
    ["localise", "frames with a subject", row.frames_with_subject, bound("≥", "localise", "min_subject_frames")],
    ["link", "least link score", row.min_link_score, bound("≥", "link", "min_score")],
    ["segment", "least mask score", row.min_mask_score, bound("≥", "segment", "min_score")],
    ["background", "share replaced", row.masked_share, bound("≤", "background", "max_masked_share")],
    ["background", "residual", row.residual, bound("≤", "background", "max_residual")],
    ["background", "quality", row.background_quality, bound("≥", "background", "min_quality")],
  ].filter(([, , value]) => value !== undefined && value !== null);
  const head = ["stage", "measure", "here", "asked for"].map((text) => h("th", { scope: "col" }, text));
  const cell = (value, at) => h("td", { class: at === 2 ? "number" : "" }, at === 2 ? number(value) : value);
  const body = lines.map((line) => h("tr", {}, ...line.map(cell)));
  return section(
    "Why it was kept",
    h("div", { class: "wide" }, h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, body))),
  );
}

function list(pairs) {
  const text = (value) =>
    value === null || value === undefined ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value);
  return h("dl", { class: "list" }, ...pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, text(value))]));
}

function details(facts) {
  const folded = (title, ...children) => h("details", {}, h("summary", {}, title), ...children);
  const found = [];
  if (facts.source) {
    const { prompt_sha, stage_sha } = facts.provenance;
    const pairs = { ...facts.source, shard: facts.shard, prompt: prompt_sha, ...stage_sha };
    found.push(folded("Provenance", list(Object.entries(pairs))));
  }
  if (Object.keys(facts.extra || {}).length)
    found.push(folded("The manifest's other columns", list(Object.entries(facts.extra))));
  const members = (facts.members || []).map((one) => [one.name, `${number(one.size)} bytes at ${number(one.offset)}`]);
  found.push(folded("Members of the tar", list(members)));
  if (!facts.problem) found.push(record(facts, folded));
  return h("section", {}, found);
}

function record(facts, folded) {
  const raw = h("pre", { tabindex: "0", "aria-label": "KEY.json" });
  const json = folded("KEY.json", raw);
  async function load() {
    const text = await (await fetch(media(0, facts.n, "json"))).text();
    try {
      raw.textContent = JSON.stringify(JSON.parse(text), null, 1);
    } catch {
      raw.textContent = text;
    }
  }
  json.addEventListener("toggle", load, { once: true });
  return json;
}
