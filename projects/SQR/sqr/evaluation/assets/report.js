"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const models = data.models, names = data.names, classes = models[0].classes;
  const byId = (id) => document.getElementById(id);
  const two = models.length === 2;
  const fixed = (x, n = 1) => (x === null || x === undefined ? "–" : x.toFixed(n));
  const percent = (x, n) => (x === null ? "–" : `${x.toFixed(n)}\u00a0%`);
  const words = {
    true: "true positive", faded: "true positive that faded", false: "false positive",
    exacerbated: "false positive that was exacerbated", ignored: "on a crowd region", absent: "no prediction",
  };
  const dashes = { true: "", faded: "8 4", false: "2 3", exacerbated: "7 3 2 3", ignored: "4 4" };

  function make(tag, attributes = {}, ...children) {
    const svg = ["svg", "g", "rect", "line", "path", "text", "image", "circle", "pattern"].includes(tag);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  function fill(node, ...children) { node.replaceChildren(...children); }

  // ---------------------------------------------------------------- summary

  function describe() {
    const first = models[0];
    const what = `${first.images.toLocaleString("en")} images, ${first.objects.toLocaleString("en")} objects, ` +
      `${classes.length} ${classes.length === 1 ? "class" : "classes"}. ${names.join(" against ")}.`;
    byId("subtitle").textContent = what;
    models.filter((m) => m.details).forEach((m) => byId("subtitle").after(make("p", { class: "hint details" }, m.details)));
    if (models.some((m) => !m.complete)) {
      byId("summary").prepend(make("p", { class: "notice" },
        "Partial result: computed on the images that were predicted before the run was interrupted."));
    }
  }

  function card(title, values, note) {
    const box = make("div", { class: "card" }, make("h3", {}, title));
    values.forEach((value, m) => {
      const line = make("div", { class: "value" }, make("b", {}, value));
      if (two) line.append(make("span", {}, make("i", { class: `key key-${m}` }), names[m]));
      box.append(line);
    });
    if (note) box.append(make("p", {}, note));
    return box;
  }

  function showCards() {
    const last = models.map((m) => m.stages[m.stages.length - 1]);
    const best = models.map((m) => {
      const all = m.stages.map((s) => (s.AP === null ? -1 : s.AP));
      const at = all.lastIndexOf(Math.max(...all));
      return { AP: m.stages[at].AP, stage: at + 1 };
    });
    const cards = [
      card("AP, last stage", last.map((s) => fixed(s.AP)), "COCO AP in %"),
      card("AP, best stage", best.map((b) => fixed(b.AP)), "at stage " + best.map((b) => b.stage).join(" / ")),
    ];
    if (models.every((m) => m.oracle)) cards.push(card("Oracle AP", models.map((m) => fixed(m.oracle.AP)),
      models.every((m) => m.oracle.chance) ? `best stage of each detection; by chance ${models.map((m) => fixed(m.oracle.chance.mean)).join(" and ")}` : "best stage of each detection"));
    (models[0].rates || []).forEach((rate, r) => {
      if (!models.every((m) => m.rates[r])) return;
      for (const [key, title] of [["fading", "TP fading"], ["exacerbation", "FP exacerbation"]]) {
        const parts = models.map((m) => m.rates[r][key]);
        const marginal = parts.map((p) => (p.marginal["0.05"] === undefined ? null : percent(p.marginal["0.05"], 0)));
        const note = marginal[0] === null ? "" : `marginal (< 0.05): ${marginal.join(" / ")}`;
        cards.push(card(`${title}, IoU ${rate.iou}`, parts.map((p) => percent(p.rate, 1)), note));
      }
    });
    fill(byId("cards"), ...cards);
  }

  function showComparison() {
    if (!data.comparison) return;
    const shown = (value, interval, sign) => {
      if (value === null) return "–";
      const form = (x) => (sign && x > 0 ? "+" : "") + fixed(x, 2);
      return form(value) + (interval ? ` [${form(interval[0])}, ${form(interval[1])}]` : "");
    };
    const rows = data.comparison.rows.map((row) => [row.metric,
      ...row.values.map((v, n) => shown(v, row.intervals && row.intervals[n], false)),
      shown(row.difference, row.difference_interval, true)]);
    fill(byId("comparison"), make("h3", { style: "margin: 1.5rem 0 0.5rem" }, "Side by side"),
      plainTable("Side by side", ["%", ...data.comparison.names, "difference"], rows),
      make("p", { class: "hint" }, `In brackets: 95 % bootstrap intervals over ${data.comparison.images} images, ` +
        `${data.comparison.resamples} resamples, paired for the difference.`));
  }

  function plainTable(label, header, rows) {
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...header.map((h) => make("th", { scope: "col" }, h)))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell, n) =>
        make(n ? "td" : "th", n ? {} : { scope: "row" }, String(cell)))))));
    return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);
  }

  // ---------------------------------------------------------------- charts

  const wide = 360, high = 220, left = 42, bottom = 34, top = 10, right = 10;

  function ticks(low, highest) {
    const raw = (highest - low) / 4 || 1, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((x) => x * power).find((x) => x >= raw);
    const out = [];
    for (let t = Math.floor(low / step) * step; t < highest + step; t += step) out.push(Number(t.toFixed(6)));
    return out;
  }

  function frame(label, low, highest) {
    const marks = ticks(low, highest), min = marks[0], max = marks[marks.length - 1];
    const y = (v) => top + (high - top - bottom) * (1 - (v - min) / (max - min));
    const svg = make("svg", { viewBox: `0 0 ${wide} ${high}`, class: "chart", role: "img", "aria-label": label });
    for (const mark of marks) {
      svg.append(make("line", { x1: left, x2: wide - right, y1: y(mark), y2: y(mark), class: "grid" }),
        make("text", { x: left - 6, y: y(mark) + 4, "text-anchor": "end" }, String(mark)));
    }
    return { svg, y };
  }

  function axisBelow(svg, count, x, text) {
    for (let s = 1; s <= count; s++) svg.append(make("text", { x: x(s), y: high - bottom + 16, "text-anchor": "middle" }, String(s)));
    svg.append(make("text", { x: (left + wide - right) / 2, y: high - 4, "text-anchor": "middle" }, text));
  }

  function figure(title, caption, svg, header, rows) {
    const key = make("p", { class: "legend", style: "margin: 0" },
      ...names.map((n, m) => make("span", {}, make("i", { class: `key key-${m}` }), n)));
    return make("figure", {}, make("h3", {}, title), ...(two ? [key] : []), svg, make("figcaption", {}, caption),
      make("details", {}, make("summary", {}, "As a table"), plainTable(title, header, rows)));
  }

  function lineChart(title, caption, series, levels, fromZero) {
    const values = [...series.flat(), ...levels].filter((v) => v !== null);
    const low = Math.min(...values), most = Math.max(...values, 0.1);
    const from = !fromZero && low > (most - low) * 1.5 ? low : 0;
    const count = Math.max(...series.map((s) => s.length));
    const { svg, y } = frame(`${title}. ${caption} The numbers are in the table below.`, from, most);
    const x = (s) => (count === 1 ? (left + wide) / 2 : left + 16 + ((wide - right - left - 32) * (s - 1)) / (count - 1));
    levels.forEach((level, m) => {
      if (level === null) return;
      svg.append(make("line", { x1: left, x2: wide - right, y1: y(level), y2: y(level), class: `oracle stroke-${m}` }),
        make("text", { x: left + 4 + 140 * m, y: y(level) - 4 }, two ? `oracle, ${names[m]}` : "oracle"));
    });
    series.forEach((one, m) => {
      const points = one.map((v, n) => (v === null ? null : [x(n + 1), y(v)])).filter(Boolean);
      svg.append(make("path", { d: "M" + points.map((p) => p.join(" ")).join("L"), class: `line stroke-${m}` }));
      for (const [px, py] of points) {
        svg.append(m ? make("rect", { x: px - 4, y: py - 4, width: 8, height: 8, class: "fill-1" })
          : make("circle", { cx: px, cy: py, r: 4, class: "fill-0" }));
      }
    });
    axisBelow(svg, count, x, "decoder stage");
    const rows = Array.from({ length: count }, (_, s) => [s + 1, ...series.map((one) => fixed(one[s], 2))]);
    if (levels.some((l) => l !== null && l !== undefined)) rows.push(["oracle", ...levels.map((l) => fixed(l, 2))]);
    return figure(title, caption, svg, ["stage", ...names], rows);
  }

  function barChart(title, caption, series) {
    const { svg, y } = frame(`${title}. ${caption} The numbers are in the table below.`, 0, Math.max(1, ...series.flat()));
    svg.append(make("pattern", { id: "stripes", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      make("rect", { width: 3, height: 6, class: "fill-1" })));
    const count = Math.max(...series.map((s) => s.length));
    const slot = (wide - right - left) / count, width = (slot * 0.76) / series.length;
    const x = (s) => left + slot * (s - 0.5);
    series.forEach((one, m) => one.forEach((v, n) => {
      const at = x(n + 1) - (width * series.length) / 2 + m * width;
      svg.append(make("rect", { x: at, y: y(v), width: width - 1, height: y(0) - y(v), class: `bar bar-${m}` }),
        make("text", { x: at + width / 2, y: y(v) - 3, "text-anchor": "middle" }, fixed(v, 0)));
    }));
    axisBelow(svg, count, x, "decoder stage");
    const rows = Array.from({ length: count }, (_, s) => [s + 1, ...series.map((one) => fixed(one[s], 2))]);
    return figure(title, caption, svg, ["stage", ...names], rows);
  }

  function showCharts() {
    const share = (counts, total) => counts.map((n) => (total ? (100 * n) / total : 0));
    const oracle = (key) => models.map((m) => (m.oracle ? m.oracle[key] : null));
    const charts = ["AP", "AP50", "AP75"].map((key) => lineChart(`${key} by stage`, `${key} in %.`,
      models.map((m) => m.stages.map((s) => s[key])), oracle(key)));
    const rates = models.map((m) => m.rates[0]);
    if (rates.every(Boolean) && models.every((m) => m.stages.length > 1)) {
      const iou = rates[0].iou;
      charts.push(
        lineChart("True positives: earlier was better", `Share of last-stage true positives (IoU ${iou}) in %, by earlier stage.`,
          rates.map((r) => share(r.fading.by_stage, r.fading.total)), [], true),
        lineChart("False positives: earlier was better", `Share of last-stage false positives (IoU ${iou}) in %, by earlier stage.`,
          rates.map((r) => share(r.exacerbation.by_stage, r.exacerbation.total)), [], true),
        barChart("Which stage is best", `Last-stage true positives (IoU ${iou}) in %, by the stage at which their query was best.`,
          rates.map((r) => share(r.best_stage, r.fading.total))));
    }
    fill(byId("charts"), ...charts);
  }

  // ---------------------------------------------------------------- sortable tables

  function sortableTable(host, label, columns, rows, onSort) {
    let by = 0, down = false;
    const headings = columns.map((column, n) => {
      const button = make("button", { type: "button" }, column.title);
      button.addEventListener("click", () => {
        down = by === n ? !down : n > 0;
        by = n;
        order();
      });
      return make("th", { scope: "col", "aria-sort": "none" }, button);
    });
    const body = make("tbody");
    fill(host, make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
      make("table", {}, make("thead", {}, make("tr", {}, ...headings)), body)));
    function order() {
      headings.forEach((h, n) => h.setAttribute("aria-sort", n !== by ? "none" : down ? "descending" : "ascending"));
      const key = (row) => row[by];
      rows.sort((a, b) => {
        const p = key(a), q = key(b);
        if (p === null || q === null) return p === q ? 0 : p === null ? 1 : -1;
        const d = typeof p === "string" ? p.localeCompare(q) : p - q;
        return down ? -d : d;
      });
      onSort ? onSort() : draw(rows);
    }
    function draw(visible) {
      fill(body, ...visible.map((row) => make("tr", {}, ...row.slice(0, columns.length).map((cell, n) =>
        make(n ? "td" : "th", n ? {} : { scope: "row" },
          typeof cell === "number" ? fixed(cell, columns[n].digits || 0) : cell === null ? "–" : cell)))));
    }
    return { order, draw };
  }

  function showClasses() {
    const columns = [{ title: "class" }, { title: "objects" }];
    const many = (title, digits) => names.forEach((n) => columns.push({ title: two ? `${title}, ${n}` : title, digits }));
    many("AP", 1); many("best stage AP", 1); many("best threshold", 2); many("F1 there", 2);
    const rated = models.every((m) => m.rates.length);
    if (rated) { many("TP", 0); many("TP fading %", 1); many("FP", 0); many("FP exacerbation %", 1); }
    const rows = classes.map((name, k) => {
      const last = models.map((m) => m.stages[m.stages.length - 1].per_class[k]);
      const best = models.map((m) => {
        const all = m.stages.map((s) => s.per_class[k]).filter((v) => v !== null);
        return all.length ? Math.max(...all) : null;
      });
      const points = models.map((m) => m.operating_points.by_class[k]);
      const row = [name, data.objectsByClass[k], ...last, ...best, ...points.map((p) => p.threshold), ...points.map((p) => p.f1)];
      if (rated) {
        for (const [key, field] of [["fading", "total"], ["fading", "rate"], ["exacerbation", "total"], ["exacerbation", "rate"]]) {
          row.push(...models.map((m) => m.rates[0][key].by_class[k][field]));
        }
      }
      return row;
    });
    sortableTable(byId("class-table"), "Numbers by class", columns, rows).order();
  }

  function showImages() {
    const per = data.perImage, size = 20;
    const columns = [{ title: "image" }, { title: "objects" }];
    for (const title of ["TP", "faded", "FP", "exacerbated"]) {
      per.models.forEach((_, m) => columns.push({ title: two ? `${title}, ${names[m]}` : title }));
    }
    const rows = per.names.map((name, n) => {
      const row = [name, per.objects[n]];
      for (const key of ["true", "trueBad", "false", "falseBad"]) row.push(...per.models.map((m) => m[key][n]));
      return row;
    });
    let page = 0;
    const table = sortableTable(byId("image-table"), "Numbers by image", columns, rows, () => { page = 0; show(); });
    function show() {
      const text = byId("image-search").value.toLowerCase();
      const found = text ? rows.filter((r) => r[0].toLowerCase().includes(text)) : rows;
      const pages = Math.max(Math.ceil(found.length / size), 1);
      page = Math.min(Math.max(page, 0), pages - 1);
      table.draw(found.slice(page * size, (page + 1) * size));
      byId("page-text").textContent = `Page ${page + 1} of ${pages}, ${found.length} images`;
      byId("page-previous").disabled = page === 0;
      byId("page-next").disabled = page === pages - 1;
    }
    byId("page-previous").addEventListener("click", () => { page -= 1; show(); });
    byId("page-next").addEventListener("click", () => { page += 1; show(); });
    byId("image-search").addEventListener("input", () => { page = 0; show(); });
    table.order();
  }

  function showPictures() {
    byId("thresholds").hidden = !data.pictures.length;
    fill(byId("pictures"), ...data.pictures.map((p) => make("figure", {}, make("h3", {}, p.title),
      make("img", { src: p.src, alt: `${p.title}. The numbers by class are in the table of classes.` }))));
  }

  // ---------------------------------------------------------------- gallery

  const gallery = data.gallery;
  let visible = [], listed = 0, current = -1, stage = 0;

  function pictured(image, view, label) {
    const svg = make("svg", { viewBox: view.join(" "), preserveAspectRatio: "xMidYMid meet",
      ...(label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" }) });
    if (image.src) {
      svg.append(make("image", { href: image.src, width: image.width, height: image.height, preserveAspectRatio: "none" }));
    }
    return svg;
  }

  function outline(box, kind, width, extra = {}) {
    return make("rect", { x: box[0], y: box[1], width: Math.max(box[2], 0.5), height: Math.max(box[3], 0.5),
      class: kind, "stroke-width": width, ...extra });
  }

  // The part of the image around everything that the case's query ever predicted.
  function surroundings(item, image, ratio) {
    const boxes = [...item.stages, ...(item.other || [])].filter((s) => s.verdict !== "absent").map((s) => s.box);
    if (item.object) boxes.push(item.object);
    let x0 = Math.min(...boxes.map((b) => b[0])), x1 = Math.max(...boxes.map((b) => b[0] + b[2]));
    let y0 = Math.min(...boxes.map((b) => b[1])), y1 = Math.max(...boxes.map((b) => b[1] + b[3]));
    const padding = 0.4 * Math.max(x1 - x0, y1 - y0, 24);
    let width = x1 - x0 + 2 * padding, height = y1 - y0 + 2 * padding;
    if (width / height < ratio) width = height * ratio; else height = width / ratio;
    const whole = Math.min(width, Math.max(image.width, image.height * ratio)) / width;
    width *= whole; height *= whole;
    const clamp = (c, part, all) => (part >= all ? (all - part) / 2 : Math.min(Math.max(c - part / 2, 0), all - part));
    return [clamp((x0 + x1) / 2, width, image.width), clamp((y0 + y1) / 2, height, image.height), width, height];
  }

  const nameOf = (label) => (label < 0 ? "nothing" : classes[label]);
  const sentence = (s) => (s.verdict === "absent" ? "no prediction"
    : `${nameOf(s.label)}, score ${fixed(s.score, 2)}, IoU ${fixed(s.iou, 2)}, ${words[s.verdict]}`);

  function pane(title, stages, item, image, view) {
    const now = stages[Math.min(stage, stages.length - 1)];
    const unit = view[2] / 400;
    const svg = pictured(image, view, `${title}: ${sentence(now)}`);
    for (const object of image.objects) svg.append(outline(object, "shade", 2.2 * unit), outline(object, "ground", unit));
    if (item.object) svg.append(outline(item.object, "shade", 4 * unit), outline(item.object, "ground", 2.5 * unit));
    if (now.verdict !== "absent") {
      const dash = dashes[now.verdict].split(" ").filter(Boolean).map((d) => d * unit).join(" ");
      svg.append(outline(now.box, "halo", 6 * unit),
        outline(now.box, `box ${now.verdict}`, 3 * unit, dash ? { "stroke-dasharray": dash } : {}));
    }
    const text = make("p", {});
    if (two) text.append(make("b", {}, `${title}: `));
    text.append(`${nameOf(now.label)} ${fixed(now.score, 2)}, IoU ${fixed(now.iou, 2)}, `,
      make("span", { class: `verdict ${now.verdict}` }, words[now.verdict]));
    return make("div", { class: "pane" }, svg, text);
  }

  function showStage() {
    const item = visible[current], image = gallery.images[item.image];
    const count = Math.max(item.stages.length, (item.other || []).length);
    stage = Math.min(Math.max(stage, 0), count - 1);
    const view = byId("whole-image").checked ? [0, 0, image.width, image.height] : surroundings(item, image, 4 / 3);
    const panes = [pane(names[item.model], item.stages, item, image, view)];
    if (two) {
      const title = names[1 - item.model];
      const empty = make("div", { class: "pane" }, make("p", { class: "none" }, `${title}: no query near this place`));
      panes.push(item.other ? pane(title, item.other, item, image, view) : empty);
      if (item.model === 1) panes.reverse();
    }
    fill(byId("panes"), ...panes);
    const slider = byId("stage");
    slider.max = count;
    slider.value = stage + 1;
    byId("stage-value").textContent = `${stage + 1} of ${count}`;
    slider.setAttribute("aria-valuetext", `stage ${stage + 1} of ${count}`);
    const best = stage === item.best ? " This stage was the best." : "";
    byId("stage-text").textContent = `Stage ${stage + 1}: ${sentence(item.stages[Math.min(stage, item.stages.length - 1)])}.${best}`;
    byId("stage-previous").disabled = stage === 0;
    byId("stage-next").disabled = stage === count - 1;
  }

  function showCase(n, wantedStage) {
    current = n;
    const item = visible[n], image = gallery.images[item.image];
    stage = wantedStage === undefined ? item.stages.length - 1 : wantedStage;
    const kind = item.kind === "fading" ? "TP fading" : "FP exacerbation";
    byId("case-title").textContent = `${kind} ${n + 1} of ${visible.length}: ${nameOf(item.label)}` +
      `${two ? `, ${names[item.model]}` : ""}, query ${item.query}, ${image.name}`;
    byId("viewer").hidden = false;
    byId("case-previous").disabled = n === 0;
    byId("case-next").disabled = n === visible.length - 1;
    for (const button of byId("case-list").querySelectorAll("button")) {
      if (Number(button.dataset.n) === n) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    showStage();
  }

  function thumbnail(item, n) {
    const image = gallery.images[item.image], last = item.stages[item.stages.length - 1];
    const view = surroundings(item, image, 4 / 3);
    const svg = pictured(image, view, null);
    svg.append(outline(last.box, "halo", view[2] / 30), outline(last.box, `box ${last.verdict}`, view[2] / 60));
    const change = item.best >= 0 ? `${fixed(item.stages[item.best].score, 2)} → ${fixed(last.score, 2)}` : fixed(last.score, 2);
    const kind = item.kind === "fading" ? "TP fading" : "FP exacerbation";
    const button = make("button", { type: "button", "data-n": n },
      svg, make("span", {}, make("b", {}, nameOf(item.label)), ` ${change}`, make("br"), kind, two ? ` (${names[item.model]})` : ""));
    button.addEventListener("click", () => {
      showCase(n);
      byId("viewer").scrollIntoView({ block: "nearest" });
      byId("viewer").focus({ preventScroll: true });
    });
    return make("li", {}, button);
  }

  function listMore() {
    const upTo = Math.min(listed + 24, visible.length);
    for (; listed < upTo; listed++) byId("case-list").append(thumbnail(visible[listed], listed));
    byId("more-cases").hidden = listed >= visible.length;
  }

  function applyFilters() {
    const kind = byId("filter-kind").value, model = byId("filter-model").value, label = byId("filter-class").value;
    const score = Number(byId("filter-score").value), iou = Number(byId("filter-iou").value);
    byId("score-value").textContent = fixed(score, 2);
    byId("iou-value").textContent = fixed(iou, 2);
    visible = gallery.cases.filter((c) => {
      const last = c.stages[c.stages.length - 1];
      return (!kind || c.kind === kind) && (model === "" || c.model === Number(model)) &&
        (label === "" || c.label === Number(label)) && last.score >= score && last.iou >= iou;
    });
    byId("case-count").textContent = gallery.cases.length
      ? `${visible.length} of ${gallery.cases.length} cases, worst first within each kind (IoU threshold ${gallery.iou}).`
      : gallery.iou === null ? "No gallery: these predictions do not say which query each detection came from."
        : "No true positive faded and no false positive was exacerbated.";
    fill(byId("case-list"));
    listed = 0;
    listMore();
    if (visible.length) showCase(0); else byId("viewer").hidden = true;
  }

  function startGallery() {
    const used = [...new Set(gallery.cases.map((c) => c.label))].sort((a, b) => classes[a].localeCompare(classes[b]));
    byId("filter-class").append(...used.map((k) => make("option", { value: k }, classes[k])));
    byId("filter-model").append(...names.map((n, m) => make("option", { value: m }, n)));
    byId("filter-model-label").hidden = !two;
    if (!two) byId("filter-model-label").style.display = "none";
    byId("filters").addEventListener("input", applyFilters);
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("filters").addEventListener("reset", () => setTimeout(applyFilters));
    byId("more-cases").addEventListener("click", listMore);
    byId("stage").addEventListener("input", (event) => { stage = Number(event.target.value) - 1; showStage(); });
    const step = (by) => { stage += by; showStage(); };
    const go = (by) => { const n = current + by; if (n >= 0 && n < visible.length) showCase(n); };
    byId("stage-previous").addEventListener("click", () => step(-1));
    byId("stage-next").addEventListener("click", () => step(1));
    byId("whole-image").addEventListener("change", showStage);
    byId("case-previous").addEventListener("click", () => go(-1));
    byId("case-next").addEventListener("click", () => go(1));
    byId("viewer").addEventListener("keydown", (event) => {
      if (event.target.id === "stage" || event.altKey || event.ctrlKey || event.metaKey) return;
      const actions = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), ArrowUp: () => go(-1), ArrowDown: () => go(1),
        Home: () => step(-stage), End: () => step(visible[current].stages.length - 1 - stage) };
      if (!(event.key in actions)) return;
      event.preventDefault();
      actions[event.key]();
    });
    fill(byId("legend"), ...Object.keys(dashes).map((v) => make("span", {},
      make("svg", { viewBox: "0 0 32 8", "aria-hidden": "true" },
        make("line", { x1: 0, x2: 32, y1: 4, y2: 4, class: `box ${v}`, "stroke-width": 3, "stroke-dasharray": dashes[v] || null })),
      words[v])), make("span", {}, "white: ground truth"));
    applyFilters();
  }

  describe(); showCards(); showComparison(); showCharts(); showClasses(); showPictures(); startGallery(); showImages();
})();
