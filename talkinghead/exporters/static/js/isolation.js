// Isolation from other origins, without which browsers give no threads.

const RELOADED = "talkinghead-reloaded";

// Let the service worker send the page's headers, and load the page once more with them.
//
// Without service workers, as over http from another machine, the page goes on with one thread.
export async function isolate() {
  if (crossOriginIsolated) {
    sessionStorage.removeItem(RELOADED);
    return;
  }
  if (!navigator.serviceWorker || sessionStorage.getItem(RELOADED)) return;
  try {
    await navigator.serviceWorker.register("service_worker.js");
    await navigator.serviceWorker.ready;
  } catch {
    return;
  }
  sessionStorage.setItem(RELOADED, "yes");
  location.reload();
  await new Promise(() => {}); // until it is loaded
}
