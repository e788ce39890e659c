"use strict";
// The reader. Everything from the data reaches the page as textContent, an attribute value or a number, never as markup.
(() => {
  const PAGE = 20, LISTED = 12, CONTEXT = 4;
  const QUANTITIES = {
    entropy_bits: ["token entropy", "bits"],
    surprisal_bits: ["surprisal", "bits"],
    logit_space: ["logit-space strength |e − p|", ""],
    strength: ["strength", "logit per weight"],
    rank_product: ["rank product", ""],
  };
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const controls = ["run", "beside", "quantity", "norm", "layer", "projection", "segment", "correct", "sort"];
  const value = (id) => byId(id).value;
  let order = [], page = 0, chosen = 0, limits = [0, 1];

  function make(tag, text, className) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  }

  // ---- numbers -------------------------------------------------------------------------------------------------

  // Arrays are decoded when first asked for; the last few stay.
  const unpacked = new Map();
  function unpack(packed) {
    if (unpacked.has(packed)) return unpacked.get(packed);
    const raw = atob(packed.data), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    let array = bytes;
    if (packed.kind === "u32") array = new Uint32Array(bytes.buffer);
    if (packed.kind === "f32") array = new Float32Array(bytes.buffer);
    if (packed.kind === "f16") array = Float32Array.from(new Uint16Array(bytes.buffer), (bits) => packed.scale * half(bits));
    if (unpacked.size > 60) unpacked.delete(unpacked.keys().next().value);
    unpacked.set(packed, array);
    return array;
  }

  function half(bits) {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return exponent ? sign * 2 ** (exponent - 25) * (1024 + fraction) : sign * 2 ** -24 * fraction;
  }

  const computed = new Map();
  function remember(key, compute) {
    if (!computed.has(key)) {
      if (computed.size > 24) computed.delete(computed.keys().next().value);
      computed.set(key, compute());
    }
    return computed.get(key);
  }

  const count = (run) => run.starts[run.starts.length - 1];
  const missing = (run) => new Float32Array(count(run)).fill(NaN);

  // Strength of every token: one layer and projection, or a mean over either or both.
  function strengthOf(run, name, layer, projection) {
    const norm = run.norms[name];
    if (!norm) return missing(run);
    if (layer === "mean" && projection === "mean") return unpack(norm.mean);
    if (!norm.cells) {
      if (layer !== "mean" && projection !== "mean") return missing(run);
      const [columns, i] = projection === "mean"
        ? [norm.layer_means, norm.layers.indexOf(Number(layer))]
        : [norm.projection_means, norm.projections.indexOf(projection)];
      return i < 0 ? missing(run) : unpack(columns[i]);
    }
    return remember([run.name, name, layer, projection].join("|"), () => {
      const rows = layer === "mean" ? norm.layers.map((_, i) => i) : [norm.layers.indexOf(Number(layer))];
      const columns = projection === "mean" ? norm.projections.map((_, i) => i) : [norm.projections.indexOf(projection)];
      if (rows.includes(-1) || columns.includes(-1)) return missing(run);
      // A pair that is missing for every token was not measured and does not count.
      const cells = rows.flatMap((i) => columns.map((j) => unpack(norm.cells[i][j]))).filter((c) => c.some((v) => v === v));
      if (!cells.length) return missing(run);
      return Float32Array.from(cells[0], (_, t) => cells.reduce((sum, cell) => sum + cell[t], 0) / cells.length);
    });
  }

  const strength = (run) => strengthOf(run, value("norm"), value("layer"), value("projection"));

  // Ranks of the tokens that have both numbers, ties averaged, centred and scaled to -1..1.
  function centredRanks(array, kept) {
    const ranks = new Float32Array(array.length).fill(NaN);
    const sorted = kept.slice().sort((a, b) => array[a] - array[b]);
    for (let i = 0; i < sorted.length; ) {
      let j = i;
      while (j + 1 < sorted.length && array[sorted[j + 1]] === array[sorted[i]]) j++;
      for (let k = i; k <= j; k++) ranks[sorted[k]] = sorted.length > 1 ? (i + j) / (sorted.length - 1) - 1 : 0;
      i = j + 1;
    }
    return ranks;
  }

  function rankProduct(run) {
    return remember([run.name, "ranks", value("norm"), value("layer"), value("projection")].join("|"), () => {
      const entropy = unpack(run.columns.entropy_bits), s = strength(run);
      const kept = Uint32Array.from(entropy.keys()).filter((i) => Number.isFinite(entropy[i]) && Number.isFinite(s[i]));
      const a = centredRanks(entropy, kept), b = centredRanks(s, kept);
      return a.map((v, i) => v * b[i]);
    });
  }

  function shown(run) {
    const quantity = value("quantity");
    if (quantity === "strength") return strength(run);
    if (quantity === "rank_product") return rankProduct(run);
    return run.columns[quantity] ? unpack(run.columns[quantity]) : missing(run);
  }

  function format(number) {
    if (!Number.isFinite(number)) return "not measured";
    const size = Math.abs(number), far = size > 0 && (size < 1e-3 || size >= 1e6);
    return (far ? number.toExponential(3) : String(Number(number.toPrecision(4)))).replace(/^-/, "−");
  }

  const signed = (number) => (Number.isFinite(number) ? `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(2)}` : "–");

  // Colours span the middle 96 % of the run's values, so that one outlier does not make all others alike.
  function colourLimits(runs) {
    if (value("quantity") === "rank_product") return [-1, 1];
    const parts = runs.map((run) => shown(run).filter(Number.isFinite));
    const values = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
    parts.reduce((start, part) => { values.set(part, start); return start + part.length; }, 0);
    values.sort();
    if (!values.length) return [0, 1];
    const at = (share) => values[Math.round(share * (values.length - 1))];
    return at(0.02) < at(0.98) ? [at(0.02), at(0.98)] : [values[0], values[values.length - 1]];
  }

  function strengthLabel() {
    const part = (id, word) => (value(id) === "mean" ? `all ${word}s` : `${word} ${value(id)}`);
    return `${value("norm")} norm, ${part("layer", "layer")}, ${part("projection", "projection")}`;
  }

  // ---- which responses -----------------------------------------------------------------------------------------

  const runA = () => data.runs[Number(value("run"))];
  const runB = () => (value("beside") === "" ? null : data.runs[Number(value("beside"))]);

  // The response in the other run to the same prompt: its k-th, where this one is the k-th.
  const places = new Map(data.runs.map((run) => {
    const byPrompt = new Map(), nth = [];
    run.responses.forEach((response, i) => {
      const key = response.prompt_id ?? response.prompt;
      if (!byPrompt.has(key)) byPrompt.set(key, []);
      nth.push(byPrompt.get(key).push(i) - 1);
    });
    return [run, { byPrompt, nth }];
  }));
  function partner(run, i, other) {
    const response = run.responses[i];
    return places.get(other).byPrompt.get(response.prompt_id ?? response.prompt)?.[places.get(run).nth[i]] ?? -1;
  }

  const verdict = (response) => (response.score === null ? "unscored" : response.score >= 1 ? "right" : "wrong");

  function passes(run, i) {
    const response = run.responses[i], wanted = value("correct"), needle = byId("search").value.trim().toLowerCase();
    if (needle && !(response.prompt ?? "").toLowerCase().includes(needle)) return false;
    if (wanted === "all") return true;
    if (wanted !== "differs") return verdict(response) === wanted;
    const other = runB(), j = other ? partner(run, i, other) : -1;
    return j >= 0 && verdict(response) !== verdict(other.responses[j]);
  }

  const inSegment = (run, t) => value("segment") === "all" || unpack(run.segment)[t] === Number(value("segment"));

  function meanOf(run, array, i) {
    let sum = 0, n = 0;
    for (let t = run.starts[i]; t < run.starts[i + 1]; t++) {
      if (Number.isFinite(array[t]) && inSegment(run, t)) { sum += array[t]; n++; }
    }
    return n ? sum / n : NaN;
  }

  function sortKeys(run) {
    const sort = value("sort");
    const length = (i) => run.starts[i] - run.starts[i + 1];
    if (sort === "number") return (i) => i;
    if (sort === "long") return length;
    const array = sort === "most" || sort === "least" ? rankProduct(run) : shown(run);
    const sign = sort === "most" || sort === "low" ? 1 : -1;
    return (i) => { const mean = meanOf(run, array, i); return Number.isFinite(mean) ? sign * mean : Infinity; };
  }

  function select() {
    const run = runA(), key = sortKeys(run);
    order = run.responses.map((_, i) => i).filter((i) => passes(run, i));
    const keys = new Map(order.map((i) => [i, key(i)]));
    order.sort((a, b) => (keys.get(a) < keys.get(b) ? -1 : keys.get(a) > keys.get(b) ? 1 : a - b));
    page = 0;
    chosen = order.length ? order[0] : -1;
  }

  // ---- drawing -------------------------------------------------------------------------------------------------

  function drawList() {
    const run = runA(), pages = Math.max(1, Math.ceil(order.length / PAGE)), product = rankProduct(run);
    byId("count").textContent = `${order.length} of ${run.responses.length} responses`;
    byId("page").textContent = `page ${page + 1} of ${pages}`;
    byId("previous").disabled = page === 0;
    byId("next").disabled = page >= pages - 1;
    byId("list").replaceChildren(...order.slice(page * PAGE, (page + 1) * PAGE).map((i) => {
      const response = run.responses[i], item = make("li"), button = make("button");
      const length = run.starts[i + 1] - run.starts[i];
      button.type = "button";
      if (i === chosen) button.setAttribute("aria-current", "true");
      button.append(make("span", `${response.number} · ${verdict(response)} · ${length} tokens · inversion ${signed(-meanOf(run, product, i))}`));
      button.append(make("span", response.prompt ?? "", "prompt"));
      button.addEventListener("click", () => { chosen = i; drawList(); drawPanes(); });
      item.append(button);
      return item;
    }));
  }

  function drawPanes() {
    const a = runA(), b = runB();
    byId("panes").replaceChildren();
    hint();
    if (chosen < 0) {
      byId("panes").append(make("p", "No response fits the filters."));
      return;
    }
    byId("panes").append(pane(a, chosen));
    if (b) byId("panes").append(pane(b, partner(a, chosen, b)));
  }

  function pane(run, i) {
    const box = make("article", undefined, "pane");
    if (i < 0) {
      box.append(make("h3", run.name), make("p", "This run has no response to the same prompt."));
      return box;
    }
    const response = run.responses[i], facts = [verdict(response)];
    if (response.answer !== null) facts.push(`reference answer: ${response.answer}`);
    if (response.task) facts.push(response.task);
    if (!response.finished) facts.push("cut at the length limit");
    const name = `${run.name}, response ${response.number}`, prompt = make("div", response.prompt ?? "", "prompt-text");
    prompt.setAttribute("role", "group");
    prompt.setAttribute("aria-label", "Prompt");
    prompt.dir = "auto";
    box.append(make("h3", name), make("p", facts.join(" · "), "facts"), prompt, text(run, i, name));
    return box;
  }

  function text(run, i, name) {
    const box = make("div", undefined, "text"), position = unpack(run.position), values = shown(run);
    box.dir = "ltr";
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", `Tokens of ${name}; arrow keys move from one to the next`);
    let hidden = 0;
    const close = () => {
      if (hidden) box.append(make("span", ` ⋯ ${hidden} tokens of the other segment ⋯ `, "gap"));
      hidden = 0;
    };
    for (let t = run.starts[i]; t < run.starts[i + 1]; t++) {
      if (!inSegment(run, t)) { hidden++; continue; }
      close();
      if (t > run.starts[i] && position[t] > position[t - 1] + 1) box.append(make("span", " ⋯ ", "gap"));
      box.append(token(run, t, values[t]));
    }
    close();
    const first = box.querySelector(".token");
    if (first) first.tabIndex = 0;
    box.addEventListener("pointerover", (event) => tell(run, event.target));
    box.addEventListener("focusin", (event) => tell(run, event.target));
    box.addEventListener("keydown", (event) => move(box, event));
    return box;
  }

  const wordOf = (run, t) => run.vocabulary[unpack(run.text)[t]];

  function token(run, t, number) {
    const word = wordOf(run, t), span = make("span", word, "token");
    span.dataset.index = t;
    span.tabIndex = -1;
    // What leaves no mark on paper gets one from the style sheet, so that the text itself stays as the model wrote it.
    if (/^ +$/.test(word)) span.dataset.space = "·".repeat(word.length);
    const marks = Array.from(word).filter((c) => /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u.test(c)).map(mark).join("");
    if (marks || !word) span.dataset.mark = marks || "∅";
    paint(span, number);
    return span;
  }

  function mark(character) {
    const known = { "\n": "↵", "\t": "⇥", "\r": "␍" }[character];
    return known ?? `⟨U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
  }

  function paint(span, number) {
    if (!Number.isFinite(number)) {
      span.classList.add("missing");
    } else if (value("quantity") === "rank_product") {
      span.classList.add(number < 0 ? "negative" : "positive");
      span.style.setProperty("--v", `${(100 * Math.abs(number)).toFixed(1)}%`);
    } else {
      const [low, high] = limits, share = high > low ? (number - low) / (high - low) : 0;
      span.style.setProperty("--v", `${(100 * Math.min(1, Math.max(0, share))).toFixed(1)}%`);
    }
  }

  function drawLegend() {
    const quantity = value("quantity"), diverging = quantity === "rank_product", [name, unit] = QUANTITIES[quantity];
    const of = quantity === "strength" || diverging ? ` (${strengthLabel()})` : "";
    byId("legend-label").textContent = `${name}${of}${unit ? `, ${unit}` : ""}:`;
    byId("legend-low").textContent = diverging ? "−1 inverted (dotted line)" : `${format(limits[0])} or less`;
    byId("legend-high").textContent = diverging ? "+1 together" : `${format(limits[1])} or more`;
    byId("scale").classList.toggle("diverging", diverging);
  }

  function hint() {
    byId("details").replaceChildren(make("p", "Point at a token, or press Tab to reach the text and move through it with the arrow keys."));
  }

  function tell(run, target) {
    const t = Number(target.dataset?.index);
    if (!target.classList.contains("token") || !Number.isInteger(t)) return;
    const list = make("dl");
    const add = (name, number, unit) => {
      const row = make("div");
      row.append(make("dt", name), make("dd", `${format(number)}${unit && Number.isFinite(number) ? ` ${unit}` : ""}`));
      list.append(row);
    };
    for (const [name, packed] of Object.entries(run.columns)) add(QUANTITIES[name][0], unpack(packed)[t], QUANTITIES[name][1]);
    add(strengthLabel(), strength(run)[t], "");
    for (const name of Object.keys(run.norms)) {
      if (name !== value("norm") || value("layer") !== "mean" || value("projection") !== "mean") {
        add(`${name} norm, all layers, all projections`, strengthOf(run, name, "mean", "mean")[t], "");
      }
    }
    add("rank product", rankProduct(run)[t], "");
    const head = make("p"), segment = ["", ", thinking", ", answer"][unpack(run.segment)[t]];
    head.append(make("code", wordOf(run, t)), make("span", ` ${run.name}, position ${unpack(run.position)[t]}${segment}`));
    byId("details").replaceChildren(head, list);
  }

  function move(box, event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    const tokens = Array.from(box.querySelectorAll(".token")), here = tokens.indexOf(document.activeElement);
    event.preventDefault();
    focusToken(box, tokens[Math.min(tokens.length - 1, Math.max(0, here + step))]);
  }

  function focusToken(box, span) {
    if (!span) return;
    box.querySelectorAll('.token[tabindex="0"]').forEach((other) => { other.tabIndex = -1; });
    span.tabIndex = 0;
    span.focus();
  }

  function drawExtremes() {
    const run = runA(), product = rankProduct(run), kept = [];
    for (const i of order) {
      for (let t = run.starts[i]; t < run.starts[i + 1]; t++) {
        if (Number.isFinite(product[t]) && inSegment(run, t)) kept.push([t, i]);
      }
    }
    kept.sort((a, b) => product[a[0]] - product[b[0]] || a[0] - b[0]);
    const least = kept.slice(-LISTED).reverse();
    byId("lists").replaceChildren(
      extremes("Most inverted", "most", kept.slice(0, LISTED), run, product),
      extremes("Least inverted", "least", least, run, product),
    );
  }

  function extremes(title, id, rows, run, product) {
    const table = make("table"), head = make("tr"), body = make("tbody"), s = strength(run), entropy = unpack(run.columns.entropy_bits);
    table.id = id;
    for (const name of ["token in its place", "inversion", "entropy (bits)", "strength", "response"]) {
      const cell = make("th", name);
      cell.scope = "col";
      head.append(cell);
    }
    for (const [t, i] of rows) {
      const row = make("tr"), place = make("td", undefined, "context"), where = make("td"), button = make("button", String(run.responses[i].number));
      let before = "";
      for (let k = Math.max(run.starts[i], t - CONTEXT); k < t; k++) before += wordOf(run, k);
      place.append(make("span", before.replaceAll("\n", "↵")), make("mark", wordOf(run, t).replaceAll("\n", "↵")));
      button.type = "button";
      button.setAttribute("aria-label", `Show in response ${run.responses[i].number}`);
      button.addEventListener("click", () => show(i, t));
      where.append(button);
      row.append(place, make("td", format(-product[t])), make("td", format(entropy[t])), make("td", format(s[t])), where);
      body.append(row);
    }
    const top = make("thead");
    top.append(head);
    table.append(make("caption", `${title} tokens of ${run.name} (${strengthLabel()})`), top, body);
    return table;
  }

  function show(i, t) {
    chosen = i;
    page = Math.floor(order.indexOf(i) / PAGE);
    drawList();
    drawPanes();
    const span = byId("panes").querySelector(`.pane:first-child .token[data-index="${t}"]`);
    span.classList.add("found");
    span.scrollIntoView({ block: "center" });
    focusToken(span.parentElement, span);
  }

  // ---- controls ------------------------------------------------------------------------------------------------

  function fill(id, options, wanted) {
    byId(id).replaceChildren(...options.map(([key, name]) => {
      const option = make("option", name);
      option.value = key;
      return option;
    }));
    if (options.some(([key]) => key === wanted)) byId(id).value = wanted;
  }

  function fillMenus() {
    const run = runA(), norms = Object.keys(run.norms), before = Object.fromEntries(controls.map((id) => [id, value(id)]));
    const others = data.runs.map((other, i) => [String(i), other.name]).filter(([i]) => i !== value("run"));
    fill("beside", [["", "nothing"], ...others], before.beside);
    const known = Object.keys(QUANTITIES).filter((name) => (name in run.columns ? true : norms.length > 0 && !name.endsWith("_bits") && name !== "logit_space"));
    fill("quantity", known.map((name) => [name, QUANTITIES[name][0]]), before.quantity);
    fill("norm", norms.map((name) => [name, name]), before.norm || data.norm);
    const norm = run.norms[value("norm")] ?? { layers: [], projections: [], cells: null };
    fill("layer", [["mean", "mean of all"], ...norm.layers.map((l) => [String(l), String(l)])], before.layer);
    // A page too small for every pair has the means over either, so that only one of the two menus can be single.
    const both = norm.cells !== null || value("layer") === "mean";
    const projections = both ? norm.projections.map((p) => [p, p]) : [];
    fill("projection", [["mean", both ? "mean of all" : "mean of all (pairs left out)"], ...projections], before.projection);
    byId("correct").querySelector('[value="differs"]').disabled = value("beside") === "";
  }

  // What each change asks for anew: a colour leaves the chosen response where it is.
  function refresh(keep) {
    const before = chosen;
    fillMenus();
    limits = colourLimits([runA(), runB()].filter(Boolean));
    select();
    if (keep && order.includes(before)) {
      chosen = before;
      page = Math.floor(order.indexOf(before) / PAGE);
    }
    drawLegend();
    drawList();
    drawPanes();
    drawExtremes();
  }

  function start() {
    fill("run", data.runs.map((run, i) => [String(i), run.name]), "0");
    fillMenus();
    if (data.runs.length > 1) byId("beside").value = "1";
    for (const id of controls) byId(id).addEventListener("change", () => refresh(!["run", "sort", "correct"].includes(id)));
    let waiting = 0;
    byId("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => refresh(true), 150); });
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    byId("previous").addEventListener("click", () => { page--; drawList(); });
    byId("next").addEventListener("click", () => { page++; drawList(); });
    refresh(false);
  }

  start();
})();
