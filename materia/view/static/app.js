// Where the page begins: it asks what there is, builds the views, and shows the one that the link names.

import { about, failed, get, notice } from "/static/api.js";
import { audit } from "/static/audit.js";
import { h, number } from "/static/dom.js";
import { filters } from "/static/filters.js";
import { grid } from "/static/grid.js";
import { pairs } from "/static/pairs.js";
import { rejects } from "/static/rejects.js";
import { sample } from "/static/sample.js";
import { sql } from "/static/sql.js";
import { query, store } from "/static/store.js";

const side = document.getElementById("side"),
  main = document.getElementById("main"),
  top_ = document.getElementById("top");
const ROOMS = { samples: "Samples", rejections: "Rejections", pairs: "Side by side", sql: "SQL" };
const places = Object.fromEntries(
  [...Object.keys(ROOMS), "sample"].map((name) => [name, h("div", { class: `room ${name}`, hidden: true })]),
);
const views = {};
let sides = null,
  tiles = null,
  checked = null,
  one = null;

const theme = (() => {
  const kinds = ["auto", "light", "dark"];
  let now = kinds.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "auto";
  const apply = () => {
    if (now === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = now;
  };
  apply();
  return {
    get now() {
      return now;
    },
    next() {
      now = kinds[(kinds.indexOf(now) + 1) % 3];
      localStorage.setItem("theme", now);
      apply();
    },
  };
})();

function header() {
  const outputs = about.value.outputs;
  const tab = (name) => {
    const count = name === "samples" ? outputs[0].samples : name === "rejections" ? outputs[0].rejections : null;
    const on = store.state.view === name;
    return h(
      "a",
      {
        href: store.link({ view: name, sample: "" }),
        class: on ? "tab on" : "tab",
        "aria-current": on ? "page" : null,
        onclick: (event) => {
          event.preventDefault();
          store.set({ view: name, sample: "" });
        },
      },
      ROOMS[name],
      count === null ? null : h("small", {}, number(count)),
    );
  };
  const names = Object.keys(ROOMS).filter((name) => name !== "pairs" || outputs.length > 1);
  const look = h(
    "button",
    {
      type: "button",
      class: "quiet",
      title: "light, dark or as the system",
      onclick: () => {
        theme.next();
        look.textContent = `Theme: ${theme.now}`;
      },
    },
    `Theme: ${theme.now}`,
  );
  top_.replaceChildren(
    h(
      "button",
      {
        type: "button",
        class: "quiet menu",
        "aria-label": "filters",
        onclick: () => document.body.classList.toggle("side-open"),
      },
      "Filters",
    ),
    h(
      "strong",
      { class: "name", title: outputs.map((output) => output.out).join("\n") },
      outputs.map((output) => output.out.replace(/\/+$/, "").split("/").pop()).join(" · "),
    ),
    h("nav", { "aria-label": "views" }, ...names.map(tab)),
    h("span", { class: "grow" }),
    ...reading(),
    look,
    h("button", { type: "button", class: "quiet", onclick: help, "aria-label": "keys" }, "?"),
  );
}

function reading() {
  const now = about.value;
  if (now.done) return [];
  const chunks = now.outputs.reduce((sum, output) => sum + output.chunks, 0),
    read = now.outputs.reduce((sum, output) => sum + output.read, 0);
  return [
    h("progress", {
      class: "reading",
      max: Math.max(1, chunks),
      value: read,
      "aria-label": "reading the index",
      title: `${number(read)} of ${number(chunks)} chunks read`,
    }),
  ];
}

function problems() {
  const now = about.value;
  const all = now.outputs.flatMap((output) =>
    output.problems.map((problem) => h("li", {}, h("code", {}, problem.file), " ", problem.message)),
  );
  document.getElementById("problems")?.remove();
  if (now.failed) notice(`Reading ended: ${now.failed}`);
  if (!all.length) return;
  const count = now.outputs.reduce((sum, output) => sum + output.n_problems, 0);
  main.prepend(
    h(
      "details",
      { id: "problems" },
      h("summary", {}, `${number(count)} ${count === 1 ? "part" : "parts"} of this output cannot be read; all else is shown`),
      h("ul", {}, ...all),
    ),
  );
}

function toolbar() {
  const kept = sides.count;
  const sort = h("select", {
    "aria-label": "sort by",
    onchange: () => store.set({ sort: sort.value && (down() ? "-" : "") + sort.value }),
  });
  const down = () => store.state.sort.startsWith("-");
  const turn = h(
    "button",
    {
      type: "button",
      class: "quiet",
      onclick: () => store.state.sort && store.set({ sort: down() ? store.state.sort.slice(1) : `-${store.state.sort}` }),
    },
    "↑",
  );
  const size = h("input", {
    type: "range",
    min: "150",
    max: "480",
    step: "10",
    "aria-label": "size of the tiles",
    oninput: () => store.set({ size: Number(size.value) }, true),
  });
  const toggle = (letter, text) =>
    h("button", { type: "button", class: "chip", "data-show": letter, onclick: () => store.show(letter) }, text);
  const chips = h("span", { class: "chips given" });
  const save = h("a", { class: "quiet button", download: "keys.txt" }, "Save keys");
  const element = h(
    "div",
    { class: "toolbar" },
    kept,
    chips,
    h("span", { class: "grow" }),
    toggle("b", "boxes"),
    toggle("m", "masks"),
    h("label", { class: "sort" }, "sort", sort),
    turn,
    size,
    save,
  );
  let known = "";
  return {
    element,
    refresh() {
      const names = about.value.columns.map((column) => column.name);
      if (known !== names.join()) {
        known = names.join();
        sort.replaceChildren(
          h("option", { value: "" }, "order of the manifest"),
          ...names.map((name) => h("option", { value: name }, name)),
        );
      }
      sort.value = store.state.sort.replace(/^-/, "");
      turn.textContent = down() ? "↓" : "↑";
      turn.setAttribute("aria-label", down() ? "largest first" : "smallest first");
      turn.disabled = !store.state.sort;
      size.value = String(store.state.size);
      save.setAttribute("href", `/api/keys?q=${encodeURIComponent(query(store.state))}`);
      element.querySelectorAll("[data-show]").forEach((button) => {
        const on = store.shows(button.dataset.show);
        button.classList.toggle("on", on);
        button.setAttribute("aria-pressed", String(on));
      });
      const state = store.state;
      const chip = (text, patch) =>
        h("button", { type: "button", class: "chip on", title: "take away", onclick: () => store.set(patch) }, text, " ×");
      const without = (name) => {
        const ranges = { ...state.ranges };
        delete ranges[name];
        return { ranges };
      };
      chips.replaceChildren(
        ...state.words.map((word) => chip(word, { words: state.words.filter((other) => other !== word) })),
        ...Object.entries(state.ranges).map(([name, [low, high]]) =>
          chip(
            low === null
              ? `${name} ≤ ${number(high)}`
              : high === null
                ? `${name} ≥ ${number(low)}`
                : `${name} ${number(low)} – ${number(high)}`,
            without(name),
          ),
        ),
        ...(state.marked
          ? [
              chip(state.marked === "none" ? "not marked" : `marked ${state.marked === "any" ? "" : state.marked}`.trim(), {
                marked: "",
              }),
            ]
          : []),
        ...(state.sql ? [chip("SQL", { sql: "" })] : []),
        ...(state.like ? [chip(`like ${state.like.key}`, { like: null })] : []),
      );
    },
  };
}

function counted(total, trying = false) {
  if (total === null || total === undefined) return;
  const all = about.value.outputs[0].samples;
  sides.count.textContent = total === all ? `${number(all)} samples` : `${number(total)} of ${number(all)} kept`;
  sides.count.classList.toggle("trying", trying);
}

function help() {
  const keys = [
    ["arrows, Enter", "move in the grid, open a sample"],
    ["← →", "sample before, after"],
    ["Esc", "back to the grid"],
    ["space", "play, pause"],
    ["o m c w", "boxes, masks, candidates, borrowed pixels"],
    ["g", "good"],
    ["b, 1 to 9", "bad, and why"],
    ["u", "take the last mark back"],
    ["/", "to the words"],
  ];
  const box = h(
    "dialog",
    { "aria-label": "keys" },
    h("h2", {}, "Keys"),
    h("dl", { class: "list" }, ...keys.flatMap(([key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)])),
    h("form", { method: "dialog" }, h("button", { class: "main" }, "Close")),
  );
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
}

let bar = null;
function close() {
  store.set({ sample: "" });
  tiles.focus();
}

async function refresh(force = false) {
  const { view, sample: key } = store.state;
  const shown = key ? "sample" : view in ROOMS ? view : "samples";
  for (const [name, place] of Object.entries(places)) place.hidden = name !== shown;
  document.body.classList.toggle("with-side", shown === "samples");
  document.title = `${key || ROOMS[shown] || "Samples"} – Prima Materia`;
  header();
  one.refresh();
  if (shown === "samples" || key) {
    sides.refresh(force);
    bar.refresh();
    checked.refresh(force);
    if (shown === "samples") counted(await tiles.refresh(force));
  }
  if (shown === "rejections") (views.rejections ??= rejects(places.rejections)).refresh(force);
  if (shown === "pairs") (views.pairs ??= pairs(places.pairs)).refresh(force);
  if (shown === "sql") (views.sql ??= sql(places.sql)).refresh();
}

async function follow() {
  while (!about.value.done) {
    await new Promise((done) => setTimeout(done, 1000));
    try {
      const before = about.value;
      about.value = await get("/api/about");
      problems();
      const grew = about.value.outputs.some((output, at) => output.samples !== before.outputs[at].samples);
      if (about.value.done || (grew && !store.state.sample)) {
        await refresh(true);
        if (about.value.done && store.state.sample) one.redraw();
      } else header();
    } catch (error) {
      failed(error);
    }
  }
}

async function begin() {
  about.value = await get("/api/about");
  main.append(...Object.values(places));
  const auditPlace = h("section", { class: "audit", hidden: true, "aria-label": "audit" });
  sides = filters(side, (total) => counted(total, true));
  bar = toolbar();
  const gridPlace = h("div", { class: "gridplace" });
  places.samples.append(bar.element, auditPlace, gridPlace);
  one = sample(places.sample, close, (n, mark) => {
    tiles.marked(n, mark);
    checked.refresh(true);
  });
  tiles = grid(gridPlace, (key, index) => {
    one.from(index);
    store.set({ sample: key });
  });
  checked = audit(auditPlace, firstUnmarked);
  problems();
  store.on(() => refresh());
  await refresh();
  follow();
}

async function firstUnmarked() {
  try {
    const asked = JSON.stringify({ ...JSON.parse(query(store.state)), marked: "none" });
    const left = await get("/api/select", { q: asked, limit: 1 });
    const first = left.rows[0] || (await get("/api/select", { q: query(store.state), limit: 1 })).rows[0];
    if (first) store.set({ sample: first.key });
  } catch (error) {
    failed(error);
  }
}

addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (store.state.sample) {
    one.keyed(event);
    return;
  }
  if (event.target.matches("input, textarea, select")) {
    if (event.key === "Escape") {
      event.target.blur();
      document.body.classList.remove("side-open");
    }
    return;
  }
  if (event.key === "/") {
    event.preventDefault();
    document.body.classList.add("side-open");
    document.getElementById("word")?.focus();
  }
  if (event.key === "?") help();
  if (event.key === "Escape") document.body.classList.remove("side-open");
  if (store.state.view === "samples" && (event.key === "o" || event.key === "m")) store.show(event.key === "o" ? "b" : "m");
});

begin().catch(failed);
