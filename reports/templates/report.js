"use strict";
// Copies commands, draws the charts, and keeps their colours those of the page. The page is whole without it.
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
  const ids = Object.keys(charts.roots);
  Bokeh.set_log_level("error");

  function recolour() {
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

  // The elements need their width before Bokeh measures them, so they show before they are drawn.
  root.classList.add("drawn");
  const items = [{ docid: "report", roots: charts.roots, root_ids: ids }];
  Bokeh.embed.embed_items({ report: charts.doc }, items).then(() => {
    recolour();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
    addEventListener("beforeprint", () => { root.classList.add("paper"); recolour(); });
    addEventListener("afterprint", () => { root.classList.remove("paper"); recolour(); });
    root.dataset.charts = String(ids.length);
  }, (error) => {
    root.classList.remove("drawn");
    console.error("the charts could not be drawn", error);
  });
})();
