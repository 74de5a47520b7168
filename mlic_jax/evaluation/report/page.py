"""The style sheet and the script of the HTML report: plain text that goes into the page as it stands."""

CSS = """
:root { color-scheme: light dark; --page: #fbfbfa; --card: #ffffff; --ink: #1f2328; --soft: #5b636d; --line: #d9dce1;
  --accent: #d03a40; --note: #fff8e6; --note-line: #e2b84c; }
@media (prefers-color-scheme: dark) { :root { --page: #14161a; --card: #1c1f25; --ink: #e6e8eb; --soft: #9aa3ad;
  --line: #343a43; --accent: #ff7a7f; --note: #2a2413; --note-line: #8f7429; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 2.2rem 1.4rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { font-size: 1.35rem; margin: 2.6rem 0 .8rem; }
h3 { font-size: 1.15rem; margin: 0; } h4 { font-size: 1rem; margin: 1.4rem 0 .2rem; }
p { margin: .4rem 0 .8rem; max-width: 78ch; } .lead { font-size: 1.08rem; } .soft, figcaption { color: var(--soft); }
.soft { font-size: .9rem; }
.notes { background: var(--note); border-left: 4px solid var(--note-line); border-radius: 6px; padding: .7rem 1.1rem;
  margin: 1rem 0; max-width: 90ch; } .notes ul { margin: .3rem 0; padding-left: 1.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .93rem; background: var(--card); border: 1px solid var(--line); }
th, td { padding: .42rem .8rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th { font-weight: 600; color: var(--soft); } tr:last-child td { border-bottom: 0; }
td.wide { white-space: normal; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; margin: .6rem 0; max-width: 90ch; }
dt { font-weight: 600; } dd { margin: 0; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--soft); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(560px, 100%), 1fr)); gap: 1rem; }
.plot { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem; }
.plot svg { display: block; width: 100%; height: auto; }
.picture { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1.2rem;
  margin: 1.2rem 0; }
.bar { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem 1rem; margin: .7rem 0 .5rem;
  font-size: .92rem; }
.bar .right { margin-left: auto; }
select, button { font: inherit; color: var(--ink); background: var(--page); border: 1px solid var(--line);
  border-radius: 6px; padding: .2rem .55rem; } button { cursor: pointer; }
button[aria-pressed=true] { border-color: var(--accent); color: var(--accent); }
.view { width: fit-content; max-width: 100%; margin: 0 auto; }
.stage { position: relative; overflow: auto; max-height: min(82vh, 800px); max-width: 100%; border-radius: 4px;
  cursor: ew-resize; touch-action: pan-x pan-y; }
.sheet { position: relative; } .sheet img { position: absolute; inset: 0; width: 100%; height: 100%; user-select: none;
  -webkit-user-drag: none; } .sheet .edge { position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 3px #000; }
.edge span { display: none; position: sticky; top: 45%; width: 44px; margin-left: -21px; line-height: 44px; color: #000;
  text-align: center; background: #fffc; border-radius: 50%; box-shadow: 0 0 3px #000; touch-action: none;
  user-select: none; } @media (any-pointer: coarse) { .edge span { display: block; } }
.sharp { image-rendering: pixelated; }
.split { display: block; width: 100%; accent-color: var(--accent); margin: .5rem 0 .2rem; }
.ends { display: flex; justify-content: space-between; gap: 2rem; font-size: .85rem; color: var(--soft); }
.ends { contain: inline-size; line-height: 1.4; } .ends span { white-space: pre-line; }
.ends span + span { text-align: right; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .86rem; margin-top: .3rem; line-height: 1.4; }
figcaption b { color: var(--ink); } .ours b { color: var(--accent); }
.frame { position: relative; line-height: 0; } .frame img { width: 100%; height: auto; border-radius: 4px; }
.box { position: absolute; border: 2px solid #fff; outline: 1px solid #000; line-height: 1; }
.box span { position: absolute; left: -2px; bottom: 100%; background: #fff; color: #000; font-size: .72rem;
  padding: .1rem .3rem; } .box.low span { bottom: auto; top: 100%; }
.crops { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(160px, 45%), 1fr)); gap: .8rem; }
.crops img { width: 100%; height: auto; border-radius: 3px; display: block; }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
html:not(.js) .compare, html:not(.js) .scripted { display: none; }
"""

# The comparison takes its images and captions from the cards below it: no picture is stored twice.
JS = """
document.documentElement.classList.add("js");
for (const picture of document.querySelectorAll(".picture")) {
  const cards = [...picture.querySelectorAll(".cards figure")];
  const at = (name) => picture.querySelector(name);
  const [left, right, stage, sheet, edge, split] =
    [".left", ".rightside", ".stage", ".sheet", ".edge", ".split"].map(at);
  const [below, above] = sheet.querySelectorAll("img");
  const ends = picture.querySelectorAll(".ends span");
  const width = Number(sheet.dataset.width), height = Number(sheet.dataset.height);
  let zoom = 1;
  const place = () => {
    const x = stage.scrollLeft + split.value / 100 * stage.clientWidth;
    above.style.clipPath = `inset(0 calc(100% - ${x}px) 0 0)`;
    edge.style.left = x + "px";
  };
  const show = () => {
    for (const [image, chosen, end] of [[above, left, ends[0]], [below, right, ends[1]]]) {
      const card = cards[chosen.value];
      image.src = card.querySelector("img").src;
      image.alt = card.querySelector("b").textContent;
      end.textContent = image.alt + "\\n" + card.dataset.figures;
    }
    place();
  };
  const scale = () => {
    const middle = (stage.scrollLeft + stage.clientWidth / 2) / (sheet.clientWidth || 1);
    const centre = (stage.scrollTop + stage.clientHeight / 2) / (sheet.clientHeight || 1);
    sheet.style.width = width * zoom + "px";
    sheet.style.height = height * zoom + "px";
    for (const image of [above, below]) image.classList.toggle("sharp", zoom > 1);
    stage.scrollLeft = middle * sheet.clientWidth - stage.clientWidth / 2;
    stage.scrollTop = centre * sheet.clientHeight - stage.clientHeight / 2;
    place();
  };
  for (const button of picture.querySelectorAll("button[data-zoom]")) button.addEventListener("click", () => {
    zoom = Number(button.dataset.zoom);
    for (const other of picture.querySelectorAll("button[data-zoom]")) other.ariaPressed = String(other === button);
    scale();
  });
  at(".swap").addEventListener("click", () => { [left.value, right.value] = [right.value, left.value]; show(); });
  const follow = (event) => {
    const box = stage.getBoundingClientRect();
    split.value = Math.min(100, Math.max(0, (event.clientX - box.left) / stage.clientWidth * 100));
    place();
  };
  stage.addEventListener("pointerdown", follow);
  stage.addEventListener("pointermove", (event) => {
    if (event.buttons || event.pointerType === "mouse") follow(event);
  });
  stage.addEventListener("scroll", place);
  split.addEventListener("input", place);
  left.addEventListener("change", show);
  right.addEventListener("change", show);
  addEventListener("resize", place);
  scale();
  show();
}
"""
