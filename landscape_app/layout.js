// Bokeh lays out all that is on the page, hidden or not, whenever anything shows, hides or changes its class, each time
// anew within one message. Once before the next frame is enough, but for a figure that has just come: what changes in it
// before it has a layout fails.

function isNew(view) {
  return (view.model.type === "Figure" && view.layout == null) || (view.child_views ?? []).some(isNew);
}

export function render({view}) {
  let root = view;
  while (root.parent?.invalidate_layout) root = root.parent;
  if (!Object.hasOwn(root, "invalidate_layout")) {
    const lay_out = root.invalidate_layout;
    let asked = false;
    root.invalidate_layout = () => {
      if (isNew(root)) lay_out.call(root);
      else if (!asked) {
        asked = true;
        requestAnimationFrame(() => {
          asked = false;
          lay_out.call(root);
        });
      }
    };
  }
  return document.createElement("span");
}
