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
  if (element.parentElement.clientWidth < NARROW && figure.layout.meta && figure.layout.meta.rows) {
    // On a narrow screen names stand above their rows, or nothing would be left beside them.
    element.classList.add("fits");
    const rows = figure.layout.yaxis;
    figure.layout.annotations = rows.tickvals.map((row, index) => ({
      text: rows.ticktext[index], showarrow: false, xref: "paper", x: 0, xanchor: "left", yref: "y", y: row, yshift: 12,
    }));
    rows.showticklabels = false;
    figure.layout.height *= 1.35;
    figure.layout.margin.r = 24; // the last share stands half beyond the axis
  }
  if (figure.layout.meta && figure.layout.meta.width) {
    element.style.minWidth = figure.layout.meta.width + "px"; // else numbers on narrow cells run into each other
  }
  Plotly.newPlot(element, figure.data, figure.layout, { responsive: true, displaylogo: false });
}

function drawVisible() {
  document.querySelectorAll("section:not([hidden]) .figure").forEach(draw);
}

function show(name) {
  document.querySelectorAll("main > section").forEach((section) => { section.hidden = section.id !== name; });
  document.querySelectorAll("nav button").forEach((button) => {
    button.setAttribute("aria-selected", String(button.dataset.tab === name));
    button.tabIndex = button.dataset.tab === name ? 0 : -1; // arrows go from tab to tab
  });
  drawVisible();
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
  make("p", card, tags.join(" · "), "tags");
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
  const found = examples.filter((example) =>
    Object.entries(wanted).every(([name, value]) => !value || example[name] === value) &&
    (!text || [example.context, example.question, ...example.options].join(" ").toLowerCase().includes(text)));
  byId("count").textContent = examples.length
    ? found.length + " of " + examples.length + " changed answers" : "No answer has changed.";
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
    button.addEventListener("click", () => show(button.dataset.tab));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) { return; }
      const tabs = [...document.querySelectorAll("nav button")];
      const next = tabs[(tabs.indexOf(button) + step + tabs.length) % tabs.length];
      show(next.dataset.tab);
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
    show(before.id);
  });
  show(document.querySelector("nav button").dataset.tab);
}

function startExamples(examples) {
  for (const name of ["change", "condition", "category", "task"]) {
    const select = byId("filter-" + name);
    choices(select, [...new Set(examples.map((example) => example[name]))].filter(Boolean));
    select.addEventListener("change", () => { shown = PAGE; listExamples(examples); });
  }
  byId("filter-text").addEventListener("input", () => { shown = PAGE; listExamples(examples); });
  byId("more").addEventListener("click", () => { shown += PAGE; listExamples(examples); });
  listExamples(examples);
}

start();
