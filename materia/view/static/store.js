// The page's state, which is its link: everything that is shown can be sent to somebody as it is.

const EMPTY = () => ({
  view: "samples",
  sample: "",
  rejection: "",
  reason: "",
  only: "different",
  show: "b",
  size: 240,
  ranges: {},
  words: [],
  flags: [],
  dropped: [],
  marked: "",
  why: [],
  key: "",
  sort: "",
  sql: "",
  audit: null,
  like: null,
});
const LISTS = { word: "words", flag: "flags", dropped: "dropped", why: "why" };
const TEXTS = ["view", "sample", "rejection", "reason", "only", "show", "marked", "key", "sort", "sql"];

const end = (text) => (text === "" || !Number.isFinite(Number(text)) ? null : Number(text));

function json(text) {
  try {
    const value = JSON.parse(text);
    return value && typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

export function read(hash) {
  const state = EMPTY();
  for (const [name, value] of new URLSearchParams(hash.replace(/^#/, ""))) {
    if (name in LISTS) state[LISTS[name]].push(value);
    else if (TEXTS.includes(name)) state[name] = value;
    else if (name === "size") state.size = Math.min(480, Math.max(140, Number(value) || 240));
    else if (name === "audit" || name === "like") state[name] = json(value);
    else if (name.startsWith("r.") && value.includes("~")) state.ranges[name.slice(2)] = value.split("~").map(end);
  }
  return state;
}

export function write(state) {
  const params = new URLSearchParams();
  const empty = EMPTY();
  for (const name of TEXTS) if (state[name] !== empty[name]) params.append(name, state[name]);
  if (state.size !== empty.size) params.append("size", state.size);
  for (const [name, list] of Object.entries(LISTS)) for (const value of state[list]) params.append(name, value);
  for (const name of ["audit", "like"]) if (state[name]) params.append(name, JSON.stringify(state[name]));
  for (const [name, [low, high]] of Object.entries(state.ranges)) params.append(`r.${name}`, `${low ?? ""}~${high ?? ""}`);
  return `#${params}`;
}

// What the server is asked: the conditions and the order, nothing of how it is shown.
export function query(state, without = []) {
  const asked = {};
  for (const name of ["words", "flags", "dropped", "why"]) if (state[name].length) asked[name] = state[name];
  for (const name of ["marked", "key", "sort", "sql", "audit", "like"]) if (state[name]) asked[name] = state[name];
  if (Object.keys(state.ranges).length) asked.ranges = state.ranges;
  for (const name of without) delete asked[name];
  return JSON.stringify(asked);
}

class Store extends EventTarget {
  state = read(location.hash);

  constructor() {
    super();
    addEventListener("popstate", () => {
      this.state = read(location.hash);
      this.#tell();
    });
  }

  // `replace`: the step does not get an entry of its own in the browser's history.
  set(patch, replace = false) {
    this.state = { ...this.state, ...patch };
    const link = write(this.state);
    if (link !== location.hash)
      history[replace ? "replaceState" : "pushState"](null, "", link === "#" ? location.pathname : link);
    this.#tell();
  }

  toggle(list, value) {
    const there = this.state[list].includes(value);
    this.set({ [list]: there ? this.state[list].filter((one) => one !== value) : [...this.state[list], value] });
  }

  shows(letter) {
    return this.state.show.includes(letter);
  }

  show(letter) {
    const show = this.shows(letter) ? this.state.show.replace(letter, "") : this.state.show + letter;
    this.set({ show: show || "-" }, true);
  }

  link(patch) {
    return write({ ...this.state, ...patch });
  }

  on(listener) {
    this.addEventListener("change", listener);
    return () => this.removeEventListener("change", listener);
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
  }
}

export const store = new Store();
export const cleared = () => {
  const { view, show, size } = store.state;
  return { ...EMPTY(), view, show, size };
};
