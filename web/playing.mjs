/** A browser stops a video that is taken out of the page, as Nodes 2.0 does where its node is collapsed. */

/** Let such a video play on when it is in the page again, but for one that a person has stopped. */
export function playOn(video) {
  let stopped = false;
  video.addEventListener("pause", () => {
    stopped = !video.isConnected;
  });
  new ResizeObserver(() => {
    if (!stopped || !video.isConnected) return;
    stopped = false;
    video.play().catch(() => {}); // taken out again
  }).observe(video);
  return video;
}
