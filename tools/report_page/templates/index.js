"use strict";
const facts = JSON.parse(document.getElementById("data").textContent);
const table = document.querySelector(".runs");
const body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells];
const boxes = [...body.querySelectorAll("input")];
const search = document.getElementById("search");

const valueOf = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();

// Numbers before texts, and cells without a value last, whichever way the column is sorted.
function order(one, other, sign) {
  if (one === "" || other === "") return (one === "") - (other === "");
  const numbers = [Number(one), Number(other)];
  return sign * (numbers.some(Number.isNaN) ? one.localeCompare(other) : numbers[0] - numbers[1]);
}

function sortBy(head) {
  const sign = head.ariaSort === "descending" ? 1 : -1;
  const column = heads.indexOf(head);
  for (const one of heads) if (one.ariaSort) one.ariaSort = "none";
  head.ariaSort = sign === 1 ? "ascending" : "descending";
  body.append(...[...body.rows].sort((one, other) => order(valueOf(one, column), valueOf(other, column), sign)));
}

function filter() {
  const words = search.value.toLowerCase().split(/\s+/);
  for (const row of body.rows) {
    row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  }
  const left = [...body.rows].filter((row) => !row.hidden).length;
  document.getElementById("count").textContent = `${left} of ${boxes.length} runs`;
}

function make(tag, ...children) {
  const element = document.createElement(tag);
  element.append(...children);
  return element;
}

function shown(value) {
  if (value === null || value === undefined) return "–";
  return typeof value === "string" ? value : JSON.stringify(value);
}

function heading(text) {
  const cell = make("th", text);
  cell.scope = "col";
  return cell;
}

function part(title, { names, values }, [one, other], labels) {
  const rows = names.flatMap((name, place) => {
    const [left, right] = [values[one][place], values[other][place]];
    if (shown(left) === shown(right)) return [];
    const numbers = typeof left === "number" && typeof right === "number";
    const head = make("th", make("code", name));
    head.scope = "row";
    const change = numbers ? Number((right - left).toPrecision(4)) : "";
    return [make("tr", head, make("td", shown(left)), make("td", shown(right)),
      make("td", change === "" ? "" : `${change > 0 ? "+" : ""}${change}`))];
  });
  if (!rows.length) return [make("h3", title), make("p", "The same.")];
  const top = make("thead", make("tr", heading("name"), ...labels.map(heading), heading("change")));
  const wide = make("div", make("table", top, make("tbody", ...rows)));
  wide.className = "wide";
  return [make("h3", `${title}: ${rows.length} differ`), wide];
}

function compare() {
  const chosen = boxes.filter((box) => box.checked);
  for (const box of boxes) box.disabled = chosen.length === 2 && !box.checked;
  document.getElementById("hint").hidden = chosen.length === 2;
  const target = document.getElementById("differences");
  target.replaceChildren();
  if (chosen.length !== 2) return;
  // The older one first: what it was, and what it is.
  const dated = chosen.toSorted((one, other) => order(...[one, other].map((box) => valueOf(box.closest("tr"), 2)), 1));
  const pair = dated.map((box) => Number(box.value));
  const labels = dated.map((box) => valueOf(box.closest("tr"), 1));
  target.append(...part("Settings", facts.settings, pair, labels), ...part("Measured", facts.measured, pair, labels));
}

for (const head of heads) head.querySelector("button")?.addEventListener("click", () => sortBy(head));
search.addEventListener("input", filter);
body.addEventListener("change", compare);
compare();
