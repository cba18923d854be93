// Small helpers for the elements of the page.

export const byId = (id) => document.getElementById(id);

// Return a new element with properties and children; texts are never read as HTML.
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== ""));
  return node;
}

// Make the children of a list those of the items, by their ids; what stays keeps its focus.
export function reconcile(list, items, create, update) {
  const old = new Map([...list.children].map((node) => [node.dataset.id, node]));
  let place = list.firstElementChild;
  for (const item of items) {
    let node = old.get(item.id);
    if (!node) {
      node = create(item);
      node.dataset.id = item.id;
    }
    old.delete(item.id);
    update(node, item);
    if (node === place) place = place.nextElementSibling;
    else list.insertBefore(node, place);
  }
  for (const node of old.values()) node.remove();
}

// Set a text only where it differs, so that screen readers do not repeat it.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export const announce = (text) => setText(byId("status"), text);

export const fail = (id, error) => setText(byId(id), error ? String(error.message ?? error) : "");

export const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

export function megabytes(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}
