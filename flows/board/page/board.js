// The live page. The server sends all there is once, then only what changed; this
// keeps it, and draws the rows that can be seen. It never sends anything back.

const ROW = 30; // pixels, as in board.css
const SPARE = 10; // rows drawn beyond what can be seen, on either side
const SILENT_MS = 5000; // the server speaks twice a second
const BEHIND_S = 10; // an entry that waits longer is worth a look
const byId = (id) => document.getElementById(id);

// --- figures: exact decimal texts; numbers are made of them only to sort and to draw ---

const format = (options) => {
  const formatter = new Intl.NumberFormat("en-US", options);
  return (text) => (text === null ? "–" : formatter.format(text).replace("-", "−"));
};
const cents = { minimumFractionDigits: 2, maximumFractionDigits: 2 };
const asMoney = format({ ...cents, signDisplay: "negative" }); // nothing is −0.00
const asPrice = format({
  minimumFractionDigits: 2, maximumFractionDigits: 6, maximumSignificantDigits: 4, roundingPriority: "morePrecision",
});
const asQuantity = format({ maximumFractionDigits: 10 });
const asCount = format({ maximumFractionDigits: 0 });
const asRate = format({ maximumFractionDigits: 1 });
const asGain = format({ ...cents, signDisplay: "exceptZero" });
const sign = (text) => ({ "+": "gain", "−": "loss" })[asGain(text)[0]] ?? ""; // as it is shown

const dayOf = new Intl.DateTimeFormat("en-CA", { dateStyle: "short" });
const timeOf = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const shortTimeOf = new Intl.DateTimeFormat("en-GB", { timeStyle: "short" });
const asMoment = (ms) => (Date.now() - ms < 72e6 ? timeOf : dayOf).format(ms);

// --- what a position is worth: what nobody knows is said, and never 0 or left blank -------

const lacksMark = (row) => row.unrealized_pnl === null && Number(row.qty) !== 0;
const isStale = (row) => row.state === "stale" && Number(row.qty) !== 0;

function orUnknown(write) {
  return (value) => (value === null ? "unknown" : write(value));
}

function asMark(price, row) {
  return price === null && lacksMark(row) ? row.state : asPrice(price);
}

// Where there is no room for the mark or its age, this says what they would.
function asUnrealized(value, row) {
  if (lacksMark(row)) return isShown("mark_price") ? "unknown" : row.state;
  return (isStale(row) && !isShown("mark_timestamp") ? "stale " : "") + orUnknown(asGain)(value);
}

const isShown = (name) => shown.some(({ field }) => field === name);

function asMarkAge(ms, row) {
  if (ms === null) return "–";
  const age = asSpan(Math.max(0, serverTime() - ms) / 1000);
  return isStale(row) ? `stale, ${age}` : age;
}

// --- columns: `field` is a name that the server sends with each row; a column is shown
// where the table is at least so many pixels wide: `from`, or `valued` with valuations -----

const NEVER = Infinity;
const COLUMNS = [
  { field: "symbol", title: "Symbol", text: (v) => v, left: true },
  { field: "account", title: "Account", text: (v) => v ?? "", left: true, valued: 760 },
  { field: "currency", title: "Cur.", text: (v) => v, left: true, from: 640, valued: 1040 },
  { field: "qty", title: "Quantity", text: asQuantity, number: true },
  { field: "avg_price", title: "Avg price", text: asPrice, number: true, from: 1000, valued: 900 },
  { field: "last_price", title: "Last price", text: asPrice, number: true, from: 1360, valued: 1960 },
  { field: "mark_price", title: "Mark", text: asMark, number: true, from: NEVER, valued: 560, worth: true },
  { field: "mark_timestamp", title: "Mark age", text: asMarkAge, number: true, from: NEVER, valued: 800, worth: true, calm: true },
  { field: "cost_basis", title: "Cost basis", text: asMoney, number: true, from: 1360, valued: 1700 },
  { field: "unrealized_pnl", title: "Unrealized", text: asUnrealized, number: true, signed: true, from: NEVER, worth: true, calm: true },
  { field: "day_pnl", title: "Day", text: orUnknown(asGain), number: true, signed: true, from: NEVER, valued: 340, worth: true, calm: true },
  { field: "total_pnl", title: "Total", text: orUnknown(asGain), number: true, signed: true, from: NEVER, valued: 480, worth: true, calm: true },
  { field: "realized_pnl", title: "Realized P&L", text: asGain, number: true, signed: true, from: 640, valued: 1580 },
  { field: "spark", title: "Trend", left: true, from: 1000, valued: 1400 },
  { field: "net_realized_pnl", title: "Net P&L", text: asGain, number: true, signed: true, valued: 1200 },
  { field: "commission", title: "Commission", text: asMoney, number: true, from: 1360, valued: 1840 },
  { field: "changed_at", title: "Changed", text: asMoment, number: true, from: 1000, valued: 1500, calm: true },
];

