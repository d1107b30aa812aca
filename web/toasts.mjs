/** Sentences in the corner of the page, in the look of its own toasts. Of each of those it keeps elements and listeners
 * for good, some 50 kB; these are gone when they are closed. */
import { app } from "../../scripts/app.js";
import { phrase } from "./messages.mjs";

/** A toast of {summary, detail}; returns what takes it away. closed: called when a person closes it. */
export function addToast({ summary, detail }, closed) {
  const corner = document.querySelector(".p-toast");
  if (!corner) return addToPage({ summary, detail });
  const text = element("div", "p-toast-message-text");
  text.append(element("span", "p-toast-summary", summary), element("div", "p-toast-detail", detail));
  const content = element("div", "p-toast-message-content");
  const toast = element("div", "p-toast-message p-toast-message-error reelwire-toast");
  const remove = () => toast.remove();
  content.append(icon("pi-times-circle p-toast-message-icon"), text, closeButton(() => (remove(), closed())));
  toast.append(content);
  toast.setAttribute("role", "alert");
  corner.append(toast);
  return remove;
}

/** The same by the page itself, where it has no place for toasts that we know. */
function addToPage(words) {
  const toast = { severity: "error", styleClass: "reelwire-toast", ...words };
  app.extensionManager.toast.add(toast);
  return () => app.extensionManager.toast.remove(toast);
}

function closeButton(close) {
  const button = Object.assign(element("button", "p-toast-close-button"), { type: "button", onclick: close });
  button.setAttribute("aria-label", phrase("close_toast") || "Close");
  button.append(icon("pi-times p-toast-close-icon"));
  const place = document.createElement("div"); // whose width the button's place is a share of
  place.append(button);
  return place;
}

function icon(className) {
  const made = element("i", `pi ${className}`);
  made.setAttribute("aria-hidden", "true");
  return made;
}

function element(tag, className, textContent = "") {
  return Object.assign(document.createElement(tag), { className, textContent });
}
