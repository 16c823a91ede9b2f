"use strict";
// Everything that is shown is added up from what launch/memory.py --page has left in #data: no formula of a
// network, a mode or a machine is here. State: what the controls say, and the address after its #.

const MIB = 2 ** 20, GIB = 2 ** 30, ROW = 34, NARROW = 640, AXIS = 84;
const BUDGETS = { "3 GiB (GTX 580)": 3, "6 GiB (GTX Titan)": 6, "12 GiB": 12, "16 GiB": 16,
  "24 GiB": 24, "40 GiB": 40, "79.2 GiB (H100)": 79.2 };
const COLOURS = { weights: "#3d6fa8", gradients: "#d98a2b", momentum: "#7a5ba6", buckets: "#b7723a", batch: "#3f8f6b",
  activations: "#c2533a", "narrow weights": "#6fa3d8", "gathered weights": "#5e8fc0",
  "gradients of activations": "#e2a89a", temporary: "#8c8c8c", scratch: "#b9b36a" };
const MARKS = ["", "M0 6L6 0", "M3 0V6", "M0 3H6", "M0 0L6 6", "M0 6L6 0M0 0L6 6", "M2 2h2v2h-2z", "M0 3H6M3 0V6",
  "M0 1H6M0 4H6", "M1 0V6M4 0V6", "M3 1L5 5H1Z"];
const DEVICES = { cpu: "CPU", gpu: "GPU" };

const $ = (id) => document.getElementById(id);
const tenths = (x) => x.toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const mib = (bytes) => tenths(bytes / MIB);
const megabytes = (bytes) => tenths(bytes / 1e6);
const percent = (share) => `${Math.round(100 * share)} %`;
const images = (count) => `${count} image${count === 1 ? "" : "s"}`;
const entity = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const tag = (name, keys, inner = "") =>
  `<${name}${Object.entries(keys).map(([key, value]) => ` ${key}="${entity(value)}"`).join("")}>${inner}</${name}>`;
const label = (x, y, said, more = {}) => tag("text", { x, y, ...more }, entity(said));

let data, state, shown, place = 0;

// ---- numbers -------------------------------------------------------------------------------------------

/** A step of a case at a batch: bytes by kind at the peak, and in every place; `grows`, those that come with the
 * images; null if it cannot be divided. */
function step(found, batch) {
  if (batch % found.unit) return null;
  const units = batch / found.unit;
  const piece = found.pieces.find(([first, last]) => first <= units && units <= last);
  const [storages, events, moments] = data.steps[piece[2]];
  const growths = storages.map(([, , slope]) => slope * units);
  const sizes = storages.map(([, base], n) => base + growths[n]);
  const places = [];
  let held = 0, grows = 0, next = 0;
  events.forEach((event, number) => {
    if (next < moments.length && moments[next][1] === number) {
      places.push({ place: data.places[moments[next][0]], bytes: held, grows, at: number });
      next += 1;
    }
    held += event >= 0 ? sizes[event] : -sizes[-event - 1];
    grows += event >= 0 ? growths[event] : -growths[-event - 1];
    const here = places[places.length - 1];
    if (held > here.bytes) Object.assign(here, { bytes: held, grows, at: number + 1 });
  });
  places.forEach((here, n) => {  // where towers meet, by what comes next
    if (here.place.endsWith(" join") && n + 1 < places.length) here.place += `, before ${places[n + 1].place}`;
  });
  const parts = new Map();
  let done = 0;
  for (const here of [...places].sort((a, b) => a.at - b.at)) {
    for (; done < here.at; done += 1) {
      const made = events[done] >= 0, storage = made ? events[done] : -events[done] - 1;
      const kind = data.kinds[storages[storage][0]];
      parts.set(kind, (parts.get(kind) || 0) + (made ? sizes[storage] : -sizes[storage]));
    }
    here.parts = new Map([...parts].filter(([, size]) => size));
  }
  const peak = places.reduce((most, here) => (here.bytes > most.bytes ? here : most));
  return { places, peak: peak.bytes, worst: peak.place, grows: peak.grows, parts: peak.parts };
}

