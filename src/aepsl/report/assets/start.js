"use strict";
// After the data: deferred scripts run in their order, so index.js and run.js have spoken, or are missing.
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.querySelectorAll("[data-close]").forEach((button) => { button.onclick = () => dialog.close(); });
}
// Not by its address, which says what is shown.
document.querySelector(".skip").onclick = (event) => { event.preventDefault(); by("main").focus(); by("main").scrollIntoView(); };
by("show-keys").onclick = () => by("keys").showModal();
by("keys-on").checked = remembered.get("aepsl-keys") !== "off";
by("keys-on").onchange = () => remembered.set("aepsl-keys", by("keys-on").checked ? null : "off");
report.start();
viewer.start();
gallery.start();
delete document.documentElement.dataset.first;
