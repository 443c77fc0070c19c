"use strict";
// The theme follows the system until the reader chooses another; the choice is remembered where the browser allows it.
const THEMES = ["auto", "light", "dark"];
const toggle = document.getElementById("theme");

function remembered() {
  try { return localStorage.getItem("lockstep-theme"); } catch { return null; }
}

function choose(theme) {
  document.documentElement.dataset.theme = theme;
  toggle.textContent = `Theme: ${theme}`;
  try { localStorage.setItem("lockstep-theme", theme); } catch { /* a browser that keeps nothing for files */ }
}

toggle.hidden = false;
choose(THEMES.includes(remembered()) ? remembered() : "auto");
toggle.addEventListener("click", () => {
  choose(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);
});
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});
