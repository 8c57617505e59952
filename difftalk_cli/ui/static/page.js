// The player: two videos in step, a line between them. Listeners sit on the document, because results come and go.
(() => {
  const parts = (inside) => {
    const player = inside.closest && inside.closest(".dt-player");
    if (!player) return null;
    const find = (name) => player.querySelector(".dt-" + name);
    return { player, source: find("source"), result: find("result"), seek: find("seek"), time: find("time"), play: find("play"),
      mode: find("mode"), stage: find("stage"), unplayable: find("unplayable") };
  };
  const clock = (s) => Math.floor(s / 60) + ":" + String(Math.floor(s % 60)).padStart(2, "0");
  const APART = 0.06; // seconds: about a frame and a half

  const follow = (p) => {
    if (Math.abs(p.source.currentTime - p.result.currentTime) > APART) p.source.currentTime = p.result.currentTime;
  };
  const tell = (p) => {
    const length = p.result.duration || 0;
    if (length) p.seek.value = String(1000 * p.result.currentTime / length);
    p.time.textContent = clock(p.result.currentTime);
  };

  const on = (name, act) => document.addEventListener(name, (event) => {
    const p = event.target instanceof Element ? parts(event.target) : null;
    if (p) act(p, event.target);
  }, true); // media events do not bubble, but they can be caught on their way in

  on("input", (p, target) => {
    if (target.classList.contains("dt-split")) p.stage.style.setProperty("--split", target.value + "%");
    if (target.classList.contains("dt-seek") && p.result.duration) {
      p.result.currentTime = p.result.duration * Number(target.value) / 1000;
      follow(p);
    }
  });
  on("click", (p, target) => {
    if (target === p.mode) {
      const beside = p.player.dataset.mode === "split";
      p.player.dataset.mode = beside ? "beside" : "split";
      p.mode.textContent = beside ? "Split view" : "Side by side";
    } else if (target === p.play || target.tagName === "VIDEO") {
      if (p.result.paused) p.result.play(); else p.result.pause();
    }
  });
  on("play", (p, target) => { if (target === p.result) { follow(p); p.source.play().catch(() => {}); p.play.textContent = "Pause"; } });
  on("pause", (p, target) => { if (target === p.result) { p.source.pause(); follow(p); p.play.textContent = "Play"; } });
  on("timeupdate", (p, target) => { if (target === p.result) { follow(p); tell(p); } });
  on("error", (p, target) => { if (target === p.result) p.unplayable.hidden = false; });
})();
