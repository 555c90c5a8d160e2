"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (id) => document.getElementById(id);
  const data = JSON.parse(one("data").textContent);

  // Texts of records go in as text alone, never as markup.
  const made = (tag, text = "", className = "") => {
    const element = document.createElement(tag);
    element.textContent = text;
    if (className) element.className = className;
    return element;
  };

  // Sorting

  const place = (head) => {
    const table = head.closest("table");
    const fixed = all("thead tr:first-child > th[rowspan]", table);
    const figures = all("thead tr:last-child > th", table);
    return [fixed[0], ...figures, fixed[1]].indexOf(head);
  };

  const key = (row, column, numeric) => {
    const cell = row.children[column];
    if (!numeric) return row.dataset.name;
    return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
  };

  const sort = (head) => {
    const numeric = head.dataset.kind === "number";
    // The better end first, then the other.
    const best = numeric && head.dataset.lower === undefined ? "descending" : "ascending";
    const other = best === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === best ? other : best;
    const sign = order === "ascending" ? 1 : -1;
    const column = place(head);
    const body = head.closest("table").tBodies[0];
    const rows = [...body.rows].map((row) => [key(row, column, numeric), row]);
    rows.sort(([a], [b]) => {
      // What there is not comes last either way.
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
    });
    body.append(...rows.map(([, row]) => row));
    for (const each of all("th[aria-sort]", head.closest("table"))) {
      each.setAttribute("aria-sort", each === head ? order : "none");
    }
  };

  // Filters

  // Leaves one column of a table, or all, and returns how many figures there are in a row.
  const leave = (view, column) => {
    const left = (head) => !column || head.dataset.column === column;
    for (const head of all("th.group", view)) head.hidden = !left(head);
    const heads = all("th[data-metric]", view);
    heads.forEach((head, index) => {
      head.hidden = !left(head);
      for (const row of all("tbody tr", view)) row.children[index + 1].hidden = head.hidden;
    });
    return heads.filter(left).length;
  };

  const filters = one("filters");
  const filter = () => {
    const words = one("text").value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    const chosen = Object.fromEntries(
      all("[data-filter]").map((select) => [select.dataset.filter, select.value]),
    );
    const fits = (element, name) => !chosen[name] || element.dataset[name] === chosen[name];
    const names = new Set();
    for (const section of all(".setting")) {
      const wanted = ["suite", "preset", "network"].every((name) => fits(section, name));
      let shown = 0;
      for (const view of all(".view", section)) {
        let rows = 0;
        const columns = leave(view, chosen.column);
        for (const row of all("tbody tr", view)) {
          const name = row.dataset.name.toLowerCase();
          row.hidden = words.length > 0 && !words.some((word) => name.includes(word));
          rows += !row.hidden;
        }
        view.hidden = !rows || !columns || !fits(view, "view");
        shown += !view.hidden;
      }
      section.hidden = !wanted || !shown;
      if (section.hidden) continue;
      for (const row of all(".view:not([hidden]) tbody tr:not([hidden])", section)) {
        names.add(row.dataset.name);
      }
    }
    one("nothing").hidden = names.size > 0;
    one("count").textContent = `${names.size} detector${names.size === 1 ? "" : "s"}`;
  };

  // From a figure to its records

  const percent = (value) => (100 * value).toFixed(2);
  const between = ([value, low, high]) =>
    percent(value) + (low === undefined ? "" : ` [${percent(low)}, ${percent(high)}]`);

  const told = (value) => {
    if (value === null || value === undefined) return "–";
    if (typeof value !== "object") return String(value);
    if (Array.isArray(value)) return value.map(told).join(", ") || "–";
    const parts = Object.entries(value).map(([name, inner]) => {
      const nested = inner !== null && typeof inner === "object" && !Array.isArray(inner);
      return nested ? `${name} (${told(inner)})` : `${name} ${told(inner)}`;
    });
    return parts.join("; ") || "–";
  };

  const NAMES = {
    fpr95: "FPR@95", fpr95_ood: "FPR@95 (OpenOOD)", auroc: "AUROC", aupr_out: "AUPR, OOD positive",
    aupr_in: "AUPR, ID positive", detection_error: "Detection error", fnr: "FNR@95",
    accuracy: "ID accuracy", cell_key: "cell key", n_id: "ID images", n_ood: "OOD images",
  };
  const CODE = new Set(["identity", "file", "cell_key", "digests"]);

  const entry = (list, name, text) => {
    list.append(made("dt", NAMES[name] || name.replaceAll("_", " ")));
    list.append(made("dd", text, CODE.has(name) ? "code" : ""));
  };

  const recordOf = (record) => {
    const details = made("details", "", "record");
    const summary = made("summary");
    summary.append(made("span", `${record.set}, seed ${record.seed}`, "what"));
    for (const name of ["fpr95", "auroc"]) {
      summary.append(made("span", `${NAMES[name]} ${between(record.metrics[name])}`, "how"));
    }
    details.append(summary);
    // Filled when it is opened: a mean may have many.
    details.addEventListener("toggle", () => {
      if (details.children.length > 1) return;
      const list = made("dl");
      entry(list, "identity", record.identity);
      entry(list, "file", record.file);
      for (const [name, triple] of Object.entries(record.metrics)) {
        entry(list, name, `${between(triple)} %`);
      }
      if (record.attack) {
        const { health, gradient, fallback, ...attack } = record.attack;
        entry(list, "attack", told(attack));
        entry(list, "attack_health", told(health));
        entry(list, "gradient", told(gradient));
        if (fallback) entry(list, "fallback", told(fallback));
      }
      const done = new Set(["identity", "file", "metrics", "attack", "set", "seed"]);
      for (const [name, value] of Object.entries(record)) {
        if (done.has(name)) continue;
        const shared = data.are_shared.includes(name);
        entry(list, name, told(shared ? data.shared[value] : value));
      }
      details.append(list);
    });
    return details;
  };

  const panel = one("panel");
  const show = (number) => {
    const cell = data.cells[number];
    one("panel-title").textContent = `${cell.row} · ${cell.column}`;
    const body = one("panel-body");
    body.replaceChildren(made("p", `${cell.table}; ${cell.view}`, "caption"));
    const figures = made("div", "", "figures");
    for (const [name, text, best] of cell.values) {
      const figure = made("span", `${name} `);
      figure.append(made("b", text), best ? " best, or tied with it" : "");
      figures.append(figure);
    }
    for (const [name, text] of cell.published) {
      figures.append(made("span", `published ${name} ${text}`, "published"));
    }
    body.append(figures);
    const parameters = told(cell.params);
    if (parameters !== "–") body.append(made("p", `Parameters: ${parameters}`, "caption"));
    const notes = [...cell.notes, ...(cell.source ? [`Published: ${cell.source}`] : [])];
    if (notes.length) {
      const list = made("ul");
      list.append(...notes.map((note) => made("li", note)));
      body.append(list);
    }
    const records = cell.records.map((index) => recordOf(data.records[index]));
    const count = records.length;
    body.append(made("h3", `${count} record${count === 1 ? "" : "s"}, intervals at 95 %`));
    body.append(...records);
    if (count === 1) records[0].open = true;
    panel.showModal();
    panel.scrollTop = 0;
  };

  document.addEventListener("click", (event) => {
    const head = event.target.closest("button.sort");
    if (head) sort(head.closest("th"));
    const cell = event.target.closest("button.cell");
    if (cell) show(Number(cell.dataset.cell));
    if (event.target === panel || event.target.closest("#close")) panel.close();
  });
  filters.addEventListener("input", filter);
  // Some ways to choose, assistive ones among them, tell of the change alone.
  filters.addEventListener("change", filter);
  filters.addEventListener("submit", (event) => event.preventDefault());
  // The fields are empty only after the event.
  filters.addEventListener("reset", () => setTimeout(filter));
  filters.hidden = false;
  filter();
})();
