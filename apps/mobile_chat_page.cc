#include "apps/mobile_chat_server.h"

namespace pocketvlm {

// In parts, since compilers limit the length of one literal.
const char* const kChatPage =
    R"html(<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>pocketvlm</title>
<style>
:root {
  color-scheme: light dark;
  --ground: #f6f7f9; --panel: #ffffff; --line: #dde1e7; --text: #1c2430; --faint: #667085;
  --accent: #2f6fde; --on-accent: #ffffff; --mine: #e7efff; --error: #b42318;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171c; --panel: #1d2128; --line: #323945; --text: #e8ebf0; --faint: #98a2b3;
    --accent: #6ea0ff; --on-accent: #0f1520; --mine: #22304a; --error: #ff8a80;
  }
}
* { box-sizing: border-box; }
html, body { height: 100%; margin: 0; }
body {
  display: flex; flex-direction: column; background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
header {
  display: flex; align-items: center; gap: .75rem; padding: .6rem 1rem;
  background: var(--panel); border-bottom: 1px solid var(--line);
}
header h1 { font-size: 1.05rem; margin: 0; }
header .model { color: var(--faint); flex: 1; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
main { flex: 1; overflow-y: auto; padding: 1rem; }
#talk { max-width: 46rem; margin: 0 auto; display: flex; flex-direction: column; gap: .9rem; }
.hint { color: var(--faint); text-align: center; margin: 18vh auto 0; max-width: 26rem; }
.turn { max-width: 85%; padding: .6rem .85rem; border-radius: 14px; overflow-wrap: anywhere; }
.turn .text { white-space: pre-wrap; }
.user { align-self: flex-end; background: var(--mine); border-bottom-right-radius: 4px; }
.assistant { align-self: flex-start; background: var(--panel); border: 1px solid var(--line); border-bottom-left-radius: 4px; }
.failed { align-self: center; text-align: center; color: var(--error); background: none; font-size: .92rem; }
.turn .pictures { display: flex; flex-wrap: wrap; gap: .4rem; margin-bottom: .35rem; }
.turn .pictures img { max-width: 220px; max-height: 220px; border-radius: 8px; display: block; }
.facts { color: var(--faint); font-size: .78rem; margin-top: .3rem; }
.waiting::after { content: "\2026"; animation: blink 1s steps(2) infinite; color: var(--faint); }
@keyframes blink { 50% { opacity: 0; } }
footer { background: var(--panel); border-top: 1px solid var(--line); padding: .7rem 1rem; }
form { max-width: 46rem; margin: 0 auto; }
.row { display: flex; gap: .5rem; align-items: flex-end; }
textarea {
  flex: 1; resize: none; min-height: 2.75rem; max-height: 10rem; padding: .6rem .8rem; font: inherit;
  color: inherit; background: var(--ground); border: 1px solid var(--line); border-radius: 12px;
}
button {
  font: inherit; height: 2.75rem; padding: 0 1rem; border-radius: 12px; cursor: pointer;
  border: 1px solid var(--line); background: var(--panel); color: inherit;
}
button.main { background: var(--accent); border-color: var(--accent); color: var(--on-accent); min-width: 5rem; }
button.small { height: 2.1rem; padding: 0 .8rem; border-radius: 9px; font-size: .9rem; }
button:disabled { opacity: .5; cursor: default; }
textarea:focus-visible, button:focus-visible, input:focus-visible, summary:focus-visible {
  outline: 2px solid var(--accent); outline-offset: 1px;
}
#waiting { display: flex; flex-wrap: wrap; gap: .5rem; }
#waiting:not(:empty) { margin-bottom: .5rem; }
#waiting figure { position: relative; margin: 0; }
#waiting img { height: 64px; max-width: 140px; object-fit: cover; border-radius: 8px; border: 1px solid var(--line); display: block; }
#waiting button {
  position: absolute; top: -8px; right: -8px; width: 1.5rem; height: 1.5rem; padding: 0; line-height: 1;
  border-radius: 50%; font-size: .9rem;
}
details { margin-top: .5rem; font-size: .88rem; color: var(--faint); }
summary { cursor: pointer; width: max-content; }
.settings { display: flex; flex-wrap: wrap; gap: .5rem 1.2rem; margin-top: .4rem; }
.settings label { display: flex; align-items: center; gap: .4rem; }
.settings input { width: 5rem; font: inherit; padding: .2rem .4rem; color: var(--text); background: var(--ground); border: 1px solid var(--line); border-radius: 6px; }
body.drop main { outline: 3px dashed var(--accent); outline-offset: -10px; }
</style>
</head>
)html"
    R"html(<body>
<header>
  <h1>pocketvlm</h1><span class="model" id="model"></span>
  <button class="small" id="fresh" type="button">New chat</button>
</header>
<main><div id="talk" aria-live="polite"></div></main>
<footer>
  <form id="form" novalidate>
    <div id="waiting"></div>
    <div class="row">
      <button id="attach" type="button" title="Add pictures" aria-label="Add pictures">Picture</button>
      <textarea id="input" rows="1" placeholder="Ask something" aria-label="Message" autofocus></textarea>
      <button class="main" id="send">Send</button>
    </div>
    <input id="files" type="file" accept="image/jpeg,image/png,image/webp,image/gif" multiple hidden>
    <details><summary>Settings</summary>
      <div class="settings">
        <label>Temperature <input id="temperature" type="number" min="0" max="5" step="0.1" placeholder="default"></label>
        <label>Answer tokens <input id="tokens" type="number" min="1" max="100000" step="1" placeholder="default"></label>
      </div>
    </details>
  </form>
