// The page's own script: tables that sort, search and unfold, and charts in the colors of the page. Whatever comes from the
// trace is set as text, never as HTML; for plotly, which reads some HTML in its labels, it is escaped.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const FIRST_ROWS = 15, MORE_ROWS = 200, UNFOLDED = 30, MOST_PARTS = 600;
  const PHASES = ["forward", "recompute", "backward", "optimizer", "data", "other"];

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== undefined && value !== null) made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  function swatch(color) {
    const made = element("span", { class: "swatch", "aria-hidden": "true" });
    made.style.background = `var(${color})`;
    return made;
  }

  // ---- light and dark

  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = localStorage.getItem("torchprof-theme"); } catch { /* not everywhere is there a place to remember it */ }
  function setTheme() {
    const theme = chosen ?? (system.matches ? "dark" : "light");
    if (root.dataset.theme === theme) return;
    root.dataset.theme = theme;
    for (const name of drawn.keys()) draw(name);
  }
  const drawn = new Map();
  setTheme();
  system.addEventListener("change", setTheme);
  document.getElementById("theme").addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("torchprof-theme", chosen); } catch { /* as above */ }
    setTheme();
  });

  // ---- tables

  class RowTable {
    constructor(place, table) {
      Object.assign(this, { place, table, query: "", flat: false, by: null, descending: true, limit: 0, found: -1 });
      const count = table.names.length, depths = table.depths ?? new Array(count).fill(0), path = [];
      this.parent = new Int32Array(count).fill(-1);
      this.children = Array.from({ length: count }, () => []);
      this.roots = [];
      for (let row = 0; row < count; row++) {
        while (path.length && depths[path.at(-1)] >= depths[row]) path.pop();
        const above = path.at(-1) ?? -1;
        path.push(row);
        this.parent[row] = above;
        (above < 0 ? this.roots : this.children[above]).push(row);
      }
      this.depths = depths;
      this.isTree = this.roots.length < count;
      this.limit = this.first();
      this.open = new Set();
      this.unfoldSome();
      this.build();
    }

    first() { return this.isTree ? 2 * UNFOLDED : FIRST_ROWS; }

    /** Unfolds level by level, as long as few rows are seen. */
    unfoldSome() {
      let level = this.roots, seen = level.length;
      while (level.length) {
        const below = level.flatMap((row) => this.children[row]);
        seen += below.length;
        if (seen > UNFOLDED) break;
        for (const row of level) if (this.children[row].length) this.open.add(row);
        level = below;
      }
    }

    build() {
      const { table, place } = this;
      this.status = element("span", { class: "count", role: "status" });
      const tools = element("div", { class: "tools" });
      if (table.names.length > 8) {
        const search = element("input", {
          type: "search", placeholder: "Search", "aria-label": `Search in ${table.title}`, spellcheck: "false",
          oninput: () => { this.query = search.value.trim().toLowerCase(); this.limit = this.first(); this.render(); },
        });
        this.search = search;
        tools.append(search);
        if (this.isTree) {
          const flat = element("input", { type: "checkbox", onchange: () => { this.flat = flat.checked; this.render(); } });
          this.flatBox = flat;
          tools.append(element("label", {}, flat, " as a list"),
            element("button", { type: "button", onclick: () => this.unfold(true) }, "Unfold all"),
            element("button", { type: "button", onclick: () => this.unfold(false) }, "Fold all"));
        }
        tools.append(this.status);
        place.append(tools);
      }
      const head = element("tr");
      this.headers = [this.header(head, table.title, -1, "")];
      table.columns.forEach((column, at) => this.headers.push(this.header(head, column.header, at, column.meaning, column.left)));
      this.body = element("tbody");
      place.append(element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": table.title },
        element("table", {}, element("thead", {}, head), this.body)));
      this.more = element("button", { type: "button", class: "more", onclick: () => { this.limit += MORE_ROWS; this.render(); } });
      place.append(this.more);
      for (const line of table.footer) place.append(element("p", { class: "below" }, line));
      this.render();
    }

    header(row, text, at, meaning, left) {
      const cell = element("th", { scope: "col", "aria-sort": "none", class: left ? "left" : null });
      const color = this.table.columns[at]?.color, mark = color ? [swatch(color)] : [];
      cell.append(element("button", { type: "button", title: meaning || null, onclick: () => this.sort(at) },
        ...mark, text || element("span", { class: "visually-hidden" }, "note")));
      row.append(cell);
      return cell;
    }

    /** Largest first, then smallest first, then as the table came; names the other way round. */
    sort(at) {
      const first = at >= 0 && !!this.table.columns[at].values;
      if (this.by !== at) [this.by, this.descending] = [at, first];
      else if (this.descending === first) this.descending = !first;
      else this.by = null;
      this.headers.forEach((cell, index) => cell.setAttribute("aria-sort",
        this.by !== index - 1 || this.by === null ? "none" : this.descending ? "descending" : "ascending"));
      this.render();
    }

    ordered(rows) {
      if (this.by === null) return [...rows];
      const column = this.by < 0 ? { texts: this.table.names } : this.table.columns[this.by];
      const values = column.values ?? column.texts, sign = this.descending ? -1 : 1;
      const order = (a, b) => {
        const x = values[a], y = values[b];
        if (x === null || y === null) return (x === null) - (y === null) || a - b;  // what is not known comes last
        return sign * (typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y) || a - b;
      };
      return [...rows].sort(order);
    }

    matches(row) {
      const texts = [this.table.names[row], this.table.keys?.[row] ?? ""];
      for (const column of this.table.columns) if (column.left) texts.push(column.texts[row]);
      return texts.some((text) => text.toLowerCase().includes(this.query));
    }

    /** The rows to show, in order; of a tree that is searched, what is found and what is above it. */
    rows() {
      const all = [...this.table.names.keys()];
      const hits = this.query ? all.filter((row) => this.matches(row)) : null;
      this.status.textContent = hits ? `${hits.length.toLocaleString("en")} found` : `${all.length.toLocaleString("en")} rows`;
      if (this.flat || !this.isTree) return this.ordered(hits ?? all);
      const kept = hits ? new Set(hits) : null;
      if (hits) for (let row of hits) while ((row = this.parent[row]) >= 0 && !kept.has(row)) kept.add(row);
      const shown = [], left = this.ordered(this.roots).reverse();
      while (left.length) {
        const row = left.pop();
        if (kept && !kept.has(row)) continue;
        shown.push(row);
        if (kept || this.open.has(row)) left.push(...this.ordered(this.children[row]).reverse());
      }
      return shown;
    }

    render() {
      const rows = this.rows(), left = rows.length - this.limit - 5;
      const part = left > 0 ? rows.slice(0, this.limit) : rows;
      this.body.replaceChildren(...part.flatMap((row) => this.row(row)));
      this.more.hidden = left <= 0;
      const hidden = rows.length - this.limit;
      this.more.textContent = hidden > MORE_ROWS ? `Show ${MORE_ROWS} more of ${hidden.toLocaleString("en")}` : `Show ${hidden} more`;
    }

    row(row) {
      const { table } = this, nested = this.isTree && !this.flat, details = table.details?.[row];
      const depth = nested ? this.depths[row] : 0;
      const kind = [table.kinds[row], this.isTree && !this.depths[row] ? "top" : "", row === this.found ? "found" : ""];
      const name = element("th", { scope: "row", title: table.keys?.[row] ?? table.names[row] });
      if (nested || table.details) name.style.paddingLeft = `${30 + 18 * depth}px`;
      if ((nested && this.children[row].length && !this.query) || details) {
        const open = this.open.has(row);
        name.append(element("button", {
          type: "button", class: "twist", "aria-expanded": String(open), "aria-label": `${table.names[row]}: what is below`,
          onclick: (event) => {
            if (open) this.open.delete(row); else this.open.add(row);
            this.limit += open ? 0 : this.children[row].length > MORE_ROWS ? MORE_ROWS : this.children[row].length;
            this.render();
            if (event.detail === 0) this.body.querySelector(`tr[data-row="${row}"] .twist`)?.focus();  // by the keyboard
          },
        }));
      }
      const shown = this.flat && this.isTree ? table.keys[row] : table.names[row];
      const match = /^(.+?)( \([^()]*\))$/.exec(shown);
      if (table.colors?.[row]) name.append(swatch(table.colors[row]));
      name.append(...(match && this.isTree ? [match[1], element("i", {}, match[2])] : [shown]));
      if (table.notes[row]) name.append(element("i", {}, `  ${table.notes[row]}`));
      const made = element("tr", { class: kind.filter(Boolean).join(" ") || null, "data-row": row }, name);
      table.columns.forEach((column) => made.append(this.cell(column, row)));
      if (!details || !this.open.has(row)) return [made];
      return [made, ...details.map((text) => {
        const cell = element("td", { colspan: table.columns.length + 1, class: "quiet" }, text);
        cell.style.paddingLeft = `${48 + 18 * depth}px`;
        return element("tr", {}, cell);
      })];
    }

    cell(column, row) {
      const text = column.texts[row];
      if (!column.bar) {
        const long = column.left && text.length > 40 ? text : null;
        const kind = column.left ? `left ${column.name ?? ""}` : text === "-" ? "quiet" : null;
        return element("td", { class: kind, title: long }, text);
      }
      const cell = element("td", { class: "share" });
      const track = element("span", { class: "track", "aria-hidden": "true" });
      if (column.values?.[row] > 0) {
        for (const [color, part] of this.parts(column, row)) {
          const piece = element("i");
          piece.style.cssText = `width:${Math.min(100, 100 * part).toFixed(2)}%;background:var(--${color})`;
          track.append(piece);
        }
      }
      cell.append(track, text);
      return cell;
    }

    /** Of the share of a step, the phases; of any other share, itself. */
    parts(column, row) {
      const share = column.values[row];
      if (this.table.colors?.[row]) return [[this.table.colors[row].slice(2), share]];
      if (column.name !== "share") return [[/^(device|busy)_/.test(column.name) ? "busy" : "other", share]];
      const suffix = this.table.columns.some((each) => each.name === "forward_self") ? "_self" : "";
      const times = PHASES.map((name) => [name, this.table.columns.find((each) => each.name === name + suffix)?.values?.[row] ?? 0]);
      const whole = times.reduce((sum, [, time]) => sum + time, 0);
      return whole > 0 ? times.map(([name, time]) => [name, (share * time) / whole]) : [["other", share]];
    }

    unfold(all) {
      this.open = new Set(all ? [...this.table.names.keys()].filter((row) => this.children[row].length) : []);
      this.limit = this.first();
      this.render();
    }

    /** Makes the row with this key visible, and marks it. */
    reveal(key) {
      const row = this.table.keys.indexOf(key);
      if (row < 0) return;
      [this.query, this.flat, this.found] = ["", false, row];
      if (this.search) this.search.value = "";
      if (this.flatBox) this.flatBox.checked = false;
      for (let above = this.parent[row]; above >= 0; above = this.parent[above]) this.open.add(above);
      this.limit = Math.max(this.limit, this.rows().indexOf(row) + 1);
      this.render();
      const shown = this.body.querySelector(`tr[data-row="${row}"]`);
      shown.scrollIntoView({ block: "center" });
      shown.setAttribute("tabindex", "-1");
      shown.focus({ preventScroll: true });
    }
  }

  const tables = new Map();
  for (const place of document.querySelectorAll(".table[data-table]")) {
    tables.set(place.dataset.table, new RowTable(place, data.tables[place.dataset.table]));
  }
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-table]");
    if (!link) return;
    event.preventDefault();
    tables.get(link.dataset.table)?.reveal(link.dataset.key);
  });

  // ---- charts

  const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  /** The modules as a tree of parts. What a module has itself is what those below it do not have. */
  function icicle() {
    const table = data.tables.modules, tree = tables.get("modules");
    const select = document.getElementById("icicle-by"), by = data.tree[Number(select.value)];
    const column = table.columns.find((each) => each.name === by.name);
    const values = column.values.map((value) => Math.max(0, value ?? 0));
    const whole = tree.roots.reduce((sum, row) => sum + values[row], 0);
    // The largest: none of them without those above it, which are as large at least and come first.
    const all = [...values.keys()].filter((row) => values[row] > 0).sort((a, b) => values[b] - values[a] || a - b);
    const rows = [], kept = new Set();
    for (const row of all) {
      if (rows.length === MOST_PARTS) break;
      if (tree.parent[row] < 0 || kept.has(tree.parent[row])) { rows.push(row); kept.add(row); }
    }
    document.getElementById("icicle-note").textContent = rows.length < all.length
      ? `The ${rows.length.toLocaleString("en")} largest of ${all.length.toLocaleString("en")} are drawn; click one to look closer`
      : "Click a part to look closer";
    const own = (row) => Math.max(0, values[row] - tree.children[row].reduce((sum, below) => sum + (kept.has(below) ? values[below] : 0), 0));
    const share = (row) => `${((100 * values[row]) / whole).toFixed(1)}%`;
    return {
      data: [{
        type: "icicle", branchvalues: "remainder", maxdepth: 7, sort: true,
        ids: ["all", ...rows.map(String)],
        labels: [plain(by.whole), ...rows.map((row) => plain(table.names[row].replace(/(.) \([^()]*\)$/, "$1")))],  // no class
        parents: ["", ...rows.map((row) => (tree.parent[row] < 0 ? "all" : String(tree.parent[row])))],
        values: [0, ...rows.map(own)],
        text: ["all", ...rows.map((row) => plain(`${column.texts[row]}, ${share(row)}`))],
        hovertext: [plain(`${by.header}: ${by.whole}`), ...rows.map((row) => `<b>${plain(table.keys[row])}</b><br>${plain(table.names[row])}<br>${plain(column.texts[row])}, ${share(row)}`)],
        hovertemplate: "%{hovertext}<extra></extra>", texttemplate: "%{label}<br>%{text}",
        marker: { colors: ["--raised", ...rows.map((row) => shade(by.color, values[row] / whole))], line: { width: 1, color: "--paper" } },
        tiling: { orientation: "v", pad: 1 }, pathbar: { visible: true, thickness: 22 }, root: { color: "--raised" },
        textfont: { size: 12 },
      }],
      layout: { margin: { l: 0, r: 0, t: 4, b: 4 }, uniformtext: { minsize: 10, mode: "hide" } },
    };
  }

  /** The more of the whole, the more of the color. */
  function shade(color, share) {
    const [ink, paper] = [color, "--paper"].map((name) => rgb(name)), much = 0.28 + 0.62 * Math.sqrt(share);
    return `rgb(${ink.map((value, at) => Math.round(much * value + (1 - much) * paper[at])).join(",")})`;
  }
  const value = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const rgb = (name) => [1, 3, 5].map((at) => parseInt(value(name).slice(at, at + 2), 16));

  /** A figure with the colors of the page in place of their names. */
  function colored(figure) {
    if (typeof figure === "string") return /^--[a-z-]+$/.test(figure) ? value(figure) : figure;
    if (Array.isArray(figure)) return typeof figure[0] === "number" ? figure : figure.map(colored);
    if (figure === null || typeof figure !== "object") return figure;
    return Object.fromEntries(Object.entries(figure).map(([name, part]) => [name, colored(part)]));
  }

  const AXIS = { gridcolor: "--rule", zerolinecolor: "--rule", linecolor: "--rule", automargin: true };

  function draw(name) {
    const place = drawn.get(name), figure = name === "icicle" ? icicle() : data.figures[name];
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 8, r: 8, t: 8, b: 8 },
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "--dim" },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", traceorder: "normal" }, hovermode: "x", hoverlabel: {
        bgcolor: "--raised", bordercolor: "--rule", align: "left", font: { color: "--ink", size: 12.5, family: getComputedStyle(document.body).fontFamily }, namelength: -1,
      },
      ...figure.layout,
    };
    for (const axis of ["xaxis", "yaxis"]) layout[axis] = { ...AXIS, ...layout[axis] };
    Plotly.react(place, colored(figure.data), colored(layout), { responsive: true, displayModeBar: false });
  }

  /** Called when plotly is there. A chart is drawn when it comes near. */
  window.torchprofCharts = () => {
    const show = (place) => {
      seen.unobserve(place);
      if (drawn.has(place.dataset.figure)) return;
      drawn.set(place.dataset.figure, place);
      draw(place.dataset.figure);
    };
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) show(entry.target);
    }, { rootMargin: "400px" });
    const places = document.querySelectorAll(".figure");
    for (const place of places) seen.observe(place);
    document.getElementById("icicle-by")?.addEventListener("change", () => { if (drawn.has("icicle")) draw("icicle"); });
    addEventListener("beforeprint", () => places.forEach(show));
    root.dataset.ready = "yes";
  };
})();