// --- what is known ------------------------------------------------------------------

const rows = new Map(); // key -> row
const worths = new Map(); // key -> what the position is worth, with the names of UNVALUED
let totals = []; // of each currency, with the names that the server gives them
let base = null; // the sums over all currencies in one, if somebody tells them
let curves = new Map(); // currency -> [[ms, P&L], ...]
let visible = []; // the rows that pass the filter, sorted
const choice = { sort: "symbol", down: false, show: "open", search: "", strategy: "" };
let ofStrategy = null; // the keys of the strategy that was chosen
let heard = performance.now();
let stale = { rows: true, curves: true };
let valued = false; // whether anybody values positions
let clock = 0; // the server's, when it was heard last
const serverTime = () => clock + performance.now() - heard;
const UNVALUED = {
  mark_price: null, mark_timestamp: null, market_value: null, unrealized_pnl: null,
  day_pnl: null, total_pnl: null, state: "not valued",
};

function take(frame) {
  heard = performance.now();
  clock = frame.state.at;
  if (frame.all) rows.clear();
  if (frame.all || !frame.state.valued) worths.clear();
  valued = frame.state.valued;
  for (const key of frame.gone ?? []) {
    rows.delete(key);
    worths.delete(key);
  }
  for (const row of frame.rows ?? []) takeRow(row, frame.all);
  for (const worth of frame.worth ?? []) takeWorth(worth, frame.all);
  for (const [key, spark] of Object.entries(frame.sparks ?? {})) rows.get(key).spark = spark;
  if (frame.all) curves = new Map(Object.entries(frame.curves));
  if (frame.totals) {
    totals = frame.totals;
    if (!frame.all) for (const [currency, point] of frame.points) addPoint(currency, point);
    stale.curves = true;
  }
  if (JSON.stringify(frame.state.base) !== JSON.stringify(base)) {
    base = frame.state.base;
    stale.curves = true;
  }
  if (frame.totals || frame.all) stale.rows = true;
  showState(frame.state);
  requestAnimationFrame(draw);
}

function takeRow(row, all) {
  const old = rows.get(row.key);
  row.words = `${row.symbol} ${row.account ?? ""} ${row.currency}`.toLowerCase();
  row.spark = old ? old.spark : [];
  const pnl = Number(row.realized_pnl);
  if (!all && row.spark.at(-1) !== pnl) row.spark = [...row.spark.slice(-39), pnl];
  row.changed = row.booked = all ? 0 : performance.now();
  rows.set(row.key, Object.assign(row, UNVALUED, worths.get(row.key)));
}

function takeWorth(worth, all) {
  worths.set(worth.key, worth);
  const row = rows.get(worth.key);
  if (row) rows.set(worth.key, { ...row, ...worth, changed: all ? 0 : performance.now() });
}

function addPoint(currency, point) {
  const curve = curves.get(currency) ?? [];
  curves.set(currency, curve);
  if (curve.length && curve.at(-1)[0] === point[0]) curve.pop();
  curve.push(point);
  if (curve.length > 1200) curves.set(currency, curve.filter((_, n) => n % 2 || n > 1000));
}

function choose() {
  const words = choice.search.toLowerCase().split(/\s+/).filter(Boolean);
  const column = COLUMNS.find(({ field }) => field === choice.sort);
  const direction = choice.down ? -1 : 1;
  visible = [...rows.values()].filter((row) =>
    (choice.show === "all" || (choice.show === "open") === (Number(row.qty) !== 0)) &&
    words.every((word) => row.words.includes(word)) &&
    (!choice.strategy || ofStrategy?.has(row.key)));
  const values = new Map(visible.map((row) => [row, sortValue(row, column)]));
  visible.sort((a, b) => {
    const [x, y] = [values.get(a), values.get(b)];
    if (x !== y) return (x < y ? -1 : 1) * direction;
    return a.key < b.key ? -1 : 1;
  });
}

function sortValue(row, column) {
  if (column.field === "spark") return row.spark.length ? row.spark.at(-1) - row.spark[0] : 0;
  const value = row[column.field];
  if (column.number) return value === null ? -Infinity : Number(value);
  return value ?? "";
}

// --- the table: only the rows in sight are in the document -----------------------------

const scroller = byId("scroll");
let shown = []; // the columns that there is room for
let room = 0; // pixels that there are, less those of columns that turned out too wide
let pool = [];