</footer>
<script>
"use strict";
const byId = (id) => document.getElementById(id);
const talk = byId("talk"), input = byId("input"), send = byId("send"), waitingBox = byId("waiting");
let messages = [], waiting = [], running = null, vision = true;

function node(kind, name, text) {
  const made = document.createElement(kind);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function showHint() {
  talk.replaceChildren(node("p", "hint", vision
    ? "Add a picture with the button, by dropping it here or by pasting it, and ask about it."
    : "This model was loaded without its vision file: it answers text only."));
}

function addTurn(role, text, pictures) {
  talk.querySelector(".hint")?.remove();
  const turn = node("div", "turn " + role);
  if (pictures?.length) {
    const row = node("div", "pictures");
    for (const url of pictures) {
      const image = node("img");
      image.src = url;
      image.alt = "picture sent";
      row.append(image);
    }
    turn.append(row);
  }
  turn.append(node("div", "text", text));
  talk.append(turn);
  turn.scrollIntoView({block: "end"});
  return turn;
}

function showWaiting() {
  waitingBox.replaceChildren(...waiting.map((url, index) => {
    const figure = node("figure"), image = node("img"), remove = node("button", "", "\u00d7");
    image.src = url;
    image.alt = "picture to send";
    remove.type = "button";
    remove.title = "Remove";
    remove.onclick = () => { waiting.splice(index, 1); showWaiting(); };
    figure.append(image, remove);
    return figure;
  }));
}

async function addFiles(files) {
  for (const file of files) {
    if (!file.type.startsWith("image/")) continue;
    waiting.push(await new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(file);
    }));
  }
  showWaiting();
}

// The data lines of a stream of server-sent events.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    text += value;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const data = text.slice(0, end).replace(/^data: /, "");
      text = text.slice(end + 2);
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

function facts(timings) {
  const parts = [];
  if (timings.slices > 0) parts.push(`${timings.slices} ${timings.slices === 1 ? "slice" : "slices"}, vision ${Math.round(timings.vision_ms)} ms`);
  parts.push(`${timings.prompt_tokens} prompt tokens (${timings.cached_tokens} kept)`);
  parts.push(`${timings.generated_tokens} tokens` + (timings.decode_tps ? ` at ${timings.decode_tps.toFixed(1)} a second` : ""));
  return parts.join(" \u00b7 ");
}

async function answer() {
  const conversation = messages;  // "New chat" may begin another one meanwhile
  const request = {messages, stream: true, stream_options: {include_usage: true}};
  const temperature = parseFloat(byId("temperature").value), tokens = parseInt(byId("tokens").value);
  if (!isNaN(temperature)) request.temperature = temperature;
  if (!isNaN(tokens)) request.max_tokens = tokens;
  const turn = addTurn("assistant", "");
  const place = turn.querySelector(".text");
  turn.classList.add("waiting");
  const {signal} = running;
  let text = "";
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST", headers: {"Content-Type": "application/json"},
      body: JSON.stringify(request), signal});
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response)) {
      if (signal.aborted) break;  // what had come already is not shown either
      if (event.error) throw new Error(event.error.message);
      if (event.timings) turn.append(node("div", "facts", facts(event.timings)));
      text += event.choices[0]?.delta?.content ?? "";
      place.textContent = text;
      if (text) turn.classList.remove("waiting");
      turn.scrollIntoView({block: "end"});
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      if (!text) turn.remove();
      addTurn("failed", error.message);
    }
  }
  turn.classList.remove("waiting");
  if (text) conversation.push({role: "assistant", content: text});
  else { turn.remove(); conversation.pop(); }
}

async function submit(event) {
  event.preventDefault();
  if (running) return running.abort();
  const text = input.value.trim();
  if (!text) return;
  const pictures = waiting;
  const parts = pictures.map((url) => ({type: "image_url", image_url: {url}}));
  messages.push({role: "user", content: parts.length ? [...parts, {type: "text", text}] : text});
  addTurn("user", text, pictures);
  waiting = [];
  showWaiting();
  input.value = "";
  grow();
  running = new AbortController();
  send.textContent = "Stop";
  await answer();
  running = null;
  send.textContent = "Send";
  input.focus();
}

function grow() {
  input.style.height = "auto";
  input.style.height = input.scrollHeight + 2 + "px";
}

byId("form").onsubmit = submit;
byId("attach").onclick = () => byId("files").click();
byId("files").onchange = (event) => { addFiles([...event.target.files]); event.target.value = ""; };
byId("fresh").onclick = () => { running?.abort(); messages = []; waiting = []; showWaiting(); showHint(); input.focus(); };
input.oninput = grow;
input.onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !running) submit(event);
};
input.onpaste = (event) => addFiles([...event.clipboardData.files]);
document.ondragover = (event) => { event.preventDefault(); document.body.classList.add("drop"); };
document.ondragleave = () => document.body.classList.remove("drop");
document.ondrop = (event) => {
  event.preventDefault();
  document.body.classList.remove("drop");
  addFiles([...event.dataTransfer.files]);
};
showHint();
fetch("/v1/models").then((response) => response.json()).then(({data}) => {
  byId("model").textContent = data[0].id;
  vision = data[0].vision;
  byId("attach").hidden = !vision;
  if (!messages.length) showHint();
});
</script>
</body>
</html>
)html";

}  // namespace pocketvlm
