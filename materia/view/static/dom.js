// Elements made without markup: text of captions, file names and tables is only ever text.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else if (name === "class") element.setAttribute("class", value);
    else if (name in element && typeof value !== "string" && !(element instanceof SVGElement)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function h(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function svg(tag, properties, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

export const button = (text, onclick, properties = {}) => h("button", { type: "button", onclick, ...properties }, text);

// A button that is on or off, with a count behind its text where there is one.
export function chip(text, on, onclick, { count, ...properties } = {}) {
  const element = button(text, onclick, { class: on ? "chip on" : "chip", "aria-pressed": String(Boolean(on)), ...properties });
  if (count !== undefined) element.append(h("small", {}, number(count)));
  return element;
}

export const section = (title, ...children) => h("section", {}, h("h3", {}, title), ...children);

// The boxes of a frame's instances, each in the colour of its track.
export const instanceBoxes = (instances, frame) =>
  instances
    .filter((one) => one.frame === frame)
    .map((one) => ({
      xyxy: one.box_xyxy_px,
      colour: colour(one.track),
      kind: one.is_face ? "face" : "box",
      title: `${one.word} ${number(one.detector_score)}`,
    }));

export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 1000
    ? Math.round(value).toLocaleString("en")
    : String(Number(value.toPrecision(size >= 1 ? digits + 1 : digits)));
}

export function seconds(value) {
  return value === null || value === undefined ? "–" : `${value.toFixed(1)} s`;
}

export function percent(value) {
  return value === null || value === undefined ? "–" : `${Number((100 * value).toPrecision(3))} %`;
}

// The colours of tracks are in the style sheet, --t0 to --t7.
export const colour = (track) => (track === null || track === undefined ? "var(--quiet)" : `var(--t${track % 8})`);

// A caption with its entity words in the colours of their tracks. Spans are in code points, as the records have them.
export function caption(text, entities, onword) {
  const points = Array.from(text);
  const spans = (entities || []).flatMap((entity) => (entity.spans || []).map(([start, end]) => ({ start, end, entity })));
  spans.sort((a, b) => a.start - b.start || a.end - b.end);
  const parts = [];
  let at = 0;
  for (const { start, end, entity } of spans) {
    if (start < at || end > points.length || end <= start) continue;
    parts.push(points.slice(at, start).join(""));
    const word = points.slice(start, end).join("");
    const properties = {
      class: `word ${entity.category}`,
      style: { "--track": colour(entity.track) },
      title: `${entity.category}: filter by this word`,
    };
    parts.push(
      onword
        ? h("button", { ...properties, type: "button", onclick: () => onword(entity.word) }, word)
        : h("span", { ...properties, title: entity.category }, word),
    );
    at = end;
  }
  return [...parts, points.slice(at).join("")];
}

// Boxes over a picture whose pixels are `width` x `height`.
export function boxes(width, height, shown) {
  const lines = shown.map((box) => {
    const [x0, y0, x1, y1] = box.xyxy;
    return svg(
      "rect",
      {
        x: String(x0),
        y: String(y0),
        width: String(Math.max(0, x1 - x0)),
        height: String(Math.max(0, y1 - y0)),
        class: box.kind || "box",
        style: { stroke: box.colour || "" },
      },
      svg("title", {}, box.title || ""),
    );
  });
  return svg(
    "svg",
    { class: "boxes", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "xMidYMid meet", "aria-hidden": "true" },
    ...lines,
  );
}

// A picture that says so where it cannot be read.
export function picture(src, alt, properties = {}) {
  const image = h("img", { src, alt, decoding: "async", draggable: "false", ...properties });
  image.addEventListener(
    "error",
    () => {
      const told = h("span", { class: "broken" }, `${alt}: cannot be read`);
      image.replaceWith(told);
      fetch(src)
        .then((answer) => (answer.ok ? "" : answer.text()))
        .then((text) => text && (told.textContent = text))
        .catch(() => {});
    },
    { once: true },
  );
  return image;
}