function draw() {
  if (stale.rows) {
    choose();
    const total = rows.size;
    const count = visible.length;
    byId("count").textContent =
      count === total ? `${asCount(total)} positions` : `${asCount(count)} of ${asCount(total)} positions`;
    byId("table").setAttribute("aria-rowcount", count + 1);
    byId("empty").hidden = count > 0;
    byId("hint").hidden = valued || !total;
    chooseColumns();
    stale.rows = false;
  }
  drawRows();
  giveWay();
  drawDetail();
  if (stale.curves) {
    drawCharts();
    stale.curves = false;
  }
}

const widthOf = ({ from = 0, valued: ifValued = 0 }) => (valued ? ifValued : from);

function chooseColumns() {
  const hasAccounts = [...rows.values()].some((row) => row.account);
  const columns = COLUMNS.filter((column) =>
    widthOf(column) <= room && (column.field !== "account" || hasAccounts));
  if (columns.length === shown.length && columns.every((column, n) => column === shown[n])) return;
  const held = slotOf(document.activeElement)?.row.key;
  shown = columns;
  pool = [];
  byId("rows").replaceChildren();
  makeHead();
  drawRows();
  if (held !== undefined) keepFocus(held);
}

// Large figures may need more room than a column has at its width: then the next one goes.
function giveWay() {
  while (scroller.scrollWidth > scroller.clientWidth + 1) {
    const widest = Math.max(...shown.map(widthOf));
    if (!widest) return;
    room = widest - 1;
    chooseColumns();
  }
}

function drawRows() {
  const held = slotOf(document.activeElement)?.row.key;
  const seen = Math.ceil(scroller.clientHeight / ROW) + 2 * SPARE;
  const last = Math.max(0, visible.length - seen);
  // Even, so that the stripes stay with their rows.
  const first = Math.min(last, Math.max(0, Math.floor(scroller.scrollTop / ROW) - SPARE)) & ~1;
  const count = Math.min(seen + 1, visible.length - first);
  while (pool.length < count) pool.push(newRow());
  while (byId("rows").children.length > count) byId("rows").lastChild.remove();
  for (let n = 0; n < count; n++) {
    fillRow(pool[n], visible[first + n], first + n);
    if (!pool[n].line.isConnected) byId("rows").append(pool[n].line);
  }
  byId("above").style.height = `${first * ROW}px`;
  byId("below").style.height = `${(visible.length - first - count) * ROW}px`;
  if (held !== undefined) keepFocus(held);
}

const slotOf = (element) => pool.find(({ line, row }) => row && line.contains(element));

// The lines stay where they are while positions move through them: the focus goes along.
function keepFocus(key) {
  if (slotOf(document.activeElement)?.row.key === key) return;
  const slot = pool.find(({ line, row }) => row?.key === key && line.isConnected);
  (slot ? slot.name : scroller).focus({ preventScroll: true });
}

function newRow() {
  const line = document.createElement("tr");
  const cells = shown.map((column, n) => {
    const cell = document.createElement(n ? "td" : "th");
    if (!n) cell.scope = "row";
    cell.className = classOf(column);
    if (column.field === "spark") cell.append(newSpark());
    line.append(cell);
    return cell;
  });
  const name = document.createElement("button");
  name.type = "button";
  cells[0].append(name);
  return { line, cells, name, row: null };
}

const classOf = ({ field, left }, row = null) =>
  [field, left && "left", row && toneOf(field, row)].filter(Boolean).join(" ");

// A gain, a loss, or a word that wants to be seen.
function toneOf(field, row) {
  if (field === "mark_timestamp") return isStale(row) ? "warn" : "";
  if (field === "mark_price" && lacksMark(row)) return "warn";
  if (field === "unrealized_pnl" && lacksMark(row) && !isShown("mark_price")) return "warn";
  if (row[field] === null) return "quiet";
  return field.endsWith("_pnl") ? sign(row[field]) : "";
}

function fillRow(slot, row, place) {
  const { line, cells, row: old } = slot;
  line.setAttribute("aria-rowindex", place + 2);
  line.classList.toggle("odd", place % 2 === 1);
  line.classList.toggle("chosen", row.key === detail.key);
  slot.name.setAttribute("aria-expanded", row.key === detail.key);
  slot.row = row;
  shown.forEach((column, n) => {
    const { field } = column;
    const ages = field === "changed_at" || field === "mark_timestamp";
    if (old === row && !ages) return;
    if (field === "spark") {
      if (old?.spark !== row.spark) fillSpark(cells[n].firstChild, row.spark);
      return;
    }
    const text = column.text(row[field], row);
    const tone = classOf(column, row);
    if (cells[n].className !== tone) cells[n].className = tone;
    if (cells[n].textContent === text) return;
    (n ? cells[n] : slot.name).textContent = text;
    cells[n].title = column.number && !ages ? row[field] ?? text : text;
    const news = old?.key === row.key && performance.now() - row.changed < 1000;
    if (news && !column.calm) flash(cells[n], column, old, row);
  });
}

