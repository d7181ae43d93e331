// The live feed of /dashboard/requests. Everything from outside is set as text, never as markup.
"use strict";
(() => {
  const MAX_ROWS = 100;
  const section = document.getElementById("live");
  if (!section || !window.EventSource) return;
  const rows = document.getElementById("live-rows");
  const state = document.getElementById("live-state");
  const names = new Map();
  for (const id of document.querySelectorAll("#team-names dt")) names.set(id.textContent, id.nextElementSibling.textContent);
  section.hidden = false;

  const say = (text, kind) => {
    if (state.textContent === text) return;
    state.textContent = text;
    state.className = `badge ${kind}`;
  };
  const words = (name) => (name || "").replaceAll("_", " ");
  const kinds = { completed: "good", incomplete: "warn", client_left: "warn" };

  const row = (seen) => {
    const why = seen.outcome === "completed" ? "" : [words(seen.code), words(seen.limit), seen.scope && `of the ${words(seen.scope)}`, seen.detail && `(${seen.detail})`];
    const line = document.createElement("tr");
    const cell = (text, kind) => {
      const made = line.insertCell();
      made.textContent = text ?? "";
      if (kind) made.className = kind;
      return made;
    };
    const link = document.createElement("a");
    link.href = `/dashboard/requests/${encodeURIComponent(seen.id)}${seen.team_id ? `?team=${encodeURIComponent(seen.team_id)}` : ""}`;
    link.textContent = new Date().toISOString().slice(11, 19);
    cell("").append(link);
    cell(names.get(seen.team_id) ?? seen.team_id);
    cell(seen.model);
    const badge = document.createElement("span");
    badge.className = `badge ${kinds[seen.outcome] ?? "bad"}`;
    badge.textContent = words(seen.outcome);
    cell("").append(badge);
    cell(seen.cost_usd, "number");
    cell(seen.total_ms === null ? "" : Math.round(seen.total_ms), "number");
    cell(why === "" ? "" : why.filter(Boolean).join(" "), "text");
    line.title = seen.id;
    return line;
  };

  const query = section.dataset.team ? `?team=${encodeURIComponent(section.dataset.team)}` : "";
  const source = new EventSource(`/dashboard/live${query}`);
  source.addEventListener("ready", () => say("live", "good"));
  source.addEventListener("request", (event) => {
    rows.querySelector(".none")?.remove();
    rows.prepend(row(JSON.parse(event.data)));
    while (rows.rows.length > MAX_ROWS) rows.deleteRow(-1);
  });
  source.addEventListener("error", () => say(source.readyState === EventSource.CLOSED ? "ended: reload the page" : "connecting", "warn"));
})();
