"use strict";
// Tabs, figures and the list of changed answers. Text from data is only ever set as textContent.
const byId = (name) => document.getElementById(name);
const read = (name) => JSON.parse(byId(name).textContent);

function ink() {
  const style = getComputedStyle(document.documentElement);
  return { font: style.getPropertyValue("--ink").trim(), soft: style.getPropertyValue("--soft").trim() };
}

const NARROW = 560;

function draw(element) {
  if (element.dataset.drawn) { return; }
  element.dataset.drawn = "yes";
  const figure = read("data-" + element.id);
  figure.layout.font.color = ink().font;
  const { rows: hasRows, fits } = figure.layout.meta || {};
  element.classList.toggle("fits", Boolean(hasRows || fits));
  if (element.parentElement.clientWidth < NARROW && hasRows) {
    // On a narrow screen names stand above their rows, or nothing would be left beside them.
    const rows = figure.layout.yaxis;
    figure.layout.annotations = rows.tickvals.map((row, index) => ({
      text: rows.ticktext[index], showarrow: false, xref: "paper", x: 0, xanchor: "left", yref: "y", y: row, yshift: 16,
    }));
    rows.showticklabels = false;
    figure.layout.height *= 1.35;
    figure.layout.margin.r = 24; // the last share stands half beyond the axis
  }
  if (figure.layout.meta && figure.layout.meta.width) {
    element.style.minWidth = figure.layout.meta.width + "px"; // else numbers on narrow cells run into each other
  }
  Plotly.newPlot(element, figure.data, figure.layout, { responsive: true, displayModeBar: false });
  exports(element, [["PNG", () => picture(element)], ["CSV", () => save(titleOf(element), points(figure))]]);
}

// What stands on the page as files. Plotly's own bar lies over legends on narrow screens.
function exports(element, buttons) {
  const row = document.createElement("div");
  row.className = "export";
  buttons.forEach(([title, work]) => {
    const button = make("button", row, title);
    button.type = "button";
    button.setAttribute("aria-label", "Export " + titleOf(element).replaceAll("-", " ") + " as " + title);
    button.addEventListener("click", work);
  });
  element.closest(".wide").after(row);
}

const titleOf = (element) => element.id || element.dataset.name;

function picture(element) {
  const ground = getComputedStyle(document.documentElement).getPropertyValue("--ground").trim();
  const layout = { ...element.layout, paper_bgcolor: ground, width: element.clientWidth, height: element.clientHeight };
  Plotly.downloadImage({ data: element.data, layout }, { format: "png", scale: 2, filename: titleOf(element) });
}

function cell(value) {
  const text = value === null || value === undefined ? "" : String(value);
  const safe = /^[=+@\t\r]/.test(text) && isNaN(Number(text)) ? "'" + text : text; // spreadsheets take these for formulas
  return /[",\n]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
}

function save(title, rows) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([rows.map((row) => row.map(cell).join(",")).join("\n") + "\n"], { type: "text/csv" }));
  link.download = title + ".csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function points(figure) {
  const plain = (text) => new DOMParser().parseFromString(String(text).replaceAll("<br>", " "), "text/html").body.textContent;
  const rows = [["series", "x", "y", "value", "text"]];
  figure.data.filter((trace) => trace.mode !== "lines").forEach((trace) => {
    const labels = trace.text || [];
    if (trace.z) {
      trace.z.forEach((row, at) => row.forEach((value, place) => {
        const seen = trace.customdata ? plain(trace.customdata[at][place]) : "";
        rows.push([trace.name, trace.x[place], plain(trace.y[at]), value, seen]);
      }));
    } else {
      [...trace.x].forEach((x, at) => rows.push([trace.name, x, plain(trace.y[at]), "", labels[at] ? plain(labels[at]) : ""]));
    }
  });
  return rows;
}

function cells(table) {
  return [...table.rows].map((row) => [...row.cells].flatMap((one) => {
    const bare = one.cloneNode(true);
    bare.querySelectorAll(".meaning").forEach((meaning) => meaning.remove());
    return [bare.textContent.trim(), ...Array(one.colSpan - 1).fill("")];
  }));
}

function drawVisible() {
  document.querySelectorAll("section:not([hidden]) .figure").forEach(draw);
}

// A place on the page: #answers?id=12, #neurons?id=3, #search.
function place() {
  const [tab, query] = location.hash.slice(1).split("?");
  const known = [...document.querySelectorAll("nav button")].map((button) => button.dataset.tab);
  return { tab: known.includes(tab) ? tab : known[0], id: new URLSearchParams(query || "").get("id") };
}

function go() {
  const { tab, id } = place();
  show(tab);
  document.querySelectorAll("tr.found").forEach((row) => row.classList.remove("found"));
  const row = tab === "neurons" && id ? byId("neuron-" + id) : null;
  if (row) { row.classList.add("found"); row.scrollIntoView({ block: "center" }); }
  if (relist) { relist(); }
  if (tab === "answers" && id) { byId("answers").scrollIntoView(); }
}

let relist;

function show(name) {
  document.querySelectorAll("main > section").forEach((section) => { section.hidden = section.id !== name; });
  document.querySelectorAll("nav button").forEach((button) => {
    button.setAttribute("aria-selected", String(button.dataset.tab === name));
    button.tabIndex = button.dataset.tab === name ? 0 : -1; // arrows go from tab to tab
  });
  drawVisible();
  document.querySelectorAll("section:not([hidden]) .wide").forEach((wide) => {
    if (wide.scrollWidth <= wide.clientWidth) { return wide.removeAttribute("tabindex"); }
    wide.tabIndex = 0; // what scrolls must be reached by keyboard
    wide.setAttribute("role", "group");
    wide.setAttribute("aria-label", "scrolls sideways");
  });
}

