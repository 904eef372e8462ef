// Charts over time with Unfold's Chart.js (window.Chart), in the colours of theme.css: lines or stacked bars,
// horizontal levels, marks at points in time. Follows the change between light and dark. Knows nothing of deals.

import { clockTime, wholeTime } from "./format.js";

const alive = new Set();
let watched = false;

/**
 * A chart in a <canvas>. All parts of `what` may be given again to `set`, which redraws:
 *
 *   kind     "line" (default) or "bars" (stacked)
 *   series   [{label, colour, points: [{x: ms since 1970, y}], fill, dashed, width}]
 *            `colour` is the name of a colour in theme.css without --mon-; `fill`: true, or "-1" up to the series before
 *   levels   [{y, label, colour, weight, inside}]: horizontal lines; `weight` 0–1 is how strong (1);
 *            with `inside: false` the axis does not stretch to show the level
 *   marks    [{x, y, label, colour}]: points with a text of their own
 *   from, to ms: the ends of the time axis (default: those of the points)
 *   text     y → text, for axis and tooltip
 *   zero     whether the value axis begins at 0
 *   whole    whether the values are whole numbers
 *   legend   whether the series' names are shown
 *   name     what a screen reader says of it
 */
export function timeChart(canvas, what) {
  const known = { kind: "line", series: [], levels: [], marks: [], text: String, ...what };
  const chart = new window.Chart(canvas, {
    type: known.kind === "bars" ? "bar" : "line",
    data: { datasets: [] },
    options: options(known),
    plugins: [levelLines],
  });
  const own = { redraw: () => redraw(chart, known) };
  alive.add(own);
  watchTheme();
  own.redraw();
  return {
    set(changes) {
      Object.assign(known, changes);
      own.redraw();
    },
    destroy() {
      alive.delete(own);
      chart.destroy();
    },
  };
}

/** The value of a colour of theme.css, with an opacity of 0–1. */
function colourOf(name, opacity = 1) {
  const value = getComputedStyle(document.documentElement).getPropertyValue(`--mon-${name}`).trim();
  return opacity === 1 ? value : `color-mix(in srgb, ${value} ${Math.round(opacity * 100)}%, transparent)`;
}

function watchTheme() {
  if (watched) return;
  watched = true;
  const redrawAll = () => alive.forEach((one) => one.redraw());
  new MutationObserver(redrawAll).observe(document.documentElement, { attributeFilter: ["class"] });
}

function redraw(chart, known) {
  const canvas = chart.canvas;
  if (known.name) {
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", known.name);
  }
  chart.data.datasets = [...known.series.map((one) => dataset(one, known.kind)), marksOf(known.marks)];
  chart.$levels = known.levels;
  const { x, y } = chart.options.scales;
  [x.min, x.max] = [known.from, known.to];
  const inside = known.levels.filter((level) => level.inside !== false).map((level) => level.y);
  [y.suggestedMin, y.suggestedMax] = inside.length ? [Math.min(...inside), Math.max(...inside)] : [];
  for (const axis of [x, y]) {
    axis.ticks.color = colourOf("quiet");
    axis.grid.color = colourOf("grid");
  }
  chart.options.plugins.legend.labels.color = colourOf("text");
  Object.assign(chart.options.plugins.tooltip, {
    backgroundColor: colourOf("card"),
    titleColor: colourOf("quiet"),
    bodyColor: colourOf("ink"),
    borderColor: colourOf("edge-strong"),
  });
  chart.update("none");
}

function dataset(one, kind) {
  const colour = colourOf(one.colour);
  const common = { label: one.label, data: one.points, borderColor: colour, order: 1 };
  if (kind === "bars") {
    return { ...common, backgroundColor: colour, stack: "all", borderRadius: 2, maxBarThickness: 18 };
  }
  return {
    ...common,
    backgroundColor: one.fill ? colourOf(one.colour, 0.14) : colour,
    fill: one.fill ?? false,
    borderWidth: one.width ?? 1.75,
    borderDash: one.dashed ? [5, 4] : [],
    pointRadius: ({ dataIndex }) => (standsAlone(one.points, dataIndex) ? 2.5 : 0),
    pointHitRadius: 8,
    tension: 0,
    spanGaps: false,
  };
}

