"use strict";
// Rows are drawn a hundred at a time as the reader comes near them: five thousand at once would keep them waiting.
const CHUNK = 100;
const AHEAD = 800; // pixels below the window
const { models, rows, score } = JSON.parse(document.getElementById("data").textContent);
const [first, second, third] = models;
const [list, more, search] = ["rows", "more", "search"].map((id) => document.getElementById(id));
const better = (row, one, other) => Number(row[one][score]) - Number(row[other][score]);
const FILTERS = {
  "all": () => true,
  [`${second} won`]: (row) => better(row, second, first) > 0,
  [`${second} lost`]: (row) => better(row, second, first) < 0,
  [`${third} differs`]: (row) => row[third].answer !== row[second].answer,
  [`${third} won`]: (row) => better(row, third, second) > 0,
  [`${third} lost`]: (row) => better(row, third, second) < 0,
  "all wrong": (row) => !models.some((model) => row[model].exact_match),
  "all right": (row) => models.every((model) => row[model].exact_match),
  "did not end": (row) => !models.every((model) => row[model].stopped),
};
let [filter, shown, drawn] = ["all", rows, 0];

function make(tag, name, ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...children);
  return element;
}

function said(message) {
  const calls = (message.tool_calls || []).map((call) => JSON.stringify(call.function));
  return [message.content, ...calls].filter(Boolean).join("\n");
}

function question(row) {
  const [only, ...rest] = row.question;
  if (!rest.length && only.role === "user" && !row.tools) return [said(only)];
  const parts = row.question.flatMap((message) => [make("span", "role", message.role), said(message) + "\n"]);
  return row.tools ? [make("span", "role", "tools"), JSON.stringify(row.tools) + "\n", ...parts] : parts;
}

// What of an answer is not in the other one, between the words that both begin and end with.
function marked(text, other) {
  const [ours, theirs] = [text, other].map((words) => words.split(/(\s+)/));
  let start = 0;
  let end = 0;
  const least = Math.min(ours.length, theirs.length);
  while (start < least && ours[start] === theirs[start]) start += 1;
  while (end < least - start && ours[ours.length - 1 - end] === theirs[theirs.length - 1 - end]) end += 1;
  const middle = ours.slice(start, ours.length - end).join("");
  return [ours.slice(0, start).join(""), make("mark", "", middle), ours.slice(ours.length - end).join("")];
}

function text(row) {
  row.text ??= [...row.question.map(said), row.reference, ...models.map((model) => row[model].answer)]
    .join("\n").toLowerCase();
  return row.text;
}

function answer(row, model) {
  const found = row[model];
  const left = models[models.indexOf(model) - 1];
  const change = left ? better(row, model, left) : 0;
  const sign = found.exact_match ? make("span", "good", "✓ ") : make("span", "bad", "✗ ");
  sign.title = `chrF ${found.chrf}, ROUGE-L ${found.rouge_l}`;
  const arrow = change > 0 ? make("span", "good", "▲ ") : make("span", "bad", "▼ ");
  const words = model === third ? marked(found.answer, row[second].answer) : [found.answer];
  return cell(model, sign, ...(change ? [arrow] : []), ...words, found.stopped ? "" : " …");
}

function cell(name, ...children) {
  const element = make("div", "cell", ...children);
  if (name) element.dataset.name = name;
  return element;
}

function draw() {
  const part = shown.slice(drawn, drawn + CHUNK).map((row) => {
    const element = make("div", "row", cell("", ...question(row)), cell("reference", row.reference));
    element.append(...models.map((model) => answer(row, model)));
    element.tabIndex = -1;
    return element;
  });
  list.append(...part);
  drawn += part.length;
  for (const element of part) {
    for (const child of element.children) child.classList.toggle("cut", child.scrollHeight > child.clientHeight + 1);
  }
}

function update() {
  const words = search.value.toLowerCase().split(/\s+/);
  shown = rows.filter((row) => FILTERS[filter](row) && words.every((word) => text(row).includes(word)));
  document.getElementById("count").textContent = `${shown.length} of ${rows.length} rows`;
  for (const button of document.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.filter === filter));
  }
  list.replaceChildren();
  drawn = 0;
  fill();
}

function fill() {
  while (drawn < shown.length && more.getBoundingClientRect().top < innerHeight + AHEAD) draw();
}

function choose(name) {
  filter = name;
  update();
}

function move(step) {
  const now = list.contains(document.activeElement) ? [...list.children].indexOf(document.activeElement) : -1;
  if (now + step >= drawn) draw();
  const next = list.children[Math.max(0, now + step)];
  if (next) next.focus();
}

const KEYS = {
  j: () => move(1),
  k: () => move(-1),
  "/": () => search.focus(),
  Enter: () => document.activeElement.classList.toggle("open"),
  Escape: () => { search.value = ""; search.blur(); choose("all"); },
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === search && event.key !== "Escape") return;
  if (event.key === "Enter" && !list.contains(event.target)) return;
  const name = Object.keys(FILTERS)[Number(event.key) - 1];
  const action = name ? () => choose(name) : KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});
list.addEventListener("click", (event) => {
  const row = event.target.closest(".row");
  if (row && !String(getSelection())) row.classList.toggle("open");
});
search.addEventListener("input", update);
document.body.style.setProperty("--models", models.length);
Object.entries(FILTERS).forEach(([name, test]) => {
  const button = make("button", "", `${name} `, make("span", "soft", rows.filter(test).length));
  button.dataset.filter = name;
  button.addEventListener("click", () => choose(name));
  document.getElementById("filters").append(button);
});
addEventListener("scroll", fill, { passive: true });
addEventListener("resize", fill);
update();
