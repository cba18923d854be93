// The page: joins its parts to the state that the server pushes.

import { remove } from "./api.js";
import { byId, fail, setText } from "./dom.js";
import { startDrive } from "./drive.js";
import { startLearn } from "./learn.js";
import { startLive } from "./live.js";
import { startPeople } from "./people.js";
import { startShots } from "./shots.js";
import { open, store, subscribe } from "./store.js";
import { uploadPlace } from "./uploads.js";

if (location.search) history.replaceState(null, "", "/"); // the token is in a cookie now

const addPictures = uploadPlace("pictures", {
  describe: "or choose files. One is enough; eight from different sides are better.",
});
startShots(addPictures);
startLearn();
startPeople();
startDrive();
startLive();

subscribe(() => {
  const days = store.limits.keep_days;
  setText(byId("keep"), `Files are deleted after ${days} days without use.`);
});

byId("forget").addEventListener("click", async () => {
  if (!confirm("Delete all pictures, people and videos of this browser?")) return;
  try {
    await remove("/api/session");
    location.reload();
  } catch (error) {
    fail("people-error", error);
  }
});

for (const name of ["dragover", "drop"]) {
  // a file that misses its place must not replace the page
  window.addEventListener(name, (event) => event.preventDefault());
}

open();
