// Dialogs, copy buttons, local times and live state. Every page does without it.
"use strict";
(() => {
  const LIVE_MS = 15000;
  // Asking for news counts as use to the core: a page that nobody has touched for so long lets its session end.
  const IDLE_MS = 10 * 60000;
  let touched = Date.now();
  for (const kind of ["pointerdown", "keydown", "scroll"]) addEventListener(kind, () => { touched = Date.now(); }, { passive: true });
  const said = document.getElementById("said");
  let saidTimer = 0;

  function say(text) {
    said.textContent = text;
    said.classList.add("toast-on");
    clearTimeout(saidTimer);
    saidTimer = setTimeout(() => said.classList.remove("toast-on"), 2500);
  }

  // What pages hold besides text and forms.
  function dress(root) {
    for (const button of root.querySelectorAll("[data-copy]")) button.hidden = false;
    const zone = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
    for (const time of root.querySelectorAll("time[data-local]")) {
      const at = new Date(time.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      time.title = time.textContent;
      time.textContent = zone.format(at);
      time.removeAttribute("data-local");
    }
    for (const text of root.querySelectorAll("[data-zone]")) {
      text.textContent = "those of your own time zone, " + Intl.DateTimeFormat().resolvedOptions().timeZone;
    }
  }

  async function copy(button) {
    const text = button.dataset.copy;
    const what = (button.textContent || "").trim().replace(/^Copy /, "") || "text";
    try {
      if (navigator.clipboard) {
        await navigator.clipboard.writeText(text);
      } else {
        // Without https there is no other way. In the dialog: outside of it nothing can be selected.
        const area = document.createElement("textarea");
        area.value = text;
        area.className = "visually-hidden";
        button.after(area);
        area.select();
        const done = document.execCommand("copy");
        area.remove();
        button.focus();
        if (!done) throw new Error("refused");
      }
    } catch {
      say("Your browser does not let pages copy. Select the text and copy it yourself.");
      return;
    }
    say("Copied: " + what);
    button.classList.add("copied");
    setTimeout(() => button.classList.remove("copied"), 1500);
  }

  // The dialog: a page of ours, of which the marked part is shown over this one.
  const canDialog = typeof HTMLDialogElement === "function";
  let dialog = null, shownPath = "", changed = false, opener = null, wanted = 0;

  function frame() {
    if (dialog) return dialog;
    dialog = document.createElement("dialog");
    dialog.className = "dialog";
    dialog.setAttribute("aria-labelledby", "dialog-title");
    dialog.innerHTML = '<button type="button" class="button button-icon dialog-close" aria-label="Close"><svg class="icon" width="16" height="16" viewBox="0 0 16 16" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round" aria-hidden="true"><path d="m4 4 8 8M12 4l-8 8"/></svg></button><div class="dialog-content" tabindex="-1"></div>';
    document.body.append(dialog);
    dialog.querySelector(".dialog-close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => {
      wanted += 1;
      shownPath = "";
      // Nothing that was revealed stays.
      dialog.querySelector(".dialog-content").replaceChildren();
      document.body.append(said);
      if (changed) { changed = false; refresh(true); }
      if (opener && opener.isConnected) opener.focus();
    });
    return dialog;
  }

  async function load(address, options, why = "fetch") {
    const answer = await fetch(address, { credentials: "same-origin", headers: { "X-Requested-With": why }, ...options });
    return { answer, page: new DOMParser().parseFromString(await answer.text(), "text/html") };
  }

  async function open(address, options) {
    const box = frame();
    const content = box.querySelector(".dialog-content");
    const mine = ++wanted;
    if (!box.open) {
      opener = document.activeElement;
      content.innerHTML = '<div class="loading" role="status"><h1 id="dialog-title" class="visually-hidden">Loading</h1><span class="ghost ghost-title"></span><span class="ghost"></span><span class="ghost"></span><span class="ghost ghost-short"></span><span class="visually-hidden">Loading…</span></div>';
      box.showModal();
      // What is said must not be outside of it.
      box.append(said);
    }
    content.setAttribute("aria-busy", "true");
    let found;
    try {
      found = await load(address, options);
    } catch {
      if (mine === wanted) { content.removeAttribute("aria-busy"); box.close(); say("Hatchway does not answer. Try again in a moment."); }
      return;
    }
    if (mine !== wanted || !box.open) return;
    content.removeAttribute("aria-busy");
    const there = found.answer.headers.get("X-Leave");
    if (there) { location.assign(there); return; }
    const part = found.page.querySelector("[data-dialog-content]");
    if (options) changed = true;
    if (!part) {
      // Signed out, or an error: the whole page says it. What was sent is not sent again.
      location.assign(options ? location.href : address);
      return;
    }
    const path = new URL(found.answer.url).pathname, revealed = path.endsWith("/reveal");
    const same = path.replace(/\/reveal$/, "") === shownPath;
    shownPath = path.replace(/\/reveal$/, "");
    const scrolled = same ? content.scrollTop : 0;
    part.classList.remove("card");
    const notices = found.page.getElementById("notices");
    if (notices && notices.childElementCount) part.querySelector(".dialog-body")?.prepend(...notices.children);
    content.replaceChildren(document.adoptNode(part));
    dress(content);
    content.scrollTop = scrolled;
    (same && content.querySelector("[data-focus]") || content).focus({ preventScroll: same });
    if (revealed) say("The password is shown");
  }

  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (!target || event.defaultPrevented) return;
    const copier = target.closest("[data-copy]");
    if (copier) { copy(copier); return; }
    for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(target)) menu.open = false;
    const link = target.closest("a[data-dialog], a[data-swap]");
    if (!link || !canDialog || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    // On the dialog's own page, without a dialog, links are links.
    if (!(dialog && dialog.open) && document.querySelector("main [data-dialog-content]")) return;
    event.preventDefault();
    open(link.href);
  });

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!(form instanceof HTMLFormElement) || !form.matches("[data-swap]") || !dialog || !dialog.contains(form)) return;
    event.preventDefault();
    open(form.action, { method: "POST", body: new URLSearchParams(new FormData(form, event.submitter)) });
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      for (const menu of document.querySelectorAll("details.menu[open]")) {
        menu.open = false;
        menu.querySelector("summary").focus();
        event.preventDefault();
      }
    }
    if (event.key === "/" && !event.ctrlKey && !event.metaKey && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName) && !(dialog && dialog.open)) {
      const search = document.querySelector("[data-slash]");
      if (search) { event.preventDefault(); search.focus(); search.select(); }
    }
  });

  // State that changes by itself. What somebody is just using stays as it is: an open menu or a form with something in
  // it always, what only has the focus unless it is known to be stale.
  let stale = false;
  function inUse(part, now) {
    return part.querySelector("details[open], form[data-changed]") || (!now && part.contains(document.activeElement));
  }
  async function refresh(now) {
    const parts = [...document.querySelectorAll("main [data-live]")];
    if (now) stale = true;
    if (!parts.length || (!now && (document.hidden || Date.now() - touched > IDLE_MS || (dialog && dialog.open)))) return;
    let found;
    try { found = await load(location.href, undefined, "refresh"); } catch { return; }
    if (!found.answer.ok) return;
    if (new URL(found.answer.url).pathname !== location.pathname) { location.reload(); return; }
    let left = false;
    for (const part of parts) {
      const fresh = found.page.querySelector(`main [data-live="${part.dataset.live}"]`);
      if (!fresh) continue;
      if (inUse(part, stale)) { left = true; continue; }
      dress(fresh);
      const next = document.adoptNode(fresh);
      if (next.innerHTML !== part.innerHTML) part.replaceChildren(...next.childNodes);
    }
    if (!left) stale = false;
  }
  document.addEventListener("input", (event) => event.target.form?.setAttribute("data-changed", ""));
  if (document.querySelector("main [data-live]")) setInterval(refresh, LIVE_MS, false);

  // What opens a link is behind the # of the address, and is sent when somebody presses the button. It does not stay in
  // the address, where it would be read over a shoulder, or kept in the history.
  const link = document.querySelector("form[data-link]");
  if (link && location.hash.length > 1) {
    const token = link.querySelector("[name=token]");
    token.value = location.hash.slice(1);
    token.closest("label").hidden = true;
    history.replaceState(null, "", location.pathname);
    link.querySelector("button").focus();
  }

  // Back to a page that was left: it may show what was revealed, or be of somebody who has signed out since.
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

  dress(document);
})();
