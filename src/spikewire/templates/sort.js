// A click on a column's head sorts the rows of each level by it: numbers the largest first, names from
// A; again, the other way round. What has no value stays below.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if ("unsorted" in head.dataset) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.classList.contains("number") ? "descending" : "ascending";
      const second = first === "descending" ? "ascending" : "descending";
      const order = head.ariaSort === first ? second : first;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.ariaSort = order;
      for (const body of table.tBodies) sort(body, column, order === "descending");
    });
  });
}

function sort(body, column, falling) {
  const rows = [...body.rows].filter((row) => !row.classList.contains("level"));
  const key = (row) => {
    const { dataset, textContent } = row.cells[column];
    return "value" in dataset ? Number.parseFloat(dataset.value) : (dataset.name ?? textContent);
  };
  rows.sort((one, other) => {
    const [a, b] = [key(one), key(other)];
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    const order = typeof a === "number" ? a - b : a.localeCompare(b);
    return falling ? -order : order;
  });
  body.append(...rows);
}