const calm = matchMedia("(prefers-reduced-motion: reduce)");

function flash(cell, { field, number }, old, row) {
  if (calm.matches) return;
  const rise = number && Number(row[field]) >= Number(old[field]);
  const color = getComputedStyle(document.documentElement).getPropertyValue(rise ? "--gain" : "--loss");
  cell.animate(
    [{ boxShadow: `inset 0 -2px ${color}` }, { boxShadow: "inset 0 -2px transparent" }], 900);
}

// --- pictures ---------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes = {}, parent = null) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
}

function newSpark() {
  const picture = svg("svg", { viewBox: "0 0 92 22", role: "img" });
  svg("path", {}, picture);
  return picture;
}

function fillSpark(picture, values) {
  const path = picture.firstChild;
  const change = values.length ? values.at(-1) - values[0] : 0;
  picture.setAttribute("aria-label",
    values.length < 2 ? "no change yet" : `from ${asGain(values[0])} to ${asGain(values.at(-1))}`);
  path.setAttribute("class", change < 0 ? "falling" : "rising");
  if (values.length < 2) return path.setAttribute("d", "");
  const low = Math.min(...values);
  const height = Math.max(...values) - low || 1;
  const at = (value, n) =>
    `${((n / (values.length - 1)) * 90 + 1).toFixed(1)} ${(20 - ((value - low) / height) * 18).toFixed(1)}`;
  path.setAttribute("d", `M${values.map(at).join("L")}`);
}

const charts = new Map(); // currency -> its elements

function drawCharts() {
  for (const [currency, chart] of charts) {
    if (!totals.some((total) => total.currency === currency)) {
      chart.card.remove();
      charts.delete(currency);
    }
  }
  for (const { currency } of totals) {
    if (!charts.has(currency)) charts.set(currency, newChart(currency));
  }
  drawBase();
  // Only now, as each card takes room from the others.
  for (const total of totals) drawChart(charts.get(total.currency), total);
}

// The card of all currencies in one; it has no curve.
function drawBase() {
  byId("base")?.remove();
  if (!base) return;
  const card = newCard();
  card.id = "base";
  const [name, sum] = card.querySelector("h3").children;
  name.textContent = `All in ${base.currency}`;
  sum.textContent = base.total_pnl === null ? "unknown" : asGain(base.total_pnl);
  sum.className = base.total_pnl === null ? "" : sign(base.total_pnl);
  fillFigures(card.querySelector("p"), [["unrealized", base.unrealized_pnl], ["day", base.day_pnl]]);
  const lacks = card.querySelector(".lacks");
  lacks.textContent = base.lacks.join(" · ");
  lacks.hidden = !base.lacks.length;
  byId("charts").prepend(card);
}

function newCard() {
  const card = document.createElement("div");
  card.className = "chart";
  card.innerHTML = '<h3><span></span><b></b><span></span></h3><p></p><p class="lacks"></p>';
  return card;
}

function newChart(currency) {
  const card = newCard();
  const picture = svg("svg", { role: "img" }, card);
  const chart = { card, picture, currency, cursor: null };
  const [name, sum, note] = card.querySelector("h3").children;
  Object.assign(chart, { name, sum, note, about: card.querySelector("p"), lacks: card.querySelector(".lacks") });
  picture.addEventListener("pointermove", (event) => point(chart, event.offsetX));
  picture.addEventListener("pointerleave", () => point(chart, null));
  byId("charts").append(card);
  return chart;
}

function point(chart, x) {
  chart.cursor = x;
  drawChart(chart, totals.find(({ currency }) => currency === chart.currency));
}

function drawChart(chart, total) {
  const { currency, realized_pnl: realized, net_realized_pnl: net, commission, open, flat } = total;
  const sum = valued ? total.total_pnl : realized;
  chart.name.textContent = valued ? `${currency} total` : currency;
  chart.sum.textContent = sum === null ? "unknown" : asGain(sum);
  chart.sum.className = sum === null ? "" : sign(sum);
  chart.note.textContent = `${asCount(open)} open, ${asCount(flat)} flat`;
  fillFigures(chart.about, valued
    ? [["unrealized", total.unrealized_pnl], ["day", total.day_pnl], ["net realized", net]]
    : [["realized · net", net], ["commission", commission, asMoney]]);
  const lacks = valued ? whatLacks(total) : "";
  chart.lacks.textContent = lacks;
  chart.lacks.hidden = !lacks;
  const curve = curves.get(currency) ?? [];
  chart.picture.setAttribute("aria-label", describe(currency, curve));
  chart.picture.replaceChildren();
  chart.picture.toggleAttribute("hidden", curve.length < 2);
  if (curve.length > 1 && chart.picture.clientWidth) drawCurve(chart, curve);
}

