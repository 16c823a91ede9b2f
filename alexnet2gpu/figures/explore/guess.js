"use strict";
// Ten questions, whose answers come from the same numbers.

/** A case of a state that differs from the present one. */
function caseOf(mode, changes = {}) {
  const s = { ...presets()[0][1], ...changes };
  const found = caseAt(data.memory[keyOf(s)], mode, s.ranks);
  return { s, found, held: found && step(found, s.batch) };
}

/** Choices around a number, none of them like another. */
function around(right, factors, say) {
  return [...new Set([1, ...factors].map((factor) => say(right * factor)))];
}

function questions() {
  const modes = (changes) => data.memory[keyOf({ ...presets()[0][1], ...changes })]
    .filter((one) => one.ranks === 2 || one.mode === "single").map((one) => one.mode);
  const peak = (mode, changes) => caseOf(mode, changes).held.peak;
  const share = (mode, changes) => peak(mode, changes) / peak("single", changes);
  const least = (names, size) => names.reduce((a, b) => (size(b) < size(a) ? b : a));
  const round = (batch) => String(Math.round(batch));
  const has = (mode) => modes({}).includes(mode);
  const sent = (mode, batch) => {
    const { s, found } = caseOf(mode, { batch });
    return total(sends(found, s));
  };
  const other = has("split") ? "split" : "ddp", kind = (held) => [...held.parts].sort((a, b) => b[1] - a[1]);
  const asked = [];
  const ask = (text, right, choices, why) => asked.push({ text, right, choices: [...new Set([right, ...choices])], why });

  let right = least(modes({}), (mode) => peak(mode, { batch: 32 }));
  ask("Two ranks, batch 32: which mode holds the least on a rank?", right, modes({}),
    modes({}).map((mode) => `${mode} ${mib(peak(mode, { batch: 32 }))}`).join(", ") + " MiB");
  const b = data.batch;
  ask(`Batch ${b}: what part of one device's memory does a rank of ${other} hold?`, percent(share(other, { batch: b })),
    around(share(other, { batch: b }), [0.6, 0.8, 1.35], percent), "half of the weights, and not half of all else");
  ask(`Batch ${b}: and a rank of ddp, with half of the images?`, percent(share("ddp", { batch: b })),
    around(share("ddp", { batch: b }), [0.6, 1.15, 0.8], percent), "weights, gradients and momentum are whole on every rank");
  const held = caseOf("single", { batch: b }).held;
  ask(`One device, batch ${b}: what takes the most at the peak?`, kind(held)[0][0], kind(held).slice(1, 4).map(([name]) => name),
    kind(held).slice(0, 4).map(([name, size]) => `${name} ${mib(size)}`).join(", ") + " MiB");
  ask("In which part of the step is the peak of one device?", held.worst,
    [held.places[1].place, "forward loss", held.places[held.places.length - 1].place], `at ${mib(held.peak)} MiB`);
  const fits = largest(caseOf("single").found, 3 * GIB);
  ask("What is the largest batch of one device with 3 GiB?", round(fits), around(fits, [0.5, 2, 4], round), "of tensors; the allocator and CUDA need more");
  const more = largest(caseOf(other).found, 3 * GIB);
  ask(`And of ${other} over two of them?`, round(more), around(more, [0.7, 1.5, 2.2], round),
    `${(more / fits).toFixed(1)} times as many images`);
  const twice = peak("single", { batch: 2 * b }) / held.peak;
  ask(`How much more does one device hold with ${2 * b} images than with ${b}?`, percent(twice - 1),
    around(twice - 1, [0.4, 1.7, 2.4], percent), "what does not depend on the batch stays");
  const names = modes({}).filter((mode) => mode !== "single");
  right = least(names, (mode) => sent(mode, b));
  ask(`Batch ${b}: in which mode does a rank send the fewest bytes?`, right, names,
    names.map((mode) => `${mode} ${megabytes(sent(mode, b))}`).join(", ") + " MB");
  right = least(names, (mode) => sent(mode, 2048));
  ask("And at batch 2,048?", right, names, names.map((mode) => `${mode} ${megabytes(sent(mode, 2048))}`).join(", ") + " MB");
  return asked;
}

function guesses() {
  let number = 0, hits = 0;
  const asked = questions();
  $("asked").textContent = `Of two ranks in float32 on a ${DEVICES[presets()[0][1].device]}, whatever is chosen above.`;
  const pose = () => {
    const { text, right, choices, why } = asked[number];
    $("guess").innerHTML = `<p id="question" tabindex="-1"><strong>${number + 1} of ${asked.length}.</strong> ` +
      `${entity(text)}</p><p>` +
      [...choices].sort(new Intl.Collator("en", { numeric: true }).compare)
        .map((choice) => tag("button", { type: "button", "data-choice": choice }, entity(choice))).join("") +
      '</p><p id="answer" role="status"></p>';
    for (const button of $("guess").querySelectorAll("[data-choice]")) button.addEventListener("click", () => {
      const hit = button.dataset.choice === right;
      hits += hit;
      for (const each of $("guess").querySelectorAll("[data-choice]")) {
        each.disabled = true;
        if (each.dataset.choice === right) { each.className = "right"; each.textContent += " ✓"; }
      }
      if (!hit) { button.className = "wrong"; button.textContent += " ✗"; }
      number += 1;
      const end = number === asked.length;
      $("answer").textContent = `${hit ? "Right" : `It is ${right}`}: ${why}.` +
        (end ? ` That makes ${hits} of ${asked.length}.` : "");
      const next = document.createElement("button");
      next.type = "button";
      next.textContent = end ? "Once more" : "Next";
      next.addEventListener("click", () => { if (end) number = hits = 0; pose(); $("question").focus(); });
      $("answer").after(next);
      next.focus();
    });
  };
  pose();
}
