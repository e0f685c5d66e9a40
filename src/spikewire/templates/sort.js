// A click on a column's head sorts the rows of each level by it, the largest first; again, the
// smallest first. What has no value stays below.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const falling = head.ariaSort !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.ariaSort = falling ? "descending" : "ascending";
      for (const body of table.tBodies) sort(body, column, falling);
    });
  });
}

function sort(body, column, falling) {
  const rows = [...body.rows].filter((row) => !row.classList.contains("level"));
  const key = (row) => {
    const cell = row.cells[column];
    return "value" in cell.dataset ? Number.parseFloat(cell.dataset.value) : cell.textContent.trim();
  };
  rows.sort((one, other) => {
    const [a, b] = [key(one), key(other)];
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    const order = typeof a === "number" ? a - b : a.localeCompare(b);
    return falling ? -order : order;
  });
  body.append(...rows);
}