// Names and amounts: [name, amount, how it is written; as a gain if not given].
function fillFigures(line, figures) {
  line.replaceChildren(...figures.flatMap(([name, amount, write], n) => {
    const figure = document.createElement("b");
    figure.textContent = amount === null ? "unknown" : (write ?? asGain)(amount);
    figure.className = amount === null || write ? "" : sign(amount);
    return [`${n ? " · " : ""}${name} `, figure];
  }));
}

function whatLacks({ unvalued, day_unknown: dayUnknown, stale: old }) {
  const count = (n, one, many) => `${asCount(n)} ${n === 1 ? one : many}`;
  return [
    unvalued && `${count(unvalued, "position", "positions")} without a mark left out`,
    dayUnknown > unvalued && `day unknown of ${asCount(dayUnknown)}`,
    old && `${count(old, "mark", "marks")} stale`,
  ].filter(Boolean).join(" · ");
}

function describe(currency, curve) {
  if (curve.length < 2) return `Realized P&L in ${currency}: no changes yet`;
  const values = curve.map(([, value]) => value);
  return `Realized P&L in ${currency} since ${timeOf.format(curve[0][0])}: from ` +
    `${asGain(values[0])} to ${asGain(values.at(-1))}, lowest ${asGain(Math.min(...values))}, ` +
    `highest ${asGain(Math.max(...values))}`;
}

function drawCurve(chart, curve) {
  const { picture } = chart;
  const { clientWidth: width, clientHeight: height } = picture;
  const floor = height - 15; // room for the times
  const values = curve.map(([, value]) => value);
  const [start, end] = [curve[0][0], curve.at(-1)[0]];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = (ms) => ((ms - start) / (end - start || 1)) * (width - 2) + 1;
  const y = (value) => floor - 4 - ((value - low) / (high - low || 1)) * (floor - 8);
  // A step curve: P&L stays until it changes.
  let line = `M${x(start).toFixed(1)} ${y(values[0]).toFixed(1)}`;
  for (const [ms, value] of curve.slice(1)) line += `H${x(ms).toFixed(1)}V${y(value).toFixed(1)}`;
  const trend = values.at(-1) < values[0] ? "falling" : "rising";
  const zero = low < 0 && high > 0 ? y(0) : null;
  const base = zero ?? (high <= 0 ? y(high) : y(low));
  svg("path", { class: `area ${trend}`, d: `${line}V${base}H1Z` }, picture);
  if (zero !== null) svg("line", { class: "zero", x1: 0, x2: width, y1: zero, y2: zero }, picture);
  svg("path", { class: `curve ${trend}`, d: line }, picture);
  const date = end - start > 72e6 ? dayOf : shortTimeOf;
  svg("text", { x: 0, y: height - 3 }, picture).textContent = date.format(start);
  svg("text", { x: width, y: height - 3, "text-anchor": "end" }, picture).textContent = date.format(end);
  if (chart.cursor === null) {
    svg("text", { class: "axis", x: 0, y: 10 }, picture).textContent = asMoney(high);
    if (valued) svg("text", { class: "axis", x: width, y: 10, "text-anchor": "end" }, picture).textContent = "realized";
    if (high > low) svg("text", { class: "axis", x: 0, y: floor - 4 }, picture).textContent = asMoney(low);
  }
  if (chart.cursor !== null) drawCursor(chart, curve, x, floor, width);
}

function drawCursor(chart, curve, x, floor, width) {
  const at = curve.findLast(([ms]) => x(ms) <= chart.cursor) ?? curve[0];
  const place = x(at[0]);
  svg("line", { class: "cursor", x1: place, x2: place, y1: 0, y2: floor }, chart.picture);
  const text = svg("text", { y: 10, x: place + (place > width / 2 ? -6 : 6) }, chart.picture);
  text.setAttribute("text-anchor", place > width / 2 ? "end" : "start");
  text.textContent = `${asGain(at[1])} at ${timeOf.format(at[0])}`;
}

// --- one position: its figures as they come, its lots and executions when asked for -------

const detail = { key: null, asked: 0, wait: 0, told: null };
const ASK_EVERY_MS = 5000;

function openDetail(key) {
  const again = key === detail.key;
  Object.assign(detail, { key: again ? null : key, told: null, asked: 0 });
  byId("detail").hidden = again;
  byId("told").hidden = true;
  tellDetail("");
  redraw();
  if (!again) askDetail();
}

function closeDetail() {
  const { key } = detail;
  if (key !== null) openDetail(key);
  if (key !== null) keepFocus(key);
}

function tellDetail(words) {
  byId("detail-problem").textContent = words;
  byId("detail-problem").hidden = !words;
}

