"use strict";
// Before anything is painted: the remembered theme. Storage may be forbidden, for files in some browsers.
const remembered = {
  get(key) { try { return localStorage.getItem(key); } catch { return null; } },
  set(key, value) { try { if (value === null) localStorage.removeItem(key); else localStorage.setItem(key, value); } catch { /* then not remembered */ } },
};
{
  const theme = remembered.get("aepsl-theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  // Which view to hide until the scripts have read the address.
  document.documentElement.dataset.first = /^#gallery|=/.test(location.hash) ? "gallery" : "overview";
}
