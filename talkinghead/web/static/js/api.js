// Requests to the server; every error is one line of text.

const OFFLINE = "server: it does not answer; look whether it still runs";

async function answer(promise) {
  let response;
  try {
    response = await promise;
  } catch {
    throw new Error(OFFLINE);
  }
  const body = await response.json().catch(() => ({ error: OFFLINE }));
  if (!response.ok) throw new Error(body.error ?? OFFLINE);
  return body;
}

export const post = (path, fields = {}) => answer(fetch(path, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(fields),
}));

export const remove = (path) => answer(fetch(path, { method: "DELETE" }));

export const fileAddress = (kind, entry, name, suffix = "") => `/files/${kind}/${entry.id}/${name}${suffix}`;

// Upload a file; onShare is called with the share that has been sent.
export function upload(role, file, name, onShare) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/api/upload/${role}?name=${encodeURIComponent(name)}`);
    request.responseType = "json";
    request.upload.onprogress = (event) => onShare(event.total ? event.loaded / event.total : 0);
    request.onload = () => {
      if (request.status === 200) resolve(request.response);
      else reject(new Error(request.response?.error ?? OFFLINE));
    };
    request.onerror = () => reject(new Error(OFFLINE));
    request.send(file);
  });
}