async function ask(path) {
  let found;
  try {
    const answer = await fetch(path);
    found = answer.ok ? await answer.json() : { problem: `The board's server cannot tell: ${answer.status}` };
  } catch {
    found = { problem: "The board's server is away" };
  }
  return found;
}

async function askDetail() {
  const { key } = detail;
  const began = performance.now();
  detail.asked = Infinity; // until it has answered
  if (!detail.told) tellDetail("Reading …");
  const of = rows.get(key)?.stream_id;
  const told = await ask(`position?key=${encodeURIComponent(key)}`);
  if (key !== detail.key) return;
  detail.asked = performance.now();
  detail.wait = Math.max(ASK_EVERY_MS, 10 * (detail.asked - began)); // what takes long is asked seldom
  tellDetail(told.problem);
  detail.told = { ...told, of: told.lots ? of : null }; // what was not told is asked for again
  byId("told").hidden = !told.lots;
  if (told.lots) fillTold(told);
}

function drawDetail() {
  if (detail.key === null) return;
  const row = rows.get(detail.key);
  byId("detail-name").textContent = row ? row.symbol : detail.key;
  byId("detail-about").textContent = row ? [row.account, row.currency].filter(Boolean).join(" · ") : "gone";
  if (row) fillDetail(row);
  // What has changed is committed, and so told, a moment later than it is shown.
  const news = row?.stream_id !== detail.told?.of || performance.now() - (row?.booked ?? 0) < 3 * ASK_EVERY_MS;
  if (news && performance.now() - detail.asked > detail.wait && !document.hidden) askDetail();
}

function fillDetail(row) {
  const age = asMarkAge(row.mark_timestamp, row);
  const worth = [
    ["Mark", asMark(row.mark_price, row), lacksMark(row) ? "warn" : ""],
    ["Mark age", age, isStale(row) ? "warn" : ""],
    ["Market value", orUnknown(asMoney)(row.market_value), ""],
    ...["unrealized_pnl", "day_pnl", "total_pnl"].map((field, n) =>
      [["Unrealized", "Day", "Total"][n], orUnknown(asGain)(row[field]), row[field] === null ? "quiet" : sign(row[field])]),
  ];
  const figures = [
    ["Quantity", asQuantity(row.qty), ""],
    ["Avg price", asPrice(row.avg_price), ""],
    ["Cost basis", asMoney(row.cost_basis), ""],
    ...(valued ? worth : []),
    ["Realized", asGain(row.realized_pnl), sign(row.realized_pnl)],
    ["Net realized", asGain(row.net_realized_pnl), sign(row.net_realized_pnl)],
    ["Commission", asMoney(row.commission), ""],
  ];
  const list = byId("figures");
  while (list.children.length > figures.length) list.lastChild.remove();
  figures.forEach(([name, text, tone], n) => {
    const item = list.children[n] ?? list.appendChild(newFigure());
    const [title, value] = item.children;
    title.textContent = name;
    if (value.textContent !== text) value.textContent = text;
    value.className = tone;
  });
}

function newFigure() {
  const item = document.createElement("div");
  item.append(document.createElement("dt"), document.createElement("dd"));
  return item;
}

const asDate = (ms) => `${dayOf.format(ms)} ${shortTimeOf.format(ms)}`;

function fillTold({ lots, lots_in_all: inAll, executions }) {
  byId("lots-note").textContent = lots.length < inAll
    ? `${asCount(lots.length)} of ${asCount(inAll)}, the oldest` : `${asCount(inAll)}`;
  fillTable("lots", ["Opened", "Quantity", "Price", "Cost basis", "Age"], lots.map((lot) => ({
    title: lot.exec_id,
    cells: [asDate(lot.opened), asQuantity(lot.qty), asPrice(lot.price), asMoney(lot.cost_basis),
      lot.dated ? asSpan((serverTime() - lot.opened) / 1000) : "not known"],
  })));
  fillTable("executions", ["Time", "", "Quantity", "Price", "Net P&L", "Strategy"], executions.map((each) => ({
    title: each.exec_id ?? "",
    cells: [asDate(each.time), each.type === "execution" ? each.side ?? "" : each.type,
      each.fill_qty === "0" ? "busted" : asQuantity(each.fill_qty), asPrice(each.fill_price),
      Number(each.net_change) ? asGain(each.net_change) : "", each.order_ref ?? ""],
    tones: { 4: sign(each.net_change) },
  })));
}

