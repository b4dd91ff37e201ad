"use strict";

// Tables: the button in a header sorts by its column; cells without a value stay last.
// The order of two cells, or null where one of them has no value.
const compare = (a, b) => {
  const x = a.dataset.sort, y = b.dataset.sort;
  if (x === undefined || y === undefined) return null;
  const number = Number(x) - Number(y);
  return Number.isNaN(number) ? x.localeCompare(y) : number;
};

const sort = (table, header) => {
  const numeric = header.classList.contains("number");
  const current = header.getAttribute("aria-sort");
  const ascending = current ? current === "descending" : !numeric;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((r, s) => {
    const a = r.cells[header.cellIndex], b = s.cells[header.cellIndex];
    const order = compare(a, b);
    if (order === null) return (a.dataset.sort === undefined) - (b.dataset.sort === undefined);
    return ascending ? order : -order;
  });
  body.append(...rows);
};

for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => sort(button.closest("table"), button.parentElement));
}

// Grids: the image under the pointer is marked at the same place in all of them.
const grids = [...document.querySelectorAll(".grid.shared")];

const mark = (column, row) => {
  for (const grid of grids) {
    const columns = Number(grid.dataset.columns), rows = Number(grid.dataset.rows);
    const spot = grid.querySelector(".spot");
    spot.hidden = column === null || row >= rows;
    if (spot.hidden) continue;
    Object.assign(spot.style, {
      left: `${(100 * column) / columns}%`, top: `${(100 * row) / rows}%`,
      width: `${100 / columns}%`, height: `${100 / rows}%`,
    });
  }
};

for (const grid of grids) {
  grid.addEventListener("pointermove", (event) => {
    const box = grid.getBoundingClientRect();
    const columns = Number(grid.dataset.columns), rows = Number(grid.dataset.rows);
    const place = (part, count) => Math.min(count - 1, Math.max(0, Math.floor(part * count)));
    const column = place((event.clientX - box.left) / box.width, columns);
    const row = place((event.clientY - box.top) / box.height, rows);
    mark(column, row);
  });
  grid.addEventListener("pointerleave", () => mark(null, 0));
}
