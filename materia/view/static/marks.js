// Marking a sample good or bad and why, one key each, with undo. What is shown as saved is on the disk.

import { about, failed, notice, post } from "/static/api.js";
import { h } from "/static/dom.js";

const undone = []; // [n, key, mark before], the last at the end

export function markBar(facts, onmark) {
  const element = h("div", { class: "marks", role: "group", "aria-label": "mark this sample" });
  let mark = facts.mark,
    busy = Promise.resolve();

  function save(next, remember = true) {
    const before = mark,
      step = [facts.n, facts.key, before];
    mark = next;
    if (remember) undone.push(step);
    draw();
    busy = busy.then(async () => {
      try {
        await post("/api/mark", { n: facts.n, bad: next ? next.bad : null, why: next ? next.why : [] });
        onmark(next);
      } catch (error) {
        if (undone.includes(step)) undone.splice(undone.indexOf(step), 1);
        mark = before;
        draw();
        failed(error);
      }
    });
    return busy;
  }

  const good = () => save(mark && !mark.bad ? null : { bad: false, why: [] });
  const bad = () => save(mark && mark.bad ? null : { bad: true, why: [] });

  function why(index) {
    const reason = about.value.marks.reasons[index];
    if (!reason) return;
    const had = mark?.bad ? mark.why : [];
    save({ bad: true, why: had.includes(reason.name) ? had.filter((one) => one !== reason.name) : [...had, reason.name] });
  }

  async function undo() {
    const last = undone.pop();
    if (!last) {
      notice("Nothing to take back.", "info");
      return;
    }
    const [n, key, before] = last;
    if (n === facts.n) {
      await save(before, false);
      return;
    }
    try {
      await post("/api/mark", { n, bad: before ? before.bad : null, why: before ? before.why : [] });
      notice(`The mark of ${key} was taken back.`, "info");
    } catch (error) {
      undone.push(last);
      failed(error);
    }
  }

  function draw() {
    const button = (text, key, on, act, title, kind) =>
      h(
        "button",
        { type: "button", class: `chip ${kind} ${on ? "on" : ""}`, "aria-pressed": String(Boolean(on)), title, onclick: act },
        h("kbd", {}, key),
        text,
      );
    element.replaceChildren(
      button("good", "g", mark && !mark.bad, good, "everything is right", "good"),
      button("bad", "b", mark?.bad, bad, "something is wrong", "bad"),
      ...about.value.marks.reasons.map((reason, index) =>
        button(
          reason.name.replaceAll("_", " "),
          String(index + 1),
          mark?.bad && mark.why.includes(reason.name),
          () => why(index),
          reason.text,
          "why",
        ),
      ),
      h(
        "button",
        { type: "button", class: "quiet", onclick: undo, title: "take the last mark back" },
        h("kbd", {}, "u"),
        "undo",
      ),
    );
  }

  draw();
  return { element, good, bad, why, undo };
}
