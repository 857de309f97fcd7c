"use strict";
(function () {
  const root = document.documentElement;
  root.classList.add("js");
  const all = (selector, within) => Array.from((within || document).querySelectorAll(selector));
  const form = document.querySelector(".filters");
  const fields = ["q", "model", "gpus", "strategy", "verdict"];
  const state = {};

  // The address holds what is chosen, so that a view can be sent: #model=resnet18&gpus=2&sort=-speedup
  function read() {
    const told = location.hash.includes("=") ? new URLSearchParams(location.hash.slice(1)) : new URLSearchParams();
    for (const name of [...fields, "sort", "all"]) state[name] = told.get(name) || "";
    for (const name of fields) if (form.elements[name]) form.elements[name].value = state[name];
    form.elements.sort.value = state.sort;
    form.elements.all.checked = state.all === "1";
  }
  function keep() {
    const told = new URLSearchParams(Object.entries(state).filter(([, value]) => value));
    history.replaceState(null, "", "#" + (told.toString() || "tables"));
    show();
  }

  function filter() {
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = all(".results tbody tr");
    let shown = 0;
    for (const row of rows) {
      const text = (row.dataset.case + " " + row.textContent).toLowerCase();
      const fits = fields.slice(1).every((name) => !state[name] || row.dataset[name] === state[name]);
      row.hidden = !(fits && words.every((word) => text.includes(word)));
      shown += !row.hidden;
    }
    document.querySelector(".found").textContent = shown + " of " + rows.length + " cases";
    for (const part of all("#tables .model")) part.hidden = !all("tbody tr", part).some((row) => !row.hidden);
    for (const row of all(".choices tbody tr"))
      row.hidden = ["model", "gpus"].some((name) => state[name] && row.dataset[name] !== state[name]);
    for (const part of all("details.model")) {
      part.hidden = Boolean(state.model) && part.dataset.model !== state.model;
      if (state.model && !part.hidden) part.open = true;
    }
    document.body.classList.toggle("all", state.all === "1");
  }

  // A cell without a value sorts last, whichever way the others go.
  function compare(one, other, place, down) {
    const [a, b] = [one, other].map((row) => {
      const cell = row.cells[place];
      return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
    });
    const [known, also] = [a, b].map((value) => value !== "n/a" && value !== "-" && value !== "NO");
    if (known !== also) return known ? -1 : 1;
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
    return down ? -order : order;
  }
  function sort() {
    const down = state.sort.startsWith("-");
    const name = state.sort.replace("-", "");
    for (const table of all(".results")) {
      const heads = all("th[data-sort]", table);
      for (const head of heads) head.removeAttribute("aria-sort");
      const place = heads.findIndex((head) => head.dataset.sort === name);
      const body = table.tBodies[0];
      const rows = Array.from(body.rows);
      rows.forEach((row, at) => { if (row.dataset.at === undefined) row.dataset.at = at; });
      rows.sort((a, b) => (place < 0 ? 0 : compare(a, b, place, down)) || a.dataset.at - b.dataset.at);
      body.append(...rows);
      if (place >= 0) heads[place].setAttribute("aria-sort", down ? "descending" : "ascending");
    }
  }

  // Of figures for several numbers of GPUs one is shown at a time.
  function choose(card, panel) {
    for (const one of all(".panel", card)) one.hidden = one !== panel;
    for (const tab of all(".tabs button", card)) tab.setAttribute("aria-pressed", String(tab.panel === panel));
  }
  function tabs() {
    for (const card of all(".card")) {
      const panels = all(".panel", card);
      if (panels.length < 2) continue;
      const row = document.createElement("div");
      row.className = "tabs";
      for (const panel of panels) {
        const tab = document.createElement("button");
        tab.type = "button";
        tab.textContent = panel.dataset.label;
        tab.panel = panel;
        tab.addEventListener("click", () => choose(card, panel));
        row.append(tab);
      }
      card.querySelector("h4").after(row);
    }
  }
  function panels() {
    for (const card of all(".card")) {
      const every = all(".panel", card);
      if (every.length < 2) continue;
      const asked = every.find((panel) => panel.dataset.gpus === state.gpus);
      // The most GPUs whose times count: a star marks those that do not.
      const sound = every.filter((panel) => !panel.dataset.label.includes("*"));
      const most = Math.max(...sound.map((panel) => Number(panel.dataset.gpus)));
      choose(card, asked || sound.find((panel) => Number(panel.dataset.gpus) === most) || every[every.length - 1]);
    }
  }
  function show() { filter(); sort(); panels(); }

  function save(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  const quoted = (cell) => {
    const text = cell === null ? "n/a" : String(cell);
    return /[",\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  };
  function take(button) {
    const data = document.getElementById("data").textContent;
    if (button.dataset.take === "json") return save("report.json", "application/json", data);
    const panel = button.closest(".panel");
    const name = panel.dataset.figure;
    if (button.dataset.take === "svg") {
      const drawing = panel.querySelector("svg");
      return save(name + ".svg", "image/svg+xml", new XMLSerializer().serializeToString(drawing));
    }
    const figure = JSON.parse(data).figures[name];
    const lines = [figure.head, ...figure.rows].map((row) => row.map(quoted).join(","));
    return save(name + ".csv", "text/csv", lines.join("\n") + "\n");
  }

  tabs();
  read();
  show();
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    const field = event.target;
    state[field.name] = field.type === "checkbox" ? (field.checked ? "1" : "") : field.value;
    keep();
  });
  for (const head of all("th[data-sort]")) {
    head.tabIndex = 0;
    const turn = () => {
      const name = head.dataset.sort;
      // Numbers begin with the largest, words with the first; then the other way, then as they ran.
      const order = head.classList.contains("number") ? ["-" + name, name, ""] : [name, "-" + name, ""];
      state.sort = order[(order.indexOf(state.sort) + 1) % 3];
      keep();
    };
    head.addEventListener("click", turn);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") turn(); });
  }
  for (const button of all("button[data-take]")) button.addEventListener("click", () => take(button));
  window.addEventListener("hashchange", () => { if (location.hash.includes("=")) { read(); show(); } });
  // On a narrow screen one model is enough to begin with; on paper they are all there.
  const closed = all("details.model").slice(1);
  if (matchMedia("(max-width: 46rem)").matches && !state.model) for (const part of closed) part.open = false;
  window.addEventListener("beforeprint", () => { for (const part of closed) part.open = true; });
})();
