// The table of checkpoints. Everything that others wrote enters as text, never as HTML.
const NAMESPACE = "http://www.w3.org/2000/svg";
const PATHS = {
  pin: "M5 1h6l-1 1v4l2 2v1H8.6L8 15l-.6-6H4V8l2-2V2z",
  edit: "M2 14l1-4 8-8 3 3-8 8z M9.5 3.5l3 3",
};

function make(kind, attributes = {}, ...content) {
  const node = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...content);
  return node;
}

function icon(name) {
  const drawn = document.createElementNS(NAMESPACE, "svg");
  for (const [key, value] of Object.entries({viewBox: "0 0 16 16", width: 14, height: 14, "aria-hidden": "true"}))
    drawn.setAttribute(key, value);
  const path = document.createElementNS(NAMESPACE, "path");
  path.setAttribute("d", PATHS[name]);
  drawn.append(path);
  return drawn;
}

export function render({model}) {
  const say = (does, more = {}) => model.send_msg({does, ...more});
  let table = {}, renaming = null, drawing = false, wait = 0, last = null, lines = new Map(), heads = "";

  const search = make("input", {type: "search", "aria-label": "Search checkpoints", placeholder: "Search"});
  const count = make("span", {class: "quiet", role: "status"});
  const head = make("tr"), body = make("tbody");
  const scroll = make("div", {class: "scroll", role: "region", "aria-label": "Checkpoints", tabindex: "0"},
    make("table", {class: "checkpoints"}, make("caption", {class: "unseen"}, "Checkpoints"), make("thead", {}, head), body));
  const none = make("p", {class: "none quiet"});
  const palette = make("div", {class: "palette", popover: "auto", role: "group"});
  const whole = make("div", {class: "ls shelf"}, make("div", {class: "tools"}, search, count), scroll, none, palette);

  search.addEventListener("input", () => {
    clearTimeout(wait);
    wait = setTimeout(() => say("find", {query: search.value}), 200);
  });

  // Only rows that changed are made anew, so that a click on another one is not lost; what had the focus has it again.
  const draw = () => {
    table = JSON.parse(model.table);
    if (!table.rows) return;
    const root = whole.getRootNode(), key = root.activeElement?.dataset?.key;
    if (document.activeElement === document.body || root.activeElement !== search) search.value = table.query;
    count.textContent = table.count;
    none.textContent = table.empty;
    scroll.hidden = !table.rows.length;
    none.hidden = Boolean(table.rows.length);
    if (renaming && !table.rows.some(row => row.name === renaming.name)) renaming = null;
    const columns = JSON.stringify([table.columns, table.sort, table.descending]);
    const kept = columns === heads ? lines : new Map();
    if (columns !== heads) head.replaceChildren(chooseAll(), ...table.columns.map(heading));
    heads = columns;
    all();
    const typing = renaming && renaming.input === root.activeElement ? renaming.input : null;
    const range = typing ? [typing.selectionStart, typing.selectionEnd] : null;
    drawing = true;  // an input that is moved loses the focus for a moment
    lines = new Map(table.rows.map(row => {
      const said = JSON.stringify(row), before = kept.get(row.name);
      const open = renaming?.name === row.name;
      const node = before?.said === said && !open && !before.open ? before.node : line(row);
      node.querySelector("input[type=checkbox]").checked = row.chosen;
      return [row.name, {said, open, node}];
    }));
    const made = [...lines.values()].map(({node}) => node);
    place(made);
    drawing = false;
    if (typing) {
      renaming.input.focus();
      renaming.input.setSelectionRange(...range);
    } else if (key && root.activeElement?.dataset?.key !== key) {
      root.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
    }
  };

  // Rows that stay where they are are not touched.
  const place = made => {
    const wanted = new Set(made);
    for (const node of [...body.children]) if (!wanted.has(node)) node.remove();
    made.forEach((node, i) => { if (body.children[i] !== node) body.insertBefore(node, body.children[i] ?? null); });
  };

  const chooseAll = () => make("th", {scope: "col", class: "box"}, make("input", {type: "checkbox",
    "aria-label": "Choose all shown", "data-key": "all",
    onchange: event => say("all", {on: event.target.checked, names: table.rows.map(row => row.name)})}));

  const all = () => {
    const box = head.querySelector("input"), chosen = table.rows.filter(row => row.chosen).length;
    box.checked = chosen > 0 && chosen === table.rows.length;
    box.indeterminate = chosen > 0 && chosen < table.rows.length;
  };

  const heading = column => {
    const here = table.sort === column.key;
    const order = here ? (table.descending ? "descending" : "ascending") : "none";
    const mark = make("span", {class: "mark", "aria-hidden": "true"}, here ? (table.descending ? "▾" : "▴") : "");
    const button = make("button", {type: "button", "data-key": `sort ${column.key}`, title: column.more || null,
      onclick: () => say("sort", {column: column.key})}, column.label, mark);
    const units = column.units ? [make("small", {}, column.units)] : [];
    return make("th", {scope: "col", "aria-sort": order, class: column.number ? "number" : column.key}, button, ...units);
  };

  const line = row => {
    const box = make("input", {type: "checkbox", "aria-label": `Choose ${row.label}`, "data-key": `box ${row.name}`});
    box.checked = row.chosen;
    box.addEventListener("click", event => {
      const names = table.rows.map(one => one.name), from = names.indexOf(last), to = names.indexOf(row.name);
      const several = event.shiftKey && from >= 0 && names.slice(Math.min(from, to), Math.max(from, to) + 1);
      say("all", {on: box.checked, names: several || [row.name]});
      last = row.name;
    });
    const cells = row.cells.map((text, i) => cell(table.columns[i + 1], text, row));
    const kind = [row.chosen && "chosen", row.pinned && "pinned"].filter(Boolean).join(" ");
    return make("tr", {class: kind || null}, make("td", {class: "box"}, box), naming(row), ...cells);
  };

  const naming = row => {
    const pin = make("button", {type: "button", class: "pin", "aria-pressed": String(row.pinned), "data-key": `pin ${row.name}`,
      "aria-label": `Pin ${row.label}`, title: row.pinned ? "Unpin" : "Pin to the top, here and in all lists",
      onclick: () => say("pin", {name: row.name, on: !row.pinned})}, icon("pin"));
    const swatch = make("button", {type: "button", class: "swatch", "data-key": `colour ${row.name}`,
      "aria-label": `Colour of ${row.label}: ${row.colour_name}`, title: `${row.colour_name}: change the colour`,
      "aria-haspopup": "true", onclick: event => choose(row, event.currentTarget)}, make("i"));
    swatch.firstChild.style.background = row.colour;
    const inside = make("div", {class: "naming"}, pin, swatch, ...(renaming?.name === row.name ? [renaming.input] : called(row)));
    return make("th", {scope: "row"}, inside);
  };

  const called = row => {
    const name = row.label === row.name ? [] : [make("small", {class: "quiet"}, row.name)];
    const edit = make("button", {type: "button", class: "edit", "data-key": `edit ${row.name}`, title: "Rename",
      "aria-label": `Rename ${row.label}`, onclick: () => rename(row)}, icon("edit"));
    return [make("span", {class: "label"}, row.label, ...name), edit];
  };

  const rename = row => {
    const input = make("input", {type: "text", maxlength: "60", "aria-label": `Label of ${row.name}; empty for its name`});
    input.value = row.own;
    input.placeholder = row.name;
    const end = keep => {
      if (renaming?.input !== input) return;
      const back = whole.getRootNode().activeElement === input;
      renaming = null;
      if (keep && input.value.trim() !== row.own) say("rename", {name: row.name, label: input.value});
      draw();
      if (back) whole.querySelector(`[data-key="${CSS.escape(`edit ${row.name}`)}"]`)?.focus();
    };
    input.addEventListener("keydown", event => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();  // or the button that has the focus then is pressed as well
      end(event.key === "Enter");
    });
    // The row is made anew: a click that took the focus away comes first.
    input.addEventListener("blur", () => { if (!drawing) setTimeout(() => end(true), 200); });
    renaming = {name: row.name, input};
    draw();
    input.focus();
    input.select();
  };

  const choose = (row, near) => {
    const pick = (name, colour) => {
      const own = colour ? row.colour === colour : false;
      const button = make("button", {type: "button", class: colour ? "swatch" : "automatic", "aria-pressed": colour ? String(own) : null,
        title: name, "aria-label": name, onclick: () => {
          palette.hidePopover();
          say("paint", {name: row.name, colour});
          whole.querySelector(`[data-key="${CSS.escape(`colour ${row.name}`)}"]`)?.focus();
        }}, colour ? make("i") : name);
      if (colour) button.firstChild.style.background = colour;
      return button;
    };
    palette.setAttribute("aria-label", `Colour of ${row.label}`);
    palette.replaceChildren(...table.palette.map(([name, colour]) => pick(name, colour)), pick("Automatic", ""));
    palette.showPopover();
    const at = near.getBoundingClientRect(), {offsetWidth, offsetHeight} = palette;
    palette.style.left = `${Math.max(8, Math.min(at.left, innerWidth - offsetWidth - 8))}px`;
    palette.style.top = `${at.bottom + offsetHeight + 12 > innerHeight ? at.top - offsetHeight - 4 : at.bottom + 4}px`;
    (palette.querySelector("[aria-pressed=true]") ?? palette.firstChild).focus();
  };
  palette.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (!step) return;
    event.preventDefault();
    const all = [...palette.children], here = all.indexOf(whole.getRootNode().activeElement);
    all[(here + step + all.length) % all.length].focus();
  });

  const cell = (column, text, row) => {
    if (column.key !== "fits" || !row.reason) return make("td", {class: column.number ? "number" : column.key}, text);
    return make("td", {class: "misfit"}, make("details", {}, make("summary", {}, text), make("p", {}, row.reason)));
  };

  model.on("table", draw);
  draw();
  return whole;
}
