// A random audit: how far it is, and how right each stage is by the marks until now.

import { failed, get } from "/static/api.js";
import { h, number, percent, svg } from "/static/dom.js";
import { query, store } from "/static/store.js";

export function audit(place, openFirst) {
  let asked = "";
  return {
    async refresh(force = false) {
      const draw = store.state.audit;
      place.hidden = !draw;
      if (!draw) {
        asked = "";
        return;
      }
      const now = JSON.stringify(draw);
      if (now === asked && !force) return;
      asked = now;
      try {
        const found = await get("/api/audit", { q: query(store.state) });
        const rows = found.stages.filter((one) => one.value !== null);
        place.replaceChildren(
          h(
            "div",
            { class: "row" },
            h("strong", {}, `Random audit of ${number(found.drawn)}`),
            h(
              "span",
              { class: "hint" },
              `seed ${draw.seed ?? 0}${draw.stratify ? `, by ${draw.stratify}` : ""} · ${number(found.marked)} marked`,
            ),
            h(
              "button",
              { type: "button", class: "main", onclick: openFirst },
              found.marked ? (found.marked < found.drawn ? "Go on" : "Look again") : "Begin",
            ),
            h("button", { type: "button", class: "quiet", onclick: () => store.set({ audit: null }) }, "Leave"),
          ),
          rows.length
            ? h(
                "div",
                { class: "wide" },
                h(
                  "table",
                  { class: "precision" },
                  h("caption", {}, "Precision by stage, 95 % interval (Wilson)"),
                  h(
                    "tbody",
                    {},
                    ...rows.map((one) =>
                      h(
                        "tr",
                        {},
                        h("th", { scope: "row" }, one.stage),
                        h("td", { class: "number" }, percent(one.value)),
                        h("td", {}, interval(one)),
                        h(
                          "td",
                          { class: "hint" },
                          `${percent(one.low)} to ${percent(one.high)} · ${one.right} of ${one.marked}`,
                        ),
                      ),
                    ),
                  ),
                ),
              )
            : "",
        );
      } catch (error) {
        failed(error);
      }
    },
  };
}

function interval(one) {
  return svg(
    "svg",
    { class: "interval", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "ground", x: "0", y: "3", width: "100", height: "2" }),
    svg("rect", {
      class: "span",
      x: String(100 * one.low),
      y: "2",
      width: String(Math.max(0.5, 100 * (one.high - one.low))),
      height: "4",
    }),
    svg("rect", { class: "middle", x: String(Math.min(99, 100 * one.value)), y: "0", width: "1", height: "8" }),
  );
}
