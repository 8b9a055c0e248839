"use strict";

// Charts. `ast` makes Vega interpret expressions: the page's policy forbids compiling them.
const specs = JSON.parse(document.getElementById("specs").textContent);
const drawn = Object.entries(specs).map(([name, spec]) =>
  vegaEmbed(document.getElementById(`chart-${name}`), spec, {
    ast: true,
    actions: false,
    renderer: "svg",
    defaultStyle: false,
    tooltip: { disableDefaultStyle: true },
  })
);
Promise.all(drawn).then(() => {
  document.documentElement.dataset.charts = String(drawn.length);
});

// Tables that can be searched and sorted.
const plain = (text) => text.normalize("NFKD").toLowerCase();

function makeSearchable(table) {
  const rows = [...table.tBodies[0].rows];
  const texts = rows.map((row) => plain(row.dataset.text));
  const box = document.getElementById(table.dataset.search);
  const said = document.getElementById(`${table.dataset.search}-said`);
  const search = () => {
    const words = plain(box.value).split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, k) => {
      row.hidden = !words.every((word) => texts[k].includes(word));
      shown += row.hidden ? 0 : 1;
    });
    said.textContent = words.length ? `${shown} of ${rows.length} shown` : "";
  };
  box.addEventListener("input", search);
  box.closest(".find").hidden = false;
  search();
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    if (header.tagName !== "TH") return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const down = header.getAttribute("aria-sort") !== "descending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        const numbers = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
        return numbers ? x - y : x.localeCompare(y, undefined, { numeric: true });
      };
      const sorted = [...body.rows].sort((a, b) => (down ? compare(b, a) : compare(a, b)));
      body.append(...sorted);
    });
  });
}

for (const table of document.querySelectorAll("table.searched")) {
  makeSearchable(table);
  makeSortable(table);
}