function fillTable(id, names, lines) {
  const [head, body] = byId(id).children;
  const cell = (kind, text, n, tone = "") => {
    const made = document.createElement(kind);
    made.textContent = text;
    made.className = [n && names[n] && names[n] !== "Strategy" ? "" : "left", tone].filter(Boolean).join(" ");
    if (kind === "th") made.scope = "col";
    return made;
  };
  const line = (cells, title = "") => {
    const made = document.createElement("tr");
    made.append(...cells);
    made.title = title;
    return made;
  };
  head.replaceChildren(line(names.map((name, n) => cell("th", name, n))));
  body.replaceChildren(...lines.map(({ cells, title, tones }) =>
    line(cells.map((text, n) => cell("td", text, n, tones?.[n])), title)));
}

// --- strategies: positions whose rows carry an order_ref ----------------------------------

async function askStrategies() {
  const { strategies = [], problem } = await ask("strategies");
  byId("strategies").hidden = !strategies.length && !choice.strategy;
  byId("strategy-problem").textContent = choice.strategy ? problem : "";
  const list = byId("strategy");
  const known = [...list.options].slice(1).map(({ value }) => value);
  if (known.join("\n") === strategies.join("\n") || !strategies.length) return;
  list.replaceChildren(list.options[0], ...strategies.map((name) => new Option(name, name)));
  list.value = choice.strategy;
}

async function chooseStrategy() {
  const name = byId("strategy").value;
  if (name !== choice.strategy) ofStrategy = null;
  choice.strategy = name;
  if (name) {
    const { keys, problem } = await ask(`strategies?name=${encodeURIComponent(name)}`);
    if (name !== choice.strategy) return;
    byId("strategy-problem").textContent = problem;
    if (keys) ofStrategy = new Set(keys);
  } else byId("strategy-problem").textContent = "";
  redraw();
}

// --- the state of the flow ----------------------------------------------------------------

let told = "";

function showState(state) {
  const badges = state.at ? flowBadges(state.streams) : [];
  const letters = state.dead_letters;
  if (letters !== null) {
    badges.push([letters ? "bad" : "good", `${asCount(letters)} dead letter${letters === 1 ? "" : "s"}`]);
  }
  const [broker, kind] = state.broker;
  if (broker) badges.push([kind, broker]);
  if (state.rate !== null) badges.push(["", `${asRate(state.rate)} executions/s`]);
  const list = byId("badges");
  while (list.children.length < badges.length) list.append(document.createElement("li"));
  while (list.children.length > badges.length) list.lastChild.remove();
  badges.forEach(([kind, text], n) => {
    list.children[n].className = `badge ${kind}`;
    if (list.children[n].textContent !== text) list.children[n].textContent = text;
  });
  showList(byId("breaks"), state.breaks.map((words) => `Break: ${words}`));
  showAccounts(state.accounts);
  showProblem(state.problem);
  byId("clock").textContent = state.at ? timeOf.format(state.at) : "";
  tell(state);
}

// One badge for all streams that are well, one for each other; then how far they are.
function flowBadges(streams) {
  const ill = streams.filter(({ flow }) => flow !== "running");
  const badges = ill.map(({ flow, words }) => [flow === "away" ? "bad" : "warn", words]);
  if (!ill.length) badges.push(["good", "flow running"]);
  const waited = Math.max(...streams.map(({ lag_s }) => lag_s));
  const lag = streams.some(({ lag }) => lag === null)
    ? "unknown" : asCount(streams.reduce((sum, stream) => sum + stream.lag, 0));
  badges.push([waited > BEHIND_S ? "warn" : "good", `lag ${lag}, ${asSpan(waited)}`]);
  const ages = streams.map(({ committed_age_s }) => committed_age_s).filter((age) => age !== null);
  if (ages.length && !waited) badges.push(["", "all committed"]);
  else if (ages.length) badges.push(["", `committed up to ${asSpan(Math.min(...ages))} ago`]);
  return badges;
}

function asSpan(seconds) {
  const [size, unit] = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]
    .find(([size]) => seconds >= size) ?? [1, "s"];
  return `${asCount(Math.floor(seconds / size))} ${unit}`;
}

function showList(list, lines) {
  list.hidden = !lines.length;
  const texts = [...list.children].map((line) => line.textContent);
  if (texts.join("\n") === lines.join("\n")) return;
  list.replaceChildren(...lines.map((text) => {
    const line = document.createElement("li");
    line.textContent = text;
    return line;
  }));
}

// What the broker says of its accounts, as it says it: nothing is worked out here.
function showAccounts(accounts) {
  const section = byId("accounts");
  section.hidden = !accounts.length;
  while (section.children.length > accounts.length) section.lastChild.remove();
  accounts.forEach((about, n) => {
    const card = section.children[n] ?? section.appendChild(newAccount());
    const [title, list] = card.children;
    if (title.textContent !== about.account) title.textContent = about.account;
    showList(list, accountLines(about));
  });
}

function newAccount() {
  const card = document.createElement("div");
  card.append(document.createElement("h3"), document.createElement("ul"));
  return card;
}

