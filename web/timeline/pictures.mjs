/** Pictures of ComfyUI's input folder: which there are, how they look, and how one gets there from the disk. */
import { api } from "../../../scripts/api.js";

/** The address of a picture as small as the timeline shows it. */
export function thumbnail(name) {
  const at = name.lastIndexOf("/");
  const place = { filename: name.slice(at + 1), subfolder: name.slice(0, Math.max(at, 0)), type: "input" };
  return api.apiURL(`/view?${new URLSearchParams({ ...place, preview: "webp;60" })}`);
}

/** Names of the pictures in the input folder. */
export async function inputPictures() {
  const answer = await api.fetchApi("/object_info/LoadImage");
  const [list, options] = (await answer.json()).LoadImage.input.required.image;
  return Array.isArray(list) ? list : (options?.options ?? []);
}

/** Put a file into the input folder by the page's own way; its name there. */
export async function upload(file) {
  const body = new FormData();
  body.append("image", file);
  const answer = await api.fetchApi("/upload/image", { method: "POST", body });
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  const { name, subfolder } = await answer.json();
  return subfolder ? `${subfolder}/${name}` : name;
}

export const isPicture = (file) => file.type.startsWith("image/");

/** Let a person choose pictures of the disk; resolves to none where they do not. */
export function askForFiles() {
  return new Promise((resolve) => {
    const input = Object.assign(document.createElement("input"), { type: "file", accept: "image/*", multiple: true });
    input.addEventListener("change", () => resolve([...input.files]));
    input.addEventListener("cancel", () => resolve([]));
    input.click();
  });
}
