// The grid of samples: only the tiles that are seen exist, whatever the number of samples. Rows come in pages of what the table
// holds, then cards with caption, boxes and references for those in sight.

import { about, failed, get, masks, small } from "/static/api.js";
import { boxes, caption, colour, h, number, picture } from "/static/dom.js";
import { query, store } from "/static/store.js";

const PAGE = 60;
const GAP = 14;
const BELOW = 104; // px of a tile under its frame
const TALLEST = 8_000_000; // px: browsers have no taller elements; beyond, the scroll bar's way stands for a longer one
const CARDS = 600;

export function grid(place, opened) {
  const holder = h("div", { class: "tiles", role: "list", "aria-label": "samples" });
  const spacer = h("div", { class: "spacer" }, holder);
  const scroller = h("div", { class: "scroller", id: "grid" }, spacer);
  const empty = h("p", { class: "nothing", hidden: true });
  place.append(scroller, empty);

  let pages = new Map(),
    cards = new Map(),
    tiles = new Map();
  let asked = null,
    total = 0,
    columns = 1,
    step = 1,
    width = 200,
    top = 0,
    last = 0,
    active = 0,
    generation = 0;

  function measure() {
    const room = scroller.clientWidth - 2 * GAP;
    columns = Math.max(1, Math.floor((room + GAP) / (Math.min(store.state.size, room) + GAP)));
    width = (room - (columns - 1) * GAP) / columns;
    step = Math.round((width * 9) / 16) + BELOW + GAP;
    scroller.style.setProperty("--tile", `${width}px`);
    spacer.style.height = `${Math.min(TALLEST, height())}px`;
  }

  const height = () => Math.ceil(total / columns) * step + GAP;
  const farthest = () => Math.max(0, height() - scroller.clientHeight);

  function scrolled() {
    const way = spacer.offsetHeight - scroller.clientHeight;
    const moved = scroller.scrollTop - last;
    last = scroller.scrollTop;
    if (height() <= TALLEST) top = scroller.scrollTop;
    else if (last <= 0) top = 0;
    else if (last >= way - 1) top = farthest();
    else if (Math.abs(moved) < 3 * scroller.clientHeight) top = Math.min(farthest(), Math.max(0, top + moved));
    else top = (last / way) * farthest();
    draw();
  }

  function reveal(index) {
    const row = Math.floor(index / columns) * step;
    if (row < top) go(row);
    else if (row + step > top + scroller.clientHeight) go(row + step - scroller.clientHeight + GAP);
  }

  function go(where) {
    top = Math.min(farthest(), Math.max(0, where));
    const way = spacer.offsetHeight - scroller.clientHeight;
    scroller.scrollTop = last = height() <= TALLEST ? top : Math.round((top / Math.max(1, farthest())) * way);
    draw();
  }

  function draw() {
    const first = Math.max(0, Math.floor((top - GAP) / step) - 1) * columns;
    const until = Math.min(total, (Math.ceil((top + scroller.clientHeight) / step) + 1) * columns);
    const shift = last - top;
    for (const [index, tile] of tiles)
      if (index < first || index >= until) {
        tile.element.remove();
        tiles.delete(index);
      }
    for (let index = first; index < until; index++) {
      let tile = tiles.get(index);
      if (!tile) {
        tile = make(index);
        tiles.set(index, tile);
        holder.append(tile.element);
      }
      const [left, down] = [(index % columns) * (width + GAP), Math.floor(index / columns) * step + shift];
      tile.element.style.transform = `translate(${GAP + left}px, ${GAP + down}px)`;
    }
    for (let at = Math.floor(first / PAGE); at * PAGE < until; at++) fetchPage(at);
    fillIn();
  }

  function make(index) {
    const frame = h("div", { class: "frame" });
    const references = h("div", { class: "references" });
    const text = h("p", { class: "caption" });
    const link = h("a", {
      class: "cover",
      tabindex: index === active ? "0" : "-1",
      "aria-label": `sample ${index + 1}`,
      onclick: (event) => {
        if (!event.metaKey && !event.ctrlKey) {
          event.preventDefault();
          open(index);
        }
      },
      onfocus: () => focused(index),
    });
    const element = h(
      "div",
      { class: "tile", role: "listitem", "aria-setsize": String(total), "aria-posinset": String(index + 1) },
      link,
      frame,
      references,
      text,
    );
    return { element, link, frame, references, text, row: null, card: null };
  }

  function focused(index) {
    if (index === active) return;
    tiles.get(active)?.link.setAttribute("tabindex", "-1");
    active = index;
    tiles.get(active)?.link.setAttribute("tabindex", "0");
  }

  function open(index) {
    const row = rowOf(index);
    if (row) {
      active = index;
      opened(row.key, index);
    }
  }

  const rowOf = (index) => pages.get(Math.floor(index / PAGE))?.rows?.[index % PAGE];

  async function fetchPage(at) {
    if (pages.has(at)) return;
    const mine = generation;
    pages.set(at, {});
    try {
      const found = await get("/api/select", { q: asked, offset: at * PAGE, limit: PAGE });
      if (mine !== generation) return;
      pages.set(at, found);
      if (found.total !== total) {
        total = found.total;
        measure();
      }
      draw();
    } catch (error) {
      pages.delete(at);
      if (mine === generation) {
        failed(error);
        nothing(error.message);
      }
    }
  }

  let waiting = null;
  function fillIn() {
    for (const [index, tile] of tiles) {
      const row = rowOf(index);
      if (!row) continue;
      if (tile.row !== row) {
        tile.row = row;
        begin(tile, row);
      }
      const card = cards.get(row.n);
      if (card && card !== "asked" && tile.card !== card) {
        tile.card = card;
        finish(tile, row, card);
      }
    }
    clearTimeout(waiting);
    waiting = setTimeout(fetchCards, 40);
  }

  async function fetchCards() {
    const missing = [...tiles.keys()]
      .sort((a, b) => a - b)
      .map(rowOf)
      .filter((row) => row && !cards.has(row.n))
      .map((row) => row.n);
    if (!missing.length) return;
    missing.forEach((n) => cards.set(n, "asked"));
    const mine = generation;
    try {
      for (const card of await get("/api/cards", { o: 0, n: missing.join(",") })) cards.set(card.n, card);
    } catch (error) {
      missing.forEach((n) => cards.delete(n));
      failed(error);
      return;
    }
    for (const n of cards.keys()) {
      if (cards.size <= CARDS) break;
      cards.delete(n);
    }
    if (mine === generation) fillIn();
  }

  function begin(tile, row) {
    tile.link.setAttribute("href", store.link({ sample: row.key }));
    tile.link.setAttribute("aria-label", row.key);
    tile.text.textContent = row.key;
    mark(tile, row);
    const badges = h(
      "span",
      { class: "badges" },
      row.value !== null && row.value !== undefined ? h("span", { class: "value" }, number(row.value)) : null,
      ...(row.flags || []).map((flag) => h("span", { class: "flag" }, flag.replaceAll("_", " "))),
    );
    tile.frame.replaceChildren(
      picture(small(0, row.n, "frame1.jpg", width * devicePixelRatio), `middle frame of ${row.key}`),
      badges,
    );
  }

  function mark(tile, row) {
    tile.element.classList.toggle("good", row.bad === false);
    tile.element.classList.toggle("bad", row.bad === true);
  }

  function finish(tile, row, card) {
    if (card.problem) {
      tile.element.classList.add("trouble");
      tile.frame.replaceChildren(h("p", { class: "broken" }, card.problem));
      tile.text.textContent = card.caption || row.key;
      return;
    }
    tile.text.replaceChildren(...caption(card.caption, card.entities));
    tile.link.setAttribute("aria-label", `${row.key}: ${card.caption}`);
    const inside = card.instances.filter((one) => one.frame === 1);
    const shown = inside.map((one) => ({
      xyxy: one.box_xyxy_px,
      colour: colour(one.track),
      kind: one.is_face ? "face" : "box",
      title: one.word,
    }));
    const overlay = picture(masks(0, row.n, "frame1", width * devicePixelRatio), "", { class: "masks", loading: "lazy" });
    tile.frame.append(overlay, boxes(card.width, card.height, shown));
    const own = card.instances.filter((one) => !one.is_face).sort((a, b) => a.track - b.track || a.frame - b.frame);
    const room = Math.max(1, Math.floor((width - 16 + 6) / 46));
    const fits = own.length > room ? own.slice(0, room - 1) : own;
    tile.references.replaceChildren(
      ...fits.map((one) =>
        h(
          "span",
          { class: "reference", style: { "--track": colour(one.track) } },
          picture(small(0, row.n, one.member, 96), one.word, { loading: "lazy", title: one.word }),
        ),
      ),
      own.length > fits.length ? h("span", { class: "more" }, `+${own.length - fits.length}`) : "",
    );
  }

  function nothing(text) {
    empty.textContent = text;
    empty.hidden = !text;
  }

  scroller.addEventListener("scroll", scrolled, { passive: true });
  scroller.addEventListener("keydown", (event) => {
    const moves = {
      ArrowRight: 1,
      ArrowLeft: -1,
      ArrowDown: columns,
      ArrowUp: -columns,
      Home: -active,
      End: total - 1 - active,
      PageDown: 3 * columns,
      PageUp: -3 * columns,
    };
    if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const next = Math.min(total - 1, Math.max(0, active + moves[event.key]));
    focused(next);
    reveal(next);
    tiles.get(next)?.link.focus({ preventScroll: true });
  });
  new ResizeObserver(() => {
    if (!scroller.clientWidth) return;
    const at = Math.floor(top / step) * columns;
    measure();
    [...tiles.values()].forEach((tile) => tile.element.remove());
    tiles.clear();
    go(Math.floor(at / columns) * step);
  }).observe(scroller);

  return {
    get total() {
      return total;
    },
    // Ask again if the question has changed, or what it is asked of.
    async refresh(force = false) {
      place.classList.toggle("show-boxes", store.shows("b"));
      place.classList.toggle("show-masks", store.shows("m"));
      const now = query(store.state);
      const size = store.state.size;
      if (now === asked && !force) {
        if (this.size !== size) {
          this.size = size;
          measure();
          tiles.forEach((tile) => tile.element.remove());
          tiles.clear();
          go(0);
        }
        return total;
      }
      const same = now === asked;
      this.size = size;
      asked = now;
      const mine = ++generation;
      scroller.setAttribute("aria-busy", "true");
      try {
        const found = await get("/api/select", { q: asked, offset: 0, limit: PAGE });
        if (mine !== generation) return null;
        pages = new Map([[0, found]]);
        total = found.total;
        if (!same) {
          tiles.forEach((tile) => tile.element.remove());
          tiles.clear();
          active = 0;
          cards = force ? new Map() : cards;
        }
        measure();
        if (same) draw();
        else go(0);
        nothing(total || !about.value.done ? "" : "No sample is like this. Take a filter away.");
        return total;
      } catch (error) {
        if (mine !== generation) return null;
        pages = new Map();
        total = 0;
        tiles.forEach((tile) => tile.element.remove());
        tiles.clear();
        measure();
        nothing(error.message);
        return 0;
      } finally {
        if (mine === generation) scroller.removeAttribute("aria-busy");
      }
    },
    // The mark of a sample has changed.
    marked(n, value) {
      for (const page of pages.values())
        for (const row of page.rows || [])
          if (row.n === n) {
            row.bad = value ? value.bad : null;
            row.why = value ? value.why : null;
          }
      for (const tile of tiles.values()) if (tile.row?.n === n) mark(tile, tile.row);
    },
    focus(index = active) {
      reveal(index);
      tiles.get(index)?.link.focus({ preventScroll: true });
    },
  };
}