function make(tag, parent, text, className) {
  const element = document.createElement(tag);
  element.dir = "auto"; // text of data may be written from right to left
  if (text !== undefined) { element.textContent = text; }
  if (className) { element.className = className; }
  parent.appendChild(element);
  return element;
}

function bar(parent, share) {
  const outer = make("div", parent, undefined, "bar");
  make("i", outer).style.width = (100 * share).toFixed(1) + "%";
  make("span", outer, (100 * share).toFixed(1) + " %");
}

function optionLabel(example, index) {
  const marks = [];
  if (index === example.answer) { marks.push("right"); }
  if (index === example.stereotyped) { marks.push("stereotype"); }
  if (index === example.unknown) { marks.push("unknown"); }
  return example.options[index] + (marks.length ? " (" + marks.join(", ") + ")" : "");
}

const CHANGES = { worse: "worse", better: "better", other: "neither better nor worse" };
const LONG = 900;

function text(parent, content) {
  if (content.length <= LONG) { return make("p", parent, content); }
  const details = make("details", parent);
  make("summary", details, content.slice(0, LONG / 3) + " … (" + content.length + " letters)");
  return make("p", details, content);
}

function exampleCard(example) {
  const card = document.createElement("div");
  card.className = "example " + example.change;
  const tags = [CHANGES[example.change], example.condition, example.category, example.task].filter(Boolean);
  const head_line = make("p", card, tags.join(" · ") + " · ", "tags");
  make("a", head_line, "link to answer " + example.id).href = "#answers?id=" + example.id;
  if (example.context) { text(card, example.context); }
  if (example.question) { text(card, example.question).style.fontWeight = "600"; }
  const head = make("div", card, undefined, "option tags");
  for (const title of ["", "before", "after"]) { make("div", head, title); }
  example.options.forEach((_, index) => {
    const row = make("div", card, undefined, "option");
    make("div", row, optionLabel(example, index), index === example.answer ? "right" : "");
    bar(row, example.before[index]);
    bar(row, example.after[index]);
  });
  return card;
}

function choices(select, values) {
  values.forEach((value) => { make("option", select, CHANGES[value] || value).value = value; });
  select.hidden = !values.length; // nothing to choose from
}

const PAGE = 40;
let shown = PAGE;

function listExamples(examples) {
  const wanted = {};
  for (const name of ["change", "condition", "category", "task"]) { wanted[name] = byId("filter-" + name).value; }
  const text = byId("filter-text").value.toLowerCase();
  const { tab, id } = place();
  const only = tab === "answers" && id ? id : null;
  byId("all").hidden = !only;
  const found = examples.filter((example) => only ? String(example.id) === only :
    Object.entries(wanted).every(([name, value]) => !value || example[name] === value) &&
    (!text || [example.context, example.question, ...example.options].join(" ").toLowerCase().includes(text)));
  byId("count").textContent = only && !found.length ? "This page has no changed answer " + only + "."
    : examples.length ? found.length + " of " + examples.length + " changed answers" : "No answer has changed.";
  byId("examples").replaceChildren(...found.slice(0, shown).map(exampleCard));
  byId("more").hidden = found.length <= shown;
}

// Paper is white, whatever the screen's scheme.
const PAPER_INK = "#1c2430";
let before;

function colour(font) {
  document.querySelectorAll(".figure[data-drawn]").forEach((element) => {
    Plotly.relayout(element, { "font.color": font });
  });
}

function start() {
  document.querySelectorAll("nav button").forEach((button) => {
    button.addEventListener("click", () => { history.replaceState(null, "", "#" + button.dataset.tab); go(); });
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) { return; }
      const tabs = [...document.querySelectorAll("nav button")];
      const next = tabs[(tabs.indexOf(button) + step + tabs.length) % tabs.length];
      next.click();
      next.focus();
    });
  });
  if (byId("data-examples")) { startExamples(read("data-examples")); }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    colour(ink().font);
  });
  addEventListener("beforeprint", () => {
    before = [...document.querySelectorAll("main > section")].find((section) => !section.hidden);
    document.querySelectorAll("main > section").forEach((section) => { section.hidden = false; });
    drawVisible();
    colour(PAPER_INK);
  });
  addEventListener("afterprint", () => {
    colour(ink().font);
    show(before.id); // not go(): the place on the page stays
  });
  document.querySelectorAll(".wide > table").forEach((table, number) => {
    const heading = table.closest("section").querySelector("h2");
    table.dataset.name = [table.closest("section").id, heading ? "table" : "", number + 1].join("-");
    exports(table, [["CSV", () => save(titleOf(table), cells(table))]]);
  });
  addEventListener("hashchange", go);
  go();
}

function startExamples(examples) {
  relist = () => { shown = PAGE; listExamples(examples); };
  const filtered = () => { if (place().id) { history.replaceState(null, "", "#answers"); } relist(); };
  for (const name of ["change", "condition", "category", "task"]) {
    const select = byId("filter-" + name);
    choices(select, [...new Set(examples.map((example) => example[name]))].filter(Boolean));
    select.addEventListener("change", filtered);
  }
  byId("filter-text").addEventListener("input", filtered);
  byId("more").addEventListener("click", () => { shown += PAGE; listExamples(examples); });
  listExamples(examples);
}

start();
