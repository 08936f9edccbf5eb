// A table that is sorted, searched and ticked in the browser. All is text; only a detail is HTML, which the server wrote.
function make(name, kind = "", content = "") {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (content) made.textContent = content;
  return made;
}

function say(node, content) {
  if (node.textContent !== content) node.textContent = content;
}

function dropdown(label, kind) {
  const chosen = make("select", kind);
  chosen.setAttribute("aria-label", label);
  return chosen;
}

export function render({model}) {
  const box = make("div", "ls listing"), tools = make("div", "tools"), search = make("input"), count = make("span", "quiet nums");
  const order = dropdown("Sort by", "order"), table = make("table"), head = make("thead"), body = make("tbody");
  const top = make("tr"), none = make("p", "quiet none");
  let by = model.sort, down = true;
  const lines = new Map();

  search.type = "search";
  search.placeholder = "Search";
  search.setAttribute("aria-label", `Search ${model.label.toLowerCase()}`);
  count.setAttribute("role", "status");
  tools.append(search, order, count);
  table.setAttribute("role", "table");
  table.setAttribute("aria-label", model.label);
  for (const part of [head, body]) part.setAttribute("role", "rowgroup");
  top.setAttribute("role", "row");
  head.append(top);
  table.append(head, body);
  box.append(tools, table, none);

  const tick = (label, changed) => {
    const mark = make("input");
    mark.type = "checkbox";
    mark.setAttribute("aria-label", label);
    mark.addEventListener("change", () => changed(mark.checked));
    return mark;
  };
  const choose = (ids, on) => {
    const kept = model.selected.filter(id => !ids.includes(id));
    model.selected = on ? [...kept, ...ids].sort((a, b) => a - b) : kept;
  };

  const every = tick("Select all", on => choose(shown().map(row => row.id), on));
  if (model.selectable) {
    const cell = make("th", "tick");
    cell.setAttribute("role", "columnheader");
    cell.append(every);
    top.append(cell);
  }
  const heads = model.columns.map(column => {
    const cell = make("th"), button = make("button", "", column.label);
    cell.setAttribute("role", "columnheader");
    button.type = "button";
    button.addEventListener("click", () => {
      [by, down] = by === column.name ? [by, !down] : [column.name, false];
      draw();
    });
    cell.append(button);
    top.append(cell);
    for (const [way, mark] of [[false, "↑"], [true, "↓"]]) {
      const option = make("option", "", `${column.label} ${mark}`);
      option.value = `${column.name} ${way}`;
      order.append(option);
    }
    return [column.name, cell];
  });
  const last = make("th");
  last.setAttribute("role", "columnheader");
  last.append(make("span", "unseen", "Actions"));
  top.append(last);
  order.addEventListener("change", () => {
    const [name, way] = order.value.split(" ");
    [by, down] = [name, way === "true"];
    draw();
  });
  search.addEventListener("input", () => draw());

  const key = row => row.cells[by].sort ?? row.cells[by].text;
  const compare = (a, b) => {
    const [one, other] = [key(a), key(b)];
    const ahead = typeof one === "number" && typeof other === "number" ? one - other
      : String(one).localeCompare(String(other), undefined, {numeric: true, sensitivity: "base"});
    return (ahead || a.id - b.id) * (down ? -1 : 1);
  };
  const shown = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const all = row => Object.values(row.cells).map(cell => `${cell.text} ${cell.note ?? ""}`).join(" ").toLowerCase();
    return model.rows.filter(row => words.every(word => all(row).includes(word))).sort(compare);
  };

  // A row is made once and changed in place, so that the focus stays where it is.
  const line = row => {
    const made = {row: make("tr"), cells: new Map(), actions: make("td", "actions"), names: ""};
    made.row.setAttribute("role", "row");
    if (model.selectable) {
      const cell = make("td", "tick");
      cell.setAttribute("role", "cell");
      made.tick = tick("", on => choose([row.id], on));
      cell.append(made.tick);
      made.row.append(cell);
    }
    for (const column of model.columns) {
      const cell = make("td", column.kind ?? ""), label = make("span", "label", column.label), text = make("span", "text");
      const note = make("span", "quiet note"), bar = make("span", "bar"), filled = make("i");
      cell.setAttribute("role", "cell");
      label.setAttribute("aria-hidden", "true");
      bar.append(filled);
      bar.setAttribute("role", "progressbar");
      bar.setAttribute("aria-label", "Computation");
      const content = make("span", "content");
      content.append(text, note, bar);
      cell.append(label, content);
      made.row.append(cell);
      made.cells.set(column.name, {text, note, bar, filled});
    }
    made.actions.setAttribute("role", "cell");
    made.row.append(made.actions);
    made.detail = make("tr", "detail");
    made.detail.setAttribute("role", "row");
    made.held = make("td");
    made.held.setAttribute("role", "cell");
    made.held.colSpan = model.columns.length + 1 + (model.selectable ? 1 : 0);
    made.detail.append(made.held);
    return made;
  };

  const fill = (made, row) => {
    const name = row.cells[model.columns[0].name].text;
    if (made.tick) {
      made.tick.setAttribute("aria-label", `Select ${name}`);
      made.tick.checked = model.selected.includes(row.id);
      made.row.classList.toggle("chosen", made.tick.checked);
    }
    for (const [column, {text, note, bar, filled}] of made.cells) {
      const cell = row.cells[column];
      say(text, cell.text);
      text.className = `text ${cell.tone ?? ""}`;
      say(note, cell.note ?? "");
      bar.hidden = cell.share === undefined;
      if (!bar.hidden) {
        filled.style.width = `${cell.share}%`;
        bar.setAttribute("aria-valuenow", cell.share);
      }
    }
    const open = model.detail.id === row.id;
    const names = JSON.stringify([row.actions, open]);
    if (names !== made.names) {
      made.names = names;
      const held = made.actions.getRootNode().activeElement?.dataset?.does;
      const here = held !== undefined && made.actions.contains(made.actions.getRootNode().activeElement);
      made.actions.replaceChildren(...row.actions.map(({does, label}) => {
        const button = make("button", "", label);
        button.type = "button";
        button.dataset.does = does;
        button.setAttribute("aria-label", `${label}: ${name}`);
        if (does === "detail") button.setAttribute("aria-expanded", String(open));
        button.addEventListener("click", () => model.send_msg({does, id: row.id}));
        return button;
      }));
      if (here) made.actions.querySelector(`[data-does="${held}"]`)?.focus();
    }
    if (made.html !== (open ? model.detail.html : "")) {
      made.html = open ? model.detail.html : "";
      made.held.innerHTML = made.html;
    }
    return open ? [made.row, made.detail] : [made.row];
  };

  function draw() {
    const rows = shown(), ids = new Set(model.rows.map(row => row.id));
    for (const id of lines.keys()) if (!ids.has(id)) lines.delete(id);
    const wanted = rows.flatMap(row => {
      if (!lines.has(row.id)) lines.set(row.id, line(row));
      return fill(lines.get(row.id), row);
    });
    if (wanted.length !== body.children.length || wanted.some((node, i) => body.children[i] !== node)) {
      body.replaceChildren(...wanted);
    }
    for (const [name, cell] of heads) {
      const way = name === by ? (down ? "descending" : "ascending") : "none";
      if (cell.getAttribute("aria-sort") !== way) cell.setAttribute("aria-sort", way);
    }
    order.value = `${by} ${down}`;
    const chosen = rows.filter(row => model.selected.includes(row.id)).length;
    every.checked = rows.length > 0 && chosen === rows.length;
    every.indeterminate = chosen > 0 && chosen < rows.length;
    table.hidden = rows.length === 0;
    tools.hidden = model.rows.length === 0;
    say(none, rows.length ? "" : model.rows.length ? "Nothing here has all these words." : model.empty);
    say(count, search.value.trim() ? `${rows.length} of ${model.rows.length}` : `${model.rows.length} in all`);
  }

  for (const name of ["rows", "selected", "detail"]) model.on(name, draw);
  draw();
  return box;
}
