// Questions to the server. A refusal becomes an Error with the server's sentence.

export const about = { value: null };

async function answered(response) {
  if (response.ok) return response.json();
  throw new Error((await response.text()) || `the server answered ${response.status}`);
}

export async function get(path, parameters = {}, signal = undefined) {
  const asked = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null));
  return answered(await fetch(`${path}?${asked}`, { signal }));
}

export async function post(path, body) {
  return answered(
    await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }),
  );
}

// Addresses of pictures; the version changes when another state of an output is shown, so that none is stale.
const version = () => encodeURIComponent(about.value ? about.value.version : "");
export const media = (o, n, member) => `/media/${o}/${n}/${encodeURIComponent(member)}?v=${version()}`;
export const small = (o, n, member, width) =>
  `/small/${o}/${n}/${encodeURIComponent(member)}?w=${Math.round(width)}&v=${version()}`;
export const masks = (o, n, what, width) => `/masks/${o}/${n}/${what}?w=${Math.round(width)}&v=${version()}`;
export const lost = (n, frame) => `/lost/${n}/${frame}?v=${version()}`;

export function notice(text, kind = "error") {
  const place = document.getElementById("notices");
  const line = document.createElement("p");
  line.className = kind;
  line.textContent = text;
  place.replaceChildren(line);
  if (kind !== "error") setTimeout(() => line.remove(), 4000);
}

export const failed = (error) => {
  if (error.name !== "AbortError") notice(error.message);
};
