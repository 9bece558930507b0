// A question in SQL: one SELECT over the tables in memory. An answer with a column `key` can be looked at as samples.

import { about, post } from "/static/api.js";
import { h, number } from "/static/dom.js";
import { cleared, store } from "/static/store.js";

const EXAMPLE = "SELECT key, residual, subject_words\nFROM samples\nWHERE n_subjects >= 2\nORDER BY residual DESC\nLIMIT 100";

export function sql(place) {
  const text = h("textarea", { rows: "7", spellcheck: "false", "aria-label": "question in SQL" });
  text.value = store.state.view === "sql" && store.state.sql ? store.state.sql : EXAMPLE;
  const run = h("button", { type: "submit", class: "main" }, "Run");
  const show = h(
    "button",
    { type: "button", hidden: true, onclick: () => store.set({ ...cleared(), view: "samples", sql: text.value }) },
    "Show these samples",
  );
  const told = h("p", { class: "hint", role: "status" }, "");
  const answer = h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "answer" });
  const form = h(
    "form",
    {
      onsubmit: (event) => {
        event.preventDefault();
        ask();
      },
    },
    text,
    h("div", { class: "row" }, run, show, told),
  );
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      ask();
    }
  });
  const tables = h(
    "p",
    { class: "hint" },
    "Tables: samples, rejects, instances",
    about.value && about.value.outputs.length > 1 ? ", samples2, rejects2, instances2, pairs" : "",
    ", layer_marks and a table layer_NAME for each layer. One SELECT, ten seconds, Ctrl+Enter runs it.",
  );
  place.replaceChildren(h("div", { class: "pad" }, form, tables, answer));

  async function ask() {
    run.disabled = true;
    told.textContent = "…";
    if (store.state.sql !== text.value) store.set({ sql: text.value }, true);
    try {
      const found = await post("/api/sql", { sql: text.value });
      const rows = `${number(found.rows.length)}${found.more ? " and more" : ""} rows`;
      told.textContent = `${rows} in ${number(1000 * found.seconds, 2)} ms`;
      answer.replaceChildren(
        h(
          "table",
          {},
          h(
            "thead",
            {},
            h("tr", {}, ...found.columns.map((name, index) => h("th", { scope: "col", title: found.types[index] }, name))),
          ),
          h(
            "tbody",
            {},
            ...found.rows.map((row) =>
              h(
                "tr",
                {},
                ...row.map((cell) =>
                  h(
                    "td",
                    { class: typeof cell === "number" ? "number" : "" },
                    cell !== null && typeof cell === "object" ? JSON.stringify(cell) : number(cell, 5),
                  ),
                ),
              ),
            ),
          ),
        ),
      );
      show.hidden = !found.columns.includes("key");
    } catch (error) {
      told.textContent = "";
      answer.replaceChildren(h("p", { class: "trouble" }, error.message));
      show.hidden = true;
    } finally {
      run.disabled = false;
    }
  }

  return {
    refresh() {
      if (store.state.sql && store.state.sql !== text.value && document.activeElement !== text) text.value = store.state.sql;
    },
  };
}
