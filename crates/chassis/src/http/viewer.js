// Viewer of openapi.json: lists the operations, explains their fields, and sends requests that are typed in.
// Everything is built as text nodes, so nothing in a document or an answer can become markup.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];
const DEPTH = 6; // nested schemas shown; deeper ones are named only
let doc = {};

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== "") node.append(child);
  }
  return node;
}

function resolve(schema) {
  for (let hops = 0; schema && schema.$ref && hops < 20; hops++) {
    schema = schema.$ref.replace(/^#\//, "").split("/").reduce((at, key) => at && at[key.replace(/~1/g, "/").replace(/~0/g, "~")], doc);
  }
  return schema || {};
}

function typeOf(schema) {
  if (schema === true) return "any";
  const s = resolve(schema);
  const options = s.oneOf || s.anyOf;
  if (s.const !== undefined) return JSON.stringify(s.const);
  if (s.enum) return s.enum.map((v) => JSON.stringify(v)).join(" | ");
  if (options) return [...new Set(options.map(typeOf))].join(" | ");
  if (s.allOf) return s.allOf.map(typeOf).join(" & ");
  const types = [].concat(s.type || (s.properties ? "object" : "any"));
  const named = types.map((t) => (t === "array" ? `array of ${typeOf(s.items || {})}` : t));
  return named.join(" | ") + (s.format ? ` (${s.format})` : "");
}

function limits(schema) {
  const s = resolve(schema);
  const parts = [];
  const range = (low, high, unit) => {
    if (s[low] !== undefined || s[high] !== undefined) parts.push(`${s[low] ?? ""}..${s[high] ?? ""}${unit}`);
  };
  range("minimum", "maximum", "");
  range("minLength", "maxLength", " characters");
  range("minItems", "maxItems", " items");
  if (s.pattern) parts.push(`matches ${s.pattern}`);
  if (s.default !== undefined) parts.push(`default ${JSON.stringify(s.default)}`);
  return parts.join(", ");
}

// The list of an object's fields, or nothing for plain values.
function fields(schema, depth = 0) {
  const s = resolve(schema);
  if (s.type === "array" && s.items) return fields(s.items, depth);
  const parts = s.oneOf || s.anyOf || s.allOf;
  if (parts) return el("div", {}, parts.map((part) => fields(part, depth)).filter(Boolean));
  if (!s.properties || depth >= DEPTH) return null;
  const required = new Set(s.required || []);
  return el("ul", { class: "fields" }, Object.entries(s.properties).map(([name, property]) =>
    el("li", {},
      el("code", {}, name), " ",
      el("span", { class: "quiet" }, [typeOf(property), limits(property)].filter(Boolean).join(", ")), " ",
      required.has(name) ? el("span", { class: "must" }, "required") : null,
      property.description || resolve(property).description ? el("p", {}, property.description || resolve(property).description) : null,
      fields(property, depth + 1))));
}

// A body to start from: required fields, with their defaults or an empty value of the right type.
function sample(schema, depth = 0) {
  const s = resolve(schema);
  if (s.example !== undefined) return s.example;
  if (s.default !== undefined) return s.default;
  if (s.enum) return s.enum[0];
  const first = (s.oneOf || s.anyOf || s.allOf || [])[0];
  if (first) return sample(first, depth);
  if (s.properties) {
    const names = Object.keys(s.properties).filter((n) => (s.required || []).includes(n));
    return Object.fromEntries(depth > DEPTH ? [] : names.map((n) => [n, sample(s.properties[n], depth + 1)]));
  }
  const type = [].concat(s.type || [])[0];
  return { string: "", integer: 0, number: 0, boolean: false, array: [], object: {} }[type] ?? null;
}

function bodyOf(operation) {
  const content = (resolve(operation.requestBody).content || {})["application/json"];
  return content ? content.schema : null;
}

function parameters(item, operation) {
  return [...(item.parameters || []), ...(operation.parameters || [])].map(resolve);
}

function describe(item, operation) {
  const out = [];
  if (operation.description) out.push(el("p", {}, operation.description));
  const params = parameters(item, operation);
  if (params.length) {
    out.push(el("h3", {}, "Parameters"), el("table", {}, params.map((p) =>
      el("tr", {},
        el("td", {}, el("code", {}, p.name), p.required ? el("span", { class: "must" }, " required") : null),
        el("td", { class: "quiet" }, p.in),
        el("td", {}, [typeOf(p.schema || {}), limits(p.schema || {})].filter(Boolean).join(", "), p.description ? el("p", {}, p.description) : null)))));
  }
  const body = bodyOf(operation);
  if (body) out.push(el("h3", {}, "Body"), fields(body) || el("p", {}, typeOf(body)));
  out.push(el("h3", {}, "Answers"), el("table", {}, Object.entries(operation.responses || {}).map(([status, answer]) => {
    const response = resolve(answer);
    return el("tr", {}, el("td", {}, el("code", {}, status)), el("td", {}, response.description || "",
      Object.entries(response.content || {}).map(([type, media]) =>
        el("div", {}, el("span", { class: "quiet" }, type), media.schema ? fields(media.schema) : null))));
  })));
  return out;
}

// The header in which an operation wants its key; nothing for those that need none.
function keyHeader(operation) {
  const schemes = (operation.security || doc.security || []).flatMap((needed) => Object.keys(needed));
  const found = schemes.map((name) => resolve(((doc.components || {}).securitySchemes || {})[name]));
  return (found.find((scheme) => scheme.type === "apiKey" && scheme.in === "header") || {}).name;
}

function tryIt(path, method, item, operation) {
  const keyName = keyHeader(operation);
  const params = parameters(item, operation).filter((p) => p.in !== "cookie" && p.name.toLowerCase() !== (keyName || "").toLowerCase());
  const inputs = params.map((p) => [p, el("input", { placeholder: typeOf(p.schema || {}), autocomplete: "off" })]);
  const schema = bodyOf(operation);
  const text = schema ? el("textarea", { spellcheck: "false" }) : null;
  if (text) text.value = JSON.stringify(sample(schema), null, 2);
  const output = el("pre", { hidden: true });
  const stop = el("button", { type: "button", hidden: true, onclick: () => control && control.abort() }, "Stop");
  const state = el("span", { class: "quiet" });
  let control = null;

  async function send() {
    let url = path.replace(/^\//, "");
    const query = new URLSearchParams();
    const headers = {};
    for (const [p, input] of inputs) {
      if (p.in === "path") url = url.replace(`{${p.name}}`, encodeURIComponent(input.value));
      else if (input.value && p.in === "query") query.set(p.name, input.value);
      else if (input.value && p.in === "header") headers[p.name] = input.value;
    }
    const key = document.getElementById("key").value;
    if (key && keyName) headers[keyName] = key;
    if (text) headers["Content-Type"] = "application/json";
    if ([...query].length) url += `?${query}`;
    control = new AbortController();
    output.hidden = stop.hidden = false;
    output.textContent = "";
    state.textContent = "…";
    const started = performance.now();
    try {
      const response = await fetch(url, { method: method.toUpperCase(), headers, body: text ? text.value : undefined, signal: control.signal });
      state.textContent = `${response.status} ${response.statusText}`;
      const decoder = new TextDecoder();
      const reader = response.body.getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        output.append(decoder.decode(part.value, { stream: true }));
        output.scrollTop = output.scrollHeight;
      }
      if ((response.headers.get("content-type") || "").includes("json")) {
        try { output.textContent = JSON.stringify(JSON.parse(output.textContent), null, 2); } catch { /* shown as it came */ }
      }
      state.textContent += `, ${Math.round(performance.now() - started)} ms`;
    } catch (error) {
      state.textContent = error.name === "AbortError" ? "stopped" : String(error);
    }
    stop.hidden = true;
  }

  return el("div", {}, el("h3", {}, "Try it"), el("div", { class: "try" },
    inputs.map(([p, input]) => el("label", {}, `${p.name} (${p.in})`, input)),
    text ? el("label", {}, "body", text) : null,
    el("div", { class: "actions" }, el("button", { type: "button", onclick: send }, "Send"), stop, state),
    output));
}

function operationView(path, method, item, operation) {
  const body = el("div", { class: "body" });
  const view = el("details", { class: "operation", id: operation.operationId || `${method}-${path}` },
    el("summary", {}, el("span", { class: `method ${method}` }, method), el("span", { class: "path" }, path),
      el("span", { class: "quiet" }, operation.summary || "")),
    body);
  view.dataset.words = `${method} ${path} ${operation.summary || ""} ${operation.operationId || ""}`.toLowerCase();
  // Built when first opened: the whole document at once would be slow.
  view.addEventListener("toggle", () => {
    if (view.open && !body.hasChildNodes()) body.append(...describe(item, operation), tryIt(path, method, item, operation));
  });
  return view;
}

function show() {
  document.title = doc.info?.title || document.title;
  document.getElementById("title").textContent = `${doc.info?.title || "API"} ${doc.info?.version || ""}`;
  document.getElementById("about").textContent = doc.info?.description || "";
  const groups = new Map();
  for (const [path, item] of Object.entries(doc.paths || {})) {
    for (const method of METHODS.filter((m) => item[m])) {
      const tag = (item[method].tags || [path.split("/")[1] || "other"])[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(operationView(path, method, item, item[method]));
    }
  }
  const main = document.getElementById("operations");
  main.replaceChildren(...[...groups].map(([tag, views]) => el("section", {}, el("h2", {}, tag), views)));
  document.getElementById("filter").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const section of main.children) {
      let any = false;
      for (const view of section.querySelectorAll("details.operation")) {
        view.hidden = !wanted.every((word) => view.dataset.words.includes(word));
        any = any || !view.hidden;
      }
      section.hidden = !any;
    }
  });
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target) { target.open = true; target.scrollIntoView(); }
}

fetch("openapi.json").then((r) => r.json()).then((d) => { doc = d; show(); }).catch((error) => {
  document.getElementById("operations").replaceChildren(el("p", {}, `openapi.json could not be read: ${error}`));
});
