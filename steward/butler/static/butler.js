// What pages do beyond links and forms: live refresh, side panel, keyboard, copying, the theme, local times, chart tips.
// Everything here adds to a page that works without it. It asks this host alone, and writes text, never markup of its own.
"use strict";

(() => {
  const root = document.documentElement;
  const all = (what, inside = document) => Array.from(inside.querySelectorAll(what));
  const one = (what, inside = document) => inside.querySelector(what);
  root.classList.remove("no-js");

  // Times in the viewer's zone; UTC stays on hover.

  const FORMS = {
    second: { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" },
    minute: { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
    full: { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZoneName: "short" },
    short: { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
    hour: { hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
  };
  const written = (at, form) => new Intl.DateTimeFormat("en-GB", FORMS[form] || FORMS.short).format(at);

  function ago(at) {
    const seconds = Math.max(0, Math.floor((Date.now() - at.getTime()) / 1000));
    if (seconds < 1) return "just now";
    if (seconds < 120) return `${seconds}\u00a0s ago`;
    if (seconds < 7200) return `${Math.floor(seconds / 60)}\u00a0min ago`;
    if (seconds < 172800) return `${Math.floor(seconds / 3600)}\u00a0h ago`;
    return `${Math.floor(seconds / 86400)}\u00a0days ago`;
  }

  function localise(inside) {
    for (const each of all("time[datetime]", inside)) {
      const at = new Date(each.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      const text = each.dataset.form === "ago" ? ago(at) : written(at, each.dataset.form);
      if (each.textContent !== text) each.textContent = text;
    }
    const hours = all("text[data-time]", inside);
    for (const each of hours) {
      const at = new Date(each.dataset.time);
      const text = /:/.test(each.textContent) ? written(at, "hour") : each.textContent;
      if (each.textContent !== text) each.textContent = text;
    }
  }

  // Parts of the page that come anew: by the name they bear in `data-swap`.

  function swap(fresh, only) {
    let changed = false;
    for (const here of all("[data-swap]")) {
      const name = here.dataset.swap;
      if (only && !only.includes(name)) continue;
      const there = one(`[data-swap="${name}"]`, fresh);
      if (!there) continue;
      const next = document.importNode(there, true);
      for (const open of all("details[open][data-keep]", here)) {
        const twin = one(`details[data-keep="${open.dataset.keep}"]`, next);
        if (twin) twin.open = true;
      }
      localise(next);
      if (next.isEqualNode(here)) continue;
      const focused = here.contains(document.activeElement) ? place(document.activeElement, here) : null;
      const scrolled = all(".scroll", here).map((each) => [each.scrollTop, each.scrollLeft]);
      here.replaceWith(next);
      all(".scroll", next).forEach((each, index) => { if (scrolled[index]) [each.scrollTop, each.scrollLeft] = scrolled[index]; });
      if (focused) one(focused, next)?.focus({ preventScroll: true });
      changed = true;
    }
    return changed;
  }

  function place(element, inside) {
    const row = element.closest("tr[id]");
    if (row && inside.contains(row)) return `#${CSS.escape(row.id)} .row-link`;
    const link = element.closest("a[href]");
    return link ? `a[href="${CSS.escape(link.getAttribute("href"))}"]` : null;
  }

  async function ask(address) {
    const answer = await fetch(address, { credentials: "same-origin", headers: { Accept: "text/html" } });
    if (answer.redirected && new URL(answer.url).pathname === "/sign-in") { location.reload(); return null; }
    if (!answer.ok) throw new Error("status");
    return new DOMParser().parseFromString(await answer.text(), "text/html");
  }

  // Live

  const every = Number(document.body.dataset.live || 0) * 1000;
  const bar = one("[data-live-state]");
  const word = one("[data-live-word]");
  const pause = one("[data-pause]");
  const announcer = one("[data-announce]");
  let paused = new URLSearchParams(location.search).has("paused");
  let busy = false;
  let told = 0;

  function say(state, text) {
    if (!bar) return;
    bar.dataset.state = state;
    if (word.textContent !== text) word.textContent = text;
  }

  function announce(text, always) {
    if (!announcer || (!always && Date.now() - told < 60000)) return;
    told = Date.now();
    announcer.textContent = text;
  }

  function reading() {
    const rows = one('[data-swap="rows"]');
    if (one("[data-chart]:hover") || one("details.menu[open]")) return true;
    return Boolean(rows) && (scrollY > 120 || rows.contains(document.activeElement) || Boolean(one("[data-panel]")) || rows.matches(":hover"));
  }

  async function refresh(asked) {
    if (busy || document.hidden) return;
    busy = true;
    try {
      const fresh = await ask(location.href);
      if (!fresh) return;
      const rows = one('[data-swap="rows"]');
      if (rows && !asked && reading()) {
        const newest = one('[data-swap="rows"]', fresh)?.dataset.newest;
        if (newest && newest !== rows.dataset.newest) offer(fresh, rows.dataset.newest);
      } else if (asked || !reading()) {
        one("[data-newer]")?.remove();
        if (swap(fresh, ["figures", "chart", "groups", "errors", "rows", "fleet"])) announce("Figures updated");
      }
      say("running", "Live");
    } catch {
      say("failed", "Not reached; trying again");
      announce("Butler cannot be reached. What is shown may be old.", false);
    } finally {
      busy = false;
    }
  }

  function offer(fresh, since) {
    const ids = all('[data-swap="rows"] tr.row', fresh).map((row) => row.id.slice(2));
    const at = ids.indexOf(since);
    const text = at < 0 ? "Newer calls" : `${at} newer call${at === 1 ? "" : "s"}`;
    let button = one("[data-newer]");
    if (!button) {
      button = document.createElement("button");
      button.type = "button";
      button.className = "button newer fade";
      button.dataset.newer = "";
      button.addEventListener("click", () => { scrollTo({ top: 0 }); refresh(true); });
      one('[data-swap="rows"]').before(button);
      announce("There are newer calls", false);
    }
    button.textContent = `${text}: show`;
  }

  function setPaused(next) {
    paused = next;
    pause.setAttribute("aria-pressed", String(paused));
    one("span", pause).textContent = paused ? "Resume" : "Pause";
    one("use", pause).setAttribute("href", one("use", pause).getAttribute("href").replace(/#.*/, paused ? "#play" : "#pause"));
    say(paused ? "paused" : "running", paused ? "Paused" : "Live");
  }

  if (every && pause) {
    setPaused(paused);
    pause.addEventListener("click", () => {
      setPaused(!paused);
      const here = new URL(location.href);
      if (paused) here.searchParams.set("paused", "1"); else here.searchParams.delete("paused");
      history.replaceState(history.state, "", here);
      announce(paused ? "Live refresh paused" : "Live refresh resumed", true);
      if (!paused) refresh(false);
    });
    setInterval(() => { if (!paused) refresh(false); }, every);
    document.addEventListener("visibilitychange", () => { if (!document.hidden && !paused) refresh(false); });
  }
  setInterval(() => localise(document), 15000);

  // Side panel: the address changes, the list stays where it is.

  // What stands where the panel will, when it takes long enough to be noticed.
  function skeleton() {
    const panel = document.createElement("aside");
    panel.className = "panel";
    panel.setAttribute("aria-busy", "true");
    for (const kind of ["head", "line", "line", "block", "block", "line", "line", "line"]) {
      const bone = document.createElement("div");
      bone.className = `skeleton bone-${kind}`;
      panel.append(bone);
    }
    return panel;
  }

  async function show(address, push) {
    const place = one('[data-swap="panel"]');
    const soon = setTimeout(() => { if (!one("[data-panel]")) place.replaceChildren(skeleton()); }, 150);
    try {
      const fresh = await ask(address);
      if (!fresh) return;
      if (push) history.pushState(null, "", address);
      swap(fresh, ["panel"]);
      const open = new URL(address, location.href).searchParams.get("open");
      for (const row of all("tr.row[aria-selected]")) row.removeAttribute("aria-selected");
      const row = open && document.getElementById(`r-${open}`);
      if (row) row.setAttribute("aria-selected", "true");
      const panel = one("[data-panel]");
      if (panel) panel.focus({ preventScroll: true });
    } catch {
      location.assign(address);
    } finally {
      clearTimeout(soon);
    }
  }

  function close() {
    const link = one("[data-close]");
    if (!link) return false;
    const row = one('tr.row[aria-selected="true"] .row-link');
    show(link.href, true).then(() => row && row.isConnected && row.focus({ preventScroll: true }));
    return true;
  }

  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = event.target.closest?.("a[data-open], a[data-close]");
    if (link) {
      event.preventDefault();
      if (link.hasAttribute("data-close")) { close(); return; }
      // A second click on the row that is open leads to its page.
      if (link.closest('tr[aria-selected="true"]') && link.dataset.page) { location.assign(link.dataset.page); return; }
      show(openAddress(link), true);
      return;
    }
    for (const menu of all("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  });

  function openAddress(link) {
    const wanted = new URL(link.href);
    if (paused) wanted.searchParams.set("paused", "1");
    return wanted.href;
  }

  addEventListener("popstate", () => { if (one('[data-swap="panel"]')) show(location.href, false); else location.reload(); });

  // Keyboard: / j k Enter Esc

  const typing = (element) => Boolean(element?.closest?.("input, select, textarea, [contenteditable]"));

  function step(by) {
    const links = all("[data-rows] .row-link");
    if (!links.length) return;
    const selected = one('tr[aria-selected="true"] .row-link');
    const from = links.indexOf(document.activeElement?.closest?.("tr")?.querySelector(".row-link") ?? selected);
    const next = links[Math.min(links.length - 1, Math.max(0, from < 0 ? (by > 0 ? 0 : links.length - 1) : from + by))];
    next.focus({ preventScroll: true });
    next.closest("tr").scrollIntoView({ block: "nearest" });
    if (one("[data-panel]") && next.hasAttribute("data-open")) show(openAddress(next), true).then(() => next.isConnected && next.focus({ preventScroll: true }));
  }

  document.addEventListener("keydown", (event) => {
    if (event.metaKey || event.ctrlKey || event.altKey) return;
    if (event.key === "Escape") {
      const menu = one("details.menu[open]");
      if (menu) { menu.open = false; one("summary", menu).focus(); }
      else if (typing(document.activeElement)) document.activeElement.blur();
      else close();
      return;
    }
    if (typing(event.target)) return;
    if (event.key === "/" && one("[data-filter]")) { event.preventDefault(); one("[data-filter]").focus(); }
    else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
  });

  // Copying

  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (!button) return;
    const said = one("[data-copy-word]", button);
    let done = true;
    try { await navigator.clipboard.writeText(button.dataset.copy); } catch { done = byHand(button.dataset.copy); }
    const use = one("use", button);
    if (said) said.textContent = done ? "Copied" : "Select and copy";
    if (use && done) use.setAttribute("href", use.getAttribute("href").replace(/#.*/, "#check"));
    setTimeout(() => {
      if (said) said.textContent = "Copy";
      if (use) use.setAttribute("href", use.getAttribute("href").replace(/#.*/, "#copy"));
    }, 1600);
  });

  function byHand(text) {
    const field = document.createElement("textarea");
    field.value = text;
    field.className = "sr";
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }

  // Theme: auto, dark, light; kept in a cookie so that the server writes the next page in it.

  document.addEventListener("submit", (event) => {
    const form = event.target.closest?.("[data-theme-form]");
    if (!form) return;
    event.preventDefault();
    const button = one("button", form);
    const next = button.value;
    if (next === "auto") root.removeAttribute("data-theme"); else root.dataset.theme = next;
    document.cookie = `butler_theme=${next}; path=/; max-age=31536000; samesite=lax${location.protocol === "https:" ? "; secure" : ""}`;
    button.value = { auto: "dark", dark: "light", light: "auto" }[next];
    button.title = `Colours: ${next}`;
    one("span", button).textContent = { auto: "Auto", dark: "Dark", light: "Light" }[next];
    one("use", button).setAttribute("href", one("use", button).getAttribute("href").replace(/#.*/, `#${{ auto: "auto", dark: "moon", light: "sun" }[next]}`));
  });

  // Pickers that act at once, and fields of which only a part counts.

  document.addEventListener("change", (event) => { if (event.target.matches?.("[data-submit]")) event.target.form.requestSubmit(); });

  function kinds(form) {
    const chosen = one('input[name="provider"]:checked', form)?.value;
    for (const part of all("[data-kind]", form)) part.hidden = part.disabled = part.dataset.kind !== chosen;
  }
  for (const form of all("[data-storage]")) {
    kinds(form);
    form.addEventListener("change", () => kinds(form));
  }
  for (const field of all("[data-dirty]")) {
    const save = one("[data-dirty-save]", field.form);
    const first = field.value;
    const look = () => { save.disabled = field.value === first; };
    look();
    field.addEventListener("input", look);
  }

  // Chart tips: the text of a mark's title, beside the pointer.

  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  let from = null;

  function untip() {
    if (from) from.mark.append(from.title);
    from = null;
    tip.hidden = true;
  }

  document.addEventListener("pointermove", (event) => {
    const mark = event.pointerType === "mouse" ? event.target.closest?.(".hit rect") : null;
    if (!mark) { if (from) untip(); return; }
    const chart = mark.closest("[data-chart]");
    if (!from || from.mark !== mark) {
      untip();
      const title = one("title", mark);
      if (!title) return;
      title.remove();
      from = { mark, title };
      tip.textContent = tipText(title.textContent);
      tip.hidden = false;
      chart.append(tip);
    }
    const box = chart.getBoundingClientRect();
    const x = event.clientX - box.left;
    const left = x + 16 + tip.offsetWidth > box.width ? x - tip.offsetWidth - 16 : x + 16;
    tip.style.transform = `translate(${Math.max(4, left)}px, ${Math.max(4, Math.min(event.clientY - box.top - 12, box.height - tip.offsetHeight - 4))}px)`;
  });

  // The first line of a tip is a moment in UTC; the rest is text.
  function tipText(text) {
    const [first, ...rest] = text.split("\n");
    const at = new Date(first.replace(" UTC", "Z").replace(" ", "T"));
    return [Number.isNaN(at.getTime()) ? first : written(at, "minute"), ...rest].join("\n");
  }

  one(".nav a[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  localise(document);
})();
