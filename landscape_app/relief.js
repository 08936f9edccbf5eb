// Draws a Plotly figure from this server's own copy of plotly.js, which is fetched when the first one is drawn.
const GREY = "rgba(127, 134, 145, 0.9)";
const NEVER = "3-D needs plotly.js, which this page could not load.";

function plotly(file) {
  if (window.Plotly) return Promise.resolve(window.Plotly);
  const near = document.querySelector('script[src*="static/extensions/panel/"]');
  if (!near || !file) return Promise.reject(new Error(`${NEVER} In a notebook, run pn.extension("plotly") first.`));
  const source = near.src.replace(/(static\/extensions\/panel\/).*$/, `$1${file}`);
  window.landscapePlotly ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error(NEVER));
    script.src = source;
    document.head.append(script);
  });
  return window.landscapePlotly;
}

// Plotly writes its style into the page's head, where a shadow root does not see it.
function adopt(root) {
  const style = document.getElementById("plotly.js-style-global");
  if (!style || root === document) return;
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(Array.from(style.sheet.cssRules, rule => rule.cssText).join("\n"));
  root.adoptedStyleSheets = [...root.adoptedStyleSheets, sheet];
}

// Arrays come flat, with a shape; Plotly wants rows.
function rows(value) {
  if (Array.isArray(value)) return value.map(rows);
  if (ArrayBuffer.isView(value)) {
    const flat = Array.from(value), [height, width] = value.shape ?? [];
    return width === undefined ? flat : Array.from({length: height}, (_, i) => flat.slice(i * width, (i + 1) * width));
  }
  if (value instanceof Map) value = Object.fromEntries(value);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, rows(inner)]));
}

// Drags turn, zoom or shift the view; the wheel is left to the page.
function settings(Plotly, home) {
  const reset = plot => Plotly.relayout(plot, {"scene.camera": structuredClone(home)});
  const button = {name: "home", title: "First view", icon: Plotly.Icons.home, click: reset};
  return {
    displaylogo: false, displayModeBar: true, scrollZoom: false,
    modeBarButtons: [["tableRotation", "zoom3d", "pan3d"], [button, "toImage"]],
  };
}

export function render({model}) {
  const plot = document.createElement("div");
  plot.className = "relief";
  let Plotly = null, drawn = false, following = false, ink = "";

  // One drawing at a time: what comes meanwhile is drawn after it, once.
  let busy = false, again = false;
  const draw = async () => {
    again = busy;
    if (busy || !Plotly || !plot.isConnected || plot.clientWidth === 0) return;
    busy = true;
    await react().finally(() => { busy = false; });
    if (again) draw();
  };

  const react = async () => {
    const {data, layout} = rows(model.figure);
    if (!data) return;
    const style = getComputedStyle(plot);
    ink = style.color;
    layout.font = {color: ink, family: style.fontFamily, size: 12};
    const dark = Number(ink.match(/[\d.]+/)) > 128;
    for (const axis of ["xaxis", "yaxis", "zaxis"]) {
      const grid = dark ? "#414a55" : "#c3c8cf";
      Object.assign(layout.scene[axis], {gridcolor: grid, zerolinecolor: grid, linecolor: grid});
    }
    layout.modebar = {bgcolor: "rgba(0,0,0,0)", color: GREY, activecolor: ink};
    layout.height = plot.clientHeight;
    layout.width = plot.clientWidth;
    const home = layout.scene.camera;
    layout.scene.camera = plot.layout?.scene.camera ?? home;
    await Plotly.react(plot, data, layout, settings(Plotly, home));
    if (drawn) return;
    drawn = true;
    adopt(plot.getRootNode());
    plot.on("plotly_relayouting", tell);
    plot.on("plotly_relayout", tell);
  };

  // Two reliefs side by side are looked at from the same place.
  const tell = change => {
    const camera = change["scene.camera"];
    if (camera && !following) document.dispatchEvent(new CustomEvent("landscape-camera", {detail: {from: plot, camera}}));
  };
  const follow = ({detail: {from, camera}}) => {
    if (from === plot || !drawn || plot.clientWidth === 0) return;
    following = true;
    Plotly.relayout(plot, {"scene.camera": structuredClone(camera)}).finally(() => { following = false; });
  };

  plotly(model.plotly).then(loaded => { Plotly = loaded; draw(); }).catch(error => {
    plot.textContent = error.message;
    plot.setAttribute("role", "alert");
  });
  model.on("figure", draw);
  const sizes = new ResizeObserver(draw);
  sizes.observe(plot);
  const theme = new MutationObserver(() => requestAnimationFrame(() => {
    if (drawn && getComputedStyle(plot).color !== ink) draw();
  }));
  for (const place of [document.documentElement, document.body]) theme.observe(place, {attributes: true});
  document.addEventListener("landscape-camera", follow);
  model.on("remove", () => {
    sizes.disconnect();
    theme.disconnect();
    document.removeEventListener("landscape-camera", follow);
    if (drawn) Plotly.purge(plot);
  });
  return plot;
}