/** A point without neighbours is no part of a line: it is drawn as a dot. */
function standsAlone(points, index) {
  const there = (place) => points[place] !== undefined && points[place].y !== null;
  return there(index) && !there(index - 1) && !there(index + 1);
}

function marksOf(marks) {
  const colours = marks.map((mark) => colourOf(mark.colour ?? "ink"));
  return {
    type: "line",
    label: "",
    data: marks.map((mark) => ({ x: mark.x, y: mark.y, text: mark.label })),
    showLine: false,
    pointRadius: 4.5,
    pointHoverRadius: 6,
    pointBackgroundColor: colours,
    pointBorderColor: colourOf("card"),
    pointBorderWidth: 1.5,
    order: 0,
  };
}

function options(known) {
  return {
    animation: false,
    responsive: true,
    maintainAspectRatio: false,
    normalized: true,
    interaction: { mode: "nearest", axis: "x", intersect: false },
    layout: { padding: { top: 4, right: 4 } },
    scales: {
      x: {
        type: "linear",
        offset: known.kind === "bars",
        stacked: known.kind === "bars",
        border: { display: false },
        grid: { display: false },
        ticks: { maxRotation: 0, autoSkipPadding: 16, callback: (at) => clockTime(at), font: { size: 11 } },
        afterBuildTicks: roundTimes,
      },
      y: {
        beginAtZero: known.zero ?? false,
        stacked: known.kind === "bars",
        border: { display: false },
        grid: {},
        ticks: { maxTicksLimit: 5, precision: known.whole ? 0 : undefined, callback: (value) => known.text(value), font: { size: 11 } },
      },
    },
    plugins: {
      legend: {
        display: known.legend ?? false,
        position: "bottom",
        onClick: () => {},
        labels: { boxWidth: 10, boxHeight: 10, padding: 12, font: { size: 11 }, filter: (item) => item.text !== "" },
      },
      tooltip: {
        animation: false,
        borderWidth: 1,
        padding: 8,
        boxPadding: 4,
        callbacks: {
          title: (items) => (items.length ? wholeTime(items[0].parsed.x) : ""),
          label: (item) => item.raw.text ?? `${item.dataset.label} ${known.text(item.parsed.y)}`,
        },
      },
    },
  };
}

/** Ticks of the time axis at whole minutes, five-minute marks, hours: as many as fit about five. */
function roundTimes(axis) {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 240, 360, 720].map((minutes) => minutes * 60_000);
  const step = steps.find((one) => (axis.max - axis.min) / one <= 5.5) ?? 24 * 3_600_000;
  const ticks = [];
  for (let at = Math.ceil(axis.min / step) * step; at <= axis.max; at += step) ticks.push({ value: at });
  axis.ticks = ticks;
}

const levelLines = {
  id: "levelLines",
  beforeDatasetsDraw(chart) {
    const { ctx, chartArea, scales } = chart;
    ctx.save();
    for (const level of chart.$levels ?? []) {
      const y = scales.y.getPixelForValue(level.y);
      if (y < chartArea.top - 1 || y > chartArea.bottom + 1) continue;
      const weight = level.weight ?? 1;
      ctx.strokeStyle = colourOf(level.colour, 0.15 + 0.85 * weight);
      ctx.lineWidth = 0.75 + 1.25 * weight;
      ctx.setLineDash(level.label ? [6, 4] : []);
      ctx.beginPath();
      ctx.moveTo(chartArea.left, y);
      ctx.lineTo(chartArea.right, y);
      ctx.stroke();
      if (level.label) labelOf(ctx, level, chartArea, y);
    }
    ctx.restore();
  },
};

function labelOf(ctx, level, area, y) {
  ctx.font = "11px Inter, sans-serif";
  const width = ctx.measureText(level.label).width + 8;
  const top = Math.max(area.top, Math.min(area.bottom - 16, y - 8));
  ctx.fillStyle = colourOf("card");
  ctx.fillRect(area.left + 4, top, width, 16);
  ctx.fillStyle = colourOf(level.colour);
  ctx.textBaseline = "middle";
  ctx.fillText(level.label, area.left + 8, top + 8.5);
}