/** What a rank sends at a batch: [kind, after which layer, bytes]; null where it is not known. */
function sends(found, s) {
  const known = data.sent[[s.towers, s.precision, s.lever].join("|")].find((one) => same(one, found));
  return known ? known.of.map(([kind, layer, base, slope]) => [kind, layer, base + slope * s.batch]) : null;
}

const fits = (one) => one.peak <= state.budget * GIB;
const total = (crossing) => crossing && crossing.reduce((sum, [, , bytes]) => sum + bytes, 0);

/** Seconds of a step: low, middle, high; null where nothing is known of them. */
function seconds(found, s) {
  const known = data.times[timed(s)];
  if (!known || s.lever !== "none") return null;
  const { unit, knots } = known.of.find((one) => same(one, found)), units = s.batch / unit;
  const after = Math.max(1, knots.findIndex(([n]) => n >= units)), link = 3 * known.links.indexOf(s.link);
  const [[low, from], [high, to]] = knots.length > 1 ? [knots[after - 1], knots[after]] : [knots[0], knots[0]];
  const share = high > low ? (units - low) / (high - low) : 0;
  return [0, 1, 2].map((side) => from[link + side] + share * (to[link + side] - from[link + side]));
}

const same = (one, other) => one.mode === other.mode && one.ranks === other.ranks;
const keyOf = (s) => [s.towers, s.precision, s.lever, s.device].join("|");
const timed = (s) => [s.towers, s.precision, s.device].join("|");
const modesOf = (all) => [...new Set(all.map((one) => one.mode))];
const caseAt = (all, mode, ranks) => all.find((one) => one.mode === mode && (one.ranks === ranks || mode === "single"));

/** All that a state shows: a row for every mode, with its `mistake` where it cannot be. */
function view(s = state) {
  const all = data.memory[keyOf(s)];
  return modesOf(all).map((mode) => {
    const found = caseAt(all, mode, s.ranks);
    if (!found) {
      const able = all.filter((one) => one.mode === mode).map((one) => one.ranks);
      return { mode, ranks: s.ranks, mistake: `${s.towers} towers need ${able.join(" or ")} ranks` };
    }
    const held = step(found, s.batch);
    if (!held) return { ...found, mistake: `${s.batch} is not divisible by ${found.unit}` };
    const crossing = sends(found, s);
    return { ...found, ...held, batch: s.batch, crossing, sent: total(crossing), time: seconds(found, s) };
  });
}

/** The largest batch of a case that fits a budget, 0 if none does. */
function largest(found, budget) {
  let [fits, beyond] = [0, Math.floor(data.last / found.unit) + 1];
  while (beyond - fits > 1) {
    const middle = (fits + beyond) >> 1;
    if (step(found, middle * found.unit).peak <= budget) fits = middle; else beyond = middle;
  }
  return fits * found.unit;
}

// ---- pictures ------------------------------------------------------------------------------------------

const kinds = () => Object.keys(COLOURS).filter((kind) => data.kinds.includes(kind))
  .concat(data.kinds.filter((kind) => !(kind in COLOURS)));
const kindsShown = () => kinds().filter((kind) => shown.some((one) => one.parts && one.parts.has(kind)));
const fill = (kind) => `url(#fill-${kinds().indexOf(kind)})`;

function patterns() {
  return tag("defs", {}, kinds().map((kind, n) => tag("pattern",
    { id: `fill-${n}`, width: 6, height: 6, patternUnits: "userSpaceOnUse" },
    tag("rect", { width: 6, height: 6, fill: COLOURS[kind] || "#777" }) +
    (MARKS[n % MARKS.length] && tag("path", { d: MARKS[n % MARKS.length], stroke: "#fff", "stroke-width": 1,
      "stroke-opacity": 0.75, fill: "none" })))).join(""));
}

