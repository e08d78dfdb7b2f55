"use strict";
(() => {
  const PROTOCOL = 1, REFRESH_MS = 30000, TOKEN_MAX = 4096;
  const LABELS = { devices: "Devices", seen: "Seen lately", blocked: "Blocked" };
  const origins = (document.body.dataset.origins || "").split(" ").filter(Boolean);
  const state = document.getElementById("state"), list = document.getElementById("figures");
  let token = null, parentOrigin = null, timer = null, asked = 0;

  const isPlain = (value, keys) =>
    value !== null && typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype &&
    Object.keys(value).length === keys.length && keys.every((key) => Object.hasOwn(value, key));

  const tell = (message) => {
    const to = parentOrigin === null ? origins : [parentOrigin];
    for (const origin of to) window.parent.postMessage({ blockremote: PROTOCOL, ...message }, origin);
  };

  const show = (text, figures) => {
    state.textContent = text;
    list.replaceChildren();
    for (const [name, count] of Object.entries(figures)) {
      const box = document.createElement("div"), label = document.createElement("dt"), value = document.createElement("dd");
      label.textContent = LABELS[name];
      value.textContent = String(count);
      value.id = "figure-" + name;
      box.append(label, value);
      list.append(box);
    }
    tell({ type: "size", height_px: Math.ceil(document.documentElement.getBoundingClientRect().height) });
  };

  const isAnswer = (answer) =>
    isPlain(answer, ["origin", "figures", "updated_at", "expires_at"]) && typeof answer.updated_at === "string" &&
    answer.figures !== null && typeof answer.figures === "object" &&
    Object.entries(answer.figures).every(([name, count]) => Object.hasOwn(LABELS, name) && Number.isSafeInteger(count));

  const refresh = async () => {
    clearTimeout(timer);
    if (token === null) return;
    const turn = ++asked;
    let outcome = "unreachable", text = "The appliance does not answer.", figures = {};
    try {
      const response = await fetch("/v1/embed/status", {
        headers: { "X-Embed-Token": token }, credentials: "omit", cache: "no-store", redirect: "error",
      });
      const answer = response.ok ? await response.json() : null;
      if (response.status === 401) {
        [outcome, text, token] = ["token_needed", "The token has ended.", null];
      } else if (answer !== null && isAnswer(answer)) {
        if (answer.origin === parentOrigin) {
          [outcome, text, figures] = ["shown", "As of " + answer.updated_at, answer.figures];
        } else {
          [outcome, text, token] = ["refused", "The token is for another page.", null];
        }
      }
    } catch (_) {
      // Said above: it does not answer.
    }
    if (turn !== asked) return;
    show(text, figures);
    tell({ type: "state", state: outcome });
    timer = setTimeout(refresh, REFRESH_MS);
  };

  window.addEventListener("message", (event) => {
    if (event.source !== window.parent || !origins.includes(event.origin)) return;
    const message = event.data;
    if (isPlain(message, ["blockremote", "type", "token"]) && message.blockremote === PROTOCOL && message.type === "token" &&
        typeof message.token === "string" && message.token.length <= TOKEN_MAX && /^[A-Za-z0-9_.-]+$/.test(message.token)) {
      token = message.token;
      parentOrigin = event.origin;
      refresh();
    } else if (isPlain(message, ["blockremote", "type"]) && message.blockremote === PROTOCOL && message.type === "refresh") {
      if (event.origin === parentOrigin) refresh();
    }
  });

  if (window.parent === window) state.textContent = "This page is made to be shown in a frame.";
  else tell({ type: "ready" });
})();
