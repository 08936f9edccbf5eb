// Bokeh's tabs can be focused but do nothing on a key, have no roles, and come after what they show.
const STEPS = {ArrowRight: 1, ArrowLeft: -1};

export function render({view}) {
  const begin = () => {
    const beside = [...(view.el.getRootNode().children ?? [])];
    const host = beside.find(node => node.shadowRoot?.querySelector(".bk-headers-wrapper"));
    if (!host) return requestAnimationFrame(begin);
    new MutationObserver(() => dress(host.shadowRoot)).observe(host.shadowRoot, {
      childList: true, subtree: true, attributeFilter: ["class"],
    });
    host.shadowRoot.addEventListener("keydown", press);
    dress(host.shadowRoot);
  };
  begin();
  return document.createElement("span");
}

function dress(root) {
  const header = root.querySelector(".bk-header"), list = root.querySelector(".bk-headers-wrapper");
  const first = [...root.children].find(node => !["STYLE", "LINK"].includes(node.tagName));
  if (header && header !== first) root.insertBefore(header, first);
  const set = (node, name, value) => { if (node.getAttribute(name) !== value) node.setAttribute(name, value) };
  if (list) set(list, "role", "tablist");
  for (const tab of list?.children ?? []) {
    const active = tab.classList.contains("bk-active");
    set(tab, "role", "tab");
    set(tab, "aria-selected", String(active));
    set(tab, "tabindex", active ? "0" : "-1");
  }
}

function press(event) {
  const tab = event.target, tabs = [...(tab.parentNode?.children ?? [])], here = tabs.indexOf(tab);
  if (tab.getAttribute("role") !== "tab") return;
  const to = {Home: 0, End: tabs.length - 1}[event.key] ?? here + (STEPS[event.key] ?? 0);
  if (event.key === "Enter" || event.key === " ") tab.click();
  else if (to !== here) tabs.at(to % tabs.length).focus();
  else return;
  event.preventDefault();
}
