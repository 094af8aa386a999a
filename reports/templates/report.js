"use strict";
// Copies commands, draws the charts, keeps their colours those of the page, and shows the cycle and the time that the
// reader chooses. The page is whole without it.
(() => {
  const root = document.documentElement;
  root.classList.add("script");

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const command = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(command.textContent);
        button.textContent = "Copied";
      } catch {
        // A page opened from a file may not write to the clipboard: select, so that one key copies.
        getSelection().selectAllChildren(command);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  const data = document.getElementById("charts");
  if (data === null) {
    return;
  }
  const charts = JSON.parse(data.textContent);
  const drawn = [];
  Bokeh.set_log_level("error");

  function recolour(ids = drawn) {
    const style = getComputedStyle(root);
    for (const id of ids) {
      const view = Bokeh.index[id];
      for (const model of view.model.references()) {
        const tag = (model.tags ?? []).find((tag) => String(tag).startsWith("ink:"));
        if (tag === undefined) {
          continue;
        }
        const ink = style.getPropertyValue("--" + tag.slice(4)).trim();
        const names = ["fill_color", "line_color", "text_color"].filter((name) => name in model.properties);
        model.setv(Object.fromEntries(names.map((name) => [name, ink])));
      }
      // At once, not in the next frame: before printing there is none.
      view.request_repaint();
      view.paint();
    }
  }

  // Bokeh's models for one cycle: sources, rows and the axis of time are found by name.
  function showCycles() {
    const chooser = document.getElementById("cycle");
    if (chooser === null) {
      return;
    }
    const linked = Bokeh.documents.find((document) => document.get_model_by_name("time") !== null);
    const model = (name) => linked.get_model_by_name(name);
    const axis = model("time");
    const said = document.getElementById("window");
    let shown = charts.timelines[0];
    const look = ([start, end]) => {
      const [first, last] = shown.whole;
      const length = Math.min(end - start, last - first);
      const from = Math.max(first, Math.min(start, last - length));
      axis.setv({ start: from, end: from + length });
    };
    const tell = () => {
      said.textContent = `Shown: ${axis.start.toFixed(1)} to ${axis.end.toFixed(1)} ms since the kill`;
    };
    const moves = {
      in: (start, end) => [start + (end - start) / 4, end - (end - start) / 4],
      out: (start, end) => [start - (end - start) / 2, end + (end - start) / 2],
      earlier: (start, end) => [start - (end - start) / 4, end - (end - start) / 4],
      later: (start, end) => [start + (end - start) / 4, end + (end - start) / 4],
      view: () => shown.view,
      whole: () => shown.whole,
    };
    for (const button of document.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => look(moves[button.dataset.zoom](axis.start, axis.end)));
    }
    chooser.addEventListener("change", () => {
      shown = charts.timelines[Number(chooser.value)];
      for (const [name, rows] of Object.entries(shown.rows)) {
        const plot = model(`figure-${name}`);
        const [height, rest] = plot.tags;
        plot.y_range.factors = rows;
        plot.height = rest + height * rows.length;
      }
      for (const [name, columns] of Object.entries(shown.sources)) {
        model(name).data = columns;
      }
      look(shown.view);
    });
    axis.properties.start.change.connect(tell);
    axis.properties.end.change.connect(tell);
    tell();
  }

  // One panel after the other, each in a task of its own: the page can be read and scrolled meanwhile.
  async function draw() {
    for (const [number, { doc, roots }] of charts.panels.entries()) {
      await new Promise((resume) => { setTimeout(resume); });
      const ids = Object.keys(roots);
      const docid = `panel-${number}`;
      await Bokeh.embed.embed_items({ [docid]: doc }, [{ docid, roots, root_ids: ids }]);
      drawn.push(...ids);
      recolour(ids);
    }
    showCycles();
    root.dataset.charts = String(drawn.length);
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => recolour());
  addEventListener("beforeprint", () => { root.classList.add("paper"); recolour(); });
  addEventListener("afterprint", () => { root.classList.remove("paper"); recolour(); });
  // The elements need their width before Bokeh measures them, so they show before they are drawn.
  root.classList.add("drawn");
  draw().catch((error) => {
    root.classList.remove("drawn");
    console.error("the charts could not be drawn", error);
  });
})();