function accountLines(about) {
  const amounts = (figures) =>
    Object.entries(figures).map(([currency, amount]) => `${asMoney(amount)} ${currency}`).join(", ") || "–";
  const lines = [
    `Net liquidation ${amounts(about.net_liquidation)}`,
    `Buying power ${amounts(about.buying_power)}`,
    `Cash ${amounts(about.cash)}`,
  ];
  if (about.open_orders === null) return [...lines, "Open orders not known"];
  return [...lines, ...about.open_orders.map(({ side, qty, symbol, order_type, limit_price, stop_price, status }) =>
    [`Order ${side} ${qty} ${symbol}`, order_type, limit_price, stop_price, status].filter(Boolean).join(" "))];
}

function showProblem(problem) {
  byId("problem").hidden = !problem;
  if (byId("problem").textContent !== problem) byId("problem").textContent = problem;
}

// What a screen reader says: states, not the figures that change all the time.
function tell(state) {
  const words = state.streams.map(({ flow, words, lag_s }) =>
    flow === "running" ? (lag_s > BEHIND_S ? "The flow is behind" : "The flow is up to date") : words);
  const news = `${[...new Set(words)].join(". ")}. Dead letters: ${state.dead_letters ?? "unknown"}.`;
  if (news !== told) byId("news").textContent = told = news;
}

// --- what the user does -----------------------------------------------------------------

function makeHead() {
  byId("head").replaceChildren();
  for (const column of shown) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.className = classOf(column);
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = column.title;
    button.addEventListener("click", () => sortBy(column));
    cell.append(button);
    byId("head").append(cell);
  }
  byId("above").colSpan = byId("below").colSpan = shown.length;
  showSort();
}

function sortBy({ field, number }) {
  // First click: numbers largest first, texts from A.
  choice.down = choice.sort === field ? !choice.down : Boolean(number) || field === "spark";
  choice.sort = field;
  showSort();
  redraw();
}

function showSort() {
  shown.forEach(({ field }, n) => {
    const cell = byId("head").children[n];
    if (field === choice.sort) cell.setAttribute("aria-sort", choice.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
}

function redraw() {
  stale.rows = true;
  requestAnimationFrame(draw);
}

const THEMES = ["auto", "dark", "light"];

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
  byId("theme").textContent = `Theme: ${theme}`;
}

setTheme(THEMES.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "auto");
byId("theme").addEventListener("click", () =>
  setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]));
for (const input of document.querySelectorAll("input[name=show]")) {
  input.addEventListener("change", () => {
    choice.show = input.value;
    scroller.scrollTop = 0;
    redraw();
  });
}
choice.show = document.querySelector("input[name=show]:checked").value;
byId("search").addEventListener("input", (event) => {
  choice.search = event.target.value;
  scroller.scrollTop = 0;
  redraw();
});
byId("strategy").addEventListener("change", () => {
  scroller.scrollTop = 0;
  chooseStrategy();
});
byId("rows").addEventListener("click", (event) => {
  const slot = slotOf(event.target);
  if (slot && !String(getSelection())) openDetail(slot.row.key);
});
byId("rows").addEventListener("keydown", (event) => {
  const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  const slot = slotOf(event.target);
  if (!by || !slot) return;
  event.preventDefault();
  const place = visible.findIndex(({ key }) => key === slot.row.key) + by;
  if (!visible[place]) return;
  const last = (place + 2) * ROW - scroller.clientHeight + ROW / 2; // the head is above the rows
  scroller.scrollTop = Math.min(place * ROW, Math.max(last, scroller.scrollTop));
  drawRows();
  keepFocus(visible[place].key);
});
byId("close").addEventListener("click", closeDetail);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && document.activeElement !== byId("search")) closeDetail();
  if (event.key === "/" && document.activeElement !== byId("search")) {
    event.preventDefault();
    byId("search").focus();
  }
});
scroller.addEventListener("scroll", () => requestAnimationFrame(drawRows), { passive: true });
new ResizeObserver(() => {
  room = scroller.clientWidth;
  stale.curves = stale.rows = true;
  requestAnimationFrame(draw);
}).observe(scroller);

// All rows are read for an answer, so the page asks seldom.
askStrategies();
byId("strategy").addEventListener("focus", askStrategies);
setInterval(() => document.hidden || askStrategies(), 600_000);
setInterval(() => document.hidden || !choice.strategy || chooseStrategy(), 15_000);

const events = new EventSource("events");
events.onmessage = (event) => take(JSON.parse(event.data));
setInterval(() => {
  if (performance.now() - heard <= SILENT_MS) return;
  showProblem("The board's server is away: old figures");
  for (const badge of byId("badges").children) badge.className = "badge"; // nothing is known to be good
}, 1000);