function svg(width, height, inner, named) {
  return tag("svg", { xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": named }, inner);
}

const widthOf = (id) => Math.max(300, $(id).clientWidth);

function drawBars() {
  const width = widthOf("bars"), narrow = width < NARROW, left = narrow ? 0 : 90, right = 96;
  const row = narrow ? ROW + 18 : ROW, budget = state.budget * GIB;
  const most = Math.max(...shown.map((one) => one.peak || 0));
  const top = budget < 2.5 * most ? Math.max(most, budget) : most;
  const scale = (width - left - right) / (top || 1);
  let inner = patterns();
  shown.forEach((one, n) => {
    const y = n * row + (narrow ? 18 : 0);
    inner += label(0, narrow ? y - 4 : y + 17, one.mode + (one.mode === state.mode ? " ◂" : ""),
      one.mode === state.mode ? { "font-weight": 700 } : {});
    if (one.mistake) { inner += label(left, y + 17, one.mistake, { class: "faint" }); return; }
    let x = left;
    for (const kind of kinds()) {
      const size = one.parts.get(kind) || 0;
      if (size) inner += tag("rect", { x, y, width: size * scale, height: 22, fill: fill(kind) },
        tag("title", {}, `${one.mode}, ${kind}: ${mib(size)} MiB`));
      x += size * scale;
    }
    inner += tag("rect", { x: left, y, width: one.peak * scale, height: 22, class: "outline" });
    inner += label(x + 6, y + 16, `${mib(one.peak)} MiB`);
  });
  const height = shown.length * row + 22, at = left + budget * scale;
  if (budget <= top) {
    inner += tag("line", { x1: at, x2: at, y1: 0, y2: height - 18, class: "budget" });
    const end = at > width - 150;
    inner += label(end ? at - 6 : at + 6, height - 4, `budget ${mib(budget)} MiB`, end ? { "text-anchor": "end" } : {});
  } else inner += label(left, height - 4, `budget ${mib(budget)} MiB, beyond the right edge`, { class: "faint" });
  $("bars").innerHTML = svg(width, height, inner, "Memory of a rank by mode and category; the table has the figures");
  $("legend").innerHTML = kindsShown().map((kind) => `<span><svg width="18" height="14" aria-hidden="true">${tag("rect",
    { width: 18, height: 14, fill: fill(kind) })}</svg>${kind}</span>`).join("");
}

function drawTable() {
  const known = shown.some((one) => one.time);
  const head = ["mode", "ranks", "MiB", "fits", "MB sent", "ms a step", "low – high", "images/s"];
  const lines = shown.map((one) => one.mistake ? [one.mode, one.ranks, one.mistake] : cells(one));
  $("table").innerHTML = `<tr>${head.map((cell) => `<th scope="col">${cell}</th>`).join("")}</tr>` +
    lines.map((line, n) => `<tr${shown[n].mode === state.mode ? ' aria-current="true"' : ""}>` + line.map((cell, m) =>
      m ? `<td${line.length < 4 && m === 2 ? ' colspan="6"' : ""}>${cell}</td>` : `<th scope="row">${cell}</th>`)
      .join("") + "</tr>").join("");
  const of = data.times[timed(state)];
  $("times").textContent = known
    ? `Times are a model's, low – high its interval: layers as on ${of.device} (${of.source}), whatever the budget, over ` +
      `the link that is chosen${of.proviso && `, ${of.proviso}`}${of.threads ? ", one thread a rank" : ""}.`
    : of ? `No times: the model has none of steps that hold less by ${state.lever}.`
      : `No times: layers of ${state.towers} towers in ${state.precision} were not measured on a ${DEVICES[state.device]}.`;
}

function cells(one) {
  const line = [one.mode, one.ranks, mib(one.peak), fits(one) ? "yes" : "no",
    one.crossing ? megabytes(one.sent) : "not counted"];
  if (!one.time) return [...line, "", "", ""];
  const [low, middle, high] = one.time.map((s) => (1000 * s).toFixed(1));
  return [...line, middle, `${low} – ${high}`, Math.round(one.batch / one.time[1]).toLocaleString("en")];
}

function drawSteps() {
  const one = chosen(), width = widthOf("steps"), height = 260, left = AXIS, foot = 22;
  if (one.mistake) { $("steps").innerHTML = ""; $("place").textContent = one.mistake; return; }
  const places = one.places, wide = (width - left - 2) / places.length, scale = (height - foot - 14) / one.peak;
  place = Math.min(place, places.length - 1);
  const areas = new Map(kinds().map((kind) => [kind, ""]));
  places.forEach((here, n) => {
    let y = height - foot;
    for (const kind of kinds()) {
      const tall = (here.parts.get(kind) || 0) * scale;
      if (tall) areas.set(kind, `${areas.get(kind)}M${left + n * wide} ${y}v${-tall}h${wide}v${tall}z`);
      y -= tall;
    }
  });
  let inner = "";
  for (const [kind, d] of areas) if (d) inner += tag("path", { d, fill: fill(kind) });
  for (const share of [0, 0.5, 1]) inner += label(left - 6, height - foot - share * one.peak * scale + 4,
    `${Math.round(share * one.peak / MIB).toLocaleString("en")} MiB`, { "text-anchor": "end", class: "faint" });
  const losses = places.flatMap((here, n) => (here.place === "forward loss" ? [n] : []));
  for (const loss of losses) {
    const x = left + (loss + 0.5) * wide;
    inner += tag("line", { x1: x, x2: x, y1: 4, y2: height - foot, class: "axis" });
    if (losses.length === 1) inner += label(left, height - 4, "forward") + label(x + 4, height - 4, "backward");
  }
  if (losses.length > 1) inner += label(left, height - 4,
    `${losses.length} passes, the lines where each turns back`);
  inner += tag("rect", { id: "cursor", x: left + place * wide, y: 4, width: wide, height: height - foot - 4,
    class: "outline" });
  $("steps").innerHTML = svg(width, height, inner, `${one.mode}: what is held from place to place`);
  tell(one);
}

function tell(one) {
  const here = one.places[place], parts = [...here.parts].sort((a, b) => b[1] - a[1]);
  $("place").textContent = `${here.place}: ${mib(here.bytes)} MiB` + (here.place === one.worst && here.bytes === one.peak
    ? ", the peak" : "") + ` = ${parts.map(([kind, size]) => `${kind} ${mib(size)}`).join(" + ")}`;
  const cursor = $("cursor"), wide = cursor && Number(cursor.getAttribute("width"));
  if (cursor) cursor.setAttribute("x", AXIS + place * wide);
}

function drawCrossing() {
  const one = chosen();
  $("sent").innerHTML = "";
  if (one.mistake || !one.crossing) {
    $("towers-drawn").textContent = one.mistake || `Not counted for ${one.mode} with ${state.lever}.`;
    return;
  }
  const width = widthOf("towers-drawn"), narrow = width < NARROW, gap = narrow ? 10 : 26;
  const ranks = Math.min(one.ranks, narrow ? 2 : 4);
  const wide = (width - (ranks - 1) * gap) / ranks, rows = data.networks[state.towers];
  const stages = Map.groupBy(rows, ([stage]) => stage), tall = 46, between = 34;
  const letters = Math.floor((wide - 12) / 7.8);  // in a box
  const cut = (words) => (words.length > letters ? `${words.slice(0, letters - 1)}…` : words);
  const box = (r, y, words, more) => {
    const x = r * (wide + gap);
    return tag("rect", { x, y, width: wide, height: tall, rx: 4, class: "panel" }, tag("title", {}, words)) +
      label(x + 6, y + 19, cut(words)) + label(x + 6, y + 37, cut(more), { class: "faint" });
  };
  let inner = "", y = 42, last = 0;
  for (let r = 0; r < ranks; r += 1) inner += label(r * (wide + gap), 16, `rank ${r}`, { "font-weight": 600 }) +
    label(r * (wide + gap), 33, cut(share(one, r)), { class: "faint" });
  for (const [stage, layers] of stages) {
    const names = layers.map(([, name]) => name).join(" "), [, , gives] = layers[layers.length - 1];
    const summed = one.crossing.some(([kind, layer]) => kind === "sum" && layers.some(([, name]) => name === layer));
    const here = towersOf(one, summed), each = here > 1 ? `${here} towers, each gives ` : "a tower gives ";
    const more = `${letters < 32 ? "" : each}${gives.join("×")}`;
    for (let r = 0; r < ranks; r += 1) inner += box(r, y, names, more);
    const bytes = total(one.crossing.filter(([kind, layer]) => kind === "exchange" && layer === `join${stage + 1}`));
    const middle = y + tall + between / 2;
    if (bytes) {
      const group = one.mode === "grid" ? state.towers : one.ranks, middleOf = (r) => r * (wide + gap) + wide / 2;
      for (let r = 0; r < ranks; r += 1) for (let to = 0; to < ranks; to += 1)
        if (r !== to && Math.floor(r / group) === Math.floor(to / group)) inner += tag("path",
          { d: `M${middleOf(r)} ${y + tall}L${middleOf(to)} ${y + tall + between}`, class: "crossing" });
      inner += label(6, middle + 4, `${megabytes(bytes)} MB`);
    }
    y += tall + between;
    last = bytes;
  }
  if (last) {  // the last exchange is of what the loss needs
    for (let r = 0; r < ranks; r += 1) inner += box(r, y, "loss", "of all classes");
    y += tall + between;
  }
  const others = sums(one.crossing.filter(([kind]) => kind !== "exchange"));
  const words = { gather: "weights, gathered", scatter: "gradients, scattered", broadcast: "weights, sent out",
    sum: `gradients, summed${one.mode === "grid" ? " over replicas" : ""}` };
  let end = y - 10;
  for (const [kind, bytes] of others) {  // of whole layers, between all ranks
    inner += label(6, end += 28, `${words[kind] || kind}: ${megabytes(bytes)} MB`);
    inner += tag("path", { d: `M8 ${end + 2}l-6 4l6 4M2 ${end + 6}H${width - 2}M${width - 8} ${end + 2}l6 4l-6 4`,
      class: "crossing", fill: "none" });
  }
  if (!one.sent) inner += label(6, end += 20, "nothing is sent");
  if (one.ranks > ranks) inner += label(6, end += 20, `and ${one.ranks - ranks} ranks more, likewise`, { class: "faint" });
  $("towers-drawn").innerHTML = svg(width, end + 12, inner, "Ranks side by side, with what each sends where stages end");
  if (!one.sent) return;
  const exchanged = (layer) => (layer === `join${stages.size}` ? "logits" : "activations and their gradients");
  const lines = [...sums(one.crossing.map(([kind, layer, size]) =>
    [`${words[kind] || exchanged(layer)}|${layer.replace("join", "end of stage ") || "start"}`, layer, size]))];
  const head = ["MB a step", "what a rank sends", "after"].map((cell) => `<th scope="col">${cell}</th>`).join("");
  $("sent").innerHTML = `<tr>${head}</tr>` + lines.map(([key, bytes]) => {
    const [what, after] = key.split("|");
    return `<tr><td>${megabytes(bytes)}</td><th scope="row">${what}</th><td>${after}</td></tr>`;
  }).join("");
}

/** How many towers of a stage a rank has; `summed`: whether its gradients are summed over ranks. */
function towersOf(one, summed) {
  if (one.mode === "grid") return 1;
  return one.mode === "split" || (one.mode === "hybrid" && !summed) ? state.towers / one.ranks : state.towers;
}

/** In words, what a rank has of a step. */
function share(one, rank) {
  const some = images(state.batch / one.ranks), each = state.towers / one.ranks;
  const whole = state.towers > 1 ? `${some}, all towers` : some;
  if (one.mode === "split") return each > 1 ? `${each} towers` : `tower ${rank}`;
  if (one.mode === "grid") return `tower ${rank % state.towers}, ${images(state.towers * state.batch / one.ranks)}`;
  return one.mode === "hybrid" ? `${some}, then towers` : whole;
}

function sums(lines) {
  const of = new Map();
  for (const [key, , bytes] of lines) of.set(key, (of.get(key) || 0) + bytes);
  return of;
}

const chosen = () => shown.find((one) => one.mode === state.mode) || shown[0];

/** What decides the state: the chosen mode, what a lever does for it, and which mode is the best of those that fit. */
function sentence() {
  const one = chosen(), said = one.mistake ? `${one.mode}: ${one.mistake}.` : ownSentence(one) + leverSentence(one);
  const can = shown.filter((other) => !other.mistake), fitting = can.filter(fits);
  if (!can.length) return `${said} No mode can have such a batch.`;
  const least = can.reduce((a, b) => (b.peak < a.peak ? b : a)), budget = `${mib(state.budget * GIB)} MiB`;
  if (!fitting.length)
    return `${said} Nothing fits ${budget}: ${least.mode}, which holds the least, has ${mib(least.peak)} MiB.`;
  const out = shown.filter((other) => other.mistake).map((other) => other.mode).join(", ");
  const best = `${said} Of what fits ${budget}${out && ` (${out} cannot be)`}, ${least.mode} holds the least`;
  const clocked = fitting.filter((other) => other.time).sort((a, b) => a.time[1] - b.time[1]);
  if (!clocked.length) return `${best}.`;
  const close = clocked.slice(1).filter((other) => other.time[1] < clocked[0].time[1] * (1 + data.close));
  const others = close.length && ` (or ${close.map((other) => other.mode).join(", ")}: within ${percent(data.close)} ` +
    "it is too close to tell)";
  return `${best}; the fastest, with layers as on ${data.times[timed(state)].device}, is ${clocked[0].mode}${others || ""}.`;
}

function ownSentence(one) {
  const fixed = 1 - one.grows / one.peak;
  const twice = 2 * state.batch <= data.last ? step(one, 2 * state.batch) : null;
  const grows = twice ? `; a batch twice as large takes ${mib(twice.peak - one.peak)} MiB more` : "";
  const what = fixed >= 0.5
    ? `what does not grow with the batch, weights, gradients, momentum and copies, is ${percent(fixed)} of it`
    : `what comes with the images is ${percent(1 - fixed)} of it`;
  return `${one.mode}: ${mib(one.peak)} MiB, most in ${one.worst}; ${what}${grows}.` + (fits(one) ? ""
    : ` It does not fit; its largest batch is ${largest(one, state.budget * GIB).toLocaleString("en")}.`);
}

function leverSentence(one) {
  if (state.lever === "none") return "";
  const plain = step(data.memory[keyOf({ ...state, lever: "none" })].find((other) => same(one, other)), state.batch);
  const less = plain.peak - one.peak;
  return ` Without ${state.lever}: ${mib(plain.peak)} MiB, ` + (less ? `most in ${plain.worst}.`
    : `as much, since nothing is saved at the peak, in ${plain.worst}.`);
}

// ---- state ---------------------------------------------------------------------------------------------

const toSlider = (batch) => Math.round(1000 * Math.log(batch) / Math.log(data.last));
const fromSlider = (at) => Math.round(data.last ** (at / 1000));

/** The batch at a place of the slider; where places lie closer than images, the next one. */
function moved(at) {
  const batch = fromSlider(at);
  return batch === state.batch ? batch + Math.sign(at - toSlider(batch)) : batch;
}

/** Of layers that are there twice, and so have a number, the tower. */
const inWords = (here) => here.replace(/ \((\d+)\)$/, " of tower $1").replace("tower of ", "");

function options(id, values, names = (value) => value) {
  $(id).innerHTML = values.map((value) => tag("option", { value }, entity(names(value)))).join("");
}

/** Every control has what can be chosen beside the others; what cannot be any more is left for the first that can,
 * and told. */
function settle() {
  const left = [], asked = state.batch;
  let keys = Object.keys(data.memory).map((key) => key.split("|"));
  const among = (n) => [...new Set(keys.map((key) => key[n]))];
  const narrow = (n, id) => { keys = keys.filter((key) => key[n] === String(state[id])); };
  const pick = (id, values, names) => {
    const had = state[id];
    const usual = presets()[0][1][id];
    if (!values.map(String).includes(String(had))) state[id] = values.includes(usual) ? usual : values[0];
    options(id, values, names);
    $(id).value = state[id];
    const [chosenOption] = $(id).selectedOptions;
    if (String(had) !== String(state[id]))
      left.push(`${$(id).closest("label").firstChild.data.trim()}: ${chosenOption.text}`);
  };
  pick("towers", among(0).map(Number));
  narrow(0, "towers");
  pick("precision", among(1));
  narrow(1, "precision");
  pick("lever", among(2), (lever) => (lever === "none" ? "nothing" : lever));
  narrow(2, "lever");
  pick("device", among(3), (device) => DEVICES[device]);
  const found = data.memory[keyOf(state)];
  pick("ranks", [...new Set(found.map((one) => one.ranks))].filter((n) => n > 1).sort((a, b) => a - b));
  pick("mode", modesOf(found));
  const times = data.times[timed(state)];
  pick("link", times ? times.links : ["not known"]);
  pick("budget", Object.values(BUDGETS), (size) => Object.keys(BUDGETS).find((name) => BUDGETS[name] === size));
  state.budget = Number(state.budget);
  state.batch = Math.min(data.last, Math.max(1, Math.round(Number(state.batch)) || 1));
  if (String(asked) !== String(state.batch)) left.push(`Batch: ${state.batch}`);
  $("batch").value = state.batch;
  $("slider").value = toSlider(state.batch);
  $("left").textContent = left.length && `Changed, since what was there cannot be with the rest: ${left.join(", ")}.` || "";
  $("slider").setAttribute("aria-valuetext", images(state.batch));
}

function show(addressed = true) {
  settle();
  shown = view();
  drawBars();
  drawTable();
  drawSteps();
  drawCrossing();
  $("said").textContent = sentence();
  if (addressed) history.replaceState(null, "", `#${new URLSearchParams(state)}`);
}

function fromAddress() {
  state = { ...presets()[0][1] };
  for (const [key, value] of new URLSearchParams(location.hash.slice(1)))
    if (key in state) state[key] = typeof state[key] === "number" ? Number(value) : value;
}

function presets() {
  const views = Object.keys(data.memory), towers = Number(views[0].split("|")[0]);
  const device = views.some((view) => view.endsWith("gpu")) ? "gpu" : "cpu";
  const base = { batch: data.batch, ranks: 2, towers, precision: "float32", lever: "none", device };
  return [
    ["2012: two GTX 580, the split", { ...base, mode: "split", budget: 3, link: "PCIe 2.0, 6 GB/s" }],
    ["2014: the hybrid", { ...base, mode: "hybrid", budget: 6, link: "PCIe 2.0, 6 GB/s" }],
    ["Today: H100s, bfloat16", { ...base, precision: "bfloat16", mode: "ddp", batch: 1024, budget: BUDGETS["79.2 GiB (H100)"],
      link: "NVLink of an H100, 400 GB/s" }],
  ];
}

function download(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function asCsv() {
  const keys = ["batch", "towers", "precision", "lever", "device", "link"], times = data.times[timed(state)];
  const head = ["images", ...keys.slice(1), "layers timed on", "budget, bytes", "mode", "ranks", "mistake", "bytes at the peak",
    "fits", "worst in", ...kinds().map((kind) => `${kind}, bytes`), "bytes sent", "seconds low", "seconds", "seconds high"];
  const lines = shown.map((one) => {
    const line = [...keys.map((key) => state[key]), times ? times.device : "", Math.round(state.budget * GIB), one.mode, one.ranks,
      one.mistake || ""];
    if (!one.mistake) line.push(one.peak, fits(one) ? "yes" : "no", one.worst,
      ...kinds().map((kind) => one.parts.get(kind) || 0), one.sent ?? "", ...(one.time || []));
    return head.map((_, n) => line[n] ?? "");
  });
  return [head, ...lines].map((line) => line.map((cell) => (/[",]/.test(cell) ? `"${cell}"` : cell)).join(",")).join("\n");
}

function asSvg() {
  const drawn = $("bars").querySelector("svg").cloneNode(true), look = getComputedStyle(document.body);
  const style = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]).map((rule) => rule.cssText)
    .filter((rule) => /^\.chart [^{]/.test(rule)).join("\n").replaceAll(".chart ", "")
    .replace(/var\((--\w+)\)/g, (_, name) => look.getPropertyValue(name));
  const [, , width, height] = drawn.getAttribute("viewBox").split(" ").map(Number), { batch, ranks, towers } = state;
  const said = [`${data.name}: batch ${batch}`, `${ranks} ranks`, `${towers} towers`, state.precision, DEVICES[state.device]];
  let inner = label(4, 16, said.concat(state.lever === "none" ? [] : state.lever).join(", "), { "font-weight": 700 }), x = 4, y = 26;
  for (const kind of kindsShown()) {
    const wide = 42 + 7.8 * kind.length;
    if (x + wide > width) { x = 4; y += 20; }
    inner += tag("rect", { x, y, width: 18, height: 14, fill: fill(kind) }) + label(x + 23, y + 12, kind);
    x += wide;
  }
  const top = y + 26;
  drawn.setAttribute("viewBox", `0 ${-top} ${width} ${height + top}`);
  drawn.setAttribute("width", width);
  drawn.setAttribute("height", height + top);
  drawn.insertAdjacentHTML("afterbegin", `<style>${style}</style>` + tag("rect", { y: -top, width, height: height + top,
    fill: look.getPropertyValue("--ground") }) + tag("g", { transform: `translate(0 ${-top})` }, inner));
  return new XMLSerializer().serializeToString(drawn);
}

function listen() {
  $("slider").addEventListener("input", () => { state.batch = moved(Number($("slider").value)); show(); });
  $("batch").addEventListener("change", () => { state.batch = Number($("batch").value); show(); });
  for (const id of ["ranks", "towers", "precision", "lever", "device", "link", "budget", "mode"])
    $(id).addEventListener("change", () => {
      state[id] = ["ranks", "towers", "budget"].includes(id) ? Number($(id).value) : $(id).value;
      show();
    });
  const [where] = document.getElementsByClassName("presets");
  where.innerHTML = presets().map(([name]) => tag("button", { type: "button" }, entity(name))).join("");
  [...where.children].forEach((button, n) => button.addEventListener("click", () => {
    state = { ...presets()[n][1] };
    show();
  }));
  $("csv").addEventListener("click", () => download(`${data.name}.csv`, "text/csv", asCsv()));
  $("svg").addEventListener("click", () => download(`${data.name}.svg`, "image/svg+xml", asSvg()));
  const go = (to) => { place = Math.max(0, Math.min(chosen().places.length - 1, to)); tell(chosen()); };
  $("steps").addEventListener("keydown", (event) => {
    const to = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: Infinity }[event.key];
    if (to === undefined || chosen().mistake) return;
    event.preventDefault();
    go(to);
  });
  $("steps").addEventListener("pointermove", (event) => {
    if (chosen().mistake) return;
    const { left, width } = $("steps").getBoundingClientRect(), wide = $("cursor").getAttribute("width");
    go(Math.floor(((event.clientX - left) * widthOf("steps") / width - AXIS) / wide));
  });
  $("bars").addEventListener("click", (event) => {
    const narrow = widthOf("bars") < NARROW, y = event.clientY - $("bars").getBoundingClientRect().top;
    const one = shown[Math.floor(y / (narrow ? ROW + 18 : ROW))];
    if (one) { state.mode = one.mode; show(); }
  });
  addEventListener("hashchange", () => { fromAddress(); show(false); });
  let waits = 0;
  addEventListener("resize", () => { cancelAnimationFrame(waits); waits = requestAnimationFrame(() => show(false)); });
}

async function unpacked() {
  const bytes = Uint8Array.from(atob($("data").textContent.trim()), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
}

unpacked().then((found) => {
  data = { ...found, places: found.places.map(inWords) };
  fromAddress();
  listen();
  show(location.hash.length > 1);
  $("source").textContent = `Made by ${data.command}, torch ${data.torch}.`;
  guesses();
  document.body.dataset.ready = "yes";
});
